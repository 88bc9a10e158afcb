"""Vision transformers of the transformers library, from a local folder or the Hub."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dila.errors import DilaError, MissingExtra


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
            reason = (str(error).splitlines() or [type(error).__name__])[0]
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
