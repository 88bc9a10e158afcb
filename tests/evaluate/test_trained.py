"""No model is judged on what it was trained on."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dila.data import open_corpus, render_primitives, split_episodes
from dila.data.convert import convert
from dila.errors import DilaError
from dila.evaluate.bench import Settings, open_bench
from dila.evaluate.pins import make_pins
from dila.evaluate.trained import Trained
from dila.interop.pack import pack
from dila.train.material import Material, Split
from dila.train.register import REGISTER, TRAIN, LostEpisode, write_register


def write_run(folder, data=None, start=None, held_out=0.1, **register):
    """What the guard reads of a run: on the corpus in `data`, or with rows ``id=(split, frames)`` of a set ``all``."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"clips": {"held_out": held_out}, "start": start}))
    if data is not None:
        train, held = split_episodes(open_corpus(data), held_out)
        write_register(folder, Material(None, (Split(data.name, train, held, train, held),)), actions=False)
        return folder
    rows = [("all", split, name, frames) for name, (split, frames) in register.items()]
    told = zip(("data", "split", "episode", "frames"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in told}), folder / REGISTER)
    return folder


def episode(name, frames=30):
    return LostEpisode(name, np.arange(frames) / 10, {})


def test_a_run_is_judged_on_what_it_held_out(first_look, tmp_path):
    folder, settings = first_look.folder, Settings(frames=6, clips=2)
    options = {"device": "cpu", "cache_dir": folder / "features"}
    data = str(folder / "pusht")
    own = open_bench(folder / "run", data, tmp_path, settings, **options)
    register = pq.read_table(folder / "run" / "episodes.parquet").to_pylist()
    assert [e.id for e in own.held] == [row["episode"] for row in register if row["split"] == "held out"]
    refused = r"run was trained on \d+ of the \d+ episodes to be evaluated \(first: episode_\d+\.mp4\); .* 0\.1 "
    for path in (data, f"{data}/."):
        with pytest.raises(DilaError, match=refused):
            open_bench(folder / "run", path, tmp_path, settings, held_out=0.5, **options)
    pins = make_pins(open_corpus(data).episodes, own.world.stride, 4, 12)
    with pytest.raises(DilaError, match=refused):
        open_bench(next((folder / "run" / "checkpoints").iterdir()), data, tmp_path, settings, pins=pins, **options)


def test_actions_are_not_taken_from_what_a_run_was_trained_on(first_look, tmp_path):
    folder, data = first_look.folder, tmp_path / "primitives"
    render_primitives(data, 6, 16, 32, progress=False)
    settings = Settings(frames=4, clips=2, source=str(folder / "pusht"))
    options = {"device": "cpu", "cache_dir": folder / "features"}
    told = open_bench(folder / "run", str(data), tmp_path, settings, **options)
    register = pq.read_table(folder / "run" / "episodes.parquet").to_pylist()
    assert [e.id for e in told.source] == [row["episode"] for row in register if row["split"] == "held out"]
    with pytest.raises(DilaError, match="run was trained on"):
        open_bench(folder / "run", str(data), tmp_path, settings, held_out=0.5, **options)


def test_a_run_of_another_share_holds_out_its_own_and_knows_a_part_of_its_data(tmp_path):
    rows = {"pusht/a.mp4": (TRAIN, 30), "pusht/b.mp4": ("held out", 30)}
    run = Trained.find(write_run(tmp_path / "run", held_out=0.02, **rows))
    assert run.held_out == 0.02
    for data, judged in (("all/pusht", [episode("b.mp4"), episode("a.mp4", 31)]), ("other/pusht", [episode("a.mp4")])):
        run.refuse(data, judged)
    for data, name in (("data/all", "pusht/a.mp4"), ("all/pusht", "a.mp4")):
        with pytest.raises(DilaError, match=r"1 of the 2 episodes .* 0\.02 "):
            run.refuse(data, [episode(name), episode("b.mp4")])


def test_a_packed_model_holds_out_what_its_run_did_and_names_no_file(first_look, tmp_path):
    folder, settings = first_look.folder, Settings(frames=6, clips=2)
    options = {"device": "cpu", "cache_dir": folder / "features"}
    packed, data = pack(folder / "run", tmp_path / "packed"), str(folder / "pusht")
    own = open_bench(packed, data, tmp_path, settings, **options)
    register = pq.read_table(folder / "run" / "episodes.parquet").to_pylist()
    assert [e.id for e in own.held] == [row["episode"] for row in register if row["split"] == "held out"]
    with pytest.raises(DilaError, match=r"packed was trained on \d+ of the \d+ episodes to be evaluated"):
        open_bench(packed, data, tmp_path, settings, held_out=0.5, **options)
    assert "episode_" not in (packed / "config.json").read_text()


