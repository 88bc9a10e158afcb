"""Motion isolation: freeze structure and see what still moves (paper figure 4).

If all motion is in the structure, the result is static although the content memory keeps reading every true frame.
"""

from typing import NamedTuple

from dila.model.dila import DiLA
from dila.shapes import Features, Structure


class Isolated(NamedTuple):
    """Frames 1..K decoded from the structure of frame 0 and their own content memory."""

    s: Structure
    e: Features


def isolate(model: DiLA, e: Features) -> Isolated:
    """Decode every frame of a clip ``B T H W D`` with the structure of its first frame (equation 4)."""
    seen = model.observe(e)
    still = seen.s[:, :1].expand_as(seen.s[:, 1:])
    e_hat, _ = model.decoder(still, seen.c_mem[:, :-1], model.decoder.origin(e[:, 0]))
    return Isolated(still, e_hat)
