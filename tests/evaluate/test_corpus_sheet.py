import numpy as np
import pytest
import torch
from PIL import Image

from dila.data import write_video
from dila.errors import DilaError
from dila.evaluate.corpus_sheet import draw_corpus
from dila.imagine import pictures
from dila.imagine.pictures import _spelt


def grey(level, length, size):
    return torch.full((length, 3, *size), level, dtype=torch.uint8)


def test_rows_are_episodes_over_the_corpus_and_none_is_stretched(tmp_path):
    for number in range(9):
        size = (32, 64) if number == 4 else (64, 32)
        write_video(tmp_path / "in" / f"{number}.mp4", grey(20 * number, 3 if number == 4 else 20, size), 10)
    shown = draw_corpus(tmp_path / "in", tmp_path / "out" / "sheet.png", episodes=3, moments=5, size=64)
    assert shown.episodes == ("0.mp4", "4.mp4", "8.mp4")
    sheet = np.asarray(Image.open(shown.path))
    assert sheet.shape == (3 * (18 + 68), 5 * 68, 3)
    row = sheet[86 + 18 : 172]  # the wide one: 32 rows of pictures, three of them, then paper
    assert abs(int(row[10, 10, 0]) - 80) < 6
    assert row[42, 10].tolist() == row[10, 3 * 68 + 10].tolist() == [255] * 3


def test_what_cannot_be_shown_is_told(tmp_path):
    write_video(tmp_path / "a.mp4", grey(9, 4, (32, 32)), 10)
    with pytest.raises(DilaError, match=r"must end in \.png"):
        draw_corpus(tmp_path, tmp_path / "sheet.jpg")
    with pytest.raises(DilaError, match="moments = 0"):
        draw_corpus(tmp_path, tmp_path / "sheet.png", moments=0)


def test_names_that_the_font_cannot_write_are_spelt_out(monkeypatch):
    assert _spelt("视频/a.mp4")[0] == "\\u89c6\\u9891/a.mp4"
    monkeypatch.setattr(pictures, "_FONT", "none.ttf")
    assert _spelt("ü/a.mp4")[0] == "\\xfc/a.mp4"
    assert _spelt("plain name.mp4")[0] == "plain name.mp4"
