"""Peak memory of one training; run as a module, in a process that has done nothing else: libraries are counted."""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.peak_memory import peak_resident_bytes
from benchmarks.size import bytes_told_by

#: The longest texts of the task, and steps enough for every buffer to be there.
NUM_TEXTS, NUM_STEPS = 320, 10


def training_memory_bytes(variant: str, num_threads: int) -> int:
    """Most memory that a training takes on the task's longest texts, measured in a fresh process.

    Raises:
        MemoryError, RuntimeError: See `size.bytes_told_by`.
    """
    return bytes_told_by(["-m", __name__, variant, str(num_threads)])


def main(variant: str, num_threads: int) -> None:
    """Train for a few steps, and print the high-water mark of this process's resident set."""
    import numpy as np
    import torch

    from benchmarks.contestants import start
    from benchmarks.training import VARIANTS, load_data

    torch.set_num_threads(num_threads)
    data = load_data()
    longest = np.argsort(data.train["length"])[-NUM_TEXTS:]
    data = replace(data, train=data.train.select(longest), teacher_logits=data.teacher_logits[longest])
    with tempfile.TemporaryDirectory() as folder:
        start(VARIANTS[variant], data, Path(folder)).run(NUM_STEPS, seed=0)
    print(peak_resident_bytes())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
