"""Process parts of a job in a loop here, or with Ray Data on many machines (extra ``cluster``).

Each worker is created once, receives its parts by value, and writes each result atomically to a shared disk. If a
worker dies, it is restarted together with the part it was processing; a part that was already done is written again to
the same file. Therefore every part is written exactly once, as with the loop.
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
"""Where parts are processed: ``local``, one after another in this process, or ``ray``, on a Ray cluster."""


EPISODES_PER_PART, FRAMES_PER_PART = 32, 5000
"""Maximum size of a part; a single longer episode forms a part of its own."""


def cut_parts(episodes: Sequence[Episode], most: int = EPISODES_PER_PART) -> list[list[Episode]]:
    """Split episodes into parts of whole episodes, in order; an interruption loses at most one part."""
    parts: list[list[Episode]] = []
    for episode in episodes:
        frames = len(episode.times) + (count_frames(parts[-1]) if parts else 0)
        if not parts or len(parts[-1]) == most or frames > FRAMES_PER_PART:
            parts.append([])
        parts[-1].append(episode)
    return parts


def count_frames(episodes: Sequence[Episode]) -> int:
    """Total number of frames of the episodes."""
    return sum(len(episode.times) for episode in episodes)


@runtime_checkable
class Work(Protocol):
    """A function applied to each part. Must be idempotent: a part may be processed twice."""

    def to(self, device: str) -> None:
        """Move models to the device; called once per process."""
        ...

    def __call__(self, part: Any) -> Any:
        """Process a part and return its result; both are sent between machines and should be small."""
        ...


def each_part(work: Work, parts: Sequence[Any], engine: Engine, workers: int, done: Callable[[Any], Any]) -> list[Any]:
    """Return the results of `work` for all parts, in order.

    Args:
        work: applied to each part.
        parts: anything that can be pickled.
        engine: where to run.
        workers: processes on the cluster; ignored with ``local``, which uses this process.
        done: called with each part once it is done.

    Raises:
        DilaError: raised by `work`, or workers below 1.
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
    """A process of the cluster. Returns a DilaError as a value, because Ray would show the user its traceback."""

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
    """Connect to the cluster at ``RAY_ADDRESS``, or start one of processes on this machine."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level="error")
    else:
        ray.init(num_cpus=workers, **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray installs its own handler, which aborts
