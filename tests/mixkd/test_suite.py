import re
import time
from pathlib import Path

import pytest
import yaml

from mixkd import suite as suite_module
from mixkd import workers as workers_module
from mixkd.experiment import Experiment
from mixkd.runs import run
from mixkd.store import Store, UserError
from mixkd.suite import Suite, load_suite, run_suite, suite_names

SHIPPED = Path(suite_module.__file__).parent / "suites"


def write(folder, text):
    path = folder / "suite.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# ---- files ----


def test_every_shipped_suite_is_found():
    assert suite_names() == sorted(path.stem for path in SHIPPED.iterdir()) and "quick" in suite_names()


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED.glob("*.yaml")])
def test_every_shipped_suite_parses_and_expands(name):
    suite = load_suite(name)
    expanded = suite.expand()
    assert suite.name == name and suite.description
    assert expanded and len(set(expanded)) == len(expanded)
    for experiment in expanded:
        assert Experiment(**experiment.identity()) == experiment
        if experiment.is_student:
            assert not experiment.teacher_experiment().is_student


def test_quick_is_what_the_issue_asks_for():
    """The teacher once; ft, kd, tmkd, sm and sm+tmkd at limited data, with at least 3 paired seeds."""
    expanded = load_suite("quick").expand()
    assert {e.recipe for e in expanded} == {"ft", "kd", "tmkd", "sm", "sm+tmkd"}
    assert len({e.teacher_experiment() for e in expanded}) == 1
    assert all(e.train_fraction < 1 and e.student_layers == 3 and e.init_seed == e.data_seed for e in expanded)
    seeds = {
        recipe: {e.init_seed for e in expanded if e.recipe == recipe}
        for recipe in ("ft", "kd", "tmkd", "sm", "sm+tmkd")
    }
    assert len(next(iter(seeds.values()))) >= 3 and len(set(map(frozenset, seeds.values()))) == 1


def test_lists_are_crossed_in_the_order_of_the_file():
    suite = Suite(name="s", description="d", experiments=[
        {"student_layers": 2, "recipe": ["kd", "ft"], "seed": [1, 0]},
        {"student_layers": 3, "init": ["last", [0, 2, 4]], "recipe": "sm"},
        {"student_layers": 2, "recipe": "ft", "seed": 0, "beta_alpha": 0.4},  # once more: ft does not mix
    ])  # fmt: skip
    found = [(e.student_layers, e.recipe, e.init_seed, e.init) for e in suite.expand()]
    assert found == [
        (2, "kd", 1, "first"), (2, "kd", 0, "first"), (2, "ft", 1, "first"), (2, "ft", 0, "first"),
        (3, "sm", 0, "last"), (3, "sm", 0, (0, 2, 4)),
    ]  # fmt: skip


def test_fields_that_go_together_share_a_line():
    suite = Suite(name="s", description="d", experiments=[
        {"student_layers": [2, 1], "recipe": "ft", "train_fraction, num_epochs": [[0.1, 6], [1.0, 3]], "seed": [0, 1]},
    ])  # fmt: skip
    found = [(e.student_layers, e.train_fraction, e.num_epochs, e.init_seed) for e in suite.expand()]
    assert found == [
        (2, 0.1, 6, 0), (2, 0.1, 6, 1), (2, 1.0, 3, 0), (2, 1.0, 3, 1),
        (1, 0.1, 6, 0), (1, 0.1, 6, 1), (1, 1.0, 3, 0), (1, 1.0, 3, 1),
    ]  # fmt: skip


def test_stages():
    """Every teacher once, and first; one that is in the grid itself is not a student."""
    suite = Suite(name="s", description="d", experiments=[
        {"student_layers": [2, 1], "recipe": "ft", "task": ["vader-movie", "vader-nyt"]},
        {"num_epochs": 3, "learning_rate": 5e-5},
        {"num_epochs": 4},
    ])  # fmt: skip
    teachers, others = suite.stages()
    assert [(e.task, e.student_layers) for e in teachers] == [("vader-movie", None), ("vader-nyt", None)]
    assert [(e.task, e.student_layers, e.num_epochs) for e in others] == [
        ("vader-movie", 2, 10), ("vader-nyt", 2, 10), ("vader-movie", 1, 10), ("vader-nyt", 1, 10),
        ("vader-movie", None, 4),
    ]  # fmt: skip


