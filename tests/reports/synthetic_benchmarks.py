"""Files of pytest-benchmark whose times the test chooses."""

from typing import Any

Cases = list[dict[str, Any]]

#: Model, layers, variant, texts per second, score.
WAYS = (
    ("teacher", 6, "float32", 200.0, 0.87),
    ("teacher", 6, "onnx-int8", 450.0, 0.86),
    ("student", 3, "float32", 400.0, 0.8),
    ("student", 3, "onnx-int8", 900.0, 0.79),
    ("student", 1, "float32", 850.0, 0.7),
)


def benchmark_file(time_ratio: float = 0.52, student_parameters: int = 17_400_000) -> dict[str, Any]:
    cases = [*_models(time_ratio, student_parameters), *_ways(), *_simulations(), *_trainings()]
    return {
        "benchmarks": cases,
        "machine_info": {"cpu": {"brand_raw": "A Processor"}, "python_version": "3.11.2", "system": "Linux"},
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2025-01-02T03:04:05",
    }


def _models(time_ratio: float, student_parameters: int) -> Cases:
    """Sizes and latencies; one case was not run."""
    cases = []
    models = (("teacher", 6, 22_700_000), ("student", 3, student_parameters), ("bert-base-student", 3, 45_700_000))
    for model, layers, parameters in models:
        common = {
            "model": model, "num_layers": layers, "num_parameters": parameters, "num_threads": 1, "dtype": "float32",
            "num_embedding_parameters": 11_900_000, "size_bytes": parameters * 4, "flops": 1e9 * layers,
            "peak_memory_bytes": 2e8, "device": "cpu", "origin": "built",
        }  # fmt: skip
        size = {"kind": "size", **common, "batch_size": 2, "sequence_length": 100}
        cases.append({"name": f"test_size[{model}]", "stats": {"median": 0.1}, "extra_info": size})
        for batch_size in (1, 8):
            for length in (32, 128):
                p50 = 1e-5 * layers * batch_size**0.9 * length * (1 if model == "teacher" else 2 * time_ratio)
                speedup = {"speedup_vs_teacher": None, "speedup_low": None, "speedup_high": None}
                if model == "student":
                    speedup = {"layer_ratio": 2.0} | {
                        name: factor / time_ratio for name, factor in zip(speedup, (1, 0.98, 1.02), strict=True)
                    }
                info = {
                    "kind": "latency", **common, "batch_size": batch_size, "sequence_length": length, **speedup,
                    "p50_s": p50, "p90_s": p50 * 1.1, "p99_s": 0.125 if batch_size == 8 else None,
                    "examples_per_s": batch_size / p50, "tokens_per_s": batch_size * length / p50,
                }  # fmt: skip
                name = f"test_latency[{model}-{batch_size}-{length}]"
                cases.append({"name": name, "stats": {"median": p50, "total": p50 * 20}, "extra_info": info})
    cases.append(
        {
            "name": "test_latency[student-64-512]",
            "stats": {"median": None},
            "extra_info": {"kind": "latency", "model": "student", "num_layers": 3, "not_run": "too little memory"},
        }
    )
    return cases


def _ways() -> Cases:
    """From texts to answers."""
    cases = []
    for model, layers, variant, speed, score in WAYS:
        info = {
            "kind": "end-to-end", "model": model, "num_layers": layers, "variant": variant, "metric": "accuracy",
            "num_examples": 2000, "examples_per_s": speed, "tokens_per_s": 20 * speed, "score": score,
            "agreement": 0.9, "agreement_float32": 0.95, "batch_size": 32, "size_bytes": 1e7, "task": None,
            "speedup_vs_teacher": speed / 200, "speedup_low": speed / 204, "speedup_high": speed / 196,
            "energy_not_told": "no meter",
        }  # fmt: skip
        name = f"test_end_to_end[{model}-{layers}-{variant}]"
        cases.append({"name": name, "stats": {"median": 0.1}, "extra_info": info})
    return cases


def _simulations() -> Cases:
    """Fits and whole cells."""
    cases = []
    cells = [(n, 4, 200) for n in (20, 80, 320)] + [(80, d, 100) for d in (4, 60, 200)]
    cells += [(80, 4, replicates) for replicates in (1000, 4000)]
    for kind, sizes, ratio in (("simulation", (80, 4, None), 241.5), *(("cell", sizes, None) for sizes in cells)):
        info = {
            "kind": kind, "model": kind, "num_samples": sizes[0], "num_features": sizes[1], "num_replicates": sizes[2],
            "seconds_per_replicate": 1.25e-4, "speedup_vs_sklearn": ratio, "speedup_low": ratio and 169.5,
            "speedup_high": ratio and 368.5, "peak_memory_bytes": None if ratio else 4.3e7,
        }  # fmt: skip
        total = 1.25e-4 * (sizes[2] or 1)
        stats = {"median": total, "data": [total * (1 + 0.01 * k) for k in (-3, -2, -1, 0, 1, 2, 3)]}
        cases.append({"name": f"test_{kind}[{sizes}]", "stats": stats, "extra_info": info})
    return cases


def _trainings() -> Cases:
    """Steps, and the memory of a process of their own."""
    cases = []
    for name, seconds, beside in (
        ("textbrewer", 0.48, {}),
        ("kd", 0.08, {"textbrewer": (6.0, 5.5, 6.5)}),
        ("kd-float32", 0.12, {"textbrewer": (4.0, 3.5, 4.5), "kd": (0.66, 0.6, 0.7)}),
    ):
        info = {
            "kind": "training", "model": name, "num_layers": 3, "batch_size": 32, "sequence_length": 64,
            "num_threads": 2, "dtype": "bfloat16", "device": "cpu",
        }  # fmt: skip
        rounds = {"p50_s": seconds, "examples_per_s": 32 / seconds, "times_as_fast": beside}
        stats = {"median": seconds, "data": [seconds * (1 + 0.01 * k) for k in (-3, -2, -1, 0, 1, 2, 3)]}
        cases.append({"name": f"test_training[{name}]", "stats": stats, "extra_info": info | rounds})
        memory = {"name": f"test_training_memory[{name}]", "stats": {"median": 9.0}}
        cases.append(memory | {"extra_info": info | {"peak_memory_bytes": 1.2e9}})
    return cases
