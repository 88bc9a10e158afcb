"""What users' corpora are like: each fault is skipped, listed or refused in one sentence; no black frame, no crash."""

import json
import os
import shutil
from fractions import Fraction

import av
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dila.data.clips import Clips, collate_clips
from dila.data.corpus import open_corpus
from dila.data.video import write_video
from dila.errors import DilaError


def one_sentence(error) -> bool:
    text = str(error)
    return "\n" not in text and "Traceback" not in text and len(text) < 600


def write_as(path, frames, codec="libvpx-vp9", pts=None, pix_fmt="yuv420p", rotation=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=100, options={"crf": "20", "b": "0"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[2], frames.shape[3], pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for f, picture in enumerate(frames.permute(0, 2, 3, 1).numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = 10 * f if pts is None else pts[f], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def zoo(tmp_path, shades):
    """One corpus with all faults in it, and three good episodes."""
    root = tmp_path / "zoo"
    write_video(root / "good.mp4", shades(8), 10)
    write_video(root / "größe 動画 🎬.mp4", shades(8), 10)
    write_video(root / "truncated.mp4", shades(40), 10)
    data = (root / "truncated.mp4").read_bytes()
    (root / "truncated.mp4").write_bytes(data[: len(data) * 2 // 3])
    (root / "empty.mp4").touch()
    (root / "empty.h5").touch()
    Image.new("RGB", (8, 8)).save(root / "picture.png")
    (root / "picture.png").rename(root / "really a picture.mp4")
    (root / "text.webm").write_text("no video " * 99)
    shutil.copy(root / "good.mp4", root / "mp4 called webm.webm")
    (root / "loop").symlink_to(root)
    (root / "self.mp4").symlink_to(root / "self.mp4")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "folder.mp4").mkdir()
    os.mkfifo(root / "pipe.mp4")
    return root


def test_a_corpus_with_every_fault_gives_its_good_episodes_and_lists_the_rest(zoo, numbers):
    corpus = open_corpus(zoo)
    assert [e.id for e in corpus.episodes] == ["good.mp4", "größe 動画 🎬.mp4", "mp4 called webm.webm"]
    assert all(numbers(e.read(range(8))) == list(range(8)) for e in corpus.episodes)
    assert {s.path.name for s in corpus.skipped} == {
        "truncated.mp4", "empty.mp4", "empty.h5", "really a picture.mp4", "text.webm",
    }  # fmt: skip
    assert all(one_sentence(s.reason) and s.path.name in s.reason for s in corpus.skipped)


def test_a_folder_that_may_not_be_read_is_listed(zoo, monkeypatch):
    from pathlib import Path

    (zoo / "locked").mkdir()
    real = Path.iterdir

    def iterdir(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    corpus = open_corpus(zoo)
    assert len(corpus) == 3
    assert [s.reason for s in corpus.skipped if s.path.name == "locked"] == [
        f"{zoo / 'locked'} cannot be read: Permission denied"
    ]


@pytest.mark.parametrize(("rows", "columns"), [(33, 31), (17, 64), (1, 1)])
def test_odd_sizes_are_read_as_they_are(tmp_path, rows, columns):
    frames = torch.full((3, 3, rows, columns), 77, dtype=torch.uint8)
    write_as(tmp_path / "odd.webm", frames)
    (episode,) = open_corpus(tmp_path).episodes
    got = episode.read([0, 2])
    assert got.shape == (2, 3, rows, columns)
    assert (got.int() - 77).abs().max() <= 4


def test_mixed_rates_and_sizes_stack_with_a_stride_and_a_size(tmp_path, shades, numbers):
    write_video(tmp_path / "slow.mp4", shades(16, size=32), 5)
    write_video(tmp_path / "fast.mp4", shades(50, size=48), 20)
    write_as(tmp_path / "odd.webm", shades(30, size=33))
    episodes = open_corpus(tmp_path).episodes
    with pytest.raises(DilaError, match="set size in Clips"):
        collate_clips([Clips(episodes, 3, stride=0.2)[i] for i in (0, -1)])
    clips = Clips(episodes, 3, stride=0.2, size=24)
    loader = DataLoader(clips, batch_size=len(clips), collate_fn=collate_clips)
    batch = next(iter(loader))
    steps = {int(e): set(i.diff().tolist()) for e, i in zip(batch.episode, batch.index, strict=True)}
    assert steps == {0: {4}, 1: {2}, 2: {1}}
    for frames, index in zip(batch.frames, batch.index, strict=True):
        assert numbers(frames) == index.tolist()


def test_rotated_and_of_variable_rate_at_once(tmp_path, shades, numbers):
    upright = torch.cat([shades(6, size=32), torch.zeros(6, 3, 32, 32, dtype=torch.uint8)], dim=2)
    stored = torch.rot90(upright, -1, (2, 3)).contiguous()
    write_as(tmp_path / "phone.mp4", stored, "libx264", pts=[0, 10, 19, 32, 90, 100], rotation=90)
    (episode,) = open_corpus(tmp_path).episodes
    assert episode.read([0]).shape == (1, 3, 64, 32)
    assert numbers(episode.read([5, 1])[:, :, :32]) == [5, 1]
    clips = Clips([episode], frames=3, stride=0.1)
    assert [c.index.tolist() for c in clips] == [[0, 1, 2], [1, 2, 3]]


def lerobot_without_actions(root):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "meta").mkdir(parents=True)
    camera = {"dtype": "video", "shape": [8, 8, 3]}
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "chunks_size": 1000,
        "features": {"observation.image": camera, "action": {"dtype": "float32", "shape": [1]}},
        "data_path": "data/episode_{episode_index}.parquet",
        "video_path": "{video_key}/{episode_index}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 3}')
    (root / "data").mkdir()
    pq.write_table(pa.table({"episode_index": [0] * 3, "frame_index": [0, 1, 2]}), root / "data/episode_0.parquet")


def test_a_missing_column_is_refused_by_name(tmp_path):
    lerobot_without_actions(tmp_path)
    with pytest.raises(DilaError, match=r"episode_0\.parquet has no column 'action', which meta/info\.json declares"):
        open_corpus(tmp_path)


@pytest.fixture
def every_kind(tmp_path, shades):
    """One episode of every kind of storage, with the file that it stands on."""
    root = tmp_path / "kinds"
    write_video(root / "film.mp4", shades(6), 10)
    (root / "images").mkdir()
    for f, picture in enumerate(shades(6).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(root / "images" / f"{f}.png")
    with h5py.File(root / "demo.h5", "w") as file:
        file["pixels"] = shades(6).permute(0, 2, 3, 1).numpy()
        file["ep_len"], file["ep_offset"] = [6], [0]
    episodes = {e.id.split("/")[0]: e for e in open_corpus(root).episodes}
    files = {"film.mp4": root / "film.mp4", "images": root / "images" / "3.png", "demo.h5": root / "demo.h5"}
    assert set(episodes) == set(files)
    return episodes, files


@pytest.mark.parametrize("kind", ["film.mp4", "images", "demo.h5"])
@pytest.mark.parametrize("harm", ["vanishes", "is emptied", "is cut", "becomes text"])
def test_a_file_that_changes_after_opening_gives_one_sentence_that_names_it(every_kind, kind, harm):
    episodes, files = every_kind
    episode, file = episodes[kind], files[kind]
    content = file.read_bytes()
    if harm == "vanishes":
        file.unlink()
        with pytest.raises(DilaError, match=file.name):
            episode.fingerprint()
    else:
        file.write_bytes({"is emptied": b"", "is cut": content[: len(content) // 3]}.get(harm, b"text " * 50))
    with pytest.raises(DilaError, match=file.name) as caught:
        episode.read([2, 3])
    assert one_sentence(caught.value)


def test_the_sentence_comes_through_a_loader_worker(every_kind):
    episodes, files = every_kind
    files["film.mp4"].unlink()
    loader = DataLoader(Clips([episodes["film.mp4"]], frames=3), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(DilaError, match=r"film\.mp4"):
        next(iter(loader))
