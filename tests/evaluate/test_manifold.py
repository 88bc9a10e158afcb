"""The shape of z: arrows of its pictures."""

import pytest
import torch

from dila.analysis.manifold import pca
from dila.evaluate.manifold import _arrows, _topology
from dila.evaluate.probing import Transitions


def test_an_arrow_is_as_long_as_its_parameter_is_told():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(400, 2, generator=generator)
    z = torch.stack([3 * y[:, 0], torch.randn(400, generator=generator)], dim=1)
    held = Transitions({"z": z}, y, torch.arange(400) // 7)
    plane = pca(z)
    told, untold = _arrows(held, ("told", "untold"), plane)
    reach = float(plane.points.abs().quantile(0.99))
    assert abs(told.x) == pytest.approx(reach, rel=0.02)
    assert (untold.x**2 + untold.y**2) ** 0.5 < 0.2 * reach


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
