import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from mixkd.store import UserError
from mixkd.tasks import SPLITS, TASK_NAMES, compute_scores, load_task, subsample, tokenize

MOVIE = "movieReviewSnippets_GroundTruth.txt"


def write(folder, rows, name=MOVIE):
    folder.mkdir(exist_ok=True)
    lines = (f"{example_id}\t{rating}\t{text}" for example_id, rating, text in rows)
    (folder / name).write_bytes("\r\n".join(lines).encode())  # as published: CRLF, no newline at the end
    return folder


def sentences(count=400, seed=0):
    rng = random.Random(seed)
    return [(str(i), round(rng.uniform(-4, 4), 2), f"Sentence number {i}.") for i in range(count)]


def all_examples(task):
    return [example | {"split": split} for split in SPLITS for example in task.dataset[split]]


def by_id(task):
    return {example["example_id"]: example for example in all_examples(task)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("corpora"), sentences())


def test_labels_are_signs_and_weak_ratings_are_left_out(folder):
    task = load_task("vader-movie", folder)
    ratings = {example_id: rating for example_id, rating, _ in sentences()}
    examples = by_id(task)
    assert set(examples) == {example_id for example_id, rating in ratings.items() if abs(rating) >= 0.5}
    for example_id, example in examples.items():
        assert example["mean_rating"] == ratings[example_id]
        assert task.label_names[example["label"]] == ("positive" if ratings[example_id] > 0 else "negative")
    assert (task.num_labels, task.is_pair, task.text_columns) == (2, False, ("text",))
    assert task.shifted == ("vader-amazon", "vader-nyt", "vader-tweets")
    assert task.dataset["train"].features["label"].names == ["negative", "positive"]


def test_split_depends_on_letters_and_digits_alone(folder, tmp_path):
    task = load_task("vader-movie", folder)
    shares = {split: task.dataset[split].num_rows / len(all_examples(task)) for split in SPLITS}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.08)
    changed = [(i, rating, text.upper().replace(" ", " -- ")) for i, rating, text in reversed(sentences())]
    other = by_id(load_task("vader-amazon", write(tmp_path, changed, "amazonReviewSnippets_GroundTruth.txt")))
    assert {i: e["split"] for i, e in other.items()} == {i: e["split"] for i, e in by_id(task).items()}
    digest = hashlib.sha256(b"sentencenumber7").hexdigest()
    expected = ["train"] * 7 + ["validation"] + ["test"] * 2
    assert other["7"]["split"] == expected[int(digest, 16) % 10]


def test_text_is_unescaped_and_white_space_collapsed(tmp_path):
    rows = [
        ("a", 2.0, "Caf\xe9  &amp; ''bar'' &lt;3 "),
        ("b", 2.0, "Meagher &amp;amp; Flom"),
        ("c", -2.0, "next line\x85 stays"),  # not a line end here, but str.splitlines would cut
    ]
    texts = {
        i: example["text"]
        for i, example in by_id(load_task("vader-movie", write(tmp_path, sentences() + rows))).items()
    }
    assert texts["a"] == "Café & ''bar'' <3"
    assert texts["b"] == "Meagher & Flom"
    assert texts["c"] == "next line stays"


def test_equal_texts_are_kept_once_or_dropped_where_they_disagree(tmp_path):
    rows = [
        ("first", 1.0, "Great news."), ("again", 2.0, "GREAT news!!"), ("entity", 3.0, "&lt;great&gt;  news"),
        ("plus", 1.0, "Hm."), ("minus", -1.0, "hm"),
        ("smile", 2.0, ":)"), ("frown", -2.0, ":("),
    ]  # fmt: skip
    examples = by_id(load_task("vader-movie", write(tmp_path, sentences() + rows)))
    assert {"first", "again", "entity", "plus", "minus", "smile", "frown"} & set(examples) == {"first"}


