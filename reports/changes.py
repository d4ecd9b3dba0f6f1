"""What changed since another store: verdicts that flipped, effects and speeds that moved beyond their intervals."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from reports.benchmark_files import CASE, SCORED, is_one_case, latest
from reports.evidence import Evidence
from reports.verdicts import Judged
from reports.wording import estimate, interval, number, quantity


class Change(NamedTuple):
    """One thing that is not what it was, in words."""

    what: str
    before: str
    after: str


def changes(evidence: Evidence, judged: list[Judged], before: Evidence, judged_before: list[Judged]) -> list[Change]:
    """Everything that changed since a baseline; both are judged by today's ledger.

    Args:
        evidence: Of this store.
        judged: Its verdicts.
        before: Of the baseline.
        judged_before: Its verdicts.
    """
    return [
        *_verdicts(judged, judged_before),
        *_effects(judged, judged_before),
        *_speeds(evidence.benchmarks, before.benchmarks),
    ]


def _verdicts(judged: list[Judged], judged_before: list[Judged]) -> Iterator[Change]:
    for now, then in zip(judged, judged_before, strict=True):
        if now.verdict.verdict != then.verdict.verdict:
            yield Change(f"Verdict on {now.claim.id}", then.verdict.verdict, now.verdict.verdict)


def _effects(judged: list[Judged], judged_before: list[Judged]) -> Iterator[Change]:
    for now, then in zip(judged, judged_before, strict=True):
        if now.results and then.results:
            for result, earlier in zip(now.results, then.results, strict=True):
                a, b = result.estimate, earlier.estimate
                if a.low > b.high or a.high < b.low:
                    yield Change(f"{now.claim.id}: {quantity(now.claim, result.test)}", estimate(b), estimate(a))


def _speeds(benchmarks: pd.DataFrame, before: pd.DataFrame) -> Iterator[Change]:
    """Ratios to the teacher of the same run, on the same processor."""
    columns = ["speedup_vs_teacher", "speedup_low", "speedup_high"]
    both = [latest(frame).dropna(subset=columns) for frame in (benchmarks, before)]
    pairs = both[0].merge(both[1][[*CASE, *SCORED, *columns]], on=CASE, suffixes=("", "_before"))
    for row in pairs[is_one_case(pairs, "_before")].to_dict("records"):
        if row["speedup_low"] > row["speedup_high_before"] or row["speedup_high"] < row["speedup_low_before"]:
            after, earlier = (
                f"{number(row[f'speedup_vs_teacher{which}'])} "
                f"{interval(row[f'speedup_low{which}'], row[f'speedup_high{which}'])}"
                for which in ("", "_before")
            )
            yield Change(f"Times as fast as the teacher: {row['name']}", earlier, after)
