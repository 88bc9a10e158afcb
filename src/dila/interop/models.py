"""Every model that can be trained, saved and loaded, by its name: the one table of them."""

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
    """A config and the model that it makes."""

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
    """The name of a config's kind of model, which ``config.json`` tells.

    Raises:
        DilaError: it is none of ours.
    """
    found = next((name for name, kind in MODELS.items() if kind.config is type(config)), None)
    if found is None:
        raise DilaError(
            f"{type(config).__name__} is no config, or no model, of those that dila trains and saves ("
            f"{', '.join(MODELS)}); one of your own can be used in a World"
        )
    return found


def build(config: AnyConfig) -> AnyModel:
    """A fresh model."""
    return MODELS[kind_of(config)].model(config)  # type: ignore[arg-type]
