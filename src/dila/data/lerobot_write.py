"""Writer of LeRobot data sets, version 3.0, with pyarrow and PyAV (https://huggingface.co/docs/lerobot).

========================================  ==========================================================================
file                                      contents
========================================  ==========================================================================
``meta/info.json``                        version, rate, counts, paths, and every feature with dtype, shape and names
``meta/stats.json``                       min, max, mean, std and count of every feature (of pixels in 0..1)
``meta/tasks.parquet``                    ``task_index`` of every ``task``
``meta/episodes/chunk-*/file-*.parquet``  one row per episode: the positions of its rows and frames, its statistics
``data/chunk-*/file-*.parquet``           one row per frame: ``action``, ``observation.state``, other columns, indices
``videos/KEY/chunk-*/file-*.mp4``         the frames of many episodes, one after the other
========================================  ==========================================================================

Row f of ``action`` leads from frame f to frame f+1, as in LeRobot. In addition to the format, the rows of episodes have
the columns ``source`` (id of the recording in the source), ``splits`` (the splits that it belongs to) and, if the
episode was converted, ``fingerprint`` (by which a changed source is detected).

Episodes are encoded one by one into the hidden staging folder, in any order and by any process (`stage_episode`), then
joined without re-encoding (`publish`), shard by shard. A shard is the video, data and episode files of one number. Its
file of ``meta/episodes`` is moved into place last: an episode is complete if its row exists, and what a killed process
left unfinished is done again.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dila.data.lerobot_files import KEEP, join_videos, rows_of, splits_of, tasks_of, write_tasks
from dila.data.lerobot_stats import KINDS, PixelStatistics, merged, statistics
from dila.data.recording import SETTINGS, Recorded, save_columns
from dila.data.video import write_mp4
from dila.errors import DilaError
from dila.files import read_object, replacing, write_json
from dila.shapes import Tensor

AGAIN = "remove it and run the same command again"
VERSION = "v3.0"
CAMERA = "observation.images.main"
CHUNK_FILES = 1000
DATA_MB, VIDEO_MB = 100, 200
SHARD = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{SHARD}.parquet"
VIDEO_PATH = "videos/{video_key}/" + f"{SHARD}.mp4"
EPISODES_PATH = f"meta/episodes/{SHARD}.parquet"
INDICES = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
           "task_index": "int64"}  # fmt: skip


@dataclass(frozen=True)
class LeRobotV3:
    """A `dila.data.recording.Store` that writes a LeRobot data set."""

    task: str
    """Task description of the episodes, which LeRobot requires."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the store, stored with those of the recording."""
        return {"format": "lerobot"}

    def missing(self, out: Path, staging: Path, episodes: int) -> list[int]:
        """Return which of the episodes 0 .. episodes-1 are neither published nor staged."""
        done = sources(out)
        return [i for i in range(episodes) if _name(i) not in done and not is_staged(staging, _name(i))]

    def stage(self, staging: Path, number: int, episode: Recorded, fps: int | float) -> None:
        """Encode one episode into the staging folder."""
        about = About(_name(number), (self.task,), (episode.split,))
        stage_episode(staging, _name(number), {CAMERA: [episode.frames]}, episode.columns, fps, about)

    def publish(
        self, out: Path, staging: Path, episodes: int, names: Mapping[str, tuple[str, ...]], fps: int | float
    ) -> None:
        """Publish the staged episodes, those for training first, so that each split is one range of episodes."""
        staged = [name for name in map(_name, range(episodes)) if is_staged(staging, name)]
        order = sorted(staged, key=lambda name: "train" not in _about(staging, name)["splits"])
        publish(out, staging, order, names, fps)


def _name(number: int) -> str:
    return f"episode_{number:06d}"


@dataclass(frozen=True)
class About:
    """Metadata of an episode."""

    source: str
    """Id of the recording in the source."""
    tasks: tuple[str, ...]
    """Task descriptions; LeRobot requires at least one, and the first is stored at every frame."""
    splits: tuple[str, ...] = ("train",)
    """The splits that it belongs to."""
    fingerprint: str | None = None
    """Fingerprint of the source, if that may change."""


