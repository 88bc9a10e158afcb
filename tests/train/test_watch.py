from unittest.mock import Mock

import torch

from dila.protocols import FrameDecoder
from dila.train.watch import HeldOut, Predicted, Seen, _spread, coloured


def test_colours_are_the_same_for_equal_features_and_show_what_differs():
    e = torch.randn(1, 3, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    truth, same, other = coloured([e, e, e.flip(1)])
    assert truth.shape == (1, 3, 3, 96, 96)
    assert torch.equal(truth, same)
    assert torch.equal(truth.flip(1), other)
    assert 0 <= float(truth.min()) < 0.1
    assert 0.9 < float(truth.max()) <= 1


def test_pictured_clips_lie_far_apart_and_others_stand_in_for_them():
    assert _spread(16)[:3] == [0, 15, 1]
    assert sorted(_spread(5)) == [0, 1, 2, 3, 4]
    assert _spread(1) == [0]


def test_the_decoder_alone_is_shown_beside_the_model():
    e = torch.rand(1, 4, 2, 2, 3)
    held = object.__new__(HeldOut)
    held.device, held.shown, held.e, held.frames = torch.device("cpu"), [0], e, torch.zeros(1, 4, 3, 2, 2).byte()
    decoder = Mock(spec=FrameDecoder, decode=lambda e: e.movedim(-1, -3))
    rows = held._rows(Predicted(torch.zeros(1, 3, 2), e[:, 1:] * 0, None, None), decoder)
    assert list(rows) == ["clip 1, true", "clip 1, true features, drawn", "clip 1, one step ahead"]
    assert torch.equal(rows["clip 1, true features, drawn"], (e[0].movedim(-1, -3) * 255).round().byte())
    held.frames = None
    assert list(held._rows(Predicted(torch.zeros(1, 3, 2), e[:, 1:] * 0, None, None), None)) == [
        "clip 1, true",
        "clip 1, one step ahead",
    ]


def test_a_contact_sheet_names_its_rows_and_thins_long_clips(tmp_path):
    from PIL import Image

    clip = torch.zeros(32, 3, 20, 20, dtype=torch.uint8)
    plain, named = tmp_path / "plain.png", tmp_path / "named.png"
    Seen({}, {"": clip}).save(plain)
    Seen({}, {"clip 1, rolled out": clip}).save(named)
    with Image.open(plain) as without, Image.open(named) as with_words:
        assert with_words.size[0] == without.size[0] == 16 * 24
        assert with_words.size[1] > without.size[1] or len(with_words.getcolors(9999)) > len(without.getcolors(9999))
