"""What computes: one module per backend behind one small interface, chosen here and nowhere else.

A backend module has
    NAME                      how users name it
    detail() -> str           what it runs on
    unavailable() -> str      why it cannot be used on this machine; empty where it can
    serves(device, dtype)     whether it computes tensors of this device and dtype
    neuron(problem) -> Result one decision step of one layer of neurons
    linear(input, weight, bias) -> Tensor
    engine(actor) -> Engine   a whole actor in one call; None where the backend has none for it
Layers are checked before they get here (`snnkern.ops`), and whole actors here (`checked`).
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.errors import InputError, SlowBackendWarning
from snnkern.neurons import Dynamics
from snnkern.tensors import bounds, check_numbers, check_tensor, plain

# The tensors of an interface, and what in it says how wide they are.
_WIDTH_OF = {
    "action_scale": "action_dim",
    "action_bias": "action_dim",
    "observation_mean": "observation_dim",
    "observation_std": "observation_dim",
}


class Problem(NamedTuple):
    """One decision step of one layer; tensors as in `snnkern.reference.neuron`."""

    current: Tensor
    threshold: Tensor
    carry: Tensor
    dynamics: Dynamics
    bias: Tensor | None
    row_alpha: Tensor | None
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

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        """Decides for these rows from now on; α is `[B]`, or None where all rows have that of the dynamics.

        Nothing checks the tensors: they are the caller's own, such as `snnkern.tensors.lasting` makes them.
        """

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
    from snnkern._backends import cpu, cuda, reference, triton

    return (cpu, cuda, triton, reference)  # in order of preference


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
    for module in _modules():
        if name == module.NAME:
            if why := module.unavailable():
                raise InputError(f"backend {name!r} is not available: {why}")
            return
    known = ", ".join(["auto", *(module.NAME for module in _modules())])
    raise InputError(f"unknown backend {name!r}: choose one of {known}")


def choose(name: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The backend that computes tensors of this device and dtype: the first that can, for "auto".

    Raises:
        InputError: the named backend is unknown, not available, or does not serve this device and dtype.
    """
    for module in _candidates(name, device, dtype, large=False):
        _warn_of_missing_kernels(name, module, device, dtype)
        return module
    check_name(name)
    raise InputError(f"backend {name!r} does not compute {dtype} tensors on {device.type}")


