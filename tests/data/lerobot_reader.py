"""A LeRobot v3.0 data set read the way its documentation says, with nothing of dila: what the writer is held to."""

import json
from types import SimpleNamespace

import av
import numpy as np
import pyarrow.parquet as pq


def read(root):
    """Everything in the data set, episode by episode."""
    info = json.loads((root / "meta" / "info.json").read_text())
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    rows = sorted((r for p in paths for r in pq.read_table(p).to_pylist()), key=lambda r: r["episode_index"])
    return SimpleNamespace(
        info=info,
        stats=json.loads((root / "meta" / "stats.json").read_text()),
        tasks=pq.read_table(root / "meta" / "tasks.parquet"),
        rows=rows,
        episodes=[_episode(root, info, row) for row in rows],
    )


def _episode(root, info, row):
    place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
    table = pq.read_table(root / info["data_path"].format(**place))
    mine = table.filter(np.array(table["episode_index"]) == row["episode_index"])
    columns = {name: np.array(mine[name].to_pylist()) for name in mine.column_names}
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    return SimpleNamespace(columns=columns, frames={key: _frames(root, info, row, key, columns) for key in cameras})


def _frames(root, info, row, key, columns):
    """Of each row the frame at its time stamp, counted from where the episode begins in the file."""
    place = {k: row[f"videos/{key}/{k}"] for k in ("chunk_index", "file_index")}
    path = root / info["video_path"].format(video_key=key, **place)
    times = columns["timestamp"] + row[f"videos/{key}/from_timestamp"]
    with av.open(str(path)) as container:
        decoded = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    at = np.array([t for t, _ in decoded])
    nearest = [int(np.abs(at - t).argmin()) for t in times]
    assert np.abs(at[nearest] - times).max() < 1e-4, "time stamps are off the frames (LeRobot's tolerance)"
    return np.stack([decoded[i][1] for i in nearest])
