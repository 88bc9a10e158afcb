import numpy as np
import pytest
import torch
from PIL import Image

from dila.data import probe_video
from dila.errors import DilaError
from dila.imagine.pictures import GAP, contact_sheet, fit_colours, paint, scaled, side_by_side, write_clip, write_sheet


def plain(length, value, size=20):
    return torch.full((length, 3, size, size), value, dtype=torch.uint8)


def test_a_sheet_has_a_row_a_clip_and_a_column_a_moment():
    sheet = np.asarray(contact_sheet({"true": plain(6, 50), "imagined": plain(5, 90)}, columns=6))
    side = 20 + 2 * GAP
    head = sheet.shape[0] // 2 - side
    assert sheet.shape == (2 * (side + head), 6 * side, 3)
    first = sheet[head : head + side]
    second = sheet[2 * head + side :]
    for k in range(6):
        assert (first[GAP:-GAP, k * side + GAP : (k + 1) * side - GAP] == 50).all()
        expected = 90 if k else 255
        assert (second[GAP:-GAP, k * side + GAP : (k + 1) * side - GAP] == expected).all()
    assert (sheet[:head] < 128).any()
    assert not (first == 255).all()


def test_a_sheet_spreads_few_columns_over_a_long_clip():
    clip = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 3, 8, 8)
    sheet = np.asarray(contact_sheet({"x": clip}, columns=3))
    row = sheet[-GAP - 1, :, 0]
    assert [int(row[12 * k + GAP]) for k in range(3)] == [0, 50, 99]


def test_a_sheet_is_written_whole(tmp_path):
    write_sheet(tmp_path / "new" / "sheet.png", {"x": plain(3, 7)})
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.size[0] == 3 * (20 + 2 * GAP)
    assert len(list((tmp_path / "new").iterdir())) == 1
    with pytest.raises(DilaError, match=r"must end in \.png"):
        write_sheet(tmp_path / "sheet.tiff", {"x": plain(3, 7)})


def test_clips_run_side_by_side_at_one_size(tmp_path):
    frames = side_by_side({"a": plain(4, 10), "b": plain(3, 200, size=10)})
    assert frames.dtype == torch.uint8
    side = 20 + 2 * GAP
    assert frames.shape[0] == 4
    assert frames.shape[3] == 2 * side
    assert (frames[1, :, -GAP - 5, side + GAP + 5] == 200).all()
    assert (frames[0, :, -GAP - 5, side + GAP + 5] == 255).all()
    write_clip(tmp_path / "pair.mp4", {"a": plain(4, 10), "b": plain(3, 200)}, fps=5)
    assert len(probe_video(tmp_path / "pair.mp4")) == 4


def test_clips_of_other_shapes_keep_theirs():
    """All were stretched to the largest rows and columns."""
    wide, square = (torch.full((2, 3, rows, columns), 90, dtype=torch.uint8) for rows, columns in ((32, 64), (20, 20)))
    frames = side_by_side({"wide": wide, "square": square})
    left, right = frames[0, 0, -32 - GAP : -GAP].split(64 + 2 * GAP, dim=1)
    assert (left[:, GAP:-GAP] == 90).all()
    assert (right[:, GAP : GAP + 32] == 90).all()
    assert (right[:, GAP + 32 :] == 255).all()


def test_a_picture_is_scaled_in_its_own_shape_or_in_anothers():
    drawn = torch.zeros(2, 4, 3, 128, 128, dtype=torch.uint8)
    assert scaled(drawn, 64).shape == (2, 4, 3, 64, 64)
    assert scaled(drawn, 128, (90, 160)).shape == (2, 4, 3, 72, 128)
    assert scaled(drawn[0, 0], 128, (160, 90)).shape == (3, 128, 72)
    assert scaled(drawn, 128, (10, 4000)).shape[-2:] == (16, 128)  # a label can still be read


def test_a_long_label_is_broken_over_lines_and_every_clip_begins_below_the_tallest():
    rows = {"a": plain(2, 10, size=64), "source's actions in target": plain(2, 30, size=64)}
    one, two = side_by_side({"a": rows["a"]}), side_by_side(rows)
    assert two.shape[2] > one.shape[2]
    head, width = two.shape[2] - one.shape[2], 64 + 2 * GAP
    assert (two[0, :, -64 - GAP : -GAP, GAP : width - GAP] == 10).all()
    assert (two[0, :, -64 - GAP : -GAP, width + GAP : -GAP] == 30).all()
    assert (two[0, :, -64 - 2 * GAP - head : -64 - 2 * GAP, width:] < 128).any()  # ink in the second line
    assert (two[0, :, : -64 - GAP, -GAP:] == 255).all()  # and nothing is cut off


def test_a_word_wider_than_its_picture_is_broken_too():
    spelt = side_by_side({"a_long_name_without_any_space_in_it": plain(1, 10, size=64)})[0]
    cut = side_by_side({"a_long_nam": plain(1, 10, size=64)})[0]
    assert spelt.shape[1] > cut.shape[1] + 14
    assert (spelt[:, :, -GAP:] == 255).all()


def test_nothing_to_show_is_an_error():
    for rows in ({}, {"x": plain(0, 1)}):
        with pytest.raises(DilaError, match="no frames to show"):
            contact_sheet(rows)


def test_colours_are_the_principal_components():
    red, green, blue = torch.eye(12)[:3]
    weights = torch.randn(6, 5, 4, 3) * torch.tensor([10.0, 3.0, 1.0])
    maps = weights @ torch.stack([red, green, blue]) + 7
    colours = fit_colours(maps)
    torch.testing.assert_close(colours.axes.abs(), torch.eye(12)[:, :3], rtol=0, atol=0.15)
    assert (colours.axes.gather(0, colours.axes.abs().argmax(0, keepdim=True)) > 0).all()
    painted = paint(colours, maps)
    assert painted.shape == (6, 3, 5, 4)
    shade = torch.corrcoef(torch.stack([painted[:, 0].flatten().float(), weights[..., 0].flatten()]))
    assert shade[0, 1] > 0.95
    assert painted.min() == 0
    assert painted.max() == 255


def test_one_fit_colours_the_same_thing_alike_at_all_times():
    maps = torch.randn(8, 4, 4, 10)
    colours = fit_colours(maps)
    torch.testing.assert_close(paint(colours, maps)[3], paint(colours, maps[3]))
    torch.testing.assert_close(fit_colours(maps.flip(0)).axes, colours.axes, rtol=1e-3, atol=1e-3)


def test_cells_are_enlarged_without_blending():
    maps = torch.randn(2, 4, 4, 6)
    colours = fit_colours(maps)
    small, large = paint(colours, maps), paint(colours, maps, (32, 64))
    assert large.shape == (2, 3, 32, 64)
    torch.testing.assert_close(large[..., 4::8, 8::16], small)
    assert len(large.unique()) == len(small.unique())


def test_two_channels_are_enough():
    painted = paint(fit_colours(torch.randn(2, 4, 4, 2)), torch.randn(2, 4, 4, 2))
    assert len(painted[:, 2].unique()) == 1
