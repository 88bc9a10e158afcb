import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dila.data import reading
from dila.data.corpus import open_corpus
from dila.data.reading import picture_from
from dila.errors import DilaError


def save(folder, count, suffix="png", size=(8, 6)):
    folder.mkdir(parents=True, exist_ok=True)
    for f in range(count):
        Image.new("RGB", size, (f, 2 * f, 255 - f)).save(folder / f"frame_{f}.{suffix}")


def test_images_are_read_in_natural_order(tmp_path):
    save(tmp_path / "ep", 12)
    (episode,) = open_corpus(tmp_path / "ep").episodes
    assert episode.id == "ep"
    got = episode.read([11, 2, 2, 10])
    assert got.shape == (4, 3, 6, 8)
    assert got.dtype == torch.uint8
    assert got[:, :, 0, 0].tolist() == [[11, 22, 244], [2, 4, 253], [2, 4, 253], [10, 20, 245]]


def test_frame_rate_from_argument_then_meta_then_ten(tmp_path):
    save(tmp_path / "a", 5, "jpg")
    save(tmp_path / "b", 5)
    (tmp_path / "b" / "meta.json").write_text(json.dumps({"fps": 4}))
    a, b = open_corpus(tmp_path).episodes
    np.testing.assert_allclose(a.times, np.arange(5) / 10)
    np.testing.assert_allclose(b.times, np.arange(5) / 4)
    np.testing.assert_allclose(open_corpus(tmp_path, fps=5).episodes[1].times, np.arange(5) / 5)


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["f_7", "f_8", "f_10", "f_11", "f_12"], [0, 1, 3, 4, 5]),
        (["0002", "0004", "0008", "0010"], [0, 1, 3, 4]),
        (["a", "b", "d"], [0, 1, 2]),
        (["a_1", "a_2", "b_9"], [0, 1, 2]),
        (["f_1", "f_01", "f_9"], [0, 1, 2]),
        ([str(1_700_000_000_000 + t) for t in (0, 33, 67, 100, 180)], [0, 1, 2, 3, 4]),
    ],
)
def test_missing_numbers_are_gaps_in_the_times(tmp_path, names, places):
    for name in names:
        Image.new("RGB", (8, 6)).save(tmp_path / f"{name}.png")
    assert open_corpus(tmp_path, fps=10).episodes[0].times.tolist() == [place / 10 for place in places]


@pytest.mark.parametrize("text", ["{", '{"fps": 0}', '{"fps": "x"}', "[1]", '{"fps": NaN}'])
def test_bad_meta_is_named(tmp_path, text):
    save(tmp_path / "a", 2)
    (tmp_path / "a" / "meta.json").write_text(text)
    with pytest.raises(DilaError, match=r"meta\.json"):
        open_corpus(tmp_path / "a")


def test_what_is_read_of_meta_has_bounds(tmp_path, monkeypatch):
    save(tmp_path / "a", 2)
    (tmp_path / "a" / "meta.json").write_text('{"fps": 4}' + 99 * " ")
    monkeypatch.setattr(reading, "MAX_TEXT", 99)
    with pytest.raises(DilaError, match=r"meta\.json is not readable JSON \(it has more than 99 bytes\)"):
        open_corpus(tmp_path / "a")


def test_images_of_another_size_or_damaged_are_named(tmp_path):
    save(tmp_path / "a", 3)
    Image.new("RGB", (9, 9)).save(tmp_path / "a" / "frame_1.png")
    (tmp_path / "a" / "frame_2.png").write_bytes((tmp_path / "a" / "frame_2.png").read_bytes()[:40])
    (episode,) = open_corpus(tmp_path / "a").episodes
    episode.read([0])
    with pytest.raises(DilaError, match=r"frame_1\.png is 9 x 9, but the first image of its folder is 8 x 6"):
        episode.read([0, 1])
    with pytest.raises(DilaError, match=r"frame_2\.png is not a readable"):
        episode.read([2])
    with pytest.raises(DilaError, match="has frames 0 to 2"):
        episode.read([3])


@pytest.mark.parametrize(("suffix", "orientation"), [("jpg", o) for o in range(1, 9)] + [("png", 6)])
def test_pictures_are_turned_as_their_exif_data_says(suffix, orientation, tmp_path):
    tags, picture = Image.Exif(), np.zeros((16, 32, 3), np.uint8)
    tags[0x0112], picture[:8, :8] = orientation, 250
    (tmp_path / "a").mkdir()
    Image.fromarray(picture).save(
        tmp_path / "a" / f"0.{suffix}", exif=tags, **({"quality": 95} if suffix == "jpg" else {})
    )
    (episode,) = open_corpus(tmp_path / "a").episodes
    with Image.open(tmp_path / "a" / f"0.{suffix}") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    assert episode.size == wanted.shape[:2]
    np.testing.assert_array_equal(episode.read([0])[0].permute(1, 2, 0).numpy(), wanted)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_turns_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "a" / "0.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09nonsense")
    (episode,) = open_corpus(tmp_path / "a").episodes
    assert episode.read([0]).shape == (1, 3, 6, 8)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    grey = np.linspace(0, 65_535, 48).astype(np.uint16).reshape(6, 8)
    (tmp_path / "a").mkdir()
    Image.fromarray(grey).save(tmp_path / "a" / "0.png")
    (episode,) = open_corpus(tmp_path / "a").episodes
    got = episode.read([0])[0].numpy()
    np.testing.assert_array_equal(got, np.broadcast_to(grey // 256, got.shape))
    np.testing.assert_array_equal(picture_from((tmp_path / "a" / "0.png").read_bytes(), "a"), got.transpose(1, 2, 0))


def test_fingerprint_follows_names_and_content(tmp_path):
    save(tmp_path / "a", 5)
    (episode,) = open_corpus(tmp_path / "a").episodes
    before = episode.fingerprint()
    assert open_corpus(tmp_path / "a").episodes[0].fingerprint() == before
    Image.new("RGB", (8, 6), (200, 0, 0)).save(tmp_path / "a" / "frame_4.png")
    assert episode.fingerprint() != before


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif", ".tiff"])
def test_other_types_of_pictures_are_frames(tmp_path, suffix):
    for f in range(3):
        Image.new("RGB", (12, 10), (40 * f, 200, 9)).save(tmp_path / f"{f}{suffix}", lossless=True)
    (episode,) = open_corpus(tmp_path).episodes
    assert episode.read([2, 0])[:, :, 3, 3].tolist() == [[80, 200, 9], [0, 200, 9]]


@pytest.mark.parametrize("suffix", [".webp", ".tiff"])
def test_a_file_of_several_pages_is_refused(tmp_path, suffix):
    Image.new("RGB", (8, 8)).save(
        tmp_path / f"0{suffix}", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]
    )
    with pytest.raises(DilaError, match="several pages"):
        open_corpus(tmp_path)


def test_pixels_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "0.tiff")
    with pytest.raises(DilaError, match="32-bit pixels"):
        open_corpus(tmp_path)
