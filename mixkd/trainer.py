"""`DistillationTrainer`: a `transformers.Trainer` whose step trains a student by any recipe."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mixkd.losses import cross_entropy, distillation_loss
from mixkd.mixup import EpochMixup, MixupPairs, TokenTable, mix_embeddings, mix_labels, mix_masks, mix_token_types
from mixkd.models import MODEL_COLUMNS, pad_texts, predict_logits
from mixkd.recipes import Recipe
from mixkd.store import UserError


class RowCollator:
    """Pads a batch, and keeps the examples' rows in the training set on the host, as a numpy array."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate: tensors of shape (batch, longest text), `labels` (batch,), and `rows` if there are any."""
        batch: dict[str, Any] = dict(pad_texts(examples, self.pad_token_id))
        if "label" in examples[0]:
            batch["labels"] = torch.tensor([example["label"] for example in examples])
        if "row" in examples[0]:
            batch["rows"] = np.array([example["row"] for example in examples])
        return batch


class EpochSampler(Sampler[int]):
    """The order of the examples as a pure function of seed and epoch, so that a resumed run goes on in it.

    With lengths, examples of similar length share a batch: they are shuffled, sorted by length within 50 batches at
    a time, and the batches are shuffled again.
    """

    def __init__(
        self, num_examples: int, lengths: NDArray[np.int64] | None, batch_size: int, seed: int, epoch: Callable[[], int]
    ):
        self.num_examples, self.lengths, self.batch_size, self.seed, self.epoch = (
            num_examples, lengths, batch_size, seed, epoch,
        )  # fmt: skip

    def __len__(self) -> int:
        return self.num_examples

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch(), 1])  # EpochMixup draws from [.., 2]
        order = generator.permutation(self.num_examples)
        if self.lengths is not None:
            window = 50 * self.batch_size
            windows = (order[start : start + window] for start in range(0, len(order), window))
            order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in windows])
            num_full = len(order) // self.batch_size
            full, rest = np.split(order, [num_full * self.batch_size])
            batches = generator.permutation(full.reshape(num_full, self.batch_size))
            order = np.concatenate([batches.ravel(), rest])
        return iter(order.tolist())


