"""Latency of teacher and students: one forward pass over texts of equal length, without tokenisation or padding.

All cases are timed together when the first test asks (`timing.time_interleaved`); each test checks the logits of its
case's last timed pass and reports its times (`replay.replay`). No test asserts a time.
"""

from benchmarks.conftest import Models, Session, Timings
from benchmarks.replay import measured_times, replay, skip_not_run
from benchmarks.size import bert_flops, count_flops
from benchmarks.subjects import check_logits, teacher_of, texts
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
    loaded = models[model, num_layers]
    benchmark.group = f"latency, batch {batch_size}, {sequence_length} tokens"
    benchmark.extra_info |= session.extra_info("latency", (model, num_layers), case.cell, loaded)
    timed = timings[case]
    if isinstance(timed, NotRun) or isinstance(loaded, NotRun):
        skip_not_run(benchmark, timed.reason)

    batch = texts(loaded.model.config.vocab_size, *case.cell)
    check_logits(timed.result, loaded.reference, batch)
    if loaded.model.config.model_type == "bert":
        flops = bert_flops(loaded.model.config, *case.cell)
    else:
        flops = batch_size * count_flops(loaded.reference, {name: tensor[:1] for name, tensor in batch.items()})
    p50_s = percentile(timed.seconds, 0.5)
    assert p50_s is not None
    benchmark.extra_info |= {
        "flops": flops, "examples_per_s": batch_size / p50_s, "tokens_per_s": batch_size * sequence_length / p50_s,
    }  # fmt: skip
    shares = {"p50_s": 0.5, "p90_s": 0.9, "p99_s": 0.99}
    benchmark.extra_info |= {name: percentile(timed.seconds, share) for name, share in shares.items()}
    its_teacher = teacher_of(model, session.subjects)
    teacher = timings[Case(*its_teacher.key, *case.cell)]
    if its_teacher.key != (model, num_layers) and isinstance(teacher, Timed):
        names = ("speedup_vs_teacher", "speedup_low", "speedup_high")
        benchmark.extra_info |= zip(names, speedup(teacher.seconds, timed.seconds), strict=True)
    replay(benchmark, timed.seconds)
