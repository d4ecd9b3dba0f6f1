"""How figures are drawn: inline SVG in the page's own colours and font.

Colours are CSS variables, so that one drawing reads well on a light and on a dark page; arms and recipes also
differ by marker. Texts stay texts, in the page's font.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator, StrMethodFormatter

#: Drawn colour -> CSS. The series are Okabe and Ito's or near, which colour-blind readers can tell apart.
INK, GRID = "#101112", "#d0d1d2"
SERIES = ["#6f7071", "#0072b2", "#009e73", "#d55e00", "#aa4499", "#997700"]
_CSS = {INK: "currentColor", GRID: "var(--rule)", **{c: f"var(--series-{k})" for k, c in enumerate(SERIES)}}
MARKERS = ["o", "s", "^", "D", "v", "P"]
#: Up to so many seeds are drawn one by one.
FEW = 10
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "mixkd", "text.parse_math": False, "font.size": 10,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID,
    "grid.linewidth": 0.6, "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 5.5,
    "lines.solid_capstyle": "butt",  # an interval ends where it ends
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A drawing, what it shows in words, and the numbers in it.

    Attributes:
        title: The finding, generated from the numbers.
        panels: One SVG element each.
        alt: The numbers that matter, for those who do not see the drawing.
        command: What regenerates the evidence.
        stacked: Whether its panels are so wide that each takes a whole row.
    """

    key: str
    title: str
    caption: str
    panels: tuple[str, ...]
    alt: str
    data: pd.DataFrame
    command: str
    stacked: bool = False


@contextmanager
def panel(key: str, svgs: list[str], width: float = 4.6, height: float = 3.3) -> Iterator[Axes]:
    """Axes to draw on; their SVG is appended to `svgs`, with ids that no other panel has."""
    with panels(key, svgs, 1, width, height) as (axes,):
        yield axes


@contextmanager
def panels(key: str, svgs: list[str], num: int, width: float, height: float = 3.3) -> Iterator[list[Axes]]:
    """Several axes side by side in one SVG, as `panel`; they share the vertical axis."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        canvas = Canvas(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(canvas)
        axes: Any = canvas.subplots(1, num, squeeze=False, sharey=True)
        yield list(axes[0])
        if layout := canvas.get_layout_engine():  # else saving draws everything once more to lay it out
            layout.execute(canvas)
        canvas.set_layout_engine(None)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svgs.append(_inline(buffer.getvalue(), f"{key}-{len(svgs)}"))


def mark(
    axes: Axes,
    place: float,
    estimate: tuple[float, float, float],
    series: int,
    across: bool = False,
    marker: str | None = None,
    seeds: Sequence[float] = (),
) -> None:
    """An estimate and its interval; no bar where there is no interval or it is unbounded.

    Args:
        axes: Where to draw.
        place: On the horizontal axis or, if `across`, on the vertical one.
        estimate: Effect, low, high.
        series: Whose colour and marker it has.
        across: Whether the interval lies sideways.
        marker: In place of the series' own.
        seeds: What single seeds gave, drawn beside it where they are few.
    """
    dots(axes, place - 0.22, seeds, series, across)
    effect, low, high = estimate
    if np.isfinite(high - low):  # a third of the time of `Axes.errorbar`
        ends, places = [low, high], [place, place]
        axes.plot(*((ends, places, "|-") if across else (places, ends, "_-")), color=SERIES[series])
    x, y = (effect, place) if across else (place, effect)
    axes.plot(x, y, marker or MARKERS[series], color=SERIES[series])


def dots(axes: Axes, place: float, seeds: Sequence[float], series: int, across: bool = False) -> None:
    """What single seeds gave, where they are few; the arguments are those of `mark`."""
    if 0 < len(seeds) <= FEW:
        places = [place] * len(seeds)
        axes.plot(*((seeds, places) if across else (places, seeds)), ".", color=SERIES[series], alpha=0.5)


def dots_told(rows: pd.DataFrame) -> str:
    """What says that seeds are drawn, if they are."""
    return "Small dots: single seeds. " if rows["num_seeds"].min() <= FEW else ""


def name_rows(axes: Axes, names: list[str]) -> None:
    """Names on the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def effects_across(axes: Axes, rows: pd.DataFrame, column: str, places: list[str]) -> None:
    """Horizontal intervals of effects, coloured by the side of zero that they are on."""
    for row in rows.to_dict("records"):
        effect = (row["effect"], row["low"], row["high"])
        mark(axes, places.index(row[column]), effect, side_of(0, *effect[1:]), across=True, seeds=row["seeds"])
    axes.axvline(0, color=INK, linewidth=0.8)


def side_of(threshold: float, low: float, high: float) -> int:
    """The series of an interval: above the threshold, below it, or on both sides."""
    return 2 if low > threshold else 3 if high < threshold else 0


def log_values(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def log_sizes(axes: Axes, sizes: pd.Series) -> None:
    """A logarithmic horizontal axis that names the sizes."""
    ticks = sorted(sizes.unique())
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _inline(svg: str, prefix: str) -> str:
    """An SVG file's text as a small element of an HTML page: no prolog, addresses, fixed size or common ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None
    body = re.sub(r"<[^>]*>", lambda match: _tag(match[0], prefix), body)  # not the texts between them
    body = re.sub(r"\n\s+", "\n", body)
    body = re.sub(r"<g>\n(<text[^>]*>[^<]*</text>|<path[^>]*/>)\n</g>", r"\1", body)
    body = re.sub(r'<g( clip-path="[^"]*")?>\n((<use [^>]*>\n)+)</g>', _marks, body)
    return f'<svg {view_box[0]} aria-hidden="true" focusable="false">{body}'


def _tag(tag: str, prefix: str) -> str:
    """A tag with own ids and the page's colours, without its font, its rotation by nothing and unseen digits."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", tag)
    for drawn, css in _CSS.items():
        tag = tag.replace(drawn, css)
    tag = re.sub(r"font(-family)?: [^;\"]*'[^;\"]*(; )?", _size, tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    return re.sub(r"(\.\d\d)\d+", r"\1", tag)


def _marks(match: re.Match[str]) -> str:
    """A group of marks with what they look like said once, if they are alike."""
    styles = re.findall(r' style="[^"]*"', match[2])
    if len(set(styles)) != 1:
        return match[0]
    marks = match[2].replace(styles[0], "")
    return f"<g{match[1] or ''}{styles[0]}>\n{marks}</g>"


def _size(match: re.Match[str]) -> str:
    """Of a font its size; the rest is the page's."""
    size = re.search(r"[\d.]+px", match[0])
    return f"font-size: {size[0]}{match[2] or ''}" if size else ""
