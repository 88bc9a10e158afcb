import pytest
import torch
import torch.nn.functional as F

from dila.nn.feedforward import GEGLU, FeedForward, ResMLP


def test_geglu_gates_the_first_half_by_the_second():
    x = torch.randn(3, 8)
    torch.testing.assert_close(GEGLU()(x), x[:, :4] * F.gelu(x[:, 4:]))


@pytest.mark.parametrize(("dim", "inner"), [(768, 2048), (256, 682), (36, 96)])
def test_feed_forward_is_eight_thirds_wide(dim, inner):
    with torch.device("meta"):
        ff = FeedForward(dim)
    assert ff[1].weight.shape == (2 * inner, dim)
    assert ff[4].weight.shape == (dim, inner)


def test_res_mlp_adds_its_hidden_layers():
    mlp, x = ResMLP(5, 7, 3, depth=2), torch.randn(2, 5)
    h = mlp.proj_in(x)
    for norm, _, linear in mlp.layers:
        h = h + linear(F.relu(norm(h)))
    norm, _, linear = mlp.proj_out
    torch.testing.assert_close(mlp(x), linear(F.relu(norm(h))))
