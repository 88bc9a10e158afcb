"""Rebinding: the layout and motion of one clip with the appearance of another (paper figure 4)."""

from typing import NamedTuple

import torch

from dila.model.dila import DiLA
from dila.shapes import Features, Float, Structure, Tensor


class Rebound(NamedTuple):
    """Frames 1..K of the structure clip, with the appearance of the content clip."""

    s: Structure
    e: Features


def rebind(model: DiLA, structure: Features, content: Float[Tensor, "B T2 H W D"]) -> Rebound:
    """Decode the structure of one clip with the content memory and the first frame of another (equation 4).

    As in training, frame k+1 is decoded with the memory of frame k. If the content clip is shorter (even a single
    frame), its last memory is reused.

    Args:
        model: a trained DiLA.
        structure: features of the clip that gives structure, ``B T H W D``.
        content: features of the clip that gives content, ``B T2 H W D``.
    """
    s = model.read(structure)[:, 1:]
    c_mem = model.observe(content).c_mem
    past = torch.arange(s.shape[1], device=s.device).clamp(max=c_mem.shape[1] - 1)
    e, _ = model.decoder(s, c_mem[:, past], model.decoder.origin(content[:, 0]))
    return Rebound(s, e)
