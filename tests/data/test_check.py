import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from dila.cli.main import main as cli
from dila.data import check as module
from dila.data.check import check, stretches
from dila.data.reading import LazyColumns
from dila.data.table import write_table
from dila.data.video import write_video
from dila.errors import DilaError


def moving(length, seed=0, size=(48, 64)):
    """A bright square on a smooth ground."""
    frames = torch.full((length, 3, *size), 60 + 20 * seed, dtype=torch.uint8)
    for f in range(length):
        frames[f, :, 8 + f % 24 : 20 + f % 24, 10 : 24 + seed] = 220
    return frames


@pytest.fixture
def sound(tmp_path):
    root = tmp_path / "corpus"
    for number in range(3):
        write_video(root / f"{number}.mp4", moving(20, number), 10)
    columns = {f"{n}.mp4": {"action": np.ones((20, 2), np.float32)} for n in range(3)}
    write_table(root / "actions.parquet", columns, {"action": ("x", "y")})
    return root


def kinds(findings):
    return {finding.kind: finding.items for finding in findings}


def test_a_sound_corpus_is_described_and_nothing_is_wrong(sound):
    report = check(sound)
    assert (report.errors, report.warnings) == ([], [])
    assert (report.readers, report.episodes, report.frames, report.looked_at) == ({"video": 3}, 3, 60, 60)
    assert report.hours == pytest.approx(6 / 3600, abs=1e-6)
    assert (report.fps, report.sizes, report.cameras) == ({"10": 3}, {"64 x 48": 3}, {})
    assert report.columns == {"action": {"numbers": 2, "episodes": 3, "names": ["x", "y"]}}
    assert report.bytes == sum(p.stat().st_size for p in sound.iterdir())
    assert json.loads(json.dumps(asdict(report)))["frames"] == 60


def test_every_fault_is_told_as_error_or_warning(sound):
    (sound / "empty.mp4").touch()
    whole = (sound / "0.mp4").read_bytes()
    (sound / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(sound / "still.mp4", moving(1).repeat(20, 1, 1, 1), 10)
    repeated = moving(20, 4)
    repeated[7] = repeated[6]
    write_video(sound / "twice.mp4", repeated, 20)
    shutil.copy(sound / "1.mp4", sound / "copy.mp4")
    write_video(sound / "größer.mp4", moving(12, 3, (64, 96)), 10)
    (sound / "loop").symlink_to(sound)
    report = check(sound)
    errors, warnings = kinds(report.errors), kinds(report.warnings)
    assert set(errors) == {"unreadable"}
    assert [item.split(": ")[0] for item in errors["unreadable"]] == ["cut.mp4", "empty.mp4"]
    assert set(warnings) == {"static", "duplicates", "copies", "frame_rates", "sizes", "columns"}
    assert warnings["static"] == ("still.mp4",)
    assert warnings["duplicates"] == ("twice.mp4: 1 of 20",)
    assert warnings["copies"] == ("copy.mp4 is 1.mp4",)
    assert set(warnings["columns"]) == {"still.mp4", "twice.mp4", "copy.mp4", "größer.mp4"}


def test_frames_that_do_not_decode_are_an_error_though_the_file_opens(sound, monkeypatch):
    read = module.find_corpus(sound).episodes[0].__class__.read

    def fails(self, frames):
        if self.id == "1.mp4" and max(frames) > 15:
            raise DilaError("1.mp4 does not decode at frame 16")
        return read(self, frames)

    monkeypatch.setattr(module.find_corpus(sound).episodes[0].__class__, "read", fails)
    report = check(sound)
    assert kinds(report.errors) == {"unreadable": ("1.mp4: 1.mp4 does not decode at frame 16",)}
    assert (report.episodes, report.frames, report.looked_at) == (2, 40, 40)


def test_times_out_of_order_are_an_error_and_gaps_a_warning(sound, monkeypatch):
    corpus = module.find_corpus(sound)
    back, gap = np.arange(20) / 10, np.arange(20) / 10
    back[9] = back[7]
    gap[12:] += 3.0
    told = [replace(e, info=replace(e.info, times=t)) for e, t in zip(corpus.episodes, (back, gap), strict=False)]
    monkeypatch.setattr(module, "find_corpus", lambda *_: replace(corpus, episodes=(*told, corpus.episodes[2])))
    report = check(sound)
    assert kinds(report.errors) == {"times": ("0.mp4",)}
    assert kinds(report.warnings)["gaps"] == ("0.mp4", "1.mp4")


def test_values_that_are_not_finite_are_told(sound):
    columns = {f"{n}.mp4": {"action": np.full((20, 2), np.nan if n == 1 else 1.0, np.float32)} for n in range(3)}
    write_table(sound / "actions.parquet", columns, {})
    assert kinds(check(sound).warnings) == {"values": ("1.mp4",)}


def test_the_last_action_need_not_be_known(sound):
    rows = np.ones((20, 2), np.float32)
    rows[-1] = np.nan
    write_table(sound / "actions.parquet", {f"{n}.mp4": {"action": rows} for n in range(3)}, {})
    assert not check(sound).warnings
    write_table(sound / "actions.parquet", {f"{n}.mp4": {"state": rows} for n in range(3)}, {})
    assert list(kinds(check(sound).warnings)) == ["values"]


def test_columns_of_unlike_widths_are_told(sound, monkeypatch):
    corpus = module.find_corpus(sound)
    wide = replace(corpus.episodes[1], columns={"action": np.ones((20, 3), np.float32)})
    changed = replace(corpus, episodes=(corpus.episodes[0], wide, corpus.episodes[2]))
    monkeypatch.setattr(module, "find_corpus", lambda *_: changed)
    (told,) = check(sound).warnings
    assert (told.kind, told.items) == ("columns", ("1.mp4: 3",))
    assert told.sentence == "column action has 2 numbers per frame, but not in 1 episode; clips will drop it"


def test_columns_and_time_stamps_are_read_once(sound, monkeypatch):
    read = []

    @dataclass(frozen=True)
    class Counted:
        id: str
        times: np.ndarray
        columns: LazyColumns
        stamps: partial

        def read(self, frames):
            return moving(20)[list(frames)]

        def fingerprint(self):
            return self.id

    def told(name, what, values):
        read.append((name, what))
        return values

    times, rows = np.arange(20) / 10, {"action": np.ones((20, 2), np.float32)}
    episodes = tuple(
        Counted(name, times, LazyColumns({"action": 2}, partial(told, name, "rows", rows)),
                partial(told, name, "stamps", times))
        for name in ("a", "b")
    )  # fmt: skip
    changed = replace(module.find_corpus(sound), episodes=episodes)
    monkeypatch.setattr(module, "find_corpus", lambda *_: changed)
    del read[:]  # checks of types that tests run with look into mappings
    check(sound)
    assert Counter(what for what in read if what[1] == "stamps") == {("a", "stamps"): 1, ("b", "stamps"): 1}
    firsts = [read.index(("a", "rows")), read.index(("b", "rows"))]
    assert all(name == "b" for name, _ in read[firsts[1] :])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("0", "1", "2"), '60 rows of 3 episodes not in this corpus, such as "0"; did you mean "0.mp4"?'),
        (
            ("0.mp4", "1.mp4", "2.mp5"),
            '20 rows of 1 episode not in this corpus, such as "2.mp5"; did you mean "2.mp4"?',
        ),
        (("0.mp4", "1.mp4", "2.mp4", "old"), '20 rows of 1 episode not in this corpus, such as "old"'),
    ],
)
def test_rows_of_episodes_that_are_not_there_are_told(names, words, sound):
    write_table(sound / "actions.parquet", {name: {"action": np.ones((20, 2), np.float32)} for name in names}, {})
    told = [finding.sentence for finding in check(sound).warnings if finding.kind == "table"]
    assert told == [f"actions.parquet has {words}"]


