import importlib.util
import sys

import numpy as np
import pytest
import torch

if any(importlib.util.find_spec(package) is None for package in ("robosuite", "miniworld", "trimesh", "moderngl")):
    pytest.skip("the packages with the meshes are not installed", allow_module_level=True)

from dila.data import objects3d, open_corpus, paint3d, split_episodes
from dila.data.lerobot_write import CAMERA
from dila.data.meshes3d import HELD_OUT, OBJECTS, OWN, TEXTURES, load_mesh, load_texture
from dila.data.objects3d import EVERY, ObjectRenderer, render_objects3d
from dila.data.primitives import HIGH, KINDS, LOW
from dila.errors import DilaError, MissingExtra

PLAIN = np.full((4, 4, 3), 200, np.uint8)
FRONT = np.array([0.0, 0.0, 1.0])


def draw(name, states, turn=None, side=128, surface=PLAIN, light=FRONT):
    mesh = load_mesh(name)
    return objects3d._painter().draw(
        mesh, mesh.wrapped, surface, np.eye(3) if turn is None else turn, light, np.array(states), 0.22, side
    )


def moments(alpha):
    axis = (torch.arange(len(alpha)) + 0.5) / len(alpha)
    mass = alpha.sum()
    x, y = (alpha.sum(0) * axis).sum() / mass, (alpha.sum(1) * axis).sum() / mass
    dx, dy = axis[None, :] - x, axis[:, None] - y
    xx, yy, xy = (alpha * dx**2).sum(), (alpha * dy**2).sum(), (alpha * dx * dy).sum()
    return float(x), float(y), float(mass), float(0.5 * torch.atan2(2 * xy, xx - yy))


def test_the_picture_is_where_the_state_says():
    """A lying beam: its middle, size and angle, measured by the moments of its opacity."""
    lying = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])  # the beam's long axis from up to the right
    rest, moved = draw("beam", [[0.5, 0.5, 0, 0], [0.35, 0.6, 0.25, 0.5]], lying, side=512)[:, 3]
    x, y, small, angle = moments(rest)
    assert np.allclose([x, y, angle], [0.5, 0.5, 0], atol=0.01)
    x, y, large, angle = moments(moved)
    assert np.allclose([x, y], [0.35, 0.6], atol=0.01)
    assert abs(angle - 0.5) < 0.02, "clockwise in the picture, where y points down"
    assert abs(large / small - np.exp(0.5)) < 0.03


