import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dila.data.corpus import open_corpus
from dila.data.lerobot_write import LeRobotV3
from dila.data.primitives import PrimitiveRenderer
from dila.data.recording import Recorded, VideoFolder, count_episodes, record
from dila.data.table import TABLE, read_table, write_table
from dila.errors import DilaError

NAMES = {"action": ("a",)}


@dataclass(frozen=True)
class Grey:
    """Episode i is grey 10 * i; optionally the process dies at one of them."""

    dies_at: int = -1

    def __call__(self, number):
        if number == self.dies_at:
            raise KeyboardInterrupt
        frames = torch.full((4, 3, 16, 16), 10 * number, dtype=torch.uint8)
        return Recorded(frames, {"action": np.full((4, 1), number, dtype=np.float32)})


def run(out, episodes, make=None, seed=0, workers=1):
    return record(
        out, episodes, make or Grey(), settings={"seed": seed}, names=NAMES, fps=10, workers=workers, progress=False
    )


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_recording_is_a_corpus_with_its_columns(tmp_path):
    corpus = open_corpus(run(tmp_path / "r", 3))
    assert [e.id for e in corpus.episodes] == ["episode_00000.mp4", "episode_00001.mp4", "episode_00002.mp4"]
    assert corpus.names == NAMES
    for i, episode in enumerate(corpus.episodes):
        assert episode.columns["action"].tolist() == [[i]] * 4
        assert abs(episode.read([0]).float().mean() - 10 * i) < 2


def test_an_interrupted_recording_shows_nothing_and_then_goes_on(tmp_path):
    whole = contents(run(tmp_path / "whole", 5))
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run(broken, 5, Grey(dies_at=3))
    with pytest.raises(DilaError, match="no video"):
        open_corpus(broken)
    made = []

    def watching(number):
        made.append(number)
        return Grey()(number)

    run(broken, 5, watching)
    assert made == [3, 4]
    assert contents(broken) == whole


def test_dying_between_table_and_videos_is_mended(tmp_path, monkeypatch):
    from dila.data import recording

    whole = contents(run(tmp_path / "whole", 3))
    real, calls = recording.os.replace, []

    def flaky(source, target):
        if str(target) == str(tmp_path / "r" / "episode_00001.mp4"):
            calls.append(target)
            raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(recording.os, "replace", flaky)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", 3)
    monkeypatch.undo()
    assert calls
    assert [e.id for e in open_corpus(tmp_path / "r").episodes] == ["episode_00000.mp4"]
    run(tmp_path / "r", 3)
    assert contents(tmp_path / "r") == whole


def test_dying_between_settings_and_table_is_mended(tmp_path, monkeypatch):
    from dila.data import recording

    def dying(*_):
        raise KeyboardInterrupt

    whole = contents(run(tmp_path / "whole", 2))
    monkeypatch.setattr(recording, "write_table", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "r", 2)
    monkeypatch.undo()
    assert contents(run(tmp_path / "r", 2)) == whole


@pytest.mark.parametrize("name", ["a.mp4", "actions.parquet", "episode_00000.mp4"])
def test_a_folder_of_other_files_is_refused_and_left_as_it_is(name, tmp_path):
    (tmp_path / name).write_bytes(b"mine")
    (tmp_path / ".hidden").touch()
    with pytest.raises(DilaError, match="has files that were not written by dila; choose another folder"):
        run(tmp_path, 2)
    assert contents(tmp_path) == {name: b"mine", ".hidden": b""}
    (tmp_path / name).unlink()
    run(tmp_path, 2)


def test_more_episodes_can_be_added_and_fewer_asked_for(tmp_path):
    run(tmp_path / "r", 2)
    run(tmp_path / "r", 5)
    assert contents(tmp_path / "r") == contents(run(tmp_path / "whole", 5))
    run(tmp_path / "r", 3)
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")
    assert count_episodes(tmp_path / "r") == 5


