"""Plots of results as PNG: bars with intervals, curves with bands, points with arrows. Axes are labelled."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dila.errors import MissingExtra
from dila.files import replacing

INKS = ("#2f6fb0", "#d9722e", "#3f9a6b", "#9a5fb3", "#c9a227", "#c2485b", "#5a6475", "#4fb3bf")
"""One colour a series, told apart by people who see red and green alike."""

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
    """A value with its interval, which may be missing."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Arrow(NamedTuple):
    """A direction from the middle of a plot, with its name."""

    name: str
    x: float
    y: float


class Panel(NamedTuple):
    """One score of several models, see `draw_panels`."""

    label: str
    points: Mapping[str, Point]
    each: Mapping[str, Mapping[int, float]]
    """The values behind a point, by seed."""
    line: float | None = None


def draw_panels(path: Path, names: Sequence[str], panels: Sequence[Panel]) -> Path:
    """Models below each other, scores beside each other: each point with its interval, the values behind it small.

    ``line`` of a panel marks a value, such as that of copying.
    """
    with _sheet(path, (2.2 + 3.2 * len(panels), 0.9 + 0.26 * len(names))) as figure:
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for row, name in enumerate(names):
                _model(axes, row, panel, name, INKS[place % len(INKS)])
            axes.set_yticks(range(len(names)), names if place == 0 else [""] * len(names))
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            if panel.line is not None:
                axes.axvline(panel.line, color="#1d2430", linewidth=0.8, linestyle="--")
            axes.set_xlabel(panel.label)
        figure.tight_layout()
    return path


def _model(axes: Any, row: int, panel: Panel, name: str, ink: str) -> None:
    values = list(panel.each.get(name, {}).values())
    axes.plot(values, [row] * len(values), "o", color=ink, alpha=0.35, markersize=3.5, markeredgewidth=0)
    point = panel.points.get(name, Point(None))
    if point.value is None:
        return
    if point.low is not None and point.high is not None:
        axes.plot([point.low, point.high], [row, row], color=ink, linewidth=1.6)
    axes.plot([point.value], [row], "o", color=ink, markersize=6)


def draw_bars(
    path: Path, groups: Mapping[str, Mapping[str, Point]], label: str, title: str = "", line: float | None = None
) -> Path:
    """Bars side by side: ``groups[place on the axis][series]``. ``line`` marks a value, such as that of copying."""
    names = list(groups)
    series = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    width = 0.8 / max(1, len(series))
    with _figure(path, (max(4.5, 0.32 * len(names) * len(series) + 1.8), 3.4)) as axes:
        for i, name in enumerate(series):
            told = [(place, bars) for place, bars in enumerate(groups.values()) if name in bars]
            points = [bars[name] for _, bars in told]
            heights = [0.0 if point.value is None else point.value for point in points]
            # Only a group's own bars take room, side by side around its middle.
            places = [place + (list(bars).index(name) - (len(bars) - 1) / 2) * width for place, bars in told]
            axes.bar(places, heights, 0.92 * width, label=name, color=INKS[i % len(INKS)])
            axes.errorbar(places, heights, _reach(points, heights), fmt="none", ecolor="#1d2430", elinewidth=0.8)
        turned = max(map(len, names)) > 9
        axes.set_xticks(
            range(len(names)), names, rotation=30 if turned else 0, ha="right" if turned else "center",
            rotation_mode="anchor",
        )  # fmt: skip
        axes.grid(axis="x", visible=False)
        axes.axhline(0, color="#5a6475", linewidth=0.8)
        _dress(axes, "", label, title, len(series) > 1, line)
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
    """Curves over a common axis, ``labels`` for x and y, with bands where there are intervals."""
    with _figure(path, (5.6, 3.4)) as axes:
        for i, (name, values) in enumerate(curves.items()):
            ink, dash = INKS[i % len(INKS)], ("-", "--", ":")[i // len(INKS) % 3]
            axes.plot(x[: len(values)], values, dash, marker="o", markersize=3, label=name, color=ink)
            if bands and name in bands:
                axes.fill_between(x[: len(values)], *bands[name], color=ink, alpha=0.15, linewidth=0)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(list(x), [f"{value:g}" for value in x])
            axes.minorticks_off()
        _dress(axes, *labels, "", len(curves) > 1, line)
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
    """Points ``N 2`` by class, or all of them coloured by a value with its name; arrows start in the middle."""
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
                axes.scatter(*part.T, s=7, label=name, color=INKS[i % len(INKS)], alpha=0.65, linewidths=0)
        _point(axes, arrows)
        _dress(axes, *labels, title, not colours and len(points) > 1, None)
    return path


def _point(axes: Any, arrows: Sequence[Arrow]) -> None:
    """Arrows with their names; a name that would lie on another moves further out."""
    taken: list[np.ndarray] = []
    for arrow in arrows:
        tip = np.array([arrow.x, arrow.y])
        place, room = 1.12 * tip, 0.14 * float(np.linalg.norm(tip))
        while any(np.linalg.norm(place - other) < room for other in taken):
            place = 1.1 * place
        taken.append(place)
        axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->", "color": "#1d2430"})
        back = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
        axes.text(*place, arrow.name, ha="center", va="center", fontsize=8, bbox=back)
    if taken:
        axes.update_datalim(1.1 * np.stack(taken))
        axes.autoscale_view()


def _reach(told: Sequence[Point], heights: Sequence[float]) -> np.ndarray:
    low = [0.0 if p.low is None else max(0.0, h - p.low) for p, h in zip(told, heights, strict=True)]
    high = [0.0 if p.high is None else max(0.0, p.high - h) for p, h in zip(told, heights, strict=True)]
    return np.array([low, high])


def _dress(axes: Any, x: str, y: str, title: str, legend: bool, line: float | None) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=9, loc="left")
    if line is not None:
        axes.axhline(line, color="#1d2430", linewidth=0.8, linestyle="--")
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, markerscale=2)


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Axes to draw on, written to the path when all went well."""
    with _sheet(path, size) as figure:
        yield figure.add_subplot()


@contextmanager
def _sheet(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure, written to the path when all went well. Raises DilaError when that cannot be written."""
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
