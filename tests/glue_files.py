"""A miniature GLUE: the same examples in the official layout, with its quirks, and as the hub's parquet files."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
from tiny import FILLERS, NEGATIVE, POSITIVE

# Official folder, columns on the hub, label names on the hub. Written down here once more: these are facts to check.
TASKS = {
    "cola": ("CoLA", ("sentence",), ["unacceptable", "acceptable"]),
    "sst2": ("SST-2", ("sentence",), ["negative", "positive"]),
    "mrpc": ("MRPC", ("sentence1", "sentence2"), ["not_equivalent", "equivalent"]),
    "stsb": ("STS-B", ("sentence1", "sentence2"), None),
    "qqp": ("QQP", ("question1", "question2"), ["not_duplicate", "duplicate"]),
    "mnli": ("MNLI", ("premise", "hypothesis"), ["entailment", "neutral", "contradiction"]),
    "qnli": ("QNLI", ("question", "sentence"), ["entailment", "not_entailment"]),
    "rte": ("RTE", ("sentence1", "sentence2"), ["entailment", "not_entailment"]),
    "wnli": ("WNLI", ("sentence1", "sentence2"), ["not_entailment", "entailment"]),
    "ax": ("AX", ("premise", "hypothesis"), ["entailment", "neutral", "contradiction"]),
}
SIZES = {"train": 120, "validation": 30, "test": 12}
MNLI_SPLITS = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")

# A quote that no one closes, a field that looks missing, letters beyond ASCII, white space at the ends, a line
# separator of Unicode, an escaped tab: characters like any other.
QUIRKS = (
    '"good film',
    "NA",
    "caf\xe9 \u2018quite\u2019",
    " the plot ",
    "so\u2028it\x85is",
    "a \\t b",
    'it is "good" "',
)


def splits_of(task):
    """Names of the splits on the hub."""
    return {"mnli": MNLI_SPLITS, "ax": ("test",)}.get(task, tuple(SIZES))


def examples(task):
    """Split on the hub -> list of (texts, label): the first text's strong word decides the label, -1 in test."""
    rng = random.Random(task)
    _, columns, names = TASKS[task]

    def text(word):
        words = [*rng.choices(FILLERS, k=rng.randint(2, 6)), word]
        return " ".join(rng.sample(words, len(words)))

    made = {}
    for split in splits_of(task):
        rows, size = [], SIZES[split.partition("_")[0]]
        for number, label in enumerate(rng.sample([index % len(names or "no") for index in range(size)], size)):
            strong = (NEGATIVE, POSITIVE, FILLERS)[label]
            texts = [text(rng.choice(strong)), *(text(rng.choice(FILLERS)) for _ in columns[1:])]
            if number < len(QUIRKS):
                texts[number % len(texts)] = QUIRKS[number]
            if names is None:
                label = round(4 * label + rng.random(), 3)
            rows.append((texts, -1 if split.startswith("test") else label))
        made[split] = rows
    return made


