"""Dimension names and tensor types, defined once for the whole project.

========  ==================================================================
letter    meaning
========  ==================================================================
B         batch: clips
T         frames of a clip
K         transitions, always T-1: ``z[:, k]`` moves frame k to frame k+1, and
          ``e_hat[:, k]`` is the prediction of ``e[:, k+1]``
H W       rows and columns of the feature grid
D         channels of the frozen visual features e
Ds        channels of structure s
Dc        channels of content c and of its memory c_mem
Dz        dimension of a latent action z
Da        dimension of a real action a
N         tokens of one frame, H*W, row-major
Y X       rows and columns of pixels
========  ==================================================================

Feature maps are channels last, ``B T H W D``, everywhere above ``vision/``; frames are channels
first, ``B T 3 Y X``, in ``data/`` and ``vision/`` only. Frames are uint8 in 0..255 until an encoder
reads them; decoded frames are float in [0, 1].
"""

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Features = Float[Tensor, "B T H W D"]
Structure = Float[Tensor, "B T H W Ds"]
Content = Float[Tensor, "B T H W Dc"]
LatentActions = Float[Tensor, "B K Dz"]
Actions = Float[Tensor, "B K Da"]
Frames = UInt8[Tensor, "B T 3 Y X"]
Pixels = Float[Tensor, "B T 3 Y X"]

__all__ = [
    "Actions", "Bool", "Content", "Features", "Float", "Frames", "Int", "LatentActions", "Pixels", "Structure",
    "Tensor", "UInt8",
]  # fmt: skip
