"""The calibration of the judge, on evidence whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from mixkd.store import Store
from reports import calibration
from reports.calibration import CalibrationCell, calibrate, calibration_study, registered_studies, run_calibration
from reports.evidence import load
from reports.ledger import LEDGER, ledger_sha256
from reports.results import estimate
from reports.samples import samples
from reports.statistics import Estimate
from theory.studies import PILOT_SEED

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
    covered = null_worlds.filter(like=" covered").mean()
    registered = {test.measure for test in CLAIMS["C04"].tests}
    assert {"T05 covered", "T06 covered", "T16 covered", "T22 covered"} < registered < set(covered.index)
    assert not {"T01 covered", "T07 covered", "E01 covered"} & registered  # right by construction
    # Each of 60 worlds; the chance that one of some forty claims falls below is 1 in 100.
    assert (covered >= stats.binom.ppf(0.01 / len(covered), 60, 0.95) / 60).all(), covered.min()


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


def test_any_test_of_a_claim_may_be_the_one_that_fails(monkeypatch):
    claim, seen, raws = CLAIMS["T12"], [], []
    laws = {claim.id: [calibration._Law(test, None, Estimate(test.threshold, 0, 2, 1, 1)) for test in claim.tests]}

    def draw(self, rng):
        seen.append(self.test)
        return Estimate(1.0, 0.9, 1.1, 0.01, 0.02)

    def holm(claims, raw):
        raws.append(raw[claim.id])
        return [(claim, raw[claim.id])]

    monkeypatch.setattr(calibration._Law, "draw", draw)
    monkeypatch.setattr(calibration, "family_p_values", holm)
    for k in range(20):
        calibration._null_world((claim,), laws, np.random.default_rng(k))
    assert {test.side for test in seen} == {"below", "above"}
    assert set(raws) == {(0.01, 0.04), (0.02, 0.02)}  # twice the p-value against, for two tests


def test_the_law_of_sample_sizes_has_the_pilots_error():
    test = CLAIMS["T07"].tests[0]
    law = calibration._Law(test, pd.DataFrame(), Estimate(0.5, 0.5 / 1.1, 0.5 * 1.1, 0.1, 0.9))
    drawn = [law.draw(np.random.default_rng(k)) for k in range(400)]
    assert {round(each.high / each.low, 9) for each in drawn} == {1.21}
    assert np.std(np.log([each.effect for each in drawn])) == pytest.approx(np.log(1.1) / 1.96, rel=0.1)


@pytest.mark.parametrize(("claim", "num_seeds"), [("E01", 30), ("E08", 30), ("E12", 10), ("E18", 30)])
def test_training_runs_are_pairs_of_correlation_one_half(claim, num_seeds, monkeypatch, pilots):
    frames = []
    monkeypatch.setattr(calibration, "estimate", lambda test, frame: frames.append(frame))
    law, *_ = calibration._laws(pilots, CLAIMS[claim])
    test = law.test
    for k in range(6000 // num_seeds):
        law.at_threshold().draw(np.random.default_rng(k))
    whole = pd.concat(frames)
    scale = test.threshold if test.statistic == "ratio of means" else 1
    assert len(frames[0]) == num_seeds and whole.corr().iloc[0, 1] == pytest.approx(0.5, abs=0.04)
    assert whole["reference"].std() == pytest.approx(0.02, rel=0.05)
    assert whole["arm"].std() == pytest.approx(0.02 * scale, rel=0.05)


def test_an_interval_covers_between_both_ends_and_support_needs_it(monkeypatch):
    claim = CLAIMS["T11"]
    laws = {claim.id: [calibration._Law(claim.tests[0], None, Estimate(1, 0, 2, 1, 1))]}
    for found, covered, fine in (
        (Estimate(0.9, 0.8, 0.99, 1e-9, 1), 0, 0),
        (Estimate(1.1, 1.01, 1.2, 1, 0.5), 0, 1),
        (Estimate(1, 0.9, 1.1, 1e-9, 1), 1, 1),
    ):
        monkeypatch.setattr(calibration._Law, "draw", lambda self, rng, found=found: found)
        row = calibration._null_world((claim,), laws, np.random.default_rng(0))
        assert (row["T11 covered"], row["nothing falsely supported (control)"]) == (covered, fine)


def test_worlds_are_drawn_anew():
    frame = pd.DataFrame({"S1": np.linspace(1, 2, 50), "S0": np.linspace(2, 1, 50)}).rename_axis("replicate")
    law = calibration._Law(CLAIMS["T05"].tests[0], frame, Estimate(1, 0, 2, 1, 1))
    assert len({law.draw(np.random.default_rng(k)).effect for k in range(10)}) == 10


def test_claims_without_pilots_count_against_the_others(monkeypatch):
    raws, claims = [], (CLAIMS["T05"], CLAIMS["E01"], CLAIMS["T08"])
    laws = {c.id: [calibration._Law(c.tests[0], None, Estimate(1, 0, 2, 1, 1))] for c in claims[:2]} | {"T08": []}
    monkeypatch.setattr(calibration._Law, "draw", lambda *_: Estimate(0.5, 0.4, 0.6, 0.01, 0.99))
    monkeypatch.setattr(calibration, "family_p_values", lambda claims, raw: raws.append(raw) or [])
    calibration._effect_world(claims, laws, np.random.default_rng(0))
    assert raws[0] == {"T05": (0.01, 0.99), "E01": (1.0, 1.0), "T08": (1.0, 1.0)}


def test_calibration_reads_pilots(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(calibration, "load", lambda store, studies: asked.update(studies) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_calibration(Store(tmp_path), num_worlds={"null": 1, "effect": 1})
    assert {cell.master_seed for study in asked.values() for cell in study.cells.values()} == {PILOT_SEED}


def test_tests_of_the_same_cells_are_given_the_same_draw(pilots):
    """An equivalence pair asks twice for one estimate."""
    claim, seen = CLAIMS["T15"], []
    laws = {claim.id: calibration._laws(pilots, claim)}

    def look(claims, raw):
        seen.append(raw[claim.id])
        return []

    with pytest.MonkeyPatch.context() as patch:
        drawn = []
        draw = calibration._Law.draw
        patch.setattr(calibration._Law, "draw", lambda self, rng: drawn.append(draw(self, rng)) or drawn[-1])
        patch.setattr(calibration, "family_p_values", look)
        calibration._effect_world((claim,), laws, np.random.default_rng(0))
    assert len(drawn) == 2 and drawn[0][:3] == drawn[1][:3]
