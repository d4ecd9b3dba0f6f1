"""`DistillationTrainer`: a `transformers.Trainer` whose step trains a student by any recipe."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mixkd.batches import EpochSampler, RowCollator, WithRows, to_device
from mixkd.forward import mixed_inputs
from mixkd.losses import label_loss
from mixkd.mixup import EpochMixup, MixupPairs, TokenTable, epoch_order
from mixkd.models import MODEL_COLUMNS, model_columns
from mixkd.prediction import predict_logits, predict_states
from mixkd.recipes import Level, Recipe
from mixkd.step_loss import StepLoss
from mixkd.store import UserError
from mixkd.tasks import labels_of

Array = NDArray[np.float32]


class DistillationTrainer(Trainer):
    """Trains a student on original and mixed examples, by the terms of a recipe.

    One step is one forward of the student over original and mixed rows together, and one of the teacher over the
    mixed rows (eval mode, no gradient). The teacher's logits and states of original rows are computed once.

    Every loss term is a sum over the examples of the whole optimizer step, divided by their number: splitting a
    step by gradient accumulation or over processes gives the same gradient.
    """

    # The loss is divided by `num_items_in_batch` below, so Trainer must count the items and not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | None,
        recipe: Recipe,
        args: TrainingArguments,
        train_dataset: Dataset,
        teacher: PreTrainedModel | None = None,
        teacher_logits: Tensor | Array | None = None,
        teacher_states: Array | None = None,
        teacher_dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ):
        """Prepare the training.

        Args:
            model: The student, with a classification head; None with `model_init=...`, as Trainer's hyper-parameter
                search wants it.
            recipe: Terms and weights of the loss, see `mixkd.recipe`.
            args: Trainer's own arguments. `data_seed` (else `seed`) also seeds the mixup draws.
            train_dataset: Tokenised examples: columns input_ids, attention_mask, label, and token_type_ids if any.
            teacher: Fine-tuned teacher; needed by recipes with a kd, pkd or tmkd term. Kept outside the student, so
                that it is neither saved nor optimised.
            teacher_logits: The teacher's logits of train_dataset's rows, shape (num_examples, num_classes); computed
                here when a kd term needs them and they are not given.
            teacher_states: The teacher's [CLS] states of these rows after the layers that pkd maps, shape
                (num_examples, num_mapped, hidden); a memory-mapped array costs no memory. Computed here when a pkd
                term needs them and they are not given.
            teacher_dtype: Precision of the teacher's forward over mixed rows, e.g. torch.bfloat16.
            **kwargs: Passed on to Trainer, such as processing_class: a tokenizer to be saved with the student.

        Raises:
            UserError: If the recipe needs a teacher and there is none, the teacher does not fit the student or the
                data, or the recipe cannot be run on several processes or GPUs as asked.
        """
        if args.n_gpu > 1:
            raise UserError(
                f"One process sees {args.n_gpu} GPUs; start one process per GPU with `torchrun --nproc_per_node "
                f"{args.n_gpu} -m mixkd ...`, or choose one with CUDA_VISIBLE_DEVICES=0."
            )
        if "batch" in (recipe.mixup.partner, recipe.mixup.lam_per) and recipe.uses_mixup and args.world_size > 1:
            raise UserError(
                "partner and lam_per can be `batch` in one process only, where the whole batch is at hand; "
                "choose partner=uniform and lam_per=example."
            )
        args.remove_unused_columns = False  # `row` is not an argument of the model
        keep = [name for name in (*MODEL_COLUMNS, "label", "length") if name in train_dataset.column_names]
        super().__init__(model, args, train_dataset=WithRows(train_dataset.select_columns(keep)), **kwargs)
        self.model_accepts_loss_kwargs = True  # count num_items_in_batch, also for models without loss kwargs
        self.recipe = recipe
        self.columns = model_columns(self.model)
        self.num_labels: int = self.model.config.num_labels
        pad_token_id = self.model.config.pad_token_id or 0
        self.data_collator = RowCollator(pad_token_id)
        self.num_rows = len(train_dataset)
        self.tokens = TokenTable(train_dataset, pad_token_id)
        self._epoch_pairs: tuple[tuple[int, int, int], EpochMixup, list[MixupPairs] | None] | None = None
        self._prepare_teacher(train_dataset, teacher, teacher_logits, teacher_states, teacher_dtype)

    def _prepare_teacher(
        self,
        train_dataset: Dataset,
        teacher: PreTrainedModel | None,
        logits: Tensor | Array | None,
        states: Array | None,
        dtype: torch.dtype,
    ) -> None:
        """Check what is asked of the teacher, and compute what is computed once."""
        recipe, config = self.recipe, self.model.config
        if recipe.uses_teacher and recipe.distance == "kl" and self.num_labels == 1:
            raise UserError("A regression has no class probabilities for distance=kl; choose distance=mse.")
        lacks_logits, lacks_states = recipe.kd_weight and logits is None, recipe.pkd_weight and states is None
        if teacher is None and (recipe.tmkd_weight or lacks_logits or recipe.pkd_weight):
            raise UserError("This recipe distils from a teacher: give DistillationTrainer one (teacher=...).")
        if teacher is not None and teacher.config.num_labels != self.num_labels:
            raise UserError(
                f"The teacher has {teacher.config.num_labels} classes and the student {self.num_labels}; "
                "both must be built for the same task."
            )
        level, layers = recipe.mixup.level, config.num_hidden_layers
        if recipe.uses_mixup and level != "embeddings" and level > layers:
            raise UserError(f"level {level} is above the student's {layers} layers; choose 1 to {layers}.")
        self.teacher, known_logits, known_states = None, None, None
        if recipe.kd_weight:
            given = predict_logits(teacher, train_dataset, self.args.device) if lacks_logits else logits
            known_logits = torch.tensor(np.array(given), dtype=torch.float32)
            _check_shape("teacher_logits", known_logits, (self.num_rows, self.num_labels))
        if recipe.pkd_weight:
            assert teacher is not None
            if teacher.config.hidden_size != config.hidden_size:
                raise UserError(
                    "PKD compares hidden states of one size, but the teacher's is "
                    f"{teacher.config.hidden_size} and the student's {config.hidden_size}; choose recipe kd."
                )
            mapped = recipe.pkd.map_layers(teacher.config.num_hidden_layers, layers)
            known_states = predict_states(teacher, train_dataset, mapped, self.args.device) if lacks_states else states
            _check_shape("teacher_states", known_states, (self.num_rows, len(mapped), config.hidden_size))
        if recipe.tmkd_weight:
            assert teacher is not None
            if teacher.dtype != dtype:  # convert a copy: the caller's teacher stays as it is
                teacher = copy.deepcopy(teacher).to(dtype)
            self.teacher = teacher.to(self.args.device).eval()
        labels = torch.tensor(labels_of(train_dataset))
        self.step_loss = StepLoss(recipe, self.num_labels, labels, known_logits, known_states)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        return EpochSampler(self._order, self.num_rows, self._current_epoch)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        lengths = self.tokens.lengths if self._groups_lengths() else None
        return epoch_order(self.num_rows, lengths, self._examples_per_step(), self._data_seed(), epoch)

    def _groups_lengths(self) -> bool:
        return self.args.train_sampling_strategy == "group_by_length"

    def _examples_per_step(self) -> int:
        args = self.args
        return args.train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes

    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _current_epoch(self) -> int:
        return int(self.state.epoch or 0)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """The micro-batches of an optimizer step, with their mixed examples."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        for number, batch in enumerate(batches):
            self._cut_fillers(batch, number)
        if self.recipe.uses_mixup and batches:
            for batch, pairs in zip(batches, self._mixup([_real_rows(batch) for batch in batches]), strict=True):
                batch["pairs"] = pairs._asdict()
        return batches, self._get_num_items_in_batch(batches, device)

    def _cut_fillers(self, batch: dict[str, Any], number: int) -> None:
        """Take out of a micro-batch what fills the epoch's last step up in several processes: rows of its start.

        If nothing is left, one row stays for the forward, whose label -100 keeps it from counting.
        """
        size, processes, index = self.args.train_batch_size, *self._process()
        first = self._step() * self._examples_per_step() + (number * processes + index) * size
        num_real = min(len(batch["rows"]), max(0, self.num_rows - first))
        for name, values in batch.items():
            batch[name] = values[: max(1, num_real)]
        batch["is_filler"] = num_real == 0
        if num_real == 0:
            batch["labels"] = torch.full_like(batch["labels"], -100)

    def _process(self) -> tuple[int, int]:
        """Number of processes, and the index of this one."""
        return self.accelerator.num_processes, self.accelerator.process_index

    def _step(self) -> int:
        """The optimizer step that comes next, within its epoch."""
        steps_per_epoch = -(-self.num_rows // self._examples_per_step())
        return self.state.global_step - self._current_epoch() * steps_per_epoch

    def _mixup(self, rows_of_batches: list[NDArray[np.int64]]) -> list[MixupPairs]:
        """The mixed examples of the micro-batches of this process in the step that comes next."""
        mixup, key = self.recipe.mixup, (self._current_epoch(), self._data_seed(), self._examples_per_step())
        if self._epoch_pairs is None or self._epoch_pairs[0] != key:
            draws = EpochMixup(self.num_rows, self._data_seed(), self._current_epoch(), mixup)
            by_step = None
            if self._groups_lengths() and mixup.partner == "uniform" and mixup.lam_per == "example":
                order = self._order(self._current_epoch())
                by_step = draws.by_length(self.tokens.lengths, order, self._examples_per_step())
            self._epoch_pairs = (key, draws, by_step)
        _, draws, by_step = self._epoch_pairs
        if by_step is not None:
            processes, index = self._process()
            pairs = by_step[self._step()].part(slice(index, None, processes))
            return [pairs.part(part) for part in np.array_split(np.arange(len(pairs.source)), len(rows_of_batches))]
        pairs = draws.of_rows(np.concatenate(rows_of_batches))
        ends = np.cumsum([draws.num_copies[rows].sum() for rows in rows_of_batches])
        return [pairs.part(slice(start, end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The recipe's loss in training; the label loss in evaluation."""
        inputs = dict(inputs)
        labels, rows, drawn = inputs.pop("labels"), inputs.pop("rows", None), inputs.pop("pairs", None)
        is_filler = inputs.pop("is_filler", False)
        inputs = {name: tensor for name, tensor in inputs.items() if name in self.columns}
        if not model.training:
            outputs = model(**inputs)
            loss = label_loss(outputs.logits, labels).mean()
            return (loss, outputs) if return_outputs else loss

        pairs = MixupPairs(**drawn) if drawn else None
        if self.recipe.uses_mixup and pairs is None:  # called by hand, not by the training loop
            draws = EpochMixup(self.num_rows, self._data_seed(), self._current_epoch(), self.recipe.mixup)
            pairs = draws.of_rows(rows)
        options = {"output_hidden_states": True} if self.recipe.pkd_weight else {}
        teacher_mixed = None
        if pairs is not None and len(pairs.source):  # with a ratio below 1, a batch may have no mixed example
            outputs, teacher_mixed = self._forward_mixed(model, rows, pairs, options)
        else:
            outputs, pairs = model(**inputs, **options), None

        loss = self.step_loss.of_originals(outputs, labels, rows) * (0.0 if is_filler else 1.0)
        if pairs is not None:
            loss = loss + self.step_loss.of_mixed(outputs.logits[len(labels) :], pairs, teacher_mixed)
        # With several processes the items are those of all of them, and gradients are averaged afterwards.
        num_items = len(labels) if num_items_in_batch is None else num_items_in_batch
        is_total = num_items_in_batch is not None and self.args.average_tokens_across_devices
        loss = loss / num_items * (self.accelerator.num_processes if is_total else 1)
        return (loss, outputs) if return_outputs else loss

    def _level_of(self, network: PreTrainedModel) -> Level:
        """Where a network is mixed: at the same relative depth as the student."""
        level = self.recipe.mixup.level
        if level == "embeddings":
            return level
        return max(1, round(level * network.config.num_hidden_layers / self.model.config.num_hidden_layers))

    def _forward_mixed(
        self, model: nn.Module, rows: NDArray[np.int64], pairs: MixupPairs, options: dict[str, Any]
    ) -> tuple[Any, Tensor | None]:
        """The student's outputs for originals and then mixed rows, and the teacher's logits of the mixed rows."""
        student, device = self.accelerator.unwrap_model(model), self.args.device
        all_rows = np.concatenate([rows, pairs.source, pairs.partner])  # (batch + 2 * num_mixed,)
        length = int(self.tokens.lengths[all_rows].max())
        texts = {
            name: tensor.to(device, non_blocking=True) for name, tensor in self.tokens.batch(all_rows, length).items()
        }  # each (batch + 2 * num_mixed, length)
        lam = to_device(device, pairs.lam)
        teacher_logits = None
        if self.teacher is not None:
            with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                mixed_texts = {name: tensor[len(rows) :] for name, tensor in texts.items()}
                inputs, mixing = mixed_inputs(self.teacher, self._level_of(self.teacher), mixed_texts, lam)
                with mixing:
                    teacher_logits = self.teacher(**inputs).logits
            teacher_logits = teacher_logits.clone()  # an ordinary tensor: inference tensors cannot enter autograd
        inputs, mixing = mixed_inputs(student, self._level_of(student), texts, lam)
        with mixing:
            return model(**inputs, **options), teacher_logits


def _check_shape(name: str, array: Tensor | Array, shape: tuple[int, ...]) -> None:
    if tuple(array.shape) != shape:
        raise UserError(
            f"{name} has shape {tuple(array.shape)}, but examples and model ask for {shape}; give a row per example of "
            "train_dataset."
        )


def _real_rows(batch: dict[str, Any]) -> NDArray[np.int64]:
    return batch["rows"][: 0 if batch["is_filler"] else None]
