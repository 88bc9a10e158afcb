"""Concatenate the clips of several data sets, and replace clips that can no longer be read."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch.utils.data import Dataset

from dila.data.clips import Clip, Clips, Unreadable
from dila.errors import DilaError

ATTEMPTS = 20
"""Maximum number of replacements tried for a clip that cannot be read."""


class Mixture(Dataset[Clip]):
    """Dataset of the clips of one or more data sets, concatenated.

    How often each data set is drawn is decided by the sampler, `dila.data.EpochSampler`, with the same numbering.

    A clip whose file is missing or damaged is replaced by another of the same data set, drawn from `seed` and the
    number of the clip alone, so that repeated runs draw the same. It may be any clip of the data set, also one that
    another process uses in the same epoch. `Clip.skipped` names what failed.

    Args:
        parts: clips by name of the data set.
        seed: seed of the replacements.

    Attributes:
        lengths: number of clips of each data set.
        dropped: names of dropped columns, with the reason.

    Raises:
        DilaError: `parts` is empty.
    """

    def __init__(self, parts: Mapping[str, Clips], seed: int = 0):
        if not parts:
            raise DilaError("there are no data sets to draw clips from; give at least one")
        self.parts, self.names, self.seed = list(parts.values()), list(parts), seed
        self.lengths = [len(clips) for clips in self.parts]
        self._ends = np.cumsum(self.lengths)
        self._first_episode = np.cumsum([0, *(len(clips.episodes) for clips in self.parts)])
        self.dropped = {name: why for clips in self.parts for name, why in clips.dropped.items()}
        self.column_shapes = self._shared()

    def _shared(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of columns that are the same in all data sets; add the others to `dropped`."""
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
        """Return the index of the data set of a clip, and the number of the clip in it."""
        if not 0 <= item < len(self):
            raise IndexError(item)
        number = int(np.searchsorted(self._ends, item, side="right"))
        return number, item - int(self._ends[number]) + self.lengths[number]

    def __getitem__(self, item: int) -> Clip:
        """Read a clip or its replacement; `Clip.episode` is numbered over the episodes of all data sets.

        Raises:
            DilaError: neither it nor any of `ATTEMPTS` replacements can be read.
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
            f"{len(skipped)} clips of {self.names[number]} in a row cannot be read ({skipped[-1]}); restore the files "
            "and resume"
        )

    def _stand_in(self, item: int, attempt: int, number: int) -> int:
        drawn = np.random.SeedSequence([self.seed, item, attempt]).generate_state(1)[0]
        return int(drawn) % self.lengths[number]


def name_data(paths: Sequence[str]) -> list[str]:
    """Return short unique names of data sets: as few of the last parts of their paths as make them differ.

    Raises:
        DilaError: a path occurs twice.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if list(paths).count(path) > 1)
        raise DilaError(f"{twice} is given twice; to draw it more often, raise its weight")
    split = [[part for part in path.replace("\\", "/").split("/") if part] or [path] for path in paths]
    for count in range(1, max(map(len, split)) + 1):
        names = ["/".join(parts[-count:]) for parts in split]
        if len(set(names)) == len(names):
            return names
    return list(paths)
