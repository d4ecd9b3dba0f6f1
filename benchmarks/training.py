"""Which trainings are compared, on what data, how they are timed, and what their loss must be."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.timing import NotRun, unless_out_of_memory
from mixkd.mixup import EpochMixup
from mixkd.models import load_classifier, load_tokenizer
from mixkd.prediction import predict_logits
from mixkd.recipes import recipe
from mixkd.store import UserError
from mixkd.tasks import load_task, tokenize

TASK, TEACHER, NUM_LAYERS, BATCH_SIZE, MAX_LENGTH = "vader-movie", "minilm", 3, 32, 64
#: Root-mean-square of the teacher's logits.
LOGIT_SIZE = 2.0
LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 2e-4, 0.01, 1.0

#: The first step of a block, with which a training starts again, is not timed.
WARM_UP_STEPS = 1
MIN_ROUNDS = 6


@dataclass(frozen=True)
class Variant:
    """How a 3-layer student is trained.

    Attributes:
        recipe: See `mixkd.recipe`.
        peer: Library that trains, see `benchmarks.peers`; None: ours.
        padding: Of a peer's batches: to their longest text, or to the maximum length, as its examples do.
        bf16: Autocast for the student, and bfloat16 weights for the teacher.
        groups_lengths: Whether a batch holds texts of similar length.
        caches_logits: Whether the teacher's logits of originals were computed before.
        one_forward: Whether originals and mixed rows go through the student together.
        cheap_dropout: Whether dropout and attention are those of `mixkd.cpu`.
        first_token: Whether the last layers compute the first token's state alone, see `first_token_only`.
        used_words: Whether only the embeddings of words that the texts use are trained, see `mixkd.vocabulary`.
        optim, max_grad_norm: As in `transformers.TrainingArguments`; 0: no clipping.
    """

    recipe: str = "kd"
    peer: str | None = None
    padding: str = "longest"
    bf16: bool = True
    groups_lengths: bool = True
    caches_logits: bool = True
    one_forward: bool = True
    cheap_dropout: bool = True
    first_token: bool = True
    used_words: bool = True
    optim: str = "adamw_torch_fused"
    max_grad_norm: float = MAX_GRAD_NORM


_MIXUP = Variant("sm+tmkd")
_TEXTBREWER = Variant(peer="textbrewer", bf16=False, groups_lengths=False, caches_logits=False)

VARIANTS: dict[str, Variant] = {
    "textbrewer": _TEXTBREWER,
    "textbrewer-padded-to-64": replace(_TEXTBREWER, padding="max_length"),
    "torchdistill": replace(_TEXTBREWER, peer="torchdistill"),
    "kd": Variant(),
    "kd-float32": Variant(bf16=False),
    "kd-random-order": Variant(groups_lengths=False),
    "kd-no-logit-cache": Variant(caches_logits=False),
    "kd-torch-dropout": Variant(cheap_dropout=False),
    "kd-all-tokens": Variant(first_token=False),
    "kd-all-words": Variant(used_words=False),
    "kd-unfused-adamw": Variant(optim="adamw_torch"),
    "kd-no-clipping": Variant(max_grad_norm=0.0),
    "sm+tmkd": _MIXUP,
    "sm+tmkd-float32": replace(_MIXUP, bf16=False),
    "sm+tmkd-random-order": replace(_MIXUP, groups_lengths=False),
    "sm+tmkd-torch-dropout": replace(_MIXUP, cheap_dropout=False),
    "sm+tmkd-all-tokens": replace(_MIXUP, first_token=False),
    "sm+tmkd-all-words": replace(_MIXUP, used_words=False),
    "sm+tmkd-two-forwards": replace(_MIXUP, one_forward=False),
}


@dataclass(frozen=True)
class Data:
    """What all trainings share: training texts, the teacher, and its logits of these texts."""

    train: Dataset
    tokenizer: PreTrainedTokenizerBase
    teacher: PreTrainedModel
    teacher_logits: NDArray[np.float32]


class Training(Protocol):
    """A training that can go on.

    Attributes:
        student: What is trained.
        block_steps: Timed steps of a block: enough for their mean length to be near that of all texts.
    """

    student: PreTrainedModel
    block_steps: int

    def run(self, num_steps: int, seed: int) -> list[float]:
        """Train for some steps in an order of the examples that `seed` decides; clock time at the end of each."""
        ...

    def loss(self, rows: Sequence[int], seed: int) -> float:
        """Loss, without dropout, of a batch of these training examples, as the training computes it."""
        ...


def load_data() -> Data | NotRun:
    """The task and its teacher, with a fresh head whose logits are as large as a trained one's.

    Time does not depend on its weights, but of small logits a loss would be the same without its distillation terms.
    """
    try:
        task = load_task(TASK)
        tokenizer = load_tokenizer(TEACHER)
        teacher = load_classifier(TEACHER, task.label_names)
    except UserError as error:
        return NotRun(str(error))
    train = tokenize(task.dataset["train"], tokenizer, MAX_LENGTH, task.is_pair)
    logits = predict_logits(teacher, train)
    scale = float(LOGIT_SIZE / np.sqrt(np.square(logits).mean()))
    for parameter in teacher.classifier.parameters():
        parameter.data *= scale
    return Data(train, tokenizer, teacher, scale * logits)


def block_seconds(training: Training, seed: int) -> float:
    """Seconds per step of a block: forward, backward, clipping, optimizer, schedule, data and all else."""
    ends = training.run(WARM_UP_STEPS + training.block_steps, seed)[WARM_UP_STEPS - 1 :]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def time_blocks(
    trainings: Mapping[str, Training], budget_s: float, seed: int, report: Callable[[float], None]
) -> dict[str, NDArray[np.float64] | NotRun]:
    """Time blocks of all trainings in interleaved rounds, in random order.

    Args:
        trainings: What to time, by name.
        budget_s: Time for the rounds; at least MIN_ROUNDS are run.
        seed: Seed of the order.
        report: Told the share that is done, between blocks.

    Returns:
        Seconds per step of every block, shape (num_rounds,), aligned over the trainings; of one that needed more memory
        than there is, the reason.
    """
    order = np.random.default_rng(seed)
    failed: dict[str, NDArray[np.float64] | NotRun] = {}
    seconds: dict[str, list[float]] = {name: [] for name in trainings}

    def time_block(name: str, seed: int) -> float | None:
        found = unless_out_of_memory(partial(block_seconds, trainings[name], seed))
        if isinstance(found, NotRun):
            failed[name] = found
            del seconds[name]
            return None
        return found

    for name in trainings:  # the warm-up
        time_block(name, seed)
    started_at, num_rounds = time.monotonic(), 0
    while seconds and (num_rounds < MIN_ROUNDS or time.monotonic() - started_at < budget_s):
        for name in order.permutation(list(seconds)):
            found = time_block(name, seed + 1 + num_rounds)
            if found is not None:
                seconds[name].append(found)
        num_rounds += 1
        report(min(1.0, num_rounds / MIN_ROUNDS, (time.monotonic() - started_at) / budget_s))
    return failed | {name: np.array(rounds) for name, rounds in seconds.items()}


@torch.inference_mode()
def naive_loss(variant: Variant, data: Data, student: PreTrainedModel, rows: Sequence[int], seed: int) -> float:
    """The loss of `Training.loss` in float32, from its definition: text by text, without padding.

    Args:
        variant: Whose loss.
        data: Texts and teacher.
        student: The student, whose dropout is left out.
        rows: The batch.
        seed: Seed that decides the first epoch's mixed examples.
    """
    student.eval()
    settings = recipe(variant.recipe)
    pairs = EpochMixup(len(data.train), seed, 0, settings.mixup).of_rows(np.array(rows))
    total = torch.zeros(())
    for position, row in enumerate(rows):
        ids, label = torch.tensor([data.train[row]["input_ids"]]), torch.tensor([data.train[row]["label"]])
        logits = student(ids).logits
        total += F.cross_entropy(logits, label)
        if settings.kd_weight:
            total += F.mse_loss(logits, data.teacher(ids).logits)
        if settings.uses_mixup:
            lam, partner = float(pairs.lam[position]), data.train[int(pairs.partner[position])]
            mixed = [
                model(inputs_embeds=_mix(model, ids, torch.tensor([partner["input_ids"]]), lam)).logits
                for model in (student, data.teacher)
            ]
            both = [F.cross_entropy(mixed[0], part) for part in (label, torch.tensor([partner["label"]]))]
            total += lam * both[0] + (1 - lam) * both[1] + F.mse_loss(*mixed)
    student.train()
    return float(total / len(rows))


def _mix(model: PreTrainedModel, ids: Tensor, partner_ids: Tensor, lam: float) -> Tensor:
    length = max(ids.shape[1], partner_ids.shape[1])
    pad_id = model.config.pad_token_id
    texts = [F.pad(text, (0, length - text.shape[1]), value=pad_id) for text in (ids, partner_ids)]
    embedded = [model.get_input_embeddings()(text) for text in texts]
    return lam * embedded[0] + (1 - lam) * embedded[1]


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Set every dropout probability of a model to 0 for a while."""
    probabilities = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    for module in probabilities:
        module.p = 0.0
    yield
    for module, probability in probabilities.items():
        module.p = probability
