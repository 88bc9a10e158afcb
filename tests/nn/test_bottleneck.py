import pytest
import torch

from dila.nn.bottleneck import NSVQ, VQ, Gaussian, perplexity


@pytest.fixture
def x():
    return torch.randn(5, 3, 4, 6)


@pytest.mark.parametrize("kind", [NSVQ, VQ])
def test_in_evaluation_the_nearest_entry_passes(kind, x):
    quantise = kind(8, 6).eval()
    out = quantise(x)
    nearest = torch.cdist(x.flatten(0, -2), quantise.entries).argmin(-1).view(5, 3, 4)
    assert torch.equal(out.codes, nearest)
    assert torch.equal(out.z, quantise.entries[nearest])
    assert quantise.usage.sum() == 0


def test_noise_of_nsvq_is_as_long_as_the_error_and_reaches_input_and_entries(x):
    quantise = NSVQ(8, 6)
    x.requires_grad_()
    out = quantise(x)
    error = (x - quantise.entries[out.codes]).norm(dim=-1)
    torch.testing.assert_close((out.z - x).norm(dim=-1), error)
    assert out.penalty == 0
    out.z.square().sum().backward()
    assert x.grad.abs().min() > 0
    used = quantise.usage > 0
    assert quantise.entries.grad[used].abs().sum(-1).min() > 0
    assert torch.equal(quantise.usage.long(), torch.bincount(out.codes.flatten(), minlength=8))


def test_vq_passes_the_gradient_straight_through_and_its_penalty_weighs_both_ways(x):
    quantise = VQ(8, 6, commitment=0.25, codebook=2.0)
    x.requires_grad_()
    out = quantise(x)
    torch.testing.assert_close(out.z, quantise.entries[out.codes])
    torch.testing.assert_close(out.penalty, 2.25 * (x - quantise.entries[out.codes]).square().mean())
    weight = torch.randn_like(out.z)
    (grad,) = torch.autograd.grad((out.z * weight).sum(), x, retain_graph=True)
    torch.testing.assert_close(grad, weight)
    (grad,) = torch.autograd.grad(out.penalty, x)
    torch.testing.assert_close(grad, 0.25 * 2 * (x - quantise.entries[out.codes]).detach() / x.numel())


def test_vq_begins_with_codes_that_inputs_share():
    """Codes as far apart as normal numbers are nearest to all small inputs in one: nothing would pass."""
    quantise = VQ(128, 32).eval()
    assert quantise.entries.abs().max() <= 1 / 128
    assert len(quantise(0.1 * torch.randn(500, 32)).codes.unique()) > 20


def test_dead_entries_become_inputs():
    quantise, x = NSVQ(8, 6), torch.randn(20, 6) * 1e-3
    quantise(x)
    alive, before = quantise.usage > 0, quantise.entries.detach().clone()
    after = quantise.without_dead(before)
    assert 0 < alive.sum() < 8
    assert torch.equal(after[alive], before[alive])
    assert torch.cdist(after[~alive], x).min(-1).values.max() == 0


def test_where_nothing_was_counted_nothing_is_dead():
    quantise = NSVQ(8, 6)
    assert torch.equal(quantise.without_dead(quantise.entries), quantise.entries)


def test_a_forward_counts_and_writes_to_no_weight(x):
    quantise = NSVQ(8, 6, replaced=(0, 1))
    before = quantise.entries.detach().clone()
    quantise(x)
    quantise(x)
    assert torch.equal(quantise.entries, before)
    assert quantise.usage.sum() == 2 * 5 * 3 * 4


def test_a_gaussian_is_its_mean_in_evaluation_and_costs_its_divergence(x):
    squeeze = Gaussian(2, width=6)
    one, other = squeeze(x), squeeze(x)
    assert one.z.shape == (5, 3, 4, 2)
    assert not torch.equal(one.z, other.z)
    mean, log_variance = squeeze.moments(x).chunk(2, dim=-1)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(one.penalty, divergence.sum(-1).mean())
    squeeze.eval()
    assert torch.equal(squeeze(x).z, squeeze(x).z)
    torch.testing.assert_close(squeeze(x).z, mean)


def test_under_autocast_codes_are_those_of_float32(x):
    quantise = VQ(8, 6).eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = quantise(x)
    assert out.z.dtype == torch.float32
    assert torch.equal(out.codes, quantise(x).codes)


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.zeros(4, 3, dtype=torch.int64)) == pytest.approx(1)
    assert perplexity(torch.arange(8).repeat(2, 3)) == pytest.approx(8)
    assert perplexity(torch.arange(4).repeat(5)) == pytest.approx(4)
