import io
import json
import multiprocessing
import pickle
import shutil
import sys

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from dila.data import hdf5, reading
from dila.data.clips import Clips
from dila.data.corpus import open_corpus, split_episodes
from dila.data.hdf5 import Hdf5Episode, opened
from dila.data.hdf5_heap import HeapChecked
from dila.errors import DilaError

LENGTHS = {"demo_1": 7, "demo_2": 5, "demo_10": 6}


def pixels(shades, count, first):
    return shades(count, first, size=16).permute(0, 2, 3, 1).numpy()


def jpegs(pictures):
    encoded = []
    for picture in pictures:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "JPEG", quality=95)
        encoded.append(out.getvalue())
    return encoded


@pytest.fixture
def robomimic(tmp_path, shades):
    """As VP2 keeps it: demos from 1 on, two cameras, states, masks; everything says which frame it belongs to."""
    path = tmp_path / "demo.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(LENGTHS.values())
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 5}})
        for demo, count in LENGTHS.items():
            group = data.create_group(demo)
            group.attrs["num_samples"] = count
            group["actions"] = np.stack([np.arange(count), -np.arange(count)], axis=1).astype(np.float64)
            group["states"] = np.arange(count)[:, None] * 1.0
            group["rewards"] = np.zeros(count)
            obs = group.create_group("obs")
            obs.create_dataset("agentview_shift_2_image", data=pixels(shades, count, 3), chunks=(1, 16, 16, 3))
            obs.create_dataset("wrist_image", data=pixels(shades, count, 20).transpose(0, 3, 1, 2), compression="gzip")
            obs["agentview_depth"] = np.zeros((count, 16, 16, 1), np.float32)
            obs["robot0_eef_pos"] = np.arange(count * 3).reshape(count, 3)
        file["mask/train"] = np.array([b"demo_1", b"demo_10"])
        file["mask/valid"] = np.array([b"demo_2"])
    return path


def test_robomimic_is_read_and_aligned(robomimic, check_alignment, numbers):
    corpus = open_corpus(robomimic)
    assert [e.id for e in corpus.episodes] == [
        f"demo.hdf5/{demo}/{camera}" for demo in LENGTHS for camera in ("agentview_shift_2_image", "wrist_image")
    ]
    assert corpus.skipped == ()
    first, second = corpus.episodes[:2]
    assert numbers(first.read([6, 0, 3, 3])) == [9, 3, 6, 6]
    assert numbers(second.read([0, 1, 2, 6])) == [20, 21, 22, 26]
    assert first.read([]).shape == (0, 3, 16, 16)
    np.testing.assert_allclose(first.times, np.arange(7) / 5)
    assert set(first.columns) == {"action", "state", "rewards", "robot0_eef_pos"}
    assert first.columns["action"].dtype == np.float32
    assert check_alignment(corpus.episodes, lambda _, f: [f, -f], lambda _, f: [f]) == 2 * (4 + 2 + 3)


@pytest.mark.parametrize("kind", ["jpeg", "grey"])
@pytest.mark.parametrize("layout", ["robomimic", "worldmodel"])
def test_pictures_may_be_encoded_or_grey(tmp_path, shades, numbers, kind, layout):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        place = "data/demo_0/obs/front" if layout == "robomimic" else "pixels"
        if kind == "grey":
            file[place] = pixels(shades, 6, 2)[..., 0]
        else:
            stored = file.create_dataset(place, (6,), dtype=h5py.vlen_dtype(np.uint8))
            for f, jpeg in enumerate(jpegs(pixels(shades, 6, 2))):
                stored[f] = np.frombuffer(jpeg, np.uint8)
        if layout == "robomimic":
            file["data/demo_0/obs/board"] = np.zeros((6, 3, 3), np.uint8)  # too small for a picture
            file["data/demo_0/actions"] = np.zeros((6, 2))
        else:
            file["ep_len"], file["ep_offset"] = np.array([6]), np.array([0])
    (episode,) = open_corpus(path).episodes
    assert numbers(episode.read([5, 0, 0, 1])) == [7, 2, 2, 3]


