import os

import synthetic

from reports import figures
from reports.helper import helper


def test_what_two_processes_draw_is_what_one_draws(evidence):
    with helper() as other:
        drawn = figures.build(evidence), figures.build(evidence, figures.begin(evidence, other))
    one, two = ({figure.key: figure for figure in by} for by in drawn)
    assert one.keys() == two.keys() and len(one) > 20
    for key, figure in one.items():
        assert figure.data.equals(two[key].data)
        assert (figure.panels, figure.title, figure.alt) == (two[key].panels, two[key].title, two[key].alt)


def test_what_a_killed_process_would_have_drawn_is_drawn_here(store):
    synthetic.save_studies_of_training(store)
    evidence = synthetic.read(store)
    with helper() as other:
        other.submit(os._exit, 1)
        begun = figures.begin(evidence, other)
        assert "sensitivity" in {figure.key for figure in figures.build(evidence, begun)}
