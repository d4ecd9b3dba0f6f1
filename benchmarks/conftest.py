"""Options, what is measured on which device, and the fixtures that measure it once per session."""

import argparse
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.size import memory_shortage, size_bytes
from benchmarks.subjects import (
    SEED,
    Loaded,
    Subject,
    build,
    built_subjects,
    find_subjects,
    load,
    max_length,
    teacher_of,
    texts,
)
from benchmarks.timing import Case, Cell, NotRun, Timed, measure_on, time_interleaved, unless_out_of_memory
from benchmarks.variants import VARIANTS
from mixkd.gpus import device_name
from mixkd.models import count_parameters
from mixkd.progress import Progress
from mixkd.store import Store, now, provenance

#: Batch sizes and lengths of the latency cases.
GRIDS = {"small": ((1, 32), (32, 128)), "full": ((1, 8, 32, 128), (16, 32, 64, 128, 256, 512))}

Models = dict[tuple[str, int], Loaded | NotRun]
Timings = dict[Case, Timed | NotRun]


@dataclass(frozen=True)
class Session:
    """What this session measures, and on what.

    Attributes:
        subjects: The teacher first, with its students; then those of BERT-base's shape.
        device: Where the models run.
        num_threads: Of torch on the CPU, the same for all cases.
        unavailable: Why nothing can run on `device`; empty if it can.
    """

    subjects: list[Subject]
    device: torch.device
    num_threads: int
    unavailable: str

    def extra_info(self, kind: str, key: tuple[str, int], cell: Cell, loaded: Loaded | NotRun) -> dict[str, Any]:
        """Everything `reports` reads of a benchmark; what is not known (yet) is None."""
        subject = next(subject for subject in self.subjects if subject.key == key)
        parameters = embedding_parameters = on_disk = None
        if isinstance(loaded, Loaded):
            parameters, embedding_parameters = count_parameters(loaded.model)
            on_disk = size_bytes(loaded.folder)
        return {
            "kind": kind, "model": subject.model, "num_layers": subject.num_layers, **cell._asdict(),
            "num_parameters": parameters, "num_embedding_parameters": embedding_parameters, "size_bytes": on_disk,
            "flops": None, "peak_memory_bytes": None, "num_threads": self.num_threads, "dtype": "float32",
            "device": device_name(self.device),
            "p50_s": None, "p90_s": None, "p99_s": None, "examples_per_s": None, "tokens_per_s": None,
            "layer_ratio": teacher_of(subject.model, self.subjects).num_layers / subject.num_layers,
            "speedup_vs_teacher": None, "speedup_low": None, "speedup_high": None, "origin": subject.origin,
            "train_fraction": subject.train_fraction,
        }  # fmt: skip


SESSION = pytest.StashKey[Session]()


def _positive_seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no positive, finite number of seconds")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if float(text) == 0:
            return 0.0
    return _positive_seconds(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mixkd", "benchmarks of MixKD's models")
    group.addoption("--store", default="results", help="folder of the evidence whose models are measured [%(default)s]")
    group.addoption(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is one [%(default)s]"
    )
    group.addoption(
        "--budget", type=_positive_seconds, default=60.0, metavar="SECONDS",
        help="time for the latency rounds [%(default)s]",
    )  # fmt: skip
    group.addoption("--no-bert-base", action="store_true", help="leave out models of BERT-base's shape")
    group.addoption("--data-dir", default=None, help="folder with the task's files, in place of the pinned assets")
    group.addoption(
        "--grid", choices=("small", "full"), default="small",
        help="batch sizes, lengths and ways to run a model: a few, or all of them, for hours [%(default)s]",
    )  # fmt: skip
    group.addoption(
        "--training", type=_seconds, default=0.0, metavar="SECONDS",
        help="time for the comparison of trainings; 0 leaves it out [%(default)s]",
    )  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    takes_long = collection_path.name in ("test_training.py", "test_utilisation.py")
    return True if takes_long and not config.getoption("--training") else None


def pytest_configure(config: pytest.Config) -> None:
    requested = config.getoption("--device")
    has_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if requested == "cuda" or (requested == "auto" and has_cuda) else "cpu")
    torch.set_num_threads(torch.get_num_threads())  # said aloud, it also stops MKL from choosing its own per call
    config.stash[SESSION] = Session(
        subjects=[
            *find_subjects(Store(config.getoption("--store"))),
            *([] if config.getoption("--no-bert-base") else built_subjects("bert-base-")),
        ],
        device=device,
        num_threads=torch.get_num_threads(),
        unavailable="" if has_cuda or device.type == "cpu" else "this machine has no CUDA device that torch can use",
    )


def cells(config: pytest.Config) -> list[Cell]:
    """What latency is measured on."""
    return [Cell(*sizes) for sizes in itertools.product(*GRIDS[config.getoption("--grid")])]