def test_order_pairs(folder):
    task = load_task("vader-order", folder)
    ratings = {example_id: rating for example_id, rating, _ in sentences()}
    texts = {example_id: text for example_id, _, text in sentences()}
    movie = by_id(load_task("vader-movie", folder))
    used = []
    for example in all_examples(task):
        first, second = example["example_id"].split("+")
        assert (example["text"], example["text_pair"]) == (texts[first], texts[second])
        difference = ratings[first] - ratings[second]
        expected = "first" if difference >= 1 else "second" if difference <= -1 else "no difference"
        assert task.label_names[example["label"]] == expected
        assert expected != "no difference" or abs(difference) <= 0.25
        assert {movie[i]["split"] for i in (first, second) if i in movie} <= {example["split"]}
        used += [first, second]
    assert len(used) == len(set(used)) > 0.9 * len(ratings)
    for split in SPLITS:
        counts = Counter(task.dataset[split]["label"])
        assert max(counts.values()) - min(counts.values()) <= 1
    assert task.is_pair and "mean_rating" not in task.dataset["train"].column_names


def test_order_pairs_do_not_depend_on_the_order_of_the_file(folder, tmp_path):
    forward, backward = (by_id(load_task("vader-order", f)) for f in (folder, write(tmp_path, sentences()[::-1])))
    assert forward == backward


def test_fingerprint_covers_the_content_and_not_the_folder(folder, tmp_path):
    def fingerprint(rows):
        return load_task("vader-movie", write(tmp_path, rows)).fingerprint

    rows = sentences()
    strong = next(i for i, row in enumerate(rows) if row[1] > 1)
    example_id, rating, text = rows[strong]
    reference = load_task("vader-movie", folder).fingerprint
    assert fingerprint(rows) == reference
    assert fingerprint([*rows[:strong], (example_id, -rating, text), *rows[strong + 1 :]]) != reference
    assert fingerprint([*rows[:strong], (example_id, rating, text + "!"), *rows[strong + 1 :]]) != reference
    assert fingerprint(rows[::-1]) != reference
    assert load_task("vader-order", folder).fingerprint != reference


@pytest.mark.parametrize(
    "line",
    [b"7\t1.0", b"7\tgood\ttext", b"7\t4.5\ttext", b"7\tnan\ttext", b"7\t1.0\t ", b"7\t1.0\tcaf\xe9", b"7\t1.0\ta\tb"],
)
def test_corrupt_line_is_named(tmp_path, line):
    write(tmp_path, sentences(20))
    (tmp_path / MOVIE).write_bytes((tmp_path / MOVIE).read_bytes() + b"\r\n" + line + b"\r\n")
    with pytest.raises(UserError, match=rf"{MOVIE}, line 21 is not 'id<tab>.*: repair or remove it\."):
        load_task("vader-movie", tmp_path)


def test_missing_or_empty_data(tmp_path):
    with pytest.raises(UserError, match=rf"nowhere.*{MOVIE} cannot be read \(No such file.*--data_dir"):
        load_task("vader-movie", tmp_path / "nowhere")
    for rows in ([], [("1", 0.1, "meh")], sentences(1)):
        with pytest.raises(UserError, match=rf"{MOVIE} leaves the .* split of vader-movie empty"):
            load_task("vader-movie", write(tmp_path, rows))
    with pytest.raises(UserError, match="no task 'vader-films': choose one of vader-movie, "):
        load_task("vader-films", tmp_path)


LABELS = [0] * 130 + [1] * 60 + [2] * 3


@pytest.fixture(scope="module")
def labelled():
    order = np.random.default_rng(0).permutation(len(LABELS))
    return Dataset.from_dict({"label": [LABELS[i] for i in order], "example_id": list(range(len(LABELS)))})


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-9, 1), st.floats(1e-9, 1), st.integers(0, 2**32))
def test_subsample_is_stratified_and_nested(labelled, one, other, seed):
    small, large = (subsample(labelled, fraction, seed) for fraction in sorted([one, other]))
    assert set(small["example_id"]) <= set(large["example_id"])
    assert large["example_id"][:] == sorted(large["example_id"])
    for label, total in Counter(LABELS).items():
        kept = Counter(large["label"])[label]
        assert kept >= 1
        assert abs(kept - max(one, other) * total) <= 1


