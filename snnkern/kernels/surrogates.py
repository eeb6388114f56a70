"""The surrogates of a spike's derivative, by name: `docs/semantics.md`, "Gradients"."""

from __future__ import annotations

from enum import IntEnum

from snnkern.errors import InputError, brief


class Surrogate(IntEnum):
    """What stands for the derivative of a step; `csrc/surrogate.h` has the same values."""

    TRIANGLE = 0
    SIGMOID = 1
    ATAN = 2


SURROGATES = tuple(surrogate.name.lower() for surrogate in Surrogate)


def parse_surrogate(name: object) -> Surrogate:
    """Turns "triangle", "sigmoid" or "atan" into a surrogate.

    Raises:
        InputError: there is no such surrogate.
    """
    if not isinstance(name, str) or name not in SURROGATES:
        raise InputError(f"unknown surrogate {brief(name)}: choose one of {', '.join(SURROGATES)}")
    return Surrogate[name.upper()]
