import io
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dila.cli.main import main
from dila.data import lerobot_tables
from dila.data.check import check
from dila.data.clips import Clips, collate_clips, row_shapes
from dila.data.convert import convert
from dila.data.corpus import open_corpus, split_episodes
from dila.data.video import write_video
from dila.errors import DilaError

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LENGTHS = [7, 5, 9, 6]
STARTS = np.cumsum([0, *LENGTHS]).tolist()
FPS = 10


def feature(dtype, shape, names=None):
    return {"dtype": dtype, "shape": shape, "names": names}


def write_info(root, version, **more):
    numeric = {
        "action": feature("float32", [2], {"motors": ["left", "right"]}),
        "observation.state": feature("float32", [1], ["place"]),
        "observation.matrix": feature("float64", [2, 2]),
        "next.done": feature("bool", [1]),
        "task_index": feature("int64", [1]),
        "timestamp": feature("float32", [1]),
        "frame_index": feature("int64", [1]),
        "episode_index": feature("int64", [1]),
        "index": feature("int64", [1]),
        "instruction": feature("string", [1]),
    }
    cameras = {key: feature("video", [32, 32, 3], ["height", "width", "channel"]) for key in (FRONT, WRIST)}
    depth = {"observation.images.depth": {**feature("video", [32, 32, 1]), "info": {"video.is_depth_map": True}}}
    paths = {
        "v3.0": ("data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
                 "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"),
        "v2.1": ("data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
                 "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"),
    }[version]  # fmt: skip
    info = {"codebase_version": version, "robot_type": None, "total_episodes": len(LENGTHS), "fps": FPS,
            "chunks_size": 2 if version == "v2.1" else 1000, "splits": {"train": f"0:{len(LENGTHS)}"},
            "data_path": paths[0], "video_path": paths[1], "features": {**numeric, **cameras, **depth}}  # fmt: skip
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps({**info, **more}))


def table(episodes):
    """Rows of these episodes: everything says which frame it belongs to."""
    where = [(e, f, STARTS[e] + f) for e in episodes for f in range(LENGTHS[e])]
    return pa.table({
        "action": pa.array([[float(g), -float(g)] for _, _, g in where], pa.list_(pa.float32(), 2)),
        "observation.state": pa.array([float(g) for _, _, g in where], pa.float32()),
        "observation.matrix": pa.array([[[g, 1.0], [2.0, 3.0]] for _, _, g in where], pa.list_(pa.list_(pa.float64()))),
        "next.done": [f == LENGTHS[e] - 1 for e, f, _ in where],
        "task_index": [0 for _ in where],
        "timestamp": pa.array([f / FPS for _, f, _ in where], pa.float32()),
        "frame_index": [f for _, f, _ in where],
        "episode_index": [e for e, _, _ in where],
        "index": [g for _, _, g in where],
        "instruction": ["push" for _ in where],
    })  # fmt: skip


def save(content, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)


