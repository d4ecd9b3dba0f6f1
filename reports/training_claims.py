"""Claims about trained students, their time and their size."""

from reports.claims import EQUIVALENT_SCORE, Claim, Test, at_least, at_most, less, more, within
from reports.setting import LEAST, LIMITED, NUM_SEEDS, TRAINING
from reports.wording import RECIPES

_PAPER = "paper (direction of its experiments; data, model and test are ours)"
_DISTILBERT = (
    "paper (direction of its experiments; data, model and test are ours, and so is DistilBERT: KD from its start, "
    "without its pre-training)"
)
_THEOREM = "paper (direction of its theorem, read on trained networks; data, model and test are ours)"
_SCORE = "paper (a compressed student stays close to its teacher; the number is ours)"
_SIZE = "paper (a compressed student is far smaller and faster; the numbers are ours)"
_OURS = "ours (what makes training cheap must not cost quality)"
_ADDED = "ours (what a practitioner would try first: mixup on top of distillation)"
_START = (
    "ours (asked after E11 and five seeds from that start: mixup on top of the better start; on seeds that were drawn "
    "after it was registered)"
)
_WORK = "ours (asked after five seeds of KD with twice the epochs, as much work in the student; on seeds after them)"
_NUM_SEEN = 5

_AMOUNTS = {LIMITED: "With limited data", LEAST: "With the least data"}


def _training(
    id: str,
    statement: str,
    *tests: Test,
    source: str = _PAPER,
    fraction: float = LIMITED,
    against_fraction: float | None = None,
    num_seeds: int = NUM_SEEDS,
    command: str = TRAINING,
) -> Claim:
    shares = {"fraction": fraction, "against_fraction": against_fraction}
    return Claim(
        id=id,
        statement=statement,
        source=source,
        family="confirmatory",
        expected="supported",
        evidence="runs",
        num_seeds=num_seeds,
        tests=tuple(test.model_copy(update=shares) for test in tests),
        command=command,
    )


def _scores_higher(id: str, arm: str, reference: str, fraction: float = LIMITED, source: str = _PAPER) -> Claim:
    return _training(
        id,
        f"{_AMOUNTS[fraction]}, {RECIPES[arm]} scores higher on the test set than {RECIPES[reference]}.",
        more("test_score", arm, reference),
        source=source,
        fraction=fraction,
    )


def _smaller_gap(id: str, arm: str, reference: str) -> Claim:
    return _training(
        id,
        f"{_AMOUNTS[LIMITED]}, {RECIPES[arm]} has a smaller generalization gap than {RECIPES[reference]}.",
        less("generalization_gap", arm, reference),
        source=_THEOREM,
    )


def _gains_more_with_least(id: str, arm: str, reference: str) -> Claim:
    return _training(
        id,
        f"What {RECIPES[arm]} gains over {RECIPES[reference]} on the test set is more with the least data than with "
        "limited data.",
        more("test_score", arm, reference),
        fraction=LEAST,
        against_fraction=LIMITED,
    )


def _scores_higher_from_every_other_layer(id: str, arm: str) -> Claim:
    test = more("test_score", arm, "kd").model_copy(update={"init": "skip", "first_seed": NUM_SEEDS})
    return _training(
        id,
        f"With limited data and both from every other layer of the teacher, {RECIPES[arm]} scores higher on the test "
        f"set than {RECIPES['kd']}.",
        test,
        source=_START,
        command="mixkd suite starts",
    )


def _scores_higher_at_equal_work(id: str, arm: str, fraction: float) -> Claim:
    test = more("test_score", arm, "kd").model_copy(update={"longer_reference": True, "first_seed": _NUM_SEEN})
    return _training(
        id,
        f"{_AMOUNTS[fraction]}, {RECIPES[arm]} scores higher on the test set than {RECIPES['kd']} with twice the "
        "epochs, which takes as many examples through the student.",
        test,
        source=_WORK,
        fraction=fraction,
        num_seeds=NUM_SEEDS - _NUM_SEEN,
        command="mixkd suite longer",
    )


TRAINING_CLAIMS: tuple[Claim, ...] = (
    _scores_higher("E01", "sm+tmkd", "kd"),
    _scores_higher("E02", "sm+tmkd", "ft"),
    _scores_higher("E03", "sm", "ft"),
    _scores_higher("E04", "tmkd", "kd"),
    _scores_higher("E05", "tmkd", "ft"),
    _smaller_gap("E06", "sm+tmkd", "ft"),
    _smaller_gap("E07", "sm+tmkd", "kd"),
    _training(
        "E08",
        "With limited data, the SM+TMKD student keeps at least 90 % of its teacher's test score.",
        at_least("ratio of means", "test_score", "sm+tmkd", "teacher", 0.9),
        source=_SCORE,
    ),
    Claim(
        id="E09",
        statement="A student with half its teacher's layers needs at most 60 % of its time, at every batch size "
        "and length measured, and at most 60 % of its parameters apart from embeddings.",
        source=_SIZE,
        family="confirmatory",
        expected="supported",
        evidence="benchmarks",
        tests=(
            at_most("every cell", "time", "student", "teacher", 0.6),
            at_most("largest", "parameters apart from embeddings", "student", "teacher", 0.6),
        ),
        command="mixkd bench",
    ),
    _scores_higher("E10", "sm+tmkd", "pkd"),
    _scores_higher("E11", "sm+tmkd", "distilbert", source=_DISTILBERT),
    _training(
        "E12",
        "Training in bf16 changes the test score by less than two points against fp32, teacher included.",
        *within(less("test_score", "bf16", "fp32"), 0, EQUIVALENT_SCORE),
        source=_OURS,
        num_seeds=10,
        command="mixkd suite precision",
    ),
    _scores_higher("E13", "sm+tmkd", "kd", fraction=LEAST),
    _scores_higher("E14", "sm+tmkd", "ft", fraction=LEAST),
    _gains_more_with_least("E15", "sm+tmkd", "kd"),
    _gains_more_with_least("E16", "sm+tmkd", "ft"),
    _scores_higher("E17", "sm+tmkd+kd", "kd", source=_ADDED),
    _scores_higher_from_every_other_layer("E18", "sm+tmkd"),
    _scores_higher_from_every_other_layer("E19", "sm+tmkd+kd"),
    _scores_higher_at_equal_work("E20", "sm+tmkd", LIMITED),
    _scores_higher_at_equal_work("E21", "sm+tmkd", LEAST),
    _scores_higher_at_equal_work("E22", "sm+tmkd+kd", LIMITED),
    _scores_higher_at_equal_work("E23", "sm+tmkd+kd", LEAST),
)
