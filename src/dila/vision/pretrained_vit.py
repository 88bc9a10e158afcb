"""Vision transformers of the transformers library, from a local folder or the Hub."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from einops import rearrange
from torch import nn

from dila.configs import to_json
from dila.errors import DilaError, MissingExtra, first_line
from dila.files import at_home
from dila.shapes import Float, Tensor
from dila.vision.encoder import FrozenEncoder, Resize, rows_and_columns
from dila.vision.statistics import FeatureStatistics


class Source(NamedTuple):
    """Where a model lies and what it has to be.

    Args:
        encoder: the encoder that needs it, for sentences.
        extra: that brings transformers.
        kind: its ``model_type``.
        model: a Hub id or a local folder.
        revision: of a Hub id.
        local_files_only: forbids downloads.
    """

    encoder: str
    extra: str
    kind: str
    model: str
    revision: str | None
    local_files_only: bool

    def describe(self) -> Any:
        """What the model says of itself, without its weights.

        Raises:
            MissingExtra: transformers is not installed.
            DilaError: it cannot be had or is of another kind.
        """
        try:
            from transformers import AutoConfig
        except ImportError as error:
            raise MissingExtra(f"the {self.encoder} encoder", "transformers", self.extra) from error
        with self.to_be_had():
            described = AutoConfig.from_pretrained(self.model, **self.options())
        if described.model_type != self.kind:
            raise DilaError(
                f"{self.model} is a {described.model_type} model; the {self.encoder} encoder needs a {self.kind} one"
            )
        return described

    def options(self) -> dict[str, Any]:
        """Those of ``from_pretrained``."""
        return {"revision": self.revision, "local_files_only": self.local_files_only}

    def weights(self, described: Any) -> str:
        """The commit of a Hub model, or a hash of the sizes and times of a local one's weight files."""
        folder = Path(self.model)
        if not folder.is_dir():
            return str(getattr(described, "_commit_hash", None) or "")
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
        told = "\n".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @contextmanager
    def to_be_had(self) -> Iterator[None]:
        """Around whatever reads it: what fails becomes one sentence."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = first_line(error)
            where = "on this disk" if self.local_files_only else "on this disk or the Hub"
            raise DilaError(
                f"the encoder's model {self.model} is not to be had {where}; give a folder or check the id ({reason})"
            ) from error


def cells(size: tuple[int, int], patch: int, model: str) -> tuple[int, int]:
    """Rows and columns of patches of a frame of this size.

    Raises:
        DilaError: the patch of the model does not divide it.
    """
    if any(side < patch or side % patch for side in size):
        raise DilaError(f"the encoder's size should be a multiple of {patch}, the patch of {model}")
    return size[0] // patch, size[1] // patch


@dataclass(frozen=True)
class PretrainedViTConfig:
    """`model` is a Hub id or a local folder; `local_files_only` forbids downloads. Frames are squeezed to `size`."""

    model: str
    revision: str | None = None
    size: int | tuple[int, int] = 224
    precision: Literal["bf16", "fp32"] = "fp32"
    local_files_only: bool = False


class PretrainedViT(FrozenEncoder):
    """A frozen vision transformer; a subclass says which, loads it, and takes its patch tokens.

    Raises:
        MissingExtra: transformers is not installed.
        DilaError: the model cannot be had, is of another kind, or `size` is no multiple of its patch.
    """

    title: ClassVar[str]
    """In sentences."""
    extra: ClassVar[str]
    """That brings transformers."""
    model_type: ClassVar[str]
    antialias: ClassVar[bool]
    """Of the bicubic resize."""

    def __init__(self, config: PretrainedViTConfig, statistics: FeatureStatistics | None = None):
        folder = at_home(config.model)
        if folder.is_dir():  # what is saved with it is read from other places too
            config = replace(config, model=os.path.abspath(folder))
        self.settings = config
        self.statistics = statistics
        self.resize = Resize(rows_and_columns(config.size), "bicubic", antialias=self.antialias)
        self.source = Source(
            self.title, self.extra, self.model_type, config.model, config.revision, config.local_files_only
        )
        self.described = described = self.source.describe()
        self.made_by(partial(self.load, self.source))
        self.grid = cells(self.resize.size, described.patch_size, config.model)
        self.feature_dim = described.hidden_size

    @staticmethod
    @abstractmethod
    def load(source: Source) -> nn.Module:
        """The network, frozen."""

    @abstractmethod
    def patches(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        """The patch tokens of the last layer, row-major."""

    def features(self, frames: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N H W D"]:
        """Raw features: `patches`, in their places."""
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            tokens = self.patches(frames)
        return rearrange(tokens, "n (h w) d -> n h w d", h=self.grid[0], w=self.grid[1])

    def weights(self) -> str:
        """See `Source.weights`."""
        return self.source.weights(self.described)

    def config(self) -> dict[str, Any]:
        """See `FrozenEncoder.config`."""
        return {"name": self.name} | to_json(self.settings)
