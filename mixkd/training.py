"""The inside of `mixkd.run`: build the models, train, evaluate, and write the record last."""

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainingArguments,
)

from mixkd import store as evidence
from mixkd.arguments import micro_batch_size, training_arguments
from mixkd.callbacks import Checkpoint, ReportSteps, last_checkpoint
from mixkd.card import measured_latency, model_card
from mixkd.cpu import use_cheap_dropout
from mixkd.evaluate import Logits, Part, evaluate, predict
from mixkd.examples import RunExamples, load_examples
from mixkd.experiment import Experiment
from mixkd.forward import compiled, first_token_only
from mixkd.gpus import device_name
from mixkd.interpolation import interpolation
from mixkd.losses import label_loss
from mixkd.metrics import compute_scores
from mixkd.models import build_student, choose_layers, count_parameters, load_classifier, load_config, load_tokenizer
from mixkd.prediction import predict_logits
from mixkd.runs import Options, Report
from mixkd.store import Record, Store, UserError, content_id, is_first_process
from mixkd.tasks import Task
from mixkd.teacher import CachedTeacher
from mixkd.trainer import DistillationTrainer
from mixkd.vocabulary import use_tokens_of, use_whole_table


def train_and_record(
    experiment: Experiment, pinned: Experiment, store: Store, teacher_run: str | None, options: Options, report: Report
) -> Record:
    """Do the run of `mixkd.run`, whose lock the caller holds.

    Args:
        experiment: What to run.
        pinned: The same with the fingerprints that make its id.
        store: Where to.
        teacher_run: Run id of the teacher; None if this run makes one.
        options: How.
        report: Told about progress.
    """
    started_at = evidence.now()
    run_id = content_id(pinned.identity())
    if is_first_process():
        for left_over in store.run_dir(run_id).glob(".*"):  # what a killed process was writing
            shutil.rmtree(left_over, ignore_errors=True)
    args = training_arguments(experiment, store.run_dir(run_id) / "checkpoints", options)
    with args.main_process_first(local=False):  # it writes the caches, the others find them
        examples = load_examples(experiment, store, options, report)
    label_names = examples.task.label_names
    teacher = (
        None if teacher_run is None else CachedTeacher(store, store.model_dir(teacher_run), label_names, args.device)
    )
    trainer = _train(experiment, args, examples, teacher, options, report)
    if trainer.is_world_process_zero():
        with evidence.atomic_path(store.model_dir(run_id)) as folder:
            trainer.model.save_pretrained(folder)
            trainer.processing_class.save_pretrained(folder)
    trainer.accelerator.wait_for_everyone()

    report(1.0, "evaluating")
    measurements, tables = _measure(store.model_dir(run_id), examples, args.device, teacher, store)
    parameters, embedding_parameters = count_parameters(trainer.model)
    measurements |= {
        "num_parameters": parameters,
        "num_embedding_parameters": embedding_parameters,
        **examples.counts,
        **_selection(trainer),
    }
    record = Record(
        run_id=run_id,
        experiment=pinned.identity(),
        provenance=evidence.provenance(
            device=device_name(args.device),
            num_threads=torch.get_num_threads(),
            seeds={"init_seed": experiment.init_seed, "data_seed": experiment.data_seed},
            started_at=started_at,
        ),
        measurements=measurements,
        history=_history_by_epoch(trainer.state.log_history),
    )
    if trainer.is_world_process_zero():
        keep_model = options.keep_model or not experiment.is_student
        _save(record, tables, examples.task, store, Path(args.output_dir), keep_model)
    return record


def _save(
    record: Record, tables: dict[str, pd.DataFrame], task: Task, store: Store, checkpoints: Path, keep_model: bool
) -> None:
    """Write all of a run but its model, the record last, and clear away what only the training needed."""
    folder, model = store.run_dir(record.run_id), store.model_dir(record.run_id)
    for name, table in tables.items():
        with evidence.atomic_path(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)
    latency = measured_latency(store.benchmarks_dir, int(record.measurements["num_parameters"]))
    evidence.write_text(model / "README.md", model_card(record, task, tables["examples"], latency))
    store.save_run(record)
    if not keep_model:
        shutil.rmtree(model)
    logs = checkpoints / "runs"  # TensorBoard's
    if logs.is_dir():
        logs.replace(folder / "tensorboard")
    shutil.rmtree(checkpoints, ignore_errors=True)


def _measure(
    folder: Path, examples: RunExamples, device: torch.device, teacher: CachedTeacher | None, store: Store
) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
    """Measurements of a saved model, and the tables behind them by name.

    What is measured is the checkpoint as others will load it: in float32, without Trainer's autocast.
    """
    label_names = examples.task.label_names
    if teacher is None:
        logits_of = CachedTeacher(store, folder, label_names, device).of  # those that its students will ask for
    else:
        student = load_classifier(str(folder), label_names).to(device)
        known: dict[int, Logits] = {}

        def logits_of(part: Part) -> Logits:
            key = id(part.examples)  # two parts may be the same examples
            if key not in known:
                known[key] = predict_logits(student, part.examples)
            return known[key]

    measurements, table = evaluate(examples.parts, logits_of, None if teacher is None else teacher.of)
    if not all(math.isfinite(value) for value in measurements.values()):
        raise UserError(f"The training of {folder} diverged (its loss is not finite); lower the learning rate.")
    if teacher is None:
        return measurements, {"examples": table}
    heldout = examples.part(examples.task.heldout).examples
    on_path, path = interpolation(student, teacher.walk, heldout)
    return measurements | on_path, {"examples": table, "interpolation": path}


