"""Identity: what decides the numbers is in it once, and nothing else is."""

import json
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mixkd.experiment import Experiment
from mixkd.recipes import RECIPES
from mixkd.runs import pin
from mixkd.store import content_id


def run_id(**settings):
    return content_id(Experiment(**settings).identity())


def test_run_id_is_pinned():
    """A change here gives every finished run another id: none of them would be found again."""
    student = {"task": "vader-movie", "recipe": "sm+tmkd", "student_layers": 3, "seed": 1, "train_fraction": 0.1}
    assert (run_id(**student), run_id()) == ("6f5fc74f66eb4fc1", "c45a2c36f0378cd8")


def test_seed_sets_both_seeds():
    assert Experiment(seed=3) == Experiment(init_seed=3, data_seed=3)
    assert Experiment(seed=3, data_seed=4) == Experiment(init_seed=3, data_seed=4)
    assert "seed" not in Experiment(seed=3).identity()


def test_every_field_is_explained():
    """In the docstring, which is the command's help too."""
    attributes = Experiment.__doc__.partition("Attributes:")[2]
    assert re.findall(r"^        (\w+): \S", attributes, re.MULTILINE) == list(Experiment.model_fields)


SETTINGS = {
    "recipe": [*RECIPES, *(f"{name}+bt" for name in RECIPES)], "student_layers": [2, 3],
    "init": [None, "first", "skip", "random", (0, 2)], "init_from": ["teacher"], "kd_weight": [None, 0, 0.5],
    "pkd_weight": [None, 0.0, 2], "pkd_layers": ["last", (2, 1), [3]], "pkd_normalize": [False],
    "pkd_reduction": ["mean"], "sm_weight": [None, 0, 1.5], "tmkd_weight": [None, 0, 0.1], "distance": ["kl", "mse"],
    "temperature": [2, 3.5], "beta_alpha": [0.4], "mix_ratio": [2, 0.3], "partner": ["batch"], "lam_per": ["batch"],
    "level": [1, 2, "embeddings"], "augmentation": ["none", "word-dropout", "back-translation"],
    "bt_engine": ["marian"], "bt_pair": ["a,b"], "bt_sides": ["one"], "word_dropout_rate": [0.3],
    "best_epoch": [True], "teacher_precision": ["bf16"], "seed": [0, 5],
}  # fmt: skip


@st.composite
def experiments(draw):
    """Settings that make an experiment, however many of them it has no use for."""
    names = draw(st.sets(st.sampled_from(sorted(SETTINGS))))
    chosen = {"student_layers": 3} | {name: draw(st.sampled_from(SETTINGS[name])) for name in sorted(names)}
    base = RECIPES[chosen.get("recipe", "ft").removesuffix("+bt")]
    for weight in ("kd_weight", "pkd_weight", "sm_weight", "tmkd_weight"):
        if chosen.get(weight) and not getattr(base, weight):
            del chosen[weight]
    if chosen.get("recipe", "").endswith("+bt") and chosen.get("augmentation") == "word-dropout":
        del chosen["augmentation"]
    return chosen


@settings(max_examples=200, deadline=None)
@given(experiments())
def test_identity_survives_json_and_is_canonical(chosen):
    one = Experiment(**chosen)
    again = Experiment(**json.loads(json.dumps(one.identity())))
    assert again == one and content_id(again.identity()) == content_id(one.identity())
    assert Experiment.model_validate_json(one.model_dump_json()) == one
    assert one.recipe in RECIPES and not {"+bt"} & {one.recipe[-3:]}
    # Where a recipe has no use for a setting it is at its default, whatever was asked for.
    used = one.recipe_object()
    fields = Experiment.model_fields
    idle = {
        "beta_alpha mix_ratio partner lam_per level": used.uses_mixup,
        "pkd_layers pkd_normalize pkd_reduction": used.pkd_weight,
        "distance": used.kd_weight or used.tmkd_weight,
        "temperature": (used.kd_weight or used.tmkd_weight) and used.distance == "kl",
        "teacher_precision": used.tmkd_weight,
        "bt_engine bt_pair bt_sides": one.augmentation == "back-translation",
        "word_dropout_rate": one.augmentation == "word-dropout",
        "init_from": one.init != "random",
    }
    for names, is_used in idle.items():
        for name in names.split():
            wanted = chosen.get(name, fields[name].default)
            wanted = tuple(wanted) if isinstance(wanted, list) else wanted
            assert getattr(one, name) == (wanted if is_used else fields[name].default), name