def test_listing_opens_each_data_set_once(robomimic, monkeypatch):
    opened = []
    real = h5py.Group.__getitem__
    monkeypatch.setattr(h5py.Group, "__getitem__", lambda self, key: opened.append((self.name, key)) or real(self, key))
    open_corpus(robomimic)
    inside = [place for place in opened if place[0].endswith(("obs", "demo_1"))]
    assert len(inside) == len(set(inside))


def test_rows_are_counted_once_for_all_episodes_of_a_file(worldmodel, monkeypatch):
    counted = []
    real = h5py.Dataset.__len__
    monkeypatch.setattr(h5py.Dataset, "__len__", lambda self: counted.append(self.name) or real(self))
    open_corpus(worldmodel)
    assert sorted(counted) == sorted(set(counted))


def test_a_file_is_hashed_once_for_all_its_episodes(robomimic, monkeypatch):
    episodes = open_corpus(robomimic).episodes
    hashed = []
    real = reading.hash_file
    monkeypatch.setattr(reading, "hash_file", lambda path: hashed.append(path) or real(path))
    before = [episode.fingerprint() for episode in episodes]
    assert hashed == [robomimic]
    with h5py.File(robomimic, "a") as file:
        file["more"] = 1
    assert not {episode.fingerprint() for episode in episodes} & set(before)


def test_columns_that_files_have_in_unlike_widths_are_dropped_from_clips(robomimic, monkeypatch):
    other = robomimic.with_name("other.hdf5")
    shutil.copy(robomimic, other)
    with h5py.File(other, "r+") as file:
        for demo, count in LENGTHS.items():
            del file[f"data/{demo}/states"]
            file[f"data/{demo}/states"] = np.zeros((count, 3))
    episodes = open_corpus(robomimic.parent).episodes
    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "_read_columns", None)
        clips = Clips(episodes, frames=4)
    assert set(clips.dropped) == {"state"}
    assert clips.column_shapes == {"action": (3, 1, 2), "rewards": (4, 1), "robot0_eef_pos": (4, 3)}
    assert {tuple(clip.columns) for clip in clips} == {("action", "rewards", "robot0_eef_pos")}


def test_masks_are_splits_and_cameras_stay_together(robomimic):
    corpus = open_corpus(robomimic)
    assert set(corpus.splits) == {"train", "valid"}
    train, held = split_episodes(corpus)
    assert [e.recording for e in train] == ["demo.hdf5/demo_1"] * 2 + ["demo.hdf5/demo_10"] * 2
    assert [e.recording for e in held] == ["demo.hdf5/demo_2"] * 2
    assert [len(side) for side in split_episodes(corpus, held_out=0)] == [6, 0]
    assert len(open_corpus(robomimic, camera="wrist_image")) == 3


@pytest.fixture
def libero(tmp_path, shades):
    """As ``create_dataset.py`` of LIBERO writes: after each action its result, bottom row first, and the state before.

    A frame's first row tells which it is, the others are black; ``ee_states`` are those of the frame, as its pixels.
    """
    path = tmp_path / "libero_goal" / "put_the_bowl_on_the_plate_demo.hdf5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": {"control_freq": 20}})
        data.attrs["tag"] = "libero-v1"
        for demo, count in LENGTHS.items():
            group, after = data.create_group(demo), np.arange(1, count + 1)
            frames = pixels(shades, count, 1).copy()
            frames[:, 1:] = 0
            obs = group.create_group("obs")
            for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                obs[camera] = frames[:, ::-1]
            obs["ee_states"] = np.repeat(after[:, None], 6, 1) * 1.0
            group["actions"] = np.repeat(np.arange(count)[:, None], 7, 1) * 1.0
            group["states"] = np.arange(count)[:, None] * 1.0
            group["robot_states"] = np.zeros((count, 9))
            group["rewards"] = group["dones"] = (after == count).astype(np.uint8)
    return path