def check(experiment: Experiment, options: Options) -> None:
    """See that a model can have the layers, the batch and the compiler it asks for, before a teacher is trained.

    Raises:
        UserError: If it cannot have them.
    """
    micro_batch_size(experiment, options)
    if options.torch_compile and experiment.level != "embeddings":
        raise UserError(f"torch_compile does not see what is mixed at level {experiment.level}; leave it out.")
    recipe, total = experiment.recipe_object(), load_config(experiment.teacher).num_hidden_layers
    try:
        if experiment.student is None and experiment.student_layers and experiment.init:
            choose_layers(total, experiment.student_layers, experiment.init)
        if experiment.student_layers and recipe.pkd_weight:
            recipe.pkd.map_layers(total, experiment.student_layers)
    except ValueError as error:
        raise UserError(f"{experiment.label()}: {error}.") from error


def _train(
    experiment: Experiment,
    args: TrainingArguments,
    examples: RunExamples,
    teacher: CachedTeacher | None,
    options: Options,
    report: Report,
) -> DistillationTrainer:
    """Build the model and train it."""
    recipe, training = experiment.recipe_object(), examples.training
    train = examples.part("train")
    logits = states = None
    try:
        model, tokenizer = _build_model(experiment, examples.task, None if teacher is None else teacher.model)
        if teacher is not None and recipe.pkd_weight:
            depths = teacher.model.config.num_hidden_layers, model.config.num_hidden_layers
            states = teacher.states(training, recipe.pkd.map_layers(*depths))
    except ValueError as error:  # layers that the models do not have
        raise UserError(f"{experiment.label()}: {error}.") from error
    if teacher is not None and recipe.kd_weight:
        logits = teacher.of(train) if training is train.examples else teacher.logits(training)
    callbacks = [Checkpoint(), ReportSteps(report)]
    if experiment.patience is not None:
        callbacks.append(EarlyStoppingCallback(experiment.patience))
    validation = [examples.part("validation").examples] if experiment.best_epoch else []
    use_tokens_of(model, [training, *validation])
    if args.device.type == "cpu":
        use_cheap_dropout(model)
        if teacher is not None:
            teacher.model.set_attn_implementation("eager")  # on mixed texts half the time of the fused one
    trainer = DistillationTrainer(
        model,
        recipe=recipe,
        args=args,
        train_dataset=training,
        eval_dataset=validation[0] if validation else None,
        compute_metrics=partial(_validation_measures, examples.task.metrics[0]),
        teacher=None if teacher is None else teacher.model,
        teacher_logits=logits,
        teacher_states=states,
        teacher_dtype=torch.bfloat16 if experiment.teacher_precision == "bf16" else torch.float32,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # progress is reported, and the log is kept in the record
    if experiment.num_epochs:
        _fit(trainer, experiment, options.torch_compile)
    use_whole_table(model)
    return trainer


def _validation_measures(metric: str, answers: EvalPrediction) -> dict[str, float]:
    # Trainer's own `eval_loss` also counts the rows that fill the last batch up in several processes.
    loss = label_loss(*map(torch.from_numpy, answers)).mean().item()
    return {"score": compute_scores(metric, predict(answers.predictions), answers.label_ids), "label_loss": loss}


def _fit(trainer: DistillationTrainer, experiment: Experiment, torch_compile: bool) -> None:
    """Train, from the last checkpoint if there is one."""
    student, teacher = models = trainer.model, trainer.teacher
    try:
        with first_token_only(student), first_token_only(teacher), compiled(*(models if torch_compile else ())):
            trainer.train(resume_from_checkpoint=last_checkpoint(Path(trainer.args.output_dir)))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The device ran out of memory in {experiment.label()}; raise --gradient_accumulation_steps or "
            "lower --max_length."
        ) from error


def _build_model(
    experiment: Experiment, task: Task, teacher: PreTrainedModel | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What is trained, and the tokenizer to be saved with it."""
    tokenizer = load_tokenizer(experiment.teacher)
    if experiment.student is not None:
        own = load_tokenizer(experiment.student)
        for each in (own, tokenizer):
            each.backend_tokenizer.no_truncation()  # left over from a call
        if own.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
            raise UserError(
                f"The student {experiment.student} and the teacher {experiment.teacher} have different tokenizers; "
                "mixup and distillation need the same tokens for both."
            )
        return load_classifier(experiment.student, task.label_names, seed=experiment.init_seed), own
    if teacher is None or experiment.init_from == "pretrained":
        source = load_classifier(experiment.teacher, task.label_names, seed=experiment.init_seed)
    else:
        source = teacher
    if experiment.student_layers is None:
        return source, tokenizer
    return build_student(source, experiment.student_layers, experiment.init, seed=experiment.init_seed), tokenizer


def _selection(trainer: DistillationTrainer) -> dict[str, float]:
    """How many epochs were run, and which one was kept if validation chose it."""
    state = trainer.state
    selection = {"num_epochs_run": float(round(state.epoch or 0))}
    if state.best_global_step:
        selection["best_epoch"] = float(round(state.best_global_step / state.global_step * selection["num_epochs_run"]))
    return selection


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
    for entry in (entry for entry in log if "eval_score" in entry):
        history[math.ceil(entry["epoch"])] |= {
            "validation_score": float(entry["eval_score"]),
            "validation_loss": float(entry["eval_label_loss"]),
        }
    return list(history.values())
