import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkd.recipes import RECIPES, MixupSettings, PkdSettings, recipe

# METHOD's table: mle, kd, pkd (a sum over layers and units, hence the smaller weight), sm, tmkd; which layers.
TABLE = {
    "ft": (1, 0, 0, 0, 0, "first"),
    "kd": (1, 1, 0, 0, 0, "first"),
    "pkd": (1, 1, 0.1, 0, 0, "first"),
    "distilbert": (1, 1, 0, 0, 0, "skip"),
    "sm": (1, 0, 0, 1, 0, "first"),
    "tmkd": (1, 0, 0, 0, 1, "first"),
    "sm+tmkd": (1, 0, 0, 1, 1, "first"),
    "sm+tmkd+kd": (1, 1, 0, 1, 1, "first"),
}


def weights(chosen):
    return chosen.mle_weight, chosen.kd_weight, chosen.pkd_weight, chosen.sm_weight, chosen.tmkd_weight


def test_table():
    assert {name: (*weights(recipe(name)), recipe(name).init) for name in RECIPES} == TABLE
    for name, (_, kd, pkd, sm, tmkd, _) in TABLE.items():
        assert recipe(name).uses_mixup == bool(sm or tmkd)
        assert recipe(name).uses_teacher == bool(kd or pkd or tmkd)
        assert (recipe(name).distance, recipe(name).temperature) == ("mse", 1.0)
        assert recipe(name).mixup == MixupSettings(1.0, 1.0, "uniform", "example", "embeddings")
        assert recipe(name).pkd == PkdSettings("skip", True, "sum")  # as in the paper


def test_settings_are_changed_in_a_copy():
    changed = recipe("sm+tmkd", tmkd_weight=2, beta_alpha=0.4, mix_ratio=0.3, partner="batch", temperature=4)
    assert weights(changed) == (1, 0, 0, 1, 2)
    assert changed.mixup == MixupSettings(beta_alpha=0.4, mix_ratio=0.3, partner="batch")
    assert changed.temperature == 4
    assert weights(RECIPES["sm+tmkd"]) == TABLE["sm+tmkd"][:5] and RECIPES["sm+tmkd"].mixup == MixupSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.kd_weight = 1


def test_settings_of_pkd_have_a_prefix():
    changed = recipe("pkd", pkd_weight=2, pkd_layers=(3, 1), pkd_normalize=False, pkd_reduction="mean", kd_weight=0)
    assert changed.pkd == PkdSettings((3, 1), False, "mean") and weights(changed) == (1, 0, 2, 0, 0)
    assert changed.uses_teacher and RECIPES["pkd"].pkd == PkdSettings()
    assert recipe("sm", level=2).mixup == MixupSettings(level=2)


def test_a_term_can_be_switched_off():
    assert not recipe("sm", sm_weight=0).uses_mixup
    assert not recipe("kd", kd_weight=0.0).uses_teacher
    assert recipe("kd", mle_weight=0).uses_teacher
    assert recipe("ft", kd_weight=0.0) == recipe("ft")  # naming a missing term is no harm as long as it is off


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("mixkd", {}, ValueError, "no recipe 'mixkd'; choose one of ft, kd, pkd, distilbert, sm, tmkd, sm.tmkd"),
        ("ft", {"kd_weight": 1}, ValueError, "recipe ft has no kd term"),
        ("sm", {"tmkd_weight": 0.5}, ValueError, "recipe sm has no tmkd term"),
        ("kd", {"pkd_weight": 1}, ValueError, "recipe kd has no pkd term"),
        ("ft", {"alpha": 1}, TypeError, "alpha"),
        ("pkd", {"pkd_alpha": 1}, TypeError, "pkd_alpha"),
        ("ft", {"mle_weight": 0}, ValueError, "every weight is 0"),
        ("kd", {"kd_weight": -1}, ValueError, "kd_weight is -1"),
        ("kd", {"kd_weight": math.nan}, ValueError, "kd_weight is nan"),
        ("kd", {"temperature": 0}, ValueError, "temperature is 0"),
        ("sm", {"beta_alpha": 0}, ValueError, "beta_alpha is 0"),
        ("sm", {"beta_alpha": math.nan}, ValueError, "beta_alpha is nan"),
        ("sm", {"mix_ratio": 0}, ValueError, "mix_ratio is 0"),
        ("sm", {"mix_ratio": -0.5}, ValueError, "mix_ratio is -0.5"),
        ("sm", {"level": 0}, ValueError, "level is 0; give `embeddings` or the number of a layer, from 1"),
        ("sm", {"level": -1}, ValueError, "level is -1"),
        ("sm", {"level": "words"}, ValueError, "level is 'words'"),
    ],
)
def test_wrong_settings(name, changes, error, message):
    with pytest.raises(error, match=message):
        recipe(name, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"partner": "uniforn"}, {"lam_per": "epoch"}, {"distance": "cosine"}, {"pkd_layers": "every"},
     {"pkd_reduction": "batchmean"}],
)  # fmt: skip
def test_a_misspelt_choice_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes.values()))):
        recipe("sm+tmkd", **changes)


