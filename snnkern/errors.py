"""The errors that `snnkern` raises on purpose; each message names what was given and what was wanted."""

from __future__ import annotations

import importlib
from numbers import Integral, Real
from types import ModuleType
from typing import Any


class Error(Exception):
    """Base of every error that `snnkern` raises on purpose.

    Its text is one line that can be printed, whatever the names of files and tensors that it quotes hold.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.isprintable() else "".join(map(_printable, text))


class InputError(Error, ValueError):
    """An argument, a tensor, a file or an environment is not what the call needs."""


class CheckpointError(InputError):
    """A file is not a readable checkpoint: it is truncated, of another kind, or holds code."""


class InputWarning(UserWarning):
    """The input is accepted, but may be a mistake; the message says why, and what to do."""


class MissingDependencyError(Error, ImportError):
    """The call needs an optional package that is not installed."""


class InUseError(Error, RuntimeError):
    """Two threads use one spiking actor at the same time."""


class SlowBackendWarning(RuntimeWarning):
    """Decisions run on the slow reference backend, because the native kernels are missing."""


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Checks that a value is a whole number from `least` to `most`, and returns it.

    Returns:
        the number as Python's own, whatever kind it came in (NumPy's).

    Raises:
        InputError: names the value.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {brief(value)}")
    if most is not None and value > most:
        raise InputError(f"{name} must be a whole number of at most {most:,}, got {brief(value)}")
    return int(value)


def check_number(name: str, value: Any, least: float, most: float) -> float:
    """Checks that a value is a number from `least` to `most`, which NaN is not, and returns it.

    Raises:
        InputError: names the value.
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not least <= value <= most:
        raise InputError(f"{name} must be a number from {least:,g} to {most:,g}, got {brief(value)}")
    return float(value)


def brief(value: object) -> str:
    """A value as an error shows it: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # an integer of 5,000 digits has no repr
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}…"


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports an optional `module`, or says in one line which extra of `snnkern` brings it.

    Raises:
        MissingDependencyError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is installed, and what it needs is not
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install 'snnkern[{extra}]'"
        ) from error
