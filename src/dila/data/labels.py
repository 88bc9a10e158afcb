"""Latent actions that `dila.imagine.label` wrote, as a column of the episodes that they are of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.corpus import Corpus
from dila.data.reading import open_table, read_columns, runs
from dila.errors import DilaError
from dila.files import at_home

COLUMN = "latent_action"
SAME = 1e-3
"""Seconds by which the time of a frame may differ from the one it was labelled at: what containers round to."""
METADATA_KEY = b"dila"
"""Of the schema: says what made the labels."""


def read_about(path: Path) -> dict[str, Any]:
    """What made the labels of a file: model, stride, frames, every_frame, encoder, version.

    Raises:
        DilaError: it holds no labels.
    """
    try:
        return json.loads((open_table(path).schema_arrow.metadata or {})[METADATA_KEY])
    except (KeyError, ValueError) as error:
        raise DilaError(
            f"{path} holds no latent actions; make some with: dila label MODEL VIDEOS --out FILE"
        ) from error


def with_labels(corpus: Corpus, path: str | Path) -> Corpus:
    """The corpus with a column ``latent_action`` ``[frames, Dz]``, float32; NaN at frames that have none.

    Row f moves frame f to the one a stride of the model later. Without ``every_frame`` most frames have none.

    Args:
        corpus: the videos that were labelled, or some of them.
        path: what ``dila label`` wrote.

    Raises:
        DilaError: it holds no labels, or none of these videos, or of frames that a video has not or has at other times.
    """
    path = at_home(path)
    read_about(path)  # which refuses other tables
    table = read_columns(path, open_table(path), ["file", "frame", "time", "z", "valid"])
    files, frame, time, valid = (table[name].to_numpy() for name in ("file", "frame", "time", "valid"))
    z = np.zeros((len(table), table.schema.field("z").type.list_size), np.float32)
    z[valid] = table["z"].combine_chunks().flatten().to_numpy().reshape(-1, z.shape[1])
    rows = {str(name): slice(*places) for name, places in runs(files).items()}
    if rows.keys().isdisjoint(episode.id for episode in corpus.episodes):
        raise DilaError(
            f"{path} labels {files[0]} and others, none of which is in {corpus.root}; label the same folder"
        )
    episodes = []
    for episode in corpus.episodes:
        mine = rows.get(episode.id, slice(0))
        if (frame[mine] >= len(episode.times)).any():
            raise DilaError(
                f"{path} labels {frame[mine].max() + 1} frames of {episode.id}, which has {len(episode.times)}; "
                "label it again"
            )
        if (np.abs(time[mine] - episode.times[frame[mine]]) > SAME).any():
            raise DilaError(
                f"{path} labels frames of {episode.id} at other times than they have here, so that z is of another "
                "stride; label with the same --fps"
            )
        known, column = valid[mine], np.full((len(episode.times), z.shape[1]), np.nan, np.float32)
        column[frame[mine][known]] = z[mine][known]
        episodes.append(with_column(episode, COLUMN, column))
    return replace(corpus, episodes=tuple(episodes))


def with_column(episode: Any, name: str, values: np.ndarray) -> Any:
    """The episode with one column more, or another of that name."""
    return replace(episode, columns={**episode.columns, name: values})
