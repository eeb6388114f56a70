"""What tensor cores' accumulators cost, emulated: they cut off where float32 rounds. `precision.py` draws the table.

An instruction adds the products of 16 senders to an accumulator: all of them and the accumulator are cut off, toward
zero, at a bit that the largest exponent among them decides, one or two bits below the accumulator's last; and the sum
is cut off to float32's 24 bits. So it was found in NVIDIA's tensor cores (Fasi et al., PeerJ CS 7:e330, 2021; Khattak
and Mikaitis, arXiv 2512.07004). Products themselves are exact: a spike is a power of two, a part of a weight has 8
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 16  # senders of an instruction
QUARTERS = 4  # a word has four neighbouring senders' bytes, and an instruction's senders stand four apart
DIGITS = 24  # of float32


class Error(NamedTuple):
    """What a way to sum does to currents, as shares of the sum of their terms' sizes.

    Attributes:
        largest: error.
        bias: mean error in the direction of the current; negative toward zero.
        toward_zero: share of the errors that are not 0.
    """

    largest: float
    bias: float
    toward_zero: float

    @classmethod
    def of(cls, found: Tensor, exact: Tensor, sizes: Tensor) -> Error:
        error = (found - exact) / sizes.clamp(min=1e-300)
        outward = error * exact.sign()
        wrong = outward[outward != 0]
        return cls(error.abs().max().item(), outward.mean().item(), (wrong < 0).double().mean().item())


def cut(value: Tensor, digits: int) -> Tensor:
    """A float64 value with so many significant binary digits, the others cut off."""
    mantissa, exponent = torch.frexp(value)
    return torch.ldexp((mantissa * 2.0**digits).trunc(), exponent - digits)


def multiply_block(accumulator: Tensor, spikes: Tensor, weight: Tensor, extra: int) -> Tensor:
    """One instruction: `accumulator` [M, N] plus `spikes` [M, 16] · `weight` [16, N], in float64."""
    terms = torch.cat([spikes[:, :, None] * weight[None], accumulator[:, None]], dim=1)
    _, exponent = torch.frexp(terms.abs().amax(dim=1, keepdim=True))
    last = exponent - DIGITS - extra
    return cut(torch.ldexp(torch.ldexp(terms, -last).trunc().sum(dim=1), last[:, 0]), DIGITS)


def instructions(spikes: Tensor, parts: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The order of Triton's actor: by quarters of the senders, then the parts of weights, the smallest first. With the
    number of the quarter."""
    for quarter in range(QUARTERS):
        senders = torch.arange(quarter, spikes.shape[1], QUARTERS)
        for part in parts.flip(0):
            for block in senders.split(BLOCK):
                yield quarter, spikes[:, block], part[block]


def on_tensor_cores(spikes: Tensor, parts: Tensor, extra: int) -> Tensor:
    """`spikes` [M, K] · the sum of `parts` [3, K, N], in one accumulator."""
    accumulator = spikes.new_zeros(len(spikes), parts.shape[2])
    for _, some, weight in instructions(spikes, parts):
        accumulator = multiply_block(accumulator, some, weight, extra)
    return accumulator


def in_parts(spikes: Tensor, parts: Tensor, extra: int) -> Tensor:
    """The same with an accumulator for each quarter of the senders; float32 additions, which round, add them up."""
    sums = torch.zeros(len(spikes), parts.shape[2])
    accumulators: dict[int, Tensor] = {}
    for quarter, some, weight in instructions(spikes, parts):
        before = accumulators.get(quarter, torch.zeros_like(sums, dtype=torch.float64))
        accumulators[quarter] = multiply_block(before, some, weight, extra)
    for accumulator in accumulators.values():
        sums = sums + accumulator.float()
    return sums.double()


def plain(spikes: Tensor, parts: Tensor) -> Tensor:
    """In float32, sender after sender."""
    weight = parts.sum(dim=0).float()
    sums = torch.zeros(len(spikes), weight.shape[1])
    for sender, row in enumerate(weight):
        sums = sums + spikes[:, sender, None].float() * row
    return sums.double()


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "float32, rounded": plain,
    "tensor cores, 1 extra bit": lambda spikes, parts: on_tensor_cores(spikes, parts, 1),
    "tensor cores, 2 extra bits": lambda spikes, parts: on_tensor_cores(spikes, parts, 2),
    "in parts, 1 extra bit": lambda spikes, parts: in_parts(spikes, parts, 1),
    "in parts, 2 extra bits": lambda spikes, parts: in_parts(spikes, parts, 2),
}