@pytest.fixture
def v3(tmp_path, shades):
    """Four episodes: two files of data; of one camera two files in two chunks, of the other everything in one file."""
    root = tmp_path / "v3"
    write_info(root, "v3.0")
    places = {FRONT: [(0, 0), (0, 0), (0, 0), (1, 0)], WRIST: [(0, 0)] * 4}
    data = [(0, 0), (0, 0), (0, 1), (0, 1)]
    for camera, files in places.items():
        for chunk, file in sorted(set(files)):
            inside = [e for e in range(4) if files[e] == (chunk, file)]
            frames = torch.cat([shades(LENGTHS[e], STARTS[e]) for e in inside])
            write_video(root / f"videos/{camera}/chunk-{chunk:03d}/file-{file:03d}.mp4", frames, FPS)
    for chunk, file in sorted(set(data)):
        content = table([e for e in range(4) if data[e] == (chunk, file)])
        save(content, root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet")
    rows = []
    for e in range(4):
        row = {"episode_index": e, "tasks": ["push"], "length": LENGTHS[e], "data/chunk_index": data[e][0],
               "data/file_index": data[e][1], "dataset_from_index": STARTS[e], "dataset_to_index": STARTS[e + 1],
               "stats/action/min": [0.0, 0.0]}  # fmt: skip
        for camera, files in places.items():
            before = sum(LENGTHS[i] for i in range(e) if files[i] == files[e])
            row |= {f"videos/{camera}/chunk_index": files[e][0], f"videos/{camera}/file_index": files[e][1],
                    f"videos/{camera}/from_timestamp": before / FPS,
                    f"videos/{camera}/to_timestamp": (before + LENGTHS[e]) / FPS}  # fmt: skip
        rows.append(row)
    save(pa.Table.from_pylist(rows[:3]), root / "meta/episodes/chunk-000/file-000.parquet")
    save(pa.Table.from_pylist(rows[3:]), root / "meta/episodes/chunk-000/file-001.parquet")
    return root


@pytest.fixture
def v21(tmp_path, shades):
    """Four episodes in chunks of two: one parquet and one mp4 a camera each."""
    root = tmp_path / "v21"
    write_info(root, "v2.1")
    lines = [{"episode_index": e, "tasks": ["push"], "length": LENGTHS[e]} for e in range(4)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "push"}) + "\n")
    for e in range(4):
        save(table([e]), root / f"data/chunk-{e // 2:03d}/episode_{e:06d}.parquet")
        for camera in (FRONT, WRIST):
            write_video(
                root / f"videos/chunk-{e // 2:03d}/{camera}/episode_{e:06d}.mp4", shades(LENGTHS[e], STARTS[e]), FPS
            )
    return root


@pytest.fixture(params=["v3", "v21"])
def either(request):
    return request.getfixturevalue(request.param)


