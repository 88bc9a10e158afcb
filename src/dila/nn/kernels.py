"""Our Triton kernels, where there are any: they come with PyTorch's CUDA builds and with no other."""

from collections.abc import Callable
from importlib.util import find_spec

import torch

from dila.shapes import Tensor

scan: Callable[..., tuple[Tensor, Tensor]] | None = None
peg: Callable[..., Tensor] | None = None
if torch.version.cuda and find_spec("triton"):
    from dila.nn import triton_peg, triton_scan

    scan, peg = triton_scan.scan, triton_peg.peg


def fits(x: Tensor) -> bool:
    """Whether the kernels take this tensor: on CUDA, and not in double precision."""
    return x.is_cuda and x.dtype != torch.float64
