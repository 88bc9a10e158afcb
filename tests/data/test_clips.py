import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dila.data import clips as module
from dila.data.clips import Clips, Unreadable, collate_clips, resized
from dila.data.corpus import open_corpus
from dila.data.reading import LazyColumns
from dila.data.table import write_table
from dila.data.video import write_video
from dila.errors import DilaError


class Numbered:
    """Frame f is filled with f."""

    def __init__(self, times, name="a", columns=("action", "state"), size=4):
        self.id, self.times, self.size = name, np.asarray(times, dtype=float), size
        count = len(self.times)
        every = {"action": np.arange(count)[:, None] * 10.0, "state": np.arange(count * 2).reshape(-1, 2) * 1.0}
        self.columns = {key: every[key].astype(np.float32) for key in columns}

    def read(self, frames):
        picture = torch.tensor(list(frames), dtype=torch.uint8)[:, None, None, None]
        return picture.expand(-1, 3, self.size, self.size).clone()

    def fingerprint(self):
        return self.id


@pytest.mark.parametrize(("stride", "step"), [(None, 1), (0.1, 1), (0.3, 3)])
def test_action_block_k_moves_frame_k_to_k_plus_1(tmp_path, stride, step):
    """The alignment that everything rests on, through a real mp4: brightness is the state, the action its change."""
    rng = np.random.default_rng(0)
    level = np.clip(np.cumsum(rng.choice([-12, -7, 9, 14], 40)) + 120, 5, 250)
    frames = torch.from_numpy(level.astype(np.uint8))[:, None, None, None].expand(40, 3, 32, 32).contiguous()
    write_video(tmp_path / "x.mp4", frames, fps=10)
    action = np.append(np.diff(level), 99.0)[:, None].astype(np.float32)
    table = {"x.mp4": {"action": action, "state": level[:, None].astype(np.float32)}}
    write_table(tmp_path / "actions.parquet", table, {})
    clips = Clips(open_corpus(tmp_path).episodes, frames=5, stride=stride)
    assert len(clips) == 40 - 4 * step
    for clip in clips:
        seen = clip.frames.float().mean((1, 2, 3))
        assert clip.columns["action"].shape == (4, step, 1)
        torch.testing.assert_close(seen[1:] - seen[:-1], clip.columns["action"].sum((1, 2)), atol=3.0, rtol=0)
        torch.testing.assert_close(seen, clip.columns["state"][:, 0], atol=2.0, rtol=0)
        assert clip.index.diff().unique().tolist() == [step]


def test_windows_start_every_hop_and_stay_inside():
    clips = Clips([Numbered(np.arange(10) / 10)], frames=3, stride=0.2, hop=2)
    assert [c.index.tolist() for c in clips] == [[0, 2, 4], [2, 4, 6], [4, 6, 8]]
    assert [c.frames[:, 0, 0, 0].tolist() for c in clips] == [[0, 2, 4], [2, 4, 6], [4, 6, 8]]
    assert len(Clips([Numbered(np.arange(5) / 10)], frames=3, stride=0.2)) == 1
    assert clips[-1].index.tolist() == [4, 6, 8]
    with pytest.raises(IndexError):
        clips[3]


@pytest.mark.parametrize("stride", [None, 0.2])
@pytest.mark.parametrize("hop", [1, 3])
def test_long_episodes_are_cut_piece_by_piece_into_the_same(monkeypatch, stride, hop):
    times = np.delete(np.arange(60) / 10, [17, 18, 40])
    episodes = [Numbered(times), Numbered(np.arange(2), "b"), Numbered(np.arange(9) / 10, "c")]
    whole = Clips(episodes, frames=4, stride=stride, hop=hop)
    monkeypatch.setattr(module, "CHUNK", 7)
    held, usable = [], module._usable
    monkeypatch.setattr(
        module, "_usable", lambda times, index, how: held.append(len(index)) or usable(times, index, how)
    )
    cut = Clips(episodes, frames=4, stride=stride, hop=hop)
    assert max(held) == 7
    assert (cut._owner.tolist(), cut._start.tolist(), cut._steps) == (
        whole._owner.tolist(), whole._start.tolist(), whole._steps,
    )  # fmt: skip
    assert cut.too_short == whole.too_short


