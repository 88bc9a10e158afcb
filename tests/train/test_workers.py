"""Processes that read data, and the signals that a run and its processes are sent.

In a process of its own: torch raises wherever that happens to be when a child dies, more than once.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from train_world import after, small_run, write_corpus

from dila import vision
from dila.train.checkpoint import newest
from dila.train.objectives import OneStep
from dila.train.run import Stage

STRUCK = """
import multiprocessing, os, signal, sys
import pytest
from test_workers import RUN, prepare
from dila.cli.main import main
from dila.train.loop import train

def strike():
    if sys.argv[2] == "group":
        os.killpg(0, signal.SIGTERM)
    else:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

def verb():
    train(RUN, sys.argv[1] + "/data", sys.argv[1] + "/out", cache_dir=sys.argv[1] + "/cache", progress=False)

with pytest.MonkeyPatch.context() as patch:
    prepare(patch, strike)
    patch.setattr("dila.cli.params.params", verb)
    sys.exit(main(["params"]))
"""

RUN = small_run(
    workers=2, stages=(Stage(OneStep(), steps=40),), log_every=100, evaluate_every=100, checkpoint_minutes=100.0
)


def prepare(patch, strike):
    from train_world import PatchConfig, PatchEncoder

    patch.setitem(vision.ENCODERS, "patch", (PatchEncoder, PatchConfig))
    after(patch, 3, strike)


@pytest.mark.parametrize(("what", "code", "told", "steps"), [
    ("group", 143, "dila: stopped and saved; the same command resumes where it stopped\n", {3}),
    ("worker", 2, "dila: a data worker process died (DataLoader worker (pid", set(range(3, 40))),
])  # fmt: skip
def test_what_strikes_the_processes_that_read_saves_the_run(tmp_path, what, code, told, steps):
    write_corpus(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, tmp_path, what], cwd=Path(__file__).parent, capture_output=True, text=True,
        timeout=120, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(told)
    # Another reader may be cut off in the middle of Python's own complaint that its owner is gone.
    assert not any("dila" in line for line in done.stderr.splitlines()[1:])
    last = newest(tmp_path / "out")
    assert last is not None
    assert int(last.name.removeprefix("step_")) in steps
