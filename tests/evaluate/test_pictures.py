"""What is shown beside the numbers: true frames as they were filmed, and none of it squeezed, late or too fast."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dila.data import probe_video
from dila.evaluate import first_look, grids, planning
from dila.evaluate.bench import Bench
from dila.evaluate.cycle import measure_cycle
from dila.evaluate.generation import measure_generation
from dila.evaluate.grids import measure_transfer
from dila.evaluate.motion import measure_motion
from dila.imagine.world import World
from dila.planning.mpc import Episode

pytest.importorskip("matplotlib")


@pytest.fixture
def wide(bench, widened):
    return replace(bench, held_frames=[widened(episode) for episode in bench.held_frames])


@pytest.mark.parametrize(("measure", "true", "late"), [
    (measure_generation, ["true frames"], 0), (measure_cycle, ["A"], 0),
    (measure_motion, ["structure from", "content from", "true"], 1),
])  # fmt: skip
def test_inputs_are_true_frames_and_all_keep_their_shape(measure, true, late, wide, monkeypatch):
    shown = {}
    monkeypatch.setattr(Bench, "show", lambda _, name, rows, caption: shown.update(rows) or {name: "", caption: ""})
    measure(wide)
    frames = [wide.pictures(place)[late:] for place in range(len(wide.pins.clips))]
    for label in true:
        assert any(shown[label].equal(clip) for clip in frames)
    assert {clip.shape for clip in shown.values()} == {frames[0].shape[:2] + clip.shape[2:] for clip in shown.values()}
    assert {clip.shape[-1] / clip.shape[-2] for clip in shown.values()} == {2}


def test_a_grid_of_transfers_keeps_every_shape(wide, monkeypatch):
    strips = {}
    monkeypatch.setattr(grids, "write_sheet", lambda path, rows, columns: strips.update(rows))
    measure_transfer(wide)
    assert {clip.shape[-1] / clip.shape[-2] for clip in strips.values()} == {2}
    grid = [[torch.zeros(1, 3, *size, dtype=torch.uint8) for size in ((32, 64), (32, 32))]] * 2
    assert grids._tiled(grid).shape == (1, 3, 2 * (32 + 2 * grids.GAP), 2 * (64 + 2 * grids.GAP))


def test_every_film_is_as_fast_as_what_it_shows(bench, tmp_path, monkeypatch):
    """Strides were turned into whole frames a second, at 2 s and more into none."""
    world = World(bench.world.model, bench.world.encoder, bench.world.decoder, 2.5, bench.world.frames)
    slow, frames = replace(bench, world=world, out=tmp_path), bench.pictures(0)
    slow.show("shown", {"frames": frames}, "")
    shots = grids._scenes(bench)[:2]
    grids._draw(slow, shots, shots)
    monkeypatch.setattr(first_look, "_some_clips", lambda world, episodes, length, count: [frames[:3]] * count)
    first_look.draw_transfer(world, [], tmp_path, horizon=2)
    first_look.draw_rebinding(world, [], tmp_path, horizon=2)
    planned = Episode(frames, frames[0], [], [], torch.zeros(len(frames) - 1, 2), None, [])
    planning._Bench.draw(SimpleNamespace(world=world), tmp_path / "planned.mp4", planned)
    films = sorted(tmp_path.glob("*.mp4"))
    assert [film.stem for film in films] == ["planned", "rebinding", "shown", "transfer"]
    assert all(probe_video(film).times[:2].tolist() == pytest.approx([0, 2.5]) for film in films)


def test_no_picture_of_a_first_look_is_blank(bench, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(first_look, "write_sheet", lambda path, rows, columns: shown.update(rows))
    monkeypatch.setattr(first_look, "write_clip", lambda path, rows, fps: shown.update(rows))
    clips = [bench.pictures(place).repeat_interleave(1 + place, -1) for place in range(2)]
    monkeypatch.setattr(first_look, "_some_clips", lambda world, episodes, length, count: clips[:count])
    first_look.draw_rollouts(bench.world, [], tmp_path, clips=1)
    first_look.draw_transfer(bench.world, [], tmp_path, horizon=5)
    assert {label: (len(clip), clip.shape[-1] // clip.shape[-2]) for label, clip in shown.items()} == {
        "true": (6, 1), "given, then imagined": (6, 1), "source": (5, 1), "target": (5, 2), "its actions here": (5, 2),
    }  # fmt: skip