def test_windows_never_cross_episodes():
    clips = Clips([Numbered(np.arange(n) / 10, str(n)) for n in (4, 7, 2)], frames=4)
    assert [(c.episode, *c.index.tolist()) for c in clips] == [
        (0, 0, 1, 2, 3),
        *((1, i, i + 1, i + 2, i + 3) for i in range(4)),
    ]
    assert [s.id for s in clips.too_short] == ["2"]


def test_the_stride_is_in_seconds_whatever_the_frame_rate():
    clips = Clips([Numbered(np.arange(40) / fps, str(fps)) for fps in (10, 20)], frames=3, stride=0.2)
    assert clips[0].index.tolist() == [0, 2, 4]
    assert next(c for c in clips if c.episode == 1).index.tolist() == [0, 4, 8]
    assert "action" not in clips[0].columns
    assert "state" in clips[0].columns
    assert "[2, 4] raw frames" in clips.dropped["action"]


def test_variable_frame_rate_takes_the_nearest_frame_and_bridges_no_gap():
    times = [0, 0.09, 0.21, 0.28, 0.41, 0.5, 0.61, 2.0, 2.1, 2.2]
    clips = Clips([Numbered(times)], frames=3, stride=0.2)
    assert [c.index.tolist() for c in clips] == [[0, 2, 4], [1, 3, 5], [2, 4, 6]]  # 5 to 6 is half a stride


def test_an_uneven_stride_drops_the_action_alone():
    clips = Clips([Numbered(np.arange(40) / 10)], frames=4, stride=0.15)
    assert clips[0].index.tolist() == [0, 1, 3, 4]
    assert set(clips[0].columns) == {"state"}
    assert "of 0.15 s needs an even rate that is a multiple of 6.667 frames a second" in clips.dropped["action"]


def test_columns_that_some_episodes_lack_are_dropped():
    clips = Clips([Numbered(np.arange(9)), Numbered(np.arange(9), "b", columns=("action",))], frames=3)
    assert set(clips[0].columns) == {"action"}
    assert "state" in clips.dropped


def never():
    raise AssertionError("a table is read")


@pytest.mark.parametrize("lazy", [False, True])
def test_columns_of_unlike_widths_are_dropped_before_any_is_read(lazy):
    one, other = Numbered(np.arange(9)), Numbered(np.arange(9), "b")
    other.columns["state"] = np.zeros((9, 3), np.float32)
    if lazy:
        one.columns, other.columns = (LazyColumns({"action": 1, "state": width}, never) for width in (2, 3))
    clips = Clips([one, other, one], frames=3)
    told = "episodes differ in it: a has 2 numbers per frame and b has 3 numbers per frame"
    assert clips.dropped == {"state": told}
    if not lazy:
        assert {tuple(clip.columns) for clip in clips} == {("action",)}


def test_a_table_unlike_what_was_declared_is_named():
    one, other = Numbered(np.arange(9)), Numbered(np.arange(9), "b")
    stored = {**other.columns, "state": np.zeros((9, 3), np.float32)}
    other.columns = LazyColumns({"action": 1, "state": 2}, lambda: stored)
    clips = Clips([one, other], frames=3)
    assert clips[0].columns["state"].shape == (3, 2)
    with pytest.raises(Unreadable, match=r"b from frame 1: .* differ in column .state.: a has 2 .* and b has 3 .*;"):
        clips[8]


