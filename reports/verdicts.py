"""From evidence to verdicts.

A claim is an intersection of tests: supported only if all hold, contradicted if any fails. Its p-value for
support is the largest of its tests' (which needs no correction), its p-value against the smallest times their
number. Holm's correction then runs over each family of the ledger as registered; a claim that was not run
counts with p = 1, so that judging fewer claims does not make it easier to pass.

Paired t tests decide. The sign-flip permutation beside them assumes no distribution, but with fewer than five
pairs it cannot fall below the level, whatever the data: it is shown, and does not decide.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, field_validator

from reports import statistics, wording
from reports.claims import LEDGER, LEVEL, Claim, Family, Outcome, Test
from reports.evidence import Evidence
from reports.samples import Missing, Samples, samples
from reports.statistics import Estimate, Interval


@dataclass(frozen=True)
class Result:
    """What one registered test found.

    Attributes:
        num_samples: Number of replicates, seeds or cells, named by `unit`.
        sign_flip_p: Permutation p-value for the claim; None where nothing is paired.
        improvement: Chance that a single pair is on the registered side; None likewise.
        detectable: Effect (its distance from the threshold) that 80 % power needs at this spread; None likewise.
        frame: The values that were compared.
    """

    test: Test
    estimate: Estimate
    num_samples: int
    unit: str
    frame: pd.DataFrame
    sign_flip_p: float | None = None
    improvement: Interval | None = None
    detectable: float | None = None
    note: str = ""

    @property
    def p_support(self) -> float:
        """P-value of the registered side."""
        return self.estimate.p_below if self.test.side == "below" else self.estimate.p_above

    @property
    def p_against(self) -> float:
        """P-value of the other side."""
        return self.estimate.p_above if self.test.side == "below" else self.estimate.p_below

    @property
    def holds(self) -> bool:
        """Whether the whole interval is on the registered side."""
        below = self.test.side == "below"
        return self.estimate.high <= self.test.threshold if below else self.estimate.low >= self.test.threshold

    @property
    def fails(self) -> bool:
        """Whether the whole interval is on the wrong side."""
        below = self.test.side == "below"
        return self.estimate.low > self.test.threshold if below else self.estimate.high < self.test.threshold


class Verdict(BaseModel):
    """What the evidence says about a claim; effect, interval and threshold are those of the deciding test.

    Attributes:
        matches: Whether the verdict is the expected one; a claim that was not run never matches.
        p_support: P-value for the claim, after Holm over its family.
        p_against: P-value against it, likewise.
        evidence: The values compared, as CSV beside the report; None where there are none.
    """

    model_config = ConfigDict(frozen=True)

    claim: str
    family: Family
    verdict: Outcome
    expected: Outcome
    matches: bool
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    num_samples: int = 0
    unit: str | None = None
    p_support: float | None = None
    p_against: float | None = None
    reason: str
    command: str
    evidence: str | None = None

    @field_validator("effect", "low", "high")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Judged:
    """A claim, its verdict, and the results of its tests (none if it was not run)."""

    claim: Claim
    verdict: Verdict
    results: tuple[Result, ...] = ()

    @property
    def is_surprise(self) -> bool:
        """Whether the evidence decided, and not as expected."""
        return self.verdict.verdict in ("supported", "contradicted") and not self.verdict.matches


def evaluate(test: Test, found: Samples) -> Result:
    """Estimate what a registered test asks for."""
    arm = found.arm
    unit = str(found.frame.index.name)
    if test.statistic in ("mean difference", "ratio of means"):
        return _evaluate_pairs(test, found, unit)
    match test.statistic:
        case "coverage":
            values = statistics.coverage_estimate(int((arm <= found.reference).sum()), len(arm), test.threshold)
        case "median":
            values = statistics.median_estimate(arm / found.reference if test.reference else arm, test.threshold)
        case "largest":
            values = statistics.exact_estimate(float(arm.max()), test.threshold)
        case _:
            cells = [
                statistics.interval_estimate(Interval(*row), test.threshold)
                for row in found.frame.itertuples(index=False)
            ]
            worst = max(cells, key=lambda cell: (cell.p_below, cell.effect))
            # Any cell on the wrong side contradicts: the smallest p-value, times the number of cells.
            against = min(1.0, len(cells) * min(cell.p_above for cell in cells))
            values = worst._replace(p_above=against)
    return Result(test, values, len(arm), unit, found.frame, note=found.note)


def _evaluate_pairs(test: Test, found: Samples, unit: str) -> Result:
    arm, reference = found.arm, found.reference
    if test.statistic == "mean difference":
        null, scale = reference + test.threshold, 1.0
        values = statistics.mean_estimate(arm - reference, test.threshold)
    else:
        null, scale = reference * test.threshold, abs(float(reference.mean()))
        values = statistics.ratio_estimate(arm, reference, test.threshold)
    return Result(
        test,
        values,
        len(arm),
        unit,
        found.frame,
        sign_flip_p=statistics.sign_flip(arm, null, test.side),
        improvement=statistics.probability_of_improvement(arm, null, test.side),
        detectable=statistics.minimal_detectable_difference(arm - null) / scale,
        note=found.note,
    )


def measure(claim: Claim, evidence: Evidence) -> tuple[Result, ...] | Missing:
    """The results of a claim's tests; missing if the evidence of any of them is."""
    results = []
    for test in claim.tests:
        found = samples(evidence, claim, test)
        if isinstance(found, Missing):
            return found
        results.append(evaluate(test, found))
    return tuple(results)