def test_the_share_of_a_packed_model_is_that_of_its_run(first_look, tmp_path):
    packed = pack(first_look.folder / "run", tmp_path / "packed")
    told = json.loads((packed / "config.json").read_text())
    told["notes"]["trained"]["held_out"] = 0.3
    (packed / "config.json").write_text(json.dumps(told))
    assert Trained.find(packed).held_out == 0.3
    for nonsense in (None, {"held_out": "much", "hashes": ""}, {"held_out": 0.1, "hashes": 7}, [1]):
        (packed / "config.json").write_text(json.dumps(told | {"notes": {"trained": nonsense}}))
        assert Trained.find(packed) is None


def test_copies_of_its_files_are_known_by_their_contents(first_look, tmp_path):
    run, copied = Trained.find(first_look.folder / "run"), tmp_path / "copied"
    shutil.copytree(first_look.folder / "pusht", copied)
    for video in copied.glob("*.mp4"):
        video.rename(copied / f"renamed-{video.name}")
    renamed, name = list(open_corpus(copied).episodes), "renamed-episode_00000.mp4"
    with pytest.raises(DilaError, match="first: renamed-episode_"):
        run.refuse(str(copied), renamed)
    (copied / name).write_bytes((copied / "renamed-episode_00001.mp4").read_bytes()[:-1])
    run.refuse(str(copied), [e for e in renamed if e.id == name])
    (copied / name).unlink()
    run.refuse(str(copied), [e for e in renamed if e.id == name])


def test_a_file_on_both_sides_of_its_data_keeps_no_run_from_being_judged(first_look, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(first_look.folder / "pusht", data)
    train, held = split_episodes(open_corpus(data))
    shutil.copy(data / train[0].id, data / held[0].id)
    held = split_episodes(open_corpus(data))[1]
    Trained.find(write_run(tmp_path / "run", data)).refuse(str(data), held)


def test_a_file_that_went_while_the_run_began_is_known_by_its_place(first_look, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(first_look.folder / "pusht", data)
    frames = list(open_corpus(data).episodes)
    cached = [episode(e.id, len(e.times)) for e in frames]
    (data / frames[0].id).unlink()
    write_register(tmp_path, Material(None, (Split("data", cached, [], frames, []),)), actions=False)
    (tmp_path / "run.json").write_text("{}")
    run = Trained.find(tmp_path)
    assert len(run.on.hashes) == len(frames) - 1
    with pytest.raises(DilaError, match="1 of the 1 episodes"):
        run.refuse(str(data), frames[:1])


def test_a_converted_copy_and_its_original_are_one(first_look, tmp_path):
    original, copy = first_look.folder / "pusht", tmp_path / "copy"
    convert(original, copy, progress=False)
    other = convert(original, tmp_path / "other", size=32, progress=False).out
    for trained, judged in ((original, copy), (copy, original), (copy, other)):
        run = Trained.find(write_run(tmp_path / f"{trained.name}-{judged.name}", trained))
        with pytest.raises(DilaError, match=f"was trained on {len(run.on.hashes)} of the"):
            run.refuse(str(judged), open_corpus(judged).episodes)
    (copy / "recording.json").unlink()  # as another program leaves a data set
    Trained.find(tmp_path / "pusht-copy").refuse(str(copy), open_corpus(copy).episodes)


def test_what_a_run_began_from_counts_and_a_circle_ends(tmp_path):
    first = write_run(tmp_path / "first", start=str(tmp_path / "last"), held_out=0.2, **{"a.mp4": (TRAIN, 30)})
    write_run(tmp_path / "middle", start=str(first), **{"b.mp4": (TRAIN, 30)})
    last = Trained.find(write_run(tmp_path / "last", start=str(tmp_path / "middle"), **{"c.mp4": (TRAIN, 30)}))
    with pytest.raises(DilaError, match=r"last started from .*first, which was trained on 1 of the 2 .* 0\.2 "):
        last.refuse("all", [episode("a.mp4"), episode("d.mp4")])
    last.refuse("all", [episode("d.mp4")])
    gone = write_run(tmp_path / "alone", start="no/where", **{"a.mp4": (TRAIN, 30)})
    Trained.find(gone).refuse("all", [episode("d.mp4")])
