"""DiLA: disentangled latent action world models. ``dila.load(path)`` returns a trained model as a `World`.

Importing this package does not import torch: heavy packages are imported at the first use.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dila.errors import DilaError
    from dila.imagine.world import World
    from dila.interop.models import AnyModel

    __version__: str

__all__ = ["DilaError", "World", "__version__", "from_pretrained", "load", "push_to_hub"]


def load(path: str | Path, device: str = "auto", *, bf16: bool = False, **options: Any) -> "World[AnyModel]":
    """Load a trained model, ready for use on videos.

    Args:
        path: a folder of a trained model, a run, a Hugging Face Hub id ``user/name``, or "box", the small model that
            comes with the package; also a released file, with the options ``encoder`` and ``stride``.
        device: "auto" uses CUDA or Apple silicon if available.
        bf16: run the model in bfloat16 where this is safe; about twice as fast on recent processors.
        options: see `dila.interop.pretrained.load_pretrained`.

    Raises:
        DilaError: the model does not exist or is incomplete.
    """
    from dila.imagine.world import World
    from dila.interop.pretrained import load_pretrained

    return World(*load_pretrained(path, device=device, **options), bf16=bf16)


from_pretrained = load
"""Alias of `load`, the name used by Hugging Face packages."""


def push_to_hub(path: str | Path, repo: str, **options: Any) -> str:
    """Upload a trained model with a model card: see `dila.interop.hub.push_to_hub`."""
    from dila.interop.hub import push_to_hub as push

    return push(path, repo, **options)


def __getattr__(name: str) -> Any:
    if name == "DilaError":
        from dila.errors import DilaError

        return DilaError
    if name == "World":
        from dila.imagine.world import World

        return World
    if name == "__version__":
        from dila.version import version

        return version()
    raise AttributeError(f"module 'dila' has no attribute {name!r}")
