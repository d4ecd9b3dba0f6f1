"""Numbers and tests in words, for people."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from reports.claims import LEVEL, Claim, Test
from reports.statistics import Estimate

#: Column of the evidence -> what people call it.
MEASURES = {
    "sup_one_sided": "one-sided uniform deviation",
    "generalization_gap": "generalization gap",
    "population_risk": "risk",
    "test_score": "test score",
    "coefficient": "learned coefficient",
    "parameter_error": "distance to the teacher's coefficients",
    "sup_two_sided": "two-sided uniform deviation",
    "overtraining": "final risk over the least",
    "limit": "its limit",
    "bound": "its bound",
    "iid_bound": "the bound for independent inputs",
    "mutant_loss": "the bound with half the M",
    "mutant_discrepancy": "the bound without its discrepancy",
}

#: Said of intervals of which there are many.
NOT_CORRECTED = "The intervals are not corrected for their number."

#: Recipe -> the paper's name.
RECIPES = {
    "ft": "FT", "kd": "KD", "pkd": "PKD", "distilbert": "DistilBERT", "sm": "SM", "tmkd": "TMKD", "sm+tmkd": "SM+TMKD",
    "sm+tmkd+kd": "SM+TMKD+KD",
}  # fmt: skip


def name_of(recipe: str) -> str:
    """A recipe by the paper's name, with or without back-translation."""
    plain = recipe.removesuffix("+bt")
    return RECIPES.get(plain, plain) + recipe[len(plain) :].upper()


def recipe_and_target(row: Mapping[Any, Any]) -> str:
    """A row of a table by its recipe and what it was tested on."""
    return f"{name_of(row['recipe'])}, {row['target']}"


def enumeration(items: Sequence[str]) -> str:
    """Items, at least one, in a sentence: "a", "a and b", "a, b and c"."""
    *others, last = items
    return f"{', '.join(others)} and {last}" if others else last


def effects(rows: pd.DataFrame, label: Callable[[Mapping[Any, Any]], str]) -> str:
    """The columns effect, low and high of a table in words, each row by its label."""
    return "; ".join(
        f"{label(row)} {number(row['effect'])} {interval(row['low'], row['high'])}" for row in rows.to_dict("records")
    )


def number(value: float | None) -> str:
    """Three significant digits, thousands apart, a real minus sign; "—" for what is not known."""
    if value is None or not math.isfinite(value):
        return "—"
    size = abs(value)
    if value == int(value) and size < 1e15:
        text = f"{int(value):,}"
    elif size < 1e-4 or size >= 1e6:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.{max(0, 2 - math.floor(math.log10(size)))}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval(low: float | None, high: float | None) -> str:
    """An interval in brackets."""
    known = [end is not None and math.isfinite(end) for end in (low, high)]
    return f"[{number(low)}, {number(high)}]" if all(known) else "[unbounded]"


def p_value(p: float) -> str:
    """A p-value with its sign of comparison, with more digits where it is rounded to the level."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p == LEVEL or f"{p:.3f}" != f"{LEVEL:.3f}" else f"p = {p:.5f}"


def count(num: int, singular: str) -> str:
    """A number and its noun: "1 seed", "2,000 replicates"."""
    return f"{num:,} {singular}{'' if num == 1 else 's'}"


def seeds_told(rows: pd.DataFrame) -> str:
    """How many seeds the rows of a table have."""
    least, most = int(rows["num_seeds"].min()), int(rows["num_seeds"].max())
    return count(most, "seed") if least == most else f"{least} to {count(most, 'seed')}"


def apart_told(rows: pd.DataFrame) -> str:
    """How many of a table's paired differences are between runs of two machines, if any are."""
    num = int(rows["num_apart"].sum())
    return f"{num:,} of the seeds' differences {'is' if num == 1 else 'are'} between two machines. " if num else ""


def replicates(data: pd.DataFrame) -> str:
    """How many replicates stand behind a figure's numbers, at most."""
    return count(int(data["num_replicates"].max()), "replicate")


def quantity(claim: Claim, test: Test) -> str:
    """What a test estimates."""
    measure = MEASURES.get(test.measure, test.measure)
    arm, reference = (
        RECIPES.get(name, name) if name and claim.evidence == "runs" else name for name in (test.arm, test.reference)
    )
    match test.statistic:
        case "mean difference" if test.against_fraction:
            return (
                f"mean difference in {measure}, {arm} minus {reference}, on {test.fraction:.0%} of the data minus the "
                f"same on {test.against_fraction:.0%}"
            )
        case "mean difference":
            share = f" on {test.fraction:.0%} of the data" if test.fraction else ""
            start = ", both from every other layer" if test.init == "skip" else ""
            longer = " with twice the epochs" if test.longer_reference else ""
            return f"mean difference in {measure}, {arm} minus {reference}{longer}{share}{start}"
        case "ratio of means" if test.column:
            return f"ratio of mean {measure} of {arm} to {MEASURES.get(test.column, test.column)}"
        case "ratio of means":
            return f"ratio of mean {measure}, {arm} to {reference}"
        case "coverage":
            return (
                f"share of replicates of {arm} whose {measure} is within {MEASURES.get(str(test.column), test.column)}"
            )
        case "share":
            return f"share of {arm} with {measure}"
        case "log-log slope":
            return f"slope of log {measure} over log n, {arm}"
        case "least sample size":
            return f"ratio of least sample sizes, {arm} to {reference}"
        case "median":
            return f"median ratio of {measure}, {arm} to {reference}" if reference else f"median {measure} of {arm}"
        case "every cell":
            return f"largest ratio of {measure}, {arm} to {reference}, over the cells measured"
        case "largest" if claim.evidence == "benchmarks":
            return f"ratio of {measure}, {arm} to {reference}"
        case "largest":
            return (
                f"largest difference in {measure}, {arm} against {reference}"
                if reference
                else f"largest {measure}, {arm}"
            )
    raise AssertionError(test.statistic)


def tests(claim: Claim) -> str:
    """What a claim's first test estimates and demands, and how many more there are."""
    told = f"{quantity(claim, claim.tests[0])}: {registered(claim.tests[0])}"
    more = f"; {count(len(claim.tests) - 1, 'more test')}" if len(claim.tests) > 1 else ""
    return f"{told[0].upper()}{told[1:]}{more}"


def registered(test: Test) -> str:
    """What a test demands."""
    if test.threshold == 0 and test.statistic == "largest":
        return "exactly 0"
    if test.threshold == 0:
        return f"{test.side} 0"
    return f"{'at most' if test.side == 'below' else 'at least'} {number(test.threshold)}"


def estimate(values: Estimate) -> str:
    """A point estimate with its interval; an exact number alone."""
    if values.low == values.high:
        return number(values.effect)
    return f"{number(values.effect)} {interval(values.low, values.high)}"
