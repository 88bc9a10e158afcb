"""Load a model, its data and the pinned clips once, for all tables."""

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dila.configs import to_json
from dila.data import Clip, Clips, collate_clips, open_corpus, split_episodes
from dila.errors import DilaError
from dila.evaluate.factors import Factor, find_factors, tell_unknown
from dila.evaluate.pins import Pin, Pins, check_pins, make_pins, read_pins
from dila.evaluate.result import Result, Score, Subject
from dila.evaluate.trained import Trained
from dila.files import at_home
from dila.imagine.label import hash_world
from dila.imagine.pictures import write_clip, write_sheet
from dila.imagine.world import World
from dila.interop.pretrained import WEIGHTS, load_pretrained
from dila.protocols import Episode, FrameDecoder
from dila.shapes import Features, Int, Tensor, UInt8
from dila.train.folder import HELD_OUT
from dila.train.material import default_cache
from dila.version import version
from dila.vision import FeatureCache

Pictures = list[UInt8[Tensor, "T 3 _ _"]]
"""Frames of clips. Their sizes may differ, as in Something-Something-V2."""

PART = 16
"""Number of clips per forward pass."""


@dataclass(frozen=True)
class Settings:
    """Settings of all tables; each table reads those it needs (`dila.evaluate.tables.Table.reads`).

    Args:
        frames: frames per pinned clip, context included; fewer if the episodes are short.
        context: true frames that the model sees before the rollout.
        clips: number of pinned clips, spread over the held-out episodes.
        column: column of true values to probe for: ``action``, ``state``, or another column of the data.
        components: components of this column, by name or number; empty means all. Motion and disentangle read every
            column, but of this one only these components.
        change: probe for the change of the column from frame to frame instead of its value.
        pairs: number of transitions that a probe is fitted on.
        pictures: number of clips to draw.
        still: for the sceptic's test: the same recording with a still background.
        source: for transfer: other data whose held-out clips supply the actions.
        i3d: TorchScript file of I3D, for the published FVD.
        seed: seed of probes and controls.
    """

    frames: int = 16
    context: int = 1
    clips: int = 64
    column: str = "action"
    components: tuple[str, ...] = ()
    change: bool = False
    pairs: int = 800
    pictures: int = 3
    still: str | None = None
    source: str | None = None
    i3d: str | None = None
    seed: int = 0

    def __post_init__(self):
        if self.frames < 2 or not 1 <= self.context < self.frames or self.clips < 2 or self.pairs < 16:
            raise DilaError(
                f"frames = {self.frames} must be at least 2, context = {self.context} at least 1 and less than frames, "
                f"clips = {self.clips} at least 2 and pairs = {self.pairs} at least 16"
            )


class Batch(NamedTuple):
    """Some pinned clips: features on the model's device, their frames, and their indices among the pinned clips."""

    e: Features
    o: Pictures
    places: range


