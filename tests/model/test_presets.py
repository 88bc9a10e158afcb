import pytest
import torch

from dila.errors import DilaError
from dila.interop.released import to_released
from dila.model.dila import DiLA, count_parameters
from dila.model.presets import PRESETS, preset

PARAMETERS = {"base": 122_995_544, "small": 50_988_434, "tiny": 2_192_651}


def build(name):
    with torch.device("meta"):
        return DiLA(preset(name))


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_counts_are_the_recorded_ones(name):
    assert count_parameters(build(name)) == PARAMETERS[name]


def test_base_has_the_parameters_of_the_paper_in_the_released_layout():
    state = to_released(build("base"))
    assert sum(tensor.numel() for name, tensor in state.items() if not name.endswith(".beta")) == 123_006_040
    assert len(state) == 533
    assert sum(name.endswith(".beta") for name in state) == 54


def test_unknown_preset_is_named_with_the_known_ones():
    with pytest.raises(DilaError, match=r"unknown preset 'huge': choose one of base, small, tiny"):
        preset("huge")
