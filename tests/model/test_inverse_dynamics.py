from dataclasses import replace

import pytest
import torch

from dila.errors import DilaError
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


def test_odd_makes_the_way_back_the_way_there_reversed(small_config):
    sizes = replace(small_config.idm, pairwise=True, odd=True)
    idm, ds = InverseDynamics(replace(small_config, idm=sizes)).eval(), torch.randn(2, 5, 4, 6, 6)
    torch.testing.assert_close(idm(-ds), -idm(ds))
    assert idm(ds).abs().max() > 1e-3
    assert idm(torch.zeros_like(ds)).abs().max() == 0


def test_odd_is_for_pairs_alone(small_config):
    with pytest.raises(DilaError, match=r"idm\.odd needs idm\.pairwise"):
        replace(small_config.idm, odd=True)


def test_without_group_norms_a_change_does_not_scale_another(small_config):
    """Far from each other two changes are read apart; a group norm ties all cells of a frame together."""
    ds = torch.zeros(1, 1, 16, 16, 6)
    ds[..., 2, 2, :] = 1
    other = ds.clone()
    other[..., 13, 13, :] = 50

    def stem(normalise):
        sizes = replace(small_config.idm, pairwise=True, normalise=normalise)
        idm = InverseDynamics(replace(small_config, grid=(16, 16), idm=sizes)).eval()
        return [idm.stem(x[0].permute(0, 3, 1, 2))[..., :6, :6] for x in (ds, other)]

    for normalise in (True, False):
        alone, beside = stem(normalise)
        assert torch.allclose(alone, beside, atol=1e-5) == (not normalise)


@pytest.mark.parametrize(("sizes", "told"), [
    ({"channels": (64, 128)}, "must be as many as"),
    ({"channels": (60, 64), "blocks": (1, 1)}, "must be multiples of 8"),
])  # fmt: skip
def test_sizes_that_cannot_be_built_are_refused(sizes, told, small_config):
    with pytest.raises(DilaError, match=rf"idm\.channels = .* {told}"):
        InverseDynamics(replace(small_config, idm=InverseDynamicsConfig(**sizes)))
