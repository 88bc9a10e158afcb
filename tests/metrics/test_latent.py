import math

import pytest
import torch

from dila.metrics.latent import effective_rank, scale


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_equal_directions_is_their_number(rank):
    z = torch.zeros(4, 2 * rank, 16)
    flat = z.view(-1, 16)
    for i in range(rank):
        flat[i, i], flat[rank + i, i] = 2.0, -2.0
    assert float(effective_rank(z)) == pytest.approx(rank)
    assert float(effective_rank(z + 5)) == pytest.approx(rank)


def test_effective_rank_falls_when_one_direction_rules():
    z = torch.randn(500, 8)
    z[:, 0] *= 1000
    assert 1 < float(effective_rank(z)) < 1.2


def test_collapsed_actions_have_no_rank_and_no_spread():
    z = torch.full((3, 5, 4), 7.3)
    assert (float(effective_rank(z)), float(scale(z))) == (0, 0)
    assert float(effective_rank(torch.randn(1, 4))) == 0


def test_the_scale_is_the_mean_spread_of_a_channel():
    z = torch.tensor([[1.0, 0.0, 0.01, 5.0], [-1.0, 0.0, -0.01, 5.0]])
    assert float(scale(z)) == pytest.approx((1 + 0.01) / 4)


def test_effective_rank_of_what_is_not_finite_is_nan():
    assert math.isnan(effective_rank(torch.full((2, 3, 4), float("nan"))))
