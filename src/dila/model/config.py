"""Sizes and choices of a DiLA as plain values: an ablation is another value, a preset a function that returns one."""

from dataclasses import dataclass, field, replace
from typing import Literal

from dila.errors import DilaError
from dila.nn.position import TimePadding


@dataclass(frozen=True)
class BackboneConfig:
    """Spatio-temporal transformer e -> h, as wide as the features (released: 4 + 4 layers, 8 heads of 64)."""

    spatial_depth: int = 4
    temporal_depth: int = 4
    heads: int = 8
    head_dim: int = 64


@dataclass(frozen=True)
class MemoryConfig:
    """Content memory c -> c_mem: a Mamba over time at each patch."""

    depth: int = 2
    state_dim: int = 32
    conv_taps: int = 4
    expand: int = 2


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """IDM: 3-D convolutions over the change of structure.

    ``pairwise`` removes time from the kernels and norm statistics, so that z depends on two frames only; the paper's
    IDM also sees neighbouring transitions on both sides. ``normalise=False`` removes the group norms, which amplify
    small motions and, where two things move, scale one by the size of the other. ``odd`` makes the action of a reversed
    transition the opposite by construction, z(ds) = (f(ds) - f(-ds)) / 2, where the paper uses a loss; it needs
    ``pairwise``.
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
                "idm.odd needs idm.pairwise = true: negating ds reverses a single transition, but not a whole clip"
            )


@dataclass(frozen=True)
class ForwardDynamicsConfig:
    """FDM: a small spatio-temporal transformer conditioned on z by AdaLN-zero and an action token."""

    dim: int = 256
    depth: int = 4
    heads: int = 8
    head_dim: int = 32
    dropout: float = 0.1


@dataclass(frozen=True)
class FusionDecoderConfig:
    """Fusion decoder: structure attends to the content memory and to the first frame.

    ``predicts="features"`` returns the output of the last norm, as in the paper. ``"change"`` adds a zero-initialised
    linear map of it to e[0], so that training starts at the error of copying the first frame.
    """

    depth: int = 3
    heads: int = 8
    head_dim: int = 32
    predicts: Literal["features", "change"] = "features"


@dataclass(frozen=True)
class NoContent:
    """No content and no content memory (table 2): the decoder sees only structure and the first frame."""


@dataclass(frozen=True)
class Discrete:
    """z as ``tokens`` NSVQ tokens, each one of ``codes`` (table 2: 4 x 4 of 32 numbers, so ``action_dim=512``)."""

    codes: int = 8
    tokens: int = 16


@dataclass(frozen=True)
class Gaussian:
    """z sampled from a Gaussian in training, its mean afterwards (table 2); the loss ``kl`` ties it to the prior."""


@dataclass(frozen=True)
class WholeChange:
    """No bottleneck: z is the whole change of structure, which determines ``action_dim``."""


@dataclass(frozen=True)
class NoAction:
    """No IDM and no FDM (figure 5): the decoder sees the true next structure, and no rollouts are possible."""


@dataclass(frozen=True)
class Quirks:
    """Behaviours of the released code that its checkpoints were trained with; only `dila.interop` sets them.

    docs/deviations.md describes each under its name.
    """

    rope_before_scale: bool = False
    single_frame_rollout: bool = False
    forget_conv_window: bool = False


@dataclass(frozen=True)
class DiLAConfig:
    """All architecture settings. The defaults are the paper's model, preset ``base``.

    Args:
        grid: rows and columns of the feature grid.
        feature_dim: D, channels of the frozen features.
        structure_dim: Ds, channels of structure.
        content_dim: Dc, channels of content.
        action_dim: Dz, dimension of a latent action.
        width: width of the backbone and the fusion decoder. None, as in the paper, uses ``feature_dim``; another
            width adds a linear map before the backbone and one after the decoder.
        mlp_hidden: hidden width of the MLPs h -> s, h -> c and s -> query; None uses ``feature_dim``.
        real_action_dim: Da of the action encoder, or None for a model without one.
        time_padding: padding of the depthwise convolutions before the first frame.
        dropout: dropout of the feed-forward layers in the backbone and the decoder.
        content: how appearance is modelled; None, as in the paper, uses the content memory, `memory`.
        bottleneck: bottleneck of z; None, as in the paper, limits only its width.
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
                f"action_dim = {self.action_dim} must be a multiple of bottleneck.tokens = {self.bottleneck.tokens}"
            )
        if isinstance(self.bottleneck, WholeChange | NoAction):
            object.__setattr__(self, "action_dim", self.grid[0] * self.grid[1] * self.structure_dim)

    @property
    def dim(self) -> int:
        """Width of the backbone and the fusion decoder."""
        return self.width or self.feature_dim

    @property
    def hidden(self) -> int:
        """Hidden width of the MLPs for structure and content."""
        return self.mlp_hidden or self.feature_dim

    def for_features(self, grid: tuple[int, int], feature_dim: int) -> "DiLAConfig":
        """Return the same config for an encoder with this grid and this many channels."""
        return replace(self, grid=tuple(grid), feature_dim=feature_dim)
