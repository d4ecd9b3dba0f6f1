"""The inside of `mixkd.run`: build the models, train, evaluate, and write the record last."""

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mixkd import store as evidence
from mixkd.evaluate import add_gaps, example_frame, measure
from mixkd.experiment import Experiment, Report
from mixkd.models import build_student, count_parameters, load_classifier, load_tokenizer, predict_logits
from mixkd.store import Record, Store, UserError, content_id
from mixkd.tasks import Task, load_task, subsample, tokenize
from mixkd.trainer import DistillationTrainer

#: A killed run loses at most about this much work. A checkpoint of MiniLM is written in about half a second.
CHECKPOINT_INTERVAL_S = 60.0

Logits = NDArray[np.float32]
LogitsOf = Callable[[Task, Dataset, Dataset], Logits]


def train_and_record(
    experiment: Experiment,
    pinned: Experiment,
    store: Store,
    teacher_run: str | None,
    data_dir: str | Path | None,
    device: str | None,
    gradient_accumulation_steps: int,
    report: Report,
) -> Record:
    """Do the run of `mixkd.run`, whose lock the caller holds; see there for the arguments."""
    started_at = evidence.now()
    run_id = content_id(pinned.identity())
    for left_over in store.run_dir(run_id).glob(".*"):  # what a killed process was writing
        shutil.rmtree(left_over, ignore_errors=True)
    args = _training_arguments(experiment, store.run_dir(run_id), device, gradient_accumulation_steps)
    task = load_task(experiment.task, data_dir)
    tokenizer = load_tokenizer(experiment.teacher)
    splits = _tokenized(task, experiment)
    train = subsample(splits["train"], experiment.train_fraction, experiment.data_seed)
    if len(train) < 2:
        raise UserError(f"{experiment.train_fraction:.2%} of {task.name} is fewer than 2 examples; take more.")

    teacher = teacher_logits = None
    if teacher_run is not None:
        teacher_logits = CachedLogits(store, teacher_run, task, args.device)
        teacher = teacher_logits.model
    model = _build_model(experiment, task, teacher)
    trainer = DistillationTrainer(
        model,
        experiment.recipe_object(),
        args,
        train,
        teacher=teacher,
        processing_class=tokenizer,
        teacher_logits=None if teacher_logits is None else teacher_logits.of(task, splits["train"], train),
        teacher_dtype=torch.bfloat16 if experiment.teacher_precision == "bf16" else torch.float32,
        callbacks=[_Checkpoint(), _ReportSteps(report)],
    )
    trainer.remove_callback(PrinterCallback)  # progress is reported, and the log is kept in the record
    if experiment.num_epochs:
        try:
            trainer.train(resume_from_checkpoint=_last_checkpoint(Path(args.output_dir)))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The device ran out of memory in {experiment.label()}; raise --gradient_accumulation_steps or "
                "lower --max_length."
            ) from error
    if trainer.is_world_process_zero():
        with evidence.atomic_path(store.model_dir(run_id)) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()

    report(1.0, "evaluating")
    if teacher_logits is None:  # a teacher's own logits are what its students will ask for
        logits_of = CachedLogits(store, run_id, task, args.device).of
    else:
        # What is measured is the checkpoint as others will load it: in float32, without Trainer's autocast.
        student = load_classifier(str(store.model_dir(run_id)), task.label_names).to(args.device)

        def logits_of(task: Task, split: Dataset, part: Dataset) -> Logits:
            return predict_logits(student, part)

    parts = _parts(task, splits, train, experiment, data_dir)
    measurements, examples = _evaluate(parts, logits_of, None if teacher_logits is None else teacher_logits.of)
    parameters, embedding_parameters = count_parameters(model)
    measurements |= {
        "num_parameters": parameters,
        "num_embedding_parameters": embedding_parameters,
        "num_train_examples": len(train),
    }
    if not all(math.isfinite(value) for value in measurements.values()):
        raise UserError(f"The run {run_id} diverged (its loss is not finite); lower the learning rate.")

    record = Record(
        run_id=run_id,
        experiment=pinned.identity(),
        provenance=evidence.provenance(
            device=_device_name(args.device),
            num_threads=torch.get_num_threads(),
            seeds={"init_seed": experiment.init_seed, "data_seed": experiment.data_seed},
            started_at=started_at,
        ),
        measurements=measurements,
        history=_history_by_epoch(trainer.state.log_history),
    )
    if trainer.is_world_process_zero():
        with evidence.atomic_path(store.run_dir(run_id) / "examples.parquet") as path:
            examples.to_parquet(path, index=False)
        store.save_run(record)
        shutil.rmtree(args.output_dir, ignore_errors=True)
    return record


