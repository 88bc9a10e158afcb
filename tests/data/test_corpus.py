import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dila.data import video
from dila.data.check import check
from dila.data.corpus import open_corpus, split_episodes
from dila.data.media import judge
from dila.data.table import write_table
from dila.data.video import write_video
from dila.errors import DilaError
from dila.protocols import Episode


def film(path, frames=4):
    write_video(path, torch.zeros(frames, 3, 16, 16, dtype=torch.uint8) + 90, fps=10)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    film(root / "b" / "clip_10.mp4")
    film(root / "b" / "clip_2.mp4")
    film(root / "ü ñ" / "テスト.MP4".lower())
    film(root / ".hidden" / "x.mp4")
    (root / "images").mkdir()
    for f in range(3):
        Image.new("RGB", (8, 8)).save(root / "images" / f"{f}.jpg")
    (root / "notes.txt").write_text("no episode")
    (root / "bad.mp4").write_text("no video")
    return root


def test_everything_readable_is_found_the_rest_is_listed(tree):
    corpus = open_corpus(tree)
    assert [e.id for e in corpus.episodes] == ["b/clip_2.mp4", "b/clip_10.mp4", "images", "ü ñ/テスト.mp4"]
    assert [s.path.name for s in corpus.skipped] == ["bad.mp4"]
    assert "not a readable video" in corpus.skipped[0].reason
    assert len(corpus) == 4
    assert all(e.read([1]).shape[:2] == (1, 3) for e in corpus.episodes)


def test_a_single_file_is_a_corpus(tree, monkeypatch):
    assert [e.id for e in open_corpus(tree / "b" / "clip_2.mp4").episodes] == ["clip_2.mp4"]
    monkeypatch.chdir(tree / "b")
    assert [e.id for e in open_corpus("clip_2.mp4").episodes] == ["clip_2.mp4"]
    assert len(open_corpus(".").episodes) == 2
    monkeypatch.chdir(tree / "images")
    assert [e.id for e in open_corpus(".").episodes] == ["images"]


def test_links_are_followed_but_never_in_circles(tree, tmp_path):
    film(tmp_path / "elsewhere" / "far.mp4")
    (tree / "link").symlink_to(tmp_path / "elsewhere")
    (tree / "b" / "up").symlink_to(tree)
    (tree / "broken.mp4").symlink_to(tree / "nowhere")
    ids = [e.id for e in open_corpus(tree).episodes]
    assert ids.count("link/far.mp4") == 1
    assert len(ids) == 5


def test_a_thumbnail_beside_videos_or_folders_hides_nothing(tree):
    Image.new("RGB", (8, 8)).save(tree / "b" / "thumbnail.jpg")
    Image.new("RGB", (8, 8)).save(tree / "cover.png")
    corpus = open_corpus(tree)
    assert len(corpus) == 4
    assert [s.path.name for s in corpus.skipped] == ["bad.mp4"]


def test_images_beside_videos_or_folders_are_told_of_once_a_folder(tree):
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tree / "b" / f"{number}.jpg")
    corpus = open_corpus(tree)
    assert len(corpus) == 4
    assert [(s.path.name, s.fault) for s in corpus.skipped] == [("b", False), ("bad.mp4", True)]
    assert "b has 3 images beside a video or a folder" in corpus.skipped[0].reason


