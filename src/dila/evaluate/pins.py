"""Pinned clips: a file of episodes, first frames and fingerprints, so that all models are evaluated on the same clips.

::

    {"format": 1, "stride": 0.2, "frames": 16, "hash": "...",
     "clips": [{"episode": "episode_00003.mp4", "start": 12}, ...],
     "fingerprints": {"episode_00003.mp4": "..."}}

The clips are spread evenly over the held-out episodes, without random sampling: the same data give the same pins.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dila.configs import from_json, to_json
from dila.data import Clips
from dila.errors import DilaError
from dila.evaluate.result import numbered
from dila.files import at_home, read_object, write_json
from dila.protocols import Episode

FORMAT = 1


@dataclass(frozen=True)
class Pin:
    """A clip: the episode's id and the index of its first raw frame."""

    episode: str
    start: int

    @property
    def name(self) -> str:
        """Name of its row in results."""
        return f"{self.episode}@{self.start}"


@dataclass(frozen=True)
class Pins:
    """The clips of an evaluation.

    Args:
        stride: seconds between frames.
        frames: frames per clip.
        clips: the clips, in the order of results' rows.
        fingerprints: fingerprint of each episode, see `dila.protocols.Episode.fingerprint`.
    """

    stride: float
    frames: int
    clips: tuple[Pin, ...]
    fingerprints: dict[str, str]

    @property
    def hash(self) -> str:
        """Hash of the clips and of the fingerprints of their episodes."""
        told = json.dumps(to_json(self), sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    @property
    def owners(self) -> list[int]:
        """Episode number of each clip."""
        return numbered([pin.episode for pin in self.clips])


def make_pins(episodes: Sequence[Episode], stride: float, frames: int = 16, clips: int = 64) -> Pins:
    """Pin clips spread over the episodes, shortened as in `longest`.

    Raises:
        DilaError: no episode has two frames at this stride.
    """
    frames = longest(episodes, stride, frames)
    cut = Clips(episodes, frames, stride)
    count = min(clips, len(cut))
    chosen = ((np.arange(count) + 0.5) * len(cut) / count).astype(int)
    places = [cut.index_of(int(item)) for item in chosen]
    pins = tuple(Pin(episodes[number].id, int(index[0])) for number, index in places)
    used = dict.fromkeys(pin.episode for pin in pins)
    return Pins(stride, frames, pins, {e.id: e.fingerprint() for e in episodes if e.id in used})


def longest(episodes: Sequence[Episode], stride: float, frames: int) -> int:
    """Largest number of frames per clip, up to `frames`, for which at least half of the episodes are long enough."""
    spans = sorted(_frames_at(episode, stride) for episode in episodes)
    return max(2, min(frames, spans[len(spans) // 2])) if spans else frames


def write_pins(path: Path, pins: Pins) -> None:
    """Write pins atomically."""
    write_json(path, {"format": FORMAT, "hash": pins.hash, **to_json(pins)})


def read_pins(path: str | Path) -> Pins:
    """Read the pins of a file.

    Raises:
        DilaError: the file is missing, damaged or was edited.
    """
    stored = read_object(at_home(path), "make pins with: dila eval pin")
    if stored.pop("format", None) != FORMAT:
        raise DilaError(f"{path} is not a pin file of format {FORMAT}; make one with: dila eval pin")
    told = stored.pop("hash", None)
    pins = from_json(Pins, stored, str(path))
    if told != pins.hash:
        raise DilaError(f"{path} was edited: its hash does not match its clips; make it again with: dila eval pin")
    return pins


def check_pins(pins: Pins, episodes: Sequence[Episode], stride: float) -> None:
    """Raise DilaError if the pins do not match the data or the model's stride."""
    if abs(pins.stride - stride) > 1e-6:
        raise DilaError(
            f"the pins have a stride of {pins.stride:g} s, but the model has {stride:g} s; pin clips for this model"
        )
    known = {episode.id: episode for episode in episodes}
    if missing := [name for name in pins.fingerprints if name not in known]:
        raise DilaError(f"{missing[0]} is pinned but is not a held-out episode of these data; pin clips of these data")
    for name, told in pins.fingerprints.items():
        if known[name].fingerprint() != told:
            raise DilaError(f"{name} has changed since it was pinned; restore it, or pin clips again: dila eval pin")


def _frames_at(episode: Episode, stride: float) -> int:
    return int((float(episode.times[-1]) - float(episode.times[0])) / stride + 1e-6) + 1 if len(episode.times) else 0
