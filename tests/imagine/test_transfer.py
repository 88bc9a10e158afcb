import torch

from dila.imagine.transfer import cycle, transfer


def test_the_sources_motion_in_the_targets_scene(shift):
    source = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 4, 4, 12)
    target = torch.randn(1, 3, 4, 4, 12)
    made = transfer(shift, source, target)
    torch.testing.assert_close(made.z, torch.ones(1, 4, 3))
    for k in range(4):
        torch.testing.assert_close(made.e[:, k], target[:, 0] + k + 1)


def test_the_targets_future_is_not_looked_at(model):
    source, target = torch.randn(2, 1, 6, 4, 4, 12)
    other = torch.cat([target[:, :2], torch.randn(1, 4, 4, 4, 12)], 1)
    first, second = transfer(model, source, target, context=2), transfer(model, source, other, context=2)
    torch.testing.assert_close(first.e, second.e)
    assert not torch.allclose(first.e, transfer(model, source, target, context=1).e)
    assert not torch.allclose(first.e, transfer(model, torch.randn(1, 6, 4, 4, 12), target, context=2).e, atol=1e-4)


def test_there_and_back_is_where_it_began(shift):
    e_a = torch.randn(2, 1, 1, 1, 12)[..., :3].repeat(1, 1, 4, 4, 4) + torch.randn(2, 5, 1, 1, 3).cumsum(1).repeat(
        1, 1, 4, 4, 4
    )
    made = cycle(shift, e_a, torch.randn(2, 3, 4, 4, 12))
    assert made.there.shape == (2, 4, 4, 4, 12)
    torch.testing.assert_close(made.z_again, made.z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.back, e_a[:, 1:], rtol=1e-4, atol=1e-5)