@pytest.mark.parametrize("run", [".", "b/run"])
def test_a_training_run_among_the_data_is_no_data(run, tree):
    before = [e.id for e in open_corpus(tree).episodes]
    (tree / run / "pictures").mkdir(parents=True)
    (tree / run / "run.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(tree / run / "pictures" / "step_0000002.png")
    corpus = open_corpus(tree)
    assert [e.id for e in corpus.episodes] == before
    assert [s.reason.partition(" ")[2] for s in corpus.skipped if not s.fault] == [
        "belongs to a training run (run.json) and is not read as data"
    ]
    assert len(open_corpus(tree / run / "pictures")) == 1


def test_nothing_readable_is_said_in_a_sentence(tree, tmp_path):
    with pytest.raises(DilaError, match=r"bad\.mp4 is not a readable video"):
        open_corpus(tree / "bad.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DilaError, match=r"empty has no video and no folder of images; .*mp4"):
        open_corpus(tmp_path / "empty")
    (tmp_path / "empty" / "x.webm").touch()
    with pytest.raises(DilaError, match=r"\(1 skipped\); the first problem: .*x\.webm is empty"):
        open_corpus(tmp_path / "empty")
    with pytest.raises(DilaError, match="does not exist"):
        open_corpus(tmp_path / "none")
    with pytest.raises(DilaError, match=r"xxx cannot be read \(File name too long"):
        open_corpus("x" * 300)
    with pytest.raises(DilaError, match="xxx does not exist"):
        open_corpus("box/" + "x" * 300)
    with pytest.raises(DilaError, match="has no video"):
        open_corpus(tree / "notes.txt")
    with pytest.raises(DilaError, match="fps = 0"):
        open_corpus(tree, fps=0)


def test_episodes_satisfy_the_protocol_and_travel_to_workers(tree):
    for episode in open_corpus(tree).episodes:
        again = pickle.loads(pickle.dumps(episode))
        assert again.id == episode.id
        assert again.fingerprint() == episode.fingerprint()
        assert torch.equal(again.read([0, 2]), episode.read([0, 2]))
        assert {*dir(Episode), *Episode.__annotations__} - {*dir(object)} - set(dir(episode)) <= {
            n for n in dir(Episode) if n.startswith("_")
        } | {"__module__", "__annotations__"}


def rows(count, shift=0.0):
    return {"action": np.arange(count * 2, dtype=np.float32).reshape(count, 2) + shift, "label": np.full((count, 1), 7)}


def test_columns_come_from_the_table(tmp_path):
    film(tmp_path / "a" / "x.mp4", 4)
    film(tmp_path / "y.mp4", 6)
    film(tmp_path / "plain.mp4", 3)
    table = {"y.mp4": rows(6, 100.0), "a/x.mp4": rows(4), "gone.mp4": rows(9)}
    write_table(tmp_path / "actions.parquet", table, {"action": ("x", "y")})
    corpus = open_corpus(tmp_path)
    by_id = {e.id: e for e in corpus.episodes}
    np.testing.assert_array_equal(by_id["a/x.mp4"].columns["action"], rows(4)["action"])
    np.testing.assert_array_equal(by_id["y.mp4"].columns["action"], rows(6, 100.0)["action"])
    assert by_id["y.mp4"].columns["label"].dtype == np.int64
    assert by_id["y.mp4"].columns["action"].dtype == np.float32
    assert dict(by_id["plain.mp4"].columns) == {}
    assert corpus.names == {"action": ("x", "y")}
    assert set(open_corpus(tmp_path / "y.mp4").episodes[0].columns) == {"action", "label"}


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    film(tmp_path / "x.mp4", 4)
    path = tmp_path / "actions.parquet"
    write_table(path, {"x.mp4": rows(5)}, {})
    with pytest.raises(DilaError, match=r"actions\.parquet has 5 rows for 'x\.mp4', which has 4 frames"):
        open_corpus(tmp_path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DilaError, match="not a readable parquet"):
        open_corpus(tmp_path)
    good = {"episode": ["x.mp4"] * 4, "frame": [3, 1, 0, 2]}
    for extra, words in [
        ({"frame": [0, 1, 2, 2]}, "numbered 0 to 3"),
        ({"action": [[1.0], [1.0, 2.0], [1.0], [1.0]]}, "unequal length"),
        ({"task": ["a"] * 4}, "only numbers"),
        ({"action": [1.0, None, 2.0, 3.0]}, "null cells"),
        ({"action": [[1.0], None, [2.0], [3.0]]}, "null cells"),
        ({"action": [[1.0], [None], [2.0], [3.0]]}, "null cells"),
    ]:
        pq.write_table(pa.table({**good, **extra}), path)
        with pytest.raises(DilaError, match=words):
            open_corpus(tmp_path)
    pq.write_table(pa.table({"frame": [0]}), path)
    with pytest.raises(DilaError, match="no column 'episode'"):
        open_corpus(tmp_path)
    pq.write_table(pa.table({**good, "a": [1.0] * 4}).replace_schema_metadata({"names": '{"a": ["x", "y"]}'}), path)
    with pytest.raises(DilaError, match="names 2 components of 'a', which has 1"):
        open_corpus(tmp_path)


def test_rows_may_come_in_any_order(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    film(tmp_path / "x.mp4", 4)
    pq.write_table(
        pa.table({"frame": [3, 1, 0, 2], "v": [30.0, 10.0, 0.0, 20.0], "episode": ["x.mp4"] * 4}),
        tmp_path / "actions.parquet",
    )
    assert open_corpus(tmp_path).episodes[0].columns["v"].tolist() == [[0.0], [10.0], [20.0], [30.0]]


def test_deeper_lists_are_laid_out_flat_as_in_lerobots_tables(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    film(tmp_path / "x.mp4", 4)
    table = {"episode": ["x.mp4"] * 4, "frame": list(range(4)), "m": [[[f, 1.0], [2.0, 3.0]] for f in range(4)]}
    pq.write_table(pa.table(table), tmp_path / "actions.parquet")
    assert open_corpus(tmp_path).episodes[0].columns["m"].tolist() == [[f, 1, 2, 3] for f in range(4)]


class Named:
    def __init__(self, name):
        self.id = name
        self.times, self.columns = np.arange(2.0), {}

    def read(self, frames):
        return torch.zeros(len(frames), 3, 2, 2, dtype=torch.uint8)

    def fingerprint(self):
        return self.id


def ids(episodes):
    return {e.id for e in episodes}


def test_split_is_stable_and_about_right():
    many = [Named(f"{i}.mp4") for i in range(400)]
    train, held = split_episodes(many, 0.1)
    assert 20 < len(held) < 60
    assert ids(train) | ids(held) == ids(many)
    assert not ids(train) & ids(held)
    assert ids(split_episodes(many[::-1], 0.1)[1]) == ids(held)
    assert ids(split_episodes(many[:200], 0.1)[1]) == ids(held) & ids(many[:200])
    assert ids(split_episodes(many, 0.1, seed=1)[1]) != ids(held)


@pytest.mark.parametrize(("count", "share"), [(5, 0.15), (10, 0.06), (20, 0.017), (40, 0.002)])
def test_one_more_episode_moves_another_as_seldom_as_is_said(count, share):
    moved = 0
    for seed in range(300):
        before, after = (split_episodes([Named(str(i)) for i in range(n)], 0.1, seed)[1] for n in (count, count + 1))
        lost = ids(before) - ids(after)
        assert len(lost) <= 1
        assert not lost or len(before) == 1
        moved += len(lost)
    assert moved / 300 == pytest.approx(share, abs=4 * (share / 300) ** 0.5)


@pytest.mark.parametrize("held_out", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_neither_side_is_empty_from_two_episodes_on(count, held_out):
    for seed in range(20):
        train, held = split_episodes([Named(str(i)) for i in range(count)], held_out, seed)
        assert train
        assert held


def test_split_of_one_of_none_and_of_nonsense():
    assert [len(side) for side in split_episodes([Named("a")], 0.9)] == [1, 0]
    assert [len(side) for side in split_episodes([Named("a"), Named("b")], 0)] == [2, 0]
    for bad in (-0.1, 1, float("nan")):
        with pytest.raises(DilaError, match="held_out"):
            split_episodes([Named("a")], bad)


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([2, 1, 0], "from 2 to 0 s, which decrease or are not numbers"),
        ([0, np.nan, np.nan], "to nan s, which decrease or are not numbers"),
        ([0, 1, 3e6], "more than 30 days"),
    ],
)
def test_times_that_cannot_be_are_told_as_what_they_are(tmp_path, monkeypatch, times, told):
    film(tmp_path / "a.mp4", 3)
    episode = replace(open_corpus(tmp_path).episodes[0])
    object.__setattr__(episode, "info", replace(episode.info, times=np.array(times, dtype=float)))
    monkeypatch.setattr(video, "episodes", lambda path, name, fps: iter([episode]))
    with pytest.raises(DilaError, match=told):
        open_corpus(tmp_path / "a.mp4")


def test_an_empty_path_is_not_the_folder_one_is_in(tmp_path, monkeypatch):
    film(tmp_path / "a.mp4")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DilaError, match="the path is empty"):
        open_corpus("")
    assert len(open_corpus(".")) == 1


def test_media_of_unread_types_are_listed_and_text_is_not(tmp_path, caplog):
    for name in ("a.mp4", "b.mp4", "c.mp4", "d.gif"):
        film(tmp_path / "x" / name)
    shutil.move(tmp_path / "x" / "b.mp4", tmp_path / "x" / "b.dat")
    shutil.move(tmp_path / "x" / "c.mp4", tmp_path / "x" / "c")
    shutil.move(tmp_path / "x" / "d.gif", tmp_path / "x" / "d.part")
    (tmp_path / "x" / "e.ogv").write_bytes(b"OggS")
    (tmp_path / "x" / "code.ts").write_text("export const answer: number = 42;")
    (tmp_path / "x" / "notes.md").write_text("BMX, FLV, GIF, Gg" * 30)
    (tmp_path / "x" / "empty").write_bytes(b"")
    (tmp_path / "scans").mkdir()
    for f in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "scans" / f"{f}.xyz", format="PNG")
    Image.new("RGB", (8, 8)).save(tmp_path / "x" / "cover", format="JPEG")
    os.mkfifo(tmp_path / "x" / "pipe")
    corpus = open_corpus(tmp_path)
    assert [e.id for e in corpus.episodes] == ["x/a.mp4"]
    told = {s.path.as_posix(): s for s in corpus.skipped}
    assert told.keys() == {"scans", "x/b.dat", "x/c", "x/d.part", "x/e.ogv"}
    assert "3 pictures, such as 0.xyz" in told["scans"].reason
    assert "looks like a video" in told["x/c"].reason
    assert not any(s.fault for s in corpus.skipped)
    assert "5 files or folders are not read, the first because" in caplog.text
    assert [len(w.items) for w in check(tmp_path).warnings if w.kind == "left_out"] == [5]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypisom", "video"),
        (b"\0\0\0\x18ftypM4A ", None),
        (b"\0\0\0\x18ftypheic", "picture"),
        (b"RIFF0000AVI LIST", "video"),
        (b"RIFF0000WAVEfmt ", None),
        (b"RIFF0000WEBPVP8 ", "picture"),
        (b"BM6\0\0\0\0\0\0\0", "picture"),
        (b"BMW and others", None),
        (b"G" + bytes(187) + b"G", "video"),
        (bytes(4) + b"G" + bytes(191) + b"G", "video"),
        (b"\x89HDF\r\n\x1a\n", None),
        (b"", None),
    ],
)
def test_the_first_bytes_tell_media(head, kind):
    assert judge(head) == kind
