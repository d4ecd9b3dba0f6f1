"""What Trainer brings along works with `DistillationTrainer` too: TensorBoard, a search by Optuna, pushing to a hub."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from tiny_models import tiny_classifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback, TrainingArguments

from mixkd.recipes import recipe
from mixkd.runs import run
from mixkd.trainer import DistillationTrainer


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    texts = [[2, *rng.integers(5, 27, rng.integers(1, 9)).tolist(), 3] for _ in range(12)]
    masks = [[1] * len(text) for text in texts]
    return Dataset.from_dict({"input_ids": texts, "attention_mask": masks, "label": rng.integers(0, 2, 12).tolist()})


def arguments(tmp_path, **changes):
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1,
                "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}  # fmt: skip
    return TrainingArguments(str(tmp_path / "out"), **(settings | changes))


def scalars(folder):
    """The named numbers of TensorBoard's files in a folder: name -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_follows_a_distillation(tmp_path, dataset):
    pytest.importorskip("tensorboard")
    args = arguments(tmp_path, report_to="tensorboard", eval_strategy="epoch")
    trainer = DistillationTrainer(tiny_classifier("bert", 1), recipe("sm+tmkd"), args, dataset, eval_dataset=dataset,
                                  teacher=tiny_classifier("bert", 2, seed=1))  # fmt: skip
    trainer.train()
    logged = scalars(tmp_path / "out")
    losses = [(entry["step"], float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    assert [step for step, _ in logged["train/loss"]] == [1, 2, 3]
    np.testing.assert_allclose(logged["train/loss"], losses, rtol=1e-4)
    assert len(logged["eval/loss"]) == 1


def test_tensorboard_s_files_outlive_a_run(experiment, store, vader_folder):
    """Its folder of checkpoints is removed at the end."""
    pytest.importorskip("tensorboard")
    record = run(experiment(recipe="kd", num_epochs=2), store, data_dir=vader_folder, report_to="tensorboard")
    logged = scalars(store.run_dir(record.run_id))
    np.testing.assert_allclose(
        [value for _, value in logged["train/loss"]], [e["loss"] for e in record.history], rtol=1e-4
    )


def test_a_search_over_hyper_parameters(tmp_path, dataset):
    """Four trials with two batch sizes and seeds, each from a fresh student; the best one is named."""
    optuna = pytest.importorskip("optuna")
    built, steps = [], []

    def model_init(trial=None):
        built.append(tiny_classifier("bert", 1))
        return built[-1]

    class CountSteps(TrainerCallback):
        def on_train_end(self, args, state, control, **_):
            steps.append(state.global_step)

    values = {"per_device_train_batch_size": [4, 2], "data_seed": [1, 7]}
    args = arguments(tmp_path, eval_strategy="epoch", train_sampling_strategy="group_by_length")
    trainer = DistillationTrainer(None, recipe("sm+tmkd+kd", mix_ratio=1.5), args, dataset, eval_dataset=dataset,
                                  teacher=tiny_classifier("bert", 2, seed=1), model_init=model_init,
                                  callbacks=[CountSteps()])  # fmt: skip
    best = trainer.hyperparameter_search(
        lambda trial: {name: trial.suggest_categorical(name, choices) for name, choices in values.items()},
        backend="optuna", n_trials=4, direction="minimize", sampler=optuna.samplers.GridSampler(values, seed=0),
    )  # fmt: skip
    assert sorted(steps) == [3, 3, 6, 6] and len({id(model) for model in built}) >= 4
    # What the best trial found, a training with its values finds again.
    fresh = DistillationTrainer(tiny_classifier("bert", 1), trainer.recipe,
                                arguments(tmp_path, train_sampling_strategy="group_by_length", **best.hyperparameters),
                                dataset, eval_dataset=dataset, teacher=tiny_classifier("bert", 2, seed=1))  # fmt: skip
    fresh.train()
    assert fresh.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-5)


def test_pushing_to_a_hub(tmp_path, dataset, tokenizer, monkeypatch):
    """What would be uploaded is a whole model: weights, configuration, tokenizer and card."""
    uploads = []

    def create_repo(self, name, **named):
        return SimpleNamespace(repo_id=f"someone/{name}")

    def upload_folder(self, *, folder_path, repo_id, **named):
        target = tmp_path / f"upload-{len(uploads)}"
        shutil.copytree(folder_path, target, ignore=shutil.ignore_patterns(*(named.get("ignore_patterns") or [])))
        uploads.append((repo_id, target))

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    args = arguments(tmp_path, hub_model_id="tiny-student")
    teacher = tiny_classifier("bert", 2, seed=1)
    trainer = DistillationTrainer(tiny_classifier("bert", 1), recipe("sm+tmkd"), args, dataset, teacher=teacher,
                                  processing_class=tokenizer)  # fmt: skip
    trainer.train()
    trainer.push_to_hub(model_name="tiny-student")
    [(repository, folder)] = uploads
    assert repository == "someone/tiny-student"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {p.name for p in folder.iterdir()}
    assert not list(folder.glob("pytorch_model*")) and "tiny-student" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1
    model, words = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == trainer.model.num_parameters() and words("good film")["input_ids"][0] == 2
