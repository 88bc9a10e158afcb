"""What several verbs share: reading their arguments, and writing what they made."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from dila.errors import DilaError

if TYPE_CHECKING:
    from dila.imagine.pictures import Rows
    from dila.imagine.world import World
    from dila.shapes import Tensor

Result = TypeVar("Result")

Data = Annotated[str, tyro.conf.arg(metavar="PATH")]
"""A path, or the address of data elsewhere (``hf://``, ``s3://``, ``gs://``, ``https://``), whose slashes stay."""
Model = Annotated[str, tyro.conf.arg(help="folder of a trained model or of a run, or a Hub id.")]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or mps.")]
Fps = Annotated[float | None, tyro.conf.arg(help="frames per second; overrides the rate stated in the files.")]
Camera = Annotated[
    str | None,
    tyro.conf.arg(help="read only this camera of multi-camera recordings, such as observation.images.front."),
]

IMAGINED = "e_hat"
"""Name of the imagined features in the numbers beside a clip; no other file of dila has it."""


def read(verb: Callable[..., Result], name: str, arguments: Sequence[str], **options: Any) -> Result:
    """Run a verb on its command line. Wrong flags end the process with 2, as all bad input does."""
    return tyro.cli(verb, prog=f"dila {name}", args=list(arguments), config=(tyro.conf.AvoidSubcommands,), **options)


def open_world(model: str, device: str, draws: bool = True) -> "World":
    """The model for a verb that looks at videos, and draws."""
    import dila

    return dila.load(model, device, bf16=True, draws=draws)


def check_imagined(out: Path, *read: Path) -> None:
    """See that what `save_imagined` will write takes the place of nothing that it did not write itself.

    Raises:
        DilaError: ``out`` is one of the clips that are read, or the numbers beside it are of something else.
    """
    for path in read:
        if out.exists() and path.exists() and out.samefile(path):
            raise DilaError(f"--out {out} is the clip that is read, which would be lost; choose another name")
    numbers = out.with_suffix(".safetensors")
    if numbers.exists() and not _is_imagined(numbers):
        raise DilaError(f"--out {out} would replace {numbers}, which holds nothing imagined; choose another name")


def _is_imagined(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            return IMAGINED in stored.keys()  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError):
        return False


def save_imagined(out: Path, e: "Tensor", rows: "Rows", stride: float, **more: "Tensor") -> None:
    """Write the clip ``out`` (.mp4 or .gif), and its numbers beside it as safetensors: ``e_hat`` and what is named.

    Ask `check_imagined` before the work.
    """
    from safetensors.torch import save_file

    from dila.files import replacing
    from dila.imagine.pictures import write_clip

    write_clip(out, rows, 1 / stride)
    numbers = out.with_suffix(".safetensors")
    with replacing(numbers) as partial:
        save_file({name: tensor.contiguous().cpu() for name, tensor in {IMAGINED: e, **more}.items()}, partial)
    print(f"wrote {out} and {numbers}")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2)
    print()
