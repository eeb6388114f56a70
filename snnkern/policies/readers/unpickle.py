"""Pickles read for their arrays and numbers: nothing that a file names is imported, called or run.

A pickle is a program for a small stack machine. This one knows the instructions that build numbers, texts, tuples,
lists and dicts, and rebuilds NumPy's arrays and scalars itself. All else in a file becomes an inert `Record`.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnkern.errors import CheckpointError

MOST_BYTES = 1 << 26
_MOST_INSTRUCTIONS = 100_000  # a VecNormalize has hundreds, a DrQ-v2 agent 10,000; so many take a fraction of a second
_MOST_CHARACTERS = 1_000  # of the name of a class
_MOST_COPIES = 4  # what is made of a file's content, as a multiple of its length: it may use one part many times
_NUMBERS = re.compile(r"[fiub][1248]")  # NumPy's codes of types
_KEYS = (str, bytes, int, float, bool, type(None))  # to hash them is no walk through what a file nests


@dataclass(eq=False, repr=False)
class Record:
    """An object that a pickle describes, and that is not built.

    Attributes:
        kind: the full name of its class, or of the function that would have made it.
        arguments: what that would have been called with.
        state: what the object would have been given afterwards: its attributes, as a rule.
        items: what would have been put into it, where it is a dict.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its class alone."""
        return self.kind.rpartition(".")[2]

    def attribute(self, name: str) -> Any:
        """An attribute of the object.

        Raises:
            CheckpointError: the file does not say it.
        """
        if not isinstance(self.state, dict) or name not in self.state:
            raise CheckpointError(f"its {self.name} has no {name}")
        return _plain(self.state[name])


def read_objects(content: bytes) -> Any:
    """What a pickle describes: arrays, numbers, texts, tuples, lists and dicts, and a `Record` for all else.

    What a set or another collection holds is left out, and so is what a dict has under anything but texts and numbers.
    Memory and time are in proportion to the length of the content.

    Raises:
        CheckpointError: it is damaged or too long, or asks for what a file of arrays and numbers does not need.
    """
    if len(content) > MOST_BYTES:
        raise CheckpointError(f"it has more than the {MOST_BYTES:,} bytes that are read")
    return read_stream(io.BytesIO(content))


def read_stream(
    stream: io.BytesIO,
    makers: Mapping[str, Callable[..., Any]] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The same of a pickle in a longer file, which is left where the pickle ends.

    Args:
        stream: the file.
        makers: what is made instead of called, by the names that pickles give it, besides NumPy's arrays.
        persistent: what a persistent id stands for: something beside the pickle. None refuses them.

    Raises:
        CheckpointError: as `read_objects`.
    """
    machine = _Machine(_MAKERS | dict(makers or {}), persistent, _MOST_COPIES * len(stream.getbuffer()))
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if count > _MOST_INSTRUCTIONS:
                raise CheckpointError(f"it has more than the {_MOST_INSTRUCTIONS:,} instructions that are read")
            if instruction.name == "STOP":
                break
            machine.step(instruction.name, argument)
        return _plain(machine.stack.pop())
    except CheckpointError:
        raise
    except Exception as error:  # damaged pickles fail in many ways
        raise CheckpointError(f"it is damaged, or not a pickle ({type(error).__name__})") from error


@dataclass(frozen=True)
class Global:
    """A class or a function that a pickle names."""

    name: str


class _Mark:
    """Where on the stack the parts of something begin."""


@dataclass(eq=False)
class _Type:
    """A NumPy dtype: its code, and its byte order, which comes later."""

    code: Any
    order: Any = "="
    name = "numpy.dtype"

    def set_state(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any] | None:
        """NumPy's own; None for a type of anything but numbers."""
        if not isinstance(self.code, str) or not _NUMBERS.fullmatch(self.code):
            return None
        return np.dtype(self.code).newbyteorder({"|": "="}.get(self.order, self.order))


@dataclass(eq=False)
class _Array:
    """A NumPy array, which an older pickle makes first and fills later."""

    value: NDArray[Any] | Record | None = None

    def set_state(self, state: Any) -> None:
        _, shape, kind, by_columns, content = state
        self.value = _array(content, kind, shape, "F" if by_columns else "C")


def _plain(value: Any) -> Any:
    """What a caller gets: an array itself, and a Record for a class that stands for itself."""
    if isinstance(value, _Array):
        return value.value
    return Record(value.name) if isinstance(value, Global | _Type) else value


def _array(content: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any] | Record:
    """An array of the numbers in `content`, which must be as many as the shape says."""
    numpy = kind.numpy()
    if numpy is None:
        return Record("numpy.ndarray")
    numbers = np.frombuffer(content, numpy) if len(content) else np.empty(0, numpy)  # frombuffer refuses nothing at all
    shape = tuple(shape) if isinstance(shape, tuple) else (shape,)
    if min(shape, default=0) < 0 or math.prod(shape) != len(numbers):
        raise CheckpointError("it holds an array whose shape is not that of its numbers")
    return numbers.astype(numbers.dtype.newbyteorder("=")).reshape(shape, order=order)