UNUSED = [
    *((recipe, change) for recipe in ("ft", "kd", "pkd") for change in (
        {"beta_alpha": 0.4}, {"mix_ratio": 0.5}, {"partner": "batch"}, {"lam_per": "batch"}, {"level": 1})),
    *((recipe, change) for recipe in ("kd", "sm+tmkd+kd", "distilbert") for change in (
        {"pkd_layers": "last"}, {"pkd_layers": (1,)}, {"pkd_normalize": False}, {"pkd_reduction": "mean"},
        {"pkd_weight": 0})),
    *(("kd", change) for change in (
        {"bt_engine": "marian"}, {"bt_pair": "eng-cat"}, {"bt_sides": "one"}, {"word_dropout_rate": 0.5},
        {"augmentation": "none"}, {"augmentation_fingerprint": "apertium 3"}, {"best_epoch": False})),
    ("kd+bt", {"word_dropout_rate": 0.5}),
    ("kd+bt", {"augmentation": "back-translation"}),
    ("ft", {"distance": "kl", "temperature": 3}),
    ("sm", {"distance": "kl"}),
    ("kd", {"temperature": 3}),  # of mse
    ("kd", {"teacher_precision": "bf16"}),
    ("sm", {"teacher_precision": "bf16"}),
    ("pkd", {"teacher_precision": "bf16"}),
    ("sm", {"sm_weight": 1}),
    ("kd", {"tmkd_weight": 0}),
    ("pkd", {"pkd_weight": 0.1, "pkd_layers": "skip"}),
    ("kd", {"learning_rate": 0.0003}),
    ("kd", {"init": "first"}),
    ("distilbert", {"init": "skip"}),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "changes"), UNUSED, ids=str)
def test_settings_that_a_recipe_does_not_use_do_not_change_its_id(recipe, changes):
    settings = {"recipe": recipe, "student_layers": 3}
    assert run_id(**settings, **changes) == run_id(**settings)


@pytest.mark.parametrize("recipe", RECIPES)
def test_bt_at_the_end_of_a_recipe_is_back_translation(recipe):
    short = Experiment(recipe=f"{recipe}+bt", student_layers=3)
    assert short == Experiment(recipe=recipe, augmentation="back-translation", student_layers=3)
    assert (short.recipe, short.augmentation) == (recipe, "back-translation")
    assert short.recipe_object() == Experiment(recipe=recipe, student_layers=3).recipe_object()
    assert short.teacher_experiment().augmentation == "none"
    assert len({run_id(recipe=recipe, student_layers=3, augmentation=name)
                for name in ("none", "back-translation", "word-dropout")}) == 3  # fmt: skip


def test_word_dropout_has_no_engine():
    settings = {"augmentation": "word-dropout", "student_layers": 3}
    assert run_id(**settings, bt_engine="marian", bt_pair="a,b", bt_sides="one") == run_id(**settings)


@pytest.mark.parametrize(
    "changes",
    [{"teacher_num_epochs": 9}, {"teacher_learning_rate": 1.0}, {"teacher_seed": 3}, {"teacher_batch_size": 1},
     {"teacher_fraction": 0.5}, {"init": "last"}, {"init_from": "teacher"}, {"teacher_precision": "bf16"}],
)  # fmt: skip
def test_a_teacher_has_no_teacher_and_no_choice_of_layers(changes):
    assert run_id(**changes) == run_id()


def test_a_random_student_takes_no_layers_from_anyone():
    settings = {"student_layers": 2, "init": "random"}
    assert run_id(**settings, init_from="teacher") == run_id(**settings, init_from="pretrained")


def test_a_student_with_layers_of_its_own_takes_none_but_has_a_teacher():
    settings = {"student": "distilbert-base-uncased", "recipe": "kd"}
    for changes in ({"init": "last"}, {"init_from": "teacher"}, {"init": (0, 1)}):
        assert run_id(**settings, **changes) == run_id(**settings)
    one = Experiment(**settings, teacher_num_epochs=7)
    assert one.is_student and one.init is None and one.teacher_experiment().num_epochs == 7
    assert not one.teacher_experiment().is_student
    assert run_id(**settings, teacher_num_epochs=7) != run_id(**settings) != run_id(**(settings | {"student": "other"}))


