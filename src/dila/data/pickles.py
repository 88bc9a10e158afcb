"""Pickles that hold arrays and plain values, and nothing that runs.

A pickle names functions that are called while it is read, so one from elsewhere can do anything. This reader knows the
names under which numpy writes arrays, types and scalars of numbers, puts harmless stand-ins in their place, and refuses
every other name before anything is called. Nothing is imported for a pickle, and no state of a pickle reaches numpy:
arrays are made from their bytes at the end.

It is Python's own unpickler in Python, not the one in C: that one makes room for as many marks as a pickle claims, so
that six bytes fill 64 GB. The file is in memory, so a claim of a longer text or array than there is left finds nothing.
"""

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dila.errors import DilaError

LIMIT = 256 * 2**20
"""Bytes of a file that are read at most: a few numbers a frame are far less."""
MODULES = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric"})
"""Where pickles of numpy 1 and 2 look for the names below."""


def load_arrays(path: Path) -> Any:
    """What a pickle holds: numpy's arrays and scalars of numbers, and Python's plain containers, text and numbers.

    Raises:
        DilaError: the file cannot be read, is larger than 256 MiB, is damaged, or asks for anything else.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise DilaError(f"{path} has more than the {LIMIT:,} bytes that are read of a pickle; split it")
        return _Finish().of(_Restricted(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except OSError as error:
        raise DilaError(f"{path} cannot be read: {error.strerror or error}") from error
    except _Refused as error:
        raise DilaError(
            f"{path} asks for {error}, and only numpy arrays and plain values are read, for it may be harmful; "
            "write it anew with plain arrays"
        ) from error
    except DilaError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its opcodes meet
        raise DilaError(f"{path} is not a readable pickle ({type(error).__name__}); replace or remove it") from error


class _Refused(Exception):
    """Something that is not allowed."""


_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]
"""The one written in Python, whose opcodes can be replaced."""


class _Restricted(_Unpickler):
    dispatch: ClassVar = dict(_Unpickler.dispatch)

    def load_bytearray(self) -> None:
        """As Python's, which first fills as much memory as is claimed."""
        (claimed,) = struct.unpack("<Q", self.read(8))
        data = self.read(claimed) if claimed <= LIMIT else b""
        if len(data) != claimed:
            raise EOFError("the pickle was cut short")
        self.append(bytearray(data))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray

    def find_class(self, module: str, name: str) -> Any:
        if module in MODULES and name in ALLOWED:
            return ALLOWED[name]
        if (module, name) in OLD:
            return OLD[module, name]
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object outside of the file")


class _StandIn:
    """A callable that a pickle can call and can in no way change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused("a change of a function")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of a function")


class _Kind:
    """A type of numbers; with objects, an array could hold what was refused, and structured types nest at will."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any):
        self.dtype = np.dtype(code) if isinstance(code, str) else np.dtype("O")
        if self.dtype.kind not in "biufc":
            raise _Refused(f"the type {code!r}")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise _Refused("a structured type")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array, once its state came."""

    __slots__ = ("value",)
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _numbers(data, kind).reshape(shape, order="F" if fortran else "C")


def _numbers(data: Any, kind: Any) -> np.ndarray:
    if not isinstance(kind, _Kind) or not isinstance(data, bytes | bytearray):
        raise _Refused("an array or a scalar of anything but numbers")
    return np.frombuffer(bytes(data), dtype=kind.dtype).copy()


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not ALLOWED["ndarray"]:
        raise _Refused("an array of another class")
    return _Array()


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """Protocol 5 writes arrays in one piece."""
    return _Array(_numbers(data, kind).reshape(shape, order="F" if order == "F" else "C"))


def _scalar(kind: Any, data: Any = None) -> Any:
    return _numbers(data, kind)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("another encoding than latin1")
    return text.encode("latin1")


def _no_call(*_: Any) -> Any:
    raise _Refused("a call of numpy.ndarray")


class _Finish:
    """Values with their stand-ins turned to what they stand for; what is shared is looked at once, and stays shared."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, Any, int]] = {}
        self.held = 0

    def of(self, value: Any) -> Any:
        """The finished value; a container in itself raises RecursionError."""
        if id(value) not in self.done:
            outside, self.held = self.held, 1
            made = self._made(value)
            self.done[id(value)] = value, made, self.held  # the value too, so that nothing else gets its id
            self.held = outside
        self.held += self.done[id(value)][2]
        if (
            self.held > LIMIT
        ):  # thirty lists, each twice in the next, are a thousand million numbers to whoever walks them
            raise _Refused("the same list over and over")
        return self.done[id(value)][1]

    def _made(self, value: Any) -> Any:
        if isinstance(value, _Array):
            return value.value
        if isinstance(value, dict):
            return {key: self.of(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.of, value))
        if isinstance(value, _Kind):
            return value.dtype
        if isinstance(value, _StandIn):
            raise _Refused("a function as a value")
        return value


def _set(members: Any = ()) -> set[Any]:
    if not isinstance(members, list | tuple):
        raise _Refused("a set of anything but a list")
    return set(members)


def _no_bytes() -> bytes:
    return b""


OLD = {("_codecs", "encode"): _StandIn(_encode)}
"""How protocols before 4 write bytes and sets."""
for _module in ("builtins", "__builtin__"):
    OLD |= {(_module, "set"): _StandIn(_set), (_module, "bytes"): _StandIn(_no_bytes)}
ALLOWED = {
    "ndarray": _StandIn(_no_call),
    "dtype": _StandIn(_Kind),
    "_reconstruct": _StandIn(_reconstruct),
    "_frombuffer": _StandIn(_frombuffer),
    "scalar": _StandIn(_scalar),
}
