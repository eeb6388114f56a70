"""Which backend computes: chosen here and nowhere else."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from snnkern.errors import InputError, SlowBackendWarning
from snnkern.kernels.backends import ActorParts, Backend, Engine, cpu, cuda, integers, reference
from snnkern.kernels.backends.triton import launch

_BACKENDS: tuple[Backend, ...] = (cpu, cuda, launch, reference)  # in order of preference


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


def backends() -> tuple[BackendStatus, ...]:
    """What can compute on this machine, in order of preference, and why the rest cannot."""
    return tuple(
        BackendStatus(backend.NAME, not (why := backend.unavailable()), why or backend.detail())
        for backend in _BACKENDS
    )


def check_name(name: str) -> None:
    """Refuses a backend that does not exist or cannot be used on this machine.

    Raises:
        InputError: names the backends that there are, or says why this one is not available.
    """
    if name == "auto":
        return
    for backend in _BACKENDS:
        if name == backend.NAME:
            if why := backend.unavailable():
                raise InputError(f"backend {name!r} is not available: {why}")
            return
    known = ", ".join(["auto", *(backend.NAME for backend in _BACKENDS)])
    raise InputError(f"unknown backend {name!r}: choose one of {known}")


def choose(name: str, device: torch.device, dtype: torch.dtype, *, gradients: bool = False) -> Backend:
    """The backend that computes tensors of this device and dtype: the first that can, for "auto".

    Args:
        name: a name from `backends()`, or "auto".
        device: where the tensors are.
        dtype: of all of them.
        gradients: whether it is for the gradients of neurons: there "auto" prefers Triton to CUDA. Why: `docs/gpu.md`.

    Raises:
        InputError: the named backend is unknown, not available, or does not serve this device and dtype.
    """
    for backend in _candidates(name, device, dtype, prefers_triton=gradients):
        _warn_of_missing_kernels(name, backend, device, dtype)
        return backend
    check_name(name)
    raise InputError(f"backend {name!r} does not compute {dtype} tensors on {device.type}")


def at_once(name: str, tensor: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor] | None] | None:
    """Of the backend that `choose` takes for this tensor, what computes a layer of unchecked tensors in one call.

    None where there is no such: only CUDA has one, which comes first on its device for the dtypes that it serves.
    """
    if (name != "cuda" and (name != "auto" or not tensor.is_cuda)) or not cuda.serves(tensor.device, tensor.dtype):
        return None
    return cuda.neuron_at_once


def _warn_of_missing_kernels(name: str, chosen: Backend, device: torch.device, dtype: torch.dtype) -> None:
    """Says once per process that "auto" took the reference because the native kernels are not there."""
    global _warned
    if _warned or name != "auto" or chosen.NAME != "reference":
        return
    if (why := cpu.unavailable()) and cpu.serves(device, dtype):
        _warned = True
        warnings.warn(
            f"this runs on readable PyTorch, which takes thousands of times as long as the native kernels: {why}. "
            "backend='reference' says that it is meant so.",
            SlowBackendWarning,
            stacklevel=2,
        )


_warned = False


def engine(name: str, actor: ActorParts, rows: int) -> Engine | None:
    """A whole actor, `checked`, in one call, for batches like this: by the first backend that has an engine for it.

    One with convolutions runs on Triton, whatever the batch, where "auto" has the choice: CUDA has no kernel for them.

    Raises:
        InputError: as `choose`.
    """
    weight = actor.output[0]
    choose(name, weight.device, weight.dtype)
    if takes_integers(name, actor, rows) and (exact := integers.engine(actor)) is not None:
        return exact
    return _usual_engine(name, actor, rows)


def _usual_engine(name: str, actor: ActorParts, rows: int) -> Engine | None:
    """The one that is not CUDA's for sums of integers."""
    weight = actor.output[0]
    large = not actor.is_plain or is_large(weight.device, rows)
    for backend in _candidates(name, weight.device, weight.dtype, prefers_triton=large):
        if (made := backend.engine(actor)) is not None:
            return made
    return None