def test_a_teacher_s_run_is_the_same_for_every_student():
    """It knows nothing of recipes, augmentation and selection."""
    plain = Experiment(student_layers=2, seed=3).teacher_experiment()
    busy = Experiment(recipe="pkd+bt", student_layers=3, pkd_layers="last", best_epoch=True, patience=2,
                      train_fraction=0.1, num_epochs=1, seed=8)  # fmt: skip
    assert busy.teacher_experiment() == plain == Experiment(num_epochs=3, learning_rate=5e-5)
    assert Experiment(student="x", level=1, recipe="sm").teacher_experiment() == plain


USED = {
    "task": "vader-nyt", "train_fraction": 0.5, "augmentation": "word-dropout", "bt_engine": "marian",
    "bt_pair": "eng-cat", "bt_sides": "one", "teacher": "other", "teacher_fraction": 0.5,
    "teacher_learning_rate": 1e-4, "teacher_num_epochs": 2, "teacher_batch_size": 16, "teacher_seed": 1,
    "student_layers": 2, "init": "last", "init_from": "teacher", "recipe": "sm+tmkd", "kd_weight": 0.5,
    "sm_weight": 0.5, "tmkd_weight": 0.5, "distance": "mse", "temperature": 3.0, "beta_alpha": 0.4, "mix_ratio": 2.0,
    "partner": "batch", "lam_per": "batch", "level": 1, "learning_rate": 1e-4, "num_epochs": 3, "best_epoch": True,
    "batch_size": 16, "max_length": 64, "weight_decay": 0.1, "warmup": 0.0, "length_grouping": False,
    "precision": "bf16", "teacher_precision": "bf16", "init_seed": 1, "data_seed": 1, "data_fingerprint": "0",
    "teacher_fingerprint": "0", "augmentation_fingerprint": "0",
}  # fmt: skip
BASES = {  # settings that need others to be of use
    "word_dropout_rate": ({"augmentation": "word-dropout", "student_layers": 3}, 0.5),
    "pkd_weight": ({"recipe": "pkd", "student_layers": 3}, 2.0),
    "pkd_layers": ({"recipe": "pkd", "student_layers": 3}, "last"),
    "pkd_normalize": ({"recipe": "pkd", "student_layers": 3}, False),
    "pkd_reduction": ({"recipe": "pkd", "student_layers": 3}, "mean"),
    "patience": ({"best_epoch": True}, 3),
    "student": ({"student": "a", "recipe": "kd"}, "b"),
    "student_fingerprint": ({"student": "a", "recipe": "kd"}, "0"),
}


