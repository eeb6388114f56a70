"""What computes: one module per backend behind one small interface, chosen here and nowhere else.

A backend module has
    NAME                      how users name it
    detail() -> str           what it runs on
    unavailable() -> str      why it cannot be used on this machine; empty where it can
    serves(device, dtype)     whether it computes tensors of this device and dtype
    DEVICES                   the types of device that "auto" chooses it for; None for all
    neuron(problem) -> Result one decision step of one layer of neurons
    linear(input, weight, bias) -> Tensor
    engine(actor) -> Engine   a whole actor in one call; None where the backend has none for it
Inputs are checked before they get here (`snnkern.ops`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.errors import InputError
from snnkern.neurons import Dynamics


class Problem(NamedTuple):
    """One decision step of one layer; tensors as in `snnkern.reference.neuron`."""

    current: Tensor
    threshold: Tensor
    carry: Tensor
    bias: Tensor | None
    dynamics: Dynamics
    wants_spikes: bool


class Result(NamedTuple):
    """`output` is the spikes `[T, B, N]` where the problem wants them, else the mean output `[B, N]`."""

    output: Tensor
    carry: Tensor
    counts: Tensor


class ActorParts(NamedTuple):
    """What a whole spiking actor consists of; weights are `[in, out]`.

    `hidden` holds weight, bias and threshold of every hidden layer, `output` weight and bias of the output layer, and
    `interface` what `snnkern.actors.Interface` registers, by name.
    """

    hidden: list[tuple[Tensor, Tensor, Tensor]]
    output: tuple[Tensor, Tensor]
    interface: dict[str, Any]
    dynamics: Dynamics


class Engine(Protocol):
    """A whole actor, packed. It works on the caller's carries `[B, N]` and spike counts `[hidden, B]`, in place."""

    def bind(self, carries: list[Tensor], counts: Tensor) -> None:
        """Decides for these rows from now on."""

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        """The action for a checked observation `[B, in]`; None, and nothing done, where a value is not finite."""

    def act(self, observation: NDArray[Any], check_finite: bool, threads: int) -> NDArray[np.float32] | None:
        """The action for a NumPy observation; None, and nothing done, where anything about it is not as usual."""


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can be used on this machine.

    Attributes:
        name: what to pass as `backend=`.
        available: whether it can be used.
        detail: what it runs on, or why it cannot be used.
    """

    name: str
    available: bool
    detail: str


def _modules() -> tuple[ModuleType, ...]:
    from snnkern._backends import cpu, reference, triton

    return (cpu, triton, reference)  # in order of preference


def backends() -> tuple[BackendStatus, ...]:
    """What can compute on this machine, in order of preference, and why the rest cannot."""
    return tuple(
        BackendStatus(module.NAME, not (why := module.unavailable()), why or module.detail()) for module in _modules()
    )


def check_name(name: str) -> None:
    """Refuses a backend that does not exist or cannot be used on this machine.

    Raises:
        InputError: names the backends that there are, or says why this one is not available.
    """
    if name == "auto":
        return
    for status in backends():
        if status.name == name:
            if not status.available:
                raise InputError(f"backend {name!r} is not available: {status.detail}")
            return
    known = ", ".join(["auto", *(status.name for status in backends())])
    raise InputError(f"unknown backend {name!r}: choose one of {known}")


def choose(name: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The backend that computes tensors of this device and dtype: the first that can, for "auto".

    Raises:
        InputError: the named backend is unknown, not available, or does not serve this device and dtype.
    """
    for module in _modules():
        automatic = name == "auto" and (module.DEVICES is None or device.type in module.DEVICES)
        if (automatic or name == module.NAME) and not module.unavailable() and module.serves(device, dtype):
            return module
    check_name(name)
    raise InputError(f"backend {name!r} does not compute {dtype} tensors on {device.type}")
