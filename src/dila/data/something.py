"""Reader of Something-Something-V2: numbered videos or folders of frames, with label files that define the splits.

    ssv2/
        something-something-v2-train.json        [{"id": "78687", "label": ..., "template": ..., ...}, ...]
        something-something-v2-validation.json
        something-something-v2-test.json         ids alone
        something-something-v2-labels.json       {"Approaching something with your camera": "0", ...}
        20bn-something-something-v2/78687.webm   or <any folder>/78687/000001.jpg

In a folder ``labels``, ``label`` or ``annotations``, the label files may also be named ``train.json`` ... beside
``labels.json``. The column ``label`` is the number of the template at every frame, -1 if unknown. `dila.data.motion`
finds static clips and moving cameras.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dila.data import frames, video
from dila.data.frames import natural_order
from dila.data.reading import Names, Skipped, Split, join, read_json
from dila.errors import DilaError, refuse_shortage

PREFIX = "something-something-v2-"
SPLITS = ("train", "validation", "test")
FOLDERS = ("", "labels", "label", "annotations")
FPS = 12.0
"""Rate of the published videos; folders of frames extracted at another rate need ``meta.json`` or `fps`."""


def claims(path: Path) -> bool:
    """Whether the path is a folder with the label files."""
    return path.is_dir() and bool(_label_files(path))


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[Any]:
    """Yield the clips that the label files name and that exist; missing clips are counted in one `Skipped` per split.

    Raises:
        DilaError: a label file is damaged.
    """
    files = _label_files(path)
    numbers = _numbers(files)
    splits = {split: _clips(file) for split, file in files.items() if split in SPLITS}
    media = _media(path, {clip for clips in splits.values() for clip in clips})
    yield Names({"label": ("template",)})
    known: dict[str, str] = {}
    for split, clips in splits.items():
        ids = []
        for clip in sorted(set(clips) & set(media), key=natural_order):
            if clip in known:  # named by two label files: one episode in two splits
                ids.append(known[clip])
                continue
            try:
                episode = _episode(media[clip], join(name, clip), fps, numbers.get(clips[clip], -1))
            except DilaError as error:
                refuse_shortage(error)
                yield Skipped(media[clip], str(error))
                continue
            known[clip] = episode.id
            ids.append(episode.id)
            yield episode
        yield Split(split, tuple(ids))
        if absent := set(clips) - set(media):
            yield Skipped(
                files[split], f"{len(absent)} of its {len(clips)} clips are missing, the first is {min(absent)}"
            )


def _label_files(path: Path) -> dict[str, Path]:
    """Return the label files by name of split, and ``labels``."""
    plain = [(folder, "") for folder in FOLDERS[1:]]  # unspecific names, accepted only beside labels.json
    for folder, prefix in [(folder, PREFIX) for folder in FOLDERS] + plain:
        files = {kind: path / folder / f"{prefix}{kind}.json" for kind in (*SPLITS, "labels")}
        found = {kind: file for kind, file in files.items() if file.is_file()}
        if not found.keys().isdisjoint(SPLITS) and (prefix or "labels" in found):
            return found
    return {}


def _numbers(files: Mapping[str, Path]) -> dict[str, int]:
    if "labels" not in files:
        return {}
    stored = read_json(files["labels"])
    try:
        return {str(template): int(number) for template, number in stored.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DilaError(f"{files['labels']} must map templates to numbers; fetch it again") from error


def _clips(file: Path) -> dict[str, str]:
    """Return the templates of the clips of a split by id; empty if the file has no templates."""
    stored = read_json(file)
    try:
        return {str(one["id"]): str(one.get("template", "")).replace("[", "").replace("]", "") for one in stored}
    except (TypeError, KeyError, AttributeError) as error:
        raise DilaError(f"{file} must be a list of records with an 'id'; fetch it again") from error


def _media(path: Path, wanted: set[str]) -> dict[str, Path]:
    """Find the video or else the folder of frames of each clip, in the folder of the data set or one level below."""
    videos: dict[str, Path] = {}
    folders: dict[str, Path] = {}
    below = [Path(e.path) for e in os.scandir(path) if e.is_dir() and not e.name.startswith(".")]
    for folder in [path, *sorted(below)]:
        for entry in os.scandir(folder):
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in video.SUFFIXES and stem in wanted:
                videos.setdefault(stem, Path(entry.path))
            elif not suffix and entry.name in wanted and entry.is_dir():
                folders.setdefault(entry.name, Path(entry.path))
    return {**folders, **videos}


def _episode(path: Path, name: str, fps: int | float | None, label: int) -> Any:
    if path.is_dir():
        if not frames.claims(path):
            raise DilaError(f"{path} is not a folder of images; extract the clip again")
        (episode,) = frames.episodes(path, name, fps, FPS)
    else:
        (episode,) = video.episodes(path, name, fps)
    return replace(episode, columns={"label": np.full((len(episode.times), 1), label)})
