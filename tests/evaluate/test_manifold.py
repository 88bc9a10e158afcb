"""The shape of z: arrows of its pictures."""

import pytest
import torch

from dila.analysis.manifold import pca
from dila.evaluate.manifold import Latents, _arrows


def test_an_arrow_is_as_long_as_its_parameter_is_told():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(400, 2, generator=generator)
    z = torch.stack([3 * y[:, 0], torch.randn(400, generator=generator)], dim=1)
    held = Latents(z, y, torch.zeros(400, dtype=torch.long), torch.arange(400) // 7)
    plane = pca(z)
    told, untold = _arrows(held, ("told", "untold"), plane)
    reach = float(plane.points.abs().quantile(0.99))
    assert abs(told.x) == pytest.approx(reach, rel=0.02)
    assert (untold.x**2 + untold.y**2) ** 0.5 < 0.2 * reach
