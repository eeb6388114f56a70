"""What crosses to the native modules: plain numbers and addresses, in tuples that `csrc/binding.h` reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from snnkern.kernels.backends import ActorInterface, Problem, Result

Address = Callable[[Tensor | None], int]  # of a contiguous tensor's memory; 0 for None


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
    spikes: int
    mean: int
    next_carry: int
    counts: int


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
    current, threshold, carry, dynamics, bias, row_alpha, wants_spikes, _ = problem
    if current.stride(-1) != 1 and current.shape[-1] > 1:  # rows must be contiguous; T and B may be strided
        current = current.contiguous()
    threshold, carry = threshold.contiguous(), carry.contiguous()
    bias = None if bias is None else bias.contiguous()
    row_alpha = None if row_alpha is None else row_alpha.contiguous()
    batch, neurons = carry.shape
    constant = current.dim() == 2
    output = result.output.data_ptr()
    layer = LayerArguments(
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
        output if wants_spikes else 0,
        0 if wants_spikes else output,
        result.carry.data_ptr(),
        result.counts.data_ptr(),
    )
    kernel(dynamics.numbers, layer, **place)


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
