"""Files that are written whole or not at all."""

import os
import stat
import threading
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dila.errors import DilaError
from dila.files import HOST, alone, check_there, read_object, replacing, write_json


def write_half(path):
    with replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt


def test_what_is_there_stays_until_the_new_file_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as partial:
        partial.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {1, 2})
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_is_beside_is_hidden_and_its_writers_own_where_it_is_shared(tmp_path):
    path = tmp_path / "a.mp4"
    with replacing(path) as alone, replacing(path, shared=True) as shared:
        assert alone.name == ".a.mp4.partial"
        assert fnmatch(shared.name, f".a.mp4.{os.getpid()}-{HOST}-????????????.partial")
        alone.touch()
        shared.touch()


def test_processes_of_one_number_do_not_write_the_same_file(tmp_path, monkeypatch):
    """As of two containers that share a disk."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "a.txt"
    with replacing(path, shared=True) as one:
        one.write_text("one")
        with replacing(path, shared=True) as other:
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one"


def test_what_safetensors_writes_is_for_the_readers_that_the_umask_allows(tmp_path):
    import torch
    from safetensors.torch import save_file

    from dila.interop.tensors import write_tensors

    (tmp_path / "any").touch()
    with replacing(tmp_path / "a.safetensors") as partial:
        save_file({"a": torch.zeros(1)}, partial)
    write_tensors(tmp_path / "b.safetensors", {"b": torch.zeros(1)})
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1


def test_a_umask_that_is_set_late_counts(tmp_path):
    from safetensors.torch import save_file

    before = os.umask(0o077)
    try:
        (tmp_path / "any").touch()
        write_json(tmp_path / "a.json", 1)
        for umask, name in ((0o077, "own"), (0o022, "all")):
            os.umask(umask)
            with replacing(tmp_path / name) as partial:
                save_file({}, partial)
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"any": 0o600, "a.json": 0o600, "own": 0o600, "all": 0o644}


def test_a_file_that_is_there_is_not_said_to_stand_in_the_way(tmp_path):
    write_json(tmp_path / "a.json", 1)
    told = r"a.json cannot be written \(No such file or directory\)"
    with pytest.raises(DilaError, match=told), replacing(tmp_path / "a.json"):
        pass


def test_a_file_where_a_folder_should_be_is_told_of(tmp_path):
    write_json(tmp_path / "a", 1)
    with pytest.raises(DilaError, match=r"a/b.json cannot be written \(.*a is a file, not a folder\).*another folder"):
        write_json(tmp_path / "a" / "b.json", 1)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DilaError, match=r"link/b.json cannot be written \(.*link is a broken link"):
        write_json(tmp_path / "link" / "b.json", 1)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("x" * 250 + ".json", r"x.json cannot be written \(File name too long\).*choose a shorter name"),
        ("/proc/x/a.json", r"/proc/x/a.json cannot be written \(No such file"),
        ("/proc/a.json", r"/proc/a.json cannot be written \(No such file"),
    ],
)
def test_a_path_that_cannot_be_is_told_of(path, words, tmp_path):
    with pytest.raises(DilaError, match=words):
        write_json(tmp_path / path, 1)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no", "no does not exist"),
        ("x" * 300, "cannot be read \\(File name too long"),
        ("a/b", "cannot be read \\(Not a"),
    ],
)
def test_what_leads_nowhere_is_told_of_before_it_is_read(path, words, tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(DilaError, match=words):
        check_there(tmp_path / path)


def test_what_another_process_holds_is_refused_until_it_ends(held, tmp_path):
    path = tmp_path / "new" / "run"
    with held(path):
        with pytest.raises(DilaError, match=r"another process works on .*run; wait for it, or choose another folder"):
            alone(path).__enter__()
        os.symlink(path, tmp_path / "link")
        with pytest.raises(DilaError, match=r"another process works on .*link"):
            alone(tmp_path / "link").__enter__()
    with alone(path), alone(path):
        assert os.listdir(path.parent) == [".run.lock"]
    assert os.listdir(path.parent) == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_hold_what_its_parent_does(tmp_path):
    with alone(tmp_path / "run"):
        child = os.fork()
        if child == 0:
            try:
                with alone(tmp_path / "run"):
                    os._exit(1)
            except DilaError:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def test_a_killed_process_holds_nothing(held, tmp_path):
    with held(tmp_path / "run") as other:
        other.kill()
        other.wait()
        assert os.listdir(tmp_path) == [".run.lock"]
        with alone(tmp_path / "run"):
            pass
    assert os.listdir(tmp_path) == []


def test_one_may_wait_for_the_other(held, tmp_path):
    with held(tmp_path / "run") as other:
        ending = threading.Timer(0.5, other.stdin.close)
        ending.start()
        with alone(tmp_path / "run", wait=True):
            assert other.wait(10) == 0
            with pytest.raises(AssertionError), held(tmp_path / "run"):
                pass
    assert os.listdir(tmp_path) == []


def test_where_no_lock_can_lie_none_is_held(tmp_path):
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / "run"), alone(Path("/proc/run")):
        pass


@pytest.mark.parametrize(
    ("text", "told"),
    [("", r"as JSON \(Expecting value"), ("{", "as JSON"), ("[1]", "not contain a JSON"), ("[" * 99999, "as JSON")],
)
def test_an_object_that_is_none_is_told_of(text, told, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DilaError, match=rf"a\.json .*{told}.*; remove it$"):
        read_object(path, "remove it")
    path.write_text('{"a": 1}')
    assert read_object(path, "") == {"a": 1}
