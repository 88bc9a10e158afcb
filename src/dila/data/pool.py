"""Worker processes that exit as soon as their parent does, however it ends.

Workers have a process group of their own, so Ctrl-C reaches only the parent, which sends them SIGTERM. If the parent
is gone, a worker sends SIGTERM to itself. Training then saves a checkpoint first (`dila.train.stop`); any other job
stops at once.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

import torch

from dila.errors import DilaError
from dila.plugins import load_plugins

Item = TypeVar("Item")
Made = TypeVar("Made")


class _Pool(ProcessPoolExecutor):
    def submit(self, job: Callable[..., Made], /, *arguments: Any) -> "Future[Made]":
        return super().submit(_do, job, *arguments)


@contextmanager
def pool(workers: int, threads: int = 1) -> Iterator[Executor]:
    """Context with worker processes to submit jobs to; on an error, running jobs are stopped and pending ones dropped.

    Args:
        workers: number of processes.
        threads: torch threads in each; more threads than cores waste time spinning.

    Raises:
        DilaError: a worker process was killed.
    """
    others = set(multiprocessing.active_children())
    # Spawned, not forked: a fork of a process in which torch or SDL has threads can hang, and cannot use CUDA.
    context = multiprocessing.get_context("spawn")
    executor = _Pool(workers, context, initializer=_begin, initargs=(threads,))
    try:
        yield executor
    except BrokenProcessPool as error:  # the executor has ended the others
        raise DilaError(
            "a worker process was killed, perhaps because memory ran out; finished jobs are kept: run the same command "
            "again to continue, with fewer processes at once to use less memory"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def run_jobs(
    job: Callable[[Item], Made], items: list[Item], workers: int, total: int, label: str, progress: bool
) -> Iterator[Made]:
    """Yield `job(item)` of every item in order, computed by `workers` processes, with a progress bar up to `total`."""
    from tqdm import tqdm

    with tqdm(total=total, initial=total - len(items), desc=label, disable=not progress) as bar:
        for made in _run(job, items, workers):
            bar.update()
            yield made


def _run(job: Callable[[Item], Made], items: list[Item], workers: int) -> Iterator[Made]:
    if workers == 1 or len(items) <= 1:
        yield from map(job, items)
        return
    with pool(workers) as many:
        for made in [many.submit(job, item) for item in items]:
            yield made.result()


class _Worker:
    """State of a worker process: whether it was asked to stop, runs a job, or has lost its parent."""

    asked = busy = orphan = False

    def do(self, job: Callable[..., Made], *arguments: Any) -> Made:
        """Run a job, unless SIGTERM has arrived: jobs already in the worker's queue cannot be cancelled."""
        if self.asked:
            raise SystemExit(128 + signal.SIGTERM)
        self.busy = True
        try:
            load_plugins()
            return job(*arguments)
        except SystemExit:
            self.asked = True
            raise
        finally:
            self.busy = False
            if self.orphan:
                os._exit(128 + signal.SIGTERM)

    def end(self, number: int, frame: Any) -> None:
        """Handle SIGTERM. An idle worker lives on: if it died, the executor would kill others while they save."""
        self.asked = True
        if self.busy:
            raise SystemExit(128 + number)
        if self.orphan:
            os._exit(128 + number)

    def follow(self) -> None:
        """Wait until the parent is gone, then send SIGTERM to this process."""
        owner = multiprocessing.parent_process()
        if owner is not None:
            owner.join()
            self.orphan = True
            os.kill(os.getpid(), signal.SIGTERM)


_WORKER = _Worker()


def _do(job: Callable[..., Made], *arguments: Any) -> Made:
    return _WORKER.do(job, *arguments)


def _begin(threads: int) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGTERM, _WORKER.end)
    torch.set_num_threads(threads)
    Thread(target=_WORKER.follow, daemon=True).start()
