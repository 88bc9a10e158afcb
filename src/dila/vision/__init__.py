"""Frozen visual encoders and decoders, feature statistics and the feature cache."""

from collections.abc import Mapping
from typing import Any

from dila.configs import from_json
from dila.errors import DilaError
from dila.plugins import load_plugins
from dila.protocols import FrameDecoder
from dila.vision.cache import CachedEpisode, FeatureCache, fit_statistics_from
from dila.vision.conv_decoder import ConvDecoder, ConvDecoderConfig, decoder_loss
from dila.vision.dinov2 import DINOv2, DINOv2Config
from dila.vision.efficientnet import EfficientNetLite, EfficientNetLiteConfig
from dila.vision.encoder import FrozenEncoder
from dila.vision.held import HeldEpisode, hold
from dila.vision.pixels import PatchDecoder, PatchesConfig, PatchPixels
from dila.vision.rae_decoder import RAEDecoder, RAEDecoderConfig
from dila.vision.statistics import FeatureStatistics, fit_statistics
from dila.vision.vit_mae import ViTMAE, ViTMAEConfig

ENCODERS: dict[str, tuple[Any, type]] = {
    EfficientNetLite.name: (EfficientNetLite, EfficientNetLiteConfig),
    DINOv2.name: (DINOv2, DINOv2Config),
    PatchPixels.name: (PatchPixels, PatchesConfig),
    ViTMAE.name: (ViTMAE, ViTMAEConfig),
}
DECODERS: dict[str, tuple[Any, type]] = {
    ConvDecoder.name: (ConvDecoder, ConvDecoderConfig),
    RAEDecoder.name: (RAEDecoder, RAEDecoderConfig),
    PatchDecoder.name: (PatchDecoder, PatchesConfig),
}


def build_encoder(config: Mapping[str, Any] | str, statistics: FeatureStatistics | None = None) -> FrozenEncoder:
    """Build an encoder from its ``config()``, or with default settings from a name such as "efficientnet-lite0".

    Raises:
        DilaError: an unknown name or field, or weights that are not available.
    """
    encoder, settings = _described(config, ENCODERS, "encoder")
    return encoder(settings, statistics)


def encoder_config(config: Mapping[str, Any] | str) -> Any:
    """Return the settings of the encoder that `build_encoder` would build.

    Raises:
        DilaError: an unknown name or field.
    """
    return _described(config, ENCODERS, "encoder")[1]


def build_decoder(config: Mapping[str, Any] | str, statistics: FeatureStatistics | None = None) -> FrameDecoder:
    """Build a decoder from its ``config()``. A `ConvDecoder` is untrained; its weights are a state dict.

    `statistics` are those of the input features, for a decoder of raw features (`RAEDecoder`). The `ConvDecoder` is
    trained on normalised features and does not use them.

    Raises:
        DilaError: an unknown name or field, or weights that are not available.
    """
    decoder, settings = _described(config, DECODERS, "decoder")
    return decoder(settings) if decoder is ConvDecoder else decoder(settings, statistics)


def _described(config: Mapping[str, Any] | str, known: dict[str, tuple[Any, type]], what: str) -> tuple[Any, Any]:
    load_plugins()
    config = {"name": config} if isinstance(config, str) else config
    name = config.get("name")
    if name not in list(known):  # a list, because the value may be unhashable
        raise DilaError(f"there is no {what} named {name!r}; choose one of {', '.join(known)}")
    cls, settings = known[name]
    fields = {key: value for key, value in config.items() if key != "name"}
    return cls, from_json(settings, fields, f"{what} {name}")


__all__ = [
    "DECODERS", "ENCODERS", "CachedEpisode", "ConvDecoder", "ConvDecoderConfig", "DINOv2", "DINOv2Config",
    "EfficientNetLite", "EfficientNetLiteConfig", "FeatureCache", "FeatureStatistics", "FrozenEncoder", "HeldEpisode",
    "PatchDecoder", "PatchPixels", "PatchesConfig", "RAEDecoder", "RAEDecoderConfig", "ViTMAE", "ViTMAEConfig",
    "build_decoder", "build_encoder", "decoder_loss", "encoder_config", "fit_statistics", "fit_statistics_from", "hold",
]  # fmt: skip
