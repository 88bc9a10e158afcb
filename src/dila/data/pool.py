"""Worker processes that leave when their owner does, whatever ends it, and at once: what they are at is cut or saved.

A worker belongs to no terminal, so that Ctrl-C reaches its owner alone. Its owner sends it SIGTERM, which it sends
itself where the owner is gone: training saves first (`dila.train.stop`), all else stops where it is.
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
    """Processes to submit jobs to; left with an error, they are stopped, and what had not begun is dropped.

    Args:
        workers: how many.
        threads: of torch in each; more than there are cores make it spin.

    Raises:
        DilaError: one of them was killed.
    """
    others = set(multiprocessing.active_children())
    # Spawned, not forked: a fork of a process in which torch or SDL already has threads can hang, and has no CUDA.
    context = multiprocessing.get_context("spawn")
    executor = _Pool(workers, context, initializer=_begin, initargs=(threads,))
    try:
        yield executor
    except BrokenProcessPool as error:  # the executor has ended the others
        raise DilaError(
            "a worker process was killed, by hand or for want of memory; what is finished is kept: the same command "
            "goes on, and needs less memory with fewer processes at once"
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
    """What `job` makes of every item, in order, on so many processes, under a progress bar that counts to `total`."""
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
    """What a process of a pool knows of its end."""

    asked = busy = orphan = False

    def do(self, job: Callable[..., Made], *arguments: Any) -> Made:
        """Do a job, unless the end was asked for: some wait before a worker, where nobody can cancel them."""
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
        """SIGTERM. Beside a job nothing is cut: a process that died would have the others killed in what they save."""
        self.asked = True
        if self.busy:
            raise SystemExit(128 + number)
        if self.orphan:
            os._exit(128 + number)

    def follow(self) -> None:
        """Wait until the owner is gone; then there is nobody to work for."""
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