def test_actions_and_states_in_whole_numbers_stack_with_others():
    one, other = Numbered(np.arange(9)), Numbered(np.arange(9), "b")
    other.columns = {**{name: rows.astype(int) for name, rows in other.columns.items()}, "kind": np.zeros((9, 1), int)}
    one.columns["kind"] = other.columns["kind"]
    assert all(
        {name: rows.dtype for name, rows in clip.columns.items()}
        == {"action": torch.float32, "state": torch.float32, "kind": torch.int64}
        for clip in Clips([one, other], frames=3)
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"frames": 16}, "a has 10 frames, but a window needs 16; lower frames"),
        ({"frames": 4, "stride": 0.5}, r"a lasts 0\.9 s, but a window of 4 frames every 0\.5 s needs 1\.5 s"),
        (
            {"frames": 4, "stride": 0.04},
            r"a has a frame every 0\.1 s, which is more than the stride of 0\.04 s; give .* of 25 f",
        ),
        ({"frames": 1}, "frames = 1"),
        ({"frames": 4, "hop": 0}, "hop = 0"),
        ({"frames": 4, "stride": 0}, "stride = 0"),
    ],
)
def test_too_little_is_explained(arguments, words):
    with pytest.raises(DilaError, match=words):
        Clips([Numbered(np.arange(10) / 10)], **arguments)


def test_no_episode_and_frameless_episodes_are_explained():
    with pytest.raises(DilaError, match="no episodes"):
        Clips([], frames=4)
    with pytest.raises(DilaError, match="has 0 frames"):
        Clips([Numbered([])], frames=4)
    with pytest.raises(DilaError, match=r"the longest episode, b, has 3 frames"):
        Clips([Numbered(np.arange(2)), Numbered(np.arange(3), "b")], frames=4)


def test_frames_are_resized_features_are_not():
    episode = Numbered(np.arange(6), size=16)
    assert Clips([episode], frames=3, size=8)[0].frames.shape == (3, 3, 8, 8)
    assert Clips([episode], frames=3, size=(8, 12))[1].frames[:, 0, 0, 0].tolist() == [1, 2, 3]
    episode.read = lambda frames: torch.randn(len(frames), 4, 4, 5)
    assert Clips([episode], frames=3, size=8)[0].frames.shape == (3, 4, 4, 5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), (2, 5, 3, 8, 8)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_resized_as_pictures_one_by_one(shape, kind):
    frames = torch.randint(0, 256, shape).to(kind)
    alone = [resized(picture, (4, 6)) for picture in frames.reshape(-1, 3, 8, 8)]
    made = resized(frames, (4, 6))
    assert made.shape == (*shape[:-2], 4, 6)
    torch.testing.assert_close(made.reshape(-1, 3, 4, 6), torch.stack(alone))
    assert resized(frames, (8, 8)) is frames


def test_clips_stack_through_loader_workers():
    clips = Clips([Numbered(np.arange(12) / 10)], frames=4, stride=0.2)
    loader = DataLoader(clips, batch_size=2, num_workers=1, collate_fn=collate_clips, multiprocessing_context="fork")
    batch = next(iter(loader))
    assert batch.frames.shape == (2, 4, 3, 4, 4)
    assert batch.index.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert batch.episode.tolist() == [0, 0]
    assert batch.columns["action"].shape == (2, 3, 2, 1)
    assert batch.columns["action"][1, 0].flatten().tolist() == [10, 20]
    mixed = Clips([Numbered(np.arange(4)), Numbered(np.arange(4), "b", size=5)], frames=4)
    with pytest.raises(DilaError, match="set size in Clips"):
        collate_clips([mixed[0], mixed[1]])


def test_what_cannot_be_read_is_named_with_its_frame():
    class Gone(Numbered):
        def read(self, frames):
            raise FileNotFoundError("no such file")

    clips = Clips([Gone(np.arange(6), "b.mp4")], frames=3)
    with pytest.raises(Unreadable, match=r"b\.mp4 from frame 2: FileNotFoundError: no such file"):
        clips[2]