def pytest_report_header(config: pytest.Config) -> str:
    session = config.stash[SESSION]
    models = ", ".join(f"{subject.num_layers}-layer {subject.model}" for subject in session.subjects)
    origin = f"from {config.getoption('--store')}" if session.subjects[0].origin == "store" else "built on the spot"
    return f"mixkd: {models} ({origin}) on {session.device}, {session.num_threads} threads, float32"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    subjects = metafunc.config.stash[SESSION].subjects
    keys = [subject.key for subject in subjects]
    is_full = metafunc.config.getoption("--grid") == "full"
    if "variant" in metafunc.fixturenames and "num_layers" in metafunc.fixturenames:
        names = [name for name in VARIANTS if name != "compiled" or is_full]
        main = [subject for subject in subjects if subject.model in ("teacher", "student")]
        scored = [subject.key for subject in main if subject.origin == main[0].origin]  # a built one was not trained
        metafunc.parametrize(("model", "num_layers", "variant"), [(*key, name) for key in scored for name in names])
    elif "sequence_length" in metafunc.fixturenames:
        cases = [Case(*key, *cell) for cell in cells(metafunc.config) for key in keys]
        # A batch of BERT-base takes ten seconds on a laptop.
        few = [case for case in cases if case.batch_size == 1 or case.model in ("teacher", "student")]
        metafunc.parametrize(Case._fields, cases if is_full else few)
    elif "num_layers" in metafunc.fixturenames:
        metafunc.parametrize(("model", "num_layers"), keys)


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    """What this session measures."""
    return request.config.stash[SESSION]


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest, session: Session) -> Iterator[Models]:
    """The models that were asked for, and their teachers, in memory."""
    asked = {item.callspec.params["model"] for item in request.session.items if "models" in item.fixturenames}
    asked |= {teacher_of(model, session.subjects).model for model in asked}
    subjects = [subject for subject in session.subjects if subject.model in asked]
    if session.unavailable:
        yield {subject.key: NotRun(session.unavailable) for subject in subjects}
        return
    with tempfile.TemporaryDirectory() as temporary:
        built: dict[tuple[str, int], Path] = {}
        for subject in subjects:
            if subject.folder is None and subject.key not in built:
                built |= build(Path(temporary), subject.model.removesuffix("teacher").removesuffix("student"))
        folders = {subject: subject.folder or built[subject.key] for subject in subjects}
        yield {
            subject.key: unless_out_of_memory(partial(load, subject, folder, session.device))
            for subject, folder in folders.items()
        }


@pytest.fixture(scope="session")
def timings(request: pytest.FixtureRequest, session: Session, models: Models) -> Timings:
    """Times of all latency cases that were asked for, and of the teacher beside them, measured interleaved."""
    asked = {Case(**item.callspec.params) for item in request.session.items if "timings" in item.fixturenames}
    cases = [
        case
        for cell in cells(request.config)
        if cell in {case.cell for case in asked}
        for subject in session.subjects
        if (case := Case(*subject.key, *cell)) in asked or _teaches_one_of(subject, cell, asked, session)
    ]
    obstacles = {case: NotRun(reason) for case in cases if (reason := obstacle(session, models, case))}
    calls = {case: forward(session, models, case) for case in cases if case not in obstacles}
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), Progress(1.0, "latency") as progress:

        def report(share: float) -> None:
            progress.update(share, f"{len(calls)} cases, interleaved")

        budget_s, measure = request.config.getoption("--budget"), measure_on(session.device)
        return obstacles | time_interleaved(calls, budget_s, SEED, measure, report)


def _teaches_one_of(subject: Subject, cell: Cell, asked: set[Case], session: Session) -> bool:
    return any(case.cell == cell and teacher_of(case.model, session.subjects) == subject for case in asked)


def obstacle(session: Session, models: Models, case: Case) -> str:
    """Why a case cannot run; empty if it can."""
    loaded = models[case.model, case.num_layers]
    if isinstance(loaded, NotRun):
        return loaded.reason
    model = loaded.model
    if case.sequence_length > max_length(model):
        return f"the model takes at most {max_length(model)} tokens"
    return memory_shortage(model.config, *case.cell, session.device)


def forward(session: Session, models: Models, case: Case) -> Callable[[], Tensor]:
    """One forward pass on texts that are already on the device."""
    loaded = models[case.model, case.num_layers]
    assert isinstance(loaded, Loaded)
    model = loaded.model
    batch = {name: tensor.to(session.device) for name, tensor in texts(model.config.vocab_size, *case.cell).items()}

    @torch.inference_mode()
    def call() -> Tensor:
        return model(**batch).logits

    return call


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """A case that was not run has no times: NaN (with which `--benchmark-compare` still works), of no round."""
    for benchmark in output_json["benchmarks"]:
        if "not_run" in benchmark["extra_info"]:
            benchmark["stats"] |= {"rounds": 0, "total": 0.0, "data": []}


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["versions"] = _provenance().versions
    machine_info.pop("node", None)  # its name is nobody's business, and files are published


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    """The commit of this code, whatever folder pytest was started in."""
    commit_info.clear()
    commit_info.update(id=_provenance().commit, dirty=_provenance().dirty)


def _provenance() -> Any:
    return provenance(device="", num_threads=torch.get_num_threads(), seeds={"seed": SEED}, started_at=now())
