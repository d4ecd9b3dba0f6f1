import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pandas as pd
import pytest
import synthetic
from statsmodels.stats.proportion import proportion_confint

from mixkd.store import Store
from reports import drawing, figures, simulation_figures
from reports.evidence import load


@pytest.fixture(scope="module")
def drawn(evidence):
    return {figure.key: figure for figure in figures.build(evidence)}


def test_all_figures_are_drawn(drawn):
    assert {key: len(figure.panels) for key, figure in drawn.items()} == {
        "deviation": 2, "learned-gap": 2, "coverage": 2, "rate": 2, "sample-size": 1, "identification": 1,
        "bounds": 1, "recovery": 1, "training": 1,
        "contrasts": 1, "ratios": 1, "phase": 4, "phase-mixup": 2, "score": 1, "gap": 1,
        "score-least": 1, "gap-least": 1, "amount": 1, "back-translation": 1, "elsewhere": 1,
        "elsewhere-gap": 1, "sensitivity": 1, "machines": 1, "again": 1,
        "epochs": 1, "robustness": 1, "paths": 1, "interpolation": 1,
        "pareto": 1, "size": 1, "speed-up": 1, "training-speed": 1, "cost": 1,
    }  # fmt: skip


def test_ids_are_unique_and_references_resolve(drawn):
    panels = [panel for figure in drawn.values() for panel in figure.panels]
    ids = [found for panel in panels for found in re.findall(r'\bid="([^"]+)"', panel)]
    assert ids and len(ids) == len(set(ids))
    for panel in panels:
        own = set(re.findall(r'\bid="([^"]+)"', panel))
        assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', panel)) and all(
            (a or b) in own for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', panel)
        )


def test_panels_are_plain_svg_elements(drawn):
    for figure in drawn.values():
        for panel in figure.panels:
            ET.fromstring(panel.replace("<svg", '<svg xmlns:xlink="x"', 1))
            assert "http" not in panel and "<metadata" not in panel and "<style" not in panel.split("</defs>", 1)[1]
            assert "currentColor" in panel
            assert not set(re.findall(r"#[0-9a-f]{6}\b", panel)) & set(drawing._CSS)
            assert "sans" not in panel.lower()


def test_drawing_twice_gives_the_same_bytes(evidence, drawn):
    again = {figure.key: figure for figure in figures.build(evidence)}
    assert {key: figure.panels for key, figure in again.items()} == {key: f.panels for key, f in drawn.items()}


def test_titles_state_what_the_numbers_say(drawn, tmp_path):
    assert "in-sample mixup (S3) shrinks it in 6 of 6 settings and enlarges it in 0" in drawn["deviation"].title
    assert drawn["score"].title.startswith("With 10% of the data, SM+TMKD+KD has the highest mean test score, 0.8")
    assert drawn["gap"].title.startswith(
        "With 10% of the data, SM+TMKD has the smallest mean generalization gap, 0.299, of 8"
    )
    at_equal_work = "At equal work in the student: SM+TMKD once minus KD twice at 2% 0.0"
    assert drawn["epochs"].title.startswith(at_equal_work) and "at 10% 0.0605 [" in drawn["epochs"].title
    assert drawn["machines"].title.endswith("of 4 mean differences in score, 4 have an interval without zero")
    store = Store(tmp_path)
    synthetic.save_all(store, "bad")
    other = {figure.key: figure for figure in figures.build(load(store, synthetic.STUDIES))}
    assert "shrinks it in 0 of 6 settings and enlarges it in 6" in other["deviation"].title
    assert other["score"].title.startswith("With 10% of the data, FT has the highest")


def test_alternative_texts_hold_the_numbers(drawn):
    assert "W1, S0, n = 20: 0.3" in drawn["deviation"].alt
    assert "KD 0.7" in drawn["score"].alt
    assert "17.4 M parameters" in drawn["size"].alt


def test_every_seed_is_in_the_data(drawn):
    assert len(drawn["score"].data) == 12 * 8


def test_a_gap_that_is_rounding_is_neither_drawn_nor_counted(tmp_path):
    store = Store(tmp_path)
    for role, cell in synthetic.STUDIES["gap_by_n"].cells.items():
        columns = synthetic._replicates("gap_by_n", role, "good", synthetic.np.random.default_rng(0), 0)
        if role.startswith("W1"):
            columns["generalization_gap"] *= 1e-30
        synthetic.save_cell(store, cell, columns)
    learned = {figure.key: figure for figure in figures.build(load(store, synthetic.STUDIES))}["learned-gap"]
    assert len(learned.panels) == 1
    assert "3 of 3 settings" in learned.title
    assert "Not drawn: W1" in learned.caption


def test_texts_of_records_are_escaped_and_not_typeset(tmp_path):
    store = Store(tmp_path)
    store.benchmarks_dir.mkdir()
    text = json.dumps(synthetic.benchmark_file()).replace('"onnx-int8"', '"<b>$x$"')
    (store.benchmarks_dir / "bench.json").write_text(text)
    pareto, *_ = figures.build(load(store, synthetic.STUDIES))
    assert "&lt;b&gt;$x$" in pareto.panels[0]
    assert "<b>" not in pareto.panels[0]


