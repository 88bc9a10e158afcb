from dataclasses import FrozenInstanceError

import pytest

from dila.model.config import DiLAConfig
from dila.model.presets import preset


def test_for_features_fits_the_model_to_an_encoder():
    config = preset("tiny").for_features((6, 10), 48)
    assert (config.grid, config.feature_dim) == ((6, 10), 48)
    assert config.backbone == preset("tiny").backbone


def test_widths_follow_the_features_unless_given():
    assert DiLAConfig(feature_dim=48).hidden == DiLAConfig(feature_dim=48).dim == 48
    assert DiLAConfig(feature_dim=48, mlp_hidden=20).hidden == 20
    assert DiLAConfig(feature_dim=48, width=32).dim == 32


def test_configs_are_values():
    assert DiLAConfig() == DiLAConfig()
    with pytest.raises(FrozenInstanceError):
        DiLAConfig().width = 3
