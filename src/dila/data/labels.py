"""Latent actions written by `dila.imagine.label`, attached to their episodes as a column."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.corpus import Corpus
from dila.data.reading import open_table, read_columns, runs
from dila.errors import DilaError
from dila.files import at_home

COLUMN, VALID = "latent_action", "latent_action_valid"
SAME = 1e-3
"""Seconds by which the time of a frame may differ from its time in the labels, since containers round times."""
METADATA_KEY = b"dila"
"""Key in the metadata of the schema that describes how the labels were made."""


def read_about(path: Path) -> dict[str, Any]:
    """Read how the labels of a file were made: model, stride, frames, every_frame, encoder, version.

    Raises:
        DilaError: the file has no labels.
    """
    try:
        return json.loads((open_table(path).schema_arrow.metadata or {})[METADATA_KEY])
    except (KeyError, ValueError) as error:
        raise DilaError(f"{path} has no latent actions; make some with: dila label MODEL VIDEOS --out FILE") from error


def with_labels(corpus: Corpus, path: str | Path) -> Corpus:
    """Return the corpus with a column ``latent_action`` ``[frames, Dz]``, float32; NaN at frames without a label.

    A second column, ``latent_action_valid`` ``[frames, 1]``, bool, says which frames have one. Row f leads from frame f
    to the frame one stride of the model later. Without ``every_frame``, most frames have no label.

    Args:
        corpus: the labelled videos, or some of them.
        path: file written by ``dila label``.

    Raises:
        DilaError: the file has no labels, or none of these videos, or its frames or times do not match a video.
    """
    path = at_home(path)
    read_about(path)  # raises if this is another table
    table = read_columns(path, open_table(path), ["file", "frame", "time", "z", "valid"])
    files, frame, time, valid = (table[name].to_numpy() for name in ("file", "frame", "time", "valid"))
    z = np.zeros((len(table), table.schema.field("z").type.list_size), np.float32)
    z[valid] = table["z"].combine_chunks().flatten().to_numpy().reshape(-1, z.shape[1])
    rows = {str(name): slice(*places) for name, places in runs(files).items()}
    if rows.keys().isdisjoint(episode.id for episode in corpus.episodes):
        raise DilaError(
            f"{path} has labels of {files[0]} and others, none of which is in {corpus.root}; label the same folder"
        )
    episodes = []
    for episode in corpus.episodes:
        mine = rows.get(episode.id, slice(0))
        if (frame[mine] >= len(episode.times)).any():
            raise DilaError(
                f"{path} has labels of {frame[mine].max() + 1} frames of {episode.id}, which has "
                f"{len(episode.times)}; label it again"
            )
        if (np.abs(time[mine] - episode.times[frame[mine]]) > SAME).any():
            raise DilaError(
                f"{path} has labels of {episode.id} whose times differ from those of its frames, so z has another "
                "stride; label it with the same --fps"
            )
        known, column = valid[mine], np.full((len(episode.times), z.shape[1]), np.nan, np.float32)
        column[frame[mine][known]] = z[mine][known]
        has_label = np.zeros((len(column), 1), bool)
        has_label[frame[mine][known]] = True
        episodes.append(with_column(with_column(episode, COLUMN, column), VALID, has_label))
    return replace(corpus, episodes=tuple(episodes))


def with_column(episode: Any, name: str, values: np.ndarray) -> Any:
    """Return the episode with a column added or replaced."""
    return replace(episode, columns={**episode.columns, name: values})
