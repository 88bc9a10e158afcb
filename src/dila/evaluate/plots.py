"""Plots of results as PNG: bars with intervals, curves with bands, points with arrows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from dila.errors import MissingExtra
from dila.files import replacing

INKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1d2430", "#661100")
"""One colour per series, safe for colour-blind readers: those of Okabe and Ito (2008), with brown instead of yellow,
which is faint on white."""
_MARKS, _DASHES = "os^DvPX*", ("-", "--", ":")
_SMALL = {"linestyle": "", "markersize": 3.5, "markeredgewidth": 0, "alpha": 0.5}
_DARK = "#1d2430"

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e7ee",
    "axes.axisbelow": True,
    "axes.edgecolor": "#5a6475",
    "legend.frameon": False,
}


class Point(NamedTuple):
    """A value with an optional interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Arrow(NamedTuple):
    """A named arrow from the origin."""

    name: str
    x: float
    y: float


class Panel(NamedTuple):
    """One score of several models; see `draw_panels`."""

    label: str
    points: Mapping[str, Point]
    each: Mapping[str, Mapping[int, float]]
    """The values behind a point, by seed."""
    line: float | None = None


def draw_panels(path: Path, names: Mapping[str, str], panels: Sequence[Panel]) -> Path:
    """Draw one panel per score, two per row, with models below each other: means with intervals, seeds as small points.

    Args:
        path: the .png file to write.
        names: title of each model.
        panels: one per score; ``line`` marks a value, such as that of copying. If it is far from all models, it is
            given as text at the edge, so that the axis need not include it.
    """
    rows = -(-len(panels) // 2)
    with _sheet(path, (7.2, rows * (0.7 + 0.28 * len(names)))) as figure:
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(rows, 2, place + 1)
            for row, name in enumerate(names):
                _model(axes, row, panel, name)
            called = [fill(name, 24) for name in names.values()]
            axes.set_yticks(range(len(names)), called if place % 2 == 0 else [""] * len(names), fontsize=8)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            if panel.line is not None:
                _mark(axes, panel.line)
            axes.set_xlabel(panel.label)
        figure.tight_layout()
    return path


def _model(axes: Any, row: int, panel: Panel, name: str) -> None:
    look = _look(row)
    values = list(panel.each.get(name, {}).values())
    axes.plot(values, [row] * len(values), **look | _SMALL)
    point = panel.points.get(name, Point(None))
    if point.value is None:
        return
    if point.low is not None and point.high is not None:
        axes.plot([point.low, point.high], [row, row], color=look["color"], linewidth=1.6)
    axes.plot([point.value], [row], **look, markersize=6)


def draw_lines(path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], x: str) -> Path:
    """Draw lines of points (x, y) by name, two titled panels per row; a name has the same style in all panels."""
    rows, names = -(-len(panels) // 2), list(dict.fromkeys(name for lines in panels.values() for name in lines))
    with _sheet(path, (7.2, 2.3 * rows + 0.2 * len(names))) as figure:
        for place, (label, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, 2, place + 1)
            for name, points in lines.items():
                look = _look(names.index(name)) | ({"marker": ""} if len(points) > 20 else {"markersize": 4})
                axes.plot(*zip(*points, strict=True), **look, label=name)
            _dress(axes, x, "", label, False, None)
        figure.tight_layout()
        shown = {
            name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(shown.values(), shown.keys(), loc="upper left", bbox_to_anchor=(0.05, 0.0), fontsize=8)
    return path


def _mark(axes: Any, line: float) -> None:
    """Draw a dashed line at a value, or text at the edge if the value is far outside of the axis."""
    low, high = axes.get_xlim()
    if low - 0.3 * (high - low) < line < high + 0.3 * (high - low):
        axes.axvline(line, color=_DARK, linewidth=0.8, linestyle="--")
        return
    told = f"dashed line at {line:.2g}"
    told, side = (f"{told} →", "right") if line > high else (f"← {told}", "left")
    axes.text(line > high, 1.01, told, transform=axes.transAxes, ha=side, va="bottom", fontsize=8)


def _look(series: int) -> dict[str, Any]:
    """Colour, marker and dash of a series, distinct for up to 24 series."""
    count = len(INKS)
    mark, dash = _MARKS[series % count], _DASHES[series // count % len(_DASHES)]
    return {"color": INKS[series % count], "marker": mark, "linestyle": dash}


def draw_bars(
    path: Path,
    groups: Mapping[str, Mapping[str, Point]],
    label: str,
    title: str = "",
    line: float | None = None,
    floor: float | None = None,
) -> Path:
    """Draw grouped bars: ``groups[place on the axis][series]``.

    ``line`` marks a value, such as that of copying. Bars and intervals below ``floor`` are cut off there, and marked.
    """
    names = list(groups)
    series = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    width, cut = 0.8 / max(1, len(series)), []
    with _figure(path, (max(4.5, 0.32 * len(names) * len(series) + 1.8), 3.4)) as axes:
        for i, name in enumerate(series):
            told = [(place, bars) for place, bars in enumerate(groups.values()) if name in bars]
            points = [bars[name] for _, bars in told]
            heights = [0.0 if point.value is None else _above(point.value, floor) for point in points]
            # Series that a group lacks leave no gap: its bars are centred.
            places = [place + (list(bars).index(name) - (len(bars) - 1) / 2) * width for place, bars in told]
            axes.bar(places, heights, 0.92 * width, label=name, color=INKS[i % len(INKS)])
            axes.errorbar(places, heights, _reach(points, heights, floor), fmt="none", ecolor=_DARK, elinewidth=0.8)
            cut += [place for place, point in zip(places, points, strict=True) if _is_cut(point, floor)]
        turned = max(map(len, names)) > 9
        axes.set_xticks(
            range(len(names)), names, rotation=30 if turned else 0, ha="right" if turned else "center",
            rotation_mode="anchor",
        )  # fmt: skip
        axes.grid(axis="x", visible=False)
        axes.axhline(0, color="#5a6475", linewidth=0.8)
        if floor is not None and cut:
            axes.plot(cut, [floor] * len(cut), "v", color=_DARK, markersize=5, clip_on=False)
            axes.set_ylim(bottom=floor)
        _dress(axes, f"▼ continues below {floor:g}" if cut else "", label, title, len(series) > 1, line)
    return path


def draw_curves(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    x: Sequence[int | float],
    labels: tuple[str, str],
    *,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    line: float | None = None,
    log_x: bool = False,
) -> Path:
    """Draw curves over a common axis, with ``labels`` for x and y, and bands for those with intervals."""
    with _figure(path, (5.6, 3.4)) as axes:
        for i, (name, values) in enumerate(curves.items()):
            look = _look(i)
            axes.plot(x[: len(values)], values, **look, markersize=4, label=name)
            if bands and name in bands:
                axes.fill_between(x[: len(values)], *bands[name], color=look["color"], alpha=0.15, linewidth=0)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(list(x), [f"{value:g}" for value in x])
            axes.minorticks_off()
        _dress(axes, *labels, "", bool(curves), line)
    return path


def draw_points(
    path: Path,
    points: Mapping[str, np.ndarray],
    labels: tuple[str, str],
    title: str = "",
    *,
    arrows: Sequence[Arrow] = (),
    colours: tuple[np.ndarray, str] | None = None,
) -> Path:
    """Draw points ``N 2`` by class, or coloured by a value (values and their label), with arrows from the origin."""
    with _figure(path, (5.6, 4.6)) as axes:
        if colours:
            every = np.concatenate(list(points.values()))
            reach = float(np.abs(colours[0]).max()) or 1.0
            signed = (
                {"cmap": "coolwarm", "vmin": -reach, "vmax": reach} if colours[0].min() < 0 else {"cmap": "viridis"}
            )
            shown = axes.scatter(*every.T, c=colours[0], s=9, alpha=0.85, linewidths=0, **signed)
            axes.figure.colorbar(shown, ax=axes, label=colours[1])
        else:
            for i, (name, part) in enumerate(points.items()):
                axes.plot(*part.T, **_look(i) | _SMALL, label=name)
        _point(axes, arrows)
        _dress(axes, *labels, title, not colours and len(points) > 1, None)
    return path


def _point(axes: Any, arrows: Sequence[Arrow]) -> None:
    """Draw arrows with names beyond their tips; overlapping names are moved up or down."""
    if not arrows:
        return
    tips = np.array([[arrow.x, arrow.y] for arrow in arrows])
    axes.update_datalim(1.2 * tips)
    axes.autoscale_view()
    taken: list[Any] = []
    back = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    middle = axes.transData.transform((0, 0))
    for arrow, tip in zip(arrows, tips, strict=True):
        axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": _DARK, "shrinkA": 0, "shrinkB": 0})
        ahead = axes.transData.transform(tip) - middle
        ahead = ahead / np.linalg.norm(ahead)
        name = axes.annotate(
            arrow.name, tip, textcoords="offset points", xytext=(0, 0), ha="center", va="center", fontsize=8, bbox=back
        )
        size = name.get_window_extent().size * 72 / axes.figure.dpi
        for line in range(len(arrows)):
            place = ahead * (6 + abs(ahead) @ size / 2) + [0, math.copysign(line * 1.3 * size[1], ahead[1])]
            name.set_position(tuple(place))
            if not any(name.get_window_extent().overlaps(other) for other in taken):
                break
        taken.append(name.get_window_extent())


def _above(value: float, floor: float | None) -> float:
    return value if floor is None else max(value, floor)


def _is_cut(point: Point, floor: float | None) -> bool:
    return floor is not None and any(edge is not None and edge < floor for edge in point)


def _reach(told: Sequence[Point], heights: Sequence[float], floor: float | None) -> np.ndarray:
    low = [0.0 if p.low is None else max(0.0, h - _above(p.low, floor)) for p, h in zip(told, heights, strict=True)]
    high = [0.0 if p.high is None else max(0.0, p.high - h) for p, h in zip(told, heights, strict=True)]
    return np.array([low, high])


def _dress(axes: Any, x: str, y: str, title: str, legend: bool, line: float | None) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=9, loc="left")
    if line is not None:
        axes.axhline(line, color=_DARK, linewidth=0.8, linestyle="--")
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, markerscale=1.5, handlelength=2.8)


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Yield axes; write the figure to the path unless an error occurs."""
    with _sheet(path, size) as figure:
        yield figure.add_subplot()


@contextmanager
def _sheet(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Yield a figure; write it to the path unless an error occurs. Raises DilaError if the path cannot be written."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plotting", "matplotlib", "analysis") from error
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=130)
        FigureCanvasAgg(figure)
        yield figure
        with replacing(path) as partial:
            # No metadata: the same numbers give the same file.
            figure.savefig(partial, format="png", bbox_inches="tight", metadata={"Software": None})