def test_rows_of_what_is_there_and_not_read_are_no_fault_of_the_table(sound):
    (sound / "2.mp4").write_bytes(b"no video")
    assert kinds(check(sound).warnings) == {}
    assert kinds(check(sound / "1.mp4").warnings) == {}


def test_episodes_of_one_frame_and_images_beside_a_video_are_warned_of(sound):
    write_video(sound / "0.mp4", moving(1), 10)
    (sound / "actions.parquet").unlink()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(sound / f"{number}.png")
    report = check(sound)
    warnings = kinds(report.warnings)
    assert report.errors == []
    assert warnings["short"] == ("0.mp4",)
    assert [item.partition(" has ")[2][:8] for item in warnings["left_out"]] == ["3 images"]


def test_folders_that_look_like_cameras_and_tables_that_nothing_reads_are_warned_of(tmp_path):
    for name, seed in (("left", 0), ("right", 2)):
        for number in range(2):
            write_video(tmp_path / name / f"ep {number}.mp4", moving(12 + number, seed + number), 10)
    (tmp_path / "left" / "ep 0.csv").write_text("t,x\n0,1\n")
    (tmp_path / "ep 1.csv").write_text("t,x\n0,1\n")
    warnings = kinds(check(tmp_path).warnings)
    assert warnings["cameras"] == ("left and right: 2 names",)
    assert [item.split(":")[0] for item in warnings["left_out"]] == ["ep 1.csv", "left/ep 0.csv"]
    write_video(tmp_path / "right" / "ep 1.mp4", moving(20), 10)
    assert "cameras" not in kinds(check(tmp_path).warnings)


def test_milliseconds_hide_no_frame_rate(sound, monkeypatch):
    from dataclasses import replace

    corpus = module.find_corpus(sound)
    rounded = (np.arange(20) * 1000 / 30).round() / 1000
    told = tuple(replace(e, info=replace(e.info, times=rounded)) for e in corpus.episodes)
    monkeypatch.setattr(module, "find_corpus", lambda *_: replace(corpus, episodes=told))
    assert check(sound).fps == {"30": 3}


def test_what_is_looked_at_lies_evenly_and_misses_no_pair_when_it_is_all():
    assert stretches(1000, 24) == [list(range(s, s + 8)) for s in (0, 496, 992)]
    assert stretches(5, 64) == [[0, 1, 2, 3, 4]]
    assert stretches(1, 0) == [[0]]
    assert stretches(0, 0) == []
    whole = stretches(100, 0)
    assert {(a, b) for part in whole for a, b in pairwise(part)} == {(i, i + 1) for i in range(99)}


def test_nothing_to_check_is_refused(tmp_path):
    with pytest.raises(DilaError, match="does not exist"):
        check(tmp_path / "no")
    with pytest.raises(DilaError, match="frames = -1"):
        check(tmp_path, frames=-1)


def test_a_wholly_damaged_corpus_is_reported_in_full(tmp_path, capsys):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"no video")
    assert cli(["data", "check", str(tmp_path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [(e["kind"], len(e["items"])) for e in report["errors"]] == [("unreadable", 3), ("empty", 0)]
    assert report["episodes"] == 0
    assert cli(["data", "check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert all(f"{name}.mp4 is not a readable video" in told for name in "abc")
    assert "no readable episode" in told


def test_a_damaged_file_alone_and_an_empty_folder(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    assert kinds(check(tmp_path / "a.mp4").errors).keys() == {"unreadable", "empty"}
    (tmp_path / "bare").mkdir()
    assert cli(["data", "check", str(tmp_path / "bare")]) == 2
    assert "no video and no folder of images" in capsys.readouterr().err
