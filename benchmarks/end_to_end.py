"""From texts to answers, as a user's program does it: tokenise, pad to the longest of a batch, ask the model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedTokenizerBase

from benchmarks.energy import EnergyMeter
from benchmarks.timing import NotRun, unless_out_of_memory
from benchmarks.variants import Runnable
from mixkd.metrics import has_labels
from mixkd.models import load_tokenizer
from mixkd.store import UserError
from mixkd.tasks import labels_of, load_task

#: Model, layers, variant.
Key = tuple[str, int, str]

BATCH_SIZE = 32
NUM_BLOCKS = 16
NUM_WARMUP = 2
#: Energy is read over as many seconds at least: counters stand still for up to a tenth of one.
LEAST_ENERGY_S = 1.0


@dataclass(frozen=True)
class Texts:
    """What is answered: a split with labels, and how it is tokenised."""

    dataset: Dataset
    labels: NDArray[np.float64]
    metric: str
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @cached_property
    def num_tokens(self) -> int:
        """In all texts, without padding."""
        return int(self.batch(range(len(self.labels)))["attention_mask"].sum())

    def batch(self, rows: Sequence[int]) -> BatchEncoding:
        """Some texts as a model takes them, padded to the longest; shapes (len(rows), length)."""
        examples = self.dataset[list(rows)]
        texts = [examples[name] for name in ("text", "text_pair") if name in examples]
        return self.tokenizer(*texts, truncation=True, max_length=self.max_length, padding=True, return_tensors="pt")


class Answers:
    """A model that answers texts.

    Attributes:
        seconds: Of every block, in the order of the texts.
        energy_j: Joules of every block; empty where the machine does not tell.
    """

    def __init__(self, texts: Texts, runnable: Runnable, device: torch.device):
        self.texts, self.runnable, self.device = texts, runnable, device
        self.seconds: list[float] = []
        self.energy_j: list[float] = []
        self._logits: list[NDArray[np.float64]] = []

    def answer(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Logits of some texts, batch by batch, shape (len(rows), num_classes)."""
        parts = []
        for start in range(0, len(rows), BATCH_SIZE):
            batch = self.texts.batch(rows[start : start + BATCH_SIZE]).to(self.device)
            parts.append(self.runnable.predict(batch).double().cpu().numpy())
        return np.concatenate(parts)

    def answer_block(self, rows: Sequence[int], meter: EnergyMeter) -> None:
        """Answer the next block, and note what it took."""
        before, start = meter.read_j(), time.perf_counter()
        self._logits.append(self.answer(rows))
        self.seconds.append(time.perf_counter() - start)
        if before is None:
            return
        num_times = 1
        while time.perf_counter() - start < LEAST_ENERGY_S:
            self.answer(rows)
            num_times += 1
        self.energy_j.append(((meter.read_j() or 0.0) - before) / num_times)

    @property
    def logits(self) -> NDArray[np.float64]:
        """Of all texts, shape (num_texts, num_classes)."""
        return np.concatenate(self._logits)

    @property
    def predictions(self) -> NDArray[np.float64]:
        """The class of every text, or its number for a regression, shape (num_texts,)."""
        logits = self.logits
        return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1).astype(float)


def load_texts(task_name: str, model: Path, data_dir: str | None, max_length: int) -> Texts | NotRun:
    """The test split of a task, or its validation split where the test split has no labels."""
    try:
        task = load_task(task_name, data_dir)
        tokenizer = load_tokenizer(str(model))
    except UserError as error:
        return NotRun(str(error))
    split = next(split for split in ("test", "validation") if has_labels(labels_of(task.dataset[split])))
    dataset = task.dataset[split]
    max_length = min(max_length, tokenizer.model_max_length)
    return Texts(dataset, labels_of(dataset).astype(float), task.metrics[0], tokenizer, max_length)


def time_blocks(
    answers: Mapping[Key, Answers], num_texts: int, meter: EnergyMeter, seed: int, report: Callable[[float], None]
) -> dict[Key, NotRun]:
    """Let every model answer all texts, block by block: each block by all of them in random order.

    Args:
        answers: The models; what they take and say is kept in them.
        num_texts: Number of texts, cut into NUM_BLOCKS blocks.
        meter: Reads the energy.
        seed: Seed of the order.
        report: Told the share that is done.

    Returns:
        The models for which there was too little memory, with the reason.
    """
    order = np.random.default_rng(seed)
    blocks = [block.tolist() for block in np.array_split(np.arange(num_texts), min(NUM_BLOCKS, num_texts))]

    def warm_up(model: Answers) -> None:
        for block in blocks[:NUM_WARMUP]:
            model.answer(block[: 2 * BATCH_SIZE])

    outcomes = {key: unless_out_of_memory(partial(warm_up, model)) for key, model in answers.items()}
    failed = {key: outcome for key, outcome in outcomes.items() if outcome is not None}
    keys = [key for key in answers if key not in failed]
    for done, block in enumerate(blocks, start=1):
        for k in order.permutation(len(keys)):
            if keys[k] in failed:
                continue
            outcome = unless_out_of_memory(partial(answers[keys[k]].answer_block, block, meter))
            if outcome is not None:
                failed[keys[k]] = outcome
        report(done / len(blocks))
    return failed
