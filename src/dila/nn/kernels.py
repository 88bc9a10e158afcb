"""Our Triton kernels, if available: Triton comes only with PyTorch's CUDA builds.

Triton's interpreter runs them on any machine, slowly, for tests (``TRITON_INTERPRET=1``, as in `make kernels`).
"""

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch

from dila.shapes import Tensor

scan: Callable[..., tuple[Tensor, Tensor]] | None = None
peg: Callable[..., Tensor] | None = None
geglu: Callable[..., Tensor] | None = None
attend: Callable[..., tuple[Tensor, Tensor]] | None = None
attend_back: Callable[..., tuple[Tensor, Tensor]] | None = None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if (torch.version.cuda or _INTERPRETED) and find_spec("triton"):
    from dila.nn import triton_attention, triton_geglu, triton_peg, triton_scan, triton_time

    scan, peg, geglu, attend = triton_scan.scan, triton_peg.peg, triton_geglu.geglu, triton_attention.attend
    attend_back = triton_time.attend_back


def fits(x: Tensor) -> bool:
    """Whether the kernels support this tensor: on CUDA, and not in double precision."""
    return (x.is_cuda or _INTERPRETED) and x.dtype != torch.float64


def attends(q: Tensor, least: int = 16) -> bool:
    """Whether the attention kernels support these queries: on CUDA, 16-bit, with a power of two channels per head."""
    width = q.shape[-1]
    return fits(q) and q.element_size() == 2 and least <= width <= 128 and width & (width - 1) == 0


def seed(p: float, like: Tensor) -> Tensor | None:
    """Return a random seed for a kernel's dropout; None if nothing is dropped."""
    return torch.randint(2**31 - 1, (1,), device=like.device) if p else None