@pytest.mark.parametrize("change", ["row", "column"])
def test_what_a_user_added_to_the_table_is_not_lost(change, tmp_path):
    out = run(tmp_path / "r", 2)
    columns, names = read_table(out / TABLE, {"episode_00000.mp4": 4, "episode_00001.mp4": 4})
    if change == "row":
        columns["mine.mp4"] = {"action": np.ones((3, 1), np.float32)}
    else:
        columns = {name: {**given, "reward": np.ones((4, 1), np.float32)} for name, given in columns.items()}
    write_table(out / TABLE, columns, names)
    before, told = (
        contents(out),
        {"row": "rows of mine.mp4, which dila did not", "column": "differs from this recording in the columns reward"},
    )
    with pytest.raises(DilaError, match=told[change]):
        run(out, 3)
    kept = contents(out)
    assert {name: kept[name] for name in before} == before
    write_table(out / TABLE, {n: {"action": c["action"]} for n, c in columns.items() if n != "mine.mp4"}, names)
    run(out, 3)
    assert contents(out) == contents(run(tmp_path / "whole", 3))


def test_two_processes_may_find_it_whole_at_once(tmp_path, monkeypatch):
    whole = contents(run(tmp_path / "r", 2))
    publish = VideoFolder.publish

    def and_the_other_is_done(store, out, staging, *rest):
        publish(store, out, staging, *rest)
        shutil.rmtree(staging)

    monkeypatch.setattr(VideoFolder, "publish", and_the_other_is_done)
    run(tmp_path / "r", 2)
    assert contents(tmp_path / "r") == whole


def test_damaged_settings_are_told_of(tmp_path):
    path = run(tmp_path / "r", 2) / "recording.json"
    path.write_text("")
    with pytest.raises(DilaError, match=r"recording\.json cannot be read as JSON .*; choose another folder, or delete"):
        run(tmp_path / "r", 2)


def test_what_another_process_records_is_left_to_it(held, tmp_path):
    with held(tmp_path / "r"), pytest.raises(DilaError, match=r"another process works on .*r; wait for it"):
        run(tmp_path / "r", 2)
    assert not (tmp_path / "r").exists()
    run(tmp_path / "r", 2)


def test_workers_change_nothing(tmp_path):
    # Classes of a test module cannot be imported in a spawned process, hence the renderer.
    make = PrimitiveRenderer(4, 32, 0, "rotation", False)
    for workers in (1, 2):
        record(tmp_path / str(workers), 4, make, settings={}, names={}, fps=10, workers=workers, progress=False)
    assert contents(tmp_path / "2") == contents(tmp_path / "1")


def test_other_settings_or_nonsense_are_refused(tmp_path):
    run(tmp_path / "r", 2)
    with pytest.raises(DilaError, match=r"seed = 0 \(now 1\)"):
        run(tmp_path / "r", 2, seed=1)
    with pytest.raises(DilaError, match="episodes = 0"):
        run(tmp_path / "x", 0)
    (tmp_path / "file").touch()
    with pytest.raises(DilaError, match="is a file"):
        run(tmp_path / "file", 1)


def shaped(action, frames=None, **columns):
    """A function that makes every episode of such columns."""
    frames = torch.zeros(4, 3, 16, 16, dtype=torch.uint8) if frames is None else frames
    return lambda number: Recorded(frames, {"action": action, **columns})


STORES = pytest.mark.parametrize("store", [VideoFolder(), LeRobotV3("go")], ids=["table", "lerobot"])


def record_made(out, make, store, episodes=2, names=None):
    return record(out, episodes, make, settings={}, names=names or {}, fps=10, progress=False, store=store)


