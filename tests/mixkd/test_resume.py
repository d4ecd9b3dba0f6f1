

class Interrupted(Exception):
    pass


def interrupt_at(message):
    """A `report` that stops the run when it is told this; `step 3/` for the end of step 3, before its checkpoint."""

    def report(share, told):
        if told.startswith(message):
            raise Interrupted

    return report


@pytest.fixture
def checkpoint_every_step(monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_INTERVAL_S", -1.0)


def steps_of(experiment, store, **options):
    """Run to the end: the record, and the steps that were done."""
    told = []
    record = run(experiment, store, report=lambda share, message: told.append(message), **options)
    return record, [int(message.split()[1].partition("/")[0]) for message in told if message.startswith("step ")]


def content(store, record):
    """All bits of a run that must not depend on an interruption."""
    folder = store.run_dir(record.run_id)
    return (
        record.measurements,
        (folder / "model" / "model.safetensors").read_bytes(),
        pd.read_parquet(folder / "examples.parquet").to_dict(),
    )


@pytest.fixture(scope="module")
def uninterrupted(finished):
    store, record, _ = finished
    return content(store, record), record.history


@pytest.mark.parametrize(
    ("stops", "first_step"),
    [(["step 1/"], 1), (["step 4/"], 4), (["step 8/"], 8), (["step 3/", "step 10/"], 10), (["step 14/"], 14),
     (["evaluating"], None)],
)  # fmt: skip
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    finished, uninterrupted, store, vader_folder, checkpoint_every_step, stops, first_step
):
    """14 steps in 2 epochs of 7: stopped at the start, within epochs, at an epoch's end, and after the last step."""
    done = finished[2]
    for stop in stops:
        with pytest.raises(Interrupted):
            run(done, store, data_dir=vader_folder, report=interrupt_at(stop))
    assert len(store.runs()[0]) == 1  # the teacher's
    record, steps = steps_of(done, store, data_dir=vader_folder)
    assert steps == (list(range(first_step, 15)) if first_step else [])
    assert content(store, record) == uninterrupted[0]
    assert not list(store.run_dir(record.run_id).glob("checkpoints"))


@pytest.mark.parametrize("stop", ["step 4/", "step 8/", "step 10/", "evaluating"])
def test_the_history_of_an_interrupted_run_is_whole(
    finished, uninterrupted, store, vader_folder, checkpoint_every_step, stop
):
    """One entry per epoch with the mean loss of all its steps, whether the run was interrupted or not."""
    with pytest.raises(Interrupted):
        run(finished[2], store, data_dir=vader_folder, report=interrupt_at(stop))
    record = run(finished[2], store, data_dir=vader_folder)
    assert [entry["epoch"] for entry in record.history] == [1.0, 2.0]
    losses, expected = ([entry["loss"] for entry in history] for history in (record.history, uninterrupted[1]))
    assert losses == pytest.approx(expected, rel=1e-6)


OTHERS = [
    {"recipe": "sm", "partner": "batch", "lam_per": "batch", "mix_ratio": 2.5},
    {"recipe": "tmkd", "precision": "bf16", "teacher_precision": "bf16", "length_grouping": False},
    {"recipe": "ft", "student_layers": None},
]


@pytest.mark.parametrize("changes", OTHERS, ids=lambda changes: changes["recipe"])
def test_other_recipes_resume_as_well(experiment, store, tmp_path, vader_folder, checkpoint_every_step, changes):
    done = experiment(**changes, train_fraction=0.2)  # 2 epochs of 3 steps
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    expected = content(store, run(done, store, data_dir=vader_folder))
    with pytest.raises(Interrupted):
        run(done, other, data_dir=vader_folder, report=interrupt_at("step 5/"))
    record, steps = steps_of(done, other, data_dir=vader_folder)
    assert steps == [5, 6] and content(other, record) == expected


