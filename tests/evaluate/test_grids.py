"""Transfer: which clips its scores are of, and which are drawn."""

from dataclasses import replace

import pytest

from dila.errors import DilaError
from dila.evaluate import grids
from dila.evaluate.grids import measure_transfer

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(("clips", "pictures", "scenes"), [(64, 2, 2), (2, 2, 1), (3, 3, 2)])
def test_no_source_is_put_back_into_its_own_scene(bench, clips, pictures, scenes):
    told = measure_transfer(replace(bench, settings=replace(bench.settings, clips=clips, pictures=pictures)))
    pairs = [row.removeprefix("source ").split(" in scene ") for row in told.rows]
    rows = min(clips, len(bench.held)) * scenes
    assert all(source != scene for source, scene in pairs)
    assert len(set(map(tuple, pairs))) == rows
    for score in told.scores:
        assert len(score.values) == rows
        assert score.low <= score.value <= score.high


def test_more_clips_are_scored_than_drawn(bench, monkeypatch):
    drawn = []
    monkeypatch.setattr(grids, "_draw", lambda _, sources, scenes: drawn.append((len(sources), len(scenes))) or {})
    told = measure_transfer(replace(bench, settings=replace(bench.settings, pictures=2)))
    assert drawn == [(2, 3)]
    assert len({row.split(" in scene ")[0] for row in told.rows}) == 4


def test_sources_from_elsewhere_have_no_scene_of_their_own(bench):
    told = measure_transfer(replace(bench, settings=replace(bench.settings, clips=4, source=bench.data)))
    assert len(told.rows) == 4 * 2
    with pytest.raises(DilaError, match="transfer needs clips of two episodes"):
        measure_transfer(replace(bench, held=bench.held[:1]))
