"""Where a trained model lies: a folder, the newest checkpoint of a run, the box, or the Hugging Face Hub."""

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
    """The folder of the model that `dila.interop.pretrained.load_pretrained` takes for ``path``, fetched if need be.

    Args:
        path: a folder, a run, "box" or an id of the Hub; a path that exists goes before the last two.
        revision: of a Hub id, as in ``huggingface_hub.snapshot_download``; so are the next three.
        cache_dir: where downloads are kept.
        local_files_only: no network; only what was downloaded before.
        token: for a private model.

    Raises:
        DilaError: there is none, or the Hub does not give it.
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
    """The folder of a trained model: ``path`` itself, or the newest complete checkpoint of the run there.

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
        return path  # reading it tells what is missing
    what = f"no whole checkpoint among {len(found)} in {CHECKPOINTS}" if found else f"no {CONFIG}"
    raise DilaError(f"{path} has {what}; give the folder of a trained model or of a run that has saved a checkpoint")


def checkpoints(run: Path) -> list[Path]:
    """Folders of a run's checkpoints, by the names that training gives them, oldest first."""
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), child) for child in folder.iterdir() if (match := _STEP.match(child.name))]
    return [child for _, child in sorted(numbered)]


def recover(folder: Path) -> None:
    """See to what killed writers of a model left beside it: an older model set aside gets its name back, the rest goes.

    Between two renames a folder of a model that is written over has no name of its own.
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
    """Folders beside that carry the number of a process of this machine which does not write them any more."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.(\d+)-{HOST}-\w+{re.escape(suffix)}")
    return [child for child in children(folder.parent) if (m := name.fullmatch(child.name)) and not _lives(int(m[1]))]


def _lives(process: int) -> bool:
    """Whether another process has this number; where that cannot be asked, yes."""
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
    """Whether it has the form of an id of the Hub, ``user/name``."""
    return _HUB_ID.fullmatch(name) is not None


def is_pretrained(folder: Path) -> bool:
    """Whether the folder holds a model, whole or not."""
    return (folder / CONFIG).is_file() and (folder / MODEL).is_file()


def children(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is none or cannot be read."""
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
            f"{name} is no path here, and the Hub does not give it: {first_line(error)}; check the id or the path"
        ) from error
