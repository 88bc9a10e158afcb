"""Restricted unpickler for arrays and plain values.

A pickle names functions that are called when it is loaded, so an untrusted one can execute anything. This unpickler
accepts only the names that numpy writes for arrays, dtypes and numeric scalars, replaces them with harmless stand-ins,
and refuses every other name before anything is called. It imports nothing for a pickle and passes no state of a pickle
to numpy: arrays are built from their bytes at the end.

It derives from the Python implementation of the unpickler, because the C one allocates as many memo slots as a pickle
declares, so that six bytes can take 64 GB. The file is read into memory first, so a string or array declared longer
than the rest of the file does not allocate its declared size.
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
"""Maximum size of a file in bytes; a few numbers per frame need far less."""
MODULES = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric"})
"""Modules of the names in `ALLOWED` in pickles of numpy 1 and 2."""


def load_arrays(path: Path) -> Any:
    """Load a pickle of numpy arrays, numeric scalars, and Python's plain containers, strings and numbers.

    Raises:
        DilaError: the file cannot be read, is larger than 256 MiB, is damaged, or contains anything else.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise DilaError(f"{path} is larger than {LIMIT:,} bytes, the limit for a pickle; split it")
        return _Finish().of(_Restricted(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except OSError as error:
        raise DilaError(f"{path} cannot be read: {error.strerror or error}") from error
    except _Refused as error:
        raise DilaError(
            f"{path} contains {error}, which is refused because it could execute code; write it again with numpy "
            "arrays and plain values only"
        ) from error
    except DilaError:
        raise
    except Exception as error:  # the opcodes of a damaged pickle may raise anything
        raise DilaError(f"{path} is not a readable pickle ({type(error).__name__}); replace or remove it") from error


class _Refused(Exception):
    """The pickle contains something that is not allowed."""


_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]
"""The Python implementation, whose opcodes can be overridden."""


class _Restricted(_Unpickler):
    dispatch: ClassVar = dict(_Unpickler.dispatch)

    def load_bytearray(self) -> None:
        """Load a bytearray; unlike the original, without first allocating its declared size."""
        (claimed,) = struct.unpack("<Q", self.read(8))
        data = self.read(claimed) if claimed <= LIMIT else b""
        if len(data) != claimed:
            raise EOFError("the pickle is truncated")
        self.append(bytearray(data))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray

    def find_class(self, module: str, name: str) -> Any:
        if module in MODULES and name in ALLOWED:
            return ALLOWED[name]
        if (module, name) in OLD:
            return OLD[module, name]
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("an object outside the file")


class _StandIn:
    """A callable that a pickle can call but not modify."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused("a modification of a function")

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a modification of a function")


class _Kind:
    """A numeric dtype; object dtypes are refused since arrays could hold refused objects, structured ones may nest."""

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
    """An array; its value is None until its state has been loaded."""

    __slots__ = ("value",)
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _numbers(data, kind).reshape(shape, order="F" if fortran else "C")


def _numbers(data: Any, kind: Any) -> np.ndarray:
    if not isinstance(kind, _Kind) or not isinstance(data, bytes | bytearray):
        raise _Refused("an array or a scalar that is not numeric")
    return np.frombuffer(bytes(data), dtype=kind.dtype).copy()


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not ALLOWED["ndarray"]:
        raise _Refused("an array of another class")
    return _Array()


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """Build an array as pickle protocol 5 stores it."""
    return _Array(_numbers(data, kind).reshape(shape, order="F" if order == "F" else "C"))


def _scalar(kind: Any, data: Any = None) -> Any:
    return _numbers(data, kind)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused("an encoding other than latin1")
    return text.encode("latin1")


def _no_call(*_: Any) -> Any:
    raise _Refused("a call of numpy.ndarray")


class _Finish:
    """Replaces stand-ins by their values; shared objects are converted once and stay shared."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, Any, int]] = {}
        self.held = 0

    def of(self, value: Any) -> Any:
        """Return the converted value; a container that contains itself raises RecursionError."""
        if id(value) not in self.done:
            outside, self.held = self.held, 1
            made = self._made(value)
            self.done[id(value)] = value, made, self.held  # keeps `value` alive, so that its id is not reused
            self.held = outside
        self.held += self.done[id(value)][2]
        if self.held > LIMIT:  # thirty nested lists, each twice in the next, expand to a billion numbers
            raise _Refused("a list repeated too many times")
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
        raise _Refused("a set that is not made from a list")
    return set(members)


def _no_bytes() -> bytes:
    return b""


OLD = {("_codecs", "encode"): _StandIn(_encode)}
"""Functions by which pickle protocols before 4 store bytes and sets."""
for _module in ("builtins", "__builtin__"):
    OLD |= {(_module, "set"): _StandIn(_set), (_module, "bytes"): _StandIn(_no_bytes)}
ALLOWED = {
    "ndarray": _StandIn(_no_call),
    "dtype": _StandIn(_Kind),
    "_reconstruct": _StandIn(_reconstruct),
    "_frombuffer": _StandIn(_frombuffer),
    "scalar": _StandIn(_scalar),
}
