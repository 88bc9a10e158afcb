import http.server
import json
import logging
import sys
import threading
import uuid
from functools import partial
from pathlib import Path

import fsspec
import pytest

from dila.data import remote
from dila.data.corpus import open_corpus
from dila.data.remote import fetch, is_remote
from dila.data.video import write_video
from dila.errors import DilaError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DILA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "remote"


@pytest.fixture
def tree(tmp_path, shades):
    root = tmp_path / "served"
    write_video(root / "a.mp4", shades(4), 10)
    write_video(root / "deep" / "ünï b.mp4", shades(5, 10), 10)
    (root / ".hidden").write_text("secret")
    return root


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tree):
    pytest.importorskip("aiohttp")
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(tree)))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{served.server_address[1]}"
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture
def memory(tree):
    """The same tree in fsspec's file system in memory, under a name of its own."""
    system, base = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    system.put(str(tree), base, recursive=True)
    yield system, base
    system.rm(base, recursive=True)


@pytest.fixture
def fetched(monkeypatch):
    """Names of the files that were fetched."""
    names, real = [], remote._download
    monkeypatch.setattr(remote, "_download", lambda *a: names.append(a[1].name) or real(*a))
    return names


def test_one_file_over_http_is_fetched_once(server, numbers, cache, fetched):
    (episode,) = open_corpus(f"{server.url}/a.mp4").episodes
    assert episode.id == "a.mp4"
    assert numbers(episode.read([0, 3])) == [0, 3]
    assert episode.path.is_relative_to(cache)
    open_corpus(f"{server.url}/a.mp4")
    open_corpus(Path(f"{server.url}/a.mp4"))  # as the command line gives it, one slash lost
    assert fetched == ["a.mp4"]


def test_a_folder_over_http_is_a_corpus(server, numbers):
    corpus = open_corpus(f"{server.url}/")
    assert [e.id for e in corpus.episodes] == ["a.mp4", "deep/ünï b.mp4"]
    assert numbers(corpus.episodes[1].read([4])) == [14]


def test_a_folder_in_a_store_is_a_corpus_and_hidden_files_stay(memory, numbers):
    _, base = memory
    corpus = open_corpus(f"memory:/{base}")
    assert [e.id for e in corpus.episodes] == ["a.mp4", "deep/ünï b.mp4"]
    assert numbers(corpus.episodes[1].read([4])) == [14]
    assert not (corpus.root / ".hidden").exists()


def test_a_changed_file_is_fetched_again_and_a_deleted_one_goes(memory, tree, shades, numbers):
    system, base = memory
    folder = fetch(f"memory:/{base}", progress=False)
    before = (folder / "deep" / "ünï b.mp4").stat().st_mtime_ns
    write_video(tree / "a.mp4", shades(6, 20), 10)
    system.put(str(tree / "a.mp4"), f"{base}/a.mp4")
    corpus = open_corpus(f"memory:/{base}")
    assert numbers(corpus.episodes[0].read([5])) == [25]
    assert (folder / "deep" / "ünï b.mp4").stat().st_mtime_ns == before
    system.rm(f"{base}/deep/ünï b.mp4")
    assert [e.id for e in open_corpus(f"memory:/{base}").episodes] == ["a.mp4"]


