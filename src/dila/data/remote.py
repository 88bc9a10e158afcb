"""Remote data: fetched into a local cache, then read like local files.

Addresses are those of fsspec: ``hf://datasets/user/name/folder``, ``s3://``, ``gs://``, ``https://``, ``memory://``.
Each file is written to a temporary name and moved into place, and logged with its size and version (etag, checksum or
modification time, as the store provides), so that an interrupted call resumes with the next file and changed files are
fetched again. Credentials are handled by fsspec and its packages: none is read, stored or printed here.
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
"""Matches an address; `Path` turns the two slashes into one."""
VERSION = ("etag", "checksum", "md5hash", "blob_id", "oid", "generation", "lastmodified", "last_modified", "mtime",
           "updated", "created")  # fmt: skip
"""Names by which stores give the version of a file, in order of preference, in lower case."""
LOG = ".fetched.jsonl"
CHUNK = 4 * 2**20


class _File(NamedTuple):
    """A remote file."""

    address: str
    name: str
    """Path relative to the fetched address."""
    size: int | None
    version: str


def is_remote(path: str | Path) -> bool:
    """Whether this is an address and not a local path."""
    return bool(ADDRESS.match(str(path))) and not os.path.exists(path)


def cache_folder() -> Path:
    """Return ``$DILA_CACHE``, or ``dila`` in the user's cache folder."""
    named = os.environ.get("DILA_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dila"


def fetch(address: str, cache: Path | None = None, *, progress: bool = True) -> Path:
    """Fetch a file or a folder, without hidden files, into the local cache, or update the copy there.

    Args:
        address: an address of fsspec.
        cache: folder of copies; None uses ``remote`` in `cache_folder`.
        progress: show a progress bar on standard error while files are fetched.

    Returns:
        the path of the local file or folder.

    Raises:
        MissingExtra: the package for this kind of store is not installed.
        DilaError: the address has no files, cannot be reached, or access is denied.
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
            raise DilaError(f"{shown} has no files; check the address")
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
    except Exception as error:  # each package of fsspec raises errors of its own
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
    """Whether this is a single file; over http, a folder is a page that lists its files."""
    return system.isfile(root) and system.info(root).get("mimetype") != "text/html"


def _files(system: Any, root: str) -> Iterator[_File]:
    """Yield all files below a folder, without hidden ones."""
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
    """Raise the reason if an address cannot be reached: over http, fsspec lists it like an empty folder."""
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
            raise OSError(f"{file.name} arrived with {written:,} of {file.size:,} bytes")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


class _Log:
    """Log of the files in a folder of the cache: one line per file; the last one counts, truncated ones are ignored."""

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
        """Whether the cache has this version of the file."""
        path = self.folder / file.name
        return (
            self.entries.get(file.name) == _entry(file) and path.is_file() and file.size in (None, path.stat().st_size)
        )

    def note(self, file: _File) -> None:
        """Record that a file has been fetched."""
        self.entries[file.name] = _entry(file)
        with self.path.open("a", encoding="utf-8") as log:
            log.write("\n" * self._cut + json.dumps(_entry(file)) + "\n")
        self._cut = False

    def forget_all_but(self, names: set[str]) -> None:
        """Delete copies of files that no longer exist at the source."""
        for name in set(self.entries) - names:
            (self.folder / name).unlink(missing_ok=True)


def _entry(file: _File) -> dict[str, Any]:
    return {"name": file.name, "size": file.size, "version": file.version}


def _shown(address: str) -> str:
    """Return the address without user, password and query, which may be secret."""
    protocol, _, rest = address.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")


def _reason(error: BaseException, address: str) -> str:
    error = error.__cause__ or error  # the message of fsspec's own error is often just the address
    text = str(error) or type(error).__name__
    return text.replace(address, _shown(address)).replace(address.partition("?")[2] or "\0", "...")