@pytest.mark.parametrize("text", ["font: 'x, 0.12345", 'id="x" url(#a) #0072b2', "rotate(-0 1)"])
def test_a_text_that_looks_like_markup_stays_as_it_is(text):
    svgs = []
    with drawing.panel("key", svgs) as axes:
        axes.set_title(text)
    ET.fromstring(svgs[0].replace("<svg", '<svg xmlns:xlink="x"', 1))
    assert f">{text}</text>" in svgs[0]


@pytest.mark.parametrize(
    ("shape", "arms", "keys"),
    [
        ("isotropic", ["S0"], set()),
        ("isotropic", ["S0", "S3 a=0.2 rho=16"], {"phase-mixup"}),
        ("isotropic", ["S0", "S3 a=1 rho=4"], {"phase", "phase-mixup"}),
        ("manifold", ["S0", "S3 a=1 rho=4"], {"phase"}),
        ("manifold", ["S0", "S3 a=0.2 rho=16"], set()),
    ],
)
def test_a_phase_diagram_that_was_only_begun_is_drawn_as_far_as_it_is(evidence, shape, arms, keys):
    begun = {("phase", f"phase {shape} c=2 affine n=22 {arm}") for arm in arms}
    cells = {key: evidence.cells[key] for key in begun}
    assert {figure.key for figure in simulation_figures.build(replace(evidence, cells=cells))} == keys


def test_what_marks_have_in_common_is_said_once():
    svgs = []
    with drawing.panel("key", svgs) as axes:
        axes.plot([1, 2, 3], [1, 2, 3], "o", color="#ff0000")
    (marks,) = re.findall(r'<g clip-path[^>]*style="fill: #ff0000[^>]*>(.*?)</g>', svgs[0], re.DOTALL)
    assert len(re.findall("<use ", marks)) == 3 and "style" not in marks
    assert "<g id" not in svgs[0] and "rotate(-0" not in svgs[0] and "font-family" not in svgs[0]


def test_a_dense_phase_diagram_has_no_numbers_that_would_overlap(evidence, drawn):
    numbers = re.compile("<text[^>]*>[+\N{MINUS SIGN}]\\d+<")
    assert numbers.search(drawn["phase"].panels[0])
    data = drawn["phase"].data.drop_duplicates(["student", "measure", "shape", "curvature"])
    sizes = [data.assign(num_samples=n, ratio=n / 200) for n in (10, 14, 20, 28, 50, 70, 100)]
    dense = simulation_figures._phase(pd.concat(sizes, ignore_index=True))
    assert not any(map(numbers.search, dense.panels)) and "colours are full at 100 %" in dense.caption
    cells = data[(data["student"] == "cosines") & (data["measure"] == "generalization_gap")]
    assert len(re.findall(r'clip-path="[^"]*" style="fill: (#|url)', dense.panels[0])) == 7 * len(cells) > 7


def test_models_with_random_weights_have_no_score(drawn):
    assert list(drawn["size"].data["model"]) == ["student", "teacher"]


def test_the_front_is_what_nothing_beats_and_a_teacher_that_beats_a_student_is_named(drawn):
    pareto = drawn["pareto"]
    ways = pareto.data.set_index(["model", "num_layers", "variant"])
    assert list(ways.index[ways["on_front"]]) == [
        ("teacher", 6, "float32"), ("teacher", 6, "onnx-int8"), ("student", 3, "onnx-int8"),
    ]  # fmt: skip
    assert ways.loc[("student", 3, "float32"), ["score_low", "score_high"]].tolist() == pytest.approx(
        [*proportion_confint(1600, 2000, method="wilson")]
    )
    assert "On A Processor, the 6-layer teacher is faster in onnx-int8 (450 texts/s" in pareto.caption
    assert pareto.caption.count("is faster in") == 1
    assert pareto.title.endswith(
        "6-layer teacher in float32, 6-layer teacher in onnx-int8 and 3-layer student in onnx-int8 on A Processor"
    )


def test_speed_ups_are_shown_beside_the_ratio_of_layers_on_one_machine(drawn):
    figure = drawn["speed-up"]
    assert set(figure.data["model"]) == {"student"} and len(figure.data) == 4  # two batches, two lengths
    assert "3-layer student 1.92 [1.88, 1.96] to 1.92 [1.88, 1.96] (2 by its layers)" in figure.title
    assert figure.data["speedup_vs_teacher"].tolist() == pytest.approx([1 / 0.52] * 4)


def test_single_seeds_are_drawn_where_they_are_few():
    def drawn(num_seeds, across):
        svgs = []
        with drawing.panel("a", svgs) as axes:
            drawing.mark(axes, 2, (0.5, 0.0, 1.0), 1, across=across, seeds=[0.1 * k for k in range(num_seeds)])
            return [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "."]

    assert drawn(2, False) == [[[1.78, 0.0], [1.78, 0.1]]]
    assert drawn(2, True) == [[[0.0, 1.78], [0.1, 1.78]]]
    assert drawn(11, True) == drawn(0, True) == []
