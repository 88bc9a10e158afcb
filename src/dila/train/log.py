"""Log of a run: ``log.jsonl``, with one JSON object per line, and optional trackers."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dila.errors import DilaError, MissingExtra, first_line
from dila.files import write_text, writing
from dila.plugins import load_plugins

FILE = "log.jsonl"

_log = logging.getLogger(__name__)


class Tracker(NamedTuple):
    """Another destination of the log: `write` takes a step and its numbers by name, `close` ends the log."""

    name: str
    write: Callable[[int, Mapping[str, float]], Any]
    close: Callable[[], Any]


class Log:
    """Writer of a run's log; every record is flushed.

    Args:
        out: folder of the run.
        trackers: see `dila.train.run.Run`.
        name: name of the run.
        config: JSON-ready description of the run.
        step: step that the run resumes from; later records are removed, so that none appears twice.

    Raises:
        MissingExtra: wandb or trackio is requested but not installed.
    """

    def __init__(self, out: Path, trackers: tuple[str, ...], name: str, config: Mapping[str, Any], step: int):
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / FILE
        made = [TRACKERS[tracker](out, name, config, step) for tracker in trackers]
        self._trackers = [tracker for tracker in made if tracker is not None]
        _keep_until(self.path, step)
        with writing(self.path):
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one record; its numbers also go to the trackers, as ``kind/name``."""
        with writing(self.path):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        self._tell(lambda tracker: tracker.write(step, numbers))

    def close(self) -> None:
        """Flush and close the file and the trackers."""
        with suppress(OSError):  # a full disk was reported when the record was written
            self._file.close()
        self._tell(lambda tracker: tracker.close())

    def _tell(self, deed: Callable[[Tracker], None]) -> None:
        """Call `deed` on each tracker, and drop trackers that fail: ``log.jsonl`` has all records."""
        for tracker in [*self._trackers]:
            try:
                deed(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                _log.warning(
                    "%s failed (%s: %s); the run continues without it, and %s has all records",
                    tracker.name, type(error).__name__, first_line(error), self.path,
                )  # fmt: skip


def read_log(out: str | Path) -> list[dict[str, Any]]:
    """Read the records of a run; lines that are not JSON, such as a truncated last line, are skipped.

    Raises:
        DilaError: a line is JSON but not a record.
    """
    path, records = Path(out) / FILE, []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise DilaError(f"{path}: line {number} is not a record of a step; remove it")
        records.append(record)
    return records


def joined(known: Mapping[str, Any], losses: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Join the values that every run logs and the losses of an objective into a record.

    Raises:
        DilaError: a loss has the name of another value.
    """
    if taken := losses.keys() & (known.keys() | {"kind", "step", "skipped_clips", "skipped_steps"}):
        raise DilaError(
            f"{title} has a loss named {' and '.join(sorted(taken))}, which the log uses itself; choose another name"
        )
    return {**known, **losses}


def _keep_until(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = [record for record in read_log(path.parent) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def _tensorboard(out: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.info("tensorboard is not installed, so the log goes to %s only", FILE)
        return None
    writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker("tensorboard", write, writer.close)


def _wandb(out: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker:
    # Derived from the folder, so that a resumed run continues the same curve.
    identity = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    return _service("wandb", name=name, config=dict(config), dir=str(out), id=identity)


def _trackio(out: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker:
    return _service("trackio", name=name, config=dict(config))


def _service(package: str, **settings: Any) -> Tracker:
    """Make a tracker with wandb, or with trackio, which has the same API."""
    try:
        module: Any = importlib.import_module(package)
    except ImportError as error:
        raise _missing(package) from error
    module.init(project="dila", resume="allow", **settings)
    return Tracker(package, lambda step, values: module.log(dict(values), step=step), module.finish)


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any], int], Tracker | None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""Functions that make a tracker from the run's folder, name, config and first step; they return None for no tracker."""


def check_trackers(names: Sequence[str]) -> None:
    """Check early that trackers exist and are installed; the log opens only after the data is encoded.

    Raises:
        DilaError: an unknown name.
        MissingExtra: wandb or trackio is requested but not installed.
    """
    load_plugins()
    for name in names:
        if name not in TRACKERS:
            raise DilaError(f"trackers: there is no {name!r}; choose from {', '.join(TRACKERS)}")
        if name in ("wandb", "trackio") and importlib.util.find_spec(name) is None:
            raise _missing(name)


def _missing(package: str) -> MissingExtra:
    return MissingExtra(f"logging to {package}", package, "tracking")
