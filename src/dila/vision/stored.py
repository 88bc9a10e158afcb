"""Files of tensors from anywhere: no code of theirs is run, and no more memory taken than the file is long."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dila.errors import DilaError, first_line
from dila.shapes import Tensor


def load_plain(path: Path, *, mmap: bool = False) -> Any:
    """What ``torch.save`` wrote, on the CPU, with ``weights_only``.

    Args:
        path: the file.
        mmap: leave tensors on the disk until they are used.

    Raises:
        ValueError: damaged, asks for more than tensors and plain values, or unpacks to more than it holds; the reason.
        OSError: it cannot be opened.
    """
    _check_packed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes meet
        raise ValueError(first_line(error)) from error


def read_tensors(path: Path, what: str) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or of a ``torch.save`` dictionary, on the CPU.

    Raises:
        DilaError: there is no such file, or it is not such a file; `what` names its purpose in the sentence.
    """
    if not path.is_file():
        raise DilaError(f"there is no file of {what} at {path}; check the path")
    try:
        stored = load_file(path) if path.suffix == ".safetensors" else load_plain(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise DilaError(f"{path} cannot be read as a file of {what}: {error}") from error
    if not isinstance(stored, Mapping):
        raise DilaError(f"{path} should hold a dictionary of tensors ({what}) but holds a {type(stored).__name__}")
    return {key: value for key, value in stored.items() if isinstance(value, Tensor)}


def tensor_faults(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """All tensors that are missing, unexpected or misshapen, a text for each kind of fault."""
    faults = {
        "missing": sorted(wanted.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - wanted.keys()),
        "misshapen": [
            f"{name} {list(stored[name].shape)} instead of {list(wanted[name].shape)}"
            for name in sorted(wanted.keys() & stored.keys())
            if stored[name].shape != wanted[name].shape
        ],
    }
    return [f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names]


def digest_tensors(digest: hashlib.blake2b, tensors: Mapping[str, Tensor]) -> None:
    """Feed names, shapes and numbers to a hash, in the order of the names."""
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_plain(path: Path, value: Any) -> None:
    """``torch.save`` through a file of Python's, whose errors say what the disk said: torch's own do not.

    Raises:
        OSError: it cannot be written; or RuntimeError with that as its context.
    """
    with path.open("wb") as file:
        torch.save(value, file)


def _check_packed(path: Path) -> None:
    """torch stores its records as they are: one that is packed is not its work, and may unpack to anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [record.filename for record in archive.infolist() if record.file_size > record.compress_size]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError, ValueError):
        return  # of the old layout, or damaged: torch says so
    if packed:
        raise ValueError(f"its record {packed[0]} is compressed, as torch.save never leaves it")
