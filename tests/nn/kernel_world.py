"""Where the tests of the Triton kernels run: on CUDA, or anywhere in Triton's interpreter, which is `make kernels`."""

import os
from typing import TypeVar

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HALF = torch.float16 if INTERPRETED else torch.bfloat16
"""16 bits; the interpreter's products of bfloat16 are wrong."""

anywhere = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="make kernels, or a GPU")
on_a_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="it runs on CUDA")

Size = TypeVar("Size")


def sizes(large: list[Size], small: list[Size]) -> list[Size]:
    """The large ones on a GPU, where the interpreter would take minutes."""
    return small if INTERPRETED else large