def stage_episode(
    staging: Path,
    name: str,
    cameras: Mapping[str, Iterable[Tensor]],
    columns: Mapping[str, np.ndarray],
    fps: int | float,
    about: About,
) -> None:
    """Encode one episode into the staging folder; its .json is written last and marks it as complete.

    Args:
        staging: the staging folder.
        name: name of its files, without suffix.
        cameras: the frames by key of the feature, in uint8 chunks ``N 3 Y X``, so that long videos need not fit into
            memory.
        columns: ``[frames, A]`` each.
        fps: frames a second.
        about: metadata of the episode.

    Raises:
        DilaError: a column or a camera does not have one row per frame.
    """
    seen = {key: PixelStatistics() for key in cameras}
    for place, (key, chunks) in enumerate(cameras.items()):
        with replacing(_video(staging, name, place), shared=True) as partial:
            write_mp4(partial, seen[key].watching(chunks), fps)
    frames = next(iter(seen.values())).frames
    for what, count in {**{k: len(v) for k, v in columns.items()}, **{k: v.frames for k, v in seen.items()}}.items():
        if count != frames:
            raise DilaError(f"{about.source} has {count} rows of {what!r} for {frames} frames; it needs one per frame")
    save_columns(staging / f"{name}.npz", columns)
    told = {key: {"size": pixels.size, "pixels": pixels.result()} for key, pixels in seen.items()}
    write_json(staging / f"{name}.json", {**asdict(about), "frames": frames, "cameras": told})


def _video(staging: Path, name: str, place: int) -> Path:
    return staging / f"{name}.{place}.mp4"


def _videos(staging: Path, name: str) -> list[Path]:
    return [_video(staging, name, place) for place in range(len(_about(staging, name)["cameras"]))]


def is_staged(staging: Path, name: str) -> bool:
    """Whether the staging folder has the complete episode."""
    return (staging / f"{name}.json").is_file()


def staged_fingerprint(staging: Path, name: str) -> str | None:
    """Return the fingerprint of the source of a staged episode, or None if it was stored without one."""
    return _about(staging, name).get("fingerprint")


def sources(out: Path) -> dict[str, str | None]:
    """Return the fingerprints of the published episodes by their ids in the source."""
    return {row["source"]: row.get("fingerprint") for row in rows_of(out)}


def publish(
    out: Path,
    staging: Path,
    order: Sequence[str],
    names: Mapping[str, tuple[str, ...]],
    fps: int | float,
    video_mb: int | float = VIDEO_MB,
) -> None:
    """Append the staged episodes to the data set in `out`, in this order, and rewrite its metadata.

    Args:
        out: folder of the data set, which may already have episodes.
        staging: the staging folder, with the episodes and the settings.
        order: names of episodes; those that are not staged are ignored.
        names: component names of each column.
        fps: frames a second.
        video_mb: maximum size of a video file, in MiB, unless a single episode is larger.

    Raises:
        DilaError: episodes differ in cameras, size or columns.
    """
    if (staging / SETTINGS).is_file():
        write_json(out / SETTINGS, read_object(staging / SETTINGS, AGAIN))
    rows, info = rows_of(out), out / "meta" / "info.json"
    staged = [name for name in order if is_staged(staging, name)]
    features = read_object(info, KEEP)["features"] if info.is_file() else {}
    if staged and not features:  # before any video: if killed, the folder must not look like videos without actions
        with np.load(staging / f"{staged[0]}.npz") as columns:
            features = _features(dict(columns), names, _about(staging, staged[0])["cameras"], fps)
        _announce(out, [], features, fps)
    # A killed process may have left episodes that are both published and staged.
    done = {row["source"] for row in rows}
    for shard in _shards(staging, [n for n in staged if _about(staging, n)["source"] not in done], video_mb):
        rows += _write_shard(out, staging, shard, features, fps, rows)
        _describe(out, rows, features, fps)
        _forget(staging, shard)
    if rows and features:
        _describe(out, rows, features, fps)
    _forget(staging, [name for name in staged if is_staged(staging, name)])


def _about(staging: Path, name: str) -> dict[str, Any]:
    return read_object(staging / f"{name}.json", AGAIN)


