"""The published page and the published tables belong together: estimated anew, the one gives the other."""

import json
import re
from pathlib import Path

import pytest

from mixkd import archive
from mixkd.store import Store
from reports import wording
from reports.evidence import load
from reports.ledger import ledger_sha256
from reports.verdicts import judge_all

FOLDER = Path(__file__).parents[2] / "reports" / "published"


@pytest.fixture(scope="module")
def published():
    return json.loads((FOLDER / "verdicts.json").read_text())


def test_the_published_numbers_are_those_of_the_published_runs(published, tmp_path):
    archive.restore(FOLDER, Store(tmp_path))
    evidence = load(Store(tmp_path), {})
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


def test_the_numbers_in_the_readme_are_those_of_the_published_verdicts(published):
    """Each is followed by its claim; scores are in points, and a gain may be told as a loss."""
    verdicts = {verdict["claim"]: verdict for verdict in published["verdicts"]}
    number = "(\N{MINUS SIGN}?[\\d.]+)"
    readme = " ".join((FOLDER.parents[1] / "README.md").read_text(encoding="utf-8").split())
    told = re.findall(rf"{number}(?: [a-z%]+)? \[{number}, {number}\] \((\w+)\)", readme)
    assert len(told) >= 10
    for *values, claim in told:
        found = [verdicts[claim][name] for name in ("effect", "low", "high")]
        ways = [[wording.number(scale * value) for value in found] for scale in (1, 100)]
        ways += [[wording.number(-scale * found[k]) for k in (0, 2, 1)] for scale in (1, 100)]
        assert values in ways, claim
