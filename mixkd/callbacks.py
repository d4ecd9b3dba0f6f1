"""What goes along with a training: checkpoints by the clock, and word of every step."""

import time
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixkd.runs import Report

#: A killed run loses at most about this much work. A checkpoint of MiniLM is written in about half a second.
CHECKPOINT_INTERVAL_S = 60.0


class Checkpoint(TrainerCallback):
    """Saves a checkpoint now and then, and marks those that were written to the end."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Find the best epoch so far, which Trainer forgets when a run goes on in a store that was moved."""
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint if it is time, unless an epoch ends here."""
        if args.world_size > 1 and state.global_step % 20:
            return
        # The end of an epoch is saved after its evaluation, if there is one: resumed before it, the epoch had none.
        is_due = time.monotonic() - self.last > CHECKPOINT_INTERVAL_S and not state.epoch.is_integer()
        if args.world_size > 1:  # saving takes all processes, so the first one's clock decides
            is_due = broadcast_object_list([is_due])[0]
        if is_due:
            control.should_log = control.should_save = True  # the mean loss since the last entry is not in a checkpoint

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint as whole."""
        self.last = time.monotonic()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to the end."""
    complete = [marker.parent for marker in folder.glob("checkpoint-*/complete")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


class ReportSteps(TrainerCallback):
    """Reports the share of steps that are done, in the first process."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report."""
        if state.is_world_process_zero:
            self.report(state.global_step / state.max_steps, f"step {state.global_step}/{state.max_steps}")
