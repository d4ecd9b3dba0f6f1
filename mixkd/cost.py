"""The work and the disk of one run, from its experiment alone: no data and no model is loaded.

The unit of work is the floating-point operation. A forward pass of one token through a layer of hidden size h and
intermediate size f takes 8h^2 + 4hf operations in matrix products and 4hn in attention over n tokens (Kaplan et al.
2020, arXiv 2001.08361, table 1: twice the parameters, plus attention); training takes three times the forward pass.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mixkd.experiment import Experiment


class Size(NamedTuple):
    """Labelled examples of a task's splits, and mean and standard deviation of their tokens."""

    num_train: int
    num_heldout: int  # the split that scores are read from: test, or validation in GLUE
    num_others: int  # what else is evaluated: validation, further splits, shifted test sets
    num_tokens: float
    sd_tokens: float


#: VADER: counted, with MiniLM's (BERT's) tokenizer, [CLS] and [SEP] included. GLUE: published sizes; the tokens are
#: approximate.
SIZES = {
    "vader-movie": Size(7016, 2047, 1007 + 575 + 594 + 683, 26.8, 11.0),
    "vader-amazon": Size(2102, 575, 291, 22.9, 13.4),
    "vader-nyt": Size(2031, 594, 305, 25.7, 11.5),
    "vader-tweets": Size(2298, 683, 296, 22.9, 9.6),
    "vader-order": Size(3690, 1074, 530, 52.7, 15.4),
    "cola": Size(8551, 1043, 0, 11, 4),
    "sst2": Size(67_349, 872, 0, 13, 9),
    "mrpc": Size(3668, 408, 0, 53, 14),
    "stsb": Size(5749, 1500, 0, 31, 15),
    "qqp": Size(363_846, 40_430, 0, 30, 12),
    "mnli": Size(392_702, 9815, 9832, 39, 18),
    "qnli": Size(104_743, 5463, 0, 50, 22),
    "rte": Size(2490, 277, 0, 70, 35),
    "wnli": Size(635, 71, 0, 37, 13),
}
UNKNOWN_TASK = SIZES["sst2"]
_NOISY_COPIES = 2  # of the held-out split, see `mixkd.evaluate`


class Shape(NamedTuple):
    """Sizes of a BERT-like encoder."""

    num_layers: int
    hidden: int
    intermediate: int
    num_embeddings: int = 30_522 + 512 + 2  # words, positions and segments of the uncased BERTs

    def num_parameters(self) -> int:
        """Parameters with the pooler, without the head."""
        h, f = self.hidden, self.intermediate
        layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h
        return self.num_embeddings * h + 2 * h + self.num_layers * layer + h * h + h

    def forward(self, num_tokens: float) -> float:
        """Operations of a forward pass over one text."""
        h, f = self.hidden, self.intermediate
        return num_tokens * self.num_layers * (8 * h * h + 4 * h * f + 4 * h * num_tokens)


SHAPES = {
    "minilm": Shape(6, 384, 1536),
    "bert-base-uncased": Shape(12, 768, 3072),
    "distilbert-base-uncased": Shape(6, 768, 3072),
}

#: An optimizer step moves about 28 bytes per parameter, which takes a processor core as long as so many operations.
_STEP_FLOPS_PER_PARAMETER = 400


@lru_cache
def shape(name: str) -> Shape:
    """Sizes of a pretrained model: known by name, or read from a folder's config.json; else those of BERT-base."""
    path = Path(name).expanduser() / "config.json"
    if name not in SHAPES and path.is_file():
        config = json.loads(path.read_text())
        num_embeddings = sum(config.get(key, 0) for key in ("vocab_size", "max_position_embeddings", "type_vocab_size"))
        return Shape(
            config.get("num_hidden_layers") or config["n_layers"],  # DistilBERT has names of its own
            config.get("hidden_size") or config["dim"],
            config.get("intermediate_size") or config["hidden_dim"],
            num_embeddings,
        )
    return SHAPES.get(name.rpartition("/")[2], SHAPES["bert-base-uncased"])


def is_known(name: str) -> bool:
    """Whether `shape` is more than an assumption."""
    return name.rpartition("/")[2] in SHAPES or (Path(name).expanduser() / "config.json").is_file()


def trained_shape(experiment: Experiment) -> Shape:
    """Sizes of the model that an experiment trains."""
    if experiment.student is not None:
        return shape(experiment.student)
    teacher = shape(experiment.teacher)
    return teacher._replace(num_layers=experiment.student_layers or teacher.num_layers)


def flops(experiment: Experiment) -> float:
    """Work of a run, in floating-point operations: training, the teacher's part, evaluation; its teacher not included.

    Back-translation itself is not in it, nor a teacher's answers that are computed once for all students.
    """
    size, recipe = SIZES.get(experiment.task, UNKNOWN_TASK), experiment.recipe_object()
    student = trained_shape(experiment)
    mixed = recipe.mixup.mix_ratio if recipe.uses_mixup else 0.0
    originals = size.num_train * experiment.train_fraction
    rows = originals * (1 if experiment.augmentation == "none" else 2)
    # Rows are padded to their batch's longest: by length, little; else 32 normal lengths reach two deviations up. A
    # mixed row is as long as the longer of two.
    padding = size.sd_tokens / math.sqrt(math.pi) if mixed else 0.0
    if not experiment.length_grouping or (mixed and "batch" in (recipe.mixup.partner, recipe.mixup.lam_per)):
        padding = 2 * size.sd_tokens
    tokens = min(size.num_tokens + padding, experiment.max_length)
    step_rows = 3 * (1 + mixed) * student.forward(tokens)
    if recipe.tmkd_weight:
        step_rows += mixed * shape(experiment.teacher).forward(tokens)
    num_steps = math.ceil(rows / experiment.batch_size)
    epoch = rows * step_rows + num_steps * _STEP_FLOPS_PER_PARAMETER * student.num_parameters()
    answers = min(size.num_tokens, experiment.max_length)
    if experiment.best_epoch:
        epoch += size.num_heldout * student.forward(answers)  # about as many as validation has
    return experiment.num_epochs * epoch + (originals + _num_evaluated(size)) * student.forward(answers)


def disk_bytes(experiment: Experiment) -> int:
    """What a finished run takes: its model in float32 with the tokenizer, and a row per evaluated example."""
    size = SIZES.get(experiment.task, UNKNOWN_TASK)
    num_rows = size.num_train * experiment.train_fraction + _num_evaluated(size)
    return 4 * trained_shape(experiment).num_parameters() + 750_000 + round(13 * num_rows)


def _num_evaluated(size: Size) -> int:
    return (1 + _NOISY_COPIES) * size.num_heldout + size.num_others
