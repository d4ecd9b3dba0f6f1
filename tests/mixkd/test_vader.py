import hashlib
import json
import random
from collections import Counter

import pytest

from mixkd.store import UserError
from mixkd.tasks import SPLITS, VADER_TASKS, load_task

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


RATINGS = MOVIE.replace("GroundTruth", "anonDataRatings")


def write_ratings(folder, rows, start=b"\xef\xbb\xbf"):  # one of the published files has a byte-order mark
    lines = (f"{example_id}\t0.5\t0.7\t{listed}" for example_id, listed in rows)
    (folder / RATINGS).write_bytes(start + "\r\n".join(lines).encode() + b"\r\n")


def test_single_ratings_are_kept_and_change_nothing_else(folder, tmp_path):
    write(tmp_path, sentences())
    rng = random.Random(1)
    ratings = {example_id: [rng.randint(-4, 4) for _ in range(rng.randint(15, 20))] for example_id, *_ in sentences()}
    rows = [(example_id, json.dumps(listed)) for example_id, listed in ratings.items()]
    write_ratings(tmp_path, reversed(rows))  # by id, not by line
    task, without = load_task("vader-movie", tmp_path), load_task("vader-movie", folder)
    assert task.fingerprint == without.fingerprint
    assert "ratings" not in without.dataset["train"].column_names
    for split in SPLITS:
        assert task.dataset[split].remove_columns("ratings").to_dict() == without.dataset[split].to_dict()
        assert all(example["ratings"] == ratings[example["example_id"]] for example in task.dataset[split])
    assert "ratings" not in load_task("vader-order", tmp_path).dataset["test"].column_names


@pytest.mark.parametrize("listed", ["[1, 5]", "[1, 0.5]", "3", "[1, 2", '["a"]', "[1]\t2"])
def test_corrupt_ratings_are_named(tmp_path, listed):
    write(tmp_path, sentences(20))
    write_ratings(tmp_path, [("0", "[1, 2]"), ("1", listed)], start=b"")
    with pytest.raises(UserError, match=rf"{RATINGS}, line 2 is not .*: repair or remove the file\."):
        load_task("vader-movie", tmp_path)
    write_ratings(tmp_path, [("0", "[1, 2]")])
    with pytest.raises(UserError, match=rf"{RATINGS} lacks the ratings of the sentence \d+: repair or remove"):
        load_task("vader-movie", tmp_path)


def test_a_task_is_loaded_once_until_its_file_changes(tmp_path):
    task = load_task("vader-movie", write(tmp_path, sentences()))
    assert load_task("vader-movie", str(tmp_path)) is task
    write_ratings(tmp_path, [(example_id, "[1]") for example_id, *_ in sentences()])
    assert load_task("vader-movie", tmp_path) is not task


# Per split and class, as the docstring of mixkd.vader gives them; first digits of the fingerprint.
REAL = {
    "vader-movie": ([[3495, 3521], [506, 501], [1074, 973]], "4d07a89ee7fdb38f"),
    "vader-amazon": ([[850, 1252], [131, 160], [250, 325]], "365a050d8e6b7b41"),
    "vader-nyt": ([[1238, 793], [172, 133], [346, 248]], "9dfce97d7e2884cd"),
    "vader-tweets": ([[718, 1580], [86, 210], [207, 476]], "7bdef62d4b0434b9"),
    "vader-order": ([[1230] * 3, [177, 177, 176], [358] * 3], "7f22e1260a4f7ab3"),
}


@pytest.mark.assets
def test_real_corpora():
    assert set(REAL) == set(VADER_TASKS)
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
        if name != "vader-order":
            for example in all_examples(task):
                gap = abs(example["mean_rating"] - sum(example["ratings"]) / len(example["ratings"]))
                assert gap < (1.2 if name == "vader-tweets" else 1e-6)
    assert len(sides) > 19_000
    assert all(len(splits) == 1 for splits in sides.values())
