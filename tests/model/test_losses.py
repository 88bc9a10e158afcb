import math

import pytest
import torch

from dila.model.losses import (
    action_loss,
    diversity_loss,
    feature_loss,
    motion_weight,
    moving_transitions,
    norm_loss,
    structure_loss,
    symmetry_loss,
)

ALL = torch.ones(2, 3, dtype=torch.bool)


def test_symmetry_is_zero_when_the_way_back_is_the_way_there_reversed():
    z = torch.randn(2, 3, 5)
    assert symmetry_loss(z, -z, ALL) == pytest.approx(0, abs=1e-10)
    assert symmetry_loss(z, -3 * z, ALL) == pytest.approx(0, abs=1e-10)
    assert symmetry_loss(z, z, ALL) == pytest.approx(4)
    assert symmetry_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), ALL[:1, :1]) == pytest.approx(1)


def test_symmetry_leaves_static_transitions_out():
    z = torch.randn(2, 3, 5)
    backward = -z.clone()
    backward[0, 1] = z[0, 1]
    moving = ALL.clone()
    assert symmetry_loss(z, backward, moving) == pytest.approx(4 / 6)
    moving[0, 1] = False
    assert symmetry_loss(z, backward, moving) == pytest.approx(0, abs=1e-10)
    assert symmetry_loss(z, z, torch.zeros_like(ALL)) == 0


def test_moving_transitions_by_relative_and_by_fixed_threshold():
    ds = torch.zeros(1, 3, 2, 2, 1)
    ds[0, :, 0, 0, 0] = torch.tensor([0.0, 1.0, 2.0])
    assert moving_transitions(ds, 0.5).tolist() == [[False, True, True]]
    assert moving_transitions(1000 * ds, 0.5).tolist() == [[False, True, True]]
    assert moving_transitions(ds, 1.5, relative=False).tolist() == [[False, False, True]]


def test_diversity_is_a_half_at_collapse_and_vanishes_with_spread():
    assert diversity_loss(torch.ones(4, 3, 5)) == pytest.approx(0.5)
    assert diversity_loss(5 * torch.randn(4, 30, 5)) < 1e-6
    z = torch.tensor([[[0.1]], [[-0.1]]])
    assert diversity_loss(z) == pytest.approx(0.5 * math.exp(-10 * 0.1 * math.sqrt(2)))


def test_diversity_of_a_single_transition_is_a_half_with_no_gradient():
    z = torch.randn(1, 1, 5, requires_grad=True)
    loss = diversity_loss(z)
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert (z.grad == 0).all()


def test_norm_is_not_squared():
    assert norm_loss(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])) == pytest.approx(2.5)


@pytest.mark.parametrize("loss", [feature_loss, structure_loss])
def test_squared_errors_are_means_over_all_elements(loss):
    a, b = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(loss(a, b), ((a - b) ** 2).mean())
    torch.testing.assert_close(action_loss(a[0, 0], b[0, 0]), ((a[0, 0] - b[0, 0]) ** 2).mean())


def test_losses_are_taken_in_float32():
    a = torch.full((1, 1, 1, 1, 4), 1000.0, dtype=torch.bfloat16)
    assert feature_loss(a, torch.zeros_like(a)).dtype == torch.float32


def test_motion_weight_has_mean_one_and_grows_with_motion():
    e = torch.randn(1, 1, 2, 2, 3).repeat(1, 4, 1, 1, 1)
    e[:, 2:, 0, 1] += 5
    weight = motion_weight(e, strength=2.0)
    assert weight.shape == (1, 3, 2, 2)
    assert weight.mean() == pytest.approx(1)
    assert weight[0, 1, 0, 1] > weight[0, 0, 0, 1] == weight[0, 1, 1, 1]
    torch.testing.assert_close(motion_weight(e, 0.0), torch.ones(1, 3, 2, 2))


def test_weight_of_one_everywhere_changes_nothing():
    a, b = torch.randn(1, 3, 2, 2, 5), torch.randn(1, 3, 2, 2, 5)
    torch.testing.assert_close(feature_loss(a, b, torch.ones(1, 3, 2, 2)), feature_loss(a, b))
