import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from dila.nn.position import PEG, RelativePositionBias, rotate


def test_rotary_products_depend_on_the_distance_alone():
    q, k = torch.randn(1, 8), torch.randn(1, 8)

    def product(i, j):
        return (rotate(q, i) * rotate(k, j)).sum()

    torch.testing.assert_close(product(2, 5), product(11, 14))
    assert not torch.isclose(product(2, 5), product(2, 6))


def test_rotary_keeps_length_and_leaves_position_zero_alone():
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(rotate(x).norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotate(x)[:, 0], x[:, 0])


def test_rotary_from_a_start_equals_the_end_of_the_whole():
    x = torch.randn(2, 6, 8)
    torch.testing.assert_close(rotate(x[:, 4:], 4), rotate(x)[:, 4:])


@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (1, 2)])
def test_bias_by_distinct_offsets_equals_the_mlp_on_all_pairs(grid):
    rows, cols = grid
    bias = RelativePositionBias(16, 3)
    place = torch.tensor([[(i + 0.5) / rows, (j + 0.5) / cols] for i in range(rows) for j in range(cols)])
    offset = place[:, None] - place[None]
    expected = bias.net(offset.sign() * (1 + offset.abs()).log()).permute(2, 0, 1)
    torch.testing.assert_close(bias(grid), expected)


def test_bias_runs_its_mlp_on_the_distinct_offsets_only():
    bias, seen = RelativePositionBias(16, 3), []
    bias.net.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    bias((16, 16))
    assert seen == [961]


@pytest.fixture
def bias():
    return RelativePositionBias(16, 3)


def runs(bias, grid=(4, 5)):
    """What the bias gives without gradients, as made anew, and how often its MLP ran for it."""
    ran = []
    with torch.no_grad():
        fresh = bias._table(grid)
        hook = bias.net.register_forward_hook(lambda *_: ran.append(1))
        made = bias(grid)
        hook.remove()
    torch.testing.assert_close(made, fresh, atol=0, rtol=0)
    return len(ran)


def test_bias_without_gradients_is_made_once(bias):
    assert [runs(bias) for _ in range(3)] == [1, 0, 0]
    assert [runs(bias, (5, 4)), runs(bias, (5, 4))] == [1, 0]


def _step(bias):
    optimiser = torch.optim.AdamW(bias.parameters())
    bias((4, 5)).sum().backward()
    optimiser.step()


def _in_place(bias):
    bias.net[2].weight.data.mul_(2)  # which no version counter sees


CHANGES = {
    "a step of training": _step,
    "in place": _in_place,
    "another state dict": lambda bias: bias.load_state_dict(RelativePositionBias(16, 3).state_dict()),
    "another parameter": lambda bias: setattr(bias.net[0], "bias", torch.nn.Parameter(torch.ones(16))),
    "another type": lambda bias: bias.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_bias_that_was_kept_is_made_anew_after(bias, change):
    runs(bias)
    CHANGES[change](bias)
    assert [runs(bias), runs(bias)] == [1, 0]


def test_bias_that_was_kept_is_of_its_autocast(bias):
    runs(bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert runs(bias) == 1
        assert bias((4, 5)).dtype == torch.bfloat16
    assert runs(bias) == 1


def test_bias_that_was_kept_leaves_gradients_copies_and_files_alone(bias):
    keys, size = list(bias.state_dict()), len(pickle.dumps(bias))
    runs(bias)
    assert list(bias.state_dict()) == keys
    assert len(pickle.dumps(bias)) == size
    other = copy.deepcopy(bias)
    _in_place(other)
    assert [runs(other), runs(bias)] == [1, 0]
    bias((4, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in bias.parameters())


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_peg_adds_the_causal_depthwise_convolution(padding):
    peg, x = PEG(6, padding), torch.randn(2, 5, 4, 3, 6)
    front = torch.zeros_like(x[:, :2]) if padding == "zeros" else x[:, :1].repeat(1, 2, 1, 1, 1)
    expected = peg.conv(torch.cat([front, x], 1).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(peg(x)[0], x + expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_peg_in_pieces_equals_at_once(padding, chunk):
    peg, x = PEG(6, padding), torch.randn(2, 7, 4, 3, 6)
    past, parts = None, []
    for piece in x.split(chunk, 1):
        out, past = peg(piece, past)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), peg(x)[0], atol=1e-5, rtol=0)


def test_replicate_padding_keeps_a_still_clip_still():
    still = torch.randn(1, 1, 4, 4, 6).expand(-1, 4, -1, -1, -1)
    replicated, zeros = (PEG(6, padding)(still)[0] for padding in ("replicate", "zeros"))
    torch.testing.assert_close(replicated[:, 0], replicated[:, 3])
    assert not torch.allclose(zeros[:, 0], zeros[:, 3])


def test_the_convolution_and_its_gradients_are_pytorchs():
    peg, x = PEG(5).double(), torch.randn(2, 6, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    plain = F.conv3d(x.movedim(-1, 1), peg.conv.weight, peg.conv.bias, padding=(0, 1, 1), groups=5).movedim(1, -1)
    torch.testing.assert_close(peg._convolve(x), plain)
    weight = torch.randn_like(plain)
    gradients = [torch.autograd.grad((out * weight).sum(), [x, *peg.parameters()]) for out in (peg._convolve(x), plain)]
    torch.testing.assert_close(*gradients)