@STORES
@pytest.mark.parametrize(
    ("action", "read"),
    [
        (np.arange(3.0)[:, None], [[0], [1], [2], [None]]),
        (np.arange(4), [[0], [1], [2], [3]]),
        ([[1, 2]] * 3, [[1, 2]] * 3 + [[None, None]]),
        (torch.arange(8.0).reshape(4, 1, 2), [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ],
    ids=["the last left out", "plain numbers", "lists", "deeper"],
)
def test_actions_are_taken_as_environments_give_them(action, read, store, tmp_path):
    frames = np.zeros((4, 3, 16, 16), np.uint8)
    (one, _) = open_corpus(record_made(tmp_path / "r", shaped(action, frames), store)).episodes
    rows = [[None if np.isnan(number) else number for number in row] for row in one.columns["action"].tolist()]
    assert rows == read


@STORES
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (shaped(np.zeros((2, 1))), "episode 0 has 2 actions for 4 frames; it needs one per frame, or one fewer"),
        (shaped(np.zeros((4, 1)), state=np.zeros((3, 1))), "episode 0 has 3 rows of 'state' for 4 frames; give one"),
        (shaped([[1], [1, 2], [1], [1]]), "rows of unequal length in 'action'"),
        (shaped(["left"] * 4), "no rows of numbers in 'action'"),
        (shaped(np.zeros((4, 3))), "has 3 numbers per row in 'action', but names = .* give one name for"),
        (shaped(np.zeros((4, 1)), torch.zeros(4, 3, 16, 16)), "give uint8 frames of shape T 3 Y X"),
        (shaped(np.zeros((4, 1)), torch.zeros(4, 16, 16, 3, dtype=torch.uint8)), "give uint8 frames"),
    ],
)
def test_what_nobody_could_read_is_refused_before_it_is_stored(made, told, store, tmp_path):
    with pytest.raises(DilaError, match=told):
        record_made(tmp_path / "r", made, store, names=NAMES)
    record_made(tmp_path / "r", shaped(np.zeros((4, 1))), store, names=NAMES)


@STORES
@pytest.mark.parametrize(
    "other",
    [shaped(np.zeros((4, 2))), shaped(np.zeros((4, 1)), state=np.zeros((4, 1))), shaped(np.zeros((4, 1), np.int64))],
    ids=["width", "column", "kind"],
)
def test_all_episodes_have_the_same_columns(other, store, tmp_path):
    made, same = [], shaped(np.zeros((4, 1)))

    def make(number):
        made.append(number)
        return (other if number == 1 else same)(number)

    with pytest.raises(DilaError, match=r"episode 1 has the columns .*float32 x 1'}; give all episodes the same"):
        record_made(tmp_path / "r", make, store, episodes=5)
    assert made == [0, 1]
    assert len(open_corpus(record_made(tmp_path / "r", same, store, episodes=5))) == 5


def test_a_recording_that_grows_keeps_its_columns(tmp_path):
    record_made(tmp_path / "r", shaped(np.zeros((4, 1))), None)
    with pytest.raises(DilaError, match=r"differs from this recording in the columns action;"):
        record_made(tmp_path / "r", shaped(np.zeros((4, 2))), None, episodes=3)


def test_a_table_needs_columns_of_names_that_it_has_not_itself(tmp_path):
    with pytest.raises(DilaError, match="episode 0 has no columns; give columns"):
        record_made(tmp_path / "r", lambda number: Grey()(number)._replace(columns={}), None)
    with pytest.raises(DilaError, match=r"a column 'frame', a name that actions.parquet reserves"):
        record_made(tmp_path / "r", shaped(np.zeros((4, 1)), frame=np.zeros((4, 1))), None)


@pytest.mark.parametrize("store", [VideoFolder(), LeRobotV3("go")])
def test_an_episode_that_was_never_complete_fixes_no_columns(tmp_path, monkeypatch, store):
    from dila.data import lerobot_write, recording

    def dying(*_):
        raise KeyboardInterrupt

    def call(make):
        return record(tmp_path / "r", 1, make, settings={}, names={}, fps=10, progress=False, store=store)

    monkeypatch.setattr(recording, "write_video", dying)
    monkeypatch.setattr(lerobot_write, "asdict", dying)
    with pytest.raises(KeyboardInterrupt):
        call(Grey())
    monkeypatch.undo()
    assert any((tmp_path / "r" / ".recording").glob("episode_*.npz"))
    wide = Recorded(Grey()(0).frames, {"action": np.zeros((4, 2), np.float32)})
    call(lambda _: wide)
    assert open_corpus(tmp_path / "r").episodes[0].columns["action"].shape == (4, 2)
