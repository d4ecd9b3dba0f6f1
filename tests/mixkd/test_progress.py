import io
import itertools
import re

import pytest

from mixkd import progress
from mixkd.progress import Progress, duration


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (42, "42 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"),
     (7500, "2 h 05 min"), (90_000, "25 h 00 min")],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_say_what_is_done_and_what_is_left(clock):
    stream = io.StringIO()
    with Progress(10, "suite quick", stream=stream) as shown:
        clock.now += 30
        shown.line(2.5, "first is done")
        clock.now += 70
        shown.line(10, "all is done")
    assert stream.getvalue().splitlines() == [
        "suite quick  25%, 1 min 30 s left: first is done", "suite quick 100%: all is done",
    ]  # fmt: skip


def test_updates_are_rare_on_plain_streams(clock):
    stream = io.StringIO()
    shown = Progress(100, "training", interval_s=10, stream=stream)
    for done in range(1, 101):
        clock.now += 1
        shown.update(done, f"step {done}")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "training  10%, 1 min 30 s left: step 10"
    assert all("left" in line for line in lines[:-1])
    left = [int(m) * 60 + int(s) for m, s in re.findall(r"(\d+) min (\d+) s left", stream.getvalue())]
    assert all(a > b for a, b in itertools.pairwise(left))


def test_nothing_done_yet_is_no_division_by_zero(clock):
    stream = io.StringIO()
    Progress(10, "suite", stream=stream).line(0, "starting")
    assert stream.getvalue() == "suite   0%: starting\n"


def test_terminals_get_a_bar_and_lines_that_stay():
    stream = Terminal()
    with Progress(4, "suite", stream=stream) as shown:
        shown.update(1, "first run")
        shown.line(2, "first run is done")
        shown.update(9, "too far")  # rounding of the parts
    text = stream.getvalue()
    assert "suite: first run is done\n" in text
    assert "first run" in text and "50%" in text and "<" in text  # elapsed<remaining
    assert "225%" not in text


def test_an_error_closes_the_bar_and_goes_on():
    with pytest.raises(KeyError), Progress(4, "suite", stream=Terminal()) as shown:
        raise KeyError
    assert shown.bar.disable


def test_skipped_work_is_no_part_of_the_bar_s_rate(clock):
    """Tqdm divides what is done beyond `initial` by the time."""
    with Progress(100, "suite", stream=Terminal()) as shown:
        shown.skip(60)
        shown.update(70, "step")
        assert shown.bar.format_dict["initial"] == 60 and shown.bar.n == 70


def test_nothing_is_left_at_the_end(clock):
    """Sums of parts fall short of the total by rounding."""
    stream = io.StringIO()
    shown = Progress(1.0, "suite", stream=stream)
    clock.now += 30
    shown.line(sum([0.1] * 10), "done")
    assert sum([0.1] * 10) < 1 and "left" not in stream.getvalue()
