import json

import numpy as np
import pytest
import torch
from PIL import Image

from dila.data.corpus import open_corpus
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


@pytest.mark.parametrize("text", ["{", '{"fps": 0}', '{"fps": "x"}', "[1]", '{"fps": NaN}'])
def test_bad_meta_is_named(tmp_path, text):
    save(tmp_path / "a", 2)
    (tmp_path / "a" / "meta.json").write_text(text)
    with pytest.raises(DilaError, match=r"meta\.json"):
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


def test_fingerprint_follows_names_and_content(tmp_path):
    save(tmp_path / "a", 5)
    (episode,) = open_corpus(tmp_path / "a").episodes
    before = episode.fingerprint()
    assert open_corpus(tmp_path / "a").episodes[0].fingerprint() == before
    Image.new("RGB", (8, 6), (200, 0, 0)).save(tmp_path / "a" / "frame_4.png")
    assert episode.fingerprint() != before