class CachedLogits:
    """A finished teacher's logits of whole splits, computed once and kept in the store's `cache`.

    The key holds the weights themselves, so that a teacher trained again never meets another one's logits.
    """

    def __init__(self, store: Store, run_id: str, task: Task, device: torch.device):
        folder = store.model_dir(run_id)
        if not folder.is_dir():
            raise UserError(f"The teacher's model {folder} is gone; delete {folder.parent} to have it trained again.")
        self.weights = evidence.file_sha256(folder / "model.safetensors")
        self.model = load_classifier(str(folder), task.label_names).to(device)
        self.folder = store.root / "cache" / "teacher_logits"

    def of(self, task: Task, split: Dataset, part: Dataset) -> Logits:
        """Logits of `part`, which is a split or a subset of it, shape (num_examples, num_classes)."""
        ids = [str(example_id) for example_id in split["example_id"]]
        longest = max(map(len, split["input_ids"]))
        key = {"weights": self.weights, "data": task.fingerprint, "ids": ids, "longest_text": longest}
        path = self.folder / f"{content_id(key)}.npy"
        try:
            logits = np.load(path)
        except (OSError, ValueError, EOFError):  # not there yet, or torn: it can always be computed again
            logits = predict_logits(self.model, split)
            with evidence.atomic_path(path) as temporary:
                np.save(temporary, logits)
        row_of = {example_id: row for row, example_id in enumerate(ids)}
        return logits[[row_of[str(example_id)] for example_id in part["example_id"]]]


class Part(NamedTuple):
    """Examples to evaluate on: a split of a task, or a subset of it."""

    name: str
    task: Task
    split: Dataset
    part: Dataset


def _parts(
    task: Task, splits: dict[str, Dataset], train: Dataset, experiment: Experiment, data_dir: str | Path | None
) -> list[Part]:
    """The training examples used, validation, test, and the test sets of the shifted tasks."""
    parts = [Part("train", task, splits["train"], train)]
    parts += [Part(name, task, splits[name], splits[name]) for name in ("validation", "test")]
    for name in task.shifted:
        shifted = load_task(name, data_dir)
        test = _tokenized(shifted, experiment)["test"]
        parts.append(Part(f"shift/{name}", shifted, test, test))
    return parts


def _evaluate(
    parts: list[Part], logits_of: LogitsOf, teacher_logits_of: LogitsOf | None
) -> tuple[dict[str, float], pd.DataFrame]:
    """Measurements on every part, the gaps between them, and every example's result."""
    measurements: dict[str, float] = {}
    frames = []
    for name, task, split, part in parts:
        logits, labels = logits_of(task, split, part), np.asarray(part["label"])
        teacher = None if teacher_logits_of is None else teacher_logits_of(task, split, part)
        prefix = f"{name}/" if name.startswith("shift/") else f"{name}_"
        measured = measure(logits, labels, task.metrics[0], teacher)
        measurements |= {prefix + key: value for key, value in measured.items()}
        if name == "test" and teacher is not None:
            measurements["teacher_test_score"] = measure(teacher, labels, task.metrics[0])["score"]
        frames.append(example_frame(name, part, logits, teacher))
    return add_gaps(measurements), pd.concat(frames, ignore_index=True)


