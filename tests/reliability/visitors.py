"""Simulated visitors of the demo's page: each presses buttons over HTTP as a browser does, many of them at once.

A visitor holds a session open, puts what they press on the queue and waits for what comes. Every press is written down
with how long it took and how it ended; a watcher notes the server's memory, threads, open files and disk meanwhile.
"""

import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

PATIENCE = 1200
"""Seconds until a visitor gives up waiting."""
FILMS = ("Transfer", "Rebind", "Freeze", "Look inside")


class Press(NamedTuple):
    """One thing that a visitor did."""

    what: str
    seconds: float
    failed: str
    """Why it did not work, or nothing."""


class Sample(NamedTuple):
    """The server at a moment."""

    seconds: float
    megabytes: float
    threads: int
    files: int
    disk: float
    """Megabytes of uploads, pictures and films."""


class Server(NamedTuple):
    """A page that is being served."""

    address: str
    process: psutil.Process
    folder: Path
    """All that it writes."""

    def sample(self, began: float) -> Sample:
        disk = sum(size_of(path) for path in self.folder.rglob("*")) / 2**20
        with self.process.oneshot():
            megabytes = self.process.memory_info().rss / 2**20
            return Sample(time.monotonic() - began, megabytes, self.process.num_threads(), self.process.num_fds(), disk)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # tidied away meanwhile
        return 0


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """``dila demo`` in a process of its own, that writes below a folder."""
    command = [sys.executable, "-m", "dila", "demo", "--device", "cpu"]
    env = psutil.Process().environ() | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            ready = re.search(r"ready after .* s: (http://[\w.:]+)", process.stdout.readline())
            assert ready is not None
            yield Server(ready[1], psutil.Process(process.pid), folder)
        finally:
            process.terminate()


class Page:
    """What a browser knows of the page: which button is which function, and what it takes."""

    def __init__(self, address: str):
        self.host = urlsplit(address).netloc
        self.config = json.loads(self.ask("GET", "/config"))
        self.components = {component["id"]: component for component in self.config["components"]}

    def ask(self, method: str, path: str, body: Any = None) -> bytes:
        """One request; what comes back, whatever the status, raises `OSError` when it is none of 200."""
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        try:
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise OSError(f"{answer.status}: {said.decode(errors='replace')[:200]}")
            return said
        finally:
            connection.close()

    def function(self, name: str, event: str = "click") -> tuple[int, list[Any]]:
        """Number and usual inputs of what happens when a button, or the picture with that id, is pressed."""
        for function in self.config["dependencies"]:
            for number, kind in function["targets"]:
                props = self.components[number]["props"] if number is not None else {}
                if kind == event and name in (props.get("value"), props.get("elem_id")):
                    return function["id"], [self.components[i]["props"].get("value") for i in function["inputs"]]
        raise LookupError(name)


class Visitor:
    """One person in one session, which the page keeps while it stays open."""

    def __init__(self, page: Page):
        self.page, self.session, self.done = page, uuid.uuid4().hex, list[Press]()
        self.open = http.client.HTTPConnection(page.host, timeout=PATIENCE)

    def __enter__(self) -> "Visitor":
        self.open.request("GET", f"/gradio_api/heartbeat/{self.session}")
        return self

    def __exit__(self, *error: object) -> None:
        self.open.close()

    def press(self, what: str, place: Any = None, **inputs: Any) -> Any:
        """Press a button, or a picture in a place; returns what the page then shows, None when it failed.

        Args:
            what: the button's text, or the picture's id.
            place: column and row in pixels.
            inputs: values by their number among the inputs, as ``_0="pusht_1"``.
        """
        began, failed, shown = time.monotonic(), "", None
        try:
            number, data = self.page.function(what, "click" if place is None else "select")
            for key, value in inputs.items():
                data[int(key[1:])] = value
            body = {"data": data, "fn_index": number, "session_hash": self.session, "trigger_id": None}
            if place is not None:
                body["event_data"] = {"index": place, "value": None}
            event = json.loads(self.page.ask("POST", "/gradio_api/queue/join", body))["event_id"]
            shown = self.wait(event)
        except (OSError, http.client.HTTPException) as error:
            failed = f"{type(error).__name__}: {error}"
        self.done.append(Press(what, time.monotonic() - began, failed))
        return shown

    def wait(self, event: str) -> Any:
        """Read the session's stream until the event is done."""
        connection = http.client.HTTPConnection(self.page.host, timeout=PATIENCE)
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
            for line in connection.getresponse():
                message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if message.get("msg") == "process_completed" and message["event_id"] == event:
                    if not message["success"]:
                        raise OSError(str(message["output"]))
                    return message["output"]["data"]
                if message.get("msg") == "unexpected_error":
                    raise OSError(str(message["message"]))
            raise OSError("the stream ended before the answer")
        finally:
            connection.close()


