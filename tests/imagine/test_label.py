import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import dila.imagine.label as module
from dila.cli.main import main
from dila.data import write_table, write_video
from dila.errors import DilaError
from dila.imagine.label import hash_world, label
from dila.imagine.world import World
from dila.interop.actions import LatentToAction
from dila.vision import PatchesConfig, PatchPixels

LENGTHS = {"take0/0.mp4": 9, "take0/2.mp4": 40, "take0/4.mp4": 17, "take1/1.mp4": 23, "take1/3.mp4": 8}


@pytest.fixture
def world(model, encoder):
    return World(model, encoder, stride=0.1, frames=8)


def test_every_row_is_the_frame_and_action_it_says(world, videos, tmp_path):
    made = world.label(videos, tmp_path / "z.parquet", progress=False, part=2, batch=3)
    assert (made.videos, made.rows, made.actions, made.skipped) == (5, 97, 92, {})
    table = pq.read_table(made.path)
    assert table.column_names == ["file", "frame", "time", "next", "z", "valid"]
    assert str(table.schema.field("z").type) == "fixed_size_list<element: float>[6]"
    files = np.array(table["file"].to_pylist())
    assert list(dict.fromkeys(files)) == list(LENGTHS)
    for name, length in LENGTHS.items():
        rows = table.filter(files == name)
        assert rows["frame"].to_pylist() == list(range(length))
        np.testing.assert_allclose(rows["time"], np.arange(length) / 10)
        assert rows["next"].to_pylist() == [*range(1, length), None]
        assert rows["valid"].to_pylist() == [True] * (length - 1) + [False]
        assert rows["z"][length - 1].as_py() is None
        z = torch.tensor(rows["z"].to_pylist()[:-1])
        torch.testing.assert_close(z, world.infer(videos / name), rtol=1e-4, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["videos", "z.parquet"]


def test_a_path_from_home_is_spelt_out(world, videos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert world.label("~/videos", "~/z.parquet", progress=False).path == tmp_path / "z.parquet"
    assert world.infer("~/videos/take1/1.mp4").shape == world.infer(videos / "take1" / "1.mp4").shape
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_another_process_labels_is_left_to_it(world, videos, held, tmp_path):
    out = tmp_path / "z.parquet"
    with held(out), pytest.raises(DilaError, match=r"another process works on .*z.parquet; wait for it"):
        world.label(videos, out, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["videos"]


def test_the_file_says_what_made_it(world, videos, tmp_path):
    made = label(world, videos / "take0", tmp_path / "z.parquet", progress=False)
    about = json.loads(pq.read_schema(made.path).metadata[b"dila"])
    assert about["model"] == hash_world(world)
    assert (about["stride"], about["frames"], about["encoder"]) == (0.1, 8, {"name": "block-mean"})
    assert about["dila_version"]
    assert about["every_frame"] is False


def test_a_model_with_other_eyes_is_another(model):
    class Eyes(PatchPixels):
        def weights(self):
            return self.mine

    hashes = []
    for weights in ("", "a", "b", "b"):
        eyes = Eyes(PatchesConfig(size=32, patch=8))
        eyes.mine = weights
        hashes.append(hash_world(World(model, eyes, stride=0.1, frames=8)))
    assert len(set(hashes)) == 3
    assert hashes[2] == hashes[3]
    plain = World(model, PatchPixels(PatchesConfig(size=32, patch=8)), stride=0.1, frames=8)
    assert hash_world(plain) == hashes[0]


def test_one_video_is_a_corpus_of_one(world, videos, tmp_path):
    made = label(world, videos / "take1" / "1.mp4", tmp_path / "z.parquet", progress=False)
    assert (made.videos, made.rows, made.actions) == (1, 23, 22)
    assert set(pq.read_table(made.path)["file"].to_pylist()) == {"1.mp4"}


def test_the_stride_skips_raw_frames(model, encoder, videos, tmp_path):
    world = World(model, encoder, stride=0.3, frames=8)
    made = label(world, videos / "take0" / "0.mp4", tmp_path / "z.parquet", progress=False)
    assert pq.read_table(made.path)["frame"].to_pylist() == [0, 3, 6]


def test_every_frame_has_the_action_of_the_clip_that_goes_through_it(model, encoder, fake_episode, frames_of):
    world = World(model, encoder, stride=0.3, frames=8)
    frames, times = frames_of(100), np.arange(100) / 10
    table = module._Part(world, 8, True).table([fake_episode(frames, times)])
    assert table["frame"].to_pylist() == list(range(100))
    assert table["next"].to_pylist() == [*range(3, 100), None, None, None]
    assert table["valid"].to_pylist() == [True] * 97 + [False] * 3
    for first in range(3):
        one = module._Part(world, 8).table([fake_episode(frames[first::3], times[first::3])])
        np.testing.assert_allclose(table["time"][first::3], one["time"])
        mine, expected = (torch.tensor(z.to_pylist()[:-1]) for z in (table["z"][first::3], one["z"]))
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_each_frame_is_read_and_encoded_once_for_its_label(model, encoder, fake_episode, frames_of, monkeypatch):
    world, read = World(model, encoder, stride=0.3, frames=8), []
    episode = fake_episode(frames_of(100), np.arange(100) / 10)
    monkeypatch.setattr(type(episode), "read", lambda self, frames: read.extend(frames) or self.frames[frames])
    module._Part(world, 8, True).table([episode])
    assert read == list(range(100))


def test_the_command_labels_every_frame(world, videos, tmp_path, monkeypatch):
    monkeypatch.setattr("dila.cli.label.open_world", lambda *_, **__: World(world.model, world.encoder, None, 0.2, 8))
    one = ["label", "a model", str(videos / "take0" / "0.mp4"), "--out", str(tmp_path / "z.parquet")]
    assert main(one) == 0
    assert pq.read_table(tmp_path / "z.parquet")["frame"].to_pylist() == [0, 2, 4, 6, 8]
    assert main([*one, "--every-frame"]) == 0
    table = pq.read_table(tmp_path / "z.parquet")
    assert table["next"].to_pylist() == [2, 3, 4, 5, 6, 7, 8, None, None]
    assert json.loads(table.schema.metadata[b"dila"])["every_frame"] is True


def test_real_actions_stand_beside_the_latent_ones(world, videos, tmp_path):
    """In every part, of other lengths, also in one whose video is too short for any."""
    write_video(videos / "take0" / "3.mp4", torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 10)
    to_action = LatentToAction(torch.randn(6, 4), torch.randn(4))
    made = world.label(videos, tmp_path / "z.parquet", progress=False, part=1, to_action=to_action)
    table = pq.read_table(made.path)
    assert str(table.schema.field("action").type) == "fixed_size_list<element: float>[4]"
    assert [a is None for a in table["action"].to_pylist()] == [not valid for valid in table["valid"].to_pylist()]
    rows = table.filter(table["valid"])
    z, action = (torch.tensor(rows[name].to_pylist()) for name in ("z", "action"))
    assert len(action) == 92
    torch.testing.assert_close(action, to_action(z))
    world.label(videos, tmp_path / "z.parquet", progress=False)
    assert "action" not in pq.read_table(made.path).column_names


def test_an_interrupted_run_goes_on_and_gives_the_same(world, videos, tmp_path, monkeypatch):
    label(world, videos, tmp_path / "whole.parquet", progress=False, part=2)
    done = []

    def interrupted(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return original(*args)

    original = module._Part.table
    monkeypatch.setattr(module._Part, "table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        label(world, videos, tmp_path / "z.parquet", progress=False, part=2)
    assert not (tmp_path / "z.parquet").exists()
    done.clear()
    label(world, videos, tmp_path / "z.parquet", progress=False, part=2)
    assert len(done) == 1
    assert pq.read_table(tmp_path / "z.parquet").equals(pq.read_table(tmp_path / "whole.parquet"), check_metadata=True)


def test_long_videos_are_parts_of_their_own_and_parts_of_before_neither_double_nor_lose_rows(
    world, videos, tmp_path, monkeypatch
):
    def interrupted(*args):
        raise KeyboardInterrupt

    label(world, videos, tmp_path / "whole.parquet", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_assemble", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label(world, videos, tmp_path / "z.parquet", progress=False)
    assert len(list((tmp_path / ".z.parquet.parts").iterdir())) == 1
    monkeypatch.setattr("dila.imagine.cluster.FRAMES_PER_PART", 30)
    done, original = [], module._Part.table
    monkeypatch.setattr(module._Part, "table", lambda *args: done.append(1) or original(*args))
    label(world, videos, tmp_path / "z.parquet", progress=False)
    assert len(done) > 1
    cut, whole = (pq.read_table(tmp_path / name) for name in ("z.parquet", "whole.parquet"))
    assert cut.drop(["z"]).equals(whole.drop(["z"]))
    a, b = (torch.tensor([z for z in table["z"].to_pylist() if z]) for table in (cut, whole))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # other windows went through the model together


def test_frames_are_counted_as_they_pass(model, encoder, fake_episode, frames_of, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr("dila.imagine.windows.CHUNK", 16)
    world, passed = World(model, encoder, stride=0.3, frames=8), []
    module._Part(world, 8, False, passed.append).table([fake_episode(frames_of(101), np.arange(101) / 10)])
    assert (len(passed), sum(passed)) == (3, 101)


def test_parts_of_another_model_are_not_reused(world, videos, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_assemble", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label(world, videos, tmp_path / "z.parquet", progress=False)
    with torch.no_grad():
        next(world.model.idm.head.parameters()).add_(0.5)
    label(world, videos, tmp_path / "z.parquet", progress=False)
    label(world, videos, tmp_path / "fresh.parquet", progress=False)
    assert pq.read_table(tmp_path / "z.parquet").equals(pq.read_table(tmp_path / "fresh.parquet"))


def test_unreadable_videos_are_skipped_counted_and_listed(world, videos, tmp_path, frames_of, monkeypatch):
    whole = label(world, videos, tmp_path / "before.parquet", progress=False)
    (videos / "take0" / "broken.mp4").write_bytes(b"not a video")
    write_video(videos / "take1" / "slow.mp4", frames_of(6, size=32), 2)
    write_video(videos / "take1" / "lost.mp4", frames_of(50, size=32), 10)
    corpus = module.open_corpus(videos)
    lost = next(e for e in corpus.episodes if e.id == "take1/lost.mp4")

    read = type(lost).read

    def fails_late(self, frames):
        if self.id == lost.id and max(frames) >= 40:
            raise DilaError("does not decode at frame 40")
        return read(self, frames)

    monkeypatch.setattr(type(lost), "read", fails_late)
    made = label(world, videos, tmp_path / "z.parquet", progress=False)
    assert set(made.skipped) == {"take0/broken.mp4", "take1/slow.mp4", "take1/lost.mp4"}
    assert "higher frame rate" in made.skipped["take1/slow.mp4"]
    assert json.loads((tmp_path / "z.skipped.json").read_text()) == made.skipped
    assert (made.videos, made.rows) == (whole.videos, whole.rows)
    rows = pq.read_table(made.path).drop(["z"])
    assert rows.equals(pq.read_table(whole.path).drop(["z"]))
    for name in made.skipped:
        (videos / name).unlink()
    label(world, videos, tmp_path / "z.parquet", progress=False)
    assert not (tmp_path / "z.skipped.json").exists()


def test_videos_of_one_frame_have_a_row_without_action(world, tmp_path, frames_of):
    write_video(tmp_path / "in" / "a.mp4", frames_of(1, size=32), 10)
    write_video(tmp_path / "in" / "b.mp4", frames_of(4, size=32), 10)
    made = label(world, tmp_path / "in", tmp_path / "z.parquet", progress=False, part=1)
    table = pq.read_table(made.path)
    assert table["valid"].to_pylist() == [False, True, True, True, False]
    again = label(world, tmp_path / "in", tmp_path / "z.parquet", progress=False, part=1, every_frame=True)
    assert pq.read_table(again.path).equals(table)
    assert table["z"].null_count == 2
    (tmp_path / "in" / "b.mp4").unlink()
    with pytest.raises(DilaError, match=r"a\.mp4 and all other videos have fewer than two frames"):
        label(world, tmp_path / "in", tmp_path / "z.parquet", progress=False)


def test_a_gap_in_time_leaves_no_action_over_it(world, tmp_path, fake_episode, frames_of):
    times = np.concatenate([np.arange(5), np.arange(12, 20)]) / 10
    table = module._Part(world, 8).table([fake_episode(frames_of(13), times)])
    assert [i for i, valid in enumerate(table["valid"].to_pylist()) if not valid] == [4, 12]
    torch.testing.assert_close(
        torch.tensor(table["z"].to_pylist()[5:12]), world.infer(frames_of(13)[5:]), rtol=1e-4, atol=1e-5
    )


def test_nothing_usable_is_an_error(world, tmp_path, frames_of):
    write_video(tmp_path / "in" / "slow.mp4", frames_of(6, size=32), 2)
    with pytest.raises(DilaError, match="no video could be used; the first of 1 was skipped because"):
        label(world, tmp_path / "in", tmp_path / "z.parquet", progress=False)


def test_where_and_how_are_refused_each_for_itself(world, videos, tmp_path):
    with pytest.raises(DilaError, match=r"z\.csv must end in \.parquet; rename the output"):
        label(world, videos, tmp_path / "z.csv", progress=False)
    with pytest.raises(DilaError, match=r"^batch = 0 and part = 32 must be at least 1$"):
        label(world, videos, tmp_path / "z.parquet", batch=0, progress=False)


@pytest.mark.parametrize("held", ["true actions", "no table", "a folder"])
def test_only_labels_are_written_over(held, world, videos, tmp_path):
    out = videos / "actions.parquet"
    if held == "true actions":
        columns = {name: {"action": np.zeros((length, 2), np.float32)} for name, length in LENGTHS.items()}
        write_table(out, columns, {"action": ("x", "y")})
    elif held == "no table":
        out.write_text("mine")
    else:
        out.mkdir()
    before = out.is_dir() or out.read_bytes()
    with pytest.raises(DilaError, match=r"actions\.parquet exists but is not a file of latent actions"):
        label(world, tmp_path / "nothing to read", out, progress=False)
    assert (out.is_dir() or out.read_bytes()) == before


def test_latent_actions_that_are_not_finite_are_not_written(world, videos, tmp_path):
    next(world.model.idm.parameters()).data.fill_(float("nan"))
    with pytest.raises(DilaError, match="latent actions contain NaN"):
        world.label(videos, tmp_path / "z.parquet", progress=False)
    assert not (tmp_path / "z.parquet").exists()