def test_standard_keeps_the_number_of_steps():
    """What differs between two fractions is the data, not how long it is trained on."""
    passes = {(e.task, e.train_fraction): e.train_fraction * e.num_epochs for e in load_suite("standard").expand()}
    for (task, fraction), value in passes.items():
        assert value == pytest.approx(3 if fraction == 1 else passes[task, 0.1])
    assert {fraction for _, fraction in passes} == {0.01, 0.02, 0.05, 0.1, 0.2, 1.0} and len(passes) == 30


def test_suites_share_their_runs():
    """quick's runs are the first seeds of full; those of breadth (but for another start and twice the epochs) and the
    default of sensitivity are runs of standard. Of longer, KD is its own. The seeds of starts are its own.
    """
    names = ("quick", "full", "standard", "breadth", "sensitivity", "longer", "starts")
    runs = {name: set(load_suite(name).expand()) for name in names}
    assert runs["quick"] < runs["full"] and runs["quick"] < runs["standard"]
    others = {(e.init, e.train_fraction, e.num_epochs) for e in runs["breadth"] - runs["standard"]}
    assert others == {("skip", 0.1, 6), ("first", 0.02, 60), ("first", 0.1, 12)}
    assert {e.recipe for e in runs["longer"] - runs["full"]} == {"kd"}
    assert not runs["longer"] & runs["breadth"] and len(runs["longer"] & runs["full"]) == 2 * 25 * 3
    assert not runs["breadth"] & runs["full"]
    earlier = {experiment.init_seed for name in names[:-1] for experiment in runs[name]}
    assert earlier.isdisjoint(experiment.init_seed for experiment in runs["starts"])
    assert len(runs["sensitivity"] & runs["standard"]) == 3 * 5


def test_a_suite_of_one_s_own(tmp_path):
    path = write(
        tmp_path, "name: mine\ndescription: é\nexperiments:\n- {recipe: ft, student_layers: 2, seed: [0, 1]}\n"
    )
    assert [e.init_seed for e in load_suite(path).expand()] == [0, 1]


BLOCK = "name: a\ndescription: b\nexperiments:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not valid YAML: .*line 1"),
        ("", "is not a valid suite"),
        ("- 1", "is not a valid suite"),
        ("name: a\ndescription: b\n", "experiments: Field required"),
        (BLOCK + "  []", "at least one block"),
        (BLOCK + "- 3", "experiments.0: "),
        (BLOCK + "- {1: 2}", "experiments.0"),
        (BLOCK + "- {recipe: mixkd}", "no recipe 'mixkd'"),
        (BLOCK + "- {recipe: [ft, kd], student_layers: 2, kd_weight: 1.0}", "recipe ft has no kd term"),
        (BLOCK + "- {task: vader-movies}", "there is no task 'vader-movies': choose one of vader-movie"),
        (BLOCK + "- {recipee: ft}", "there is no field 'recipee': choose of .*recipe,.* seed"),
        (BLOCK + "- {recipe: ft, train_fraction: [0.5, 2]}", "train_fraction: Input should be less"),
        (BLOCK + "- {recipe: []}", "recipe"),
        (BLOCK + "- {}\njobs: 3", "jobs: Extra inputs"),
        (b"name: \xff\xfe", "suite.yaml"),
        (BLOCK + '- {"train_fraction, num_epochs": [[0.1, 6], [1.0]]}', "train_fraction, num_epochs go together"),
        (BLOCK + '- {"train_fraction, num_epochs": 0.1}', "train_fraction, num_epochs go together"),
        (BLOCK + '- {"train_fraction, num_epochs": [[0.1, 6]], num_epochs: 3}', "num_epochs is given twice"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as raised:
        load_suite(write(tmp_path, text))
    assert "suite.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_missing_files(tmp_path):
    for name in ("quik", str(tmp_path / "none.yaml"), str(tmp_path)):
        with pytest.raises(UserError, match="There is no suite .*; give one of .*quick.* or a path to a YAML file"):
            load_suite(name)


# ---- runs ----


@pytest.fixture
def small(experiment, tmp_path):
    """A file with two recipes and two seeds on the tiny BERT."""
    settings = experiment(recipe="sm").model_dump(exclude_defaults=True, mode="json")
    block = settings | {"recipe": ["sm", "kd"], "init_seed": [1, 0], "num_epochs": 1}
    block.pop("sm_weight", None)
    return load_suite(write(tmp_path, yaml.safe_dump({"name": "small", "description": "tiny", "experiments": [block]})))


def expected_order(suite):
    return [(None, "ft", 0), *((e.student_layers, e.recipe, e.init_seed) for e in suite.expand())]


def order(records):
    names = ("student_layers", "recipe", "init_seed")
    return [tuple(record.experiment[name] for name in names) for record in records]


def test_suite_in_turn(small, tmp_path, vader_folder, capsys):
    """Teacher first, students in the file's order; a line for each, with the remaining time until the last."""
    store = Store(tmp_path / "results")
    records = run_suite(small, store, data_dir=vader_folder, jobs=1)
    assert order(records) == expected_order(small) and len(small.expand()) == 4
    assert {r.run_id for r in store.runs()[0]} == {r.run_id for r in records}
    lines = [line for line in capsys.readouterr().err.splitlines() if "test score" in line]
    assert len(lines) == 5
    assert all(
        re.match(r"suite small +\d+%, \d+ s left: .* test score 0\.\d{3} \(\d+ s\)$", line) for line in lines[:-1]
    )
    assert re.match(r"suite small 100%: .*sm|suite small 100%: .*kd", lines[-1])
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]
    assert shares == sorted(shares) and len(set(shares)) == 5


