"""The log of a run: one JSON object a line in ``log.jsonl``, always, and the trackers a run names."""

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
    """Where numbers go besides the file: what writes those of a step by name, and what is called when no more come."""

    name: str
    write: Callable[[int, Mapping[str, float]], Any]
    close: Callable[[], Any]


class Log:
    """Records of a run, each flushed as it is written.

    Args:
        out: the run's folder.
        trackers: see `dila.train.run.Run`.
        name: of the run.
        config: JSON-ready description of it.
        step: that the run goes on from; records after it are dropped, so that none is there twice.

    Raises:
        MissingExtra: wandb or trackio is wanted and not installed.
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
        """One record; what is a number goes to the trackers as ``kind/name``."""
        with writing(self.path):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        self._tell(lambda tracker: tracker.write(step, numbers))

    def close(self) -> None:
        """Flush and close everything."""
        with suppress(OSError):  # what a full disk did not take was said when it was written
            self._file.close()
        self._tell(lambda tracker: tracker.close())

    def _tell(self, deed: Callable[[Tracker], None]) -> None:
        """Do something with each tracker, and go on without one that fails: ``log.jsonl`` has it all."""
        for tracker in [*self._trackers]:
            try:
                deed(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                _log.warning(
                    "%s failed (%s: %s), and the run goes on without it; %s has every number",
                    tracker.name, type(error).__name__, first_line(error), self.path,
                )  # fmt: skip


def read_log(out: str | Path) -> list[dict[str, Any]]:
    """The records of a run; a last line cut short by a kill is left out.

    Raises:
        DilaError: a line is JSON, and no record.
    """
    path, records = Path(out) / FILE, []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise DilaError(f"{path}: line {number} is no record of a step; take it out")
        records.append(record)
    return records


def joined(known: Mapping[str, Any], losses: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A record of what every run logs and of the losses of an objective, by its title.

    Raises:
        DilaError: a loss has a name that a record has for something else.
    """
    if taken := losses.keys() & (known.keys() | {"kind", "step", "skipped_clips", "skipped_steps"}):
        raise DilaError(
            f"{title} calls a loss {' and '.join(sorted(taken))}, as the log calls something else; choose another name"
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
    # Fixed by the folder, so that a resumed run goes on in the same curve.
    identity = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    return _service("wandb", name=name, config=dict(config), dir=str(out), id=identity)


def _trackio(out: Path, name: str, config: Mapping[str, Any], step: int) -> Tracker:
    return _service("trackio", name=name, config=dict(config))


def _service(package: str, **settings: Any) -> Tracker:
    """wandb, or trackio, which has the same functions."""
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
"""What makes a tracker, by name, of the run's folder, name, config and the step that it goes on from; None for none."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be had, before hours pass until the log begins.

    Raises:
        DilaError: an unknown name.
        MissingExtra: wandb or trackio is wanted and not installed.
    """
    load_plugins()
    for name in names:
        if name not in TRACKERS:
            raise DilaError(f"trackers: there is no {name!r}; choose of {', '.join(TRACKERS)}")
        if name in ("wandb", "trackio") and importlib.util.find_spec(name) is None:
            raise _missing(name)


def _missing(package: str) -> MissingExtra:
    return MissingExtra(f"logging to {package}", package, "tracking")
