import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dila.data import kept as module
from dila.data.kept import Kept


class Reader:
    """Gives arrays of so many bytes, and notes when it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, number, size=1024):
        self.asked.append(number)
        return {"a": np.full(size, number % 256, np.uint8)}


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr(module, "MAX_KEPT", 4 * 1024)  # three of a kilobyte, with what is beside them
    return Reader()


def test_what_was_asked_for_longest_ago_goes(reader):
    kept = Kept()
    for number in (1, 2, 3, 1, 4, 1, 3):
        assert kept(reader, number)["a"][0] == number
    assert reader.asked == [1, 2, 3, 4]
    kept(reader, 2)
    assert reader.asked == [1, 2, 3, 4, 2]


def test_bytes_count_and_not_how_many(reader):
    kept = Kept()
    for _ in range(2):
        for number in range(10):
            kept(reader, number, 16)
    assert reader.asked == list(range(10))
    for _ in range(2):
        kept(reader, 99, 10_000)  # alone, then, and all the same not read anew
    assert reader.asked == [*range(10), 99]
    kept(reader, 0, 16)
    assert reader.asked == [*range(10), 99, 0]
    assert kept._bytes == module._size(reader(0, 16))


def test_what_one_reader_gave_is_not_anothers(reader):
    kept, other = Kept(), Reader()
    kept(reader, 1)
    kept(other, 1)
    assert reader.asked == other.asked == [1]


def test_threads_share_it(reader):
    kept = Kept()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: kept(reader, i % 7)["a"][0], range(2_000)))
    assert found == [i % 7 for i in range(2_000)]
    assert kept._bytes == sum(size for _, size in kept._found.values()) <= 4 * 1024


@pytest.mark.filterwarnings("ignore:This process")  # is multi-threaded, from Python 3.12 on
def test_a_fork_waits_for_no_thread_that_it_does_not_have(reader):
    kept = Kept()
    kept(reader, 1)
    here = multiprocessing.get_context("fork")
    ours, theirs = here.Pipe()
    with kept._lock:
        child = here.Process(target=lambda: theirs.send(int(kept(reader, 1)["a"][0])))
        child.start()
    assert ours.poll(30)
    assert ours.recv() == 1
    child.join()