def let_time_pass():
    """The tiny runs are over within the second that records are dated by."""
    time.sleep(1.1)


def lines_of_the_rest(suite, folder, vader_folder, capsys):
    """The suite run again after its first two runs, which come first: a line for each of its five runs."""
    capsys.readouterr()
    let_time_pass()
    assert order(run_suite(suite, folder, data_dir=vader_folder, jobs=1)) == expected_order(suite)
    lines = [line for line in capsys.readouterr().err.splitlines() if "test score" in line]
    assert ["already in the store" in line for line in lines] == [True, True, False, False, False]
    return lines


def test_a_finished_suite_is_read(small, tmp_path, vader_folder, monkeypatch, capsys):
    first = run_suite(small, tmp_path / "results", data_dir=vader_folder, jobs=1)
    let_time_pass()
    monkeypatch.setattr("mixkd.training.train_and_record", lambda *args, **kwargs: pytest.fail("trained again"))
    assert run_suite(small, tmp_path / "results", data_dir=vader_folder, jobs=1) == first
    assert capsys.readouterr().err.count("already in the store") == 5


def test_what_is_stored_comes_first_and_the_records_in_the_suite_s_order(small, tmp_path, vader_folder, capsys):
    last = small.model_copy(update={"experiments": [small.expand()[-1].model_dump(exclude_defaults=True, mode="json")]})
    run_suite(last, tmp_path / "results", data_dir=vader_folder, jobs=1)
    lines = lines_of_the_rest(small, tmp_path / "results", vader_folder, capsys)
    assert not any(" left: " in line for line in lines[:2])


def test_an_interrupted_suite_goes_on_and_its_estimate_counts_new_work_only(small, tmp_path, vader_folder, capsys):
    original, trained = workers_module.run, []

    def stop_at_the_third(experiment, *args, **kwargs):
        trained.append(experiment)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return original(experiment, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers_module, "run", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run_suite(small, tmp_path / "results", data_dir=vader_folder, jobs=1)
    assert len(Store(tmp_path / "results").runs()[0]) == 2
    lines = lines_of_the_rest(small, tmp_path / "results", vader_folder, capsys)
    assert [" left: " in line for line in lines] == [False, False, True, True, False]


def test_a_store_of_another_machine_is_told_before_it_starts_and_not_when_all_is_done_anew(
    small, tmp_path, vader_folder, monkeypatch, capsys
):
    teacher = run(small.stages()[0][0], Store(tmp_path / "results"), data_dir=vader_folder)
    there = teacher.provenance.model_copy(update={"processor": "Another"})
    Store(tmp_path / "results").save_run(teacher.model_copy(update={"provenance": there}))
    monkeypatch.setattr(suite_module, "run_in_turn", lambda experiments, *args: [teacher] * len(experiments))
    for force in (False, True):
        run_suite(small, tmp_path / "results", data_dir=vader_folder, device="cpu", jobs=1, force=force)
        told = capsys.readouterr().err
        assert told.count("the store has 1 finished run from Another") == (0 if force else 1)


def test_an_error_of_a_run_ends_the_suite(small, tmp_path, vader_folder):
    broken = Suite(name="broken", description="d", experiments=[
        block | {"teacher_learning_rate": 1e-9} for block in small.experiments
    ])  # fmt: skip
    with pytest.raises(UserError, match="no better than"):
        run_suite(broken, tmp_path / "results", data_dir=vader_folder, jobs=1)
