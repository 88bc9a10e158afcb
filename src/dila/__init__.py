"""DiLA: disentangled latent action world models. ``dila.load(path)`` gives a trained one as a `World`.

Importing this imports no torch: what is heavy comes with the first use.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dila.imagine.world import World

    __version__: str

__all__ = ["World", "__version__", "load"]


def load(path: str | Path, device: str = "auto", *, bf16: bool = False, **options: Any) -> "World":
    """A trained model, ready for videos.

    Args:
        path: a folder of a trained model, a run, a released file, or a Hugging Face Hub id ``user/name``.
        device: "auto" takes CUDA or Apple silicon where there is one.
        bf16: run the model in bfloat16 where that is safe: about twice as fast on recent processors.
        options: see `dila.interop.pretrained.load_pretrained`.

    Raises:
        DilaError: there is no model there, or it is not whole.
    """
    from dila.imagine.world import World
    from dila.interop.pretrained import load_pretrained

    return World(*load_pretrained(path, device=device, **options), bf16=bf16)


def __getattr__(name: str) -> Any:
    if name == "World":
        from dila.imagine.world import World

        return World
    if name == "__version__":
        from dila.version import version

        return version()
    raise AttributeError(f"module 'dila' has no attribute {name!r}")
