import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dila.data.lerobot_stats import merged, statistics
from dila.data.lerobot_write import CAMERA, About, LeRobotV3, publish, stage_episode
from dila.data.primitives import PrimitiveRenderer
from dila.data.recording import Recorded, record
from dila.errors import DilaError

NAMES = {"action": ("a", "b"), "state": ("x", "y"), "kind": ("kind",)}
spec = importlib.util.spec_from_file_location("lerobot_reader", Path(__file__).parent / "lerobot_reader.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)


def grey(number):
    """Frame f of episode i is grey 10 i + 4 f, and its rows say so."""
    length = 5 + number
    shade = 10 * number + 4 * torch.arange(length)
    frames = shade.to(torch.uint8)[:, None, None, None].expand(length, 3, 16, 24).contiguous()
    state = np.stack([shade.numpy(), np.full(length, number)], 1).astype(np.float32)
    action = np.concatenate([np.diff(state, axis=0), np.full((1, 2), np.nan)]).astype(np.float32)
    return Recorded(frames, {"action": action, "state": state, "kind": np.full((length, 1), number)})


def write(out, episodes, make=grey, fps=10, **more):
    return record(
        out, episodes, make, settings={"seed": 0}, names=NAMES, fps=fps, progress=False, store=LeRobotV3("go"), **more
    )


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_documented_field_is_there(tmp_path):
    data = reader.read(write(tmp_path / "d", 3))
    info = data.info
    assert info["codebase_version"] == "v3.0"
    assert (info["fps"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == (10, 3, 18, 1)
    assert info["splits"] == {"train": "0:3"}
    assert {"chunks_size", "data_files_size_in_mb", "video_files_size_in_mb", "robot_type"} <= set(info)
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    features = info["features"]
    assert features["action"] == {"dtype": "float32", "shape": [2], "names": ["a", "b"]}
    assert features["observation.state"]["names"] == ["x", "y"]
    assert features["kind"]["dtype"] == "int64"
    assert features[CAMERA]["shape"] == [16, 24, 3]
    assert features[CAMERA]["info"]["video.codec"] == "h264"
    assert {"timestamp", "frame_index", "episode_index", "index", "task_index"} <= set(features)
    row = data.rows[1]
    assert (row["episode_index"], row["length"], row["tasks"]) == (1, 6, ["go"])
    assert (row["dataset_from_index"], row["dataset_to_index"]) == (5, 11)
    assert row[f"videos/{CAMERA}/from_timestamp"] == pytest.approx(0.5)
    assert row[f"videos/{CAMERA}/to_timestamp"] == pytest.approx(1.1)
    assert row["source"] == "episode_000001"
    assert {f"videos/{CAMERA}/chunk_index", "data/file_index", "meta/episodes/chunk_index"} <= set(row)
    schema = pq.read_schema(tmp_path / "d" / "data" / "chunk-000" / "file-000.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["action"] == "fixed_size_list<element: float>[2]"
    assert (types["kind"], types["timestamp"], types["index"]) == ("int64", "float", "int64")
    assert set(types) == set(features) - {CAMERA}


def odd_kept(number):
    return grey(number)._replace(split="held_out" if number % 2 else "train")


def test_each_part_of_a_recording_is_a_range_and_more_may_follow(tmp_path):
    out = write(tmp_path / "d", 5, odd_kept)
    assert json.loads((out / "meta" / "info.json").read_text())["splits"] == {"train": "0:3", "held_out": "3:5"}
    data = reader.read(write(out, 7, odd_kept))
    assert data.info["splits"] == {"train": "0:3,5:6", "held_out": "3:5,6:7"}
    assert [int(row["source"][-1]) for row in data.rows] == [0, 2, 4, 1, 3, 6, 5]


def test_frames_and_rows_of_all_episodes_fit_together(tmp_path):
    data = reader.read(write(tmp_path / "d", 4))
    index = np.concatenate([e.columns["index"] for e in data.episodes])
    assert index.tolist() == list(range(len(index)))
    for number, episode in enumerate(data.episodes):
        made, columns = grey(number), episode.columns
        np.testing.assert_array_equal(columns["observation.state"], made.columns["state"])
        np.testing.assert_array_equal(columns["action"], made.columns["action"])
        assert columns["kind"].tolist() == [number] * len(made.frames)
        assert columns["frame_index"].tolist() == list(range(len(made.frames)))
        np.testing.assert_allclose(columns["timestamp"], np.arange(len(made.frames)) / 10, atol=1e-6)
        assert set(columns["episode_index"]) == {number}
        # Row f of the action moves frame f to f+1, in the rows and in the pictures.
        state = columns["observation.state"]
        np.testing.assert_array_equal(state[:-1] + columns["action"][:-1], state[1:])
        shade = episode.frames[CAMERA].mean((1, 2, 3))
        np.testing.assert_allclose(shade, state[:, 0], atol=2)


def test_statistics_are_those_of_the_data(tmp_path):
    data = reader.read(write(tmp_path / "d", 3))
    state = np.concatenate([grey(i).columns["state"] for i in range(3)])
    pixels = np.concatenate([grey(i).frames.numpy() for i in range(3)]) / 255
    stats = data.stats["observation.state"]
    np.testing.assert_allclose(stats["mean"], state.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["std"], state.std(0), rtol=1e-5)
    assert (stats["min"], stats["max"], stats["count"]) == ([0, 0], [44, 2], [18])
    camera = data.stats[CAMERA]
    np.testing.assert_allclose(camera["mean"], pixels.mean((0, 2, 3)).reshape(3, 1, 1), rtol=1e-6)
    np.testing.assert_allclose(camera["std"], pixels.std((0, 2, 3)).reshape(3, 1, 1), rtol=1e-5)
    assert np.isfinite(data.stats["action"]["mean"]).all()  # the last action of an episode is unknown
    assert set(data.stats) == set(data.info["features"])
    assert data.rows[2]["stats/observation.state/max"] == [44, 2]


def test_quantiles_are_lerobots(tmp_path):
    data = reader.read(write(tmp_path / "d", 3))
    states = [grey(i).columns["state"] for i in range(3)]
    each = np.array([np.quantile(state, [0.01, 0.1, 0.5, 0.9, 0.99], axis=0) for state in states])
    weights = np.array([len(state) for state in states]) / sum(map(len, states))
    for place, kind in enumerate(("q01", "q10", "q50", "q90", "q99")):
        np.testing.assert_allclose(data.rows[1][f"stats/observation.state/{kind}"], each[1, place], rtol=1e-6)
        np.testing.assert_allclose(data.stats["observation.state"][kind], weights @ each[:, place], rtol=1e-6)
        pixels = [np.quantile(grey(i).frames.numpy(), float(kind[1:]) / 100, method="inverted_cdf") for i in range(3)]
        np.testing.assert_allclose(data.stats[CAMERA][kind], np.full((3, 1, 1), weights @ pixels / 255), rtol=1e-6)


def test_unknown_values_do_not_enter_the_statistics():
    nan = np.nan
    parts = [statistics(np.array(rows)) for rows in ([[5.0, 1], [7, 2], [nan, nan]], [[nan, 3], [nan, 4]])]
    assert parts[0]["count"] == [2]
    told = merged(parts)
    assert (told["min"], told["max"], told["mean"], told["q50"]) == ([5, 1], [7, 4], [6, 2.5], [6, 2.5])
    assert told["count"] == [4]
    nothing = merged([statistics(np.full((2, 1), nan))])
    assert all(value == [0] for value in nothing.values())


def test_a_data_set_written_without_quantiles_can_grow():
    old, new = statistics(np.array([1.0])), statistics(np.array([3.0]))
    assert merged([{kind: old[kind] for kind in ("min", "max", "mean", "std", "count")}, new])["mean"] == [2]


def test_tasks_are_indexed_by_task_as_pandas_wants_it(tmp_path):
    tasks = reader.read(write(tmp_path / "d", 1)).tasks
    assert tasks.to_pydict() == {"task_index": [0], "task": ["go"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_many_files_when_one_would_be_too_large(tmp_path):
    for number in range(5):
        made = grey(number)
        stage_episode(
            tmp_path, f"e{number}", {CAMERA: made.frames.split(2)}, made.columns, 10, About(f"e{number}", ("go",))
        )
    size = (tmp_path / "e0.0.mp4").stat().st_size
    publish(tmp_path / "d", tmp_path, [f"e{n}" for n in range(5)], NAMES, 10, video_mb=2.5 * size / 2**20)
    data = reader.read(tmp_path / "d")
    assert [row["data/file_index"] for row in data.rows] == [0, 0, 1, 1, 2]
    assert [row[f"videos/{CAMERA}/file_index"] for row in data.rows] == [0, 0, 1, 1, 2]
    assert data.rows[2][f"videos/{CAMERA}/from_timestamp"] == 0
    for number, episode in enumerate(data.episodes):
        shade = episode.frames[CAMERA].mean((1, 2, 3))
        np.testing.assert_allclose(shade, grey(number).columns["state"][:, 0], atol=2)
    assert list(tmp_path.glob("e*")) == []


@pytest.mark.parametrize("fps", [7, 30, 29.97, 12.5])
def test_joined_videos_keep_time_at_any_rate(tmp_path, fps):
    data = reader.read(write(tmp_path / "d", 3, fps=fps))
    assert data.info["fps"] == fps
    assert [len(e.frames[CAMERA]) for e in data.episodes] == [5, 6, 7]


def test_interrupted_anywhere_it_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    whole = contents(write(tmp_path / "whole", 4))
    real = os.replace
    total = len(whole) + 3 * 4 + 2
    for fatal in range(0, total, 3):
        calls = []

        def flaky(source, target, calls=calls, fatal=fatal):
            calls.append(target)
            if len(calls) == fatal:
                raise KeyboardInterrupt
            return real(source, target)

        out = tmp_path / str(fatal)
        monkeypatch.setattr(os, "replace", flaky)
        try:
            write(out, 4)
        except KeyboardInterrupt:
            monkeypatch.undo()
            write(out, 4)
        monkeypatch.undo()
        assert contents(out) == whole


def test_more_episodes_go_into_new_files(tmp_path):
    write(tmp_path / "d", 2)
    before = contents(tmp_path / "d")
    data = reader.read(write(tmp_path / "d", 4))
    after = contents(tmp_path / "d")
    kept = [name for name in before if name.startswith(("data", "videos", "meta/episodes"))]
    assert [name for name in kept if before[name] != after[name]] == []
    assert [row["source"] for row in data.rows] == [f"episode_{i:06d}" for i in range(4)]
    assert [row["data/file_index"] for row in data.rows] == [0, 0, 1, 1]
    assert data.info["total_frames"] == 26
    np.testing.assert_allclose(data.episodes[3].frames[CAMERA].mean((1, 2, 3)), 30 + 4 * np.arange(8), atol=2)


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    make = PrimitiveRenderer(4, 32, 0, "rotation", False)
    for workers in (1, 2):
        write(tmp_path / str(workers), 4, make, workers=workers)
    assert contents(tmp_path / "2") == contents(tmp_path / "1")


def test_a_column_or_a_size_that_does_not_fit_is_refused(tmp_path):
    made, about = grey(0), About("a", ("go",))
    with pytest.raises(DilaError, match="4 rows of 'action' for 5 frames"):
        stage_episode(tmp_path, "a", {CAMERA: [made.frames]}, {"action": made.columns["action"][:4]}, 10, about)
    stage_episode(tmp_path, "a", {CAMERA: [made.frames]}, made.columns, 10, about)
    stage_episode(tmp_path, "b", {CAMERA: [made.frames[..., :16]]}, made.columns, 10, About("b", ("go",)))
    with pytest.raises(DilaError, match="b has frames of"):
        publish(tmp_path / "d", tmp_path, ["a", "b"], NAMES, 10)
    assert not list((tmp_path / "d").rglob("*.parquet"))


def test_a_data_set_of_others_is_not_touched(tmp_path):
    write(tmp_path / "d", 1)
    (tmp_path / "d" / "recording.json").unlink()
    with pytest.raises(DilaError, match="not written by dila"):
        write(tmp_path / "d", 2)


def test_another_layout_is_refused(tmp_path):
    write(tmp_path / "d", 1)
    with pytest.raises(DilaError, match="format = 'lerobot'"):
        record(tmp_path / "d", 1, grey, settings={"seed": 0}, names=NAMES, fps=10, progress=False)
