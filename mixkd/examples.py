"""The tokenised examples of one run: what is trained on, and the parts that are evaluated."""

from typing import NamedTuple

from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk
from transformers import PreTrainedTokenizerBase

from mixkd.augment import augment
from mixkd.evaluate import Part, noisy_texts
from mixkd.experiment import Experiment
from mixkd.models import load_tokenizer
from mixkd.runs import Options, Report
from mixkd.store import Store, UserError, atomic_path, content_id
from mixkd.tasks import Task, load_task, subsample, tokenize
from mixkd.teacher import tokens_sha256


class RunExamples(NamedTuple):
    """Examples of a run.

    Attributes:
        task: What is learned.
        training: The rows that are trained on: the originals and, after them, the augmented ones.
        parts: What is evaluated: the originals that are trained on, then validation, the held-out splits, and, for the
            held-out split, other domains and noise.
        counts: Numbers of originals and of augmented rows, by name.
    """

    task: Task
    training: Dataset
    parts: list[Part]
    counts: dict[str, float]

    def part(self, name: str) -> Part:
        """A part by its name."""
        return next(part for part in self.parts if part.name == name)


def load_examples(experiment: Experiment, store: Store, options: Options, report: Report) -> RunExamples:
    """Load, subsample, augment and tokenise what a run needs.

    Raises:
        UserError: If the data cannot be used, or there are fewer than 2 training examples.
    """
    task = load_task(experiment.task, options.data_dir)
    tokenizer = load_tokenizer(experiment.teacher)
    splits = _tokenized(task, tokenizer, experiment.max_length, store)
    train = subsample(splits["train"], experiment.train_fraction, experiment.data_seed)
    if len(train) < 2:
        raise UserError(f"{experiment.train_fraction:.2%} of {task.name} is fewer than 2 examples; take more.")
    parts = [Part("train", task, splits["train"], train)]
    parts += [Part(name, task, split, split) for name, split in splits.items() if name != "train"]
    for name in task.shifted:
        shifted = load_task(name, options.data_dir)
        test = _tokenized(shifted, tokenizer, experiment.max_length, store)["test"]
        parts.append(Part(f"shift/{name}", shifted, test, test))
    for name, noisy in noisy_texts(task.dataset[task.heldout], task.text_columns).items():
        examples = tokenize(noisy, tokenizer, experiment.max_length, task.is_pair)
        if tokens_sha256(examples) == tokens_sha256(splits[task.heldout]):  # case, to an uncased tokenizer
            examples = splits[task.heldout]
        parts.append(Part(name, task, examples, examples))
    training, counts = train, {"num_train_examples": float(len(train))}
    if experiment.augmentation != "none":
        added, counts_added = _augmented(experiment, task, tokenizer, options.device, report)
        training, counts = concatenate_datasets([train, added]), counts | counts_added
    return RunExamples(task, training, parts, counts)


def _augmented(
    experiment: Experiment, task: Task, tokenizer: PreTrainedTokenizerBase, device: str | None, report: Report
) -> tuple[Dataset, dict[str, float]]:
    """The augmented rows, tokenised, and their counts."""
    originals = subsample(task.dataset["train"], experiment.train_fraction, experiment.data_seed)
    rows, counts = augment(
        originals,
        experiment.augmentation,
        text_columns=task.text_columns,
        engine=experiment.bt_engine,
        pair=experiment.bt_pair,
        sides=experiment.bt_sides,
        rate=experiment.word_dropout_rate,
        seed=experiment.data_seed,
        device=device,
        report=lambda message: report(0.0, message),
    )
    numbers = {
        "num_augmented_examples": float(counts.num_new),
        "num_augmented_copies": float(counts.num_copies),
        "num_augmented_empty": float(counts.num_empty),
    }
    return tokenize(rows, tokenizer, experiment.max_length, task.is_pair), numbers


def _tokenized(task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, store: Store) -> DatasetDict:
    """The task's splits as tokens: memory-mapped files, made once in a store for every task, tokenizer and length."""
    tokenizer.backend_tokenizer.no_truncation()  # left over from a call, it would make another key
    key = content_id(
        {"task": task.fingerprint, "tokenizer": tokenizer.backend_tokenizer.to_str(), "max_length": max_length}
    )
    folder = store.root / "cache" / "tokens" / key
    if not folder.is_dir():
        with store.lock(f"tokens-{key}"):
            if not folder.is_dir():  # another process may have made it while this one waited
                tokens = tokenize(task.dataset, tokenizer, max_length, task.is_pair)
                with atomic_path(folder) as temporary:
                    tokens.save_to_disk(temporary)
    return load_from_disk(folder)
