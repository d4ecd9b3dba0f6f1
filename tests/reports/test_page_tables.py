"""The page's tables of time and size, as they are read."""

import re

import pytest
import synthetic

from mixkd.store import Store
from reports.page import build


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("page"))
    synthetic.save_benchmarks(store)
    return build(store, studies={})


def test_the_page_shows_what_simulations_cost(built):
    page = built.report.read_text()
    (table,) = re.findall(r"<table[^>]*><caption>Cost of the simulations.*?</table>", page, re.DOTALL)
    rows = [re.sub("<[^>]*>", " ", row).split() for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", table)]
    assert rows[0] == ["simulation", "80", "4", "—", "125", "242", "[170,", "368]", "—"]
    assert rows[1] == ["cell", "20", "4", "200", "125", "—", "43"] and len(rows) == 9


def test_the_page_shows_how_fast_trainings_are(built):
    page = built.report.read_text()
    (table,) = re.findall(r"<table[^>]*><caption>Speed of training.*?</table>", page, re.DOTALL)
    rows = [re.sub("<[^>]*>", " ", row).split() for row in re.findall(r"<tr><th scope=\"row\".*?</tr>", table)]
    assert rows[1][0] == "kd" and " ".join(rows[1][-9:]) == "[77.6, 82.4] 400 textbrewer 6 [5.50, 6.50] 1,200 —"
    assert len(rows) == 4


def cells_of(built, caption):
    """The texts of a table: its head, then its rows."""
    (table,) = re.findall(rf"<table[^>]*><caption>{caption}.*?</table>", built.report.read_text(), re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_every_row_of_a_table_of_time_and_size_has_a_cell_for_every_head(built):
    for caption in ("Latency of", "Size of", "From texts", "Speed of training", "Cost of"):
        assert len({len(row) for row in cells_of(built, caption)}) == 1


def test_the_page_shows_tails_and_throughput(built):
    head, *rows = cells_of(built, "Latency of every case")
    assert head[8:12] == ["90th percentile (s)", "99th percentile (s)", "Texts/s", "Tokens/s"]
    found = {(row[2], row[3]): row[9:12] for row in rows if row[0] == "teacher"}
    assert found["1", "32"] == ["—", "521", "16,667"]  # too few rounds; 1 / (6e-5 * 32) texts in a second
    assert found["8", "32"][0] == "0.125"


def test_the_page_shows_operations_per_token(built):
    head, first, *_ = cells_of(built, "Size of every model")
    assert dict(zip(head, first, strict=True)).items() >= {"GFLOP": "6", "MFLOP/token": "30"}.items()


def test_the_page_shows_what_a_score_is_of_and_how_far_a_way_agrees_with_its_own_model(built):
    head, *rows = cells_of(built, "From texts to answers")
    row = dict(zip(head, rows[0], strict=True))
    told = {"Task": "—", "Metric": "accuracy", "Agreement": "0.900", "With itself in float32": "0.950"}
    assert row.items() >= told.items()
