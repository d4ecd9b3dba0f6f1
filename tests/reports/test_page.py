import ast
import itertools
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

import reports
from mixkd.store import Store, UserError
from reports.evidence_files import write_tables
from reports.ledger import LEDGER, ledger_sha256
from reports.page import build
from reports.wording import number

HOSTILE = """--></text></svg>"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;"""


class Page(HTMLParser):
    """Tags with their attributes, in order, and the visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("page"))
    synthetic.save_all(store)
    store.save_run(
        synthetic.record(synthetic.experiment("ft", task=HOSTILE), {"test_score": 0.5, "generalization_gap": 1.0})
    )
    return build(store, studies=synthetic.STUDIES)


@pytest.fixture(scope="module")
def page(built):
    return Page(built.report.read_text())


def test_an_empty_store_gives_a_page_where_nothing_was_run(tmp_path):
    built = build(Store(tmp_path), studies=synthetic.STUDIES)
    assert built.counts == {"supported": 0, "contradicted": 0, "inconclusive": 0, "not run": len(LEDGER)}
    assert built.unexpected == []
    text = Page(built.report.read_text()).text
    assert f"None of the {len(LEDGER)} claims has been run yet" in text
    assert all(claim.command in text for claim in LEDGER)
    verdicts = json.loads(built.verdicts.read_text())["verdicts"]
    assert {verdict["verdict"] for verdict in verdicts} == {"not run"}
    assert not any(verdict["matches"] for verdict in verdicts)


def test_verdicts_are_json_with_their_provenance(built):
    held = json.loads(built.verdicts.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert [verdict["claim"] for verdict in held["verdicts"]] == [claim.id for claim in LEDGER]
    keys = {"claim", "verdict", "expected", "matches", "effect", "low", "high", "reason", "command", "evidence"}
    assert all(keys <= verdict.keys() for verdict in held["verdicts"])
    assert held["provenance"]["ledger_sha256"] == ledger_sha256()
    assert [source["source"] for source in held["provenance"]["sources"]] == ["training", "theory", "benchmarks"]
    assert Counter(verdict["verdict"] for verdict in held["verdicts"]) == Counter(
        {outcome: count for outcome, count in built.counts.items() if count}
    )
    # Every synthetic claim but T18 is true, so the controls, and only they, are not as expected.
    assert built.unexpected == [claim.id for claim in LEDGER if claim.family == "control" and claim.id != "T18"]


def test_the_page_shows_every_verdict_and_where_it_comes_from(page, built):
    for verdict in json.loads(built.verdicts.read_text())["verdicts"]:
        assert verdict["reason"] in page.text
    assert ledger_sha256() in page.text
    assert synthetic.PROVENANCE.commit in page.text
    assert "wording of the paper's theorem was not available" in page.text


def test_verdicts_on_fewer_seeds_than_registered_are_called_preliminary(page, tmp_path):
    assert "E17, E18, E19 (12 of 30); E20, E21, E22, E23 (7 of 25)." in page.text
    synthetic.save_runs(Store(tmp_path), {"kd": (0.7, 0.4), "sm+tmkd": (0.75, 0.3)}, num_seeds=30)
    whole = build(Store(tmp_path), studies={})
    assert "preliminary" not in whole.report.read_text()
    Store(tmp_path).run_dir(synthetic.content_id(synthetic.experiment("kd", 7))).rename(tmp_path / "away")
    lacking = build(Store(tmp_path), studies={})
    assert "seeds are lacking: E01, E07, E15 (29 of 30)." in lacking.report.read_text()


def test_the_page_says_what_to_do(built):
    text = built.report.read_text()
    section = text[text.index('<h2 id="advice">') : text.index('<h2 id="findings">')]
    rows = [re.sub("<[^>]*>", " ", row) for row in re.findall("<tr><th scope=.row.*?</tr>", section)]
    assert len(rows) == 11 and all("yes" in row for row in rows)  # every claim is true
    judged = {verdict["claim"]: verdict for verdict in json.loads(built.verdicts.read_text())["verdicts"]}
    for claim, row in zip(
        ("E02", "E01", "E20", "E10", "E11", "E18", "E17", "E19", "E22", "E04", "E03"), rows, strict=True
    ):
        assert f"yes : {number(100 * judged[claim]['effect'])} [" in row
    assert sum("no claim" in row for row in rows) == 7
    beaten = "on A Processor, the 6-layer teacher is faster in onnx-int8 (450 texts/s"
    assert f"Before you train a student: {beaten}" in section and "than the 3-layer student in float32 (400" in section


def test_links_lead_somewhere(page, built):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.all("a")]
    assert links
    for link in links:
        assert link.removeprefix("#") in ids if link.startswith("#") else (built.report.parent / link).is_file()


def test_the_page_stands_alone(page, built):
    text = built.report.read_text()
    assert "://" not in text and "//www" not in text
    assert not page.all("link", "img", "iframe", "object", "base")
    assert len(page.all("script")) == 1
    assert len(text.encode()) < 2_000_000


def test_texts_of_records_are_escaped(built, page):
    assert HOSTILE not in built.report.read_text()
    assert HOSTILE in page.text
    assert len(page.all("script")) == 1 and not page.all("img")


def test_every_text_of_every_record_is_escaped(tmp_path):
    store = Store(tmp_path)
    synthetic.save_all(store, num_seeds=3)
    hostile = {name: HOSTILE for name in ("commit", "python", "platform", "processor", "device", "command")}
    provenance = synthetic.PROVENANCE.model_copy(
        update=hostile | {"versions": {HOSTILE: HOSTILE}, "seeds": {HOSTILE: 1}}
    )
    for seed, recipe in itertools.product(range(2), ("kd", "sm+tmkd", HOSTILE)):
        run = synthetic.record(
            synthetic.experiment(recipe, seed, task=HOSTILE, num_epochs=18),
            {"test_score": 0.5 + 0.1 * seed, "generalization_gap": 1.0, "teacher_test_score": 0.9},
        )
        store.save_run(run.model_copy(update={"provenance": provenance}))
    bench = synthetic.benchmark_file()
    for case in bench["benchmarks"]:
        case["name"] = HOSTILE
        case["extra_info"] |= {
            name: HOSTILE
            for name in ("variant", "dtype", "device", "energy_not_told", "origin", "task", "metric")
            if name in case["extra_info"]
        }
        if case["extra_info"]["kind"] in ("training", "cell") or "not_run" in case["extra_info"]:
            case["extra_info"] |= {"model": HOSTILE, "not_run": HOSTILE}
    (store.benchmarks_dir / "bench.json").write_text(json.dumps(bench))
    (store.benchmarks_dir / f"{HOSTILE.replace('/', '')}.json").write_text("{")
    built = build(store, studies=synthetic.STUDIES)
    text = built.report.read_text()
    page = Page(text)
    assert HOSTILE not in text and page.text.count(HOSTILE) > 20
    assert len(page.all("script")) == 1 and not page.all("img")
    assert {name for _, attributes in page.tags for name in attributes if name.startswith("on")} == set()
    for _, attributes in page.tags:  # the hostile text ends no attribute: what follows it is still inside
        assert all("alert(1)" not in value or "onerror" in value for value in attributes.values() if value)


def test_structure_is_accessible(page):
    assert page.all("html") == [{"lang": "en"}]
    assert all("scope" in head for head in page.all("th"))
    assert [tag for tag, _ in page.tags if tag in ("main", "h1", "nav")] == ["h1", "nav", "main"]
    skip = page.all("a")[0]
    assert skip == {"class": "skip", "href": "#verdicts"}
    figures = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(figures) == 33 and all(len(figure["aria-label"]) > 60 for figure in figures)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_verdicts_are_words_and_not_colour_alone(page):
    shown = [attributes["class"] for attributes in page.all("span") if "verdict" in attributes.get("class", "")]
    assert len(shown) >= 2 * len(LEDGER)
    assert all(word in page.text for word in ("supported", "contradicted", "✓", "✗"))


def test_building_again_replaces_old_evidence(tmp_path):
    store = Store(tmp_path)
    synthetic.save_study(store, "T05")
    first = build(store, studies=synthetic.STUDIES)
    (first.evidence / "stale.csv").write_text("old")
    second = build(store, studies=synthetic.STUDIES)
    assert not (second.evidence / "stale.csv").exists()
    assert len(pd.read_csv(second.evidence / "T05.csv")) == 200
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_tables_can_be_packed(tmp_path):
    store = Store(tmp_path / "store")
    synthetic.save_study(store, "T05")
    loose = build(store, studies=synthetic.STUDIES)
    packed = build(store, tmp_path / "packed", studies=synthetic.STUDIES, packed=True)
    with tarfile.open(packed.evidence) as archive:
        for table in loose.evidence.iterdir():
            assert archive.extractfile(f"evidence/{table.name}").read() == table.read_bytes()
    links = {attributes["href"] for attributes in Page(packed.report.read_text()).all("a")}
    assert {link for link in links if not link.startswith("#")} == {"evidence.tar.xz"}
    digests = [json.loads(built.verdicts.read_text())["provenance"]["evidence_sha256"] for built in (loose, packed)]
    assert digests[0] == digests[1] and digests[0] in loose.report.read_text()


def test_tables_in_the_other_form_do_not_stay(tmp_path):
    store = Store(tmp_path)
    for packed in (False, True, False):
        built = build(store, studies={}, packed=packed)
        assert [path.name for path in tmp_path.glob("evidence*")] == [built.evidence.name]


def test_numbers_that_arrow_does_not_have_are_written_all_the_same(tmp_path):
    write_tables(tmp_path, {"a": pd.DataFrame({"seed": [2**70, 1]}), "b": pd.DataFrame({"x": [1, "é"]})}, packed=False)
    assert (tmp_path / "evidence" / "a.csv").read_text() == f"seed\n{2**70}\n1\n"
    assert (tmp_path / "evidence" / "b.csv").read_text() == "x\n1\né\n"


def test_numbers_in_the_tables_have_nine_digits(tmp_path):
    numbers = [1 / 3, -2e-19 / 3, 1e20 / 3, 0.1 + 0.2, np.nan, 5.0]
    write_tables(tmp_path, {"a": pd.DataFrame({"x": numbers, "flag": [1.0, 0.0] * 3})}, packed=False)
    found = pd.read_csv(tmp_path / "evidence" / "a.csv")
    assert found["x"].to_numpy() == pytest.approx([float(f"{x:.9g}") for x in numbers], rel=1e-15, nan_ok=True)
    assert found["x"][0] != 1 / 3 and found["flag"].tolist() == [1, 0] * 3


def test_another_output_leaves_the_store_as_it_is(tmp_path):
    store = Store(tmp_path / "store")
    synthetic.save_study(store, "T05")
    before = sorted(store.root.rglob("*"))
    built = build(store, tmp_path / "elsewhere", studies=synthetic.STUDIES)
    assert sorted(store.root.rglob("*")) == before
    assert built.report.parent == tmp_path / "elsewhere"


def test_an_output_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        build(Store(tmp_path / "store"), tmp_path / "file", studies=synthetic.STUDIES)


def test_reports_imports_the_store_alone_and_never_torch():
    for path in Path(reports.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert not [name for name in names if name.startswith("mixkd") and name != "mixkd.store"]
            assert not [name for name in names if name.startswith("theory") and name != "theory.studies"]
    code = "import sys, reports.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