def _forget(staging: Path, names: Sequence[str]) -> None:
    for name in names:
        for path in (staging / f"{name}.json", staging / f"{name}.npz", *_videos(staging, name)):
            path.unlink()


def _shards(staging: Path, names: Sequence[str], video_mb: int | float) -> Iterator[list[str]]:
    shard: list[str] = []
    sizes = np.zeros(2)
    for name in names:
        videos = max(video.stat().st_size for video in _videos(staging, name))
        more = np.array([videos, (staging / f"{name}.npz").stat().st_size])
        if shard and ((sizes + more) > np.array([video_mb, DATA_MB]) * 2**20).any():
            yield shard
            shard, sizes = [], np.zeros(2)
        shard.append(name)
        sizes += more
    if shard:
        yield shard


def _write_shard(
    out: Path,
    staging: Path,
    shard: Sequence[str],
    features: Mapping[str, Any],
    fps: int | float,
    rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Write the files of one shard; returns the rows of its episodes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 1 + max((r["data/chunk_index"] * CHUNK_FILES + r["data/file_index"] for r in rows), default=-1)
    place = {"chunk_index": number // CHUNK_FILES, "file_index": number % CHUNK_FILES}
    first = {"episode": len(rows), "index": rows[-1]["dataset_to_index"] if rows else 0, "frame": 0}
    schema = pa.schema([(key, _arrow(feature)) for key, feature in features.items() if feature["dtype"] != "video"])
    made: list[dict[str, Any]] = []
    tasks = tasks_of(rows)
    with replacing(out / DATA_PATH.format(**place)) as data, pq.ParquetWriter(data, schema) as writer:
        for name in shard:
            about = _about(staging, name)
            tasks += [task for task in dict.fromkeys(about["tasks"]) if task not in tasks]
            first["task"] = tasks.index(about["tasks"][0])
            with np.load(staging / f"{name}.npz") as arrays:
                table = _episode_table(dict(arrays), about, features, fps, first)
            # One row group per episode, so that an episode can be read without the others.
            cells = [pa.array(table[field.name].tolist(), field.type) for field in schema]
            writer.write_table(pa.table(cells, schema=schema))
            made.append(_row(about, table, place, fps, first))
            first = {"episode": first["episode"] + 1, "index": made[-1]["dataset_to_index"],
                     "frame": first["frame"] + about["frames"]}  # fmt: skip
        for camera, key in enumerate(_cameras(features)):
            parts = [(_video(staging, name, camera), row["length"]) for name, row in zip(shard, made, strict=True)]
            with replacing(out / VIDEO_PATH.format(video_key=key, **place)) as video:
                join_videos(video, parts)
    with replacing(out / EPISODES_PATH.format(**place)) as file:
        pq.write_table(pa.Table.from_pylist(made), file)
    return made


def _episode_table(
    arrays: dict[str, np.ndarray],
    about: Mapping[str, Any],
    features: Mapping[str, Any],
    fps: int | float,
    first: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """Return the rows of one episode by feature, ``[frames]`` or ``[frames, A]`` each."""
    frame = np.arange(about["frames"])
    values = {_key(name, arrays): array for name, array in arrays.items()}
    values |= {"timestamp": frame / fps, "frame_index": frame, "episode_index": np.full_like(frame, first["episode"]),
               "index": first["index"] + frame, "task_index": np.full_like(frame, first["task"])}  # fmt: skip
    wanted = [key for key, feature in features.items() if feature["dtype"] != "video"]
    shapes = {key: list(array.shape[1:]) or [1] for key, array in values.items()}
    sizes = {key: told["size"] for key, told in about["cameras"].items()}
    fits = list(sizes.items()) == [(key, features[key]["shape"][:2]) for key in _cameras(features)]
    if not fits or shapes != {key: features[key]["shape"] for key in wanted}:
        raise DilaError(
            f"{about['source']} has frames of {sizes} and columns {shapes}, which differ from the episodes before it"
        )
    return {key: values[key].reshape(len(frame), *_inner(features[key])) for key in wanted}


def _row(
    about: Mapping[str, Any],
    table: Mapping[str, np.ndarray],
    place: Mapping[str, int],
    fps: int | float,
    first: Mapping[str, int],
) -> dict[str, Any]:
    """Return the row of an episode in ``meta/episodes``."""
    row: dict[str, Any] = {"episode_index": first["episode"], "tasks": about["tasks"], "length": about["frames"]}
    row |= {f"data/{key}": value for key, value in place.items()}
    row |= {"dataset_from_index": first["index"], "dataset_to_index": first["index"] + about["frames"]}
    for camera in about["cameras"]:
        row |= {f"videos/{camera}/{key}": value for key, value in place.items()}
        row[f"videos/{camera}/from_timestamp"] = first["frame"] / fps
        row[f"videos/{camera}/to_timestamp"] = (first["frame"] + about["frames"]) / fps
    row |= {f"meta/episodes/{key}": value for key, value in place.items()}
    row |= {"source": about["source"], "splits": about["splits"]}
    row |= {"fingerprint": about["fingerprint"]} if about.get("fingerprint") else {}
    pixels = {camera: told["pixels"] for camera, told in about["cameras"].items()}
    found = {**pixels, **{key: statistics(values) for key, values in table.items()}}
    return row | {f"stats/{key}/{kind}": value for key, each in found.items() for kind, value in each.items()}


def _describe(out: Path, rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any], fps: int | float) -> None:
    """Write the files in ``meta`` that describe the whole data set."""
    stats = {key: merged([_stored(row, f"stats/{key}/") for row in rows]) for key in features}
    write_json(out / "meta" / "stats.json", stats)
    write_tasks(out / "meta" / "tasks.parquet", tasks_of(rows))
    _announce(out, rows, features, fps)


def _stored(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the statistics of a feature in the row of an episode."""
    return {kind: row[prefix + kind] for kind in KINDS if row.get(prefix + kind) is not None}


def _announce(out: Path, rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any], fps: int | float) -> None:
    """Write ``meta/info.json``, which marks the folder as a LeRobot data set."""
    (out / "meta").mkdir(parents=True, exist_ok=True)
    write_json(out / "meta" / "info.json", {
        "codebase_version": VERSION, "robot_type": None, "total_episodes": len(rows),
        "total_frames": rows[-1]["dataset_to_index"] if rows else 0, "total_tasks": len(tasks_of(rows)),
        "chunks_size": CHUNK_FILES, "data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB,
        "fps": int(fps) if float(fps).is_integer() else fps, "splits": splits_of(rows),
        "data_path": DATA_PATH, "video_path": VIDEO_PATH, "features": features,
    })  # fmt: skip


def _features(
    columns: Mapping[str, np.ndarray],
    names: Mapping[str, tuple[str, ...]],
    cameras: Mapping[str, Mapping[str, Any]],
    fps: int | float,
) -> dict[str, Any]:
    """Return the features of ``info.json``: one for every camera and column."""
    features: dict[str, Any] = {key: _camera(told["size"], fps) for key, told in cameras.items()}
    for name, array in columns.items():
        parts = list(names[name]) if name in names else None
        features[_key(name, columns)] = {"dtype": str(array.dtype), "shape": list(array.shape[1:]), "names": parts}
    return features | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in INDICES.items()}


def _camera(size: Sequence[int], fps: int | float) -> dict[str, Any]:
    video = {
        "video.height": size[0], "video.width": size[1], "video.codec": "h264", "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    return {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"], "info": video}


def _cameras(features: Mapping[str, Any]) -> list[str]:
    return [key for key, feature in features.items() if feature["dtype"] == "video"]


def _key(name: str, columns: Container[str]) -> str:
    """Return the feature name of a column; LeRobot does not allow slashes in it."""
    state = name == "state" and "observation.state" not in columns
    return "observation.state" if state else name.replace("/", ".")


def _inner(feature: Mapping[str, Any]) -> list[int]:
    """Return the shape of the value at one frame; LeRobot stores shape (1,) as a plain number."""
    return [] if feature["shape"] == [1] else feature["shape"]


def _arrow(feature: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    scalar = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    return pa.list_(scalar, feature["shape"][0]) if _inner(feature) else scalar
