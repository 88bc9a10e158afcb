import pytest
import torch

from dila.model.forward_dynamics import AdaptiveMLP, ForwardDynamics


def test_adaptive_mlp_ignores_its_condition_at_initialisation_and_heeds_it_later():
    mlp, x = AdaptiveMLP(8), torch.randn(2, 3, 5, 8)
    conditions = torch.randn(2, 2, 3, 1, 8)
    torch.testing.assert_close(mlp(x, conditions[0]), mlp(x, conditions[1]), atol=0, rtol=0)
    torch.nn.init.normal_(mlp.to_scale_shift.weight)
    assert not torch.allclose(mlp(x, conditions[0]), mlp(x, conditions[1]))


def test_the_action_token_carries_the_action_from_the_first_step_of_training(small_config):
    fdm, s = ForwardDynamics(small_config).eval(), torch.randn(2, 3, 4, 6, 6)
    change = fdm(s, torch.randn(2, 3, 8))[0] - fdm(s, torch.randn(2, 3, 8))[0]
    assert change.abs().max() > 1e-5


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_in_pieces_equals_at_once(small_config, awake, chunk):
    fdm = awake(small_config).fdm
    s, z = torch.randn(2, 7, 4, 6, 6), torch.randn(2, 7, 8)
    cache, parts = None, []
    for s_piece, z_piece in zip(s.split(chunk, 1), z.split(chunk, 1), strict=True):
        ds_hat, cache = fdm(s_piece, z_piece, cache)
        parts.append(ds_hat)
    torch.testing.assert_close(torch.cat(parts, 1), fdm(s, z)[0], atol=1e-5, rtol=1e-5)


def test_is_causal_in_structure_and_action(small_config, awake):
    fdm = awake(small_config).fdm
    s, z = torch.randn(1, 5, 4, 6, 6), torch.randn(1, 5, 8)
    changed_s, changed_z = s.clone(), z.clone()
    changed_s[:, 3:] += 1
    changed_z[:, 3:] += 1
    torch.testing.assert_close(fdm(changed_s, changed_z)[0][:, :3], fdm(s, z)[0][:, :3], atol=0, rtol=0)
    assert not torch.allclose(fdm(s, changed_z)[0][:, 3:], fdm(s, z)[0][:, 3:])
