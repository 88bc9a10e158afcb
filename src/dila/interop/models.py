"""Registry of every model that can be trained, saved and loaded, by name."""

from typing import NamedTuple

from dila.baselines.adaworld import AdaWorld, AdaWorldConfig
from dila.baselines.adaworld_diffusion import AdaWorldDiffusion, AdaWorldDiffusionConfig
from dila.baselines.lapa import LAPA, LAPAConfig
from dila.baselines.moto import Moto, MotoConfig
from dila.baselines.villax import VillaX, VillaXConfig
from dila.errors import DilaError
from dila.model.config import DiLAConfig
from dila.model.dila import DiLA

AnyConfig = DiLAConfig | LAPAConfig | MotoConfig | AdaWorldConfig | AdaWorldDiffusionConfig | VillaXConfig
AnyModel = DiLA | LAPA | Moto | AdaWorld | AdaWorldDiffusion | VillaX


class Kind(NamedTuple):
    """A config class and the model class that it configures."""

    config: type[AnyConfig]
    model: type[AnyModel]


MODELS: dict[str, Kind] = {
    "dila": Kind(DiLAConfig, DiLA),
    "lapa": Kind(LAPAConfig, LAPA),
    "moto": Kind(MotoConfig, Moto),
    "adaworld": Kind(AdaWorldConfig, AdaWorld),
    "adaworld_diffusion": Kind(AdaWorldDiffusionConfig, AdaWorldDiffusion),
    "villax": Kind(VillaXConfig, VillaX),
}


def kind_of(config: object) -> str:
    """Return the registry name of a config, which ``config.json`` stores as ``kind``.

    Raises:
        DilaError: the config is not in the registry.
    """
    found = next((name for name, kind in MODELS.items() if kind.config is type(config)), None)
    if found is None:
        raise DilaError(
            f"{type(config).__name__} is not a config or model that dila can train and save ("
            f"{', '.join(MODELS)}); a model of your own can be used in a World"
        )
    return found


def build(config: AnyConfig) -> AnyModel:
    """Return a new, untrained model."""
    return MODELS[kind_of(config)].model(config)  # type: ignore[arg-type]
