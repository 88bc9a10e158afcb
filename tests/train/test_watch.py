import torch

from dila.train.watch import Seen, coloured


def test_colours_are_the_same_for_equal_features_and_show_what_differs():
    e = torch.randn(1, 3, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    truth, same, other = coloured([e, e, e.flip(1)])
    assert truth.shape == (1, 3, 3, 96, 96)
    assert torch.equal(truth, same)
    assert torch.equal(truth.flip(1), other)
    assert 0 <= float(truth.min()) < 0.1
    assert 0.9 < float(truth.max()) <= 1


def test_a_contact_sheet_names_its_rows_and_thins_long_clips(tmp_path):
    from PIL import Image

    clip = torch.zeros(32, 3, 20, 20, dtype=torch.uint8)
    plain, named = tmp_path / "plain.png", tmp_path / "named.png"
    Seen({}, {"": clip}).save(plain)
    Seen({}, {"clip 1, rolled out": clip}).save(named)
    with Image.open(plain) as without, Image.open(named) as with_words:
        assert with_words.size[0] == without.size[0] == 16 * 24
        assert with_words.size[1] > without.size[1] or len(with_words.getcolors(9999)) > len(without.getcolors(9999))
