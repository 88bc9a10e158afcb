import sys

import numpy as np
import pytest

from dila.data.corpus import open_corpus
from dila.data.pusht import BOARD, PushTRecorder, block_centre, make_pusht, picture, record_pusht, reset_clear
from dila.errors import DilaError, MissingExtra

pytest.importorskip("gym_pusht")


@pytest.fixture(scope="module")
def episodes():
    return [PushTRecorder(40, 64, 0, "mixed", True)(i) for i in range(8)]


def test_row_f_of_the_action_moves_frame_f_to_f_plus_1(episodes):
    """Replaying the actions in the simulator from the same start gives the recorded states."""
    env = make_pusht(40)
    for number in (0, 3):
        info = reset_clear(env, np.random.default_rng([0, number]), True)
        for action, state in zip(*episodes[number].columns.values(), strict=True):
            np.testing.assert_allclose(np.concatenate([info["pos_agent"], info["block_pose"]]), state, atol=1e-3)
            *_, info = env.step(action)


def test_the_agent_is_seen_where_the_state_says(episodes):
    """The blue disc, in the frame of the same row."""
    for episode in episodes[:3]:
        for frame, state in zip(episode.frames, episode.columns["state"], strict=True):
            red, _, blue = frame.float()
            y, x = np.nonzero((blue - red > 90).numpy())
            assert abs((x.mean() + 0.5) * 8 - state[0]) < 8
            assert abs((y.mean() + 0.5) * 8 - state[1]) < 8


def test_the_pixels_do_not_show_the_action():
    env = make_pusht(9)
    info = reset_clear(env, np.random.default_rng(0), True)
    env.step(np.array([40.0, 470.0], dtype=np.float32))
    seen = picture(env, 128)
    env.unwrapped._last_action = np.array([400.0, 70.0])
    assert (picture(env, 128) == seen).all()
    red, green, blue = seen.int()
    assert not ((red > 180) & (green < 100) & (blue < 100)).any()
    assert info["pos_agent"].shape == (2,)


def test_the_goal_can_be_hidden():
    green = [(PushTRecorder(2, 64, 0, "random", goal)(1).frames[0].int()) for goal in (True, False)]
    share = [((f[1] - f[0] > 60) & (f[1] - f[2] > 60)).float().mean() for f in green]
    assert share[0] > 0.01
    assert share[1] == 0


def test_motion_is_steady_covers_the_board_and_treats_axes_alike():
    states = np.stack([PushTRecorder(60, 16, 1, "random", True)(i).columns["state"] for i in range(30)])
    steps = np.diff(states[..., :2], axis=1)
    speed = np.linalg.norm(steps, axis=-1)
    assert 20 < np.percentile(speed, 25) < np.percentile(speed, 75) < 60
    assert (speed < 5).mean() < 0.15
    assert 0.8 < steps[..., 0].std() / steps[..., 1].std() < 1.25
    cells = np.unique((states[..., :2] // (BOARD / 4)).astype(int).reshape(-1, 2), axis=0)
    assert len(cells) == 16


def test_pushing_moves_the_block_and_keeps_it_on_the_board():
    def moved(policy):
        states = np.stack([PushTRecorder(60, 16, 2, policy, True)(i).columns["state"] for i in range(10)])
        centres = [block_centre(pose) for pose in states[..., 2:].reshape(-1, 3)]
        assert np.min(centres) > 10
        assert np.max(centres) < BOARD - 10
        return (np.linalg.norm(np.diff(states[..., 2:4], axis=1), axis=-1) > 1).mean()

    assert moved("push") > 0.25
    assert moved("push") > moved("random") > 0.02


def test_nothing_leaps_in_the_first_step(episodes):
    block = np.stack([e.columns["state"][:2, 2:4] for e in episodes])
    assert np.abs(block[:, 1] - block[:, 0]).max() < 40


def test_recording_is_a_corpus_the_same_for_any_number_of_workers(tmp_path):
    for workers in (1, 2):
        record_pusht(tmp_path / str(workers), 3, frames=6, size=32, seed=4, workers=workers, progress=False)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()
    corpus = open_corpus(tmp_path / "1")
    assert corpus.names["state"] == ("agent_x", "agent_y", "block_x", "block_y", "block_angle")
    assert corpus.episodes[2].columns["action"].shape == (6, 2)
    np.testing.assert_allclose(corpus.episodes[2].times, np.arange(6) / 10, atol=1e-6)
    assert corpus.episodes[2].read([5]).shape == (1, 3, 32, 32)


def test_nonsense_and_a_missing_simulator_are_told(tmp_path, monkeypatch):
    for bad in ({"frames": 1}, {"size": 31}, {"size": 1024}):
        with pytest.raises(DilaError):
            record_pusht(tmp_path, 1, progress=False, **bad)
    monkeypatch.setitem(sys.modules, "gym_pusht", None)
    with pytest.raises(MissingExtra, match=r"dila-wm\[pusht\]"):
        record_pusht(tmp_path, 1, progress=False)
