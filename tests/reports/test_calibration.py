"""The calibration of the judge, on evidence whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from mixkd.store import Store
from reports import calibration
from reports.calibration import CalibrationCell, calibrate, calibration_study, registered_studies, run_calibration
from reports.evidence import load
from reports.ledger import LEDGER, ledger_sha256
from reports.results import estimate
from reports.samples import samples

CLAIMS = {claim.id: claim for claim in LEDGER}


@pytest.fixture(scope="module")
def pilots(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("pilots"))
    for key in synthetic.STUDIES:
        if key != "calibration":
            synthetic.save_study(store, key)
    return load(store, synthetic.STUDIES)


@pytest.fixture(scope="module")
def null_worlds(pilots):
    return calibrate(pilots, "null", range(60))


def test_null_worlds_are_rarely_decided(null_worlds):
    """At most 5 % plus three standard errors of 60 worlds."""
    flags = null_worlds.filter(like="nothing falsely")
    assert flags.shape[1] == 4 and (flags.mean() > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 60)).all()


def test_clear_effects_are_found(pilots):
    expected = calibrate(pilots, "effect", range(40)).filter(like=" as expected").mean()
    # The synthetic evidence is "good": every claim is true, so the controls are not as expected.
    for name, share in expected.items():
        claim = CLAIMS[name.removesuffix(" as expected")]
        if claim.id == "T18":  # false there, as expected
            assert share == 1
        elif claim.id in ("T07", "T10"):  # 200 replicates are too few for quantiles, and for 5 %
            continue
        elif claim.family == "control":
            assert share == 0, name
        else:
            assert share > 0.9, name
    assert len(expected) == sum(claim.evidence == "theory" and claim.family != "machinery" for claim in LEDGER)


def test_intervals_cover(null_worlds):
    assert (null_worlds["promised"] == 0.95).all()
    covered = null_worlds.filter(like=" covered").mean()
    assert len(covered) > 5
    for name, share in covered.items():
        assert share > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 60), name


@pytest.mark.parametrize("claim", ["T05", "T16", "T19", "T22", "T06", "T20"])
def test_laws_are_moved_onto_their_threshold(pilots, claim):
    for law in calibration._laws(pilots, CLAIMS[claim]):
        moved = law.at_threshold()
        assert estimate(law.test, moved.frame).effect == pytest.approx(law.test.threshold, abs=1e-9, rel=1e-6)
        pd.testing.assert_frame_equal(law.frame, samples(pilots, CLAIMS[claim], law.test).frame)  # left as it was


def test_a_judge_that_supports_too_easily_is_found(pilots, monkeypatch):
    """Without Holm's correction, null worlds are supported far too often."""
    monkeypatch.setattr("reports.statistics.holm", lambda p_values: p_values)
    worlds = calibrate(pilots, "null", range(40))
    assert worlds["nothing falsely supported (confirmatory)"].mean() < 0.8


def test_the_result_is_kept_and_registered(pilots, tmp_path, monkeypatch):
    store = Store(tmp_path)
    few = {"null": 3, "effect": 2}
    monkeypatch.setattr(calibration, "load", lambda *_: pilots)
    paths = [store.cell_data_path(cell.cell_id) for cell in calibration_study(few).cells.values()]

    def written():
        return [path.stat().st_mtime_ns for path in paths]

    run_calibration(store, num_worlds=few)
    assert [len(pd.read_parquet(path)) for path in paths] == [3, 2]
    before = written()
    run_calibration(store, num_worlds=few)
    assert written() == before
    run_calibration(store, num_worlds=few, force=True)
    assert all(late > early for late, early in zip(written(), before, strict=True))
    cells = registered_studies()["calibration"].cells
    assert list(cells) == ["null worlds", "effect worlds"]
    assert list(cells.values()) == [
        CalibrationCell("null", ledger_sha256(), 10_000),
        CalibrationCell("effect", ledger_sha256(), 1_000),
    ]


@pytest.mark.parametrize("kind", ["null", "effect"])
def test_worlds_do_not_depend_on_their_neighbours(pilots, kind):
    both, alone = calibrate(pilots, kind, [6, 7]), calibrate(pilots, kind, [7])
    pd.testing.assert_frame_equal(alone, both.loc[[1]].reset_index(drop=True), check_like=True)
