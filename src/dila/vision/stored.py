"""Read tensor files from untrusted sources: none of their code is run, and memory is bounded by the file's size."""

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
    """Load what ``torch.save`` wrote, on the CPU, with ``weights_only``.

    Args:
        path: the file.
        mmap: keep tensors on disk until they are used.

    Raises:
        ValueError: the file is damaged, contains other objects than tensors and plain values, or is compressed.
        OSError: the file cannot be opened.
    """
    _check_packed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(first_line(error)) from error


def read_tensors(path: Path, what: str) -> Mapping[str, Tensor]:
    """Load the tensors of a safetensors file or of a ``torch.save`` dictionary, on the CPU.

    Raises:
        DilaError: the file does not exist or is not such a file; the message names its purpose, `what`.
    """
    if not path.is_file():
        raise DilaError(f"there is no file of {what} at {path}; check the path")
    try:
        stored = load_file(path) if path.suffix == ".safetensors" else load_plain(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise DilaError(f"{path} cannot be read as a file of {what}: {error}") from error
    if not isinstance(stored, Mapping):
        raise DilaError(f"{path} ({what}) should contain a dictionary of tensors, not a {type(stored).__name__}")
    return {key: value for key, value in stored.items() if isinstance(value, Tensor)}


def tensor_faults(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """List the missing, unexpected, misshapen and non-finite tensors, one text per kind of fault."""
    faults = {
        "missing": sorted(wanted.keys() - stored.keys()),
        "unexpected": sorted(stored.keys() - wanted.keys()),
        "misshapen": [
            f"{name} {list(stored[name].shape)} instead of {list(wanted[name].shape)}"
            for name in sorted(wanted.keys() & stored.keys())
            if stored[name].shape != wanted[name].shape
        ],
        "not finite": not_finite(stored),
    }
    return [f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names]


def not_finite(stored: Mapping[str, Tensor]) -> list[str]:
    """List the tensors that contain NaN or infinite numbers; those on the meta device have none."""
    real = {name: x for name, x in stored.items() if x.is_floating_point() and x.numel() and not x.is_meta}
    # The extremes are NaN if any number is; isfinite on every number takes ten times as long.
    return sorted(name for name, x in real.items() if not torch.stack(x.aminmax()).isfinite().all())


def digest_tensors(digest: hashlib.blake2b, tensors: Mapping[str, Tensor]) -> None:
    """Update a hash with names, shapes and values, in order of the names."""
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_plain(path: Path, value: Any) -> None:
    """Call ``torch.save`` on a Python file, so that errors state the disk's reason; torch's own do not.

    Raises:
        OSError: the file cannot be written; or RuntimeError with the OSError as its context.
    """
    with path.open("wb") as file:
        torch.save(value, file)


def _check_packed(path: Path) -> None:
    """Refuse compressed records: torch never writes them, and they could decompress to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [record.filename for record in archive.infolist() if record.file_size > record.compress_size]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, EOFError, ValueError):
        return  # of the old layout, or damaged, which torch reports
    if packed:
        raise ValueError(f"its record {packed[0]} is compressed, which torch.save never does")
