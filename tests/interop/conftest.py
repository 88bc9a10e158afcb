from dataclasses import replace

import pytest
import torch

from dila.interop.pretrained import Pretrained
from dila.vision import ConvDecoder, ConvDecoderConfig, EfficientNetLite, EfficientNetLiteConfig, FeatureStatistics


@pytest.fixture(scope="module")
def encoder():
    statistics = FeatureStatistics(torch.randn(40), torch.rand(40) + 0.5)
    return EfficientNetLite(EfficientNetLiteConfig(size=32, taps=("stride8",), precision="fp32"), statistics)


@pytest.fixture
def pretrained(encoder, small_config, awake):
    model = awake(replace(small_config, grid=(4, 4), feature_dim=40))
    decoder = ConvDecoder(ConvDecoderConfig(40, (4, 4), size=32, width=8, max_width=16))
    return Pretrained(model, encoder, decoder, 0.2, 8)
