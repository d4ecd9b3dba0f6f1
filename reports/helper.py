"""The report by two processes, as drawing is most of what it takes: a helper draws some of the figures."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from typing import TYPE_CHECKING

from mixkd.store import Store

if TYPE_CHECKING:
    from reports.page import Built


def build(store: Store, baseline: Store | None = None) -> Built:
    """As `reports.page.build`, for commands: a script needs the guard of `multiprocessing`."""
    with helper() as other:
        from reports import page  # both processes import what draws at the same time

        return page.build(store, baseline=baseline, helper=other)


@contextmanager
def helper() -> Iterator[Executor]:
    """The process that draws."""
    with ProcessPoolExecutor(1, get_context("spawn"), _prepare) as executor:
        executor.submit(bool)  # starts it
        yield executor


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    import_module("reports.figures")
