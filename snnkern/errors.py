"""The errors that `snnkern` raises on purpose: each message names what was given and what was wanted."""

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
    """An argument, a tensor, a file or an environment does not fit what was asked for."""


class CheckpointError(InputError):
    """A file is not a checkpoint that can be read: truncated, of another kind, or holding code."""


class InputWarning(UserWarning):
    """What was given is taken, and may not be what was meant: the message says why, and what to do."""


class MissingDependencyError(Error, ImportError):
    """An optional package is needed for this call and is not installed."""


class InUseError(Error, RuntimeError):
    """Two threads use one spiking actor at once."""


class SlowBackendWarning(RuntimeWarning):
    """Decisions run on the reference, since the native kernels are missing."""


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Refuses what is not a whole number of at least `least` and at most `most`.

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
    """Refuses what is not a number from `least` to `most`; NaN is none.

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
