"""The shape of z: arrows of its pictures, and robots and players that turn."""

import json
import pickle
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from dila.analysis.manifold import pca
from dila.data.video import write_video
from dila.evaluate.bench import Bench, Settings, open_bench
from dila.evaluate.manifold import _arrows, _draw_plane, _topology, measure_manifold
from dila.evaluate.probing import Transitions


def test_an_arrow_is_as_long_as_its_parameter_is_told_and_untold_has_none():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(400, 2, generator=generator)
    z = torch.stack([3 * y[:, 0], torch.randn(400, generator=generator)], dim=1)
    held = Transitions({"z": z}, y, torch.arange(400) // 7)
    plane = pca(z)
    (told,) = _arrows(held, ("told", "untold"), plane)
    assert told.name == "told"
    assert abs(told.x) == pytest.approx(float(plane.points.abs().quantile(0.99)), rel=0.02)


@pytest.mark.parametrize(("change", "said"), [(True, "change of x"), (False, "x")])
def test_a_change_is_called_one(tmp_path, change, said):
    pytest.importorskip("matplotlib")
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    bench = Mock(spec=Bench, settings=SimpleNamespace(change=change), out=tmp_path)
    held = Transitions({"z": z, "kind": torch.zeros(60, dtype=torch.long)}, z[:, :1], torch.arange(60) // 7)
    for kind in ("pca", "umap"):
        (caption,) = _draw_plane(bench, held, ("x",), pca(z), kind).values()
        assert caption.startswith(
            f"Latent actions of held-out episodes on a plane ({kind.upper()}), coloured by the true {said}"
        )


def test_a_constant_component_of_the_truth_changes_no_neighbours():
    y = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    z = y @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])
    owner = torch.arange(120) // 7
    told = [
        _topology(Transitions({"z": z}, truth, owner), z[:, :2], "pca")
        for truth in (y, torch.cat([y, torch.full((120, 1), 0.1)], dim=1), y + 1000)
    ]
    values = [{score.name: score.value for score in scores} for scores in told]
    assert values[0]["trustworthiness/z_of_truth"] > 0.95
    assert values[1] == pytest.approx(values[0])
    assert values[2] == pytest.approx(values[0], abs=0.01)


def recon(folder, frames, yaw):
    folder.mkdir(parents=True)
    for f, picture in enumerate(frames):
        Image.fromarray(picture).save(folder / f"{f}.jpg")
    (folder / "traj_data.pkl").write_bytes(pickle.dumps({"position": np.zeros((len(yaw), 2)), "yaw": yaw}))


def loopnav(folder, frames, yaw):
    folder.mkdir(parents=True)
    write_video(folder / "0.mp4", torch.from_numpy(frames).permute(0, 3, 1, 2), 5)
    action = [
        {"forward": f % 2 == 0, "left": bool(turn > 0), "right": bool(turn < 0)} for f, turn in enumerate(np.diff(yaw))
    ]
    action.append({"forward": False, "left": False, "right": False})
    records = [
        {"x": 0, "y": 0, "z": 0, "yaw": each, "pitch": 0, "action": a} for each, a in zip(yaw, action, strict=True)
    ]
    (folder / "0.json").write_text(json.dumps(records))


@pytest.mark.parametrize(
    ("write", "asked", "names"),
    [
        (recon, {"column": "state", "components": ("yaw",), "change": True}, ("yaw",)),
        (loopnav, {"components": ("forward", "left", "right")}, ("forward", "left", "right")),
    ],
)
def test_turns_of_robots_and_players_have_their_pictures_and_scores(
    exported, tmp_path, monkeypatch, write, asked, names
):
    """Figure 6D: RECON and LoopNav, on data of their layout."""
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "umap", None)
    generator = np.random.default_rng(0)
    for number in range(12):
        yaw = generator.normal(0, 0.2, 12).cumsum()
        view = generator.integers(0, 255, (32, 96, 3), dtype=np.uint8)
        frames = np.stack([np.roll(view, round(30 * turn), 1)[:, :32] for turn in yaw])
        write(tmp_path / "data" / f"trajectory_{number}", frames, yaw)
    settings = Settings(frames=6, clips=4, pairs=48, **asked)
    bench = open_bench(
        exported,
        str(tmp_path / "data"),
        tmp_path,
        settings,
        device="cpu",
        cache_dir=tmp_path / "c",
        held_out=0.5,
        fps=5.0,
    )
    told = measure_manifold(bench)
    scores = {score.name for score in told.scores}
    assert {f"r2/{name}" for name in names} <= scores
    assert ("angular_correlation/yaw" in scores) == (write is recon)
    assert {f"manifold_pca_{name}.png" for name in names} <= set(told.pictures)