def judge_all(evidence: Evidence, ledger: tuple[Claim, ...] = LEDGER) -> list[Judged]:
    """The verdict on every claim, in the ledger's order."""
    return judge_outcomes({claim.id: measure(claim, evidence) for claim in ledger}, ledger)


def judge_outcomes(outcomes: Mapping[str, tuple[Result, ...] | Missing], ledger: tuple[Claim, ...]) -> list[Judged]:
    """The verdicts on what was measured, Holm's correction included."""
    judged = {}
    for family in ("confirmatory", "control"):
        claims = [claim for claim in ledger if claim.family == family]
        p_values = [_claim_p_values(outcomes[claim.id]) for claim in claims]
        support = statistics.holm([p for p, _ in p_values])
        against = statistics.holm([p for _, p in p_values])
        for claim, p_support, p_against in zip(claims, support, against, strict=True):
            judged[claim.id] = judge(claim, outcomes[claim.id], p_support, p_against)
    return [judged[claim.id] for claim in ledger]


def _claim_p_values(outcome: tuple[Result, ...] | Missing) -> tuple[float, float]:
    if isinstance(outcome, Missing):
        return 1.0, 1.0
    against = min(result.p_against for result in outcome)
    return max(result.p_support for result in outcome), min(1.0, len(outcome) * against)


def judge(claim: Claim, outcome: tuple[Result, ...] | Missing, p_support: float, p_against: float) -> Judged:
    """The verdict on one claim.

    Args:
        claim: The claim.
        outcome: The results of its tests.
        p_support: P-value for the claim, after Holm over its family.
        p_against: P-value against it, likewise.
    """
    if isinstance(outcome, Missing):
        reason = f"Not run: {outcome.reason}. Run `{claim.command}`."
        return Judged(claim, _verdict(claim, "not run", reason))
    failed = [result for result in outcome if result.fails]
    if failed or p_against <= LEVEL:
        found: Outcome = "contradicted"
        deciding = min(failed or outcome, key=lambda result: result.p_against)
    else:
        supported = p_support <= LEVEL and all(result.holds for result in outcome)
        found = "supported" if supported else "inconclusive"
        deciding = max(outcome, key=lambda result: result.p_support)
    verdict = _verdict(
        claim,
        found,
        _reason(claim, found, outcome, deciding, p_against if found == "contradicted" else p_support),
        effect=deciding.estimate.effect,
        low=deciding.estimate.low,
        high=deciding.estimate.high,
        threshold=deciding.test.threshold,
        num_samples=deciding.num_samples,
        unit=deciding.unit,
        p_support=p_support,
        p_against=p_against,
        evidence=f"evidence/{claim.id}.csv",
    )
    return Judged(claim, verdict, outcome)


def _verdict(claim: Claim, found: Outcome, reason: str, **numbers: object) -> Verdict:
    return Verdict.model_validate(
        {
            "claim": claim.id,
            "family": claim.family,
            "verdict": found,
            "expected": claim.expected,
            "matches": found == claim.expected,
            "reason": reason,
            "command": claim.command,
            **numbers,
        }
    )


def _reason(claim: Claim, found: Outcome, results: tuple[Result, ...], deciding: Result, p: float) -> str:
    """Why a verdict is what it is, in one or two sentences with their numbers."""
    quantity = wording.quantity(claim, deciding.test)
    sentence = (
        f"{quantity[0].upper()}{quantity[1:]}: {wording.estimate(deciding.estimate)} over "
        f"{wording.count(deciding.num_samples, deciding.unit)}; registered: {wording.registered(deciding.test)}"
    )
    if deciding.estimate.low < deciding.estimate.high:
        wrong = "the interval is wholly on the wrong side, " if deciding.fails else ""
        against = " against the claim" if found == "contradicted" else ""
        sentence += f"; {wrong}{wording.p_value(p)}{against} after Holm"
    if len(results) > 1 and found == "supported":
        sentence = f"All {len(results)} tests hold. The weakest: {sentence}"
    elif len(results) > 1 and found == "contradicted":
        sentence = f"Of {len(results)} tests, the clearest against it: {sentence}"
    if found == "inconclusive":
        sentence += f". {_what_is_lacking(deciding)}"
    return f"{sentence}. {deciding.note}".strip()


def _what_is_lacking(result: Result) -> str:
    if not np.isfinite([result.estimate.low, result.estimate.high]).all():
        return f"{wording.count(result.num_samples, result.unit)}, too few or too much alike for an interval"
    side = "reaches the registered side, but not after Holm" if result.holds else "holds both sides of the threshold"
    if result.detectable is None:
        return f"The interval {side}"
    return (
        f"The interval {side}; with this spread, 80 % power needs an effect {wording.number(result.detectable)} "
        f"beyond the threshold"
    )


def evidence_frame(judged: Judged) -> pd.DataFrame:
    """The values behind a verdict, one row per test and replicate, seed or cell."""
    frames = [
        result.frame.reset_index().assign(test=wording.quantity(judged.claim, result.test)) for result in judged.results
    ]
    frame = pd.concat(frames, ignore_index=True)
    return frame[["test", *(name for name in frame.columns if name != "test")]]
