"""Labels as a column of the episodes that they are of."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dila.cli.main import main
from dila.data import open_corpus, write_video
from dila.data.labels import COLUMN, METADATA_KEY, VALID, with_labels
from dila.errors import DilaError


@pytest.fixture
def root(tmp_path):
    for name, length in (("a.mp4", 6), ("sub/b.mp4", 8), ("c.mp4", 5)):
        frames = torch.arange(length, dtype=torch.uint8)[:, None, None, None].expand(length, 3, 16, 16) * 9
        write_video(tmp_path / "videos" / name, frames.contiguous(), 10)
    return tmp_path / "videos"


def write_labels(path, files, about=None, fps=10):
    """Of each file the frames, with z counting them, the last of each without."""
    rows = [(name, frame, frame < frames[-1]) for name, frames in files.items() for frame in frames]
    z = [[frame + 0.5, -frame] if valid else None for _, frame, valid in rows]
    columns = {
        "file": pa.array([name for name, *_ in rows]),
        "frame": pa.array([frame for _, frame, _ in rows], pa.int64()),
        "time": pa.array([frame / fps for _, frame, _ in rows]),
        "z": pa.array(z, pa.list_(pa.float32(), 2)),
        "valid": pa.array([valid for *_, valid in rows]),
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(about or {"model": "m"})})
    pq.write_table(table, path, row_group_size=4)
    return path


@pytest.fixture
def labels(tmp_path):
    return write_labels(tmp_path / "z.parquet", {"a.mp4": [0, 2, 4], "sub/b.mp4": list(range(8))})


def test_each_frame_has_its_own_and_those_without_have_none(root, labels):
    found = {episode.id: episode.columns[COLUMN] for episode in with_labels(open_corpus(root), labels).episodes}
    unknown = [np.nan, np.nan]
    np.testing.assert_equal(
        found["a.mp4"], np.array([[0.5, 0], unknown, [2.5, -2], unknown, unknown, unknown], np.float32)
    )
    np.testing.assert_equal(found["sub/b.mp4"][:, 0], np.array([*np.arange(7) + 0.5, np.nan], np.float32))
    assert np.isnan(found["c.mp4"]).all()
    assert found["c.mp4"].shape == (5, 2)


def test_labels_of_other_videos_are_refused(root, tmp_path):
    with pytest.raises(DilaError, match=r"has labels of x\.mp4 and others, none of which is in"):
        with_labels(open_corpus(root), write_labels(tmp_path / "x.parquet", {"x.mp4": [0, 1]}))
    with pytest.raises(DilaError, match=r"has labels of 8 frames of a\.mp4, which has 6; label it again"):
        with_labels(open_corpus(root), write_labels(tmp_path / "y.parquet", {"a.mp4": list(range(8))}))
    pq.write_table(pa.table({"episode": ["a.mp4"]}), tmp_path / "actions.parquet")
    with pytest.raises(DilaError, match="has no latent actions; make some with: dila label"):
        with_labels(open_corpus(root), tmp_path / "actions.parquet")


def test_labels_of_other_frame_times_are_refused(root, labels, tmp_path):
    with pytest.raises(DilaError, match=r"has labels of a\.mp4 whose times differ .* label it with the same --fps"):
        with_labels(open_corpus(root, 30), labels)
    at_30 = write_labels(tmp_path / "at_30.parquet", {"a.mp4": [0, 6]}, fps=30)
    with pytest.raises(DilaError, match="which has 6; label it again"):
        with_labels(open_corpus(root, 30), at_30)


def test_they_go_into_a_lerobot_data_set(root, labels, tmp_path, capsys):
    line = ["data", "convert", str(root), str(tmp_path / "out"), "--labels", str(labels)]
    assert main(line) == 0
    assert "  9 of 19 frames have a label" in capsys.readouterr().out
    corpus = open_corpus(tmp_path / "out")
    before = {e.id: e.columns[COLUMN] for e in with_labels(open_corpus(root), labels).episodes}
    for episode, name in zip(corpus.episodes, ["a.mp4", "c.mp4", "sub/b.mp4"], strict=True):
        np.testing.assert_equal(episode.columns[COLUMN], before[name])
        valid = np.isfinite(before[name]).all(1, keepdims=True)
        np.testing.assert_equal(episode.columns[VALID], valid)
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    assert info["features"][VALID] == {"dtype": "bool", "shape": [1], "names": None}
    told = json.loads((tmp_path / "out" / "meta" / "stats.json").read_text())[COLUMN]
    assert told["max"] == [6.5, 0]
    write_labels(labels, {"a.mp4": [0, 1]}, {"model": "another"})
    assert main(line) == 2
    assert "labels" in capsys.readouterr().err