def _build_model(experiment: Experiment, task: Task, teacher: PreTrainedModel | None) -> PreTrainedModel:
    if experiment.student_layers is None:
        return load_classifier(experiment.teacher, task.label_names, seed=experiment.init_seed)
    source = teacher
    if experiment.init_from == "pretrained" or source is None:
        source = load_classifier(experiment.teacher, task.label_names, seed=experiment.init_seed)
    return build_student(source, experiment.student_layers, experiment.init, seed=experiment.init_seed)


def _training_arguments(
    experiment: Experiment, folder: Path, device: str | None, accumulation: int
) -> TrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if experiment.batch_size % (accumulation * processes):
        raise UserError(
            f"batch_size {experiment.batch_size} cannot be split over {processes} processes with {accumulation} "
            "accumulation steps; choose numbers that divide it."
        )
    has_cuda = torch.cuda.is_available()
    if device not in (None, "cpu", "cuda") or (device == "cuda" and not has_cuda):
        available = "cpu or cuda" if has_cuda else "cpu (there is no CUDA device here)"
        raise UserError(f"The device {device!r} cannot be used; choose {available}.")
    use_cpu = device == "cpu" or not has_cuda
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=experiment.batch_size // (accumulation * processes),
        gradient_accumulation_steps=accumulation,
        num_train_epochs=experiment.num_epochs,
        learning_rate=experiment.learning_rate,
        weight_decay=experiment.weight_decay,
        warmup_steps=experiment.warmup,  # below 1: a share of all steps
        bf16=experiment.precision == "bf16",
        train_sampling_strategy="group_by_length" if experiment.length_grouping else "random",
        seed=experiment.init_seed,
        data_seed=experiment.data_seed,
        use_cpu=use_cpu,
        dataloader_pin_memory=not use_cpu,
        optim="adamw_torch_fused",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen
        save_strategy="no",  # _Checkpoint saves, by the clock
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )


class _Checkpoint(TrainerCallback):
    """Saves a checkpoint now and then, and marks those that were written to the end."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if time.monotonic() - self.last > CHECKPOINT_INTERVAL_S:
            control.should_log = control.should_save = True  # the mean loss since the last entry is not in a checkpoint

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.last = time.monotonic()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to the end."""
    complete = [marker.parent for marker in folder.glob("checkpoint-*/complete")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


class _ReportSteps(TrainerCallback):
    def __init__(self, report: Report) -> None:
        self.report = report

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.report(state.global_step / state.max_steps, f"step {state.global_step}/{state.max_steps}")


_TOKENIZED: dict[tuple[str, str, int], dict[str, Dataset]] = {}


def _tokenized(task: Task, experiment: Experiment) -> dict[str, Dataset]:
    """The task's splits with the teacher's tokens, kept for the next run of this process."""
    key = (task.fingerprint, experiment.teacher, experiment.max_length)
    if key not in _TOKENIZED:
        tokenizer = load_tokenizer(experiment.teacher)
        _TOKENIZED[key] = {
            split: tokenize(dataset, tokenizer, experiment.max_length, task.is_pair)
            for split, dataset in task.dataset.items()
        }
    return _TOKENIZED[key]


def _history_by_epoch(log: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The mean loss of every epoch, whose steps are in several entries if a checkpoint was saved inside it."""
    history: dict[int, dict[str, float]] = {}
    last_step = 0
    for entry in (entry for entry in log if "loss" in entry):
        epoch, num_steps = math.ceil(entry["epoch"]), entry["step"] - last_step
        before = history.get(epoch, {"loss": 0.0, "num_steps": 0.0})
        total_steps = before["num_steps"] + num_steps
        history[epoch] = {
            "epoch": float(epoch),
            "num_steps": total_steps,
            "loss": (before["loss"] * before["num_steps"] + float(entry["loss"]) * num_steps) / total_steps,
            "learning_rate": float(entry["learning_rate"]),
            "grad_norm": float(entry["grad_norm"]),
        }
        last_step = entry["step"]
    return list(history.values())


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
