"""Content, h -> c -> c_mem: appearance, gathered over time at each patch (paper equation 3).

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
"""One state a layer; its tensors are led by the batch: ``B N ...``."""


def content_head(config: DiLAConfig) -> nn.Module:
    """The map h -> c at each token."""
    return ResMLP(config.dim, config.hidden, config.content_dim) if config.content is None else _Nothing()


def content_memory(config: DiLAConfig) -> nn.Module:
    """The map c -> c_mem, which takes and returns its state."""
    return ContentMemory(config) if config.content is None else _NothingKept()


class ContentMemory(nn.Module):
    """Pre-norm Mamba layers over time, each patch alone, then a residual MLP.

    Reading frame by frame with the returned state equals reading the clip at once.
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
        """Read the next frames' content, one or many; ``state`` is None at a clip's start."""
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
    """Content without channels."""

    def forward(self, h: Tensor) -> Content:
        return h[..., :0]


class _NothingKept(nn.Module):
    """Its memory."""

    def forward(self, c: Content, state: MemoryState | None = None) -> tuple[Content, MemoryState]:
        return c, ()


def _zeros(window: Tensor) -> Tensor:
    """The released ``step`` carries the recurrence but not the convolution's inputs: quirk ``forget_conv_window``."""
    return window.new_zeros(()).expand_as(window)
