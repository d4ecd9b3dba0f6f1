"""Trainer's arguments for an experiment."""

import os
from pathlib import Path

from transformers import TrainingArguments

from mixkd.experiment import Experiment
from mixkd.gpus import choose_device
from mixkd.runs import Options
from mixkd.store import UserError


def micro_batch_size(experiment: Experiment, options: Options) -> int:
    """Examples of one process and accumulation step.

    Raises:
        UserError: If the batch cannot be split as asked.
    """
    accumulation = options.gradient_accumulation_steps
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if experiment.batch_size % (accumulation * processes):
        raise UserError(
            f"batch_size {experiment.batch_size} cannot be split over {processes} processes with {accumulation} "
            "accumulation steps; choose numbers that divide it."
        )
    return experiment.batch_size // (accumulation * processes)


def training_arguments(experiment: Experiment, folder: Path, options: Options) -> TrainingArguments:
    """What Trainer is told, with `folder` for its checkpoints.

    Raises:
        UserError: If the batch cannot be split as asked, or there is no such device.
    """
    use_cpu = choose_device(options.device).type == "cpu"
    per_epoch = "epoch" if experiment.best_epoch else "no"
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch_size(experiment, options),
        gradient_accumulation_steps=options.gradient_accumulation_steps,
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
        save_strategy=per_epoch,  # `Checkpoint` also saves, by the clock
        save_total_limit=2,
        eval_strategy=per_epoch,
        load_best_model_at_end=experiment.best_epoch,
        metric_for_best_model="score",
        restore_callback_states_from_checkpoint=True,  # patience goes on counting
        report_to=options.report_to,
        disable_tqdm=True,
    )
