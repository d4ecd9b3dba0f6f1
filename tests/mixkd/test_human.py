import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from mixkd.human import RATINGS, human_reference


def reference(ratings, labels=None, logits=None, **options):
    """The reference with labels by the sign of the mean, and a model that knows nothing."""
    if labels is None:
        labels = np.array([int(np.mean(each) > 0) for each in ratings])
    if logits is None:
        logits = np.zeros((len(ratings), 2), np.float32)
    return human_reference(ratings, labels, logits, **options)


def test_single_rater_by_hand():
    # Each against the sum of the others, 2, 2, 3, 1 and 4: the rater of 0 is half right, the one of -1 wrong.
    assert reference([[1, 1, 0, 2, -1]])["human_single_score"] == pytest.approx((1 + 1 + 0.5 + 1 + 0) / 5)
    assert reference([[4, -1]])["human_single_score"] == 0  # against -1 and 4, not against their own mean
    assert reference([[2, -2, 2]])["human_single_score"] == pytest.approx((0.5 + 0 + 0.5) / 3)  # others: 0, 4, 0
    # Every sentence weighs the same: 1 and 2/3, however many rated it.
    assert reference([[-1, -2], [1, 1, 1, 1, -1, -1]])["human_single_score"] == pytest.approx((1 + 4 / 6) / 2)


@given(st.lists(st.lists(st.integers(-4, 4), min_size=2, max_size=9), min_size=1, max_size=5))
def test_single_rater_against_a_naive_loop(ratings):
    expected = []
    for each in ratings:
        right = []
        for i, rating in enumerate(each):
            others = sum(each[:i] + each[i + 1 :])
            right.append(0.5 if rating * others == 0 else float((rating > 0) == (others > 0)))
        expected.append(sum(right) / len(right))
    measured = reference(ratings, num_draws=2)
    assert measured["human_single_score"] == pytest.approx(sum(expected) / len(expected))


def test_loss_against_the_share_of_positive_raters():
    ratings = [[2, 3, -1, 0], [-1, -1, -2, -4]]  # shares 2.5 / 4 and 0
    logits = np.array([[0.3, -0.4], [2.0, 0.1]], np.float32)
    p = [1 / (1 + math.exp(0.7)), 1 / (1 + math.exp(1.9))]
    expected = (-0.625 * math.log(p[0]) - 0.375 * math.log(1 - p[0]) - math.log(1 - p[1])) / 2
    entropy = (-0.625 * math.log(0.625) - 0.375 * math.log(0.375)) / 2
    measured = reference(ratings, logits=logits)
    assert measured["human_loss"] == pytest.approx(expected, rel=1e-6)
    assert measured["human_entropy"] == pytest.approx(entropy)
    right = np.log([[0.375, 0.625], [1, 1e-9]]).astype(np.float32)  # the model that says the share reaches the floor
    assert reference(ratings, logits=right)["human_loss"] == pytest.approx(entropy, abs=1e-6)


def test_all_raters_agree():
    measured = reference([[1] * 20, [-3] * 15], num_draws=5)
    assert measured == {
        "human_single_score": 1, "human_panel_score": 1, "human_ceiling_score": 1,
        "human_loss": pytest.approx(math.log(2)), "human_entropy": 0,
    }  # fmt: skip
    wrong = reference([[1] * 20, [-3] * 15], labels=np.array([0, 0]), num_draws=5)
    assert wrong["human_panel_score"] == wrong["human_ceiling_score"] == 0.5


def test_panel_and_ceiling_as_the_normal_law_has_them():
    # With many raters, all people's mean is normal around the panel's with its standard error, and a second panel's
    # mean has twice the variance.
    ratings = [1] * 213 + [-1] * 187
    mean, error = np.mean(ratings), np.std(ratings) / math.sqrt(len(ratings))
    measured = reference([ratings] * 50, num_draws=400)
    assert measured["human_ceiling_score"] == pytest.approx(norm.cdf(mean / error), abs=0.01)
    assert measured["human_panel_score"] == pytest.approx(norm.cdf(mean / error / math.sqrt(2)), abs=0.01)


def test_panel_and_ceiling_where_the_truth_is_known():
    """Rating laws with means spread evenly: panel and ceiling are right, and a panel without the first one's noise
    is too optimistic (what a plain bootstrap of the ratings gives)."""
    generator = np.random.default_rng(0)
    num_examples, num_raters = 6000, 20
    slope = generator.uniform(-0.5, 0.5, size=(num_examples, 1))
    law = np.exp(slope * RATINGS - 0.05 * RATINGS**2)
    law /= law.sum(1, keepdims=True)
    first, second = (generator.multinomial(num_raters, law) for _ in range(2))
    kept = np.abs(first @ RATINGS / num_raters) >= 0.5
    first, second, law = first[kept], second[kept], law[kept]
    sign = np.sign(first @ RATINGS)
    panel = ((1 + np.sign(second @ RATINGS) * sign) / 2).mean()
    ceiling = (np.sign(law @ RATINGS) == sign).mean()
    ratings = [np.repeat(RATINGS, counts) for counts in first]

    measured = reference(ratings, num_draws=100)
    standard_error = math.sqrt(panel * (1 - panel) / kept.sum())
    assert abs(measured["human_panel_score"] - panel) < 3 * standard_error
    assert abs(measured["human_ceiling_score"] - ceiling) < 3 * standard_error
    plain = generator.multinomial(num_raters, first / num_raters, size=(20, len(first))) @ RATINGS
    assert ((1 + np.sign(plain) * sign) / 2).mean() > panel + 5 * standard_error
    assert measured["human_single_score"] < measured["human_panel_score"] < measured["human_ceiling_score"]


def test_the_draws_are_fixed():
    ratings = [[1, 2, -1, 1, 0, 2], [-1, 1, -2, 0]]
    assert reference(ratings) == reference(ratings)
