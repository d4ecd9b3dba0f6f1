"""Latency of teacher and students: one forward pass over texts of equal length, without tokenisation or padding.

All cases are timed together when the first test asks (`timing.time_interleaved`); each test checks the logits of its
case's last timed pass and reports its times (`replay.replay`). No test asserts a time.
"""

from benchmarks.conftest import Models, Session, Timings
from benchmarks.replay import measured_times, replay, skip_not_run
from benchmarks.size import count_flops
from benchmarks.subjects import check_logits, texts
from benchmarks.timing import Case, NotRun, Timed, percentile, speedup

pytestmark = measured_times


def test_latency(
    benchmark,
    session: Session,
    models: Models,
    timings: Timings,
    model: str,
    num_layers: int,
    batch_size: int,
    sequence_length: int,
) -> None:
    case = Case(model, num_layers, batch_size, sequence_length)
    loaded = models.get((model, num_layers))
    benchmark.group = f"latency, batch {batch_size}, {sequence_length} tokens"
    benchmark.extra_info |= session.extra_info("latency", (model, num_layers), case.cell, loaded)
    timed = timings[case]
    if isinstance(timed, NotRun) or loaded is None:
        skip_not_run(benchmark, timed.reason)

    batch = texts(loaded.model.config.vocab_size, *case.cell)
    check_logits(timed.result, loaded.reference, batch)
    one_text = {name: tensor[:1] for name, tensor in batch.items()}
    benchmark.extra_info["flops"] = batch_size * count_flops(loaded.reference, one_text)
    shares = {"p50_s": 0.5, "p90_s": 0.9, "p99_s": 0.99}
    benchmark.extra_info |= {name: percentile(timed.seconds, share) for name, share in shares.items()}
    teacher = timings[Case(*session.subjects[0].key, *case.cell)]
    if model == "student" and isinstance(teacher, Timed):
        names = ("speedup_vs_teacher", "speedup_low", "speedup_high")
        benchmark.extra_info |= zip(names, speedup(teacher.seconds, timed.seconds), strict=True)
    replay(benchmark, timed.seconds)
