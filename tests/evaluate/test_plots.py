import sys
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from dila.errors import MissingExtra
from dila.evaluate.plots import INKS, Arrow, Panel, Point, draw_bars, draw_curves, draw_panels, draw_points

pytest.importorskip("matplotlib")

RED_GREEN = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
}  # fmt: skip
"""Of linear sRGB, at full severity: Machado, Oliveira and Fernandes (2009), table of their supplement."""


@pytest.fixture
def axes(monkeypatch):
    """Of all that is drawn, in order."""
    from matplotlib.figure import Figure

    seen, save = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        seen.extend(figure.axes)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return seen


def ink(path):
    """Pixels that are not white."""
    return int((np.asarray(Image.open(path).convert("L")) < 200).sum())


def lab(ink, seen_as):
    """CIELAB of a colour under D65 (IEC 61966-2-1, CIE 15), seen through a matrix of linear sRGB."""
    c = np.array([int(ink[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(np.array(seen_as) @ linear, 0, 1) / to_xyz.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen_as", [*RED_GREEN.values(), np.eye(3)], ids=[*RED_GREEN, "all cones"])
def test_series_are_told_apart_by_people_who_see_red_and_green_alike(seen_as):
    colours = [lab(ink, seen_as) for ink in INKS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(colours, 2)) > 15
    assert max(colour[0] for colour in map(partial(lab, seen_as=np.eye(3)), INKS)) < 75  # dark enough for white paper


def test_no_two_curves_look_alike(tmp_path, axes):
    draw_curves(tmp_path / "a.png", {str(i): [0.0, float(i)] for i in range(20)}, (1, 2), ("x", "y"))
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes[0].lines}) == 20
    assert len({(line.get_marker(), line.get_linestyle()) for line in axes[0].lines}) == 20


def test_bars_are_cut_at_the_floor_and_marked(tmp_path, axes):
    bars = {"x": {"s": Point(0.8, -9.0, 1.0), "c": Point(-40.0, -90.0, 1.0), "z": Point(0.5, 0.4, 0.6)}}
    draw_bars(tmp_path / "cut.png", bars, "R²", floor=-0.2)
    draw_bars(tmp_path / "whole.png", {"x": {"z": Point(0.5, 0.4, 0.6)}}, "R²", floor=-0.2)
    cut, whole = axes
    assert cut.get_ylim()[0] == pytest.approx(-0.2)
    assert 1 < cut.get_ylim()[1] < 1.2
    assert [len(line.get_xdata()) for line in cut.lines if line.get_marker() == "v"] == [2]
    assert cut.get_xlabel() == "▼ continues below -0.2"
    assert whole.get_xlabel() == ""


def test_a_line_far_from_all_models_leaves_them_their_room(tmp_path, axes):
    points, each = {"a": Point(0.4, 0.35, 0.45), "b": Point(0.5)}, {"a": {0: 0.38, 1: 0.42}}
    panels = [Panel("error", points, each, line) for line in (0.52, 3.0)]
    draw_panels(tmp_path / "panels.png", {"a": "DiLA", "b": "a name longer than its room"}, panels)
    near, far = axes
    assert near.get_xlim()[1] > 0.52
    assert far.get_xlim()[1] < 0.6
    assert [text.get_text() for text in far.texts] == ["dashed line at 3 →"]
    assert [label.get_text() for label in near.get_yticklabels()] == ["DiLA", "a name longer than its\nroom"]
    with Image.open(tmp_path / "panels.png") as picture:
        assert picture.size[0] < 1000  # a page's column is 700


def test_names_of_arrows_do_not_lie_on_each_other(tmp_path, axes):
    points = {"z": np.random.default_rng(0).normal(size=(30, 2))}
    names = ["change of gripper_x", "change of gripper_y", "change of gripper_z", "left"]
    arrows = [Arrow(name, x, y) for name, x, y in zip(names, (1, 1, 1.01, -2), (0.05, 0, 0.02, 0), strict=True)]
    draw_points(tmp_path / "points.png", points, ("PC 1", "PC 2"), arrows=arrows)
    boxes = [text.get_window_extent() for text in axes[0].texts if text.get_text()]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_bars_leave_no_room_for_series_that_a_group_lacks(tmp_path):
    bars = {
        "one": {"a": Point(0.5, 0.4, 0.6), "b": Point(0.2)},
        "two": {"b": Point(None)},
        "a long name": {"c": Point(-1.0)},
    }
    path = draw_bars(tmp_path / "new" / "bars.png", bars, "R²", "title", line=1.0)
    assert ink(path) > 2000
    assert [p.name for p in path.parent.iterdir()] == ["bars.png"]


def test_curves_and_points_are_drawn_the_same_each_time(tmp_path):
    curves = {"z": [0.1, 0.4, 0.6], "e": [0.2, 0.3]}
    bands = {"z": ([0.0, 0.3, 0.5], [0.2, 0.5, 0.7])}
    first, second = (
        draw_curves(tmp_path / f"{i}.png", curves, (50, 100, 200), ("pairs", "R²"), bands=bands, log_x=True)
        for i in range(2)
    )
    assert first.read_bytes() == second.read_bytes()
    points = {"one": np.random.default_rng(0).normal(size=(30, 2)), "two": np.zeros((3, 2))}
    arrows = [Arrow("dx", 1, 0), Arrow("dy", 1, 0.01)]
    path = draw_points(tmp_path / "points.png", points, ("PC 1", "PC 2"), arrows=arrows)
    assert ink(path) > 1000
    coloured = draw_points(tmp_path / "c.png", points, ("PC 1", "PC 2"), colours=(np.linspace(-1, 1, 33), "dx"))
    assert np.asarray(Image.open(coloured)).shape[2] >= 3


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"dila-wm\[analysis\]"):
        draw_bars(tmp_path / "a.png", {"a": {"b": Point(1.0)}}, "R²")
    assert not (tmp_path / "a.png").exists()
