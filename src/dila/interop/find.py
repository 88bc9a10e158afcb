"""Find a trained model: a folder, the newest checkpoint of a run, the included model, or the Hugging Face Hub."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from dila.errors import DilaError, first_line
from dila.files import HOST, at_home
from dila.interop import box

ACTIONS, INVERSE = "actions.json", "latent_to_action.safetensors"
CONFIG, MODEL, ENCODER, DECODER = "config.json", "model.safetensors", "encoder.safetensors", "decoder.safetensors"
CHECKPOINTS = "checkpoints"

_STEP = re.compile(r"step_(\d{7,})$")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$")


def locate(
    path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> Path:
    """Return the folder of the model that `dila.interop.pretrained.load_pretrained` loads from ``path``, downloaded if
    necessary.

    Args:
        path: a folder, a run, "box" or a Hub id; an existing path takes precedence over the last two.
        revision: revision of a Hub id; this and the next three are as in ``huggingface_hub.snapshot_download``.
        cache_dir: folder for downloads.
        local_files_only: use only previous downloads, not the network.
        token: access token for a private model.

    Raises:
        DilaError: no model exists there, or it cannot be downloaded.
    """
    found = at_home(path)
    if not found.exists():
        recover(found)
    if str(path) == box.NAME and not found.exists():
        return box.FOLDER
    if not found.exists() and is_hub_id(str(path)):
        found = _download(str(path), revision, cache_dir, local_files_only, token)
    return find_pretrained(found)


def find_pretrained(path: str | Path) -> Path:
    """Return the folder of a trained model: ``path`` itself, or the newest complete checkpoint of the run there.

    Raises:
        DilaError: there is none.
    """
    path = at_home(path)
    if not path.exists():
        recover(path)
    if not path.exists():
        raise DilaError(f"{path} does not exist; give a folder of a trained model, a run, or a Hub id user/name")
    if is_pretrained(path):
        return path
    found = checkpoints(path)
    if complete := [child for child in found if is_pretrained(child)]:
        return complete[-1]
    if (path / CONFIG).is_file():
        return path  # reading it raises an error that names what is missing
    what = f"no complete checkpoint among {len(found)} in {CHECKPOINTS}" if found else f"no {CONFIG}"
    raise DilaError(f"{path} has {what}; give the folder of a trained model or of a run that has saved a checkpoint")


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run that have names as written by training, oldest first."""
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), child) for child in folder.iterdir() if (match := _STEP.match(child.name))]
    return [child for _, child in sorted(numbered)]


def recover(folder: Path) -> None:
    """Clean up what killed writers of a model left beside it: restore a model that was set aside, remove the rest.

    While a model is replaced, its folder has no name of its own between two renames.
    """
    for left in _left(folder, ".old"):
        with suppress(OSError):
            if not is_pretrained(folder) and is_pretrained(left):
                left.rename(folder)
        if is_pretrained(folder):
            shutil.rmtree(left, ignore_errors=True)
    for left in _left(folder, ".partial"):
        shutil.rmtree(left, ignore_errors=True)


def _left(folder: Path, suffix: str) -> list[Path]:
    """Return folders beside this one that belong to a process of this machine that no longer runs."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)-{HOST}-\w+{re.escape(suffix)}")
    return [child for child in children(folder.parent) if (m := name.fullmatch(child.name)) and not _lives(int(m[1]))]


def _lives(process: int) -> bool:
    """Whether another process with this id exists; True if that cannot be determined."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return process != os.getpid()


def is_hub_id(name: str) -> bool:
    """Whether the name has the form of a Hub id, ``user/name``."""
    return _HUB_ID.fullmatch(name) is not None


def is_pretrained(folder: Path) -> bool:
    """Whether the folder contains a model, complete or not."""
    return (folder / CONFIG).is_file() and (folder / MODEL).is_file()


def children(folder: Path) -> list[Path]:
    """Return the entries of a folder; empty if it is not a folder or cannot be read."""
    with suppress(OSError):
        return list(folder.iterdir())
    return []


def _download(
    name: str, revision: str | None, cache_dir: str | Path | None, local_files_only: bool, token: str | None
) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [CONFIG, MODEL, ENCODER, DECODER, ACTIONS, INVERSE]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token,
                allow_patterns=wanted,
            )
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DilaError(
            f"{name} is not an existing path, and downloading it from the Hub failed: {first_line(error)}; check the "
            "id or the path"
        ) from error
