"""Files of ``torch.save`` from anywhere: tensors and plain values, no code, no more memory than the file is long."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from dila.errors import first_line


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