def test_libero_is_read_upright_and_aligned(libero, numbers):
    corpus = open_corpus(libero.parent, camera="agentview_rgb")
    assert [e.id for e in corpus.episodes] == [f"{libero.name}/{demo}/agentview_rgb" for demo in LENGTHS]
    assert len(open_corpus(libero)) == 2 * len(LENGTHS)
    first = corpus.episodes[0]
    np.testing.assert_allclose(first.times, np.arange(7) / 20)
    assert set(first.columns) == {"action", "state", "rewards", "dones", "ee_states"}
    for f, number in enumerate(range(1, 8)):
        frame = first.read([f])
        assert numbers(frame[:, :, :1]) == [number]  # its upper edge
        assert not frame[:, :, 1:].any()
        assert first.columns["ee_states"][f, 0] == number
    # Frame 0 shows state 1, from which action 1 leads to state 2, in frame 1.
    for column in ("action", "state"):
        values = first.columns[column][:, 0]
        assert values[:-1].tolist() == [1, 2, 3, 4, 5, 6]
        assert np.isnan(values[-1])
    assert first.columns["dones"][:, 0].tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_pictures_of_libero_that_are_upright_stay_so(libero):
    before = open_corpus(libero).episodes[0]
    told, frame = before.fingerprint(), before.read([0])
    with h5py.File(libero, "a") as file:
        file["data"].attrs["macros_image_convention"] = "opencv"
    (after, *_) = open_corpus(libero).episodes
    assert torch.equal(after.read([0]), frame.flip(2))
    assert after.fingerprint() != told
    assert np.isnan(after.columns["action"][-1]).all()


def test_files_beside_each_other_keep_their_names(robomimic):
    (robomimic.parent / "more").mkdir()
    (robomimic.parent / "more" / "ünï.h5").write_bytes(robomimic.read_bytes())
    ids = [e.id for e in open_corpus(robomimic.parent).episodes]
    assert ids[0] == "demo.hdf5/demo_1/agentview_shift_2_image"
    assert ids[-1] == "more/ünï.h5/demo_10/wrist_image"


def test_a_demo_that_does_not_fit_is_left_out(robomimic):
    with h5py.File(robomimic, "a") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.zeros((4, 2))
        del file["data/demo_2/obs"]
    corpus = open_corpus(robomimic)
    assert {e.recording for e in corpus.episodes} == {"demo.hdf5/demo_10"}
    first, second = (s.reason for s in corpus.skipped)
    assert "demo_1 is skipped: data/demo_1/actions has 4 rows for 7 frames" in first
    assert "demo_2 is skipped: it has no images under obs" in second


