import base64
import xml.etree.ElementTree as ET
from io import BytesIO
from sys import modules

import pytest
import torch
from PIL import Image

from dila.data import probe_video
from dila.demo.look import _data, axis_names, look, plane, scatter, sheet
from dila.demo.pairs import freeze_rows, rebind_rows, transfer_rows, write_rows
from dila.errors import DilaError, MissingExtra
from dila.imagine.pictures import GAP


@pytest.fixture(scope="module")
def inside(box, clips):
    return look(box, clips[0])


def test_structure_and_content_are_drawn_and_differ(inside, clips):
    assert inside.structure.shape == inside.content.shape == clips[0].shape
    assert not inside.structure.equal(inside.content)
    assert inside.structure.float().std(0).mean() > 1  # it moves
    assert inside.z.shape == (11, 32)
    assert sheet(inside).size[0] > 8 * 128


def test_the_plane_keeps_distances_of_what_lies_in_one():
    flat = torch.randn(9, 2)
    points = plane(flat @ torch.linalg.qr(torch.randn(5, 5)).Q[:2])
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(flat, flat), atol=1e-4, rtol=1e-4)
    assert plane(torch.randn(4, 1)).shape == (4, 2)


def test_both_axes_have_one_scale_and_their_shares():
    z = torch.tensor([[0.0, 0.0], [4.0, 0.0], [8.0, 1.0], [0.0, 1.0]])
    svg = ET.fromstring(scatter(z, torch.zeros(5, 3, 8, 8, dtype=torch.uint8), "z", axis_names(z)))
    x, y = (torch.tensor([float(dot.get(key)) for dot in svg if dot.tag == "circle"]) for key in ("cx", "cy"))
    assert float((x.max() - x.min()) / (y.max() - y.min())) == pytest.approx(8, rel=0.01)
    assert float(y.min()) > 24  # below the title
    assert axis_names(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])) == ("PC 1 of z (100% of its variance)", "PC 2 of z (0%)")


def test_umap_where_it_is_missing_or_has_too_little(monkeypatch):
    monkeypatch.setitem(modules, "umap", None)
    with pytest.raises(MissingExtra, match="analysis"):
        plane(torch.randn(20, 4), "UMAP")


def test_the_scatter_is_whole_and_has_two_pictures_a_dot(inside):
    svg = ET.fromstring(scatter(plane(inside.z), inside.frames, "z <of> a clip", axis_names(inside.z)))
    words = " ".join("".join(part.itertext()) for part in svg if part.tag == "text")
    assert "z <of> a clip; early to late" in words
    assert "of its variance)" in words
    dots = [part.get("id") for part in svg if part.tag == "circle"]
    shown = {group.get("id"): [part.tag for part in group].count("image") for group in svg if group.tag == "g"}
    assert dots == [f"dot{k}" for k in range(len(inside.z))]
    assert shown == {f"pair{k}": 2 for k in range(len(inside.z))}
    assert all(image.get("href").startswith("data:image/jpeg;base64,") for image in svg.iter("image"))
    assert "http" not in "".join(image.get("href")[:30] for image in svg.iter("image"))


def test_a_thumbnail_keeps_its_shape():
    data = _data(torch.zeros(3, 40, 160, dtype=torch.uint8)).partition(",")[2]
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (72, 18)


def test_films_of_two_clips_show_what_they_say(box, clips, tmp_path):
    source, target = clips[0], clips[1][:9]
    rows = transfer_rows(box, source, target)
    assert rows["target, true"].equal(target[1:])
    assert (rows["source's actions here"].int() - box.draw(box.transfer(source, target).e).int()).abs().max() == 0
    path = write_rows(rows, tmp_path / "film.mp4", 0.67)
    assert len(probe_video(path)) == 8
    film = probe_video(path)
    assert film.times[-1] == pytest.approx(7 * 0.67, rel=1e-3)
    assert film.size[1] == 3 * (320 + 2 * GAP)
    wide = transfer_rows(box, source, target.repeat_interleave(2, -1))
    assert wide["source's actions here"].shape[-2:] == (64, 128)
    assert rebind_rows(box, target.repeat_interleave(2, -1), source)["rebound"].shape[-2:] == (64, 128)
    assert freeze_rows(box, target.repeat_interleave(2, -1))["structure held still"].shape[-2:] == (64, 128)
    assert rebind_rows(box, source, target)["rebound"].shape == (11, 3, 128, 128)
    assert freeze_rows(box, source)["structure held still"].shape == (11, 3, 128, 128)


def test_a_model_without_structure_is_told(box, clips, monkeypatch):
    monkeypatch.setattr(box, "model", torch.nn.Identity())
    with pytest.raises(DilaError, match="only a DiLA has structure and content, but this model is a Identity"):
        look(box, clips[0])