def test_every_camera_of_every_episode_is_one_and_aligned(either, check_alignment, numbers):
    corpus = open_corpus(either)
    assert [e.id for e in corpus.episodes] == [f"episode_{e:06d}/{c}" for e in range(4) for c in (FRONT, WRIST)]
    assert corpus.root == either
    assert corpus.skipped == ()
    assert corpus.names == {"action": ("left", "right"), "state": ("place",)}
    assert corpus.splits == {"train": tuple(e.id for e in corpus.episodes)}
    for place, episode in enumerate(corpus.episodes):
        start, length = STARTS[place // 2], LENGTHS[place // 2]
        assert numbers(episode.read(range(length))) == list(range(start, start + length))
        assert numbers(episode.read([length - 1, 0, 2, 2])) == [start + length - 1, start, start + 2, start + 2]
        np.testing.assert_allclose(episode.times, np.arange(length) / FPS)
        assert set(episode.columns) == {"action", "state", "observation.matrix", "next.done", "task_index"}
        assert episode.columns["observation.matrix"][:, 0].tolist() == list(range(start, start + length))
        assert episode.columns["action"].dtype == np.float32
        assert episode.columns["next.done"][:, 0].tolist() == [False] * (length - 1) + [True]

    def at(place, frame):
        return STARTS[place // 2] + frame

    count = check_alignment(corpus.episodes, lambda p, f: [at(p, f), -at(p, f)], lambda p, f: [at(p, f)])
    assert count == 2 * sum(length - 3 for length in LENGTHS)


def test_what_columns_are_is_known_before_any_is_read(either, monkeypatch):
    corpus = open_corpus(either)
    monkeypatch.setattr(lerobot_tables, "_around", None)
    widths = {"action": 2, "state": 1, "observation.matrix": 4, "next.done": 1, "task_index": 1}
    assert row_shapes(corpus.episodes[0]) == {name: (width,) for name, width in widths.items()}
    assert all("action" in e.columns and "observation.state" not in e.columns for e in corpus.episodes)


def test_a_feature_gives_its_name_to_no_other(v21):
    info = json.loads((v21 / "meta/info.json").read_text())
    write_info(v21, "v2.1", features={**info["features"], "state": feature("float32", [3])})
    for e in range(4):
        added = pa.array([[7.0, 8.0, 9.0]] * LENGTHS[e], pa.list_(pa.float32()))
        save(table([e]).append_column("state", added), v21 / f"data/chunk-{e // 2:03d}/episode_{e:06d}.parquet")
    out = v21.parent / "out"
    convert(v21, out, progress=False)
    for root in (v21, out):
        columns = open_corpus(root).episodes[0].columns
        assert columns["state"][0].tolist() == [7, 8, 9]
        assert columns["observation.state"][:, 0].tolist() == list(range(LENGTHS[0]))


def test_one_camera_can_be_chosen_and_ids_stay(either):
    corpus = open_corpus(either, camera=WRIST)
    assert [e.id for e in corpus.episodes] == [f"episode_{e:06d}/{WRIST}" for e in range(4)]
    assert corpus.splits["train"] == tuple(e.id for e in corpus.episodes)
    with pytest.raises(DilaError, match=r"no camera 'top'; its cameras are observation\.images\.front, observation"):
        open_corpus(either, camera="top")
    above = open_corpus(either.parent)
    assert {e.id for e in above.episodes} >= {f"{either.name}/episode_000002/{FRONT}"}


def test_one_camera_is_checked_and_shown(either, tmp_path, capsys):
    camera = open_corpus(either).episodes[0].camera
    alone, all_of_it = check(either, camera=camera), check(either)
    assert (list(alone.cameras), len(all_of_it.cameras)) == ([camera], 2)
    assert alone.episodes < all_of_it.episodes
    sheet = tmp_path / "sheet.png"
    main(["data", "show", str(either), "--camera", camera, "--out", str(sheet)])
    assert sheet.is_file()
    assert camera in (told := capsys.readouterr().out)
    assert not any(other in told for other in all_of_it.cameras if other != camera)
    assert main(["data", "check", str(either), "--camera", "nose"]) == 2
    assert "has no camera 'nose'" in capsys.readouterr().err


def test_time_stamps_and_tables_that_do_not_fit_are_told_by_the_check(v21, monkeypatch):
    corpus = open_corpus(v21)  # beforehand, for beartype looks into the columns of whatever has some
    for opened in ("check.find_corpus", "convert.open_corpus"):
        monkeypatch.setattr(f"dila.data.{opened}", lambda *_: corpus)
    back, late = [0, 0.1, 0.2, 0.1, 0.4, 0.5, 0.6], [0.1 * f + 3 * (f > 4) for f in range(9)]
    for e, stamps in ((0, back), (2, late)):
        place = table([e]).column_names.index("timestamp")
        content = table([e]).set_column(place, "timestamp", pa.array(stamps, pa.float32()))
        save(content, v21 / f"data/chunk-{e // 2:03d}/episode_{e:06d}.parquet")
    save(table([1]).take([1, 0, 2, 3, 4]), v21 / "data/chunk-000/episode_000001.parquet")
    report = check(v21)
    told = {finding.kind: finding.items for finding in (*report.errors, *report.warnings)}
    assert told["times"] == tuple(f"episode_000000/{c}" for c in (FRONT, WRIST))
    assert [item.split(": ")[0] for item in told["unreadable"]] == [f"episode_000001/{c}" for c in (FRONT, WRIST)]
    assert all("one row for each frame, numbered 0 to 4" in item for item in told["unreadable"])
    assert {f"episode_000002/{c}" for c in (FRONT, WRIST)} <= set(told["gaps"])
    assert report.columns["action"]["episodes"] == 6
    done = convert(v21, v21.parent / "out", progress=False)
    assert (done.episodes, [str(s.path) for s in done.skipped]) == (3, ["episode_000001"])


def test_cameras_of_one_recording_are_never_on_both_sides_of_a_split(v21):
    corpus = open_corpus(v21)
    for seed in range(8):
        train, held = split_episodes(corpus, 0.5, seed)
        assert len(train) + len(held) == 8
        assert {e.recording for e in train} & {e.recording for e in held} == set()


def test_episodes_travel_to_workers(v3):
    corpus = open_corpus(v3)
    for episode in corpus.episodes:
        again = pickle.loads(pickle.dumps(episode))
        assert again.fingerprint() == episode.fingerprint()
        assert torch.equal(again.read([0, 3]), episode.read([0, 3]))
        np.testing.assert_array_equal(again.columns["action"], episode.columns["action"])
    assert len({e.fingerprint() for e in corpus.episodes}) == 8
    loader = DataLoader(Clips(corpus.episodes, frames=3), batch_size=4, num_workers=1, collate_fn=collate_clips,
                        multiprocessing_context="fork")  # fmt: skip
    assert next(iter(loader)).columns["action"].shape == (4, 2, 1, 2)


def test_opening_decodes_nothing_and_reads_no_table(v3):
    code = (
        "import sys; from dila.data import lerobot, open_corpus; lerobot.columns = lerobot.read_span = exit; "
        "print(len(open_corpus(sys.argv[1])), 'av' in sys.modules)"
    )  # in a process of its own: the checks of types that tests run with look into mappings
    done = subprocess.run([sys.executable, "-c", code, str(v3)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["8", "False"]


def test_images_in_the_table_are_read(tmp_path, shades, check_alignment):
    """The layout without videos: encoded pictures in a column, here in row groups that cut through episodes."""
    root = tmp_path / "images"
    write_info(root, "v2.1", video_path=None, total_videos=0)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] = {k: v for k, v in info["features"].items() if v["dtype"] != "video"}
    info["features"]["observation.image"] = feature("image", [32, 32, 3])
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/episodes.jsonl").write_text(
        "\n".join(json.dumps({"episode_index": e, "length": LENGTHS[e]}) for e in range(4))
    )

    def png(picture):
        out = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(out, "PNG")
        return out.getvalue()

    for e in range(4):
        cells = [{"bytes": png(p), "path": f"frame_{f}.png"} for f, p in enumerate(shades(LENGTHS[e], STARTS[e]))]
        path = root / f"data/chunk-{e // 2:03d}/episode_{e:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table([e]).append_column("observation.image", pa.array(cells)), path, row_group_size=3)
    corpus = open_corpus(root)
    assert [e.id for e in corpus.episodes] == [f"episode_{e:06d}/observation.image" for e in range(4)]
    check_alignment(corpus.episodes, lambda p, f: [STARTS[p] + f, -STARTS[p] - f], lambda p, f: [STARTS[p] + f])


def test_of_a_file_of_many_episodes_the_row_groups_of_one_are_read(v3, monkeypatch, check_alignment):
    """As LeRobot writes them, one an episode, or cut through episodes."""
    episodes = open_corpus(v3, camera=FRONT).episodes
    asked = []
    real = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda self, g, **k: asked.append(g) or real(self, g, **k))
    paths = [v3 / "data/chunk-000/file-000.parquet", v3 / "data/chunk-000/file-001.parquet"]
    for path, inside in zip(paths, ([0, 1], [2, 3]), strict=True):
        with pq.ParquetWriter(path, table(inside).schema) as file:
            for e in inside:
                file.write_table(table([e]))
    assert [len(e.columns["action"]) for e in episodes] == LENGTHS
    assert asked == [[0], [1], [0], [1]]
    asked.clear()
    for path, inside in zip(paths, ([0, 1], [2, 3]), strict=True):
        pq.write_table(table(inside), path, row_group_size=4)
    check_alignment(episodes, lambda p, f: [STARTS[p] + f, -STARTS[p] - f], lambda p, f: [STARTS[p] + f])
    assert [episode.stamps().tolist()[-1] for episode in episodes] == pytest.approx([(n - 1) / FPS for n in LENGTHS])
    assert asked == [[0, 1], [1, 2], [0, 1, 2], [2, 3]]


def test_tables_of_many_episodes_stay_in_memory(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.parquet" for number in range(99)]
    for path in paths:
        save(table([1]), path)
    for _ in range(2):
        assert all(
            len(lerobot_tables.columns(path, 1, LENGTHS[1], {"action": "action"})["action"]) == LENGTHS[1]
            for path in paths
        )
        monkeypatch.setattr(lerobot_tables, "open_table", None)


def test_another_rate_changes_the_times_and_no_frame(v3, numbers):
    episode = open_corpus(v3, fps=5).episodes[2]
    np.testing.assert_allclose(episode.times, np.arange(5) / 5)
    assert numbers(episode.read([4])) == [STARTS[2] - 1]


def test_what_is_broken_is_left_out_and_named(v21):
    front = v21 / f"videos/chunk-000/{FRONT}"
    (front / "episode_000000.mp4").write_bytes((front / "episode_000000.mp4").read_bytes()[:-20])
    (front / "episode_000001.mp4").unlink()
    (v21 / f"videos/chunk-001/{FRONT}/episode_000002.mp4").write_bytes(b"")
    save(table([3]).drop_columns(["action"]), v21 / "data/chunk-001/episode_000003.parquet")
    corpus = open_corpus(v21)
    assert [e.id for e in corpus.episodes] == [f"episode_{e:06d}/{WRIST}" for e in range(3)]
    reasons = [s.reason for s in corpus.skipped]
    assert len(reasons) == 4
    for reason, words in zip(reasons, ["truncated", "cannot be read", "is empty", "no column 'action'"], strict=True):
        assert words in reason
        assert "episode_00000" in reason


def test_a_table_with_other_rows_than_frames_is_left_out(v21, v3):
    save(table([1]).slice(1), v21 / "data/chunk-000/episode_000001.parquet")
    corpus = open_corpus(v21)
    assert len(corpus) == 6
    assert "episode_000001.parquet has 4 rows for 5 frames" in corpus.skipped[0].reason
    shuffled = table([2, 3]).take([1, 0, *range(2, 15)])
    save(shuffled, v3 / "data/chunk-000/file-001.parquet")
    with pytest.raises(DilaError, match=r"file-001\.parquet has 9 rows for episode 2.* numbered 0 to 8"):
        lerobot_tables.columns(v3 / "data/chunk-000/file-001.parquet", 2, 9, {})


def test_files_that_vanish_or_shrink_later_are_named(v3, shades):
    episode = open_corpus(v3).episodes[6]
    video = v3 / f"videos/{FRONT}/chunk-001/file-000.mp4"
    write_video(video, shades(3, STARTS[3]), FPS)
    episode.read([2])
    with pytest.raises(DilaError, match=r"chunk-001/file-000\.mp4 has no frame at 0\.500 s"):
        episode.read([5])
    video.unlink()
    with pytest.raises(DilaError, match=r"file-000\.mp4 no longer exists"):
        episode.read([0])
    os.unlink(v3 / "data/chunk-000/file-001.parquet")
    with pytest.raises(DilaError, match=r"file-001\.parquet no longer exists"):
        episode.columns["action"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codebase_version": "v1.6"}, "codebase_version = 'v1.6'"),
        ({"fps": 0}, "'fps' above 0"),
        ({"features": {}}, "no feature of dtype video or image"),
        ({"data_path": "../../{episode_index}.parquet"}, "outside the data set"),
        ({"data_path": None}, "does not list the episodes"),
    ],
)
def test_bad_metadata_is_refused_in_a_sentence(v21, change, words):
    write_info(v21, "v2.1", **change)
    with pytest.raises(DilaError, match=words):
        open_corpus(v21)


def test_a_split_that_is_no_range_is_listed(v21):
    write_info(v21, "v2.1", splits={"train": "None", "val": "1:2"})
    corpus = open_corpus(v21)
    assert set(corpus.splits) == {"val"}
    assert corpus.splits["val"] == tuple(f"episode_000001/{c}" for c in (FRONT, WRIST))
    assert "'None' is not a range" in corpus.skipped[0].reason
