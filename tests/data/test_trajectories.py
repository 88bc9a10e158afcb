import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from dila.data.corpus import open_corpus, split_episodes
from dila.data.trajectories import onward
from dila.data.video import write_video
from dila.errors import DilaError


def write(root, name, shades, count, position=None, yaw=None):
    folder = root / name
    folder.mkdir(parents=True)
    for f, picture in enumerate(shades(count).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(folder / f"{f}.jpg", quality=95)
    position = np.stack([np.arange(count) * 0.5, np.zeros(count)], axis=1) if position is None else position
    yaw = np.zeros(count) if yaw is None else yaw
    (folder / "traj_data.pkl").write_bytes(pickle.dumps({"position": position, "yaw": yaw}))


@pytest.fixture
def recon(tmp_path, shades):
    root = tmp_path / "recon"
    for number, count in enumerate([12, 5, 7]):
        write(root, f"jackal_{number}", shades, count, yaw=np.arange(count)[:, None] * 0.01)
    for split, names in {"train": "jackal_0\njackal_2\n", "test": "jackal_1\njackal_9"}.items():
        (root / "data_splits" / "recon" / split).mkdir(parents=True)
        (root / "data_splits" / "recon" / split / "traj_names.txt").write_text(names)
    return root


def test_trajectories_are_read_and_aligned(recon, check_alignment):
    corpus = open_corpus(recon)
    assert [e.id for e in corpus.episodes] == ["jackal_0", "jackal_1", "jackal_2"]
    assert corpus.names == {"state": ("x", "y", "yaw"), "action": ("forward", "left", "turn")}
    np.testing.assert_allclose(corpus.episodes[0].times, np.arange(12) / 4)

    def moved(_, f):
        return [0.5 * np.cos(0.01 * f), -0.5 * np.sin(0.01 * f), 0.01]

    assert check_alignment(corpus.episodes, moved, lambda _, f: [0.5 * f, 0, 0.01 * f]) == 9 + 2 + 4
    assert np.isnan(corpus.episodes[0].columns["action"][-1]).all()


def test_lists_of_names_are_the_split(recon):
    corpus = open_corpus(recon)
    assert corpus.splits == {"train": ("jackal_0", "jackal_2"), "test": ("jackal_1",)}
    train, held = split_episodes(corpus)
    assert [e.id for e in train] == ["jackal_0", "jackal_2"]
    assert [e.id for e in held] == ["jackal_1"]
    above = open_corpus(recon.parent)
    assert above.splits["test"] == ("recon/jackal_1",)
    assert [e.id for e in split_episodes(above)[1]] == ["recon/jackal_1"]


def test_episodes_of_other_data_are_still_drawn_by_hash(recon, shades):
    for number in range(30):
        write(recon.parent / "other", f"t{number}", shades, 2)
    train, held = split_episodes(open_corpus(recon.parent), 0.3)
    assert len(train) + len(held) == 33
    assert {e.id for e in held} & {"recon/jackal_0", "recon/jackal_1", "recon/jackal_2"} == {"recon/jackal_1"}
    assert 3 < len(held) < 18


def test_each_data_set_holds_out_what_it_keeps_from_training(recon, shades):
    """RECON calls it test; the other, of lone folders with documents, validation, and has a test beside it."""
    for number, part in enumerate(["train", "train", "validation", "test"]):
        write(recon.parent / "own", f"t{number}", shades, 4)
        folder = recon.parent / "own" / f"t{number}"
        (folder / "traj_data.pkl").unlink()
        (folder / "actions.json").write_text(json.dumps({"actions": [[0.0]] * 4, "split": part}))
    corpus = open_corpus(recon.parent)
    train, held = split_episodes(corpus)
    assert {e.id for e in train} == {"own/t0", "own/t1", "recon/jackal_0", "recon/jackal_2"}
    assert {e.id for e in held} == {"own/t2", "recon/jackal_1"}
    assert corpus.splits["test"] == ("own/t3", "recon/jackal_1")


def test_small_steps_far_from_the_origin_keep_their_length(tmp_path, shades):
    position = np.array([5e5, 4.4e6]) + np.arange(5)[:, None] * [0.1, 0.0]
    write(tmp_path, "far", shades, 5, position=position)
    (episode,) = open_corpus(tmp_path).episodes
    assert {values.dtype for values in episode.columns.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(episode.columns["action"][:-1], [[0.1, 0, 0]] * 4, atol=1e-6)


def test_one_trajectory_alone_is_one_episode(recon):
    (recon / "jackal_1" / "meta.json").write_text('{"robot": "jackal"}')  # which says nothing of the rate
    corpus = open_corpus(recon / "jackal_1")
    assert [e.id for e in corpus.episodes] == ["jackal_1"]
    assert corpus.root == recon
    np.testing.assert_allclose(corpus.episodes[0].times, np.arange(5) / 4)


def test_actions_are_in_the_robots_frame_and_turns_take_the_short_way():
    square = np.array([[0, 0, 0], [1, 0, np.pi / 2], [1, 1, np.pi], [0, 1, -np.pi / 2], [0, 0, 0]])
    np.testing.assert_allclose(onward(square)[:-1], [[1, 0, np.pi / 2]] * 4, atol=1e-6)


def test_what_does_not_fit_is_left_out(recon, shades):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    (recon / "jackal_0" / "traj_data.pkl").write_bytes(pickle.dumps({"position": Evil(), "yaw": 0}))
    write(recon, "short", shades, 4, position=np.zeros((3, 2)))
    (recon / "none").mkdir()
    (recon / "none" / "traj_data.pkl").write_bytes(pickle.dumps({}))
    (recon / "hidden").mkdir()
    Image.new("RGB", (8, 8)).save(recon / "hidden" / ".0.jpg")
    (recon / "hidden" / "traj_data.pkl").write_bytes(pickle.dumps({"position": np.zeros((1, 2)), "yaw": np.zeros(1)}))
    (recon / "bare").mkdir()
    Image.new("RGB", (8, 8)).save(recon / "bare" / "0.jpg")
    (recon / "bare" / "traj_data.pkl").write_bytes(pickle.dumps({"steps": 1}))
    corpus = open_corpus(recon)
    assert [e.id for e in corpus.episodes] == ["jackal_1", "jackal_2"]
    reasons = {s.path.name: s.reason for s in corpus.skipped}
    assert "it could execute code" in reasons["jackal_0"]
    assert "has 3 positions and 4 yaws for 4 images" in reasons["short"]
    assert "no images" in reasons["none"]
    assert "no images" in reasons["hidden"]
    assert "lacks 'position' or 'yaw'" in reasons["bare"]
    with pytest.raises(DilaError, match="could execute code"):
        open_corpus(recon / "jackal_0")


def test_other_data_beside_trajectories_is_told_of(recon, shades):
    write_video(recon / "film.mp4", shades(4), 10)
    write_video(recon / "more" / "film.mp4", shades(4), 10)
    (recon / "readme.txt").write_text("RECON")
    corpus = open_corpus(recon)
    assert [e.id for e in corpus.episodes] == ["jackal_0", "jackal_1", "jackal_2"]
    assert [(s.path.as_posix(), s.fault) for s in corpus.skipped] == [("film.mp4", False), ("more", False)]
    assert "is beside trajectories and is not read" in corpus.skipped[0].reason
