import sys

import numpy as np
import pytest
from PIL import Image

from dila.errors import MissingExtra
from dila.evaluate.plots import Arrow, Point, draw_bars, draw_curves, draw_points

pytest.importorskip("matplotlib")


def ink(path):
    """Pixels that are not white."""
    return int((np.asarray(Image.open(path).convert("L")) < 200).sum())


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
