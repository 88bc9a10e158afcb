"""Content, h -> c -> c_mem: appearance, accumulated over time at each patch (paper equation 3).

c      B T H W Dc   content of one frame
c_mem  B T H W Dc   content memory, ``c_mem[t] = Mamba(c[t], state[t-1])``
"""

from einops import rearrange
from torch import nn

from dila.model.config import DiLAConfig
from dila.nn.feedforward import ResMLP
from dila.nn.mamba import Mamba, MambaState
from dila.shapes import Content, Tensor

MemoryState = tuple[MambaState, ...]
"""One state per layer; each tensor has a leading batch dimension, ``B N ...``."""


def content_head(config: DiLAConfig) -> nn.Module:
    """Return the module that maps h to c at each token."""
    return ResMLP(config.dim, config.hidden, config.content_dim) if config.content is None else _Nothing()


def content_memory(config: DiLAConfig) -> nn.Module:
    """Return the module that maps c to c_mem, and takes and returns its state."""
    return ContentMemory(config) if config.content is None else _NothingKept()


class ContentMemory(nn.Module):
    """Pre-norm Mamba layers over time, applied to each patch independently, then a residual MLP.

    Processing frame by frame with the returned state equals processing the whole clip at once.
    """

    def __init__(self, config: DiLAConfig):
        super().__init__()
        dim, sizes = config.content_dim, config.memory
        self.forget_window = config.quirks.forget_conv_window
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(sizes.depth))
        self.layers = nn.ModuleList(
            Mamba(dim, sizes.state_dim, sizes.conv_taps, sizes.expand) for _ in range(sizes.depth)
        )
        self.norm_out = nn.LayerNorm(dim)
        self.enhance = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, c: Content, state: MemoryState | None = None) -> tuple[Content, MemoryState]:
        """Process the content of the next frames, one or many; ``state`` is None at the start of a clip."""
        batch, _, height, width, _ = c.shape
        y = rearrange(c, "b t h w d -> (b h w) t d")
        states = []
        for i, (norm, mamba) in enumerate(zip(self.norms, self.layers, strict=True)):
            mixed, kept = mamba(norm(y), None if state is None else self._rows(state[i]))
            y = y + mixed
            states.append(MambaState(*(part.unflatten(0, (batch, height * width)) for part in kept)))
        y = self.norm_out(y)
        y = y + self.enhance(y)
        return rearrange(y, "(b h w) t d -> b t h w d", h=height, w=width), tuple(states)

    def _rows(self, state: MambaState) -> MambaState:
        window = state.window.flatten(0, 1)
        return MambaState(_zeros(window) if self.forget_window else window, state.x.flatten(0, 1))


class _Nothing(nn.Module):
    """Content head of a model without content: returns zero channels."""

    def forward(self, h: Tensor) -> Content:
        return h[..., :0]


class _NothingKept(nn.Module):
    """Content memory of a model without content: returns its input and an empty state."""

    def forward(self, c: Content, state: MemoryState | None = None) -> tuple[Content, MemoryState]:
        return c, ()


def _zeros(window: Tensor) -> Tensor:
    """Return zeros for the quirk ``forget_conv_window``: the released ``step`` carries only the recurrence."""
    return window.new_zeros(()).expand_as(window)
