"""How long each Triton kernel takes at `base` size, forward and backward, on the GPU at hand. Prints JSON.

    python benchmarks/kernels.py > kernels.json

Beside it stand PyTorch's own operations for the same result in the same run (none where it has nothing but a loop), and
what the memory alone would take: every input read once and every output written once, at the speed of a large copy.
"""

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from dila.nn import kernels
from dila.nn.feedforward import GEGLU
from dila.nn.position import rotate, turns
from dila.shapes import Tensor

CLIPS, FRAMES, SIDE, DIM, HEADS, WIDTH = 32, 16, 16, 768, 8, 64
"""Of the backbone in a training step, as the table of docs/speed.md has it."""
INNER, STATES = 512, 32
"""Of the content memory."""


class Case(NamedTuple):
    """One kernel: its inputs, all of which get gradients, what calls it, and the same in PyTorch's operations."""

    name: str
    given: list[Tensor]
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor] | None


def cases(device: str, dtype: torch.dtype, clips: int = CLIPS, frames: int = FRAMES, side: int = SIDE) -> list[Case]:
    """Every kernel with inputs as a training step under autocast has them."""
    peg, geglu, attend, attend_back, scan = map(_our, ("peg", "geglu", "attend", "attend_back", "scan"))
    cells, rows = side * side, clips * side * side

    def draw(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, device=device).to(kind)

    x, wide = draw(clips, frames, side, side, DIM, kind=torch.float32), draw(clips * frames * cells, 16 * DIM // 3)
    space = [draw(clips * frames, cells, HEADS, WIDTH) for _ in "qkv"]
    q, kv = draw(clips, frames, cells, HEADS, WIDTH), draw(clips, frames, cells, 2, HEADS, WIDTH)
    scales, turned = [draw(WIDTH, kind=torch.float32) for _ in "qk"], turns(q, frames, WIDTH // 2)
    u, dt, A = draw(rows, frames, INNER), draw(rows, frames, INNER).abs(), -torch.rand(INNER, STATES, device=device)
    return [
        Case("position", [x, draw(27, DIM, kind=torch.float32), draw(DIM, kind=torch.float32)],
             lambda x, w, b: peg(x, None, w, b), convolution),
        Case("gate", [wide], lambda h: geglu(h, None, 0.0), GEGLU()),
        Case("attention in space", [*space, draw(HEADS, cells, cells)],
             lambda q, k, v, bias: attend(q, k, v, bias, None, 0.0)[0], in_space),
        Case("attention in time", [q, kv, *scales],
             lambda q, kv, a, b: attend_back(q, kv, a, b, turned, None, 0.0)[0], in_time),
        Case("scan", [u, dt, A, draw(rows, frames, STATES), draw(rows, frames, STATES)],
             lambda u, dt, A, B, C: scan(u, dt, A, B, C, None)[0], None),
    ]  # fmt: skip


def _our(name: str) -> Callable[..., Any]:
    found = getattr(kernels, name)
    assert found is not None
    return found


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `dila.nn.position.PEG` adds, and its input."""
    kernel = weight.T.reshape(-1, 1, 3, 3, 3)
    before = F.pad(x.movedim(-1, 1), (0, 0, 0, 0, 2, 0))
    return x + F.conv3d(before, kernel, bias, padding=(0, 1, 1), groups=len(bias)).movedim(1, -1)


def in_space(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's fused attention."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias.unsqueeze(0), scale=1.0).transpose(1, 2)


def in_time(q: Tensor, kv: Tensor, q_scale: Tensor, k_scale: Tensor) -> Tensor:
    """PyTorch's fused attention of normalised, scaled and turned queries and keys."""
    k, v = kv.unbind(3)
    q, k = F.normalize(q, dim=-1) * q_scale.to(q.dtype), F.normalize(k, dim=-1) * k_scale.to(k.dtype)
    q, k, v = (part.permute(0, 2, 3, 1, 4) for part in (q, k, v))
    seen = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, scale=1.0)
    return seen.permute(0, 3, 1, 2, 4)


def passes(call: Callable[..., Tensor], given: list[Tensor]) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward and the backward of a call, to be run again and again."""
    inputs = [part.detach().requires_grad_() for part in given]
    out = call(*inputs)
    weight = torch.randn_like(out)
    return lambda: call(*given), lambda: torch.autograd.grad(out, inputs, weight, retain_graph=True)


def main() -> int:
    """Print the time of each kernel, in milliseconds."""
    if not torch.cuda.is_available():
        print("the kernels run on CUDA, and there is none here", file=sys.stderr)
        return 2
    from triton.testing import do_bench  # comes with PyTorch for CUDA

    large = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    speed = 2 * large.numel() / do_bench(lambda: large.clone(), return_mode="median")  # bytes a millisecond
    rows = []
    for case in cases("cuda", torch.bfloat16):
        inputs, out = (sum(part.nbytes for part in parts) for parts in (case.given, [case.ours(*case.given)]))
        row = {
            "kernel": case.name,
            "memory forward": (inputs + out) / speed,
            "memory backward": (2 * inputs + out) / speed,
        }
        for whose, call in (("ours", case.ours), ("PyTorch's", case.theirs)):
            if call is not None:
                times = [do_bench(run, return_mode="median") for run in passes(call, case.given)]
                row |= dict(zip((f"{whose} forward", f"{whose} backward"), times, strict=True))
        rows.append({name: value if isinstance(value, str) else round(value, 4) for name, value in row.items()})
    told = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy TB/s": round(speed / 1e9, 3)}
    print(json.dumps(told | {"rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
