"""Training episodes of a model, as far as its run or its notes record them, so that it is not evaluated on them."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dila.errors import DilaError
from dila.files import at_home
from dila.interop.seen import hash_content, read_seen
from dila.protocols import Episode
from dila.train.folder import find_run, held_out_of
from dila.train.register import TrainedOn, read_trained


class Trained(NamedTuple):
    """Training episodes of a run; or of a model without its run, from its notes (``config.json``)."""

    folder: str | Path
    run: dict[str, Any]
    """``run.json``; without a run only the held-out share."""
    on: TrainedOn

    @classmethod
    def find(cls, model: str | Path) -> "Trained | None":
        """Find the run in a folder, or the run of a checkpoint, or else the notes of a model; None if there is none."""
        if found := find_run(at_home(model)):
            return cls(*found, read_trained(found[0]))
        seen = read_seen(model)
        return cls(model, {"clips": {"held_out": seen.held_out}}, TrainedOn(frozenset(), seen.hashes)) if seen else None

    @property
    def held_out(self) -> float:
        """Held-out share of the episodes; the default if training held out none, because evaluation needs some."""
        return held_out_of(self.run)

    def refuse(self, data: str, judged: Sequence[Episode]) -> None:
        """Raise DilaError if the model, or one that it started from, was trained on episodes to be evaluated.

        Episodes are recognised by path and length, by the recording they were converted from, and by file contents.
        """
        line = list(self._line())
        hashes = _hashes(judged) if any(trained.on.hashes for trained in line) else {}
        root = at_home(data).absolute().as_posix()
        places = {e.id: [(place, len(e.times)) for place in _places(root, e)] for e in judged}
        for trained in line:
            seen = [
                e.id for e in judged if hashes.get(e.id) in trained.on.hashes or trained.on.places & {*places[e.id]}
            ]
            if seen:
                begun = "" if trained is self else f" started from {trained.folder}, which"
                raise DilaError(
                    f"{self.folder}{begun} was trained on {len(seen)} of the {len(judged)} episodes to be evaluated "
                    f"(first: {seen[0]}); give its training data with the same --held-out {trained.held_out:g} and "
                    "pins made with them, or other data"
                )

    def _line(self) -> Iterator["Trained"]:
        """Yield this and its predecessors (``start``), as far back as they can be found."""
        met: set[str] = set()
        trained: Trained | None = self
        while trained is not None and str(Path(trained.folder).absolute()) not in met:
            yield trained
            met.add(str(Path(trained.folder).absolute()))
            start = trained.run.get("start")
            trained = Trained.find(start) if start else None


def _hashes(episodes: Sequence[Episode]) -> dict[str, str]:
    """Content hashes by episode id; unreadable episodes, which are not evaluated either, are omitted."""
    found: dict[str, str] = {}
    for episode in episodes:
        with suppress(DilaError, OSError):
            found[episode.id] = hash_content(episode.fingerprint())
    return found


def _places(root: str, episode: Any) -> Iterator[str]:
    """Yield paths of an episode, of its recording, and of the recording that it was converted from."""
    ids = dict.fromkeys((episode.id, getattr(episode, "recording", episode.id)))
    origin = getattr(episode, "origin", None)
    for path in (*(f"{root}/{one}" for one in ids), *([f"{origin.data}/{origin.recording}"] if origin else [])):
        parts = path.split("/")  # every suffix, so that moved folders and parts of a data set are recognised as well
        yield from ("/".join(parts[start:]) for start in range(len(parts)))