# ---- the layer map of PKD ----


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "layers", "expected"),
    [
        (12, 6, "skip", (2, 4, 6, 8, 10)),  # published: PKD-Skip and PKD-Last onto student blocks 1 to 5
        (12, 6, "last", (7, 8, 9, 10, 11)),
        (12, 3, "skip", (4, 8)),
        (12, 3, "last", (10, 11)),
        (12, 12, "skip", tuple(range(1, 12))),
        (12, 12, "last", tuple(range(1, 12))),
        (6, 3, "skip", (2, 4)),
        (6, 2, "skip", (3,)),
        (6, 1, (6,), (6,)),
        (4, 2, (3, 1), (3, 1)),  # in any order, also onto the last layer
        (4, 2, (4, 4), (4, 4)),
        (12, 6, (12,), (12,)),
    ],
)
def test_layer_maps(teacher_layers, student_layers, layers, expected):
    assert PkdSettings(layers).map_layers(teacher_layers, student_layers) == expected


@given(st.integers(2, 48), st.data())
def test_mapped_layers_are_inner_ones_in_order(teacher_layers, data):
    student_layers = data.draw(st.integers(2, teacher_layers))
    skip, last = (PkdSettings(name).map_layers(teacher_layers, student_layers) for name in ("skip", "last"))
    for chosen in (skip, last):
        assert len(chosen) == student_layers - 1 and all(1 <= layer < teacher_layers for layer in chosen)
        assert list(chosen) == sorted(set(chosen))
    assert last[-1] == teacher_layers - 1 and last[-1] - last[0] == student_layers - 2
    for layer, other in enumerate(skip, start=1):  # at the same relative depth, up to rounding
        assert abs(other / teacher_layers - layer / student_layers) <= 0.5 / teacher_layers + 1e-12


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "layers", "message"),
    [
        (12, 1, "skip", "pkd_layers=skip maps the layers below the last, and a student of one layer has none; give"),
        (12, 1, "last", "pkd_layers=last maps"),
        (12, 3, (), r"pkd_layers \[\] must name 1 to 3 of the teacher's layers"),
        (12, 3, (1, 2, 3, 4), r"pkd_layers \[1, 2, 3, 4\] must name 1 to 3"),
        (12, 3, (0, 2), r"pkd_layers \[0, 2\] must name layers between 1 and the teacher's 12"),
        (6, 3, (2, 7), r"pkd_layers \[2, 7\] must name layers between 1 and the teacher's 6"),
        (2, 4, "last", "between 1 and the teacher's 2"),
    ],
)
def test_maps_of_layers_that_are_not_there(teacher_layers, student_layers, layers, message):
    with pytest.raises(ValueError, match=message):
        PkdSettings(layers).map_layers(teacher_layers, student_layers)
