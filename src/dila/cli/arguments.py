"""Functions shared by several verbs: parsing arguments and writing results."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from difflib import get_close_matches
from functools import partial, wraps
from io import StringIO
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
"""Path or address (``hf://``, ``s3://``, ``gs://``, ``https://``) of data; a str, as Path would merge slashes."""
Model = Annotated[str, tyro.conf.arg(help="folder of a trained model or of a run, or a Hub id.")]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or mps.")]
Fps = Annotated[float | None, tyro.conf.arg(help="frames per second; overrides the rate stated in the files.")]
Camera = Annotated[
    str | None,
    tyro.conf.arg(help="read only this camera of multi-camera recordings, such as observation.images.front."),
]

IMAGINED = "e_hat"
"""Name of the imagined features in the file of numbers beside a clip; unique to these files."""


def read(verb: Callable[..., Result], name: str, arguments: Sequence[str], **options: Any) -> Result:
    """Run a verb on its command line. Wrong values of flags exit with code 2, like all invalid input.

    Raises:
        DilaError: a flag or argument that the verb does not have.
    """

    @wraps(verb)
    def deferred(*given: Any, **named: Any) -> Callable[[], Result]:
        return partial(verb, *given, **named)

    def parsed(words: list[str]) -> Any:
        avoid = (tyro.conf.AvoidSubcommands,)
        return tyro.cli(deferred, prog=f"dila {name}", args=words, config=avoid, return_unknown_args=True, **options)

    run, unknown = parsed(list(arguments))
    if unknown:
        with suppress(SystemExit), redirect_stdout(StringIO()) as told:
            parsed(["--help"])
        raise DilaError(_unknown(name, unknown[0].partition("=")[0], told.getvalue()))
    return run()


def _unknown(name: str, word: str, told: str) -> str:
    """Say that the verb has no such flag or argument, with the flags of its help that are most like it."""
    if not word.startswith("-"):
        return f"{name} takes no further argument {word!r}; `dila {name} --help` lists its flags"
    flags, field = sorted(set(re.findall(r"--(\w[\w.-]*)", told))), word.lstrip("-").replace("_", "-")
    near = [flag for flag in flags if flag.endswith(f".{field}")] or get_close_matches(field, flags, n=1)
    mend = f"did you mean {' or '.join(f'--{flag}' for flag in near[:3])}? " if near else ""
    return f"{name} has no flag {word}; {mend}`dila {name} --help` lists its flags"


def open_world(model: str, device: str, draws: bool = True) -> "World":
    """Load the model for a verb that reads videos and, with `draws`, decodes predictions."""
    import dila

    return dila.load(model, device, bf16=True, draws=draws)


def check_imagined(out: Path, *read: Path) -> None:
    """Check that `save_imagined` will only replace files that it wrote itself.

    Raises:
        DilaError: ``out`` is one of the clips to read, or the .safetensors file beside it has another origin.
    """
    for path in read:
        if out.exists() and path.exists() and out.samefile(path):
            raise DilaError(f"--out {out} is an input clip, which would be overwritten; choose another name")
    numbers = out.with_suffix(".safetensors")
    if numbers.exists() and not _is_imagined(numbers):
        raise DilaError(f"--out {out} would replace {numbers}, which has other contents; choose another name")


def _is_imagined(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            return IMAGINED in stored.keys()  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError):
        return False


def save_imagined(out: Path, e: "Tensor", rows: "Rows", stride: float, **more: "Tensor") -> None:
    """Write the clip ``out`` (.mp4 or .gif), and beside it the tensors ``e_hat`` and `more` as .safetensors.

    Call `check_imagined` before computing the results.
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
    """Print a JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2)
    print()
