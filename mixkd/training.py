"""The inside of `mixkd.run`: build the models, train, evaluate, and write the record last."""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mixkd import store as evidence
from mixkd.evaluate import CachedLogits, Logits, Part, evaluate
from mixkd.experiment import Experiment, Report
from mixkd.models import build_student, count_parameters, load_classifier, load_tokenizer, predict_logits
from mixkd.store import Record, Store, UserError, content_id
from mixkd.tasks import Task, load_task, subsample, tokenize
from mixkd.trainer import DistillationTrainer

#: A killed run loses at most about this much work. A checkpoint of MiniLM is written in about half a second.
CHECKPOINT_INTERVAL_S = 60.0


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
    parts = _parts(experiment, data_dir)
    task = parts[0].task
    teacher = None if teacher_run is None else CachedLogits(store, teacher_run, task.label_names, args.device)
    tokenizer = load_tokenizer(experiment.teacher)
    trainer = _train(experiment, args, tokenizer, parts[0], teacher, report)
    if trainer.is_world_process_zero():
        with evidence.atomic_path(store.model_dir(run_id)) as folder:
            trainer.model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()

    report(1.0, "evaluating")
    # What is measured is the checkpoint as others will load it: in float32, without Trainer's autocast.
    if teacher is None:  # the logits are those that its students will ask for
        logits_of = CachedLogits(store, run_id, task.label_names, args.device).of
    else:
        student = load_classifier(str(store.model_dir(run_id)), task.label_names).to(args.device)

        def logits_of(part: Part) -> Logits:
            return predict_logits(student, part.examples)

    measurements, examples = evaluate(parts, logits_of, None if teacher is None else teacher.of)
    parameters, embedding_parameters = count_parameters(trainer.model)
    measurements |= {
        "num_parameters": parameters,
        "num_embedding_parameters": embedding_parameters,
        "num_train_examples": len(parts[0].examples),
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


def _parts(experiment: Experiment, data_dir: str | Path | None) -> list[Part]:
    """What is evaluated: the training examples used, validation, test, and the test sets of the shifted tasks."""
    task = load_task(experiment.task, data_dir)
    splits = _tokenized(task, experiment)
    train = subsample(splits["train"], experiment.train_fraction, experiment.data_seed)
    if len(train) < 2:
        raise UserError(f"{experiment.train_fraction:.2%} of {task.name} is fewer than 2 examples; take more.")
    parts = [Part("train", task, splits["train"], train)]
    parts += [Part(name, task, splits[name], splits[name]) for name in ("validation", "test")]
    for name in task.shifted:
        shifted = load_task(name, data_dir)
        test = _tokenized(shifted, experiment)["test"]
        parts.append(Part(f"shift/{name}", shifted, test, test))
    return parts


def _train(
    experiment: Experiment,
    args: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    train: Part,
    teacher: CachedLogits | None,
    report: Report,
) -> DistillationTrainer:
    """Build the model and train it, from the last checkpoint if there is one."""
    trainer = DistillationTrainer(
        _build_model(experiment, train.task, None if teacher is None else teacher.model),
        experiment.recipe_object(),
        args,
        train.examples,
        teacher=None if teacher is None else teacher.model,
        teacher_logits=None if teacher is None else teacher.of(train),
        teacher_dtype=torch.bfloat16 if experiment.teacher_precision == "bf16" else torch.float32,
        processing_class=tokenizer,
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
    return trainer


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
