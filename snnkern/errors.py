"""The errors that `snnkern` raises on purpose: each message names what was given and what was wanted."""

from __future__ import annotations

import importlib
from numbers import Integral
from types import ModuleType


class Error(Exception):
    """Base of every error that `snnkern` raises on purpose."""


class InputError(Error, ValueError):
    """An argument, a tensor, a file or an environment does not fit what was asked for."""


class CheckpointError(InputError):
    """A file is not a checkpoint that can be read: truncated, of another kind, or holding code."""


class InputWarning(UserWarning):
    """What was given is taken, and may not be what was meant: the message says why, and what to do."""


class MissingDependencyError(Error, ImportError):
    """An optional package is needed for this call and is not installed."""


def check_whole(name: str, value: object, least: int) -> None:
    """Refuses what is not a whole number of at least `least`.

    Raises:
        InputError: names the value.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")


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
