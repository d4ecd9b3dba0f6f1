"""The report: one self-contained HTML page, the verdicts as JSON and the numbers as CSV."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixkd.store import Problem, Store, UserError, now, provenance, without_folders, write_text
from reports import figures, simulation, tables, wording
from reports.benchmark_files import latest
from reports.calibration import registered_studies
from reports.changes import Change, changes
from reports.claims import CONFIDENCE, LEVEL, Outcome
from reports.drawing import Figure
from reports.evidence import Evidence, Study, load
from reports.evidence_files import ARCHIVE, FOLDER, tables_of, write_tables
from reports.ledger import ledger_sha256
from reports.setting import LEAST, LIMITED, NUM_SEEDS, SETTING, TRAINING
from reports.summary import ANSWERS, decisions, preliminary, summary
from reports.verdicts import Judged, judge_all

#: Outcome -> its sign, shown beside the word.
SIGNS = {"supported": "✓", "contradicted": "✗", "inconclusive": "?", "not run": "○"}


class _Section(NamedTuple):
    """A question of the report.

    Attributes:
        claims: Ids of the claims that answer it, or the evidence that all its claims rest on.
        figures: Keys of its figures, in their order.
        command: What fills it, where it has no claim of its own.
    """

    key: str
    title: str
    claims: tuple[str, ...]
    figures: tuple[str, ...]
    command: str


_SECTIONS = (
    _Section(
        "methods", "Does it beat distillation and the baselines?",
        ("E01", "E02", "E03", "E04", "E05", "E08", "E10", "E11", "E12", "E17", "E18", "E19", "E20", "E22"),
        ("score", "epochs"), TRAINING,
    ),
    _Section(
        "amount", "How does it depend on the amount of data?", ("E13", "E14", "E15", "E16", "E21", "E23"),
        ("amount", "score-least"), TRAINING,
    ),
    _Section("translation", "What does back-translation add?", (), ("back-translation",), "mixkd suite breadth"),
    _Section("elsewhere", "Other tasks, shares and depths", (), ("elsewhere",), "mixkd suite breadth"),
    _Section("sensitivity", "How sensitive is it?", (), ("sensitivity",), "mixkd suite sensitivity"),
    _Section(
        "machines", "Does the machine matter?", (), ("again", "machines"),
        "mixkd suite longer --output results/repeats/NAME",
    ),
    _Section(
        "gap", "Does mixup shrink the generalization gap? Trained students", ("E06", "E07"),
        ("gap", "gap-least", "elsewhere-gap"), TRAINING,
    ),
    _Section(
        "simulation", "Does mixup shrink the generalization gap? Simulated worlds", ("theory",),
        ("phase", "phase-mixup", "contrasts", "ratios", "deviation", "learned-gap", "rate", "coverage", "bounds",
         "sample-size", "identification", "recovery", "training"),
        "mixkd theory",
    ),
    _Section(
        "time-and-size", "Time and size", ("benchmarks",),
        ("pareto", "size", "speed-up", "training-speed", "cost"), "mixkd bench",
    ),
    _Section("robustness", "Other texts and noise", (), ("robustness",), TRAINING),
    _Section("interpolation", "Between two texts", (), ("paths", "interpolation"), TRAINING),
)  # fmt: skip


class Built(NamedTuple):
    """What a build wrote and found.

    Attributes:
        counts: Outcome -> number of claims.
        unexpected: Ids of the claims that were decided, and not as expected.
        problems: Files of the store that cannot be used.
        drawn_runs: Ids of the runs whose paths between two texts are drawn.
    """

    report: Path
    verdicts: Path
    evidence: Path
    counts: dict[str, int]
    unexpected: list[str]
    problems: list[Problem]
    drawn_runs: list[str]


@figures.without_collecting()
def build(
    store: Store,
    output: Path | None = None,
    studies: Mapping[str, Study] | None = None,
    baseline: Store | None = None,
    packed: bool = False,
    helper: Executor | None = None,
) -> Built:
    """Judge and render what a store holds.

    Args:
        store: Folder of the evidence.
        output: Folder for ``report.html``, ``verdicts.json`` and the tables in ``evidence``; None: the store's own.
        studies: The registered cells behind the claims; None: all that there are.
        baseline: Another store; what changed since then stands at the top.
        packed: Whether the tables go into one small archive, in place of a folder.
        helper: Draws some of the figures, see `reports.helper`.

    Raises:
        UserError: If the folder cannot be written, or there is no baseline.
    """
    started_at = now()
    studies = registered_studies() if studies is None else studies
    evidence = load(store, studies)
    begun = figures.begin(evidence, helper)
    judged = judge_all(evidence)
    changed = None if baseline is None else _changes_since(baseline, studies, evidence, judged)
    drawn = figures.build(evidence, begun)
    counts = Counter(item.verdict.verdict for item in judged)
    folder = store.root if output is None else output
    built = Built(
        folder / "report.html",
        folder / "verdicts.json",
        folder / (ARCHIVE if packed else FOLDER),
        {outcome: counts[outcome] for outcome in get_args(Outcome)},
        [item.claim.id for item in judged if item.is_surprise],
        evidence.problems,
        sorted(set(evidence.paths["run_id"])) if len(evidence.paths) else [],
    )
    own = provenance(device="cpu", num_threads=1, seeds={}, started_at=started_at)
    written = tables_of(evidence, judged, drawn)
    sources = {
        "ledger_sha256": ledger_sha256(),
        "evidence_sha256": write_tables(folder, written, packed),
        "report": own.model_dump() | {"command": without_folders(own.command)},
        "sources": tables.provenance(evidence),
        "problems": [{"file": problem.path.as_posix(), "reason": problem.reason} for problem in evidence.problems],
    }
    verdicts = [item.verdict.model_dump(mode="json") for item in judged]
    write_text(built.verdicts, json.dumps({"verdicts": verdicts, "provenance": sources}, indent=1, allow_nan=False))
    write_text(built.report, _render(built, evidence, judged, drawn, written, sources, changed))
    return built


def _changes_since(
    baseline: Store, studies: Mapping[str, Study], evidence: Evidence, judged: list[Judged]
) -> list[Change]:
    if not baseline.root.is_dir():
        raise UserError(f"There is no store {baseline.root} to compare with; give the folder of an earlier --output.")
    before = load(baseline, studies)
    return changes(evidence, judged, before, judge_all(before))


def _render(
    built: Built,
    evidence: Evidence,
    judged: list[Judged],
    drawn: list[Figure],
    written: Mapping[str, pd.DataFrame],
    sources: dict[str, Any],
    changed: list[Change] | None,
) -> str:
    environment, ways = _environment(), tables.end_to_end(evidence)
    script = environment.loader.get_source(environment, "tables.js")[0] if environment.loader else ""
    return environment.get_template("report.html").render(
        built=built,
        judged=judged,
        changed=changed,
        sections=[_filled(section, judged, drawn) for section in _SECTIONS],
        findings=[item for item in judged if item.claim.evidence in ("runs", "benchmarks")],
        decisions=decisions(judged),
        answers=ANSWERS,
        rivals=tables.better_teachers(ways),
        controls=[item for item in judged if item.claim.family == "control"],
        machinery=[item for item in judged if item.claim.family == "machinery"],
        not_tested=tables.not_tested(evidence),
        not_run=[item for item in judged if not item.results],
        sources=sources,
        signs=SIGNS,
        words=wording,
        summary=summary(judged),
        preliminary=preliminary(judged),
        groups=_rows(tables.run_groups(evidence)),
        differences=_rows(written["differences"]),
        quantities=_rows(written["quantities"]),
        quantity_names=simulation.QUANTITIES,
        mutations=[row for row in _rows(written["coverages"]) if row["constant"]],
        bridge=_rows(written["bridge"]),
        latency=_rows(tables.latency(evidence)),
        sizes=_rows(tables.sizes(evidence)),
        ways=_rows(ways),
        trainings=_rows(tables.trainings(evidence)),
        costs=_rows(tables.simulation_costs(evidence)),
        skipped=_rows(latest(evidence.benchmarks).dropna(subset="not_run")),
        num_unregistered=evidence.num_unregistered,
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        registered={
            "level": LEVEL, "confidence": CONFIDENCE, "task": SETTING["task"], "fraction": LIMITED, "least": LEAST,
            "layers": SETTING["student_layers"], "seeds": NUM_SEEDS,
        },
    )  # fmt: skip


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": wording.number, "p_value": wording.p_value}
    return environment


def _filled(
    section: _Section, judged: list[Judged], drawn: list[Figure]
) -> tuple[_Section, list[Judged], list[Figure]]:
    """A section with its verdicts and figures."""
    asked = set(section.claims)
    items = [
        item for item in judged if item.claim.family != "machinery" and {item.claim.id, item.claim.evidence} & asked
    ]
    by_key = {figure.key: figure for figure in drawn}
    return section, items, [by_key[key] for key in section.figures if key in by_key]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, with None where there is no value."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]
