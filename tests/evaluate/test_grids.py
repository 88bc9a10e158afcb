"""Transfer: which clips its scores are of, and which are drawn."""

from dataclasses import replace

import pytest

from dila.errors import DilaError
from dila.evaluate import grids
from dila.evaluate.grids import measure_transfer

pytest.importorskip("matplotlib")


class Begun:
    """The first frames of an episode."""

    def __init__(self, whole, frames):
        self.id, self.times, self.read, self.fingerprint = whole.id, whole.times[:frames], whole.read, whole.fingerprint
        self.columns = {name: values[:frames] for name, values in whole.columns.items()}


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
    given = replace(bench.settings, clips=4, source="elsewhere")
    told = measure_transfer(replace(bench, settings=given, source=bench.held_frames))
    assert len(told.rows) == 4 * 2
    with pytest.raises(DilaError, match="transfer needs clips of at least two held-out episodes"):
        measure_transfer(replace(bench, held=bench.held[:1]))


def test_sources_shorter_than_the_pins_are_taken_whole(bench):
    last = (bench.pins.frames - 2) * bench.world.stride + 1e-6
    short = [Begun(episode, int((episode.times <= last).sum())) for episode in bench.held_frames]
    given = replace(bench.settings, clips=4, source="elsewhere")
    told = measure_transfer(replace(bench, settings=given, source=short))
    assert len(told.scores[0].by_step) == bench.pins.frames - 2
    with pytest.raises(DilaError, match="elsewhere has only one held-out clip of 5 frames, but transfer needs two"):
        measure_transfer(replace(bench, settings=given, source=short[:1]))
