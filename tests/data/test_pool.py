"""Worker processes, and what ends them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

SCRIPT = """
import sys
import time
from pathlib import Path

from dila.data.pool import pool
from dila.train.stop import StopRequest


def work(folder, number):
    with StopRequest() as stop:
        (folder / f"begun-{number}").touch()
        while stop.signal is None:
            time.sleep(0.05)
        (folder / f"saved-{number}").touch()
        raise stop.exit()


if __name__ == "__main__":
    with pool(2) as many:
        for made in [many.submit(work, Path(sys.argv[1]), number) for number in range(8)]:
            made.result()
"""


@pytest.fixture
def working(tmp_path):
    """A process with two workers that are both at work, and the workers."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "done").mkdir()
    # SIGINT as a terminal has it: what a shell starts behind itself ignores it.
    command = [sys.executable, "-c", "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
               "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"]  # fmt: skip
    command += [str(tmp_path / "script.py"), str(tmp_path / "done")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as owner:
        while len(os.listdir(tmp_path / "done")) < 2:
            assert owner.poll() is None, owner.stderr.read()
            time.sleep(0.05)
        every = psutil.Process(owner.pid).children(recursive=True)
        workers = [process for process in every if "spawn_main" in " ".join(process.cmdline())]
        yield owner, workers
        for process in every:
            if process.is_running():
                process.kill()
        owner.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_save_and_leave_with_their_owner(number, working, tmp_path):
    owner, workers = working
    owner.send_signal(number)
    owner.wait(60)
    _, left = psutil.wait_procs(workers, 60)
    assert left == []
    assert sorted(os.listdir(tmp_path / "done")) == ["begun-0", "begun-1", "saved-0", "saved-1"]


def test_a_worker_that_is_killed_is_a_sentence_and_ends_the_others(working):
    owner, workers = working
    workers[0].kill()
    told = owner.communicate(timeout=60)[1]
    assert "dila.errors.DilaError: a worker process was killed, perhaps because memory ran out; finished" in told
    _, left = psutil.wait_procs(workers, 60)
    assert left == []
