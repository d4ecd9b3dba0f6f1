"""Speed and size of teacher and students, through pytest-benchmark: run `pytest benchmarks`, or `mixkd bench`.

`subjects` are the models, `timing` times them interleaved, `size` counts and weighs them, `replay` hands measured times
to pytest-benchmark, whose JSON (`--benchmark-json`) has in `extra_info` what `reports` reads. `variants` are the ways
to run a finished model, and `end_to_end` lets them answer the task's test texts. Options: `--store DIR`,
`--data-dir DIR`, `--device auto|cpu|cuda`, `--budget SECONDS`, `--grid small|full`, `--no-bert-base`;
`OMP_NUM_THREADS` sets the number of threads. With `--training SECONDS`, `contestants` are trained and compared
(`training`, `training_memory`), TextBrewer among them.
"""
