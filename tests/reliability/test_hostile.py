"""Files that are well formed and mean harm, each refused in one sentence that names it, before it costs anything."""

import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import seeds
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dila.data import fast_video, open_corpus, video
from dila.data.pickles import load_arrays
from dila.errors import DilaError
from dila.interop.pretrained import load_pretrained
from dila.train.checkpoint import load_trainer

DAMAGED = Path(__file__).parents[1] / "assets" / "damaged"
"""Files that fuzzing found."""
LIGHT = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _cheap():
    """Within ten seconds of work and a gigabyte more than before."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def refused(path, words):
    with pytest.raises(DilaError, match=words) as told:
        open_corpus(path)
    assert "\n" not in str(told.value)


# Pictures and videos ---------------------------------------------------------------------------------------------


def test_a_picture_of_absurd_size_is_refused_by_its_header(tmp_path):
    seeds.images(tmp_path / "a")
    first = tmp_path / "a" / "0.png"
    data = bytearray(first.read_bytes())
    data[16:24] = struct.pack(">II", 2_000_000, 30)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    first.write_bytes(bytes(data))
    refused(tmp_path, "2000000 x 30 pixels")


def test_a_picture_of_another_format_is_not_opened_whatever_its_name(tmp_path):
    """Pillow reads PostScript by starting another program."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png", format="TIFF")
    refused(tmp_path, r"0\.png is not a readable image")


def boxes(data, *path):
    """Where the contents of an mp4's box begin."""
    place = 0
    for name in path:
        place = data.index(name, place) + 4
    return place


@pytest.mark.parametrize(
    ("box", "offset", "value", "words"),
    [
        (b"stsz", 8, struct.pack(">I", 2**31 - 1), "not a readable video|truncated|declares"),  # so many frames
        (b"stts", 12, struct.pack(">I", 2**31 - 1), "days|time|not a readable|has no"),  # so long a frame
        (b"mdhd", 12, struct.pack(">I", 1), "."),  # a tick of a second
    ],
)
def test_claims_of_a_video_cost_nothing(tmp_path, box, offset, value, words):
    seeds.mp4(tmp_path)
    path = tmp_path / "a.mp4"
    data = bytearray(path.read_bytes())
    place = boxes(data, box) + offset
    data[place : place + len(value)] = value
    path.write_bytes(bytes(data))
    told, last = "", 0.0
    try:
        last = open_corpus(tmp_path).episodes[0].times[-1]
    except DilaError as error:
        told = str(error)
    assert last < 1_000
    assert not told or re.search(words, told)


def test_two_frames_ages_apart_are_refused(tmp_path):
    seeds.images(tmp_path / "a")
    (tmp_path / "a" / "meta.json").write_text('{"fps": 1e-7}')
    refused(tmp_path, "days; split it")


def test_a_stream_that_grows_half_way_is_not_decoded(tmp_path, monkeypatch):
    seeds.mp4(tmp_path)
    corpus = open_corpus(tmp_path)
    monkeypatch.setattr(fast_video, "_torchcodec", lambda: None)
    monkeypatch.setattr(video, "LIMITS", {"max_pixels": "100"})  # sixteen by sixteen are now absurd
    monkeypatch.setattr(video, "check_size", lambda *_: None)
    with pytest.raises(DilaError, match=r"a\.mp4"):
        corpus.episodes[0].read([0])


# Tables and documents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    ["{episode_index:999999999d}", "{episode_index.__class__}", "{episode_index!r}", "{0}", "{other}", "{", "{}",
     "a\0{episode_index}", "../{episode_index}", "/etc/passwd"],
)  # fmt: skip
def test_templates_of_paths_fill_in_names_and_nothing_else(tmp_path, template):
    seeds.lerobot2(tmp_path)
    info = tmp_path / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"data_path": template}))
    refused(tmp_path, "info.json|field other than|outside the data set")


@pytest.mark.parametrize("length", [10**12, -5, 0, 1e400, "NaN", None])
def test_lengths_that_no_episode_has_are_refused(tmp_path, length):
    seeds.lerobot2(tmp_path)
    (tmp_path / "meta" / "episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": length}))
    refused(tmp_path, "declares|does not list the episodes")


def test_tables_that_unpack_to_far_more_than_they_hold_are_refused(tmp_path, monkeypatch):
    seeds.with_table(tmp_path)
    rows = 3_000_000
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["a"])
    table = pa.table({"episode": names, "frame": np.zeros(rows, np.int64)})
    pq.write_table(table, tmp_path / "actions.parquet")
    assert (tmp_path / "actions.parquet").stat().st_size < 100_000
    monkeypatch.setattr("dila.data.reading.MAX_FRAMES", 1_000_000)
    refused(tmp_path, "declares 3,000,000 rows")


