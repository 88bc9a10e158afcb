"""The shape of z: arrows of its pictures."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from dila.analysis.manifold import pca
from dila.evaluate.bench import Bench
from dila.evaluate.manifold import _arrows, _draw_plane, _topology
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