@dataclass(frozen=True)
class Bench:
    """Everything a table needs. `train` and `held` read features; `held_frames` are the held-out episodes as frames."""

    world: World
    subject: Subject
    data: str
    names: dict[str, tuple[str, ...]]
    train: Sequence[Episode]
    held: Sequence[Episode]
    held_frames: Sequence[Episode]
    pins: Pins
    settings: Settings
    out: Path
    """Folder for pictures."""
    source: Sequence[Episode] = ()
    """The held-out episodes of `Settings.source`, as frames."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.world.device

    @property
    def owners(self) -> Int[Tensor, " N"]:
        """Episode number of each pinned clip."""
        return torch.tensor(self.pins.owners)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the pinned clips, used as rows of results."""
        return tuple(pin.name for pin in self.pins.clips)

    def factors(self, columns: Mapping[str, Tensor]) -> list[Factor]:
        """Known factors of some clips; of the settings' column only the requested components."""
        return find_factors(columns, self.names, self.settings.column, self.settings.components)

    def unknown(self, columns: Mapping[str, Tensor]) -> list[str]:
        """Sentences that say for how many frames each of these factors is unknown."""
        return tell_unknown(columns, self.names, self.settings.column, self.settings.components)

    @cached_property
    def split(self) -> str:
        """Hash of the training and held-out episodes and of their columns."""
        digest = hashlib.blake2b(digest_size=8)
        for side, episodes in (("train", self.train), ("held", self.held)):
            for episode in episodes:
                digest.update(f"{side} {episode.id} {episode.fingerprint()}".encode())
                for name, values in sorted(episode.columns.items()):
                    digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def batches(self) -> Iterator[Batch]:
        """Yield the pinned clips in order."""
        for places in in_parts(len(self.pins.clips)):
            yield Batch(self.clips(places).frames.to(self.device), [self._frames(i).frames for i in places], places)

    def clips(self, places: Sequence[int]) -> Clip:
        """Return the pinned clips with these indices, as features."""
        return collate_clips([self._features(i) for i in places])

    @cached_property
    def _features(self) -> "PinnedClips":
        return PinnedClips(self.held, self.pins)

    def pictures(self, place: int) -> UInt8[Tensor, "T 3 Y X"]:
        """Frames of one pinned clip, to be shown beside decoded frames: see `World.pictures`."""
        return self.world.pictures(self._frames(place).frames)

    @cached_property
    def _frames(self) -> "PinnedClips":
        return PinnedClips(self.held_frames, self.pins)

    def show(self, name: str, rows: Mapping[str, UInt8[Tensor, "_ 3 Y X"]], caption: str) -> dict[str, str]:
        """Write clips below each other as a contact sheet and as a video; returns the caption by file name."""
        sheet, film = (self.out / f"{name}{suffix}" for suffix in (".png", ".mp4"))
        write_sheet(sheet, rows, columns=min(9, max(map(len, rows.values()))))
        write_clip(film, rows, 1 / self.world.stride)
        return {sheet.name: caption, film.name: caption}

    def finish(
        self,
        what: str,
        began: float,
        scores: Sequence[Score],
        *,
        rows: tuple[str, ...] | None = None,
        steps: tuple[int, ...] = (),
        notes: Sequence[str] = (),
        pictures: dict[str, str] | None = None,
    ) -> Result:
        """Build the result of a table; ``began`` is `time.monotonic` at its start."""
        return Result(
            what,
            self.subject,
            self.data,
            self.pins.hash,
            to_json(self.settings),
            tuple(scores),
            self.rows if rows is None else rows,
            steps,
            tuple(notes),
            pictures or {},
            round(time.monotonic() - began, 1),
            version(),
            self.split,
        )


class PinnedClips:
    """Reader of pinned clips from episodes of frames or features."""

    def __init__(self, episodes: Sequence[Episode], pins: Pins):
        self.pins = pins
        self.cut = Clips([e for e in episodes if e.id in pins.fingerprints], pins.frames, pins.stride)
        self.places: dict[Pin, int] = {}
        for item in range(len(self.cut)):
            number, index = self.cut.index_of(item)
            self.places[Pin(self.cut.episodes[number].id, int(index[0]))] = item

    def __call__(self, place: int) -> Clip:
        """Return the pinned clip with this index. Raises DilaError if its episode has no such clip."""
        pin = self.pins.clips[place]
        if pin not in self.places:
            raise DilaError(
                f"{pin.episode} has no clip that starts at frame {pin.start}; pin clips again: dila eval pin"
            )
        return self.cut[self.places[pin]]


def in_parts(count: int, part: int = PART) -> Iterator[range]:
    """Split ``range(count)`` into consecutive ranges of at most ``part``."""
    return (range(start, min(start + part, count)) for start in range(0, count, part))


def sample(cut: Clips, count: int, part: int = PART) -> Iterator[Clip]:
    """Yield batches of at most ``count`` clips in total, spread evenly over all."""
    chosen = spread(len(cut), count)
    return (collate_clips([cut[chosen[i]] for i in places]) for places in in_parts(len(chosen), part))


def spread(length: int, count: int) -> list[int]:
    """Return up to ``count`` indices spread evenly over ``range(length)``."""
    count = min(length, count)
    return ((torch.arange(count) + 0.5) * length / max(count, 1)).long().tolist()


