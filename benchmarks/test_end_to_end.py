"""From texts to answers: speed, score and agreement of every model in every way to run it.

The models are those of the store, on the test texts of the task they were trained for: tokenised, in batches of 32,
padded to the longest of a batch. Every block of texts is answered by all of them in random order. A ratio of speeds is
that of total times, with a bootstrap interval over blocks; the teacher in float32 is what all are compared with. No
test asserts a time.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.conftest import Models, Session
from benchmarks.end_to_end import BATCH_SIZE, Answers, Key, Texts, load_texts, time_blocks
from benchmarks.energy import EnergyMeter
from benchmarks.replay import measured_times, replay, skip_not_run
from benchmarks.subjects import SEED, Loaded
from benchmarks.timing import Cell, NotRun, speedup, unless_out_of_memory
from benchmarks.variants import VARIANTS, Runnable, check_answer, prepare
from mixkd.metrics import bootstrap_interval, compute_scores
from mixkd.progress import Progress

pytestmark = measured_times

MAX_LENGTH = 128
NUM_CHECKED = 64


@pytest.fixture(scope="session")
def texts(request: pytest.FixtureRequest, session: Session) -> Texts | NotRun:
    """What is answered."""
    teacher = session.subjects[0]
    if teacher.folder is None or teacher.task is None:
        return NotRun("the store holds no trained models, so there is no score: run `mixkd suite quick` first")
    return load_texts(teacher.task, teacher.folder, request.config.getoption("--data-dir"), MAX_LENGTH)


@pytest.fixture(scope="session")
def meter(session: Session) -> EnergyMeter:
    """Energy of what the models run on."""
    return EnergyMeter(session.device)


@pytest.fixture(scope="session")
def answers(
    request: pytest.FixtureRequest, session: Session, models: Models, texts: Texts | NotRun, meter: EnergyMeter
) -> Iterator[dict[Key, Answers | NotRun]]:
    """What every model said, and how long it took; the teacher in float32 is always among them."""
    items = [item for item in request.session.items if "answers" in item.fixturenames]
    keys: list[Key] = [(*session.subjects[0].key, "float32")]
    keys += [key for item in items if (key := tuple(item.callspec.params.values())) not in keys]
    if isinstance(texts, NotRun) or session.unavailable:
        yield dict.fromkeys(keys, texts if isinstance(texts, NotRun) else NotRun(session.unavailable))
        return
    found: dict[Key, Answers | NotRun] = {}
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), Progress(1.0, "end to end") as progress:
        for number, key in enumerate(keys):
            progress.update(0.3 * number / len(keys), f"preparing {key[1]}-layer {key[0]}, {key[2]}")
            loaded = models[key[:2]]
            if isinstance(loaded, NotRun):
                found[key] = loaded
                continue
            runnable = unless_out_of_memory(partial(prepare, key[2], loaded.folder, session.device))
            is_ready = isinstance(runnable, Runnable)
            found[key] = Answers(texts, runnable, session.device) if is_ready else runnable
        ready = {key: model for key, model in found.items() if isinstance(model, Answers)}
        found |= time_blocks(
            ready, len(texts.labels), meter, SEED,
            lambda share: progress.update(0.3 + 0.7 * share, f"{len(ready)} models, interleaved"),
        )  # fmt: skip
    yield found


def test_end_to_end(
    benchmark,
    session: Session,
    models: Models,
    texts: Texts | NotRun,
    answers: dict[Key, Answers | NotRun],
    meter: EnergyMeter,
    model: str,
    num_layers: int,
    variant: str,
) -> None:
    key, loaded = (model, num_layers), models[model, num_layers]
    benchmark.group = "end to end, seconds per block of texts"
    benchmark.extra_info |= session.extra_info("end-to-end", key, Cell(BATCH_SIZE, MAX_LENGTH), loaded)
    benchmark.extra_info |= {
        "variant": variant,
        "dtype": VARIANTS[variant].dtype,
        "energy_not_told": meter.obstacle,
        "task": session.subjects[0].task,
    }
    answered, teacher = answers[*key, variant], answers[*session.subjects[0].key, "float32"]
    if isinstance(answered, NotRun):
        skip_not_run(benchmark, answered.reason)
    assert isinstance(texts, Texts) and isinstance(loaded, Loaded)

    rows = np.linspace(0, len(texts.labels) - 1, NUM_CHECKED).astype(int).tolist()
    with torch.inference_mode():
        expected = loaded.reference(**texts.batch(rows)).logits
    check_answer(torch.from_numpy(answered.logits[rows]), expected, VARIANTS[variant].tolerance)

    seconds, num_texts = np.array(answered.seconds), len(texts.labels)
    own = answers.get((*key, "float32"))
    agreement = {
        name: float((answered.predictions == other.predictions).mean()) if isinstance(other, Answers) else None
        for name, other in (("agreement", teacher), ("agreement_float32", own))
    }
    # Of an accuracy, `reports` computes Wilson's interval.
    is_accuracy = texts.metric == "accuracy"
    reach = None if is_accuracy else bootstrap_interval(texts.metric, answered.predictions, texts.labels, SEED)
    benchmark.extra_info |= {
        "size_bytes": answered.runnable.size_bytes,
        "metric": texts.metric,
        "num_examples": num_texts,
        "examples_per_s": num_texts / seconds.sum(),
        "tokens_per_s": texts.num_tokens / seconds.sum(),
        "score": compute_scores(texts.metric, answered.predictions, texts.labels),
        **dict(zip(("score_low", "score_high"), reach or (None, None), strict=True)),
        **agreement,
        "joules_per_example": sum(answered.energy_j) / num_texts if answered.energy_j else None,
    }
    if answered is not teacher and isinstance(teacher, Answers):
        names = ("speedup_vs_teacher", "speedup_low", "speedup_high")
        ratio = speedup(np.array(teacher.seconds), seconds, statistic=np.mean)
        benchmark.extra_info |= zip(names, ratio, strict=True)
    replay(benchmark, answered.seconds)