def engine_key(name: str, actor: ActorParts, rows: int) -> tuple[bool, bool]:
    """What `engine` depends on beside the actor: batches with the same key share an engine.

    Raises:
        InputError: as `takes_integers`.
    """
    return takes_integers(name, actor, rows), is_large(actor.output[0].device, rows)


def takes_integers(name: str, actor: ActorParts, rows: int) -> bool:
    """Whether CUDA's kernel that sums integers is wanted for a batch, as `integers.taken` says.

    Raises:
        InputError: SNNKERN_INTEGERS says something that it cannot.
    """
    large = name == "auto" and is_large(actor.output[0].device, rows)
    return _may_take_integers(name, actor) and integers.taken(actor, rows, large)


def measure_integers(name: str, actor: ActorParts, usual: Engine, rows: int, row_alpha: Tensor | None) -> bool:
    """Finds out whether it is to be taken in place of the usual engine; True where that was done.

    Then the engine that is used now may be bound to other rows, and may not be the one to use.
    """
    if not _may_take_integers(name, actor) or not integers.is_open(actor, rows):
        return False
    other = _usual_engine(name, actor, rows) if isinstance(usual, integers.Engine) else usual
    return other is not None and integers.measure(actor, other, rows, row_alpha)


def _may_take_integers(name: str, actor: ActorParts) -> bool:
    weight = actor.output[0]
    named = name in ("auto", cuda.NAME)
    return named and cuda.serves(weight.device, weight.dtype) and actor.is_plain and not cuda.unavailable()


def is_large(device: torch.device, rows: int) -> bool:
    """Whether "auto" prefers a kernel for many rows to CUDA's for few: for a GPU's batch beyond `small_batch()`.

    That one gives a row a thread block of its own, which answers soonest. CUDA's kernel that sums integers and Triton's
    give tensor cores a tile of rows, which answer later, and for many rows at no extra cost. Why they meet where they
    do: `docs/gpu.md`.
    """
    return device.type == "cuda" and rows > small_batch()


@functools.cache
def small_batch() -> int:
    """The largest batch that "auto" runs on CUDA's kernels for few rows; SNNKERN_SMALL_BATCH overrides it.

    The environment is asked once per process.

    Raises:
        InputError: the variable is not a whole number.
    """
    given = os.environ.get("SNNKERN_SMALL_BATCH", "1024")
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
    for backend in _in_order(is_large(device, rows) and not integers.are_wanted(device)):
        if why := backend.unavailable():
            passed_over[backend.NAME] = why
        elif not backend.serves(device, dtype):
            passed_over[backend.NAME] = f"does not compute {str(dtype).removeprefix('torch.')} on {device.type}"
        elif _only_by_name(backend, device):
            passed_over[backend.NAME] = "is for tests on the CPU, where its interpreter runs it"
        else:
            return Choice(what, backend.NAME, passed_over)
    raise AssertionError("the reference computes everything")


def rule() -> str:
    """How "auto" chooses, in a sentence."""
    return (
        "auto: the first that serves the tensors' device and dtype; a whole actor on a GPU runs on cuda up to "
        f"{small_batch():,} rows (SNNKERN_SMALL_BATCH moves the border), and beyond on triton where it is there, but "
        "on Hopper on the kernel of cuda that sums integers, if that serves it; one with convolutions runs on triton"
    )


def _candidates(name: str, device: torch.device, dtype: torch.dtype, prefers_triton: bool) -> Iterator[Backend]:
    for backend in _in_order(prefers_triton):
        named = name == backend.NAME or (name == "auto" and not _only_by_name(backend, device))
        if named and not backend.unavailable() and backend.serves(device, dtype):
            yield backend


def _only_by_name(backend: Backend, device: torch.device) -> bool:
    """Whether "auto" leaves this backend out although it computes: Triton's interpreter is slow and made for tests."""
    return backend.NAME == "triton" and device.type == "cpu"


def _in_order(prefers_triton: bool) -> Sequence[Backend]:
    """The backends, those that "auto" prefers first: Triton for large batches and for gradients, if it is there."""
    return sorted(_BACKENDS, key=lambda backend: backend.NAME != "triton") if prefers_triton else _BACKENDS
