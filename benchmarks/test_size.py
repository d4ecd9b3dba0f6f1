"""Size of teacher and students: parameters, bytes on disk, FLOPs and peak memory for one text of 128 tokens.

The time that is reported is that of loading the checkpoint from disk into float32 on the CPU, until every weight was
read.
"""

import time

import torch

from benchmarks.conftest import Models, Session
from benchmarks.replay import measured_times, replay, skip_not_run
from benchmarks.size import bert_flops, count_flops, peak_memory_bytes
from benchmarks.subjects import Loaded, check_logits, load_as_measured, max_length, texts
from benchmarks.timing import Cell, NotRun, unless_out_of_memory

pytestmark = measured_times

SEQUENCE_LENGTH = 128
NUM_LOADS = 3


def test_size(benchmark, session: Session, models: Models, model: str, num_layers: int) -> None:
    loaded = models[model, num_layers]
    length = min(SEQUENCE_LENGTH, max_length(loaded.model)) if isinstance(loaded, Loaded) else SEQUENCE_LENGTH
    cell = Cell(1, length)
    benchmark.group = "size, and time to load"
    benchmark.extra_info |= session.extra_info("size", (model, num_layers), cell, loaded)
    if isinstance(loaded, NotRun):
        skip_not_run(benchmark, loaded.reason)
    peak = unless_out_of_memory(lambda: peak_memory_bytes(loaded.folder, *cell, session.device))
    if isinstance(peak, NotRun):
        skip_not_run(benchmark, peak.reason)

    seconds = []
    for _ in range(NUM_LOADS):
        start = time.perf_counter()
        fresh = load_as_measured(loaded.folder)
        for weight in fresh.parameters():
            weight.sum()  # till then it is only mapped from the file
        seconds.append(time.perf_counter() - start)
    batch = texts(fresh.config.vocab_size, *cell)
    with torch.inference_mode():
        check_logits(fresh(**batch).logits, loaded.reference, batch)

    flops = count_flops(fresh, batch)
    if fresh.config.model_type == "bert":
        assert flops == bert_flops(fresh.config, *cell)
    parameters = benchmark.extra_info["num_parameters"]
    on_disk = benchmark.extra_info["size_bytes"]
    assert 4 * parameters <= on_disk < 4 * parameters + 100_000, "float32 weights and a short header"
    benchmark.extra_info["flops"] = flops
    benchmark.extra_info["peak_memory_bytes"] = peak
    replay(benchmark, seconds)
