"""What a model was trained on, as far as its run or its notes tell, so that it is not judged on that."""

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
    """A run and what its folder tells; or a model without its run, and what its notes tell."""

    folder: str | Path
    run: dict[str, Any]
    """``run.json``; of a model without its run only the share held out."""
    on: TrainedOn

    @classmethod
    def find(cls, model: str | Path) -> "Trained | None":
        """The run in a folder, or the one whose checkpoint this is, or what the notes of a model tell."""
        if found := find_run(at_home(model)):
            return cls(*found, read_trained(found[0]))
        seen = read_seen(model)
        return cls(model, {"clips": {"held_out": seen.held_out}}, TrainedOn(frozenset(), seen.hashes)) if seen else None

    @property
    def held_out(self) -> float:
        """Share of the episodes held out; the usual one where it held out none, as other data need it."""
        return held_out_of(self.run)

    def refuse(self, data: str, judged: Sequence[Episode]) -> None:
        """Raise DilaError where the model was trained on episodes to be judged, in its run or in one that led to it.

        They are known by place and length, copies by what they were converted from, and by the contents of the file.
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
                begun = "" if trained is self else f" began from {trained.folder}, which"
                raise DilaError(
                    f"{self.folder}{begun} was trained on {len(seen)} of the {len(judged)} episodes to be judged, the "
                    f"first {seen[0]}; give the data and the --held-out of its training, {trained.held_out:g}, and "
                    "pins made with them, or other data"
                )

    def _line(self) -> Iterator["Trained"]:
        """This and what it began from, as far back as can be found."""
        met: set[str] = set()
        trained: Trained | None = self
        while trained is not None and str(Path(trained.folder).absolute()) not in met:
            yield trained
            met.add(str(Path(trained.folder).absolute()))
            start = trained.run.get("start")
            trained = Trained.find(start) if start else None


def _hashes(episodes: Sequence[Episode]) -> dict[str, str]:
    """By id, of those whose files can be read; others are not judged."""
    found: dict[str, str] = {}
    for episode in episodes:
        with suppress(DilaError, OSError):
            found[episode.id] = hash_content(episode.fingerprint())
    return found


def _places(root: str, episode: Any) -> Iterator[str]:
    """Where an episode lies, its recording, and the recording that it is a copy of."""
    ids = dict.fromkeys((episode.id, getattr(episode, "recording", episode.id)))
    origin = getattr(episode, "origin", None)
    for path in (*(f"{root}/{one}" for one in ids), *([f"{origin.data}/{origin.recording}"] if origin else [])):
        parts = path.split("/")  # without its first parts too: a part of a data set is then seen as well as all
        yield from ("/".join(parts[start:]) for start in range(len(parts)))