def test_resumption_with_accumulation(experiment, store, tmp_path, vader_folder, checkpoint_every_step):
    options = {"data_dir": vader_folder, "gradient_accumulation_steps": 4}
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    expected = content(store, run(experiment(), store, **options))
    with pytest.raises(Interrupted):
        run(experiment(), other, report=interrupt_at("step 5/"), **options)
    record, steps = steps_of(experiment(), other, **options)
    assert steps == list(range(5, 15)) and content(other, record) == expected


@pytest.mark.parametrize("half_written", ["empty", "cut", "unmarked"])
def test_half_written_checkpoints_are_ignored(
    finished, uninterrupted, store, vader_folder, checkpoint_every_step, half_written
):
    done = finished[2]
    with pytest.raises(Interrupted):
        run(done, store, data_dir=vader_folder, report=interrupt_at("step 6/"))
    [folder] = store.root.glob("runs/*/checkpoints")
    newest, later = folder / "checkpoint-5", folder / "checkpoint-6"
    assert (newest / "complete").exists()
    if half_written == "empty":
        later.mkdir()
    else:
        shutil.copytree(newest, later)
        (later / "complete").unlink()
        if half_written == "cut":
            (later / "model.safetensors").write_bytes((later / "model.safetensors").read_bytes()[:100])
            (later / "trainer_state.json").write_text("{")
    record, steps = steps_of(done, store, data_dir=vader_folder)
    assert steps == list(range(6, 15)) and content(store, record) == uninterrupted[0]


IN_A_PROCESS = """
    import sys
    import torch
    from mixkd import training
    from mixkd.experiment import Experiment
    from mixkd.runs import run
    torch.set_num_threads(1)
    training.CHECKPOINT_INTERVAL_S = float(sys.argv[4])
    trained, original = [], training.train_and_record
    def spy(experiment, *args, **kwargs):
        trained.append("teacher" if experiment.student_layers is None else "student")
        return original(experiment, *args, **kwargs)
    training.train_and_record = spy
    experiment = Experiment.model_validate_json(sys.argv[1])
    print("ready", flush=True)
    record = run(experiment, sys.argv[2], data_dir=sys.argv[3])
    print(record.run_id, *trained, flush=True)
"""


def start(experiment, root, data_dir, interval_s=60.0):
    """A process of its own that runs the experiment, checkpointing at this interval."""
    arguments = [experiment.model_dump_json(), str(root), str(data_dir), str(interval_s)]
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(IN_A_PROCESS), *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def test_a_process_killed_while_it_trains(experiment, store, tmp_path, vader_folder):
    """SIGKILL, as by a lack of memory or a batch system; started again here, it ends as an uninterrupted run does."""
    done = experiment(num_epochs=12, recipe="sm+tmkd+kd")  # 84 steps
    other = Store(shutil.copytree(store.root, tmp_path / "other"))
    with start(done, store.root, vader_folder, interval_s=-1) as process:
        deadline = time.monotonic() + 60
        while not list(store.root.glob("runs/*/checkpoints/checkpoint-2*/complete")):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and len(store.runs()[0]) == 1
    record, steps = steps_of(done, store, data_dir=vader_folder)
    assert steps == list(range(steps[0], 85)) and steps[0] > 2
    assert content(store, record) == content(other, run(done, other, data_dir=vader_folder))


def test_two_processes_on_one_store_do_a_run_once(experiment, tmp_path, vader_folder):
    processes = [start(experiment(), tmp_path / "results", vader_folder) for _ in range(2)]
    outputs = [process.communicate(timeout=90) for process in processes]
    lines = [out.split("\n")[1].split() for out, _ in outputs]
    assert all(process.returncode == 0 for process in processes), outputs
    assert sorted(sum((line[1:] for line in lines), [])) == ["student", "teacher"]  # each once, by whomever
    assert lines[0][0] == lines[1][0]
    records, problems = Store(tmp_path / "results").runs()
    assert len(records) == 2 and not problems


def test_the_second_waits_and_reads(experiment, store, vader_folder, monkeypatch):
    trained, results = count_trainings(monkeypatch), []

    def work():
        results.append(run(experiment(), store, data_dir=vader_folder))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trained) == 1 and results[0] == results[1]


