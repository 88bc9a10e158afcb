"""Frozen vision transformers from the transformers library, loaded from a local folder or the Hub."""

import hashlib
import os
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import nn

from dila.errors import DilaError, MissingExtra, first_line
from dila.files import at_home
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder, Resize, rows_and_columns
from dila.vision.statistics import FeatureStatistics

PLACE = ("model", "revision", "local_files_only")
"""Fields of a config that locate a model."""


@dataclass(frozen=True)
class PretrainedViTConfig:
    """`model` is a Hub id or a local folder; `local_files_only` forbids downloads. Frames are resized to `size`."""

    model: str
    revision: str | None = None
    size: int | tuple[int, int] = 224
    precision: Literal["bf16", "fp32"] = "fp32"
    local_files_only: bool = False


class PretrainedViT(FrozenEncoder):
    """A frozen vision transformer; a subclass names it, loads it, and selects its patch tokens.

    Raises:
        MissingExtra: transformers is not installed.
        DilaError: the model is not available, is of another type, or `size` is not a multiple of its patch.
    """

    title: ClassVar[str]
    """Name in messages."""
    extra: ClassVar[str]
    """Extra that installs transformers."""
    model_type: ClassVar[str]
    antialias: ClassVar[bool]
    """Whether the bicubic resize uses antialiasing."""

    def __init__(self, config: PretrainedViTConfig, statistics: FeatureStatistics | None = None):
        folder = at_home(config.model)
        if folder.is_dir():  # a saved config is read from other working directories
            config = replace(config, model=os.path.abspath(folder))
        self.settings: PretrainedViTConfig = config
        self.statistics = statistics
        self.resize = Resize(rows_and_columns(config.size), "bicubic", antialias=self.antialias)
        self.described = self._describe()
        self.made_by(self.load)
        patch = self.described.patch_size
        rows, columns = self.resize.size
        if min(rows, columns) < patch or rows % patch or columns % patch:
            raise DilaError(f"the encoder's size should be a multiple of {patch}, the patch size of {config.model}")
        self.grid = (rows // patch, columns // patch)
        self.feature_dim = self.described.hidden_size

    @abstractmethod
    def load(self) -> nn.Module:
        """Load the network, frozen."""

    @abstractmethod
    def patches(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        """Return the patch tokens of the last layer, row-major."""

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Return raw features: the tokens of `patches` on the grid."""
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            tokens = self.patches(frames)
        return rearrange(tokens, "n (h w) d -> n h w d", h=self.grid[0], w=self.grid[1])

    def weights(self) -> str:
        """Return the commit of a Hub model, or a hash of a local model's weight files."""
        folder = Path(self.settings.model)
        if not folder.is_dir():
            return str(getattr(self.described, "_commit_hash", None) or "")
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
        told = "\n".join(f"{path.name} {_hash_file(path, path.stat().st_mtime_ns)}" for path in files)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """See `FrozenEncoder.identity`; a local model is identified by the hash of its weights, not by its folder."""
        place = PLACE if Path(self.settings.model).is_dir() else ()
        return {key: value for key, value in self.config().items() if key not in place}

    def fetched(self, kind: Any, **more: Any) -> Any:
        """Load the model by a class of transformers; a failure raises a one-sentence error."""
        settings = self.settings
        options = {"revision": settings.revision, "local_files_only": settings.local_files_only}
        try:
            return kind.from_pretrained(settings.model, **options, **more)
        except (OSError, ValueError) as error:
            where = "on this disk" if settings.local_files_only else "on this disk or on the Hub"
            raise DilaError(
                f"the encoder's model {settings.model} was not found {where}; give a folder or check the id "
                f"({first_line(error)})"
            ) from error

    def _describe(self) -> Any:
        """Load the model's config, without its weights."""
        try:
            from transformers import AutoConfig
        except ImportError as error:
            raise MissingExtra(f"the {self.title} encoder", "transformers", self.extra) from error
        described = self.fetched(AutoConfig)
        if described.model_type != self.model_type:
            raise DilaError(
                f"{self.settings.model} is a {described.model_type} model, but the {self.title} encoder needs a "
                f"{self.model_type} model"
            )
        return described


@lru_cache
def _hash_file(path: Path, time: int) -> str:
    """Hash a file; ``time`` is its modification time, which invalidates the cached hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()