def test_one_action_fewer_than_frames_is_filled_with_nan(robomimic):
    with h5py.File(robomimic, "a") as file:
        rows = file["data/demo_1/actions"][:-1]
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = rows
    action = open_corpus(robomimic).episodes[0].columns["action"]
    assert action[:-1, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(action[-1]).all()


@pytest.fixture(params=["rotated", "as stepped"])
def worldmodel(request, tmp_path, shades):
    """As stable-worldmodel writes it: the last action of an episode is NaN; "as stepped" the first one is."""
    path = tmp_path / "pusht.h5"
    lengths = [6, 4, 8]
    offsets = np.cumsum([0, *lengths[:-1]])
    action = np.concatenate([np.append(np.arange(n - 1.0), np.nan) for n in lengths])
    if request.param == "as stepped":
        action = np.concatenate([np.append(np.nan, np.arange(n - 1.0)) for n in lengths])
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("pixels", data=pixels(shades, sum(lengths), 0), chunks=(1, 16, 16, 3))
        file["action"] = np.repeat(action[:, None], 2, axis=1).astype(np.float32)
        file["proprio"] = np.concatenate([np.arange(n) for n in lengths])[:, None].astype(np.float32)
        file["reward"] = np.zeros(sum(lengths), np.float32)
        file.create_dataset("variation", data=["a"] * sum(lengths), dtype=h5py.string_dtype())
        file["ep_len"], file["ep_offset"] = np.array(lengths, np.int32), offsets.astype(np.int64)
    return path


def test_worldmodel_is_read_and_aligned(worldmodel, check_alignment, numbers):
    corpus = open_corpus(worldmodel)
    assert [e.id for e in corpus.episodes] == [f"pusht.h5/episode_{e:06d}/pixels" for e in range(3)]
    assert [numbers(e.read([0]))[0] for e in corpus.episodes] == [0, 6, 10]
    assert set(corpus.episodes[0].columns) == {"action", "state", "reward"}
    assert check_alignment(corpus.episodes, lambda _, f: [f, f], lambda _, f: [f]) == 3 + 1 + 5


def test_an_index_past_the_end_is_left_out(worldmodel):
    with h5py.File(worldmodel, "a") as file:
        file["ep_len"][2] = 9
    corpus = open_corpus(worldmodel)
    assert len(corpus) == 2
    assert "episode_000002 is skipped: some of its rows 10 to 19 are missing" in corpus.skipped[0].reason


@pytest.fixture(params=["bytes", "opaque"])
def recon(request, tmp_path, shades):
    """As released: pictures as JPEG bytes, velocities, positions."""
    path = tmp_path / "jackal_2019-08-02.hdf5"
    encoded = jpegs(pixels(shades, 9, 0))
    with h5py.File(path, "w") as file:
        if request.param == "bytes":
            file["images/rgb_left"] = np.array(encoded)
        else:
            stored = file.create_dataset("images/rgb_left", (9,), dtype=h5py.vlen_dtype(np.uint8))
            for f, jpeg in enumerate(encoded):
                stored[f] = np.frombuffer(jpeg, np.uint8)
        file["commands/linear_velocity"] = np.arange(9)[:, None] / 10
        file["commands/angular_velocity"] = -np.arange(9) / 10
        file["jackal/position"] = np.stack([np.arange(9)] * 3, axis=1) * 0.5
        file["jackal/yaw"] = np.arange(9) * 0.1
        file["collision/any"] = np.zeros(9, bool)
    return path


def test_recon_is_read_and_aligned(recon, check_alignment):
    corpus = open_corpus(recon.parent)
    (episode,) = corpus.episodes
    assert episode.id == recon.name
    assert corpus.names["action"] == ("linear_velocity", "angular_velocity")
    np.testing.assert_allclose(episode.times, np.arange(9) / 4)
    assert set(episode.columns) == {"action", "state", "collision"}
    count = check_alignment(corpus.episodes, lambda _, f: [f / 10, -f / 10], lambda _, f: [f / 2, f / 2, f / 2, f / 10])
    assert count == 6


def test_episodes_travel_to_workers(robomimic, recon):
    for episode in (*open_corpus(robomimic).episodes, *open_corpus(recon).episodes):
        again = pickle.loads(pickle.dumps(episode))
        assert isinstance(again, Hdf5Episode)
        assert again.fingerprint() == episode.fingerprint()
        assert torch.equal(again.read([1, 4]), episode.read([1, 4]))
        np.testing.assert_array_equal(again.columns["action"], episode.columns["action"])


@pytest.fixture
def opening(monkeypatch):
    """Paths of the files that are opened, in order; none is open before."""
    hdf5._close_all()
    paths = []
    real = HeapChecked.__init__
    monkeypatch.setattr(HeapChecked, "__init__", lambda self, path: paths.append(path) or real(self, path))
    return paths


def test_a_file_is_left_open_between_reads_and_few_are(robomimic, opening, numbers):
    episode = open_corpus(robomimic).episodes[0]
    opening.clear()
    for _ in range(3):
        assert numbers(episode.read([1])) == [4]
    assert opening == []
    for number in range(hdf5.KEPT_OPEN):
        shutil.copy(robomimic, robomimic.with_name(f"{number}.hdf5"))
        with opened(robomimic.with_name(f"{number}.hdf5")):
            pass
    assert len(hdf5._idle) == hdf5.KEPT_OPEN
    episode.read([1])
    assert opening[-1] == robomimic
    assert len(opening) == hdf5.KEPT_OPEN + 1


def test_a_file_that_has_changed_or_could_not_be_read_is_opened_anew(robomimic, opening, numbers):
    episode = open_corpus(robomimic).episodes[0]
    with pytest.raises(DilaError, match="not a readable"), opened(robomimic):
        raise OSError("as HDF5 does")
    assert not hdf5._idle
    opening.clear()
    with h5py.File(robomimic, "a") as file:
        stored = file[episode.dataset]
        stored[:] = stored[:][::-1]
    assert numbers(episode.read([1])) == [3 + 7 - 1 - 1]
    assert opening == [robomimic]


def test_readers_at_the_same_time_have_a_handle_each(robomimic, opening):
    with opened(robomimic) as first, opened(robomimic) as second:
        assert first != second
    assert len(opening) == 2
    assert len(hdf5._idle) == 1


@pytest.mark.filterwarnings("ignore:This process")  # is multi-threaded, from Python 3.12 on
def test_a_fork_does_not_use_its_parents_handle(robomimic, numbers):
    episode = open_corpus(robomimic).episodes[0]
    episode.read([0])
    here = multiprocessing.get_context("fork")
    ours, theirs = here.Pipe()
    child = here.Process(target=lambda: theirs.send([numbers(episode.read([f % 7])) for f in range(200)]))
    child.start()
    read = [numbers(episode.read([f % 7])) for f in range(200)]
    assert ours.recv() == read == [[3 + f % 7] for f in range(200)]
    child.join()


def test_only_the_frames_asked_for_are_read(robomimic, monkeypatch):
    episode = open_corpus(robomimic).episodes[0]
    seen = []
    real = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: seen.append(key) or real(self, key))
    episode.read([5])
    episode.read([0, 6])
    episode.read([2, 3, 4])
    assert seen == [slice(5, 6), 0, 6, slice(2, 5)]


