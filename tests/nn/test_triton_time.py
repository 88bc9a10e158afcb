"""On a GPU, or in Triton's interpreter: `make kernels`."""

import pytest
import torch
import torch.nn.functional as F
from kernel_world import DEVICE, HALF, anywhere, sizes

from dila.nn import kernels
from dila.nn.attention import Attention
from dila.nn.position import rotate, turns

pytestmark = anywhere


def inputs(clips, frames, cells, heads, width):
    shapes = [(clips, frames, cells, heads, width), (clips, frames, cells, 2, heads, width)]
    q, kv = (torch.randn(shape, device=DEVICE, dtype=HALF) for shape in shapes)
    return [q, kv, 3 * torch.randn(width, device=DEVICE), torch.randn(width, device=DEVICE)]


def exact(q, kv, q_scale, k_scale, kept=1.0):
    k, v = kv.unbind(3)
    q, k = F.normalize(q, dim=-1) * q_scale, F.normalize(k, dim=-1) * k_scale
    q, k, v = (part.permute(0, 2, 3, 1, 4) for part in (q, k, v))
    q, k = rotate(q), rotate(k)
    later = torch.ones(q.shape[-2], q.shape[-2], device=q.device).triu(1).bool()
    weights = (q @ k.mT).masked_fill(later, float("-inf")).softmax(-1) * kept
    return (weights @ v).permute(0, 3, 1, 2, 4), k.permute(0, 3, 1, 2, 4)


def mine(q, kv, q_scale, k_scale, seed=None, p=0.0):
    assert kernels.attend_back is not None
    return kernels.attend_back(q, kv, q_scale, k_scale, turns(q, q.shape[1], q.shape[-1] // 2), seed, p)


def errors(ours, theirs, given):
    """Relative, of the outputs and of each gradient; given: the inputs of both."""
    weights, found = [torch.randn_like(part) for part in theirs], []
    for outs, own in zip((ours, theirs), given, strict=True):
        total = sum((out.double() * weight).sum() for out, weight in zip(outs, weights, strict=True))
        found.append([*outs, *torch.autograd.grad(total, own)])
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(*found, strict=True)]


def twice(values):
    """The same numbers to go backward from, as they are and in double precision."""
    return ([value.detach().to(t or value.dtype).requires_grad_() for value in values] for t in (None, torch.float64))


LARGE = [(2, 16, 60, 8, 64), (3, 15, 33, 8, 32), (1, 2, 5, 3, 128), (2, 40, 7, 2, 64)]


@pytest.mark.parametrize(
    "size", sizes(LARGE, [(2, 16, 3, 2, 64), (1, 15, 2, 2, 32), (1, 2, 2, 1, 128), (1, 40, 2, 1, 32)])
)
@pytest.mark.parametrize("outputs", [1, 2])
def test_kernels_equal_attention_in_double_precision(size, outputs):
    """With a gradient of the keys that the cache keeps, and without."""
    ours, theirs = twice(inputs(*size))
    found = errors(mine(*ours)[:outputs], exact(*theirs)[:outputs], (ours, theirs))
    assert max(found) < 1e-2


def test_dropout_drops_its_share_of_the_weights_and_goes_backward_alike():
    frames = 32
    values, seed = inputs(3, frames, 8, 2, frames), torch.tensor([11], device=DEVICE)
    values[1][:, :, :, 1] = torch.eye(frames, device=DEVICE)[None, :, None, None]  # what is seen are the weights
    whole, dropped = mine(*values)[0], mine(*values, seed, 0.25)[0]
    kept = (dropped != 0).permute(0, 2, 3, 1, 4)
    past = torch.ones(frames, frames, device=DEVICE).tril().bool()
    assert abs(kept[..., past].float().mean().item() - 0.75) < 1e-2
    assert (mine(*values, seed + 1, 0.25)[0] != dropped).float().mean() > 0.1
    torch.testing.assert_close(dropped, torch.where(dropped != 0, whole / 0.75, 0), rtol=2e-2, atol=1e-4)
    ours, theirs = twice(inputs(3, frames, 8, 2, frames))
    assert max(errors(mine(*ours, seed, 0.25), exact(*theirs, kept / 0.75), (ours, theirs))) < 1e-2


def test_same_input_same_bits():
    values = [value.requires_grad_() for value in inputs(*sizes([(4, 16, 256, 8, 64)], [(2, 16, 3, 2, 32)])[0])]
    runs = [torch.autograd.grad(mine(*values)[0].float().square().sum(), values) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_attention_in_time_goes_through_the_kernel_and_leaves_the_same_past(monkeypatch):
    layer, x, found = Attention(64, 2, 32).to(DEVICE), torch.randn(2, 7, 9, 64, device=DEVICE), []
    called = []
    kernel = kernels.attend_back
    monkeypatch.setattr(kernels, "attend_back", lambda *given: called.append(1) or kernel(*given))
    for _ in range(2):
        with torch.autocast(DEVICE, HALF):
            whole, past = layer.time(x)
            found.append([whole, *past, layer.time(x[:, :1], past)[0]])
        monkeypatch.setattr(kernels, "attend_back", None)
    assert len(called) == 1
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-2)
