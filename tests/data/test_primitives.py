import numpy as np
import pytest
import torch

from dila.data.corpus import open_corpus
from dila.data.primitives import (
    HIGH,
    KINDS,
    LOW,
    RADIUS,
    SHAPES,
    PrimitiveRenderer,
    _object,
    _place,
    render_primitives,
)
from dila.data.video import write_video
from dila.errors import DilaError


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_moves_what_it_says(kind):
    columns = PrimitiveRenderer(20, 32, 0, kind, False)(0).columns
    moved = np.ptp(columns["state"], axis=0) > 1e-6
    assert moved.tolist() == ["translation" in kind] * 2 + ["scaling" in kind, "rotation" in kind]
    np.testing.assert_allclose(np.diff(columns["state"], axis=0), columns["action"][:-1], atol=1e-6)
    assert (columns["state"] >= LOW - 1e-6).all()
    assert (columns["state"] <= HIGH + 1e-6).all()
    assert KINDS[int(columns["kind"][0, 0])] == kind


def test_the_picture_is_where_the_state_says():
    """Centre, size and angle of the drawn opacity, measured by its moments."""
    rng = np.random.default_rng(0)
    square = torch.zeros(4, 64, 64)
    square[:, 16:48, 4:60] = 1  # a flat bar, so that its angle shows
    state = torch.tensor([[0.3, 0.6, 0.2, 0.5], [0.55, 0.4, -0.4, -0.9]])
    alpha = _place(square, state, 64)[:, 3]
    axis = (torch.arange(128) + 0.5) / 128
    for a, (x, y, log_scale, angle) in zip(alpha, state.tolist(), strict=True):
        mass = a.sum()
        cx, cy = (a.sum(0) * axis).sum() / mass, (a.sum(1) * axis).sum() / mass
        assert abs(cx - x) < 0.004
        assert abs(cy - y) < 0.004
        area = (2 * RADIUS * np.exp(log_scale)) ** 2 * 32 * 56 / 64**2
        assert abs(mass / 128**2 - area) < 0.05 * area
        dx, dy = axis[None, :] - cx, axis[:, None] - cy
        xx, yy, xy = (a * dx**2).sum(), (a * dy**2).sum(), (a * dx * dy).sum()
        assert abs(0.5 * torch.atan2(2 * xy, xx - yy) - angle) < 0.02
    assert all(_object(rng, 48)[0][3].sum() > 0.1 * 48**2 for _ in range(4 * len(SHAPES)))


def test_edges_are_smooth():
    frames = PrimitiveRenderer(2, 64, 1, "translation", False)(0).frames
    assert len(frames[0].flatten(1).unique(dim=1).T) > 100


def test_the_background_moves_alone_and_changes_nothing_else():
    still, moving = (PrimitiveRenderer(12, 48, 5, "mixed", moves)(2) for moves in (False, True))
    for key in ("action", "state", "kind", "shape", "colour"):
        np.testing.assert_array_equal(still.columns[key], moving.columns[key])
    assert np.ptp(still.columns["background"], axis=0).tolist() == [0, 0, 0]
    assert (np.ptp(moving.columns["background"], axis=0) > 0.01).all()
    assert torch.equal(still.frames[0], moving.frames[0]) or moving.columns["background"][0, 2] == 0
    assert not torch.equal(still.frames[-1], moving.frames[-1])


def test_actions_go_both_ways_at_the_stated_speed():
    action = np.concatenate([PrimitiveRenderer(30, 32, 0, KINDS[-1], False)(i).columns["action"] for i in range(15)])
    assert (np.abs(action.mean(0)) < 0.25 * action.std(0)).all()
    np.testing.assert_allclose(action.std(0), [0.03, 0.03, 0.06, 0.14], rtol=0.3)


def test_the_corpus_is_the_same_for_the_same_seed(tmp_path):
    for name in ("a", "b"):
        render_primitives(tmp_path / name, 2, frames=5, size=32, seed=9, progress=False)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    corpus = open_corpus(tmp_path / "a")
    assert corpus.names["state"] == ("x", "y", "log_scale", "angle")
    assert corpus.episodes[0].read([0, 4]).shape == (2, 3, 32, 32)
    render_primitives(tmp_path / "c", 1, frames=5, size=32, seed=10, progress=False)
    assert (tmp_path / "a" / "episode_00000.mp4").read_bytes() != (tmp_path / "c" / "episode_00000.mp4").read_bytes()


def test_the_same_frames_give_the_same_file(tmp_path):
    """Small, busy pictures are where x264 with its default rate control gives another file at almost every call."""
    films = [PrimitiveRenderer(10, 64, 9, "mixed", True)(number).frames for number in range(6)]
    files = [set() for _ in films]
    for trial in range(5):
        for frames, found in zip(films, files, strict=True):
            junk = [torch.rand(2**n) for n in range(4 + trial, 17)]  # so that every trial meets other memory
            write_video(tmp_path / "a.mp4", frames, 10)
            found.add((tmp_path / "a.mp4").read_bytes())
            del junk
    assert [len(found) for found in files] == [1] * 6


def test_nonsense_is_refused(tmp_path):
    for bad in ({"size": 33}, {"frames": 1}, {"fps": 0}, {"kind": "melting"}):
        with pytest.raises(DilaError):
            render_primitives(tmp_path, 1, progress=False, **bad)