def test_damaged_empty_unknown_and_vanished_files_are_named(robomimic, tmp_path):
    episode = open_corpus(robomimic).episodes[0]
    whole = robomimic.read_bytes()
    robomimic.unlink()
    with pytest.raises(DilaError, match=r"demo\.hdf5 no longer exists"):
        episode.read([0])
    for content in (b"", b"not hdf5 at all" * 9, whole[: len(whole) // 2]):
        robomimic.write_bytes(content)
        with pytest.raises(DilaError, match=r"demo\.hdf5 is not a readable HDF5 file"):
            open_corpus(robomimic)
    with h5py.File(tmp_path / "else.h5", "w") as file:
        file["things"] = np.zeros(3)
    with pytest.raises(DilaError, match=r"else\.h5 has \['things'\], which is not a known layout"):
        open_corpus(tmp_path / "else.h5")


def test_a_compression_that_is_not_there_is_named(robomimic):
    with pytest.raises(DilaError, match="pip install hdf5plugin"), opened(robomimic):
        raise OSError("required filter 'blosc' is not registered")  # what HDF5 says


def test_without_h5py_the_extra_is_named(robomimic, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DilaError, match=r"needs the package 'h5py'.*dila-wm\[formats\]"):
        open_corpus(robomimic)


def test_a_heap_whose_name_is_read_in_two_parts_is_looked_at(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"....GCOL" + b"\x01\0\0\0" + (64).to_bytes(8, "little") + bytes(48))
    with HeapChecked(tmp_path / "a.h5") as file:
        assert file.readinto(bytearray(6)) == 6
        with pytest.raises(DilaError, match="damaged heap at byte 20"):
            file.readinto(bytearray(6))


def test_a_heap_that_claims_to_reach_past_the_file_is_walked_as_far_as_the_file(tmp_path):
    claims = (2**64 - 1).to_bytes(8, "little") + b"\x01" + bytes(7) + (2**63 - 1).to_bytes(8, "little")
    (tmp_path / "a.h5").write_bytes(b"GCOL\x01\0\0\0" + claims + bytes(16))
    with HeapChecked(tmp_path / "a.h5") as file:
        assert file.readinto(bytearray(48)) == 48


def test_strays_among_demos_cost_nothing(robomimic):
    with h5py.File(robomimic, "a") as file:
        file["data/total"] = 18
        file["data/notes"] = "recorded in June"
        file.create_group("data/extra")["numbers"] = np.zeros(3)
        file.move("data/demo_10", "data/last")
    corpus = open_corpus(robomimic)
    assert corpus.skipped == ()
    assert {e.recording for e in corpus.episodes} == {f"demo.hdf5/{one}" for one in ("demo_1", "demo_2", "last")}
    assert len(corpus.splits["train"]) == len(corpus.splits["valid"]) == 2
