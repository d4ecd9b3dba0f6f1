"""The report: one self-contained HTML page, the verdicts as JSON and the numbers as CSV."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixkd.store import Problem, Store, atomic_path, now, provenance, write_text
from reports import figures, simulation, tables, wording
from reports.calibration import registered_studies
from reports.claims import CONFIDENCE, LEVEL, Outcome
from reports.drawing import Figure
from reports.evidence import Evidence, Study, latest, load
from reports.ledger import ledger_sha256
from reports.setting import LEAST, LIMITED, SETTING
from reports.verdicts import Judged, evidence_frame, judge_all

#: Outcome -> its sign, shown beside the word.
SIGNS = {"supported": "✓", "contradicted": "✗", "inconclusive": "≈", "not run": "○"}

#: The evidence sections: which claims and figures each shows.
_SECTIONS = (
    (
        "simulation",
        "Simulation",
        "theory",
        ("phase", "phase-mixup", "contrasts", "ratios", "deviation", "learned-gap", "rate", "coverage", "bounds",
         "sample-size", "identification", "recovery", "training"),
    ),
    ("training", "Training", "runs", ("score", "gap")),
    ("time-and-size", "Time and size", "benchmarks", ("pareto", "size", "training-speed", "cost")),
)  # fmt: skip


class Built(NamedTuple):
    """What a build wrote and found.

    Attributes:
        counts: Outcome -> number of claims.
        unexpected: Ids of the claims that were decided, and not as expected.
        problems: Files of the store that cannot be used.
    """

    report: Path
    verdicts: Path
    evidence: Path
    counts: dict[str, int]
    unexpected: list[str]
    problems: list[Problem]


def build(store: Store, output: Path | None = None, studies: Mapping[str, Study] | None = None) -> Built:
    """Judge and render what a store holds.

    Args:
        store: Folder of the evidence.
        output: Folder for ``report.html``, ``verdicts.json`` and ``evidence/``; None: the store's own.
        studies: The registered cells behind the claims; None: all that there are.

    Raises:
        UserError: If the folder cannot be written.
    """
    started_at = now()
    evidence = load(store, registered_studies() if studies is None else studies)
    judged = judge_all(evidence)
    drawn = figures.build(evidence)
    counts = Counter(item.verdict.verdict for item in judged)
    folder = store.root if output is None else output
    built = Built(
        folder / "report.html",
        folder / "verdicts.json",
        folder / "evidence",
        {outcome: counts[outcome] for outcome in get_args(Outcome)},
        [item.claim.id for item in judged if item.is_surprise],
        evidence.problems,
    )
    sources = {
        "ledger_sha256": ledger_sha256(),
        "report": provenance(device="cpu", num_threads=1, seeds={}, started_at=started_at).model_dump(),
        "sources": tables.provenance(evidence),
        "problems": [{"file": problem.path.as_posix(), "reason": problem.reason} for problem in evidence.problems],
    }
    _write_evidence(built.evidence, evidence, judged, drawn)
    verdicts = [item.verdict.model_dump(mode="json") for item in judged]
    write_text(built.verdicts, json.dumps({"verdicts": verdicts, "provenance": sources}, indent=1, allow_nan=False))
    write_text(built.report, _render(built, evidence, judged, drawn, sources))
    return built


def _write_evidence(folder: Path, evidence: Evidence, judged: list[Judged], drawn: list[Figure]) -> None:
    frames = {item.claim.id: evidence_frame(item) for item in judged if item.results}
    frames |= {f"figure-{figure.key}": figure.data for figure in drawn}
    frames |= {"quantities": simulation.quantities(evidence), "bridge": simulation.bridge(evidence)}
    frames["coverages"] = simulation.coverages(evidence)
    frames |= {"runs": evidence.runs.drop(columns=["pair", "twin"]), "benchmarks": evidence.benchmarks}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, frame in frames.items():
            frame.to_csv(temporary / f"{name}.csv", index=False)


def _render(
    built: Built, evidence: Evidence, judged: list[Judged], drawn: list[Figure], sources: dict[str, Any]
) -> str:
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": wording.number, "p_value": wording.p_value}
    script = environment.loader.get_source(environment, "sort.js")[0] if environment.loader else ""
    return environment.get_template("report.html").render(
        built=built,
        judged=judged,
        sections=[
            (key, title,
             [item for item in judged if item.claim.evidence == source and item.claim.family != "machinery"],
             sorted((figure for figure in drawn if figure.key in keys), key=lambda figure: keys.index(figure.key)))
            for key, title, source, keys in _SECTIONS
        ],
        controls=[item for item in judged if item.claim.family == "control"],
        machinery=[item for item in judged if item.claim.family == "machinery"],
        not_run=[item for item in judged if not item.results],
        sources=sources,
        signs=SIGNS,
        words=wording,
        summary=_summary(built, judged),
        groups=_rows(tables.run_groups(evidence)),
        quantities=_rows(simulation.quantities(evidence)),
        quantity_names=simulation.QUANTITIES,
        mutations=[row for row in _rows(simulation.coverages(evidence)) if row["constant"]],
        bridge=_rows(simulation.bridge(evidence)),
        latency=_rows(tables.latency(evidence)),
        sizes=_rows(tables.sizes(evidence)),
        ways=_rows(tables.end_to_end(evidence)),
        trainings=_rows(tables.trainings(evidence)),
        costs=_rows(tables.simulation_costs(evidence)),
        skipped=_rows(latest(evidence.benchmarks).dropna(subset="not_run")),
        num_unregistered=evidence.num_unregistered,
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        registered={
            "level": LEVEL, "confidence": CONFIDENCE, "task": SETTING["task"], "fraction": LIMITED, "least": LEAST,
            "layers": SETTING["student_layers"],
        },
    )  # fmt: skip


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, with None where there is no value."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]


def _summary(built: Built, judged: list[Judged]) -> list[str]:
    """What was found, in a few plain sentences generated from the verdicts."""
    counts = built.counts
    if counts["not run"] == len(judged):
        return [f"None of the {len(judged)} claims has been run yet; this store holds no usable evidence for them."]
    of_paper = [item for item in judged if item.claim.source.startswith("paper") and item.results]
    of_paper_counts = Counter(item.verdict.verdict for item in of_paper)
    controls = [item for item in judged if item.claim.family == "control" and item.results]
    refuted = sum(item.verdict.verdict == "contradicted" for item in controls)
    told = [f"{counts[outcome]} {outcome}" for outcome in ("supported", "contradicted", "inconclusive", "not run")]
    sentences = [f"Of {len(judged)} claims, {', '.join(told[:-1])} and {told[-1]}."]
    if of_paper:
        told = [f"{of_paper_counts[outcome]} {outcome}" for outcome in ("supported", "contradicted", "inconclusive")]
        sentences.append(f"The paper's own claims that were run: {told[0]}, {told[1]} and {told[2]}.")
    if controls:
        sentences.append(
            f"Negative controls, claims that we derived to be false: {refuted} of the {len(controls)} that were run "
            f"are contradicted, as they should be."
        )
    if built.unexpected:
        sentences.append(f"Decided against expectation: {', '.join(built.unexpected)}.")
    else:
        sentences.append("No claim was decided against its expectation.")
    return sentences
