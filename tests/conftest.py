"""Shared fixtures: a tiny pretrained BERT with its tokenizer, and a small corpus in the real files' format.

Everything is built on the spot, from fixed seeds and without a network. Torch is imported by the fixtures that need
it, so that the other packages' tests do not pay for it.
"""

import gc
import os
import random
import shutil

import pytest
from tiny import FILLERS, NEGATIVE, POSITIVE, tiny_config

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub for something must fail at once
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # read when Ray is imported, which a test may do before `mixkd.backends`
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads only cost time, here and in subprocesses
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.pop("PYTEST_XDIST_WORKER", None)  # the benchmarks that a test starts are no worker's, and are to be timed


def pytest_configure(config):
    """Where there is a GPU, only tests marked `gpu` have it: the others compare bits that only a CPU repeats."""
    marks = config.getoption("markexpr")
    if marks and "gpu" not in marks.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


CORPORA = {"movieReviewSnippets": 300, "amazonReviewSnippets": 60, "nytEditorialSnippets": 60, "tweets": 60}


def corpus_rows(count: int, seed: int) -> list[tuple[str, float, str]]:
    """Sentences whose rating their single strong word decides, one in ten the other way: (id, mean rating, text)."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        positive = rng.random() < 0.5
        words = rng.choices(FILLERS, k=rng.randint(2, 12))
        words.insert(rng.randrange(len(words) + 1), rng.choice(POSITIVE if positive else NEGATIVE))
        sign = 1 if positive == (rng.random() < 0.9) else -1
        rating = round(sign * rng.uniform(0.6, 4.0), 2)
        rows.append((f"{seed}_{number}", rating, " ".join(words)))
    return rows


def write_corpora(folder) -> None:
    """The four files of the VADER corpora, as published: tab-separated, CRLF, no newline at the end."""
    folder.mkdir(exist_ok=True)
    for seed, (name, count) in enumerate(CORPORA.items()):
        lines = (f"{example_id}\t{rating}\t{text}" for example_id, rating, text in corpus_rows(count, seed))
        (folder / f"{name}_GroundTruth.txt").write_bytes("\r\n".join(lines).encode())


@pytest.fixture(scope="session")
def vader_folder(tmp_path_factory):
    """A folder to give as `data_dir`: learnable in two epochs by the tiny BERT."""
    folder = tmp_path_factory.mktemp("vader")
    write_corpora(folder)
    return folder


def make_tokenizer(folder):
    """A WordPiece tokenizer that knows the corpus' words."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *POSITIVE, *NEGATIVE, "##s", "."]
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """The tiny BERT's tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory, tokenizer):
    """Folder of a pretrained tiny BERT, without a classification head, and its tokenizer.

    What pretraining gave it: the strong words' embeddings tell positive from negative.
    """
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    torch.manual_seed(0)
    model = BertModel(tiny_config())
    with torch.no_grad():
        for words, sign in ((POSITIVE, 1), (NEGATIVE, -1)):
            model.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids(list(words)), :8] += 0.5 * sign
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    gc.collect()
    gc.freeze()  # Trainer collects garbage around every training: let it not go through all of torch each time
    return folder


@pytest.fixture
def experiment(tiny_bert):
    """Makes an `Experiment` on the tiny BERT, small enough for a run of half a second: `experiment(recipe="kd")`.

    The student has 2 layers; `student_layers=None` gives the teacher.
    """
    from mixkd.experiment import Experiment

    settings = {
        "teacher": str(tiny_bert), "student_layers": 2, "recipe": "sm+tmkd", "learning_rate": 2e-3, "num_epochs": 2,
        "batch_size": 16, "train_fraction": 0.5, "teacher_learning_rate": 2e-3, "teacher_num_epochs": 2,
        "teacher_batch_size": 16,
    }  # fmt: skip

    def make(**changes):
        return Experiment(**(settings | changes))

    return make


@pytest.fixture(scope="session")
def teacher_store(tmp_path_factory, tiny_bert, vader_folder):
    """A store with nothing but the tiny BERT's fine-tuned teacher; not to be written to, see `store`."""
    from mixkd.experiment import Experiment
    from mixkd.runs import run

    root = tmp_path_factory.mktemp("teacher_store")
    teacher = Experiment(teacher=str(tiny_bert), learning_rate=2e-3, num_epochs=2, batch_size=16)
    run(teacher, root, data_dir=vader_folder)
    return root


@pytest.fixture
def store(teacher_store, tmp_path):
    """A store of the test's own that holds the teacher of `experiment`'s students."""
    from mixkd.store import Store

    shutil.copytree(teacher_store, tmp_path / "results")
    return Store(tmp_path / "results")
