"""Several data sets as one to draw from, and what is done about a clip that cannot be read any more."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch.utils.data import Dataset

from dila.data.clips import Clip, Clips, Unreadable
from dila.errors import DilaError

ATTEMPTS = 20
"""Clips tried in the place of one that cannot be read."""


class Mixture(Dataset[Clip]):
    """The clips of one data set after those of another; a single one is the plain case.

    How often each is drawn from is the sampler's business, see `dila.data.EpochSampler`, which numbers clips likewise.

    A clip whose file is gone or damaged makes room for another of the same data set, drawn by `seed` and the clip's
    number alone, so that a run and its repetition draw the same. `Clip.skipped` names what failed. (Such a stand-in is
    any clip of the set, also one that another process has in this epoch.)

    Args:
        parts: clips by the name of their data set.
        seed: of the stand-ins.

    Attributes:
        lengths: number of clips of each data set.
        dropped: column names that clips leave out, with the reason.

    Raises:
        DilaError: no data set.
    """

    def __init__(self, parts: Mapping[str, Clips], seed: int = 0):
        if not parts:
            raise DilaError("there is no data set to draw clips from; give one or more")
        self.parts, self.names, self.seed = list(parts.values()), list(parts), seed
        self.lengths = [len(clips) for clips in self.parts]
        self._ends = np.cumsum(self.lengths)
        self._first_episode = np.cumsum([0, *(len(clips.episodes) for clips in self.parts)])
        self.dropped = {name: why for clips in self.parts for name, why in clips.dropped.items()}
        self.column_shapes = self._shared()

    def _shared(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the columns that clips of all data sets have alike; the others go to `dropped`."""
        shapes = [clips.column_shapes for clips in self.parts]
        shared = {}
        for column in sorted(set().union(*shapes)):
            found = {name: its.get(column) for name, its in zip(self.names, shapes, strict=True)}
            if len(set(found.values())) == 1:
                shared[column] = shapes[0][column]
            else:
                told = (
                    f"{name} has {' x '.join(map(str, shape)) if shape else 'none'}" for name, shape in found.items()
                )
                self.dropped.setdefault(column, f"data sets differ in it: {', '.join(told)}")
        return shared

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, item: int) -> tuple[int, int]:
        """Which data set a clip is of, and its number there."""
        if not 0 <= item < len(self):
            raise IndexError(item)
        number = int(np.searchsorted(self._ends, item, side="right"))
        return number, item - int(self._ends[number]) + self.lengths[number]

    def __getitem__(self, item: int) -> Clip:
        """Read a clip, or one in its place; `Clip.episode` counts through the episodes of all data sets.

        Raises:
            DilaError: neither it nor any of `ATTEMPTS` others can be read.
        """
        number, place = self.place(item)
        skipped: list[str] = []
        for attempt in range(ATTEMPTS + 1):
            try:
                clip = self.parts[number][place]
            except Unreadable as error:
                skipped.append(f"{self.names[number]}: {error}")
                place = self._stand_in(item, attempt, number)
                continue
            columns = {name: clip.columns[name] for name in self.column_shapes}
            episode = clip.episode + int(self._first_episode[number])
            return clip._replace(episode=episode, columns=columns, skipped=tuple(skipped))
        raise DilaError(
            f"{len(skipped)} clips of {self.names[number]} in a row cannot be read, the last because {skipped[-1]}; "
            "bring the files back and resume"
        )

    def _stand_in(self, item: int, attempt: int, number: int) -> int:
        drawn = np.random.SeedSequence([self.seed, item, attempt]).generate_state(1)[0]
        return int(drawn) % self.lengths[number]


def name_data(paths: Sequence[str]) -> list[str]:
    """Short names of data sets, all different: the last parts of their paths, as many as it takes.

    Raises:
        DilaError: the same path twice.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if list(paths).count(path) > 1)
        raise DilaError(f"{twice} is given twice; to see it more often, raise its weight")
    split = [[part for part in path.replace("\\", "/").split("/") if part] or [path] for path in paths]
    for count in range(1, max(map(len, split)) + 1):
        names = ["/".join(parts[-count:]) for parts in split]
        if len(set(names)) == len(names):
            return names
    return list(paths)
