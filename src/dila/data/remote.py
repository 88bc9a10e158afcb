"""Data that lies elsewhere: fetched once into a local cache, then read like any other.

Addresses are those of fsspec: ``hf://datasets/user/name/folder``, ``s3://``, ``gs://``, ``https://``, ``memory://``.
Each file is written beside and moved into place, and noted with its size and version (etag, checksum or time of
change, whatever the store gives), so that an interrupted call goes on with the next file and a changed file is
fetched again. Credentials are the business of fsspec and its packages: none is read, kept or printed here.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from dila.errors import DilaError, MissingExtra
from dila.files import private

ADDRESS = re.compile(r"^([a-z][a-z0-9+]+):/{1,2}(?=[^/])")
"""An address; one slash of two is lost where it went through a `Path`."""
VERSION = ("etag", "checksum", "md5hash", "blob_id", "oid", "generation", "lastmodified", "last_modified", "mtime",
           "updated", "created")  # fmt: skip
"""What stores call the version of a file, in the order of preference, in lower case."""
LOG = ".fetched.jsonl"
CHUNK = 4 * 2**20


class _File(NamedTuple):
    """A file at its source."""

    address: str
    name: str
    """Path below the address that was asked for."""
    size: int | None
    version: str


def is_remote(path: str | Path) -> bool:
    """Whether this is an address, not a path on this machine."""
    return bool(ADDRESS.match(str(path))) and not os.path.exists(path)


def cache_folder() -> Path:
    """``$DILA_CACHE``, or ``dila`` in the user's cache folder."""
    named = os.environ.get("DILA_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dila"


def fetch(address: str, cache: Path | None = None, *, progress: bool = True) -> Path:
    """A local copy of a file or of a folder with all that is in it, brought up to date; hidden files are left out.

    Args:
        address: what fsspec understands.
        cache: where copies lie, ``remote`` in `cache_folder` if left out.
        progress: show a bar on standard error while files are fetched.

    Returns:
        the file, or the folder.

    Raises:
        MissingExtra: the package for this kind of store is not installed.
        DilaError: nothing there, out of reach, or not allowed.
    """
    from tqdm import tqdm

    address = ADDRESS.sub(r"\1://", address)
    shown = _shown(address)
    try:
        system, root = _store(address)
        single = not address.endswith("/") and _is_file(system, root)
        files = [_file(system, root, PurePosixPath(shown).name)] if single else list(_files(system, root))
        if not files:
            _ask(system, root)
            raise DilaError(f"{shown} holds no files; check the address")
        digest = hashlib.sha256(address.encode()).hexdigest()[:12]
        folder = (cache or cache_folder() / "remote") / f"{PurePosixPath(shown).name}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        log = _Log(folder)
        log.forget_all_but({file.name for file in files})
        missing = [file for file in files if not log.has(file)]
        with tqdm(missing, desc=f"fetching {shown}", unit="file", disable=not (progress and missing)) as bar:
            for file in bar:
                _download(system, file, folder / file.name)
                log.note(file)
    except DilaError:
        raise
    except Exception as error:  # every package that talks to a store has errors of its own
        raise DilaError(f"{shown} cannot be fetched: {_reason(error, address)}; check address and access") from error
    return folder / files[0].name if single else folder


def _store(address: str) -> tuple[Any, str]:
    import fsspec

    protocol = address.partition("://")[0]
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol)
        raise MissingExtra(f"reading {protocol}://", package or f"fsspec[{protocol}]", "cluster") from error
    system.invalidate_cache()
    return system, root


def _is_file(system: Any, root: str) -> bool:
    """Whether this is one file; over http a folder is a page that lists its files."""
    return system.isfile(root) and system.info(root).get("mimetype") != "text/html"


def _files(system: Any, root: str) -> Iterator[_File]:
    """All files below a folder, but the hidden ones."""
    base = str(system._strip_protocol(root)).rstrip("/")
    for name in sorted(system.find(root)):
        below = name[len(base) :].lstrip("/") if name.startswith(base) else name
        if name.startswith(("http://", "https://")):
            below = unquote(below)
        parts = PurePosixPath(below).parts
        if not parts or any(part.startswith(".") for part in parts) or PurePosixPath(below).is_absolute():
            continue
        yield _file(system, name, below)


def _file(system: Any, address: str, name: str) -> _File:
    info = system.info(address)
    told = {str(key).lower().replace("-", ""): value for key, value in info.items() if value is not None}
    version = next((str(told[key]) for key in VERSION if key in told), "")
    return _File(address, name, info.get("size"), version)


def _ask(system: Any, root: str) -> None:
    """Raise why an address is out of reach: over http fsspec lists such a one as it does an empty folder."""
    try:
        system.info(root)
    except FileNotFoundError as error:
        if error.__cause__ is not None:
            raise


def _download(system: Any, file: _File, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = private(target, "partial")
    try:
        with system.open(file.address, "rb") as source, partial.open("wb") as out:
            while data := source.read(CHUNK):
                out.write(data)
        written = partial.stat().st_size
        if file.size is not None and written != file.size:
            raise OSError(f"{file.name} came with {written:,} of {file.size:,} bytes")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


class _Log:
    """What a folder of the cache holds: one line a file, the last one counts; a line that a kill cut is no line."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / LOG
        self.entries: dict[str, Mapping[str, Any]] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        self._cut = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self.entries[entry["name"]] = entry
            except (ValueError, KeyError, TypeError):
                continue

    def has(self, file: _File) -> bool:
        """Whether the copy is there and of this version."""
        path = self.folder / file.name
        return (
            self.entries.get(file.name) == _entry(file) and path.is_file() and file.size in (None, path.stat().st_size)
        )

    def note(self, file: _File) -> None:
        """Write down that a file is there."""
        self.entries[file.name] = _entry(file)
        with self.path.open("a", encoding="utf-8") as log:
            log.write("\n" * self._cut + json.dumps(_entry(file)) + "\n")
        self._cut = False

    def forget_all_but(self, names: set[str]) -> None:
        """Delete copies of files that are no longer at the source."""
        for name in set(self.entries) - names:
            (self.folder / name).unlink(missing_ok=True)


def _entry(file: _File) -> dict[str, Any]:
    return {"name": file.name, "size": file.size, "version": file.version}


def _shown(address: str) -> str:
    """The address without what may be secret: user, password and query."""
    protocol, _, rest = address.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def _reason(error: BaseException, address: str) -> str:
    error = error.__cause__ or error  # fsspec's own is often no more than the address
    text = str(error) or type(error).__name__
    return text.replace(address, _shown(address)).replace(address.partition("?")[2] or "\0", "...")