def test_objects_stand_upright_and_are_lit_from_the_light():
    # A traffic cone is wide at its foot.
    rows = draw("cone", [[0.5, 0.5, 0, 0]])[0, 3].sum(1)
    seen = rows[rows > 0]
    assert seen[-len(seen) // 4 :].mean() > 2 * seen[: len(seen) // 4].mean()
    left = draw("ball", [[0.5, 0.5, 0, 0]], light=np.array([-1.0, 0, 0.5]))[0, :3].mean(0)
    assert left[:, :64].sum() > 1.2 * left[:, 64:].sum()
    above = draw("ball", [[0.5, 0.5, 0, 0]], light=np.array([0, 1.0, 0.5]))[0, :3].mean(0)
    assert above[:64].sum() > 1.2 * above[64:].sum()


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_whole_and_inside_its_sphere(name):
    mesh = load_mesh(name)
    assert np.isfinite(np.concatenate([mesh.position, mesh.normal], 1)).all()
    assert abs(np.linalg.norm(mesh.position, axis=1).max() - 1) < 1e-5
    surface = load_texture(OWN[name][1]) if name in OWN else load_texture(TEXTURES[0])
    front = draw(name, [[0.5, 0.5, 0, 0.3]], objects3d._view(np.random.default_rng(0)), surface=surface)[0]
    inside = front[3] > 0
    assert 0.01 < inside.float().mean() < 0.16
    assert not inside[: 128 // 5].any()
    assert front[:3][:, inside].std() > 0.02, "flat, or not lit"


def test_all_textures_are_there_and_combinations_are_hundreds():
    assert all(load_texture(path).std() > 1 for path in TEXTURES)
    assert len(OBJECTS) * len(TEXTURES) > 1000
    assert set(OBJECTS) > HELD_OUT


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_moves_what_it_says(kind):
    columns = ObjectRenderer(12, 32, 0, kind, False)(0).columns
    moved = np.ptp(columns["state"], axis=0) > 1e-6
    assert moved.tolist() == ["translation" in kind] * 2 + ["scaling" in kind, "rotation" in kind]
    np.testing.assert_allclose(np.diff(columns["state"], axis=0), columns["action"][:-1], atol=1e-6)
    assert (columns["state"] >= LOW - 1e-6).all()
    assert (columns["state"] <= HIGH + 1e-6).all()
    assert KINDS[int(columns["kind"][0, 0])] == kind


def test_held_out_objects_are_in_held_out_episodes_only():
    for number in range(2 * EVERY):
        columns = ObjectRenderer(2, 32, 5, "mixed", False)(number).columns
        held_out = number % EVERY == EVERY - 1
        assert columns["held_out"].tolist() == [[held_out]] * 2
        assert (OBJECTS[int(columns["object"][0, 0])] in HELD_OUT) == held_out
        assert 0 <= columns["texture"][0, 0] <= len(TEXTURES) + 1


def test_a_lerobot_recording_keeps_its_held_out_objects_from_training(tmp_path):
    corpus = open_corpus(render_objects3d(tmp_path / "d", 2 * EVERY, frames=2, size=32, seed=5, progress=False))
    sides = split_episodes(corpus, 0.5)
    assert [len(side) for side in sides] == [2 * EVERY - 2, 2]
    for side, held_out in zip(sides, (False, True), strict=True):
        assert all((OBJECTS[int(e.columns["object"][0, 0])] in HELD_OUT) == held_out for e in side)
        assert all(bool(e.columns["held_out"].all()) == held_out for e in side)


def test_a_recording_without_held_out_objects_is_split_by_drawing(tmp_path):
    corpus = open_corpus(render_objects3d(tmp_path / "d", 3, frames=2, size=32, seed=5, progress=False))
    assert [len(side) for side in split_episodes(corpus)] == [2, 1]


def test_the_background_moves_alone_and_changes_nothing_else():
    still, moving = (ObjectRenderer(10, 48, 5, "mixed", moves)(2) for moves in (False, True))
    for key in ("action", "state", "kind", "object", "texture"):
        np.testing.assert_array_equal(still.columns[key], moving.columns[key])
    assert np.ptp(still.columns["background"], axis=0).tolist() == [0, 0, 0]
    assert (np.ptp(moving.columns["background"], axis=0) > 0.005).all()
    assert torch.equal(still.frames[0], moving.frames[0])
    assert not torch.equal(still.frames[-1], moving.frames[-1])


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_data_set_is_the_same_for_any_number_of_workers(tmp_path, workers):
    import json

    for out, many in (("a", 1), ("b", workers)):
        render_objects3d(tmp_path / out, 3, frames=4, size=32, seed=9, workers=many, progress=False)
    files = [p for p in (tmp_path / "a").rglob("*") if p.is_file()]
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    info = json.loads((tmp_path / "a" / "meta" / "info.json").read_text())
    assert info["features"]["observation.state"]["names"] == ["x", "y", "log_scale", "angle"]
    assert info["features"][CAMERA]["shape"] == [32, 32, 3]
    assert {"object", "texture", "held_out", "kind", "background"} <= set(info["features"])


def test_nonsense_a_missing_package_and_a_missing_driver_are_told(tmp_path, monkeypatch):
    for bad in ({"size": 33}, {"frames": 1}, {"fps": 0}, {"kind": "melting"}):
        with pytest.raises(DilaError):
            render_objects3d(tmp_path, 1, progress=False, **bad)
    import moderngl

    def broken(**_):
        raise OSError("libEGL.so.1: cannot open shared object file")

    monkeypatch.setattr(moderngl, "create_context", broken)
    with pytest.raises(DilaError, match=r"libEGL.*install EGL.*or record primitives"):
        paint3d.Painter()
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "robosuite" else real(name))
    monkeypatch.delitem(sys.modules, "robosuite", raising=False)
    with pytest.raises(MissingExtra, match=r"robosuite.*dila-wm\[sim\]"):
        render_objects3d(tmp_path, 1, progress=False)
