import os
import pickle
import subprocess
from collections import OrderedDict
from decimal import Decimal

import numpy as np
import pytest

from dila.data import pickles
from dila.data.pickles import load_arrays
from dila.errors import DilaError


@pytest.fixture
def write(tmp_path):
    def write(content, protocol=None):
        path = tmp_path / "traj_data.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return path

    return write


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_plain_values_come_back(write, protocol):
    rng = np.random.default_rng(0)
    stored = {
        "position": rng.normal(size=(7, 2)),
        "yaw": rng.normal(size=7).astype(np.float32),
        "big": np.arange(6, dtype=">i4").reshape(2, 3),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4))),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 2)),
        "one": np.float64(0.25),
        "count": np.int64(-3),
        "rest": [1, 2.5, None, "ünï", b"bytes", (True, {3, 4}), {"deep": [np.arange(2)]}],
    }
    got = load_arrays(write(stored, protocol))
    assert list(got) == list(stored)
    for key in ("position", "yaw", "big", "fortran", "flags", "empty"):
        assert type(got[key]) is np.ndarray
        assert got[key].dtype == stored[key].dtype
        np.testing.assert_array_equal(got[key], stored[key])
    assert (got["one"], got["count"]) == (0.25, -3)
    assert got["rest"][:5] == stored["rest"][:5]
    assert set(got["rest"][5][1]) == {3, 4}
    np.testing.assert_array_equal(got["rest"][6]["deep"][0], [0, 1])


def test_names_of_numpy_1_and_python_2_are_understood(write):
    data = pickle.dumps({"yaw": np.arange(3.0)}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert load_arrays(write(data))["yaw"].tolist() == [0, 1, 2]
    old = b"(dp0\nS'yaw'\np1\n(lp2\nF0.5\nas."
    assert load_arrays(write(old)) == {"yaw": [0.5]}


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.told = (function, arguments)

    def __reduce__(self):
        return self.told


def marker(tmp_path):
    return tmp_path / "harm"


@pytest.mark.parametrize("protocol", range(6))
def test_what_would_run_is_refused_before_it_runs(write, tmp_path, protocol):
    harm = marker(tmp_path)
    for evil in (
        Calls(os.system, f"touch {harm}"),
        Calls(subprocess.call, ["touch", str(harm)]),
        Calls(eval, f"open({str(harm)!r}, 'w')"),
        Calls(open, str(harm), "w"),
        Calls(getattr, "x", "upper"),
        Calls(np.load, str(harm)),
        Calls(np.memmap, str(harm), "u1", "w+", 0, (4,)),
        Calls(np.ndarray, (4,)),
        OrderedDict(a=1),
        Decimal(1),
        {"yaw": [np.zeros(3), Calls(os.system, f"touch {harm}")]},
    ):
        with pytest.raises(DilaError, match=r"traj_data\.pkl contains .* it could execute code"):
            load_arrays(write(evil, protocol))
    assert not harm.exists()


def test_arrays_that_hold_objects_or_records_are_refused(write):
    records = np.zeros(2, dtype=[("a", "f8")])
    for bad in (np.array([{}, 1], dtype=object), records, np.array(["text"]), np.zeros(2, "V8")):
        for protocol in (2, 4, 5):
            with pytest.raises(DilaError, match="contains"):
                load_arrays(write(bad, protocol))


def handmade(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def test_tricks_with_opcodes_are_refused(write):
    """Written by hand, for pickle.dumps would not."""
    name = b"cnumpy\ndtype\n"
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n"
    for bad in (
        handmade(b"cbuiltins\nexec\n", b"X\x01\x00\x00\x00x\x85R"),
        handmade(b"c__builtin__\neval\n"),
        handmade(b"cnumpy\nload\n"),
        handmade(b"cnumpy.core.multiarray\nos.system\n"),
        handmade(b"cdila.data.pickles\nload_arrays\n"),
        handmade(b"P1\n".replace(b"1", b"outside")),
        handmade(name),  # a function as a value
        handmade(name, b"}X\x08\x00\x00\x00__code__K\x01s", b"b"),  # BUILD: set an attribute of a function
        handmade(name, b"N}X\x05\x00\x00\x00_callK\x01s\x86", b"b"),  # the same through the state of slots
        handmade(name, b")\x81"),  # NEWOBJ of something that is no class
        handmade(reconstruct, name, b"K\x00\x85X\x01\x00\x00\x00b\x87R"),  # an array of another class
        handmade(name, b"X\x01\x00\x00\x00O\x85R"),
        handmade(b"(i__main__\nsystem\n"),
    ):
        with pytest.raises(DilaError, match=r"traj_data\.pkl"):
            load_arrays(write(bad))


def test_state_of_a_type_never_reaches_numpy(write):
    """A size that does not fit the type would make numpy read past the end of its memory."""
    kind = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R"
    state = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\x7fJ\xff\xff\xff\x7fK\x00tb"
    assert load_arrays(write(handmade(kind, state))).itemsize == 8
    fields = b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85NJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    with pytest.raises(DilaError, match="a structured type"):
        load_arrays(write(handmade(kind, fields)))


def test_damage_is_named(write, monkeypatch):
    whole = pickle.dumps({"yaw": np.arange(30.0)})
    for bad in (b"", b"nonsense", whole[: len(whole) // 2], whole[:-1]):
        with pytest.raises(DilaError, match=r"traj_data\.pkl is not a readable pickle"):
            load_arrays(write(bad))
    path = write(whole)
    monkeypatch.setattr(pickles, "LIMIT", 10)
    with pytest.raises(DilaError, match="larger than 10 bytes"):
        load_arrays(path)
    path.unlink()
    with pytest.raises(DilaError, match="cannot be read"):
        load_arrays(path)
