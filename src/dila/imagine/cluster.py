"""The same work in parts on many machines: Ray Data (extra ``cluster``) in the place of a loop.

Each part is done by a worker that was built once and given its part as a value, and leaves its result on a disk that
all see, whole or not at all. A worker that dies is started again and so is the part that it was at; a part that was
done already is done over to the same file. So the parts are all there once, as after the loop.
"""

import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from dila.errors import DilaError, MissingExtra
from dila.protocols import Episode

Engine = Literal["local", "ray"]
"""Where parts are done: one after the other here, or on a Ray cluster."""


EPISODES_PER_PART, FRAMES_PER_PART = 32, 5000
"""At most, but of one episode that has more frames."""


def cut_parts(episodes: Sequence[Episode], most: int = EPISODES_PER_PART) -> list[list[Episode]]:
    """Whole episodes by the part, in order: what an interruption can lose."""
    parts: list[list[Episode]] = []
    for episode in episodes:
        frames = len(episode.times) + (count_frames(parts[-1]) if parts else 0)
        if not parts or len(parts[-1]) == most or frames > FRAMES_PER_PART:
            parts.append([])
        parts[-1].append(episode)
    return parts


def count_frames(episodes: Sequence[Episode]) -> int:
    """Of all of them."""
    return sum(len(episode.times) for episode in episodes)


@runtime_checkable
class Work(Protocol):
    """What is done to each part. Done twice it must leave what it leaves once."""

    def to(self, device: str) -> None:
        """Move what is heavy, once in each process."""
        ...

    def __call__(self, part: Any) -> Any:
        """From a part to its result; both small, for they are sent."""
        ...


def each_part(work: Work, parts: Sequence[Any], engine: Engine, workers: int, done: Callable[[Any], Any]) -> list[Any]:
    """What `work` gives for each part, in the order of the parts.

    Args:
        work: done to each part.
        parts: anything that can be pickled.
        engine: where.
        workers: processes on the cluster; with ``local`` there is one, this.
        done: called with each part that is known to be done.

    Raises:
        DilaError: as `work` does, or workers below 1.
        MissingExtra: Ray is not installed.
    """
    if workers < 1:
        raise DilaError(f"workers = {workers} must be at least 1")
    if engine == "ray":
        return _on_ray(work, parts, workers, done)
    results = []
    for part in parts:
        results.append(work(part))
        done(part)
    return results


class _Worker:
    """A process of the cluster. A refusal comes back as a value: Ray would hand over its traceback."""

    def __init__(self, work: Work):
        import torch

        self.work = work
        if torch.cuda.is_available():
            work.to("cuda")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        results = []
        for part in batch["part"]:
            try:
                results.append(pickle.dumps((self.work(pickle.loads(part)), None)))
            except DilaError as error:
                results.append(pickle.dumps((None, str(error))))
        return {"number": list(batch["number"]), "result": results}


def _on_ray(work: Work, parts: Sequence[Any], workers: int, done: Callable[[Any], Any]) -> list[Any]:
    try:
        import ray
        import ray.data
        from ray import cloudpickle
    except ImportError as error:
        raise MissingExtra("the engine ray", "ray", "cluster") from error
    if not ray.is_initialized():
        _join(ray, workers)
    ray.data.DataContext.get_current().enable_progress_bars = False
    items = [{"number": number, "part": cloudpickle.dumps(part)} for number, part in enumerate(parts)]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        fn_constructor_args=(work,),
        batch_size=1,
        concurrency=(1, workers),
        num_cpus=1,
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    results: dict[int, Any] = {}
    for row in rows.iter_rows():
        result, refusal = pickle.loads(row["result"])
        if refusal is not None:
            raise DilaError(refusal)
        results[int(row["number"])] = result
        done(parts[int(row["number"])])
    return [results[number] for number in range(len(parts))]


def _join(ray: Any, workers: int) -> None:
    """The cluster that ``RAY_ADDRESS`` names, or one of this machine's processes."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level="error")
    else:
        ray.init(num_cpus=workers, **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray has one of its own, which aborts