# What is made instead of called, by the name that a pickle gives it; NumPy 1 and 2 differ in the names of modules.
_MAKERS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda code, *_: _Type(code),
    "__builtin__.bytes": lambda: b"",  # no bytes in old pickles, and others:
    "_codecs.encode": lambda text, encoding: text.encode({"latin1": "latin1"}[encoding]),
    **{
        f"numpy.{core}.{name}": maker
        for core in ("core", "_core")
        for name, maker in (
            ("multiarray._reconstruct", lambda *_: _Array()),
            ("multiarray.scalar", lambda kind, content: _Array(_array(content, kind, ()))),
            ("numeric._frombuffer", lambda *parts: _Array(_array(*parts))),
        )
    },
}
# They are called with the class of what they make.
_CONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__")


class _Machine:
    """The stack and the memo of one pickle.

    Args:
        makers: what is made instead of called.
        persistent: what a persistent id stands for.
        most: bytes that all that is made may have.
    """

    def __init__(
        self, makers: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any] | None, most: int
    ) -> None:
        self.makers = makers
        self.persistent = persistent
        self.left = most
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}  # no list: the numbers that a file chooses may be large

    def step(self, name: str, argument: Any) -> None:
        """One instruction, by the name that `pickletools` has for it."""
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[name])))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name == "BINPERSID" and self.persistent is not None:
            stack.append(self.persistent(stack.pop()))
        else:
            raise CheckpointError(f"it holds the instruction {name}, which arrays and numbers do not need")

    def pop(self, count: int | None = None) -> list[Any]:
        """The last so many of the stack; those after the last mark where no number is given."""
        if count is None:
            at = next(index for index in range(len(self.stack) - 1, -1, -1) if self.stack[index] is _Mark)
            parts = self.stack[at + 1 :]
        elif count > len(self.stack):
            raise IndexError("the stack is too short")
        else:
            at = len(self.stack) - count
            parts = self.stack[at:]
        del self.stack[at:]
        return parts

    def put_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Record) else target
        if not isinstance(items, dict):
            raise TypeError("items for what is no dict")
        items.update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True) if _is_key(key))

    def put_elements(self, elements: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(elements)

    def call(self, function: Any, arguments: Any) -> None:
        """What a call would return: an array, a number or bytes, or else a Record."""
        name = function.name if isinstance(function, Global) else "an object"
        if name in _CONSTRUCTORS and isinstance(arguments[0], Global):
            name = arguments[0].name
        maker = self.makers.get(name)
        self.stack.append(self.made(maker(*arguments)) if maker else Record(name, arguments))

    def made(self, value: Any) -> Any:
        """What has been made of a part of the file, which may be made again and again."""
        content = value.value if isinstance(value, _Array) else value
        if isinstance(content, np.ndarray):
            self.left -= content.nbytes
        elif isinstance(content, str | bytes):
            self.left -= len(content)
        if self.left < 0:
            raise CheckpointError(f"it makes more than {_MOST_COPIES} times its own length of its parts")
        return value

    def set_state(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Array | _Type):
            target.set_state(state)
            self.made(target)
        elif isinstance(target, Record):
            # An object with slots has two states.
            target.state = state[0] if isinstance(state, tuple) and len(state) == 2 else state


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Record("builtins.set"),
    "MARK": lambda: _Mark,
}
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_TUPLES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "POP": lambda machine, _: machine.stack.__delitem__(-1),
    "POP_MARK": lambda machine, _: machine.pop(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "LIST": lambda machine, _: machine.stack.append(machine.pop()),
    "DICT": lambda machine, _: _make_dict(machine),
    "FROZENSET": lambda machine, _: machine.stack.append(Record("builtins.frozenset", tuple(machine.pop()))),
    "APPEND": lambda machine, _: machine.put_elements(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.put_elements(machine.pop()),
    "ADDITEMS": lambda machine, _: machine.put_elements(machine.pop()),
    "SETITEM": lambda machine, _: machine.put_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.put_items(machine.pop()),
    "GLOBAL": lambda machine, argument: machine.stack.append(Global(argument.replace(" ", "."))),
    "STACK_GLOBAL": lambda machine, _: machine.stack.append(_named(*machine.pop(2))),
    "REDUCE": lambda machine, _: machine.call(*machine.pop(2)),
    "NEWOBJ": lambda machine, _: machine.call(*machine.pop(2)),
    "NEWOBJ_EX": lambda machine, _: machine.call(*machine.pop(3)[:2]),
    "BUILD": lambda machine, _: machine.set_state(),
}


def _is_key(key: Any) -> bool:
    """Whether something that a dict has entries under is kept, and hashed in no time."""
    return isinstance(key, _KEYS) and (not isinstance(key, int) or -(2**63) <= key < 2**63)


def _named(module: Any, name: Any) -> Global:
    if len(module) + len(name) > _MOST_CHARACTERS:
        raise CheckpointError(f"it names a class of more than {_MOST_CHARACTERS:,} characters")
    return Global(f"{module}.{name}")


def _make_dict(machine: _Machine) -> None:
    pairs = machine.pop()
    machine.stack.append({})
    machine.put_items(pairs)
