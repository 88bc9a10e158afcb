import pytest
import torch

from dila.metrics.features import one_step_ratio, pooled_one_step_ratio, pooled_rollout_ratio, rollout_ratio


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


def test_pooled_over_horizons_copying_scores_one():
    e = clip()
    assert float(pooled_rollout_ratio(e[:, :1].expand(-1, 4, -1, -1, -1), e)) == pytest.approx(1)
    assert float(pooled_rollout_ratio(e[:, 1:], e)) == 0


def test_pooled_over_places_is_of_sums_not_of_ratios():
    e = clip()
    e[:, 2:] = e[:, 2:3] + 0.01 * e[:, 2:]  # next to no change after the second frame
    told = pooled_one_step_ratio(e[:, :1].expand(-1, 4, -1, -1, -1), e)
    error = (e[:, :1] - e[:, 1:]).square().sum() / (e[:, :-1] - e[:, 1:]).square().sum()
    assert float(told) == pytest.approx(float(error), rel=1e-5)
    assert float(told) < 0.1 * float(one_step_ratio(e[:, :1].expand(-1, 4, -1, -1, -1), e).mean())
    assert float(pooled_one_step_ratio(e[:, :-1], e)) == pytest.approx(1)