def write_parquet(root, task):
    """`root`/cola/train-00000-of-00001.parquet ...; MNLI's train in two files."""
    import datasets

    folder, (_, columns, names) = root / task, TASKS[task]
    folder.mkdir(parents=True)
    label = datasets.Value("float32") if names is None else datasets.ClassLabel(names=names)
    types = {column: datasets.Value("string") for column in columns}
    features = datasets.Features({**types, "label": label, "idx": datasets.Value("int32")})
    for split, rows in examples(task).items():
        index = list(range(len(rows)))
        if (task, split) == ("qqp", "train"):
            index = [number if number < BROKEN_AT else number + 2 for number in index]  # broken lines count
        if (task, split) == ("mnli", "validation_matched"):
            rows, index = [*rows, (("no", "majority"), -1)], [*index, len(rows)]
        table = pa.table(
            {
                **{column: [texts[side] for texts, _ in rows] for side, column in enumerate(columns)},
                "label": [label for _, label in rows],
                "idx": index,
            }
        ).cast(features.arrow_schema)
        count = 2 if (task, split) == ("mnli", "train") else 1
        for part in range(count):
            start, stop = (len(rows) * edge // count for edge in (part, part + 1))
            pq.write_table(table[start:stop], folder / f"{split}-{part:05}-of-{count:05}.parquet")


BROKEN_AT = 9
BROKEN = ("77\t1\t2\tWhere does this question", "\tend?\t0")  # a question with a line end in it, as in the real file

NLI_START = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2"  # noqa: E501
HEADERS = {  # task -> header of train and dev, header of test
    "cola": (None, "index\tsentence"),
    "sst2": ("sentence\tlabel", "index\tsentence"),
    "mrpc": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "index\t#1 ID\t#2 ID\t#1 String\t#2 String"),
    "stsb": tuple(
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2" + end
        for end in ("\tscore", "")
    ),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "id\tquestion1\tquestion2"),
    "mnli": (NLI_START, NLI_START),
    "qnli": ("index\tquestion\tsentence\tlabel", "index\tquestion\tsentence"),
    "rte": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
    "ax": (None, "index\tsentence1\tsentence2"),
}


def official_line(task, split, number, texts, label):
    """One line of an official file, without its end."""
    is_test, pair = split.startswith("test"), "\t".join(texts)
    names = TASKS[task][2]
    word = names[label] if task in ("mnli", "qnli", "rte") and isinstance(label, int) else label
    if task == "cola":
        return f"{number}\t{pair}" if is_test else f"gj04\t{word}\t{'' if label else '*'}\t{pair}"
    if task == "sst2":
        return f"{number}\t{pair}" if is_test else f"{pair}\t{word}"
    if task == "mrpc":
        return f"{number if is_test else word}\t{7 * number}\t{7 * number + 1}\t{pair}"
    if task == "qqp" and not is_test:
        return f"{1000 - number}\t{number}\t{number}\t{pair}\t{word}"
    if task == "stsb":
        return f"{number}\tgenre\tfile\t2012test\t{number:04}\tnone\tnone\t{pair}" + (
            "" if is_test else f"\t{word:.3f}"
        )
    if task == "mnli":
        votes = "" if is_test else "\tneutral" * (1 if split == "train" else 5) + f"\t{word}"
        return f"{number}\t31\t31n\tslate\t( a )\t( b )\t(ROOT a)\t(ROOT b)\t{pair}{votes}"
    return f"{number}\t{pair}" + ("" if is_test else f"\t{word}")


def write_official(root, task):
    """`root`/CoLA/train.tsv ... as the zips of GLUE unpack."""
    folder = root / TASKS[task][0]
    folder.mkdir(parents=True)
    for split, rows in examples(task).items():
        is_test = split.startswith("test")
        lines = [official_line(task, split, number, *row) for number, row in enumerate(rows)]
        header = HEADERS[task][is_test]
        if task == "mnli" and not is_test:
            votes = 1 if split == "train" else 5
            header += "".join(f"\tlabel{vote}" for vote in range(1, votes + 1)) + "\tgold_label"
        if (task, split) == ("qqp", "train"):
            lines[BROKEN_AT:BROKEN_AT] = BROKEN
        if (task, split) == ("mnli", "validation_matched"):
            lines.append(official_line(task, split, len(rows), ("no", "majority"), "-"))
        name = "AX" if task == "ax" else split.replace("validation", "dev")
        start = b"\xef\xbb\xbf" if task == "mrpc" and not is_test else b""
        end = "\r\n" if task in ("mrpc", "stsb") else "\n"
        content = end.join([header] * bool(header) + lines) + ("" if task == "wnli" else end)
        (folder / f"{name}.tsv").write_bytes(start + content.encode())


def write_glue(root, write):
    """All nine tasks and ax in one layout: `write` is `write_official` or `write_parquet`."""
    for task in TASKS:
        write(root, task)
    return root
