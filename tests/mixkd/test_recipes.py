import dataclasses
import math

import pytest

from mixkd.recipes import RECIPES, MixupSettings, recipe

# METHOD's table: mle, kd, sm, tmkd.
TABLE = {
    "ft": (1, 0, 0, 0),
    "kd": (1, 1, 0, 0),
    "sm": (1, 0, 1, 0),
    "tmkd": (1, 0, 0, 1),
    "sm+tmkd": (1, 0, 1, 1),
    "sm+tmkd+kd": (1, 1, 1, 1),
}


def weights(chosen):
    return chosen.mle_weight, chosen.kd_weight, chosen.sm_weight, chosen.tmkd_weight


def test_table():
    assert {name: weights(recipe(name)) for name in RECIPES} == TABLE
    for name, (_, kd, sm, tmkd) in TABLE.items():
        assert recipe(name).uses_mixup == bool(sm or tmkd)
        assert recipe(name).uses_teacher == bool(kd or tmkd)
        assert (recipe(name).distance, recipe(name).temperature) == ("mse", 1.0)
        assert recipe(name).mixup == MixupSettings(1.0, 1.0, "uniform", "example")


def test_settings_are_changed_in_a_copy():
    changed = recipe("sm+tmkd", tmkd_weight=2, beta_alpha=0.4, mix_ratio=0.3, partner="batch", temperature=4)
    assert weights(changed) == (1, 0, 1, 2)
    assert changed.mixup == MixupSettings(beta_alpha=0.4, mix_ratio=0.3, partner="batch")
    assert changed.temperature == 4
    assert weights(RECIPES["sm+tmkd"]) == TABLE["sm+tmkd"] and RECIPES["sm+tmkd"].mixup == MixupSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.kd_weight = 1


def test_a_term_can_be_switched_off():
    assert not recipe("sm", sm_weight=0).uses_mixup
    assert not recipe("kd", kd_weight=0.0).uses_teacher
    assert recipe("kd", mle_weight=0).uses_teacher
    assert recipe("ft", kd_weight=0.0) == recipe("ft")  # naming a missing term is no harm as long as it is off


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("mixkd", {}, ValueError, "no recipe 'mixkd'; choose one of ft, kd, sm, tmkd, sm.tmkd"),
        ("ft", {"kd_weight": 1}, ValueError, "recipe ft has no kd term"),
        ("sm", {"tmkd_weight": 0.5}, ValueError, "recipe sm has no tmkd term"),
        ("ft", {"alpha": 1}, TypeError, "alpha"),
        ("ft", {"mle_weight": 0}, ValueError, "every weight is 0"),
        ("kd", {"kd_weight": -1}, ValueError, "kd_weight is -1"),
        ("kd", {"kd_weight": math.nan}, ValueError, "kd_weight is nan"),
        ("kd", {"temperature": 0}, ValueError, "temperature is 0"),
        ("sm", {"beta_alpha": 0}, ValueError, "beta_alpha is 0"),
        ("sm", {"beta_alpha": math.nan}, ValueError, "beta_alpha is nan"),
        ("sm", {"mix_ratio": 0}, ValueError, "mix_ratio is 0"),
        ("sm", {"mix_ratio": -0.5}, ValueError, "mix_ratio is -0.5"),
    ],
)
def test_wrong_settings(name, changes, error, message):
    with pytest.raises(error, match=message):
        recipe(name, **changes)


@pytest.mark.parametrize("changes", [{"partner": "uniforn"}, {"lam_per": "epoch"}, {"distance": "cosine"}])
def test_a_misspelt_choice_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes.values()))):
        recipe("sm+tmkd", **changes)
