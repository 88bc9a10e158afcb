"""On a GPU, or in Triton's interpreter: `make kernels`."""

import pytest
import torch
from kernel_world import DEVICE, HALF, anywhere, on_a_gpu, sizes

from dila.nn import kernels
from dila.nn.attention import Attention

pytestmark = anywhere


def attention(q, k, v, bias, kept=1.0):
    logits = torch.einsum("fnhd,fmhd->fhnm", q, k) + bias
    return torch.einsum("fhnm,fmhd->fnhd", logits.softmax(-1) * kept, v)


def inputs(frames, queries, keys, heads, width):
    q, k = (torch.randn(frames, n, heads, width, device=DEVICE, dtype=HALF) for n in (queries, keys))
    kv = torch.randn(frames, keys, heads, 2 * width, device=DEVICE, dtype=HALF)
    return [q, k, kv[..., width:], torch.randn(heads, queries, keys, device=DEVICE, dtype=HALF)]


def errors(mine, exact, given, weight):
    """Relative, of the outputs and of each gradient; given: the inputs of both."""
    found = []
    for out, own in zip((mine, exact), given, strict=True):
        found.append([out, *torch.autograd.grad((out.double() * weight).sum(), own)])
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(*found, strict=True)]


LARGE = [(5, 256, 256, 8, 64), (3, 257, 257, 8, 32), (2, 70, 130, 3, 16), (2, 40, 90, 2, 128)]


@pytest.mark.parametrize("size", sizes(LARGE, [(3, 70, 130, 1, 64), (2, 40, 90, 2, 16), (1, 20, 40, 1, 128)]))
@pytest.mark.parametrize("frames_in_the_buffer", [1, 2, 100])
def test_kernels_equal_attention_in_double_precision(size, frames_in_the_buffer, monkeypatch):
    monkeypatch.setattr("dila.nn.triton_attention._BUFFER", frames_in_the_buffer * size[3] * size[1] * (size[2] + 15))
    assert kernels.attend is not None
    values = inputs(*size)
    types = (HALF, torch.float64)
    ours, theirs = ([v.detach().to(t).requires_grad_() for v in values] for t in types)
    weight = torch.randn(size[0], size[1], *size[3:], device=DEVICE, dtype=torch.float64)
    mine, _ = kernels.attend(*ours, None, 0.0)
    assert max(errors(mine, attention(*theirs), (ours, theirs), weight)) < 1e-2


def test_dropout_drops_its_share_of_the_weights_and_goes_backward_alike(monkeypatch):
    monkeypatch.setattr("dila.nn.triton_attention._BUFFER", 1)  # one frame at a time
    assert kernels.attend is not None
    frames, tokens, heads, width = 2, 128, 2, 128
    values = inputs(frames, tokens, tokens, heads, width)
    values[0] = values[0] / 10  # weights that 16 bits can tell from 0
    seed = torch.tensor([11], device=DEVICE)
    values[2] = torch.eye(width, device=DEVICE, dtype=HALF)[None, :, None].repeat(frames, 1, heads, 1)
    whole, dropped = (kernels.attend(*values, chosen, 0.25)[0] for chosen in (None, seed))  # the weights themselves
    kept = (dropped != 0).permute(0, 2, 1, 3)
    assert abs(kept.float().mean().item() - 0.75) < 1e-2
    assert (kernels.attend(*values, seed + 1, 0.25)[0] != dropped).float().mean() > 0.2
    torch.testing.assert_close(dropped, torch.where(dropped != 0, whole / 0.75, 0), rtol=2e-2, atol=1e-4)
    values = inputs(frames, tokens, tokens, heads, width)
    ours, theirs = ([v.detach().to(d).requires_grad_() for v in values] for d in (HALF, torch.float64))
    weight = torch.randn(frames, tokens, heads, width, device=DEVICE, dtype=torch.float64)
    mine, _ = kernels.attend(*ours, seed, 0.25)
    assert max(errors(mine, attention(*theirs, kept / 0.75), (ours, theirs), weight)) < 1e-2


def test_same_input_same_bits():
    assert kernels.attend is not None
    values = [value.requires_grad_() for value in inputs(*sizes([(40, 257, 257, 8, 32)], [(5, 70, 70, 2, 32)])[0])]
    seed = torch.tensor([3], device=DEVICE)
    runs = [torch.autograd.grad(kernels.attend(*values, seed, 0.1)[0].float().square().sum(), values) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@on_a_gpu
def test_attention_in_space_goes_through_the_kernel(monkeypatch):
    layer, x = Attention(64, 2, 32).to(DEVICE), torch.randn(2, 3, 81, 64, device=DEVICE)
    bias = torch.randn(2, 81, 81, device=DEVICE)
    with torch.autocast("cuda", torch.bfloat16):
        ours = layer.space(x, bias)
        monkeypatch.setattr(kernels, "attend", None)
        theirs = layer.space(x, bias)
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-2)


def test_one_query_looks_back_as_many_do():
    layer, x = Attention(64, 2, 32).to(DEVICE), torch.randn(2, 6, 9, 64, device=DEVICE)
    whole, _ = layer.time(x)
    past, frames = None, []
    for t in range(6):
        seen, past = layer.time(x[:, t : t + 1], past)
        frames.append(seen)
    torch.testing.assert_close(torch.cat(frames, dim=1), whole, atol=1e-5, rtol=1e-4)
