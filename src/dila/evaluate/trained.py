"""What a model was trained on, where it is part of a run, so that it is not judged on that."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dila.errors import DilaError
from dila.protocols import Episode
from dila.train.folder import find_run, held_out_of
from dila.train.register import REGISTER, TRAIN


class Trained(NamedTuple):
    """A run and what its folder tells."""

    folder: Path
    run: dict[str, Any]
    """``run.json``."""

    @classmethod
    def find(cls, model: str | Path) -> "Trained | None":
        """The run in a folder, or the one whose checkpoint this is."""
        found = find_run(model)
        return found and cls(*found)

    @property
    def held_out(self) -> float:
        """Share of the episodes held out; the usual one where it held out none, as other data need it."""
        return held_out_of(self.run)

    def refuse(self, data: str, judged: Sequence[Episode]) -> None:
        """Raise DilaError where the run was trained on episodes to be judged: of the same place, and as long."""
        lengths = self._trained()
        root = Path(data).absolute().as_posix()
        seen = [e.id for e in judged if any(lengths.get(place) == len(e.times) for place in _places(f"{root}/{e.id}"))]
        if seen:
            raise DilaError(
                f"{self.folder} was trained on {len(seen)} of the {len(judged)} episodes to be judged, the first "
                f"{seen[0]}; give the data and the --held-out of its training, {self.held_out:g}, and pins made with "
                "them, or other data"
            )

    def _trained(self) -> dict[str, int]:
        """Frames of each training episode by ``data/id``; nothing where the run kept no register."""
        import pyarrow.parquet as pq

        path = self.folder / REGISTER
        columns = ["data", "split", "episode", "frames"]
        rows = pq.read_table(path, columns=columns).to_pylist() if path.is_file() else []
        return {f"{row['data']}/{row['episode']}": row["frames"] for row in rows if row["split"] == TRAIN}


def _places(path: str) -> list[str]:
    """A path without its first parts: ``c``, ``b/c``, ``a/b/c``. A part of a data set is then seen as well as all."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
