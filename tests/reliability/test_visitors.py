"""Visitors of the demo's page: many at once, and those who mean harm."""

import http.client
import json
import threading
import uuid
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote

import pytest
import torch
from visitors import Page, Visitor, crowd, play, serving

from dila.data import write_video
from dila.demo.app import WAITING
from dila.demo.clips import MEGABYTES
from dila.demo.serve import SESSIONS

pytest.importorskip("gradio", reason="the extra demo is not installed")
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("page")) as served:
        yield served


@pytest.fixture(scope="module")
def page(server):
    return Page(server.address)


def test_eight_visitors_at_once_are_all_served(server):
    seen = crowd(server, 8, 1, partial(play, moves=2))
    assert seen["failed"] == []
    assert seen["presses"] == 8 * (1 + 2 + 1 + 1 + 1 + 2)
    assert seen["megabytes"]["at most"] < 2000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_visitors_at_once_are_all_served_in_memory_that_does_not_grow(tmp_path):
    with serving(tmp_path) as served:
        seen = crowd(served, 50, 4)
    assert seen["failed"] == []
    megabytes = seen["megabytes"]["after each round"]
    assert megabytes[-1] < 1.1 * megabytes[1], "after the second round, as many sessions are held as ever are"


def test_every_button_waits_in_one_of_two_queues_with_room_for_all_whose_state_is_kept(page):
    config = page.config
    assert {function["queue"] for function in config["dependencies"] if function["targets"]} == {True}
    assert WAITING >= 2 * SESSIONS


def upload(page, name, data):
    """Send a file as the page does; status and answer."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
    body = head.encode() + b"Content-Type: video/mp4\r\n\r\n" + data + f"\r\n--{mark}--\r\n".encode()
    connection = http.client.HTTPConnection(page.host, timeout=60)
    try:
        connection.request(
            "POST", "/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={mark}"}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def sent(page, name, data):
    status, said = upload(page, name, data)
    assert status == 200, said
    return {"path": json.loads(said)[0], "meta": {"_type": "gradio.FileData"}}


def told(page, what, **inputs):
    """What the page says of a press that it refuses."""
    with Visitor(page) as visitor:
        assert visitor.press(what, **inputs) is None
        return visitor.done[-1].failed


def film(path, frames=8, size=(64, 64), fps=5):
    write_video(path, torch.randint(0, 256, (frames, 3, *size), dtype=torch.uint8), fps)
    return path.read_bytes()


def test_a_film_that_was_sent_is_used(page, tmp_path):
    given = sent(page, "mine.mp4", film(tmp_path / "mine.mp4"))
    with Visitor(page) as visitor:
        assert visitor.press("Freeze", _1=given), visitor.done


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("passwords.txt", lambda path: b"secret", "Invalid file type"),
        ("list.m3u8", lambda path: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "Invalid file type"),
        ("list.mp4", lambda path: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "cannot be read as a video"),
        ("page.mp4", lambda path: b"<script>alert(1)</script>" * 99, "cannot be read as a video"),
        ("empty.mp4", lambda path: b"", "cannot be read as a video"),
        ("cut.mp4", lambda path: film(path)[:600], "cannot be read as a video"),
        ("long.mp4", lambda path: film(path, 90, (16, 16), 1), "at most 60 s are allowed"),
        ("wide.mp4", lambda path: film(path, 2, (16, 2048)), "at most 1920 pixels a side are allowed"),
    ],
)
def test_a_file_that_is_no_fitting_film_is_refused_in_a_sentence(page, tmp_path, name, make, sentence):
    given = sent(page, name, make(tmp_path / "made.mp4"))
    said = told(page, "Freeze", _1=given)
    assert sentence in said, said


def test_a_file_that_is_too_large_is_refused_and_not_kept(server, page):
    status, said = upload(page, "large.mp4", bytes((MEGABYTES + 1) * MEBIBYTE))
    assert status == 413, said
    assert not any(path.stat().st_size > MEGABYTES * MEBIBYTE for path in server.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "name", ["../../../../evil.mp4", "/etc/evil.mp4", "..\\\\..\\\\evil.mp4", "%2e%2e%2fevil.mp4", "a" * 400 + ".mp4"]
)
def test_a_name_leads_nowhere_but_to_the_pages_own_folder(server, page, name):
    status, said = upload(page, name, b"evil")
    if status == 200:
        assert json.loads(said)[0].startswith(str(server.folder))
        assert ".." not in json.loads(said)[0].split("/")


class Counting(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def inside():
    """Another server of this machine, which nobody outside should reach through the page."""
    with HTTPServer(("127.0.0.1", 0), Counting) as other:
        other.asked = []
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield other
        other.shutdown()


@pytest.mark.parametrize("place", ["path", "url", "both"])
def test_the_page_fetches_nothing_for_a_visitor(page, inside, place):
    address = f"http://127.0.0.1:{inside.server_port}/secret.mp4"
    given = {"path": address if place != "url" else "secret.mp4", "meta": {"_type": "gradio.FileData"}}
    if place != "path":
        given["url"] = address
    assert told(page, "Freeze", _1=given)
    with pytest.raises(OSError, match=r"^40[034]|^50"):
        page.ask("GET", f"/gradio_api/file={address}")
    with pytest.raises(OSError, match=r"^40[034]|^50"):
        page.ask("GET", f"/gradio_api/proxy={address}")
    assert inside.asked == []


def test_another_visitors_own_files_and_films_in_the_making_cannot_be_read(server, page):
    films = [path for path in server.folder.rglob("films/*/*.mp4") if path.is_file()]
    assert films or (server.folder / next(server.folder.iterdir()).name / "films").is_dir()
    for path in [*films, server.folder, *server.folder.iterdir()]:
        with pytest.raises(OSError, match=r"^40[34]"):
            page.ask("GET", f"/gradio_api/file={quote(str(path))}")


STRANGE = [None, -5, 1e308, -1e308, float("nan"), float("inf"), "x", "", [], {}, [1, 2], {"path": "/etc/passwd"}, True,
           "../../etc/passwd", "0", 2**70]  # fmt: skip


@pytest.mark.parametrize("value", STRANGE, ids=repr)
def test_strange_values_end_in_an_answer(page, value):
    with Visitor(page) as visitor:
        for inputs in ({"_0": value}, {"_1": value}, {"_2": value}):
            visitor.press("Begin", **inputs)
        visitor.press("Show the board", _0=value)
        visitor.press("Begin")
        visitor.press("pad", (0, 0), _1=value, _2=value)
        assert not any("Traceback" in press.failed for press in visitor.done)
        assert visitor.press("Begin"), visitor.done


@pytest.mark.parametrize("index", [[], ["a", "b"], [1e300, -1e300], [float("nan")] * 2, 7, [{}, {}], [0, 0, 0]])
def test_clicks_in_strange_places_end_in_an_answer(page, index):
    with Visitor(page) as visitor:
        visitor.press("Begin")
        visitor.press("pad", index)
        assert visitor.press("Undo"), visitor.done