@pytest.mark.parametrize("name", [b"action", b"episode_index"])
def test_columns_named_in_no_readable_text_are_named_as_such(tmp_path, name):
    """Found by fuzzing (lerobot2, 3052)."""
    seeds.lerobot2(tmp_path)
    for path in (tmp_path / "data").iterdir():
        path.write_bytes(path.read_bytes().replace(name, b"\x80" + name[1:]))
    refused(tmp_path, r"parquet.*(readable|no column)")


def test_documents_that_never_end_in_depth_or_length(tmp_path, monkeypatch):
    seeds.something(tmp_path)
    labels = tmp_path / "something-something-v2-train.json"
    labels.write_text("[" * 200_000)
    refused(tmp_path, "not readable JSON")
    monkeypatch.setattr("dila.data.reading.MAX_TEXT", 100)
    labels.write_text(" " * 200)
    refused(tmp_path, "more than 100 bytes")


@pytest.mark.parametrize("place", ["data/episode_000000.parquet", "meta/episodes.jsonl",
                                   "videos/observation.images.top/000000.mp4"])  # fmt: skip
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path, place):
    seeds.lerobot2(tmp_path)
    (tmp_path / place).unlink()
    os.mkfifo(tmp_path / place)
    try:
        skipped = [one.reason for one in open_corpus(tmp_path).skipped]
    except DilaError as told:
        skipped = [str(told)]
    assert skipped


def test_hdf5_shows_no_other_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(256)) * 24)
    inside = tmp_path / "in"
    inside.mkdir()
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["pixels"] = np.zeros((6, 8, 8, 3), np.uint8)
    for name, make in {
        "external.h5": lambda f: f.create_dataset("pixels", (6, 8, 8, 3), "u1", external=[(str(secret), 0, 1152)]),
        "link.h5": lambda f: f.__setitem__("pixels", h5py.ExternalLink(str(tmp_path / "other.h5"), "pixels")),
    }.items():
        with h5py.File(inside / name, "w") as file:
            make(file)
            file["ep_len"], file["ep_offset"] = [6], [0]
        refused(inside / name, f"{name}: pixels is stored in another file|too many links")


def test_hdf5_that_claims_rows_without_end_costs_nothing(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("pixels", (2**40, 8, 8, 3), "u1", chunks=(1, 8, 8, 3))
        file["ep_len"], file["ep_offset"] = [2**40], [0]
    refused(tmp_path, "declares 1,099,511,627,776 frames")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("pixels", (2, 60_000, 60_000, 3), "u1", chunks=(1, 20_000, 20_000, 3), compression="gzip")
        file["ep_len"], file["ep_offset"] = [2], [0]
    refused(tmp_path, "store it in smaller ones")


@pytest.mark.parametrize("name", ["strings.hdf5", "rows.hdf5"])
def test_a_heap_of_hdf5_without_an_end_is_refused(name):
    """HDF5 2.0 walks through it for ever, within one call: found by `guided` in a file's attribute, and in its rows."""
    code = f"from dila.data import open_corpus; open_corpus({str(DAMAGED / name)!r}).episodes[0].read([0])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "DilaError: " in ended.stderr
    assert "damaged heap" in ended.stderr


def test_hdf5_whose_lengths_are_not_of_eight_bytes_is_refused(tmp_path):
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    h5py.h5f.create(str(tmp_path / "a.h5").encode(), h5py.h5f.ACC_TRUNC, plist).close()
    refused(tmp_path, "not eight bytes")


# Pickles and checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04N" + b"r\xff\xff\xff\xff" + b".",  # a mark with the number 4,294,967,295: 64 GB in Python's own
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # a bytearray of a terabyte
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # bytes of a terabyte
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".",  # a frame
        b"\x80\x04]\x94" + b"h\x00a" * 1 + b".",  # a list in itself
        b"\x80\x02]q\x00" + b"".join(b"(h%ch%ctq%c" % (i, i, i + 1) for i in range(60)) + b".",  # 2 ** 60 lists
        pickle.dumps(10**4000, 0),
    ],
)  # fmt: skip
def test_pickles_that_fill_the_memory_are_refused_or_small(tmp_path, data):
    path = tmp_path / "traj_data.pkl"
    path.write_bytes(data)
    with suppress(DilaError):
        load_arrays(path)


