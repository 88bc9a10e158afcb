import pytest
import torch

from dila.errors import DilaError
from dila.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1000, 999), (3, 7, 5)])
def test_drops_a_share_and_keeps_the_mean(p, shape):
    x = torch.ones(shape)
    y = dropout(x, p, True)
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / (1 - p)], rel=1e-4)
    if x.numel() > 1e5:
        assert float((y == 0).float().mean()) == pytest.approx(p, abs=2e-3)
        assert float(y.mean()) == pytest.approx(1, abs=5e-3)


def test_every_sixteen_bits_of_a_draw_decide_alone():
    """Neighbours share a draw: they must be as independent as any."""
    kept = (dropout(torch.ones(400_000), 0.5, True) > 0).view(-1, 4).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02
    assert (kept.mean(0) - 0.5).abs().max() < 0.01


def test_gradients_pass_where_values_did():
    x = torch.randn(50, 50, requires_grad=True)
    y = dropout(x, 0.3, True)
    y.sum().backward()
    assert torch.equal(x.grad > 0, y != 0)


def test_seeded_and_off_when_not_training():
    x, module = torch.randn(100), Dropout(0.5)
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    assert torch.equal(module.eval()(x), x)


def test_bfloat16_stays():
    assert dropout(torch.ones(8, dtype=torch.bfloat16), 0.1, True).dtype == torch.bfloat16


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(p):
    with pytest.raises(DilaError, match="must be at least 0 and below 1"):
        Dropout(p)