class DistillationTrainer(Trainer):
    """Trains a student on original and mixed examples, by the terms of a recipe.

    One step is one forward of the student over original and mixed rows together, and one of the teacher over the
    mixed rows (eval mode, no gradient). The teacher's logits of original rows are computed once.

    Every loss term is a sum over the examples of the whole optimizer step, divided by their number: splitting a
    step by gradient accumulation or over processes gives the same gradient.
    """

    # The loss is divided by `num_items_in_batch` below, so Trainer must count the items and not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: Recipe,
        args: TrainingArguments,
        train_dataset: Dataset,
        teacher: PreTrainedModel | None = None,
        teacher_logits: Tensor | NDArray[np.float32] | None = None,
        teacher_dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ):
        """Prepare the training.

        Args:
            model: The student, with a classification head.
            recipe: Terms and weights of the loss, see `mixkd.recipe`.
            args: Trainer's own arguments. `data_seed` (else `seed`) also seeds the mixup draws.
            train_dataset: Tokenised examples: columns input_ids, attention_mask, label, and token_type_ids if any.
            teacher: Fine-tuned teacher; needed by recipes with a kd or tmkd term. Kept outside the student, so that
                it is neither saved nor optimised.
            teacher_logits: The teacher's logits of train_dataset's rows, shape (num_examples, num_classes); computed
                here when a kd term needs them and they are not given.
            teacher_dtype: Precision of the teacher's forward over mixed rows, e.g. torch.bfloat16.
            **kwargs: Passed on to Trainer, such as processing_class: a tokenizer to be saved with the student.

        Raises:
            UserError: If the recipe needs a teacher and there is none, the teacher's classes or logits do not fit
                the student's or the data, or the recipe cannot be run on several processes or GPUs as asked.
        """
        if args.n_gpu > 1:
            raise UserError(
                f"One process sees {args.n_gpu} GPUs; start one process per GPU with `torchrun --nproc_per_node "
                f"{args.n_gpu} -m mixkd ...`, or choose one with CUDA_VISIBLE_DEVICES=0."
            )
        needs_teacher = recipe.tmkd_weight or (recipe.kd_weight and teacher_logits is None)
        if needs_teacher and teacher is None:
            raise UserError("This recipe distils from a teacher: give DistillationTrainer one (teacher=...).")
        if teacher is not None and teacher.config.num_labels != model.config.num_labels:
            raise UserError(
                f"The teacher has {teacher.config.num_labels} classes and the student {model.config.num_labels}; "
                "both must be built for the same task."
            )
        shape = (len(train_dataset), model.config.num_labels)
        if teacher_logits is not None and tuple(teacher_logits.shape) != shape:
            raise UserError(
                f"teacher_logits has shape {tuple(teacher_logits.shape)}, but examples and classes ask for "
                f"{shape}; give a row per example of train_dataset."
            )
        args.remove_unused_columns = False  # `row` is not an argument of the model
        keep = [name for name in (*MODEL_COLUMNS, "label", "length") if name in train_dataset.column_names]
        rows = train_dataset.select_columns(keep).add_column("row", list(range(len(train_dataset))))
        pad_token_id = model.config.pad_token_id or 0
        super().__init__(
            model,
            args,
            data_collator=RowCollator(pad_token_id),
            train_dataset=rows,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # count num_items_in_batch, also for models without loss kwargs
        self.recipe = recipe
        self.num_labels = model.config.num_labels
        self.teacher = None
        self.teacher_logits = None
        if recipe.kd_weight:
            if teacher_logits is None:
                teacher_logits = predict_logits(teacher, train_dataset, args.device)
            self.teacher_logits = torch.as_tensor(teacher_logits, dtype=torch.float32)
        if recipe.tmkd_weight:
            if teacher.dtype != teacher_dtype:  # convert a copy: the caller's teacher stays as it is
                teacher = copy.deepcopy(teacher).to(teacher_dtype)
            self.teacher = teacher.to(args.device).eval()
        self.train_labels = torch.tensor(train_dataset["label"])
        self.tokens: TokenTable | None = None
        if recipe.uses_mixup:
            self.tokens = TokenTable.from_columns(
                {name: train_dataset[name] for name in MODEL_COLUMNS if name in train_dataset.column_names},
                pad_token_id,
            )
        if "batch" in (recipe.mixup.partner, recipe.mixup.lam_per) and recipe.uses_mixup and args.world_size > 1:
            raise UserError(
                "partner and lam_per can be `batch` in one process only, where the whole batch is at hand; "
                "choose partner=uniform and lam_per=example."
            )
        self._epoch_mixup: tuple[int, EpochMixup] | None = None

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        strategy = self.args.train_sampling_strategy
        if strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        lengths = np.array([len(ids) for ids in self.train_dataset["input_ids"]])
        examples_per_step = (
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        )
        return EpochSampler(
            len(lengths),
            lengths if strategy == "group_by_length" else None,
            examples_per_step,
            self._data_seed(),
            self._current_epoch,
        )

    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _current_epoch(self) -> int:
        return int(self.state.epoch or 0)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | int | None]:
        """The micro-batches of an optimizer step, with mixed pairs drawn for all of them together."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.tokens is not None and batches:
            pairs = self._mixup(np.concatenate([batch["rows"] for batch in batches]))
            first = 0
            for batch in batches:
                last = first + len(batch["rows"])
                part = slice(*np.searchsorted(pairs.source, [first, last]))  # sources are sorted
                batch["pairs"] = MixupPairs(pairs.source[part] - first, pairs.partner[part], pairs.lam[part])._asdict()
                first = last
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The recipe's loss in training; plain cross-entropy in evaluation."""
        inputs = dict(inputs)
        labels, rows, drawn = inputs.pop("labels"), inputs.pop("rows", None), inputs.pop("pairs", None)
        if not model.training:
            outputs = model(**inputs)
            loss = cross_entropy(outputs.logits, labels).mean()
            return (loss, outputs) if return_outputs else loss

        recipe, batch_size = self.recipe, len(labels)
        pairs, teacher_mixed = None, None
        if self.tokens is not None:
            pairs = MixupPairs(**drawn) if drawn else self._mixup(rows)
        if pairs is not None and len(pairs.source):
            inputs, teacher_mixed = self._with_mixed_rows(model, inputs, rows, pairs)
        else:  # with a ratio below 1, a batch may have no mixed example
            pairs = None
        outputs = model(**inputs)
        logits, mixed_logits = outputs.logits[:batch_size], outputs.logits[batch_size:]

        loss = recipe.mle_weight * cross_entropy(logits, labels).sum()
        if recipe.kd_weight:
            target = self.teacher_logits[torch.from_numpy(rows)].to(logits.device, non_blocking=True)
            loss = loss + recipe.kd_weight * self._distance(logits, target).sum()
        if recipe.sm_weight and pairs is not None:
            mixed_labels = self._mixed_labels(labels, pairs)
            loss = loss + recipe.sm_weight / recipe.mixup.mix_ratio * cross_entropy(mixed_logits, mixed_labels).sum()
        if recipe.tmkd_weight and pairs is not None:
            distance = self._distance(mixed_logits, teacher_mixed)
            loss = loss + recipe.tmkd_weight / recipe.mixup.mix_ratio * distance.sum()

        # With several processes the items are those of all of them, and gradients are averaged afterwards.
        num_items = batch_size if num_items_in_batch is None else num_items_in_batch
        is_total = num_items_in_batch is not None and self.args.average_tokens_across_devices
        loss = loss / num_items * (self.accelerator.num_processes if is_total else 1)
        return (loss, outputs) if return_outputs else loss

    def _distance(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return distillation_loss(student_logits, teacher_logits, self.recipe.distance, self.recipe.temperature)

    def _mixup(self, rows: NDArray[np.int64]) -> MixupPairs:
        epoch = self._current_epoch()
        if self._epoch_mixup is None or self._epoch_mixup[0] != epoch:
            draws = EpochMixup(len(self.train_labels), self._data_seed(), epoch, self.recipe.mixup)
            self._epoch_mixup = (epoch, draws)
        return self._epoch_mixup[1].pairs(rows)

    def _mixed_labels(self, labels: Tensor, pairs: MixupPairs) -> Tensor:
        partner_labels = self.train_labels[torch.from_numpy(pairs.partner)].to(labels.device, non_blocking=True)
        source, lam = _to_device(labels.device, pairs.source, pairs.lam)
        return mix_labels(labels[source], partner_labels, lam, self.num_labels)

    def _with_mixed_rows(
        self, model: nn.Module, inputs: dict[str, Tensor], rows: NDArray[np.int64], pairs: MixupPairs
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The student's inputs with the mixed rows after the originals, and the teacher's logits of mixed rows."""
        assert self.tokens is not None
        all_rows = np.concatenate([rows, pairs.partner])  # (batch + num_mixed,)
        length = int(self.tokens.lengths[all_rows].max())
        device = inputs["input_ids"].device
        ids, mask, types = (
            tensor.to(device, non_blocking=True) for tensor in self.tokens.batch(all_rows, length)
        )  # each (batch + num_mixed, length)
        source, lam = _to_device(device, pairs.source, pairs.lam)
        partner = slice(len(rows), None)
        mixed_mask = mix_masks(mask[source], mask[partner])
        mixed_types = mix_token_types(types[source], types[partner], mask[source], mask[partner])

        def embed(network: PreTrainedModel) -> tuple[Tensor, Tensor]:
            embeddings = network.get_input_embeddings()(ids)  # (batch + num_mixed, length, hidden)
            return embeddings, mix_embeddings(embeddings[source], embeddings[partner], lam)

        has_types = "token_type_ids" in inputs
        teacher_mixed = None
        if self.teacher is not None:
            with torch.inference_mode(), torch.autocast(device.type, enabled=False):
                teacher_inputs = {"inputs_embeds": embed(self.teacher)[1], "attention_mask": mixed_mask}
                if has_types:
                    teacher_inputs["token_type_ids"] = mixed_types
                teacher_mixed = self.teacher(**teacher_inputs).logits
            teacher_mixed = teacher_mixed.clone()  # an ordinary tensor: inference tensors cannot enter autograd
        embeddings, mixed = embed(self.accelerator.unwrap_model(model))
        student_inputs = {
            "inputs_embeds": torch.cat([embeddings[: len(rows)], mixed]),
            "attention_mask": torch.cat([mask[: len(rows)], mixed_mask]),
        }
        if has_types:
            student_inputs["token_type_ids"] = torch.cat([types[: len(rows)], mixed_types])
        return student_inputs, teacher_mixed


def _to_device(device: torch.device, *arrays: NDArray[Any]) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True) for array in arrays]
