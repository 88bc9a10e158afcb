"""Cameras, tasks and splits of a source are those of what it is converted to."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dila.cli.main import main
from dila.data import open_corpus, split_episodes
from dila.data.convert import convert
from dila.data.lerobot_write import About, publish, stage_episode
from dila.errors import DilaError

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
TASKS = [("wipe the table",), ("grüße die Tasse", "then leave"), ("wipe the table",), ("lift",)]
SPLITS = [("train",), ("val",), ("train",), ()]
spec = importlib.util.spec_from_file_location("lerobot_reader", Path(__file__).parent / "lerobot_reader.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)


def columns(number, length):
    state = np.stack([np.arange(length), np.full(length, number)], 1).astype(np.float32)
    return {
        "action": np.concatenate([np.diff(state, axis=0), np.full((1, 2), np.nan)]).astype(np.float32),
        "state": state,
    }


@pytest.fixture
def source(tmp_path, shades):
    """Four episodes of two cameras of different sizes, in two calls; the parts lie mixed, the last is in none."""
    staging = tmp_path / "staging"
    staging.mkdir()
    for number, (tasks, splits) in enumerate(zip(TASKS, SPLITS, strict=True)):
        length = 5 + number
        cameras = {FRONT: [shades(length, 10 * number)], WRIST: [shades(length, 10 * number + 2, 48)]}
        about = About(f"e{number}", tasks, splits)
        stage_episode(staging, f"e{number}", cameras, columns(number, length), 10, about)
    names = {"action": ("x", "y"), "state": ("x", "y")}
    for part in (["e0", "e1"], ["e2", "e3"]):
        publish(tmp_path / "source", staging, part, names, 10)
    return tmp_path / "source"


def test_what_is_written_is_what_the_documentation_says(source, numbers):
    data = reader.read(source)
    assert data.info["splits"] == {"train": "0:1,2:3", "val": "1:2"}
    assert data.info["total_tasks"] == 4
    assert data.tasks["task"].to_pylist() == ["wipe the table", "grüße die Tasse", "then leave", "lift"]
    assert [row["tasks"] for row in data.rows] == [list(tasks) for tasks in TASKS]
    assert [set(e.columns["task_index"].tolist()) for e in data.episodes] == [{0}, {1}, {0}, {3}]
    assert {key: data.info["features"][key]["shape"] for key in (FRONT, WRIST)} == {
        FRONT: [32, 32, 3],
        WRIST: [48, 48, 3],
    }
    for number, episode in enumerate(data.episodes):
        for key, first in ((FRONT, 0), (WRIST, 2)):
            frames = torch.from_numpy(episode.frames[key]).permute(0, 3, 1, 2)
            assert numbers(frames) == [10 * number + first + f for f in range(5 + number)]
    assert set(data.stats) == set(data.info["features"])
    assert np.shape(data.stats[WRIST]["mean"]) == (3, 1, 1)


def test_a_round_trip_keeps_cameras_tasks_and_splits(source, tmp_path):
    done = convert(source, tmp_path / "out", progress=False)
    assert (done.episodes, done.skipped, done.dropped) == (4, (), ())
    before, after = open_corpus(source), open_corpus(tmp_path / "out")
    assert {e.camera for e in after.episodes} == {FRONT, WRIST}
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["splits"] == {"train": "0:2", "val": "2:3"}
    rows = reader.read(tmp_path / "out").rows
    places = [row["source"] for row in rows]
    assert places == [f"episode_{n:06d}" for n in (0, 2, 1, 3)]  # each part is one range
    was = {e.id: e for e in before.episodes}
    for episode in after.episodes:
        number = int(episode.recording.rpartition("_")[2])
        old = was[f"{places[number]}/{episode.camera}"]
        assert episode.tasks == old.tasks != ()
        mine, theirs = (e.read(range(len(old.times))).float() for e in (episode, old))
        assert (mine - theirs).abs().max() <= 3  # encoded twice
        np.testing.assert_array_equal(episode.columns["action"], old.columns["action"])
    train, held = split_episodes(after, held_out=0.2)
    assert {"episode_000000", "episode_000001"} <= {e.recording for e in train}
    assert "episode_000002" in {e.recording for e in held}
    assert after.names["action"] == ("x", "y")


def test_one_camera_or_one_size_can_be_asked_for(source, tmp_path, capsys):
    assert main(["data", "convert", str(source), str(tmp_path / "a"), "--camera", WRIST, "--task", "tidy"]) == 0
    alone = open_corpus(tmp_path / "a")
    assert {(e.camera, e.tasks) for e in alone.episodes} == {(WRIST, ("tidy",))}
    assert convert(source, tmp_path / "b", size=16, progress=False).episodes == 4
    assert {tuple(e.read([0]).shape) for e in open_corpus(tmp_path / "b").episodes} == {(1, 3, 16, 16)}
    with pytest.raises(DilaError, match="cameras"):  # the same folder with other cameras
        convert(source, tmp_path / "a", progress=False)


def test_labels_are_those_of_the_first_camera_that_has_any(source, tmp_path, capsys):
    path = tmp_path / "z.parquet"

    def label(camera, z):
        told = {"file": [f"episode_000000/{camera}"] * 2, "frame": [0, 1], "time": [0.0, 0.1]}
        table = pa.table({**told, "valid": [bool(each) for each in z], "z": pa.array(z, pa.list_(pa.float32(), 2))})
        pq.write_table(table.replace_schema_metadata({b"dila": b"{}"}), path)

    label(WRIST, [[1, 2], [3, 4]])
    assert main(["data", "convert", str(source), str(tmp_path / "out"), "--labels", str(path)]) == 0
    assert "  2 of 26 frames have a label" in capsys.readouterr().out
    seen = {e.id: e.columns["latent_action"] for e in open_corpus(tmp_path / "out", camera=FRONT).episodes}
    assert seen[f"episode_000000/{FRONT}"][:2].tolist() == [[1, 2], [3, 4]]
    label(FRONT, [None, None])
    with pytest.raises(DilaError, match="no frame to be converted has a label"):
        convert(source, tmp_path / "front", camera=FRONT, labels=path)


def test_what_is_text_is_told_of(source, tmp_path, capsys):
    info = source / "meta" / "info.json"
    told = json.loads(info.read_text())
    told["features"]["language_instruction"] = {"dtype": "string", "shape": [1], "names": None}
    info.write_text(json.dumps(told))
    assert main(["data", "convert", str(source), str(tmp_path / "out")]) == 0
    assert "left out, because they are text or missing in some episodes: language_instruction (text)" in (
        capsys.readouterr().out
    )


def test_recordings_with_other_cameras_are_told(source, tmp_path):
    staging = tmp_path / "staging"
    stage_episode(
        staging, "x", {WRIST: [torch.zeros(5, 3, 48, 48, dtype=torch.uint8)]}, columns(0, 5), 10, About("x", ("t",))
    )
    publish(tmp_path / "all" / "odd", staging, ["x"], {}, 10)
    source.rename(tmp_path / "all" / "source")
    done = convert(tmp_path / "all", tmp_path / "out", progress=False)
    assert done.episodes == 4
    (odd,) = done.skipped
    assert odd.path == Path("odd/episode_000000")
    told = f"has the cameras {WRIST}, but most recordings have {FRONT}, {WRIST}"
    assert odd.reason == f"{told}; set --camera to one that all have"


def test_cameras_and_splits_of_hdf5_are_kept(tmp_path, shades, numbers):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for number in range(3):
            demo = data.create_group(f"demo_{number}")
            for camera, first in (("agentview_image", 0), ("robot0_eye_in_hand_image", 3)):
                demo.create_dataset(f"obs/{camera}", data=shades(6, 10 * number + first).permute(0, 2, 3, 1).numpy())
            demo["actions"] = np.full((6, 2), number, np.float32)
            demo["states"] = np.full((6, 1), number, np.float32)
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])
        file["mask/valid"] = np.array([b"demo_1"])
    done = convert(tmp_path / "demo.hdf5", tmp_path / "out", progress=False)
    assert (done.episodes, done.skipped) == (3, ())
    data = reader.read(tmp_path / "out")
    front, hand = (f"observation.images.{name}" for name in ("agentview_image", "robot0_eye_in_hand_image"))
    assert [key for key, f in data.info["features"].items() if f["dtype"] == "video"] == [front, hand]
    assert (data.info["fps"], data.info["splits"]) == (20, {"train": "0:2", "valid": "2:3"})
    for episode, number in zip(data.episodes, (0, 2, 1), strict=True):
        for key, first in ((front, 0), (hand, 3)):
            frames = torch.from_numpy(episode.frames[key]).permute(0, 3, 1, 2)
            assert numbers(frames) == [10 * number + first + f for f in range(6)]
        assert set(episode.columns["action"].ravel()) == {number}
    assert {e.tasks for e in open_corpus(tmp_path / "out").episodes} == {("demo.hdf5",)}
