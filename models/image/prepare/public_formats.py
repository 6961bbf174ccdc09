"""The files of two public data sets, IDX and the Python batches of CIFAR-10, read without running anything in them."""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.errors import DataRejected

IDX_UINT8 = 8
CIFAR_SIDE = 32
MAX_BATCH_BYTES = 1_000_000_000

_MARK = object()
_PUSHED = {
    *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_ARRAYS = {f"numpy.{package}.multiarray _reconstruct" for package in ("core", "_core")}
_ALLOWED = {*_ARRAYS, "numpy ndarray", "numpy dtype", "_codecs encode"}

Bytes = npt.NDArray[np.uint8]


@dataclass
class _Foreign:
    """What stands for an array or a dtype until its state is known; nothing of numpy is called by name."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_idx(stream: pa.NativeFile, *, path: str) -> Bytes:
    """An IDX file of bytes, whatever its dimensions; raises DataRejected."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != IDX_UINT8 or not 1 <= head[3] <= 3:
        raise DataRejected(f"{path} is no IDX file of bytes (it begins with {head.hex() or 'nothing'})")
    shape = tuple(int.from_bytes(stream.read(4), "big") for _ in range(head[3]))
    expected = math.prod(shape)
    if expected > MAX_BATCH_BYTES:
        raise DataRejected(f"{path} says it holds {expected:,} bytes; {MAX_BATCH_BYTES:,} are allowed")
    content = stream.read(expected + 1)
    if len(content) != expected:
        raise DataRejected(f"{path} is damaged: its header says {expected:,} bytes, it has {len(content):,}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_cifar(content: bytes, *, path: str) -> tuple[Bytes, list[int]]:
    """Pictures [N, 32, 32, 3] and labels of a Python batch of CIFAR-10; raises DataRejected."""
    batch = _read_plain(content, path=path)
    data, labels = _member(batch, "data", path), _member(batch, "labels", path)
    row = CIFAR_SIDE * CIFAR_SIDE * 3
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != row:
        raise DataRejected(f"{path}: `data` is no array of bytes with rows of {row}")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(isinstance(one, int) for one in labels):
        raise DataRejected(f"{path}: `labels` is no list of {len(data)} whole numbers")
    return data.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1), labels


def read_cifar_names(content: bytes, *, path: str) -> list[str]:
    """The class names in `batches.meta`; raises DataRejected."""
    names = _member(_read_plain(content, path=path), "label_names", path)
    if not isinstance(names, list):
        raise DataRejected(f"{path}: `label_names` is no list")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]


def _member(batch: Any, name: str, path: str) -> Any:
    """A value of a dict whose keys are text or, as Python 2 wrote them, bytes."""
    for key in (name, name.encode()):
        if isinstance(batch, dict) and key in batch:
            return batch[key]
    raise DataRejected(f"{path} has no {name!r}; it is no Python batch of CIFAR-10")


def _read_plain(content: bytes, *, path: str) -> Any:
    """The plain value that a pickle describes: dicts, lists, tuples, text, numbers, arrays; anything else is refused.

    The file's instructions are followed by this small machine, which knows no instruction that could run code.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return _settled(stack.pop())
            _step(opcode.name, argument, stack, memo)
    except _Refused as refused:
        raise DataRejected(f"{path} is refused: it asks for {refused}; only arrays and plain values are read") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataRejected(f"{path} is damaged or no Python batch of CIFAR-10: {error}") from None
    raise DataRejected(f"{path} is cut short")


class _Refused(Exception):
    """The file asks for something that is not data."""


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """One instruction of the file."""
    if name in _PUSHED:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "GLOBAL":
        stack.append(_named(argument))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(_named(f"{module} {attribute}"))
    elif name not in ("PROTO", "FRAME"):
        _combine(name, stack)


def _combine(name: str, stack: list[Any]) -> None:
    """An instruction that makes one value of several."""
    if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name in ("TUPLE", "LIST"):
        values = _since_mark(stack)
        stack.append(tuple(values) if name == "TUPLE" else values)
    elif name == "APPEND":
        value = stack.pop()
        stack[-1].append(value)
    elif name == "APPENDS":
        values = _since_mark(stack)
        stack[-1].extend(values)
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        stack[-1][key] = value
    elif name in ("SETITEMS", "DICT"):
        values = _since_mark(stack)
        if name == "DICT":
            stack.append({})
        stack[-1].update(zip(values[::2], values[1::2], strict=True))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_made(function, arguments))
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state
    else:
        raise _Refused(f"the instruction {name}")


def _since_mark(stack: list[Any]) -> list[Any]:
    values: list[Any] = []
    while (value := stack.pop()) is not _MARK:
        values.append(value)
    return values[::-1]


def _named(name: str) -> _Foreign:
    if name not in _ALLOWED:
        raise _Refused(name.replace(" ", "."))
    return _Foreign(name, ())


def _made(function: Any, arguments: Any) -> Any:
    """What calling one of the four allowed names would give."""
    if not isinstance(function, _Foreign) or not isinstance(arguments, tuple):
        raise _Refused("a call of something that is no function")
    if function.name == "_codecs encode":
        return _octets(arguments[0])
    if function.name != "numpy dtype" and function.name not in _ARRAYS:
        raise _Refused(f"a call of {function.name.replace(' ', '.')}")
    return _Foreign(function.name, arguments)


def _settled(value: Any) -> Any:
    """The value with its arrays in place of what stood for them."""
    if isinstance(value, dict):
        return {key: _settled(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_settled(member) for member in value]
    return _array(value) if isinstance(value, _Foreign) else value


def _array(described: _Foreign) -> Bytes:
    if described.name not in _ARRAYS or described.state is None:
        raise _Refused(described.name.replace(" ", "."))
    _, shape, dtype, is_fortran, content = described.state
    if not isinstance(dtype, _Foreign) or _octets(dtype.arguments[0]) not in (b"u1", b"|u1"):
        raise ValueError("the array is not one of bytes")
    flat = np.frombuffer(_octets(content), np.uint8)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _octets(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("latin-1")