def test_subsample_follows_its_seed(labelled):
    kept = [list(subsample(labelled, 0.3, seed)["example_id"]) for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
    assert list(subsample(labelled, 1, 0)["example_id"]) == list(labelled["example_id"])


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_subsample_refuses_what_is_no_share(labelled, fraction):
    with pytest.raises(UserError, match=rf"in \(0, 1\], not {fraction}"):
        subsample(labelled, fraction, 0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sentence", "number", "."]
    vocabulary = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    return BertTokenizer(str(vocabulary))


def test_tokenize(tokenizer, folder):
    task = load_task("vader-movie", folder)
    encoded = tokenize(task.dataset, tokenizer, 128, task.is_pair)
    assert isinstance(encoded, DatasetDict)
    for split in SPLITS:
        assert list(encoded[split]["example_id"]) == list(task.dataset[split]["example_id"])
        assert list(encoded[split]["label"]) == list(task.dataset[split]["label"])
    row = encoded["train"][0]
    assert row["input_ids"] == [2, 5, 6, 1, 7, 3]  # [CLS] sentence number [UNK] . [SEP]
    assert row["length"] == 6 and row["attention_mask"] == [1] * 6
    assert set(row) == {"input_ids", "token_type_ids", "attention_mask", "length", "label", "example_id"}
    assert tokenize(task.dataset["train"], tokenizer, 4, task.is_pair)[0]["input_ids"] == [2, 5, 6, 3]


def test_tokenize_writes_nothing(tokenizer, folder, tmp_path):
    load_task("vader-movie", folder).dataset["test"].to_parquet(tmp_path / "test.parquet")
    on_disk = Dataset.from_parquet(str(tmp_path / "test.parquet"), cache_dir=str(tmp_path / "cache"))
    before = set(tmp_path.rglob("*"))
    assert tokenize(on_disk, tokenizer, 128, is_pair=False).num_rows == on_disk.num_rows
    assert on_disk.cache_files and set(tmp_path.rglob("*")) == before


def test_tokenize_pairs(tokenizer, folder):
    task = load_task("vader-order", folder)
    row = tokenize(task.dataset["test"], tokenizer, 128, task.is_pair)[0]
    assert row["input_ids"] == [2, 5, 6, 1, 7, 3, 5, 6, 1, 7, 3]
    assert row["token_type_ids"] == [0] * 6 + [1] * 5
    assert row["length"] == 11


def test_compute_scores():
    assert compute_scores("accuracy", np.array([1, 0, 1, 1]), [1, 1, 1, 0]) == 0.5
    with pytest.raises(UserError, match="no labels"):
        compute_scores("accuracy", [1, 0], [1, -1])


# Per split and class, as the docstring of mixkd.tasks gives them; first digits of the fingerprint.
REAL = {
    "vader-movie": ([[3495, 3521], [506, 501], [1074, 973]], "4d07a89ee7fdb38f"),
    "vader-amazon": ([[850, 1252], [131, 160], [250, 325]], "365a050d8e6b7b41"),
    "vader-nyt": ([[1238, 793], [172, 133], [346, 248]], "9dfce97d7e2884cd"),
    "vader-tweets": ([[718, 1580], [86, 210], [207, 476]], "7bdef62d4b0434b9"),
    "vader-order": ([[1230] * 3, [177, 177, 176], [358] * 3], "7f22e1260a4f7ab3"),
}


@pytest.mark.assets
def test_real_corpora():
    assert set(REAL) == set(TASK_NAMES)
    sides: dict[str, set[str]] = {}
    for name, (counts, fingerprint) in REAL.items():
        task = load_task(name)
        labels = range(task.num_labels)
        assert [[list(task.dataset[s]["label"]).count(c) for c in labels] for s in SPLITS] == counts
        assert task.fingerprint.startswith(fingerprint)
        for example in all_examples(task):
            for column in task.text_columns:
                bare = "".join(c for c in example[column].lower() if c.isalnum())
                sides.setdefault(bare, set()).add(example["split"])
    assert len(sides) > 19_000
    assert all(len(splits) == 1 for splits in sides.values())
