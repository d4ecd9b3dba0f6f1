"""What the `mixkd` command does: the one place where the packages meet. They are imported when a command needs them."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt

from mixkd.experiment import Experiment
from mixkd.store import Store, UserError, is_first_process


def reproduce(
    suite: str = "quick",
    output: str = "results",
    data_dir: str | None = None,
    device: str | None = None,
    jobs: PositiveInt | None = None,
    backend: str = "loky",
) -> None:
    """Do everything: assets, teacher, students, theory, benchmarks, report. What is finished is not done again.

    Args:
        suite: Name of a suite that comes with the package, or a YAML file.
        output: Folder of the evidence.
        data_dir: Folder with the tasks' files, in place of the pinned assets.
        device: cpu or cuda; by default CUDA if there is one.
        jobs: Experiments and simulation cells at a time; by default one per core, of experiments at most four, or one
            per GPU.
        backend: joblib's backend for more than one job: loky, dask or ray.
    """
    _say("1/4 training")
    run_suite(suite, output, data_dir, device, jobs, backend)
    _say("2/4 theory")
    theory((), output, jobs, backend)
    _say("3/4 benchmarks")
    if list(Store(output).benchmarks_dir.glob("*.json")):
        _say("benchmarks: already in the store (`mixkd bench` runs them again)")
    else:
        bench([f"--data-dir={data_dir}"] if data_dir else [], output)
    _say("4/4 report")
    report(output)


def train(
    experiment: Experiment,
    output: str = "results",
    data_dir: str | None = None,
    device: str | None = None,
    gradient_accumulation_steps: PositiveInt = 1,
    torch_compile: bool = False,
    report_to: str = "none",
    force: bool = False,
) -> None:
    """Train one model, and its teacher if it has none yet; print its measurements.

    Args:
        experiment: What to run.
        output: Folder of the evidence.
        data_dir: Folder with the task's files, in place of the pinned assets.
        device: cpu or cuda; by default CUDA if there is one.
        gradient_accumulation_steps: Micro-batches that add up to batch_size.
        torch_compile: Let torch compile student and teacher, which takes some minutes: for long trainings on a GPU.
        report_to: Where Trainer's integrations send the course of the training: tensorboard, wandb, trackio, ...
        force: Compute again, and overwrite, what is there.
    """
    from mixkd.progress import Progress, quiet_libraries
    from mixkd.runs import leave_process_group, run

    quiet_libraries()
    options = {"data_dir": data_dir, "device": device, "report_to": report_to, "force": force}
    options |= {"gradient_accumulation_steps": gradient_accumulation_steps, "torch_compile": torch_compile}
    with Progress(1.0, experiment.label()) as progress:
        record = run(experiment, output, report=progress.update, **options)
    leave_process_group()
    if is_first_process():
        print(json.dumps(record.measurements, indent=1), f"Model: {Store(output).model_dir(record.run_id)}", sep="\n")


def predict(
    model: str,
    task: str,
    split: str = "test",
    data_dir: str | None = None,
    output: str = "predictions",
    max_length: PositiveInt = 128,
    batch_size: PositiveInt = 64,
    device: str | None = None,
) -> None:
    """Predict a split with a saved model; for GLUE's test splits, write the files that its server takes.

    Args:
        model: Folder or hub id of a fine-tuned model, such as results/runs/<run-id>/model.
        task: Name of a task, or ax for GLUE's diagnostics with a model of mnli.
        split: Split to predict.
        data_dir: Folder with the task's files, in place of the pinned assets or the hub.
        output: Folder of the predictions; GLUE's files are also packed into its submission.zip.
        max_length: Tokens per text or pair; longer ones are cut.
        batch_size: Examples at a time.
        device: cpu or cuda; by default CUDA if there is one.
    """
    from mixkd.predict import predict as predict_split
    from mixkd.progress import quiet_libraries

    quiet_libraries()
    for path in predict_split(
        model, task, split, data_dir=data_dir, output=output, max_length=max_length, batch_size=batch_size,
        device=device,
    ):  # fmt: skip
        print(path)


def run_suite(
    suite: str,
    output: str = "results",
    data_dir: str | None = None,
    device: str | None = None,
    jobs: PositiveInt | None = None,
    backend: str = "loky",
    discard_models: bool = False,
    dry_run: bool = False,
    force: bool = False,
) -> None:
    """Run a grid of experiments.

    Args:
        suite: Name of a suite that comes with the package, or a YAML file.
        output: Folder of the evidence.
        data_dir: Folder with the tasks' files, in place of the pinned assets.
        device: cpu or cuda; by default CUDA if there is one.
        jobs: Experiments at a time; by default one per core, at most four, or one per GPU.
        backend: joblib's backend for more than one job: loky, dask or ray.
        discard_models: Do not keep the students' models once they are measured.
        dry_run: Only say how many runs there are and about how much time and disk they take.
        force: Compute again, and overwrite, what is there.
    """
    from mixkd.progress import quiet_libraries
    from mixkd.suite import load_suite
    from mixkd.suite import run_suite as run_all

    grid = load_suite(suite)
    if dry_run:
        from mixkd.estimate import dry_run as estimate

        print("\n".join(estimate(grid, output, device, jobs)))
        return
    quiet_libraries()
    options = {"data_dir": data_dir, "device": device, "jobs": jobs, "backend": backend, "force": force}
    run_all(grid, output, keep_models=not discard_models, **options)


def theory(
    studies: Sequence[str] = (),
    output: str = "results",
    jobs: PositiveInt | None = None,
    backend: str = "loky",
    device: str | None = None,
    pilot: bool = False,
    force: bool = False,
) -> None:
    """Run simulation studies.

    Args:
        studies: Names of studies; none: all but `phase_full`.
        output: Folder of the evidence.
        jobs: Simulation cells at a time; by default one per core.
        backend: loky here, dask or ray on a cluster.
        device: Simulate in torch on this device, such as cuda, and not in numpy.
        pilot: Use the seed of the pilots, which no verdict reads.
        force: Compute again, and overwrite, what is there.
    """
    from mixkd.backends import open_backend
    from mixkd.gpus import choose_device
    from mixkd.progress import Progress, quiet_libraries
    from theory.running import run_studies
    from theory.studies import CLAIM_STUDIES, DEFAULT_STUDIES, needs_embeddings

    if device is not None:
        choose_device(device)
    store = Store(output)
    studies = list(studies or DEFAULT_STUDIES)
    simulated = [name for name in studies if name != "calibration"]
    if needs_embeddings(simulated) and not store.embeddings_path.exists():
        from mixkd.embeddings import export_embeddings

        quiet_libraries()
        _say("embedding the sentences for the real inputs (once, about a minute)")
        export_embeddings(store.embeddings_path)
    if simulated:
        num_jobs = jobs or os.cpu_count() or 1
        with Progress(1.0, "theory") as progress, open_backend(backend, num_jobs):
            run_studies(
                simulated, store, num_jobs=num_jobs, force=force, device=device, pilot=pilot,
                report=lambda done, total, label: progress.line(done / max(total, 1), label),
            )  # fmt: skip
    if "calibration" in studies and not pilot:
        from reports.calibration import run_calibration

        theory(CLAIM_STUDIES, output, jobs, backend, device, pilot=True)
        _say("calibrating the judge (some minutes)")
        run_calibration(store, force, jobs or os.cpu_count() or 1)


def bench(pytest_options: Sequence[str] = (), output: str = "results") -> None:
    """Run `pytest benchmarks` and keep its JSON in the store; of every case the report reads the last run.

    Args:
        pytest_options: Further options of pytest, such as `-k latency`, or `--benchmark-compare=FILE` with an earlier
            run's JSON.
        output: Folder of the evidence; its models are measured.
    """
    from mixkd.bench import run_benchmarks

    _say(f"benchmarks: {run_benchmarks(pytest_options, Store(output))}")


def report(output: str = "results", baseline: str | None = None) -> None:
    """Judge the claims by what the store holds, and write report.html, verdicts.json and the tables behind them.

    Args:
        output: Folder of the evidence.
        baseline: Folder of other evidence; what changed since then stands at the top.
    """
    from reports.helper import build

    if not Path(output).is_dir():
        raise UserError(f"There is no store {output}; `mixkd reproduce` makes one, `mixkd restore` fills one.")
    built = build(Store(output), None if baseline is None else Store(baseline))
    print("Verdicts:", ", ".join(f"{count} {outcome}" for outcome, count in built.counts.items() if count))
    if built.unexpected:
        print("Decided against expectation:", ", ".join(built.unexpected))
    for problem in built.problems:
        print(f"Not used: {problem.path}: {problem.reason}")
    print(f"Report: {built.report}")


#: Evidence that is kept in the repository.
PUBLISHED = "reports/published"


def publish(output: str = "results", folder: str = PUBLISHED) -> None:
    """Add the store's training runs and benchmarks to the small files that a repository keeps, and render its report.

    Args:
        output: Folder of the evidence.
        folder: Folder of the files and of report.html, with the tables behind it in evidence.tar.xz.
    """
    from mixkd import archive
    from reports.page import build

    store, to = Store(output), Path(folder)
    if (to / archive.RUNS).is_file():
        archive.restore(to, store)  # the page is of all that is published, also by others
    with tempfile.TemporaryDirectory() as temporary:
        built = build(store, Path(temporary), packed=True)
        archive.check_verdicts(built.verdicts, to)
        counts = archive.publish(store, to)
        archive.copy((built.report, built.verdicts, built.evidence), to)
    archive.publish_paths(store, to, built.drawn_runs)
    for problem in built.problems:
        print(f"Not used: {problem.path}: {problem.reason}")
    print(f"{folder} holds {counts.runs} runs, {counts.benchmarks} files of benchmarks and {built.report.name}")


def restore(output: str = "results", folder: str = PUBLISHED) -> None:
    """Fill the store with the training runs and benchmarks that `mixkd publish` kept; no finished run is done again.

    Args:
        output: Folder of the evidence.
        folder: Folder of the files.
    """
    from mixkd import archive

    counts = archive.restore(Path(folder), Store(output))
    print(f"added {counts.runs} runs and {counts.benchmarks} files of benchmarks to {output}")


def doctor(output: str = "results") -> None:
    """Say what this machine can run.

    Args:
        output: Folder of the evidence, whose disk is looked at.
    """
    from mixkd.doctor import diagnose

    for line in diagnose(Path(output)):
        print(line)


_ALL = (reproduce, train, run_suite, predict, theory, bench, report, publish, restore, doctor)
COMMANDS: dict[str, Callable[..., None]] = {command.__name__.removeprefix("run_"): command for command in _ALL}


def _say(message: str) -> None:
    print(f"mixkd: {message}", file=sys.stderr, flush=True)