def play(visitor: Visitor, seed: int, moves: int = 12) -> None:
    """Begin, move about, undo, export, and make one film."""
    draw = random.Random(seed)
    visitor.press("Begin", _0=f"pusht_{draw.randrange(6)}")
    for _ in range(moves):
        visitor.press("pad", (draw.randrange(400), draw.randrange(400)))
    visitor.press("Undo")
    shown = visitor.press("Export mp4")
    if shown:
        fetch(visitor, shown[0])
    shown = visitor.press(FILMS[seed % len(FILMS)])
    if shown:
        fetch(visitor, shown[0])


def fetch(visitor: Visitor, shown: Any) -> None:
    """Load the film or picture that an answer names, as a browser would."""
    value = shown.get("value", shown)
    film = value.get("video", value)
    began, failed = time.monotonic(), ""
    try:
        address = urlsplit(film["url"])
        assert visitor.page.ask("GET", address.path)
    except OSError as error:
        failed = str(error)
    visitor.done.append(Press("fetch", time.monotonic() - began, failed))


def crowd(server: Server, visitors: int, rounds: int, stay: Callable[[Visitor, int], None] = play) -> dict[str, Any]:
    """So many visitors at once, each of whom comes back so often in a new session; all that was seen."""
    page, began = Page(server.address), time.monotonic()
    presses: list[list[Press]] = [[] for _ in range(visitors)]
    over, samples, ends = threading.Event(), [server.sample(began)], list[Sample]()

    def watch() -> None:
        while not over.wait(1):
            samples.append(server.sample(began))

    def come(number: int) -> None:
        with Visitor(page) as visitor:
            stay(visitor, number)
            presses[number] += visitor.done

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for turn in range(rounds):
            each = [threading.Thread(target=come, args=(number,)) for number in range(visitors)]
            for thread in each:
                thread.start()
            for thread in each:
                thread.join()
            ends.append(server.sample(began))
            print(f"round {turn + 1}: {ends[-1]}", file=sys.stderr, flush=True)
    finally:
        over.set()
        watcher.join()
    return report([press for one in presses for press in one], samples, ends, visitors)


def report(presses: list[Press], samples: list[Sample], ends: list[Sample], visitors: int) -> dict[str, Any]:
    """Figures of a crowd, ready for JSON."""
    kinds = sorted({press.what for press in presses})
    waits = {kind: sorted(press.seconds for press in presses if press.what == kind) for kind in kinds}
    return {
        "visitors": visitors,
        "presses": len(presses),
        "failed": [press._asdict() for press in presses if press.failed][:20],
        "failures": sum(bool(press.failed) for press in presses),
        "seconds": round(samples[-1].seconds, 1),
        "waited": {
            kind: {"median": round(times[len(times) // 2], 2), "longest": round(times[-1], 2), "of": len(times)}
            for kind, times in waits.items()
        },
        "megabytes": {
            "at the start": round(samples[0].megabytes),
            "after each round": [round(end.megabytes) for end in ends],
            "at most": round(max(sample.megabytes for sample in samples)),
        },
        "threads_at_most": max(sample.threads for sample in samples),
        "files_at_most": max(sample.files for sample in samples),
        "disk_megabytes_after_each_round": [round(end.disk, 1) for end in ends],
    }  # fmt: skip


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place, serving(Path(place)) as page_:
        print(json.dumps(crowd(page_, int(sys.argv[1]), int(sys.argv[2])), indent=1))