def test_an_interrupted_fetch_leaves_nothing_half_and_goes_on(memory, monkeypatch):
    _, base = memory
    real, done = remote._download, []

    def interrupted(system, file, target):
        if done:
            raise KeyboardInterrupt
        done.append(file.name)
        real(system, file, target)

    monkeypatch.setattr(remote, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(f"memory:/{base}", progress=False)
    monkeypatch.setattr(remote, "_download", lambda *a: done.append(a[1].name) or real(*a))
    folder = fetch(f"memory:/{base}", progress=False)
    assert done == ["a.mp4", "deep/ünï b.mp4"]
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [".fetched.jsonl", "a.mp4", "ünï b.mp4"]


def test_a_file_that_came_short_is_no_file(memory, monkeypatch):
    _, base = memory
    real = remote._file
    monkeypatch.setattr(remote, "_file", lambda *a: real(*a)._replace(size=10**6))
    with pytest.raises(DilaError, match=r"a\.mp4 arrived with .* of 1,000,000 bytes"):
        fetch(f"memory:/{base}", progress=False)
    assert not [p for p in remote.cache_folder().rglob("*.mp4*") if p.is_file()]


def test_a_line_cut_by_a_kill_is_no_line(memory):
    _, base = memory
    folder = fetch(f"memory:/{base}", progress=False)
    log = folder / ".fetched.jsonl"
    log.write_bytes(log.read_bytes()[:-9])
    fetch(f"memory:/{base}", progress=False)
    assert {json.loads(line)["name"] for line in log.read_text().splitlines()[-1:]} == {"deep/ünï b.mp4"}


def test_the_log_is_read_once_however_many_files_come(tmp_path, monkeypatch):
    (tmp_path / remote.LOG).write_text('{"name": "a.mp4"}\n{"na')
    log = remote._Log(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", None)
    monkeypatch.setattr(Path, "read_text", None)
    for name in ("b.mp4", "c.mp4"):
        log.note(remote._File("", name, 3, "x"))
    monkeypatch.undo()
    assert list(remote._Log(tmp_path).entries) == ["a.mp4", "b.mp4", "c.mp4"]


def test_what_cannot_be_reached_is_said_without_secrets(server, cache):
    with pytest.raises(DilaError, match=r"http://127\.0\.0\.1:\d+/none cannot be fetched|has no files") as caught:
        fetch(f"{server.url.replace('//', '//me:password@')}/none?token=secret", progress=False)
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in "".join(str(p) for p in cache.rglob("*"))
    with pytest.raises(DilaError, match=r"gone\.mp4 cannot be fetched: Cannot connect to host .*; check address and"):
        fetch("http://127.0.0.1:9/gone.mp4", progress=False)
    with pytest.raises(DilaError, match="has no files"):
        fetch("memory://nothing/here", progress=False)
    with pytest.raises(DilaError, match="nowhere://a/b cannot be fetched"):
        fetch("nowhere://a/b", progress=False)


@pytest.mark.parametrize(
    ("address", "package"), [("http://x/a.mp4", "aiohttp"), ("s3://b/a", "s3fs"), ("gs://b/a", "gcsfs")]
)
def test_a_missing_package_is_named_with_its_extra(address, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [m for m in sys.modules if m.startswith(("fsspec.implementations.http", package))]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, address.partition(":")[0], raising=False)
    with pytest.raises(DilaError, match=rf"needs the package '{package}'.*dila-wm\[cluster\]"):
        fetch(address, progress=False)


def test_addresses_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("hf://datasets/user/name", "s3://bucket/a", "https://host/a.mp4", "hf:/datasets/user/name"):
        assert is_remote(address)
    for path in ("a.mp4", "/data/hf", "C:/data", "data/a:b", ".", "hf:"):
        assert not is_remote(path)
    (tmp_path / "hf:" / "datasets").mkdir(parents=True)
    assert not is_remote("hf:/datasets")


HUB = {"data.txt": b"1", "a.mp4": b"", ".gitattributes": b"x", "sub/b.mp4": b""}


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's protocol as listing and fetching a data set takes."""

    def log_message(self, *_):
        pass

    def _answer(self, body, **headers):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        files = self.server.files
        path = self.path.partition("?")[0]
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].partition("/")[2]
            self._answer(files[name], ETag='"abc"', X_Repo_Commit="0" * 40, Content_Type="application/octet-stream")
        elif "/tree/" in path or "/paths-info/" in path:
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": f"{len(data):040d}"}
                for name, data in files.items()
            ]
            listed.append({"type": "directory", "path": "sub", "oid": "1" * 40})
            if "/paths-info/" in path:
                length = int(self.headers.get("Content-Length") or 0)
                asked = self.rfile.read(length).decode()
                listed = [one for one in listed if one["path"].replace("/", "%2F") in asked or one["path"] in asked]
            self._answer(json.dumps(listed).encode(), Content_Type="application/json")
        else:
            told = {"id": "user/name", "sha": "0" * 40, "siblings": [], "tags": [], "private": False, "downloads": 0}
            self._answer(json.dumps(told).encode(), Content_Type="application/json")

    do_POST = do_HEAD = do_GET


def test_a_data_set_on_the_hub_is_a_corpus(tmp_path, shades, numbers, monkeypatch):
    """Against a server on this machine that answers as the Hub does."""
    from huggingface_hub import HfFileSystem

    write_video(tmp_path / "a.mp4", shades(5, 3), 10)
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    served.files = {**HUB, "sub/b.mp4": (tmp_path / "a.mp4").read_bytes(), "a.mp4": (tmp_path / "a.mp4").read_bytes()}
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    system = HfFileSystem(
        endpoint=f"http://127.0.0.1:{served.server_address[1]}", token=False, skip_instance_cache=True
    )
    monkeypatch.setattr(remote, "_store", lambda address: (system, address.partition("://")[2]))
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        corpus = open_corpus("hf://datasets/user/name")
        assert [e.id for e in corpus.episodes] == ["a.mp4", "sub/b.mp4"]
        assert numbers(corpus.episodes[1].read([0, 4])) == [3, 7]
    finally:
        served.shutdown()
        thread.join()
        served.server_close()
