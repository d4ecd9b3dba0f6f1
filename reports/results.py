"""What a registered test found: its statistic, estimated from the values that it compares."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from reports import statistics
from reports.claims import DELTA, EPSILON, Test
from reports.sample_size import least_sample_sizes, sample_size_interval
from reports.samples import Samples
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
        return holds(self.test, self.estimate)

    @property
    def fails(self) -> bool:
        """Whether the whole interval is on the wrong side."""
        below = self.test.side == "below"
        return self.estimate.low > self.test.threshold if below else self.estimate.high < self.test.threshold


def holds(test: Test, found: Estimate) -> bool:
    """Whether the whole interval is on the registered side."""
    return found.high <= test.threshold if test.side == "below" else found.low >= test.threshold


def estimate(test: Test, frame: pd.DataFrame) -> Estimate:
    """Estimate what a registered test asks for.

    Args:
        test: The test.
        frame: As in `reports.samples.Samples`.
    """
    columns = [frame[name].to_numpy(dtype=float) for name in frame.columns]
    arm, other = columns[0], columns[-1]
    match test.statistic:
        case "mean difference":
            return statistics.mean_estimate(arm - other, test.threshold)
        case "ratio of means":
            return statistics.ratio_estimate(arm, other, test.threshold)
        case "coverage":
            return statistics.coverage_estimate(int((arm <= other).sum()), len(arm), test.threshold)
        case "share":
            return statistics.coverage_estimate(int(arm.sum()), len(arm), test.threshold)
        case "log-log slope":
            return statistics.slope_estimate(frame["n"], arm, test.threshold)
        case "least sample size":
            own, others = (
                least_sample_sizes(dict(list(frame[name].groupby(frame["n"]))), EPSILON, DELTA)
                for name in frame.columns[:2]
            )
            with np.errstate(invalid="ignore"):  # where neither is reached
                ratio = sample_size_interval(own / others)
            return statistics.interval_estimate(ratio, test.threshold)
        case "median":
            return statistics.median_estimate(arm / other if test.reference else arm, test.threshold)
        case "largest":
            return statistics.exact_estimate(float(arm.max()), test.threshold)
    cells = [statistics.interval_estimate(Interval(*row), test.threshold) for row in frame.itertuples(index=False)]
    worst = max(cells, key=lambda cell: (cell.p_below, cell.effect))
    # Any cell on the wrong side contradicts: the smallest p-value, times the number of cells.
    return worst._replace(p_above=min(1.0, len(cells) * min(cell.p_above for cell in cells)))


def evaluate(test: Test, found: Samples) -> Result:
    """Estimate what a registered test asks for, and what else is said of paired means."""
    unit = str(found.frame.index.name)
    result = Result(test, estimate(test, found.frame), len(found.frame), unit, found.frame, note=found.note)
    if test.statistic not in ("mean difference", "ratio of means"):
        return result
    arm, reference = found.arm, found.reference
    is_difference = test.statistic == "mean difference"
    null = reference + test.threshold if is_difference else reference * test.threshold
    scale = 1.0 if is_difference else abs(float(reference.mean()))
    return replace(
        result,
        sign_flip_p=statistics.sign_flip(arm, null, test.side),
        improvement=statistics.probability_of_improvement(arm, null, test.side),
        detectable=statistics.minimal_detectable_difference(arm - null) / scale,
    )
