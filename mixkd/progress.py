"""Progress of long work, with the remaining time: a bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm


class Progress:
    """Shows how much of a total is done; the total's unit is any measure of work.

    Args:
        total: Work to do.
        title: What the work is.
        interval_s: Least time between two plain lines.
        stream: Where to write; None: standard error.
    """

    def __init__(self, total: float, title: str, interval_s: float = 10.0, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.total, self.title, self.interval_s = total, title, interval_s
        self.start = self.last_line = time.monotonic()
        self.skipped = 0.0
        self.bar: tqdm | None = None
        if self.stream.isatty():
            bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self.bar = tqdm(total=total, desc=title, file=self.stream, bar_format=bar_format, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def skip(self, work: float) -> None:
        """Take work that was done before out of the estimate of the remaining time."""
        self.skipped += work
        if self.bar is not None:
            self.bar.initial += work  # tqdm's rate leaves this out

    def update(self, done: float, message: str) -> None:
        """Say that `done` of the total is finished, and what is under way."""
        if self.bar is not None:
            self.bar.n = min(done, self.total)
            self.bar.set_postfix_str(message)
        elif time.monotonic() - self.last_line >= self.interval_s:
            self.line(done, message)

    def line(self, done: float, message: str) -> None:
        """Write a line that stays, such as a finished part's result."""
        self.last_line = time.monotonic()
        if self.bar is not None:
            self.bar.n = min(done, self.total)
            self.bar.write(f"{self.title}: {message}", file=self.stream)
            self.bar.refresh()
            return
        elapsed, worked = self.last_line - self.start, done - self.skipped
        knows = (
            worked > 0.01 * self.total and done < (1 - 1e-9) * self.total
        )  # earlier, starting up is most of the time
        remaining = f", {duration(elapsed * (self.total - done) / worked)} left" if knows else ""
        print(f"{self.title} {done / self.total:4.0%}{remaining}: {message}", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """A duration for people: "42 s", "3 min 20 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def quiet_libraries() -> None:
    """Keep libraries from mixing their own bars and notices with our progress."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns after every fork
    from datasets import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
