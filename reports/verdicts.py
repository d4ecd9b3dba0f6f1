"""From evidence to verdicts.

A claim is an intersection of tests: supported only if all hold, contradicted if any fails. Its p-value for
support is the largest of its tests' (which needs no correction), its p-value against the smallest times their
number. Holm's correction then runs over each family of the ledger as registered; a claim that was not run
counts with p = 1, so that judging fewer claims does not make it easier to pass.

Paired t tests decide. The sign-flip permutation beside them assumes no distribution, but with fewer than five
pairs it cannot fall below the level, whatever the data: it is shown, and does not decide.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, field_validator

from reports import statistics, wording
from reports.claims import LEVEL, Claim, Family, Outcome, Test
from reports.evidence import Evidence
from reports.ledger import LEDGER
from reports.results import Result, evaluate
from reports.samples import Missing, samples
from reports.statistics import Estimate


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


def measure(claim: Claim, evidence: Evidence) -> tuple[Result, ...] | Missing:
    """The results of a claim's tests; missing if the evidence of any of them is."""
    results = []
    for test in claim.tests:
        found = samples(evidence, claim, test)
        if isinstance(found, Missing):
            return found
        results.append(evaluate(test, found))
    return tuple(results)


def judge_all(evidence: Evidence) -> list[Judged]:
    """The verdict on every claim, in the ledger's order."""
    return judge_outcomes({claim.id: measure(claim, evidence) for claim in LEDGER}, LEDGER)


def judge_outcomes(outcomes: Mapping[str, tuple[Result, ...] | Missing], ledger: tuple[Claim, ...]) -> list[Judged]:
    """The verdicts on what was measured, Holm's correction included."""
    raw = {
        claim: (1.0, 1.0)
        if isinstance(outcome, Missing)
        else claim_p_values([(result.test, result.estimate) for result in outcome])
        for claim, outcome in outcomes.items()
    }
    judged = {claim.id: judge(claim, outcomes[claim.id], *p_values) for claim, p_values in family_p_values(ledger, raw)}
    return [judged[claim.id] for claim in ledger]


def claim_p_values(tests: list[tuple[Test, Estimate]]) -> tuple[float, float]:
    """P-values for a claim and against it, before Holm."""
    sides = [(e.p_below, e.p_above) if test.side == "below" else (e.p_above, e.p_below) for test, e in tests]
    return max(support for support, _ in sides), min(1.0, len(sides) * min(against for _, against in sides))


def family_p_values(
    ledger: tuple[Claim, ...], raw: Mapping[str, tuple[float, float]]
) -> Iterator[tuple[Claim, tuple[float, float]]]:
    """Every claim with its p-values after Holm's correction over its family."""
    for family in get_args(Family):
        claims = [claim for claim in ledger if claim.family == family]
        support, against = (statistics.holm([raw[claim.id][side] for claim in claims]) for side in (0, 1))
        yield from zip(claims, zip(support, against, strict=True), strict=True)


def judge(claim: Claim, outcome: tuple[Result, ...] | Missing, p_support: float, p_against: float) -> Judged:
    """The verdict on one claim.

    Args:
        claim: The claim.
        outcome: The results of its tests.
        p_support: P-value for the claim, after Holm over its family.
        p_against: P-value against it, likewise.
    """
    if isinstance(outcome, Missing):
        reason = f"Not run: {outcome.reason}. To run it: {claim.command}."
        return Judged(claim, _verdict(claim, "not run", reason))
    found = decide(p_support, p_against, all(result.holds for result in outcome))
    if found == "contradicted":
        deciding = min(outcome, key=lambda result: result.p_against)
    else:
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


def decide(p_support: float, p_against: float, all_hold: bool) -> Outcome:
    """The rule: one side rejected after Holm; for support also every interval beyond its threshold.

    An interval on the wrong side alone does not contradict: it is not corrected for the number of claims, and where
    nothing has any effect it would contradict some claim far more often than in 5 % of all reports.
    """
    if p_against <= LEVEL:
        return "contradicted"
    return "supported" if p_support <= LEVEL and all_hold else "inconclusive"


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
        against = " against the claim" if found == "contradicted" else ""
        sentence += f"; {wording.p_value(p)}{against} after Holm"
    if len(results) > 1 and found == "supported":
        sentence = f"{'Both' if len(results) == 2 else f'All {len(results)}'} tests hold. The weakest: {sentence}"
    elif len(results) > 1 and found == "contradicted":
        sentence = f"Of {len(results)} tests, the clearest against it: {sentence}"
    if found == "inconclusive":
        sentence += f". {_what_is_lacking(deciding)}"
    return f"{sentence}. {deciding.note}".strip()


def _what_is_lacking(result: Result) -> str:
    if not np.isfinite([result.estimate.low, result.estimate.high]).all():
        return f"{wording.count(result.num_samples, result.unit)}, too few or too much alike for an interval"
    if result.holds or result.fails:
        side = f"is on the {'registered' if result.holds else 'wrong'} side, but the test does not reject after Holm"
    else:
        side = "contains the threshold"
    if result.detectable is None:
        return f"The interval {side}"
    return (
        f"The interval {side}; with this spread, a single test without Holm's correction has 80 % power at an effect "
        f"{wording.number(result.detectable)} beyond the threshold"
    )


def evidence_frame(judged: Judged) -> pd.DataFrame:
    """The values behind a verdict, one row per test and replicate, seed or cell."""
    frames = [
        result.frame.reset_index().assign(test=wording.quantity(judged.claim, result.test)) for result in judged.results
    ]
    frame = pd.concat(frames, ignore_index=True)
    return frame[["test", *(name for name in frame.columns if name != "test")]]