def _warn_of_missing_kernels(name: str, chosen: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    """Says once per process that "auto" took the reference because the native kernels are not there."""
    global _warned
    if _warned or name != "auto" or chosen.NAME != "reference":
        return
    from snnkern._backends import cpu

    if (why := cpu.unavailable()) and cpu.serves(device, dtype):
        _warned = True
        warnings.warn(
            f"this runs on readable PyTorch, which takes thousands of times as long as the native kernels: {why}. "
            "backend='reference' says that it is meant so.",
            SlowBackendWarning,
            stacklevel=2,
        )


_warned = False


def checked(actor: ActorParts) -> ActorParts:
    """The actor in memory that native code can read, where its tensors are what an actor's must be.

    Raises:
        InputError: a shape does not follow from the layer before and the interface; a dtype or device is not that of
            most; a number is NaN, infinite or out of range. Names the tensor as `state_dict` does.
    """
    interface = dict(actor.interface)
    given = [tensor for layer in (*actor.hidden, actor.output, interface.values()) for tensor in layer]
    kinds = Counter((tensor.dtype, tensor.device) for tensor in given if isinstance(tensor, Tensor))
    ((dtype, device), _), *_ = kinds.most_common(1) or [((torch.float32, torch.device("cpu")), 0)]

    def part(name: str, value: object, *shape: int) -> Tensor:
        tensor = check_tensor(name, value, shape, dtype, device)
        check_numbers(name, tensor, **bounds(name))
        return plain(tensor)

    inputs, actions = interface["observation_dim"], interface["action_dim"]
    if ("observation_mean" in interface) != ("observation_std" in interface):
        raise InputError("interface.observation_mean and interface.observation_std go together: only one is there")
    for name, width in _WIDTH_OF.items():
        if name in interface or width == "action_dim":
            interface[name] = part(f"interface.{name}", interface.get(name), interface[width])
    hidden = []
    for index, (weight, bias, threshold) in enumerate(actor.hidden):
        neurons = weight.shape[-1] if isinstance(weight, Tensor) and weight.dim() else 0
        weight = part(f"hidden.{index}.weight", weight, inputs, neurons)
        bias = part(f"hidden.{index}.bias", bias, neurons)
        hidden.append((weight, bias, part(f"hidden.{index}.threshold", threshold, neurons)))
        inputs = neurons
    output = part("output.weight", actor.output[0], inputs, actions), part("output.bias", actor.output[1], actions)
    return ActorParts(hidden, output, interface, actor.dynamics)


def engine(name: str, actor: ActorParts, rows: int) -> Engine | None:
    """A whole actor, `checked`, in one call, for batches like this: by the first backend that has an engine for it.

    Raises:
        InputError: as `choose`.
    """
    weight = actor.output[0]
    choose(name, weight.device, weight.dtype)
    for module in _candidates(name, weight.device, weight.dtype, large=is_large(weight.device, rows)):
        made: Engine | None = module.engine(actor)
        if made is not None:
            return made
    return None


def is_large(device: torch.device, rows: int) -> bool:
    """Whether "auto" prefers Triton to CUDA for a whole actor: a GPU's batch beyond `small_batch()`.

    CUDA gives a row a thread block of its own, which answers soonest; Triton gives tensor cores a tile of rows, which
    answer later, and for many rows at no extra cost. Why they meet where they do: `docs/gpu.md`.
    """
    return device.type == "cuda" and rows > small_batch()


def small_batch() -> int:
    """The largest batch that "auto" runs on CUDA rather than on Triton; SNNKERN_SMALL_BATCH overrides it.

    Raises:
        InputError: the variable is not a whole number.
    """
    given = os.environ.get("SNNKERN_SMALL_BATCH", "4096")
    if not given.isdecimal():
        raise InputError(f"SNNKERN_SMALL_BATCH must be a whole number of rows, got {given!r}")
    return int(given)


class Choice(NamedTuple):
    """What "auto" takes on this machine, and what it passes over.

    Attributes:
        what: what is computed.
        backend: what computes it.
        passed_over: the backends that come before it, each with the reason why it does not.
    """

    what: str
    backend: str
    passed_over: dict[str, str]


def choices() -> tuple[Choice, ...]:
    """What "auto" takes for layers and whole actors, on the CPU and, where there is one, on a GPU."""
    half = "bfloat16, float16"
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    found = [
        _choice("float32, float64 on the CPU", cpu, torch.float32, rows=1),
        _choice(f"{half} on the CPU", cpu, torch.bfloat16, rows=1),
    ]
    if torch.cuda.is_available():
        border = small_batch()
        found += [
            _choice("a layer in float32 on a GPU", gpu, torch.float32, rows=1),
            _choice("a layer in float64 on a GPU", gpu, torch.float64, rows=1),
            _choice(f"a layer in {half} on a GPU", gpu, torch.bfloat16, rows=1),
            _choice(f"an actor on a GPU, up to {border:,} rows", gpu, torch.float32, rows=border),
            _choice(f"an actor on a GPU, more than {border:,} rows", gpu, torch.float32, rows=border + 1),
        ]
    return tuple(found)


def _choice(what: str, device: torch.device, dtype: torch.dtype, rows: int) -> Choice:
    passed_over = {}
    for module in _in_order(large=is_large(device, rows)):
        if why := module.unavailable():
            passed_over[module.NAME] = why
        elif not module.serves(device, dtype):
            passed_over[module.NAME] = f"does not compute {str(dtype).removeprefix('torch.')} on {device.type}"
        elif _only_by_name(module, device):
            passed_over[module.NAME] = "is for tests on the CPU, where its interpreter runs it"
        else:
            return Choice(what, module.NAME, passed_over)
    raise AssertionError("the reference computes everything")


def rule() -> str:
    """How "auto" chooses, in a sentence."""
    return (
        "auto: the first that serves the tensors' device and dtype; a whole actor on a GPU runs on cuda up to "
        f"{small_batch():,} rows and on triton beyond, where there are both (SNNKERN_SMALL_BATCH moves the border)"
    )


def _candidates(name: str, device: torch.device, dtype: torch.dtype, large: bool) -> Iterator[ModuleType]:
    for module in _in_order(large):
        named = name == module.NAME or (name == "auto" and not _only_by_name(module, device))
        if named and not module.unavailable() and module.serves(device, dtype):
            yield module


def _only_by_name(module: ModuleType, device: torch.device) -> bool:
    """Whether "auto" leaves this backend out although it computes: Triton's interpreter is slow and made for tests."""
    return module.NAME == "triton" and device.type == "cpu"


def _in_order(large: bool) -> list[ModuleType]:
    """The backends, those that "auto" prefers first: Triton for large batches, if it is there."""
    return sorted(_modules(), key=lambda module: large and module.NAME != "triton")
