"""Claims about bounds, deviations and learned gaps in simulated worlds, with bounds mutated on purpose."""

from reports.claims import Claim, Test, at_least, at_most, less, within
from theory.studies import CURVATURE_EXCESS, SAMPLE_SIZE_RATIO


def _theory(id: str, statement: str, source: str, *tests: Test, control: bool = False, study: str = "") -> Claim:
    study = study or id
    return Claim(
        id=id,
        statement=statement,
        source=f"our derivation, {source}",
        family="control" if control else "confirmatory",
        expected="contradicted" if control else "supported",
        evidence="theory",
        study=study,
        tests=tests,
        command=f"mixkd theory {study}",
    )


def _ratio_below(arm: str, threshold: float) -> Test:
    return at_most("ratio of means", "sup_one_sided", arm, "S0", threshold)


def _covers(arm: str, column: str = "bound") -> Test:
    """The bound holds in at least 95 % of all replicates, as its delta promises."""
    return at_least("coverage", "sup_one_sided", arm, None, 0.95, column)


def _shrinks_both(arm: str, reference: str) -> tuple[Test, Test]:
    """The learned gap and the risk are smaller."""
    return less("generalization_gap", arm, reference), less("population_risk", arm, reference)


_ALL_COVER = (_covers("W1"), _covers("W2"), _covers("coin"))