def stacked(told: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate named tensors over batches, on the CPU."""
    kept: dict[str, list[Tensor]] = defaultdict(list)
    for each in told:
        for name, values in each.items():
            kept[name].append(values.cpu())
    return {name: torch.cat(kept.pop(name)) for name in list(kept)}


def open_bench(
    model: str | Path,
    data: str,
    out: Path,
    settings: Settings | None = None,
    *,
    pins: str | Path | Pins | None = None,
    decoder: str | Path | None = None,
    device: str = "auto",
    cache_dir: str | Path | None = None,
    held_out: float | None = None,
    fps: float | None = None,
    camera: str | None = None,
    name: str | None = None,
    seed: int | None = None,
) -> Bench:
    """Load a model, open and encode the data, and pin the clips.

    Args:
        model: anything that `dila.load` accepts.
        data: a corpus; metrics use its held-out episodes, probes are fitted on the others.
        out: folder for pictures.
        settings: settings of the tables.
        pins: pins or a pin file; None pins clips of the data.
        decoder: a trained model whose decoder is used if this model has none; its features must be the same.
        device: "auto", "cpu", "cuda" or "mps".
        cache_dir: folder for cached features; None uses the user's cache folder.
        held_out: share of the episodes to hold out; None uses that of the model's run, or 0.1 without one.
        fps: frame rate, overriding that of the files.
        camera: camera to use if the data have several.
        name: name of the model in tables; None uses that of its run.
        seed: seed of the run; None uses its own.

    Raises:
        DilaError: model, data or pins cannot be read or do not match, or the model was trained on episodes to be
            evaluated.
    """
    settings = settings or Settings()
    world = World(*load_pretrained(model, device=device))
    if world.decoder is None and decoder is not None:
        world.decoder = borrow_decoder(decoder, world, device)
    corpus, trained = open_corpus(data, fps, camera), Trained.find(model)
    share = (trained.held_out if trained else HELD_OUT) if held_out is None else held_out
    train, held = split_episodes(corpus, share)
    if not held:
        raise DilaError(f"{data}: no episode is held out; give more than one recording and --held-out above 0")
    if isinstance(pins, str | Path):
        pins = read_pins(pins)
    if trained:
        pinned = pins.fingerprints if pins else {}
        trained.refuse(data, [*held, *(episode for episode in train if episode.id in pinned)])
    source = _open_source(settings.source, data, share, trained) if settings.source else ()
    encoder: Any = world.encoder
    cache = FeatureCache(encoder, cache_dir or default_cache(), progress=sys.stderr.isatty())
    cached_train, cached_held = cache.episodes(train), cache.episodes(held)
    read = {episode.id for episode in cached_held}
    held_frames = [episode for episode in held if episode.id in read]
    if pins is None:
        pins = make_pins(held_frames, world.stride, settings.frames, settings.clips)
    check_pins(pins, held_frames, world.stride)
    if settings.context >= pins.frames:
        raise DilaError(
            f"context = {settings.context} leaves no frame to predict in clips of {pins.frames} frames; give fewer"
        )
    return Bench(
        world,
        subject_of(model, world, trained.run if trained else {}, name, seed),
        str(data),
        dict(corpus.names),
        cached_train,
        cached_held,
        held_frames,
        pins,
        settings,
        out,
        source,
    )


def _open_source(source: str, data: str, share: float, trained: Trained | None) -> Sequence[Episode]:
    """Open the held-out episodes of ``source``, which must differ from ``data`` and from the training episodes."""
    if at_home(source).resolve() == at_home(data).resolve():
        raise DilaError(
            f"--source: {source} is the evaluated data, which supplies the actions by default; omit --source"
        )
    _, held = split_episodes(open_corpus(source), share)
    if not held:
        raise DilaError(f"--source: no episode of {source} is held out; give more than one and --held-out above 0")
    if trained:
        trained.refuse(source, held)
    return held


def borrow_decoder(path: str | Path, world: World, device: str) -> FrameDecoder:
    """Return the decoder of another trained model, for a model without one.

    Raises:
        DilaError: the other model has no decoder, another encoder, or other normalisation statistics.
    """
    other, encoder = load_pretrained(path, device=device), world.encoder
    if other.decoder is None:
        raise DilaError(f"--decoder: {path} has no decoder; train one with: dila train-decoder")
    mine, theirs = (getattr(e, "statistics", None) for e in (encoder, other.encoder))
    alike = (mine is None) == (theirs is None)
    if mine is not None and theirs is not None:
        alike = all(torch.allclose(getattr(mine, n), getattr(theirs, n), rtol=0.02, atol=0.02) for n in ("mean", "var"))
    if encoder.config() != other.encoder.config() or not alike:
        raise DilaError(
            f"--decoder: {path} has another encoder or other feature statistics than this model; give a decoder for "
            "the same features"
        )
    return other.decoder


def subject_of(
    path: str | Path, world: World, run: Mapping[str, Any], name: str | None = None, seed: int | None = None
) -> Subject:
    """Return the identity of a model; ``name`` and ``seed`` override those of its run, ``run.json``."""
    parameters = sum(p.numel() for p in world.model.parameters()) if isinstance(world.model, nn.Module) else 0
    return Subject(
        name or str(run.get("name") or Path(path).name),
        run.get("seed") if seed is None else seed,
        str(path),
        hash_world(world),
        parameters,
        str(world.encoder.config().get("name")),
        "" if world.decoder is None else _hash_decoder(world.decoder),
    )


def _hash_decoder(decoder: FrameDecoder) -> str:
    """Short hash of the config and weights of a decoder."""
    config = {name: value for name, value in decoder.config().items() if name != WEIGHTS}  # WEIGHTS is a path
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    weights = decoder.state_dict() if isinstance(decoder, nn.Module) else {}
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
