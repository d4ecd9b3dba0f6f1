"""The published page and the published tables belong together: estimated anew, the one gives the other."""

import json
import re
from pathlib import Path

import pytest

from mixkd import archive
from mixkd.store import Store
from reports import setting_tables, tables, training_tables, wording
from reports.evidence import load
from reports.ledger import ledger_sha256
from reports.verdicts import judge_all

FOLDER = Path(__file__).parents[2] / "reports" / "published"


@pytest.fixture(scope="module")
def published():
    return json.loads((FOLDER / "verdicts.json").read_text())


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("published"))
    archive.restore(FOLDER, store)
    return load(store, {})


def test_the_published_numbers_are_those_of_the_published_runs(published, evidence):
    assert evidence.problems == []
    judged = {item.claim.id: item for item in judge_all(evidence) if item.claim.evidence in ("runs", "benchmarks")}
    told = {verdict["claim"]: verdict for verdict in published["verdicts"] if verdict["claim"] in judged}
    assert set(told) == set(judged)
    for key, item in judged.items():  # Holm's correction needs the simulations, too; what it corrects does not
        numbers = item.verdict.model_dump(include={"num_samples", "effect", "low", "high"}, exclude_none=True)
        assert {name: told[key][name] for name in numbers} == pytest.approx(numbers, rel=1e-9)


def test_the_published_page_is_of_this_ledger_and_a_clean_commit(published):
    assert published["provenance"]["ledger_sha256"] == ledger_sha256()
    assert published["provenance"]["report"]["dirty"] is False
    assert published["provenance"]["evidence_sha256"] in (FOLDER / "report.html").read_text()


_NUMBER = "(\N{MINUS SIGN}?[\\d.]+)"


def ways(effect, low, high):
    """How a number with its interval may be told: as it is or in hundreds, and a gain as a loss."""
    for scale in (1, 100, -1, -100):
        ends = sorted((scale * low, scale * high))
        yield tuple(wording.number(value) for value in (scale * effect, *ends))


@pytest.fixture(scope="module")
def readme():
    text = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    return lambda start, end: " ".join(text[text.index(start) : text.index(end)].split())


def test_the_numbers_found_in_the_readme_are_published(published, evidence, readme):
    """Each is that of the claim that follows it, or of a table without claims."""
    found = readme("## What we found", "## Two commands") + readme("bf16 does not cost", "Tried and not kept")
    verdicts = {verdict["claim"]: verdict for verdict in published["verdicts"]}
    explored = {
        way
        for table in (
            training_tables.robustness(evidence),
            setting_tables.back_translation(evidence),
            setting_tables.elsewhere(evidence, "test_score"),
            setting_tables.elsewhere(evidence, "generalization_gap"),
            setting_tables.sensitivity(evidence),
            training_tables.differences(evidence),
            setting_tables.epochs(evidence),
            setting_tables.machines(evidence),
            setting_tables.again(evidence),
        )
        for row in table.to_dict("records")
        for way in ways(row["effect"], row["low"], row["high"])
    }
    told = re.findall(rf"{_NUMBER}(?: %)? \[{_NUMBER}, {_NUMBER}\](?: \(([A-Z]\d\d)\b)?", found)
    assert len(told) >= 15
    for *values, claim in told:
        of_claim = {*ways(*(verdicts[claim][name] for name in ("effect", "low", "high")))} if claim else explored
        assert tuple(values) in of_claim, (values, claim)
    words = "".join(re.findall(r"\[[^\]]*\]", re.sub(r"\[[^\]]*\]\(", "", found)))
    assert words.count("[") == len(told)  # and no interval was overlooked


def test_the_spread_between_machines_in_the_readme_is_published(evidence, readme):
    """Of the recipes with 25 seeds or more."""
    found = setting_tables.machines(evidence).query("num_seeds >= 25")["sd"]
    told = re.findall(r"standard deviations of ([\d.]+) to ([\d.]+) points", readme("On the EPYC", "What to do"))
    assert told == [tuple(f"{100 * sd:.2f}" for sd in (found.min(), found.max()))]


def test_the_speeds_in_the_readme_are_published(evidence, readme):
    """Every ratio with its interval, and the speed beside that of a model."""
    models, fits = tables.end_to_end(evidence), tables.simulation_costs(evidence)
    students = tables.speedups(evidence)
    known = {
        tuple(wording.number(row[name]) for name in (ratio, "speedup_low", "speedup_high"))
        for frame, ratio in (
            (models, "speedup_vs_teacher"),
            (students, "speedup_vs_teacher"),
            (fits, "speedup_vs_sklearn"),
        )
        for row in frame.to_dict("records")
    }
    told = readme("## Finished models", "## Speed of the simulations") + readme("## Speed of the sim", "## How to read")
    ratios = re.findall(rf"{_NUMBER} \[{_NUMBER}, {_NUMBER}\]", told)
    assert len(ratios) == 9 + 11 + 8 + 8 and set(ratios) <= known
    speeds = {(f"{row['examples_per_s']:.0f}", wording.number(row["score"])) for row in models.to_dict("records")}
    assert set(re.findall(r"\| (\d+) \| [^|]* \| (0\.\d+) (?=\|)", told)) == speeds
    cells = fits[fits["kind"] == "cell"].eval("1e6 * median_s / num_replicates")
    micros = {f"{float(f'{value:.3g}'):,.0f}" for value in cells}
    lines = re.findall(r"\| ([\d,]+(?: / [\d,]+)+) \| [^|]* MB \|", told)
    assert {value for line in lines for value in line.split(" / ")} == micros