THEORY_CLAIMS: tuple[Claim, ...] = (
    _theory(
        "T01",
        "Without augmentation, the bound T0 holds at least as often as it promises.",
        "inequality T0",
        *_ALL_COVER,
    ),
    _theory(
        "T02",
        "With fresh inputs, the bound T1 holds at least as often as it promises.",
        "inequality T1",
        *_ALL_COVER,
    ),
    _theory(
        "T03",
        "With independent mixup, the bound T2 holds at least as often as it promises.",
        "inequality T2",
        *_ALL_COVER,
    ),
    _theory(
        "T04",
        "With in-sample mixup, the bound T3 holds at least as often as it promises.",
        "inequality T3",
        *_ALL_COVER,
    ),
    _theory(
        "T05",
        "As many fresh inputs, labelled by the teacher, shrink the one-sided uniform deviation by 20 % or more.",
        "inequality T1",
        _ratio_below("S1", 0.8),
    ),
    _theory(
        "T06",
        "With fresh inputs, the one-sided uniform deviation falls like one over the root of the number of all inputs.",
        "inequality T1",
        *within(at_most("log-log slope", "sup_one_sided", "W1 S1", None, 0), -0.5, 0.05),
        study="gap_by_n",
    ),
    _theory(
        "T07",
        "As many fresh inputs as originals halve the number of originals that it takes for a deviation of at most 0.3 "
        "in 95 % of all samples.",
        "inequality T1 (n*(S1) / n*(S0) = 1 / (1 + rho), rho = 1)",
        *within(
            at_most("least sample size", "sup_one_sided", "W1 S1", "W1 S0", 0),
            SAMPLE_SIZE_RATIO,
            0.15 * SAMPLE_SIZE_RATIO,
        ),
        study="gap_by_n",
    ),
    _theory(
        "T08",
        "With 20 originals, as many independent mixups shrink the one-sided uniform deviation by 5 % or more.",
        "inequality T2",
        _ratio_below("S2", 0.95),
    ),
    _theory(
        "T09",
        "With 320 originals, as many independent mixups shrink the one-sided uniform deviation by 5 % or more.",
        "inequality T2 (whose discrepancy stays as n grows)",
        _ratio_below("S2", 0.95),
        control=True,
    ),
    _theory(
        "T10",
        "With independent mixup and 5,120 originals, the one-sided uniform deviation is the discrepancy of the mixed "
        "law, times its share, within 5 %.",
        "inequality T2 (its limit)",
        *within(
            at_most("ratio of means", "sup_one_sided", "S2", None, 1, "limit"),
            1,
            0.05,
        ),
    ),
    _theory(
        "T11",
        "In-sample mixup shrinks the one-sided uniform deviation when teacher and student are affine.",
        "inequality N1 (which says the opposite)",
        _ratio_below("S3", 1),
        control=True,
    ),
    _theory(
        "T12",
        "In-sample mixup shrinks the two-sided uniform deviation of linear students where the originals are few for "
        "their dimension (60 and 400), and enlarges it where they are many (20 and 2,000).",
        "case (ii), shrinkage",
        at_most("ratio of means", "sup_two_sided", "d=60 S3", "d=60 S0", 1),
        at_least("ratio of means", "sup_two_sided", "d=20 S3", "d=20 S0", 1),
    ),
    _theory(
        "T13",
        "The bound for as many independent inputs covers in-sample mixup with 100 mixups per original.",
        "inequality T3 (mixed inputs of one sample are neither independent nor drawn from p)",
        _covers("rho=100", "iid_bound"),
        control=True,
    ),
    _theory(
        "T14",
        "Duplicating originals at random shrinks the one-sided uniform deviation.",
        "inequality N2 (which says the opposite)",
        _ratio_below("random", 1),
        control=True,
    ),
    _theory(
        "T14b",
        "Duplicating every original equally often leaves the one-sided uniform deviation exactly as it was.",
        "inequality N2 (its case of equality)",
        at_most("largest", "sup_one_sided", "balanced", "S0", 0),
        study="T14",
    ),
    _theory(
        "T15",
        "From 20 to 100 mixups per original, the one-sided uniform deviation hardly moves: within 5 %.",
        "case (iii), more mixups only remove the conditional Monte-Carlo term, and raise the mixed share a little",
        *within(at_most("ratio of means", "sup_one_sided", "rho=100", "rho=20", 0), 1, 0.05),
        study="T13",
    ),
    _theory(
        "T16",
        "One mixup per pair of d + 1 originals identifies a quadratic teacher; the originals alone do not.",
        "case (i), teacher queries",
        at_most("median", "population_risk", "S3", None, 1e-8),
        at_least("median", "population_risk", "S0", None, 1.0),  # 17 in the pilot
    ),
    _theory(
        "T17",
        "With a linear teacher and fewer originals than dimensions, in-sample mixup teaches the min-norm "
        "student nothing, while fresh inputs and jitter recover the teacher.",
        "case (i), affine features",
        at_most("largest", "coefficient", "S3", "S0", 1e-8),
        at_most("largest", "parameter_error", "S1", None, 1e-8),
        at_most("largest", "parameter_error", "jitter", None, 1e-8),
    ),
    _theory(
        "T18",
        "With an affine student, a quadratic teacher and 5,120 originals, in-sample mixup lowers the risk.",
        "bias of mixup where the teacher is outside the class (which says the opposite)",
        less("population_risk", "S3", "S0"),
        control=True,
    ),
    _theory(
        "T18b",
        "With an affine student, a quadratic teacher and 5,120 originals, in-sample mixup adds to the risk what the "
        "curvature of the teacher predicts, within 10 %.",
        "bias of mixup where the teacher is outside the class (closed form)",
        *within(less("population_risk", "S3", "S0"), CURVATURE_EXCESS, 0.1 * CURVATURE_EXCESS),
        study="T18",
    ),
    _theory(
        "T19",
        "Jitter labelled by the teacher, which shrinks the learned gap, lowers the risk as well.",
        "inequality N4 (the gap can be gamed)",
        less("population_risk", "jitter", "S0"),
        control=True,
    ),
    _theory(
        "T19b",
        "Jitter labelled by the teacher shrinks the learned gap.",
        "inequality N4 (its premise in T19)",
        less("generalization_gap", "jitter", "S0"),
        study="T19",
    ),
    _theory(
        "T20",
        "Along the gradient flow, mixed labels over-train a student that could represent the teacher (its final risk "
        "is 30 % above its least); the teacher's answers to the same inputs do not (5 %).",
        "gradient flow in closed form",
        at_least("median", "overtraining", "realisable label-mixup", None, 1.3),
        at_most("median", "overtraining", "realisable S3", None, 1.05),
    ),
    _theory(
        "T20b",
        "Two-layer networks over-train more on mixed labels than on the teacher's answers to the same inputs.",
        "T20, for trained networks",
        at_least("median", "overtraining", "network label-mixup", "network S3", 1),
        study="T20",
    ),
    _theory(
        "T20c",
        "Two-layer networks wide enough for the teacher do not over-train on its answers: by 5 % at most.",
        "T20, for trained networks (the pilot said the opposite)",
        at_most("median", "overtraining", "network S3", None, 1.05),
        control=True,
        study="T20",
    ),
    _theory(
        "T21",
        "Along the gradient flow, the teacher's answers to mixed inputs do not over-train a student that cannot "
        "represent the teacher: by 5 % at most.",
        "gradient flow in closed form (which says the opposite)",
        at_most("median", "overtraining", "misspecified S3", None, 1.05),
        control=True,
        study="T20",
    ),
    _theory(
        "T22",
        "With an over-parameterised student, a nonlinear teacher and few originals (20 and 50), in-sample "
        "mixup shrinks the learned gap and the risk.",
        "where S3 can help",
        *_shrinks_both("S3 n=20", "S0 n=20"),
        *_shrinks_both("S3 n=50", "S0 n=50"),
    ),
    _theory(
        "T23",
        "With an affine student, a nonlinear teacher and 400 originals, in-sample mixup shrinks the learned gap and "
        "the risk.",
        "bias of mixup where the teacher is outside the class (which says the opposite)",
        *_shrinks_both("S3", "S0"),
        control=True,
    ),
    *(
        _theory(
            f"T24{suffix}",
            f"On sentence embeddings, with a trained head as teacher and {' and '.join(map(str, sizes))} sentences, "
            f"in-sample mixup shrinks the learned gap and the risk of {name}.",
            "T22, on real inputs",
            *(test for n in sizes for test in _shrinks_both(f"{student} S3 n={n}", f"{student} S0 n={n}")),
            study="T24",
        )
        for suffix, student, name, sizes in (
            ("", "cosines", "students on random cosines", (20, 50)),
            ("b", "affine", "affine students", (20, 50)),
            # With 50, the pilot's effect on networks (2 % of the risk) was too small for 200 replicates.
            ("c", "network", "small networks", (20,)),
        )
    ),
)


def _mutant(study: str, role: str, constant: str) -> Claim:
    return _theory(
        f"M{study[1:]}-{constant}",
        f"The bound {'T' + str(int(study[1:]) - 1)} with a wrong {constant} term still holds as often as it promises.",
        "mutation of the bound (a suite that supported it could not tell bounds from wrong ones)",
        _covers(role, f"mutant_{constant}"),
        control=True,
        study=study,
    )


#: Bounds with one wrong constant, where the world is tight enough to tell; the others are too loose (see the report).
MUTANT_CLAIMS = (
    _mutant("T01", "coin", "loss"),
    _mutant("T02", "coin", "loss"),
    _mutant("T03", "coin", "loss"),
    _mutant("T03", "W1 n=100000", "discrepancy"),
)
