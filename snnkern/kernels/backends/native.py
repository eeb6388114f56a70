"""What crosses to the native modules: plain numbers and addresses, in tuples that `csrc/binding.h` reads."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels.backends import ActorInterface, Gradients, Problem, Result
from snnkern.kernels.surrogates import Surrogate

Address = Callable[[Tensor | None], int]  # of a contiguous tensor's memory; 0 for None

# The handle of torch's current stream on a device, by its number; a torch without CUDA has none.
stream_on: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0)


def asked_for(variable: str) -> bool | None:
    """What an environment variable says: "1", wherever it can be; "0", nowhere; None where it says nothing.

    Raises:
        InputError: it says something else.
    """
    given = os.environ.get(variable, "")
    if given not in ("", "0", "1"):
        raise InputError(f"{variable} must be 0 or 1, got {given!r}")
    return bool(int(given)) if given else None


def cuda_build() -> str | None:
    """Which build of CUDA's kernels there is, by a hash; None where no GPU runs them."""
    return _cuda_build() if torch.cuda.is_available() else None


@functools.cache
def _cuda_build() -> str | None:
    found = importlib.util.find_spec("snnkern._cuda")
    if found is None or found.origin is None:
        return None
    return f"CUDA kernels {hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()}"


class Packed(list[Tensor]):
    """What an engine has packed: it keeps alive what the kernel has the addresses of."""

    def keep(self, tensor: Tensor | None) -> int:
        """The address of a copy of its own, 0 for None: what it was made from may change or go."""
        if tensor is None:
            return 0
        self.append(tensor.detach().clone(memory_format=torch.contiguous_format))
        return self[-1].data_ptr()


class LayerArguments(NamedTuple):
    """One decision step of one layer, beside its dynamics: strides count elements, tensors are addresses."""

    batch: int
    neurons: int
    current: int
    constant: bool
    current_stride_t: int
    current_stride_b: int
    threshold: int
    bias: int
    carry: int
    row_alpha: int
    spikes: int = 0
    mean: int = 0
    next_carry: int = 0
    counts: int = 0


class GradientArguments(NamedTuple):
    """The gradients of such a step, beside the step."""

    surrogate: int
    gradient: int
    of_mean: bool
    current: int
    threshold: int
    carry: int
    bias: int
    scratch: int


class InterfaceArguments(NamedTuple):
    """`ActorInterface` with addresses."""

    observation_mean: int
    observation_std: int
    observation_clip: float
    action_scale: int
    action_bias: int
    squash: bool


def run_neuron(kernel: Callable[..., None], problem: Problem, result: Result, address: Address, **place: int) -> None:
    """Calls a native kernel of a layer, which computes into contiguous tensors.

    Args:
        kernel: `neuron_float32` or `neuron_float64` of a native module.
        problem: the layer.
        result: where its results go.
        address: of a tensor.
        place: what the kernel takes besides: where it runs.
    """
    problem = packed(problem)
    output = result.output.data_ptr()
    layer = _layer(problem, address)._replace(
        spikes=output if problem.wants_spikes else 0,
        mean=0 if problem.wants_spikes else output,
        next_carry=result.carry.data_ptr(),
        counts=result.counts.data_ptr(),
    )
    kernel(problem.dynamics.numbers, layer, **place)


def run_gradients(
    kernel: Callable[..., None],
    problem: Problem,
    gradient: Tensor,
    surrogate: Surrogate,
    gradients: Gradients,
    scratch: Tensor,
    address: Address,
    **place: int,
) -> None:
    """Calls a native kernel of a layer's gradients, which computes into contiguous tensors.

    Args:
        kernel: `neuron_gradients_float32` or `neuron_gradients_float64` of a native module.
        problem: the layer.
        gradient: of its spikes or of its mean output.
        surrogate: what stands for a step's derivative.
        gradients: where the results go; those of threshold and bias as the kernel wants them.
        scratch: what the kernel keeps of the steps in.
        address: of a tensor.
        place: what the kernel takes besides: how many threads, or how it is divided and where it runs.
    """
    problem, gradient = packed(problem), gradient.contiguous()
    of = GradientArguments(
        int(surrogate),
        address(gradient),
        not problem.wants_spikes,
        address(gradients.current),
        address(gradients.threshold),
        address(gradients.carry),
        address(gradients.bias),
        address(scratch),
    )
    kernel(problem.dynamics.numbers, _layer(problem, address), of, **place)


def packed(problem: Problem) -> Problem:
    """The problem with contiguous tensors; a current's steps and rows may be strided."""
    current, threshold, carry, _, bias, row_alpha, *_ = problem
    if current.stride(-1) != 1 and current.shape[-1] > 1:  # rows must be contiguous; T and B may be strided
        current = current.contiguous()
    return problem._replace(
        current=current,
        threshold=threshold.contiguous(),
        carry=carry.contiguous(),
        bias=None if bias is None else bias.contiguous(),
        row_alpha=None if row_alpha is None else row_alpha.contiguous(),
    )


def _layer(problem: Problem, address: Address) -> LayerArguments:
    """A packed problem without results."""
    current, threshold, carry, _, bias, row_alpha, *_ = problem
    batch, neurons = carry.shape
    constant = current.dim() == 2
    return LayerArguments(
        batch,
        neurons,
        address(current),
        constant,
        0 if constant else current.stride(0),
        current.stride(-2),
        address(threshold),
        address(bias),
        address(carry),
        address(row_alpha),
    )


def interface_arguments(interface: ActorInterface, address: Address) -> InterfaceArguments:
    """The interface of an actor, as engines take it."""
    return InterfaceArguments(
        address(interface.observation_mean),
        address(interface.observation_std),
        interface.observation_clip,
        address(interface.action_scale),
        address(interface.action_bias),
        interface.squash,
    )
