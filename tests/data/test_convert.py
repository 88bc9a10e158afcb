import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dila.cli.main import main
from dila.data import convert as module
from dila.data import open_corpus, read_table, write_table, write_video
from dila.data.convert import convert
from dila.data.lerobot_write import CAMERA
from dila.data.video import probe_video
from dila.errors import DilaError

spec = importlib.util.spec_from_file_location("lerobot_reader", Path(__file__).parent / "lerobot_reader.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)


def clip(shade, length=6, size=(16, 24)):
    return (shade + 3 * torch.arange(length)).to(torch.uint8)[:, None, None, None].expand(length, 3, *size).contiguous()


@pytest.fixture
def corpus(tmp_path):
    """Three good episodes with actions, one of another rate, one of another size, one that is no video."""
    root = tmp_path / "corpus"
    (root / "sub").mkdir(parents=True)
    columns = {}
    for i, name in enumerate(["a.mp4", "sub/b.mp4", "ü c.mp4"]):
        write_video(root / name, clip(40 * i, 6 + i), 10)
        columns[name] = {"action": np.full((6 + i, 2), i, np.float32), "state": np.full((6 + i, 1), i, np.float32)}
    write_video(root / "fast.mp4", clip(90), 25)
    write_video(root / "large.mp4", clip(90, size=(32, 48)), 10)
    (root / "broken.mp4").write_bytes(b"no video")
    for name in ("fast.mp4", "large.mp4"):
        columns[name] = {"action": np.zeros((6, 2), np.float32), "state": np.zeros((6, 1), np.float32)}
    write_table(root / "actions.parquet", columns, {"action": ("x", "y")})
    return root


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_fits_is_written_and_what_does_not_is_told(corpus, tmp_path):
    done = convert(corpus, tmp_path / "out", task="wipe", progress=False)
    assert done.episodes == 3
    reasons = {str(s.path): s.reason for s in done.skipped}
    assert "from a folder of its own" in reasons["fast.mp4"]
    assert "has 25 frames a second, but most episodes have 10" in reasons["fast.mp4"]
    assert reasons["fast.mp4"].endswith("10 would play it 0.4 times as fast")
    assert "frames of 48 x 32, but the first episode has 24 x 16; set --size" in reasons["large.mp4"]
    assert "not a readable video" in reasons["broken.mp4"]
    data = reader.read(tmp_path / "out")
    assert [row["source"] for row in data.rows] == ["a.mp4", "sub/b.mp4", "ü c.mp4"]
    assert data.info["features"]["action"]["names"] == ["x", "y"]
    assert data.tasks["task"].to_pylist() == ["wipe"]
    for i, episode in enumerate(data.episodes):
        assert set(episode.columns["action"].ravel()) == {i}
        assert episode.columns["observation.state"].tolist() == [i] * (6 + i)
        shade = episode.frames[CAMERA].mean((1, 2, 3))
        np.testing.assert_allclose(shade, 40 * i + 3 * np.arange(6 + i), atol=2)
    assert not (tmp_path / "out" / ".recording").exists()


def test_what_is_converted_opens_again(corpus, tmp_path):
    """Writer and reader of the package agree on the format, frames and actions side by side."""
    convert(corpus, tmp_path / "out", progress=False)
    again, before = open_corpus(tmp_path / "out"), open_corpus(corpus)
    assert again.names["action"] == ("x", "y")
    kept = [e for e in before.episodes if e.id not in ("fast.mp4", "large.mp4")]
    for one, other in zip(again.episodes, kept, strict=True):
        np.testing.assert_allclose(one.times, other.times, atol=1e-6)
        np.testing.assert_array_equal(one.columns["action"], other.columns["action"])
        np.testing.assert_array_equal(one.columns["state"], other.columns["state"])
        mine, theirs = (e.read(range(len(other.times))).float() for e in (one, other))
        assert (mine - theirs).abs().max() <= 3  # encoded twice


def test_a_size_takes_all_sizes_and_chunks_change_nothing(corpus, tmp_path, monkeypatch):
    whole = convert(corpus, tmp_path / "a", size=20, progress=False)
    assert whole.episodes == 4
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    convert(corpus, tmp_path / "b", size=20, progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert reader.read(tmp_path / "a").episodes[0].frames[CAMERA].shape[1:] == (20, 20, 3)


def test_a_rate_given_holds_for_all_and_what_it_does_to_their_speed_is_told(corpus, tmp_path, capsys):
    line = ["data", "convert", str(corpus), str(tmp_path / "out"), "--fps", "30", "--size"]
    assert main([*line, "16"]) == 0
    assert reader.read(tmp_path / "out").info["fps"] == 30
    told = capsys.readouterr().out
    assert "5 episodes, 1 skipped" in told
    assert "--fps 30 plays 4 of them 3 times as fast as the rate stated in their files, 10" in told
    assert "--fps 30 plays 1 of them 1.2 times as fast as the rate stated in their files, 25" in told
    assert main([*line, "33"]) == 2
    assert "size = 33 even" in capsys.readouterr().err


def test_what_another_process_converts_is_left_to_it(corpus, held, tmp_path):
    with held(tmp_path / "out"), pytest.raises(DilaError, match=r"another process works on .*out; wait for it"):
        convert(corpus, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_interrupted_it_goes_on(corpus, tmp_path, monkeypatch):
    convert(corpus, tmp_path / "whole", progress=False)
    real, made = module.stage_episode, []

    def dying(staging, name, cameras, columns, fps, about):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(about.source)
        real(staging, name, cameras, columns, fps, about)

    monkeypatch.setattr(module, "stage_episode", dying)
    with pytest.raises(KeyboardInterrupt):
        convert(corpus, tmp_path / "out", progress=False)
    monkeypatch.undo()

    def watching(staging, name, cameras, columns, fps, about):
        made.append(about.source)
        real(staging, name, cameras, columns, fps, about)

    monkeypatch.setattr(module, "stage_episode", watching)
    convert(corpus, tmp_path / "out", progress=False)
    assert made.count("a.mp4") == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("what", ["frames", "columns"])
def test_what_changed_since_it_was_converted_is_told(what, corpus, tmp_path):
    convert(corpus, tmp_path / "out", progress=False)
    whole = contents(tmp_path / "out")
    change(what, corpus)
    with pytest.raises(DilaError, match=r"out has a\.mp4, but its frames or columns have changed in the source"):
        convert(corpus, tmp_path / "out", progress=False)
    shutil.rmtree(tmp_path / "out" / ".recording")
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("what", ["frames", "columns"])
def test_what_changed_while_it_was_interrupted_is_converted_anew(what, corpus, tmp_path, monkeypatch):
    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "publish", dying)
    with pytest.raises(KeyboardInterrupt):
        convert(corpus, tmp_path / "out", progress=False)
    monkeypatch.undo()
    change(what, corpus)
    convert(corpus, tmp_path / "out", progress=False)
    convert(corpus, tmp_path / "whole", progress=False)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def change(what, corpus):
    if what == "frames":
        write_video(corpus / "a.mp4", clip(200), 10)
        return
    lengths = {e.id: len(e.times) for e in open_corpus(corpus).episodes}
    columns, names = read_table(corpus / "actions.parquet", lengths)
    columns["a.mp4"]["action"] = columns["a.mp4"]["action"] + 1
    write_table(corpus / "actions.parquet", columns, names)


def test_data_sets_of_before_fingerprints_go_on(corpus, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "_fingerprint", lambda *_: None)
        convert(corpus, tmp_path / "out", progress=False)
    write_video(corpus / "a.mp4", clip(200), 10)
    assert convert(corpus, tmp_path / "out", progress=False).episodes == 3


@pytest.mark.parametrize("damage", ["empty", "other"])
def test_a_damaged_table_of_episodes_is_told_of(damage, corpus, tmp_path):
    out = convert(corpus, tmp_path / "out", progress=False).out
    path = out / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    if damage == "empty":
        path.write_bytes(b"")
    else:
        pq.write_table(pa.table({"episode_index": [0], "length": [1]}), path)
    with pytest.raises(DilaError, match=r"file-000\.parquet (cannot be read|has no column source).*; restore it"):
        convert(corpus, tmp_path / "out", progress=False)


def test_what_a_worker_is_sent_does_not_grow_with_the_corpus(corpus, tmp_path, monkeypatch):
    sent = []

    def noting(job, items, *_):
        sent.append(len(pickle.dumps(job)))
        return map(job, items)

    monkeypatch.setattr(module, "run_jobs", noting)
    convert(corpus, tmp_path / "one", progress=False)
    for number in range(20):
        shutil.copy(corpus / "a.mp4", corpus / f"a{number:02d}.mp4")
    convert(corpus, tmp_path / "other", progress=False)
    assert abs(sent[0] - sent[1]) < 20  # the names of the two folders


def test_another_task_is_refused(corpus, tmp_path):
    convert(corpus, tmp_path / "out", task="wipe", progress=False)
    with pytest.raises(DilaError, match=r"has a recording with task = 'wipe' \(now 'fold'\)"):
        convert(corpus, tmp_path / "out", task="fold", progress=False)


def test_a_corpus_that_grew_adds_what_is_new(corpus, tmp_path):
    later = tmp_path / "later.mp4"
    (corpus / "large.mp4").unlink()
    shutil.move(corpus / "a.mp4", later)
    convert(corpus, tmp_path / "out", progress=False)
    shutil.move(later, corpus / "a.mp4")
    assert convert(corpus, tmp_path / "out", progress=False).episodes == 3
    assert [r["source"] for r in reader.read(tmp_path / "out").rows] == ["sub/b.mp4", "ü c.mp4", "a.mp4"]


def test_columns_that_some_lack_are_left_out_and_told(tmp_path):
    root = tmp_path / "c"
    for name in ("a.mp4", "b.mp4"):
        write_video(root / name, clip(9), 10)
    write_table(root / "actions.parquet", {"a.mp4": {"action": np.zeros((6, 2), np.float32)}}, {})
    done = convert(root, tmp_path / "out", progress=False)
    assert (done.episodes, done.dropped) == (2, ("action",))


def test_uneven_times_are_not_made_even(tmp_path):
    import av

    path = tmp_path / "c" / "uneven.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for i, tick in enumerate([0, 1, 9, 10, 30]):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 10 * i, np.uint8), format="rgb24")
            frame.pts = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DilaError, match="even frame rate; set --fps"):
        convert(tmp_path / "c", tmp_path / "out", progress=False)


def test_one_frame_is_told_as_that(corpus, tmp_path):
    write_video(corpus / "short.mp4", clip(9, 1), 10)
    reasons = {str(s.path): s.reason for s in convert(corpus, tmp_path / "out", progress=False).skipped}
    assert "fewer than two frames; an episode needs at least two" in reasons["short.mp4"]
    with pytest.raises(DilaError, match=r"has only episodes of a single frame"):
        convert(corpus / "short.mp4", tmp_path / "alone", fps=10, progress=False)


def test_a_result_in_the_corpus_or_among_other_files_is_refused(corpus, tmp_path):
    with pytest.raises(DilaError, match="sub/out lies inside the corpus"):
        convert(corpus, corpus / "sub" / "out", progress=False)
    (tmp_path / "other").mkdir()
    write_video(tmp_path / "other" / "mine.mp4", clip(9), 10)
    with pytest.raises(DilaError, match="other has files that were not written by dila"):
        convert(corpus, tmp_path / "other", progress=False)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.mp4"]


@pytest.mark.parametrize("lengths", [(2, 3), (2, 2, 9, 2), (9, 2)])
def test_clips_too_short_for_b_frames_join_those_that_have_them(lengths, tmp_path):
    for i, length in enumerate(lengths):
        frames = torch.full((length, 3, 64, 64), 20, dtype=torch.uint8)
        for f in range(length):
            frames[f, :, 8 : 8 + 12 * i + 8, 4 * f : 4 * f + 12] = 250
        write_video(tmp_path / "corpus" / f"{i}.mp4", frames, 10)
    convert(tmp_path / "corpus", tmp_path / "out", progress=False)
    joined = probe_video(tmp_path / "out" / "videos" / CAMERA / "chunk-000" / "file-000.mp4")
    np.testing.assert_allclose(joined.times, np.arange(sum(lengths)) / 10, atol=1e-9)
    for one, other in zip(
        open_corpus(tmp_path / "out").episodes, open_corpus(tmp_path / "corpus").episodes, strict=True
    ):
        mine, theirs = (e.read(range(len(other.times))).float() for e in (one, other))
        assert (mine - theirs).abs().mean() < 2  # of the next frame it is more than 5


def test_what_does_not_move_can_be_left_out(tmp_path, capsys):
    ground = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    still, hand = ground.repeat(24, 1, 1, 1), ground.repeat(24, 1, 1, 1)
    for f in range(24):
        hand[f, :, 10:30, 2 * f : 2 * f + 16] = 255
    write_video(tmp_path / "ssv2" / "1.mp4", still, 12)
    write_video(tmp_path / "ssv2" / "2.mp4", hand, 12)
    assert main(["data", "convert", str(tmp_path / "ssv2"), str(tmp_path / "out"), "--moving"]) == 0
    told = capsys.readouterr().out
    assert "1 episodes, 1 skipped" in told
    assert "skipped 1.mp4: is static" in told
    assert [row["source"] for row in reader.read(tmp_path / "out").rows] == ["2.mp4"]


def test_the_command_counts_and_lists(corpus, tmp_path, capsys):
    assert main(["data", "convert", str(corpus), str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "3 episodes, 3 skipped" in told
    assert "skipped fast.mp4: has 25 frames a second" in told
    assert main(["data", "convert", str(corpus), str(tmp_path / "out"), "--size", "64"]) == 2
    assert "size = [16, 24] (now [64, 64])" in capsys.readouterr().err
    assert main(["data", "convert", str(corpus), str(corpus)]) == 2


def test_all_that_is_left_out_is_in_a_file(corpus, tmp_path, capsys):
    for number in range(30):
        write_video(corpus / f"odd_{number}.mp4", clip(9, 4), 7)
    for number in range(40):
        write_video(corpus / f"even_{number}.mp4", clip(9, 4), 10)
    out = tmp_path / "out"
    assert main(["data", "convert", str(corpus), str(out)]) == 0
    told = capsys.readouterr().out
    assert "43 episodes, 33 skipped" in told
    assert "32 of 75 readable episodes left out" in told
    assert f"and 13 more; all are in {out / 'meta' / 'skipped.json'}" in told
    listed = json.loads((out / "meta" / "skipped.json").read_text())
    assert len(listed) == 33
    assert "7 frames a second" in listed["odd_29.mp4"]
    for path in [*corpus.glob("odd_*"), *(corpus / name for name in listed if not name.startswith("odd"))]:
        path.unlink()
    assert main(["data", "convert", str(corpus), str(out)]) == 0
    assert not (out / "meta" / "skipped.json").exists()
