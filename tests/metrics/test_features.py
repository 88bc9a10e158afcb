import math

import pytest
import torch

from dila.metrics.features import effective_rank, one_step_ratio, rollout_ratio, scale


def clip():
    return torch.randn(3, 5, 2, 2, 4, generator=torch.Generator().manual_seed(0))


def test_copying_scores_one_and_the_truth_zero():
    e = clip()
    torch.testing.assert_close(rollout_ratio(e[:, :1].expand(-1, 4, -1, -1, -1), e), torch.ones(4))
    torch.testing.assert_close(one_step_ratio(e[:, :-1], e), torch.ones(4))
    assert not rollout_ratio(e[:, 1:], e).any()
    assert not one_step_ratio(e[:, 1:], e).any()


def test_each_horizon_is_judged_alone():
    e = clip()
    e_hat = e[:, 1:].clone()
    e_hat[:, 2] = e[:, 0]
    torch.testing.assert_close(rollout_ratio(e_hat, e), torch.tensor([0.0, 0.0, 1.0, 0.0]))


def test_a_still_clip_does_not_divide_by_zero():
    e = torch.ones(1, 3, 2, 2, 4)
    assert rollout_ratio(e[:, 1:] + 0.1, e).isfinite().all()


@pytest.mark.parametrize("rank", [1, 3])
def test_effective_rank_of_equal_directions_is_their_number(rank):
    z = torch.eye(8)[:rank]
    z = torch.cat([z, -z])[None] * 5
    assert float(effective_rank(z)) == pytest.approx(rank, rel=1e-4)


def test_effective_rank_of_what_does_not_vary():
    assert effective_rank(torch.ones(2, 3, 4)) == 0
    assert math.isnan(effective_rank(torch.full((2, 3, 4), float("nan"))))


def test_scale_is_the_spread_of_a_channel():
    x = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    assert float(scale(x)) == pytest.approx(0.5)
    assert scale(torch.ones(1, 1, 3)) == 0
