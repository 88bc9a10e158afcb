from dataclasses import replace

import pytest
import torch

from dila.model.config import InverseDynamicsConfig
from dila.model.inverse_dynamics import InverseDynamics


def make(config, pairwise):
    return InverseDynamics(replace(config, idm=replace(config.idm, pairwise=pairwise))).eval()


def test_pairwise_reads_each_transition_alone(small_config):
    idm, ds = make(small_config, pairwise=True), torch.randn(2, 5, 4, 6, 6)
    alone = torch.cat([idm(ds[:, k : k + 1]) for k in range(5)], 1)
    torch.testing.assert_close(alone, idm(ds), atol=1e-5, rtol=1e-5)


def test_the_papers_reads_its_neighbours(small_config):
    idm, ds = make(small_config, pairwise=False), torch.randn(2, 5, 4, 6, 6)
    assert (idm(ds[:, :1]) - idm(ds)[:, :1]).abs().max() > 1e-3


@pytest.mark.parametrize("grid", [(16, 16), (8, 8), (5, 7), (14, 9)])
@pytest.mark.parametrize("channels", [(8, 16), (8, 8, 16, 16)])
def test_any_grid_and_any_number_of_stages(small_config, grid, channels):
    sizes = InverseDynamicsConfig(channels=channels, blocks=(1,) * len(channels), hidden=8)
    idm = InverseDynamics(replace(small_config, grid=grid, idm=sizes))
    assert idm(torch.randn(1, 3, *grid, 6)).shape == (1, 3, 8)
