import csv
import io
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from glue_files import SIZES, TASKS, examples, write_glue, write_official
from transformers import AutoConfig, AutoModelForSequenceClassification

from mixkd.experiment import Experiment
from mixkd.predict import SUBMISSION, predict
from mixkd.runs import run
from mixkd.store import Store, UserError
from mixkd.tasks import GLUE_TASKS, load_task

# As the server wants it; written down here once more: these are facts to check.
FILES = {
    "cola": ["CoLA.tsv"], "sst2": ["SST-2.tsv"], "mrpc": ["MRPC.tsv"], "stsb": ["STS-B.tsv"], "qqp": ["QQP.tsv"],
    "mnli": ["MNLI-m.tsv", "MNLI-mm.tsv"], "qnli": ["QNLI.tsv"], "rte": ["RTE.tsv"], "wnli": ["WNLI.tsv"],
    "ax": ["AX.tsv"],
}  # fmt: skip
ANSWERS = {
    "mnli": {"entailment", "neutral", "contradiction"}, "ax": {"entailment", "neutral", "contradiction"},
    "qnli": {"entailment", "not_entailment"}, "rte": {"entailment", "not_entailment"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A cache folder of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXKD_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def glue_folder(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("glue"), write_official)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_bert, glue_folder):
    """Makes the folder of a student of a task, distilled from a teacher that was fine-tuned on it: `trained("rte")`."""
    store = Store(tmp_path_factory.mktemp("results"))
    folders = {}

    def train(task):
        if task not in folders:
            experiment = Experiment(
                task=task, teacher=str(tiny_bert), student_layers=3, init_from="teacher", recipe="sm+tmkd",
                num_epochs=1, batch_size=8, learning_rate=3e-3, teacher_num_epochs=3, teacher_batch_size=8,
                teacher_learning_rate=3e-3,
            )  # fmt: skip
            folders[task] = store.model_dir(run(experiment, store, data_dir=glue_folder).run_id)
        return folders[task]

    return train


def rows(path):
    return list(csv.reader(path.read_text().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def answers_by_hand(folder, texts):
    """The model's answers, one text at a time, without any of this project's code."""
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    model.eval()
    with torch.no_grad():
        encoded = [tokenizer(*sides, truncation=True, max_length=128, return_tensors="pt") for sides in texts]
        return np.stack([model(**one).logits[0] for one in encoded])


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_from_the_official_files_to_the_submission(task, trained, glue_folder, tmp_path, capsys):
    model = trained(task)
    files = predict(str(model), task, "test", glue_folder, tmp_path)
    assert [path.name for path in files] == [*FILES[task], "submission.zip"]
    test_splits = [split for split in examples(task) if split.startswith("test")]
    for path, split in zip(files, test_splits, strict=False):
        header, *lines = rows(path)
        logits = answers_by_hand(model, [texts for texts, _ in examples(task)[split]])
        if task == "stsb":
            expected = np.clip(logits[:, 0], 0, 5)
            assert [float(answer) for _, answer in lines] == pytest.approx(list(expected), abs=0.0006)
            assert all(len(answer.partition(".")[2]) == 3 for _, answer in lines)
        else:
            names = TASKS[task][2]
            expected = [names[i] if task in ANSWERS else str(i) for i in logits.argmax(1)]
            assert [answer for _, answer in lines] == expected
            assert 1 < len(set(expected)) and set(expected) <= ANSWERS.get(task, {"0", "1"})
        assert header == ["index", "prediction"]
        assert [index for index, _ in lines] == [str(number) for number in range(SIZES["test"])]
    output = capsys.readouterr()
    assert f"{FILES[task][0]} has 12 examples, and the GLUE server expects {SUBMISSION[task, 'test'][1]}" in output.err
    assert f"submission.zip: {len(FILES[task])} of 11 files, without " in output.out


def test_the_zip_collects_what_is_there(trained, glue_folder, tmp_path, capsys):
    (tmp_path / "notes.tsv").write_text("mine")
    predict(str(trained("cola")), "cola", "test", glue_folder, tmp_path)
    predict(str(trained("mnli")), "mnli", "test_mismatched", glue_folder, tmp_path)
    capsys.readouterr()
    predict(str(trained("mnli")), "ax", "test", glue_folder, tmp_path)
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert sorted(archive.namelist()) == ["AX.tsv", "CoLA.tsv", "MNLI-mm.tsv"]
        assert archive.read("AX.tsv") == (tmp_path / "AX.tsv").read_bytes()
        table = pd.read_csv(io.BytesIO(archive.read("AX.tsv")), sep="\t")
    assert list(table.columns) == ["index", "prediction"] and set(table["prediction"]) <= ANSWERS["ax"]
    missing = "SST-2.tsv, MRPC.tsv, STS-B.tsv, QQP.tsv, MNLI-m.tsv, QNLI.tsv, RTE.tsv, WNLI.tsv"
    assert f"3 of 11 files, without {missing}\n" in capsys.readouterr().out
    for name, _ in SUBMISSION.values():
        (tmp_path / name).touch()
    predict(str(trained("cola")), "cola", "test", glue_folder, tmp_path)
    assert "submission.zip: 11 of 11 files\n" in capsys.readouterr().out
    assert {name for name, _ in SUBMISSION.values()} == {name for names in FILES.values() for name in names}


def test_labelled_splits_become_tables_with_their_scores(trained, glue_folder, tmp_path, capsys):
    model = trained("mnli")
    files = predict(str(model), "mnli", "validation", glue_folder, tmp_path, batch_size=7)
    assert [path.name for path in files] == ["mnli-validation.tsv", "mnli-validation_mismatched.tsv"]
    table = pd.read_csv(files[0], sep="\t", dtype={"example_id": str})
    names = TASKS["mnli"][2]
    assert list(table.columns) == ["example_id", "prediction", "label", *(f"p_{name}" for name in names)]
    split = load_task("mnli", glue_folder).dataset["validation"]
    assert list(table["example_id"]) == split["example_id"][:]
    assert list(table["label"]) == [names[label] for label in split["label"]]
    logits = answers_by_hand(model, list(zip(split["text"], split["text_pair"], strict=True)))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert table[[f"p_{name}" for name in names]].to_numpy() == pytest.approx(probabilities, abs=1e-5)
    assert list(table["prediction"]) == [names[index] for index in logits.argmax(1)]
    accuracy = np.mean(table["prediction"] == table["label"])
    assert f"mnli validation: accuracy {accuracy:.4f}\n" in capsys.readouterr().out


def test_a_regression_becomes_numbers(trained, glue_folder, tmp_path, capsys):
    (path,) = predict(str(trained("stsb")), "stsb", "validation", glue_folder, tmp_path)
    table = pd.read_csv(path, sep="\t")
    assert list(table.columns) == ["example_id", "prediction", "label"]
    assert list(table["label"]) == pytest.approx([label for _, label in examples("stsb")["validation"]])
    pearson, spearman = (table["prediction"].corr(table["label"], method=name) for name in ("pearson", "spearman"))
    assert f"stsb validation: pearson {pearson:.4f}, spearman {spearman:.4f}\n" in capsys.readouterr().out


def test_other_tasks_and_unlabelled_splits(tiny_bert, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "validation"):
        pd.DataFrame({"text": [f"{split} {i} good" for i in range(8)], "label": ["no", "yes"] * 4}).to_csv(
            folder / f"{split}.csv", index=False
        )
    pd.DataFrame({"text": ["a plot", "the film"]}).to_csv(folder / "test.csv", index=False)
    model = headed(tiny_bert, tmp_path / "model", ["no", "yes"])
    (path,) = predict(model, "custom", "test", folder, tmp_path / "out")
    assert path == tmp_path / "out/custom-test.tsv"
    assert list(pd.read_csv(path, sep="\t").columns) == ["example_id", "prediction", "p_no", "p_yes"]
    assert "custom test: 2 predictions, no labels" in capsys.readouterr().out
    assert not (tmp_path / "out/submission.zip").exists()


def headed(tiny_bert, folder, names):
    """A copy of the tiny BERT with a fresh head for these classes."""
    shutil.copytree(tiny_bert, folder)
    config = AutoConfig.from_pretrained(tiny_bert, num_labels=len(names))
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("bias", "answer"), [(9.0, "5.000"), (-9.0, "0.000")])
def test_similarities_stay_on_the_scale(bias, answer, tiny_bert, glue_folder, tmp_path):
    folder = headed(tiny_bert, tmp_path / "model", ["similarity"])
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.classifier.bias, bias)
    model.save_pretrained(folder)
    path, _ = predict(folder, "stsb", "test", glue_folder, tmp_path)
    assert {prediction for _, prediction in rows(path)[1:]} == {answer}


def test_long_texts_are_cut(tiny_bert, tmp_path):
    (tmp_path / "train.csv").write_text(
        "text,label\n" + "\n".join(f"the film {i}{' good' * (i % 3)},{i % 2}" for i in range(60))
    )
    model = headed(tiny_bert, tmp_path / "model", ["0", "1"])
    tables = [
        pd.read_csv(predict(model, "custom", "train", tmp_path, tmp_path / str(length), max_length=length)[0], sep="\t")
        for length in (64, 4)
    ]
    assert len(set(tables[0]["p_0"])) > 1 and len(set(tables[1]["p_0"])) == 1  # [CLS] the film [SEP]


def test_models_that_do_not_suit(tiny_bert, glue_folder, tmp_path, capsys):
    with pytest.raises(UserError, match=r"tiny-bert has no classification head.*fine-tune it on mnli first"):
        predict(str(tiny_bert), "mnli", "test", glue_folder, tmp_path)
    swapped = headed(tiny_bert, tmp_path / "swapped", ["contradiction", "Entailment", "neutral"])
    with pytest.raises(
        UserError, match=r"mnli in another order, \['contradiction', 'Entailment', 'neutral'\] instead of"
    ):
        predict(swapped, "mnli", "test", glue_folder, tmp_path / "out")
    other = headed(tiny_bert, tmp_path / "other", ["negative", "positive"])
    with pytest.raises(UserError, match=r"fine-tuned for the labels \['negative', 'positive'\], but the task has"):
        predict(other, "mnli", "test", glue_folder, tmp_path / "out")
    with pytest.raises(UserError, match="no folder"):
        predict(str(tmp_path / "nothing"), "mnli", "test", glue_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    generic = headed(tiny_bert, tmp_path / "generic", ["LABEL_0", "LABEL_1", "LABEL_2"])
    predict(generic, "mnli", "validation", glue_folder, tmp_path / "out")
    warning = "does not name its classes; taken for granted: LABEL_0 is entailment, LABEL_1 is neutral, LABEL_2 is con"
    assert warning in capsys.readouterr().err
    upper = headed(tiny_bert, tmp_path / "upper", ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"])
    predict(upper, "mnli", "validation", glue_folder, tmp_path / "out")
    assert "Warning" not in capsys.readouterr().err


def test_what_cannot_be_asked_for(tiny_bert, glue_folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="rte has no split 'dev': choose one of train, validation, test"):
        predict(str(tiny_bert), "rte", "dev", glue_folder, tmp_path)
    with pytest.raises(UserError, match="no task 'sst'"):
        predict(str(tiny_bert), "sst", "test", glue_folder, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "tpu"):
        with pytest.raises(UserError, match=f"device '{device}' cannot be used; choose cpu"):
            predict(str(tiny_bert), "rte", "test", glue_folder, tmp_path, device=device)