def test_an_honest_pickle_that_shares_its_parts_keeps_them_shared(tmp_path):
    row = [1.0, 2.0]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": [row, row], "b": np.arange(3)}))
    got = load_arrays(tmp_path / "a.pkl")
    assert got["a"][0] is got["a"][1]
    assert got["b"].tolist() == [0, 1, 2]


def test_a_checkpoint_that_is_packed_is_not_unpacked(tmp_path):
    seeds.trainer(tmp_path)
    whole, packed = tmp_path / "trainer.pt", tmp_path / "packed.pt"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.namelist():
            new.writestr(record, old.read(record) + bytes(10**5))
    packed.replace(whole)
    with pytest.raises(DilaError, match="is compressed, which torch"):
        load_trainer(tmp_path)


def test_a_checkpoint_that_runs_code_does_not(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"step": 1, "harm": Harm()}, tmp_path / "trainer.pt")
    with pytest.raises(DilaError, match=r"trainer\.pt cannot be loaded"):
        load_trainer(tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("model", ("backbone", "spatial_depth"), 10**9),
        ("model", ("memory", "state_dim"), 10**12),
        ("model", ("idm", "channels"), [8] * 1000),
        ("model", ("fdm", "heads"), -1),
        ("decoder", ("feature_dim",), 2**20),
        ("decoder", ("grid",), [0, 0]),
        ("decoder", ("size",), 10**9),
    ],
)
def test_a_config_of_a_monstrous_model_is_refused(tmp_path, part, field, value):
    folder = tmp_path / "model"
    seeds.model(folder)
    described = json.loads((folder / "config.json").read_text())
    place = described[part]
    for key in field[:-1]:
        place = place[key]
    place[field[-1]] = value
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(DilaError, match=str(folder)):
        load_pretrained(folder)


# Anything at all -------------------------------------------------------------------------------------------------

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=8,
)


@LIGHT
@given(changes=st.dictionaries(st.sampled_from(["fps", "features", "data_path", "video_path", "chunks_size", "splits",
                                                "codebase_version"]), ANY, max_size=3))  # fmt: skip
def test_any_info_of_a_data_set(true_data_set, changes):
    root, described = true_data_set
    (root / "meta" / "info.json").write_text(json.dumps(described | changes))
    quietly_read(root)


@LIGHT
@given(changes=st.dictionaries(st.sampled_from(["format", "kind", "model", "encoder", "statistics", "decoder", "stride",
                                                "frames", "notes"]), ANY, min_size=1, max_size=2))  # fmt: skip
@example(changes={"kind": ["dila"]})  # found by the fuzzing of bytes
def test_any_config_of_a_trained_model(true_model, changes):
    root, described = true_model
    (root / "config.json").write_text(json.dumps(described | changes))
    with suppress(DilaError):
        load_pretrained(root)


@LIGHT
@given(document=ANY)
def test_any_document_of_actions(true_pictures, document):
    root = true_pictures
    (root / "a" / "actions.json").write_text(json.dumps({"actions": document, "states": document}))
    quietly_read(root)


@LIGHT
@given(data=st.lists(st.sampled_from([bytes([op]) for op in range(256)]) | st.binary(max_size=9), max_size=40))
def test_any_opcodes_of_a_pickle(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(data) + b".")
    with suppress(DilaError):
        load_arrays(path)


@pytest.fixture(scope="module")
def true_data_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("true")
    seeds.lerobot2(root)
    return root, json.loads((root / "meta" / "info.json").read_text())


@pytest.fixture(scope="module")
def true_model(tmp_path_factory):
    root = tmp_path_factory.mktemp("true") / "model"
    seeds.model(root)
    return root, json.loads((root / "config.json").read_text())


@pytest.fixture(scope="module")
def true_pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("true")
    seeds.images(root / "a")
    return root


def quietly_read(root):
    try:
        corpus = open_corpus(root)
    except DilaError:
        return
    assert not any(" is damaged (" in one.reason for one in corpus.skipped), corpus.skipped
    for episode in corpus.episodes:
        try:
            episode.read([0, len(episode.times) - 1])
            dict(episode.columns)
        except DilaError:
            continue


def test_a_parquet_whose_statistics_contradict_its_schema_is_refused(tmp_path):
    seeds.with_table(tmp_path)
    shutil.copy(DAMAGED / "size_statistics.parquet", tmp_path / "actions.parquet")
    code = f"from dila.data import open_corpus; open_corpus({str(tmp_path)!r})"  # it ended the process
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DilaError: " in ended.stderr
    assert "actions.parquet is not a readable parquet file: Definition level histogram" in ended.stderr
