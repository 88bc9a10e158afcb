"""The sizes and choices of a DiLA as values: an ablation is another value, a preset a function's result."""

from dataclasses import dataclass, field, replace
from typing import Literal

from dila.errors import DilaError
from dila.nn.position import TimePadding


@dataclass(frozen=True)
class BackboneConfig:
    """Spatio-temporal transformer e -> h, at the width of the features (released: 4 + 4 layers, 8 heads of 64)."""

    spatial_depth: int = 4
    temporal_depth: int = 4
    heads: int = 8
    head_dim: int = 64


@dataclass(frozen=True)
class MemoryConfig:
    """Content memory c -> c_mem: Mamba over time at each patch."""

    depth: int = 2
    state_dim: int = 32
    conv_taps: int = 4
    expand: int = 2


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """IDM: 3-D convolutions over the change of structure.

    ``pairwise`` removes time from its kernels and statistics, so that z depends on two frames only; the paper's IDM
    also sees neighbouring transitions on both sides. ``normalise=False`` removes its group norms, which amplify small
    motions and, where two things move, scale one by the size of the other. ``odd`` gives a reversed transition the
    opposite action by construction, z(ds) = (f(ds) - f(-ds)) / 2, where the paper uses a loss; it needs a pairwise
    IDM.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 1)
    hidden: int = 1024
    dropout: float = 0.1
    pairwise: bool = False
    normalise: bool = True
    odd: bool = False

    def __post_init__(self):
        if self.odd and not self.pairwise:
            raise DilaError(
                "idm.odd needs idm.pairwise: the way back of a whole clip is not its change with another sign"
            )


@dataclass(frozen=True)
class ForwardDynamicsConfig:
    """FDM: a light spatio-temporal transformer conditioned on z by AdaLN-zero and an action token."""

    dim: int = 256
    depth: int = 4
    heads: int = 8
    head_dim: int = 32
    dropout: float = 0.1


@dataclass(frozen=True)
class FusionDecoderConfig:
    """Fusion decoder: structure attends to the content memory and to the first frame.

    ``predicts="features"`` returns the output of the last norm (the paper's); ``"change"`` adds a zero-initialised
    linear map of it to e[0], so that training starts at the error of copying the first frame.
    """

    depth: int = 3
    heads: int = 8
    head_dim: int = 32
    predicts: Literal["features", "change"] = "features"


@dataclass(frozen=True)
class NoContent:
    """No content and no memory of it (table 2): the decoder reads only structure and the first frame."""


@dataclass(frozen=True)
class Discrete:
    """z as this many tokens, each one of ``codes`` (table 2: 4 x 4 of 32 numbers, so ``action_dim=512``), by NSVQ."""

    codes: int = 8
    tokens: int = 16


@dataclass(frozen=True)
class Gaussian:
    """z sampled from a Gaussian in training, its mean afterwards (table 2); the loss ``kl`` ties it to its prior."""


@dataclass(frozen=True)
class WholeChange:
    """No bottleneck: z is the change of structure itself, and ``action_dim`` follows."""


@dataclass(frozen=True)
class NoAction:
    """No IDM and no FDM (figure 5): the decoder sees the true next structure, and nothing can be imagined."""


@dataclass(frozen=True)
class Quirks:
    """Behaviours of the released code that its checkpoints were trained with; only `dila.interop` sets any.

    Each is described in docs/deviations.md under its own name.
    """

    rope_before_scale: bool = False
    single_frame_rollout: bool = False
    forget_conv_window: bool = False


@dataclass(frozen=True)
class DiLAConfig:
    """Everything that defines the architecture. The defaults are the paper's model, preset ``base``.

    Args:
        grid: rows and columns of the feature grid.
        feature_dim: D, channels of the frozen features.
        structure_dim: Ds.
        content_dim: Dc.
        action_dim: Dz, numbers in a latent action.
        width: width of the backbone and the fusion decoder. None, as in the paper, is that of the features; another
            width adds a linear map before the backbone and one after the decoder.
        mlp_hidden: width of the maps h -> s, h -> c and s -> query; None uses that of the features.
        real_action_dim: Da of the action encoder, or None for a model of latent actions only.
        time_padding: padding of the depthwise convolutions before the first frame.
        dropout: dropout of the feed-forward layers in the backbone and the decoder.
        content: how appearance is modelled; None, as in the paper, gathers it in `memory`.
        bottleneck: bottleneck of z; None, as in the paper, is its width only.
    """

    grid: tuple[int, int] = (16, 16)
    feature_dim: int = 768
    structure_dim: int = 32
    content_dim: int = 256
    action_dim: int = 256
    width: int | None = None
    mlp_hidden: int | None = None
    real_action_dim: int | None = None
    time_padding: TimePadding = "zeros"
    dropout: float = 0.1
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    idm: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    fdm: ForwardDynamicsConfig = field(default_factory=ForwardDynamicsConfig)
    decoder: FusionDecoderConfig = field(default_factory=FusionDecoderConfig)
    quirks: Quirks = field(default_factory=Quirks)
    content: NoContent | None = None
    bottleneck: Discrete | Gaussian | WholeChange | NoAction | None = None

    def __post_init__(self):
        if isinstance(self.bottleneck, Discrete) and self.action_dim % self.bottleneck.tokens:
            raise DilaError(
                f"action_dim = {self.action_dim} does not divide into bottleneck.tokens = {self.bottleneck.tokens}"
            )
        if isinstance(self.bottleneck, WholeChange | NoAction):
            object.__setattr__(self, "action_dim", self.grid[0] * self.grid[1] * self.structure_dim)

    @property
    def dim(self) -> int:
        """Width of the backbone and the fusion decoder."""
        return self.width or self.feature_dim

    @property
    def hidden(self) -> int:
        """Width of the maps around structure and content."""
        return self.mlp_hidden or self.feature_dim

    def for_features(self, grid: tuple[int, int], feature_dim: int) -> "DiLAConfig":
        """The same model for an encoder with this grid and this many channels."""
        return replace(self, grid=tuple(grid), feature_dim=feature_dim)