def test_every_field_is_part_of_the_identity():
    settings = {"recipe": "sm+tmkd+kd+bt", "distance": "kl", "temperature": 2.0, "student_layers": 3}
    assert set(USED) | set(BASES) == set(Experiment.model_fields)
    changed = [settings | {field: value} for field, value in USED.items()]
    changed[list(USED).index("augmentation")] |= {"recipe": "sm+tmkd+kd"}  # the suffix names the augmentation
    changed[list(USED).index("recipe")] |= {"augmentation": "back-translation"}
    assert len({run_id(**one) for one in [settings, *changed]}) == len(USED) + 1
    for field, (base, value) in BASES.items():
        assert run_id(**(base | {field: value})) != run_id(**base), field


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "mixkd"}, "no recipe 'mixkd'; choose one of ft.*each also with .bt"),
        ({"recipe": "kd+bt+bt"}, "no recipe 'kd.bt'"),
        ({"recipe": "bt"}, "no recipe 'bt'"),
        ({"recipe": 1}, "no recipe '1'"),
        (
            {"recipe": "kd+bt", "student_layers": 2, "augmentation": "word-dropout"},
            "leave augmentation=word-dropout out",
        ),
        ({"augmentation": "synonyms"}, "augmentation"),
        ({"recipe": "ft+bt", "bt_engine": "google"}, "bt_engine"),
        ({"augmentation": "word-dropout", "word_dropout_rate": 0}, "word_dropout_rate"),
        ({"augmentation": "word-dropout", "word_dropout_rate": 1}, "word_dropout_rate"),
        ({"recipe": "ft", "kd_weight": 1.0}, "recipe ft has no kd term"),
        ({"recipe": "kd", "pkd_weight": 1.0, "student_layers": 2}, "recipe kd has no pkd term"),
        ({"recipe": "kd"}, "give the student's student_layers"),
        ({"recipe": "pkd"}, "give the student's student_layers"),
        ({"recipe": "kd", "student": "distilbert", "student_layers": 2}, "leave student_layers out"),
        ({"recipe": "kd", "student_layers": 2, "kd_weight": -1}, "kd_weight is -1"),
        ({"recipe": "pkd", "student_layers": 1}, "a student of one layer has none; give the teacher's layer"),
        ({"recipe": "pkd", "student_layers": 2, "pkd_layers": (1, 2, 3)}, "must name 1 to 2 of the teacher's layers"),
        ({"recipe": "pkd", "student_layers": 2, "pkd_layers": "every"}, "pkd_layers"),
        ({"recipe": "sm", "beta_alpha": 0}, "beta_alpha is 0"),
        ({"recipe": "sm", "mix_ratio": -1}, "mix_ratio is -1"),
        ({"recipe": "sm", "partner": "uniforn"}, "partner"),
        ({"recipe": "sm", "level": 0}, "level is 0"),
        ({"recipe": "sm", "level": "words"}, "level"),
        ({"recipe": "sm", "level": 3, "student_layers": 2}, "level 3 is above the student's 2 layers"),
        ({"patience": 2}, "set best_epoch too"),
        ({"best_epoch": True, "patience": 0}, "patience"),
        ({"train_fraction": 0}, "train_fraction"),
        ({"train_fraction": 1.5}, "train_fraction"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"student_layers": 0}, "student_layers"),
        ({"warmup": 1.0}, "warmup"),
        ({"output": "results"}, "output"),
    ],
)  # fmt: skip
def test_wrong_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        Experiment(**settings)


def test_labels_for_people():
    assert Experiment(teacher="some/where/bert").label() == "vader-movie teacher bert"
    student = Experiment(recipe="kd+bt", student_layers=2, train_fraction=0.1, seed=4)
    assert student.label() == "vader-movie kd+bt, 2 layers, 10% of the data, seed 4"
    checkpoint = Experiment(recipe="kd", student="a/distilbert", augmentation="word-dropout")
    assert checkpoint.label() == "vader-movie kd+word-dropout, distilbert, 100% of the data, seed 0"


# ---- what is read is known by its content ----


def pinned(**settings):
    """The identity with the content of what is read."""
    data = settings.pop("data_dir")
    return pin(Experiment(**settings), data).identity()


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_models_are_known_by_their_content_and_not_by_their_folder(role, vader_folder, tiny_bert, tmp_path):
    copied = shutil.copytree(tiny_bert, tmp_path / tiny_bert.name)
    common = {"recipe": "kd", "teacher": str(tiny_bert), "student": str(tiny_bert), "data_dir": vader_folder}
    here = pinned(**common)
    there = pinned(**(common | {role: str(copied)}))
    assert here == there and str(tmp_path) not in json.dumps(there)
    assert there["teacher"] == there["student"] == "tiny-bert"
    assert there["teacher_fingerprint"] == there["student_fingerprint"] is not None
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\x80\x3f")
    changed = pinned(**(common | {role: str(copied)}))
    assert {key for key in changed if changed[key] != here[key]} == {f"{role}_fingerprint"}


def test_data_are_known_by_their_content_and_not_by_their_folder(vader_folder, tmp_path):
    data = shutil.copytree(vader_folder, tmp_path / "data")
    here = pinned(data_dir=vader_folder)
    assert pinned(data_dir=data) == here and here["student_fingerprint"] is None
    corpus = data / "movieReviewSnippets_GroundTruth.txt"
    corpus.write_bytes(corpus.read_bytes().replace(b"good", b"fine"))
    assert pinned(data_dir=data)["data_fingerprint"] != here["data_fingerprint"]
