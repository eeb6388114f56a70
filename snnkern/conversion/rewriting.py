"""Rewrites actors of other activations as actors of ReLUs, which neurons can compute.

An activation is approximated by a sum of ramps: f(x) ≈ Σ aⱼ · clamp(±x − tⱼ, 0, wⱼ). A ramp is a ReLU with a ceiling,
which an IF, SNM or MT neuron with the threshold wⱼ computes. DC neurons have no ceiling: for them a ramp that ends is
the difference of two ReLUs. Each neuron becomes one for each ramp, with its weights, or their opposites, and a bias of
its own; the weights of the next layer are multiplied by the aⱼ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels.neurons import Neuron
from snnkern.policies.activations import RELU
from snnkern.policies.actor import Actor, Conv, Layer


class Ramp(NamedTuple):
    """One term `slope · clamp(sign · x − start, 0, width)` of an activation.

    Attributes:
        sign: 1 on the right of 0, -1 on the left.
        start: t, at least 0.
        width: w; infinite for a ramp that does not end.
        slope: a.
    """

    sign: int
    start: float
    width: float
    slope: float


def _side(sign: int, knots: Sequence[float], slopes: Sequence[float]) -> list[Ramp]:
    """The ramps between knots on one side of 0, which may end at infinity."""
    ends = zip(knots[:-1], knots[1:], slopes, strict=True)
    return [Ramp(sign, start, end - start, slope) for start, end, slope in ends]


# Knots and slopes with the least largest error on either side, given the number of ramps; SELU is a multiple of ELU on
# the left. The largest errors are 0.086 (tanh), 0.110 (ELU), 0.193 (SELU), 0.032 (SiLU) and 0.020 (GELU): few ramps are
# fast, and most of what they leave is mended by the correction of weights, which aims at the activation itself.
_ENDLESS = math.inf
_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772  # of SELU
_END_OF_ELU, _SLOPE_OF_ELU = 1.557, -0.5772
RAMPS: dict[str, list[Ramp]] = {
    "tanh": _side(1, (0.0, 1.213), (0.7611,)) + _side(-1, (0.0, 1.213), (-0.7611,)),
    "elu": _side(1, (0.0, _ENDLESS), (1.0,)) + _side(-1, (0.0, _END_OF_ELU), (_SLOPE_OF_ELU,)),
    "selu": _side(1, (0.0, _ENDLESS), (_SCALE,)) + _side(-1, (0.0, _END_OF_ELU), (_SCALE * _ALPHA * _SLOPE_OF_ELU,)),
    "leaky_relu": _side(1, (0.0, _ENDLESS), (1.0,)) + _side(-1, (0.0, _ENDLESS), (-0.01,)),
    "silu": _side(1, (0.0, 0.865, 5.291, _ENDLESS), (0.6669, 1.062, 1.0))
    + _side(-1, (0.0, 0.865, 5.291), (-0.3331, 0.062)),
    "gelu": _side(1, (0.0, 0.541, 2.695, _ENDLESS), (0.6682, 1.0815, 1.0))
    + _side(-1, (0.0, 0.541, 2.695), (-0.3318, 0.0815)),
}


class Rewritten(Actor):
    """An actor of ReLUs with ceilings: one for each ramp of each neuron of another actor, side by side.

    Args:
        actor: of another activation than ReLU.
        neuron: what is to compute the ReLUs.
    """

    def __init__(self, actor: Actor, neuron: Neuron) -> None:
        ramps = RAMPS[actor.activation]
        if neuron.differential:
            ramps = endless(ramps)
        like = actor.output.weight
        signs, starts, widths, slopes = like.new_tensor(ramps).T
        layers: list[Layer] = []
        for layer, before in zip(actor.layers, [None, *actor.hidden], strict=False):
            weight = layer[0] if before is None else _spread(layer[0], slopes, len(before.bias))
            rows = (weight[:, None] * signs.reshape(-1, *[1] * (weight.dim() - 1))).flatten(0, 1)
            biases = (layer[1][:, None] * signs - starts).flatten()
            layers.append(Conv(rows, biases, *layer[2:]) if isinstance(layer, Conv) else (rows, biases))
        last = _spread(actor.output.weight, slopes, len(actor.hidden[-1].bias))
        super().__init__(layers, (last, actor.output.bias), actor.interface, actor.metadata)
        self.to(like.device)
        self._ceilings = [widths.repeat(len(layer.bias)) for layer in actor.hidden]
        self.ramps = len(ramps)
        self._exact = (actor,)  # in a tuple: no module of this one
        self._signs, self._starts = signs, starts

    def activate(self, index: int, drive: Tensor) -> Tensor:
        """What a hidden layer sends: its ReLUs, up to their ceilings."""
        return torch.relu(drive).minimum(self._ceiling(index, drive))

    def passes(self, index: int, activation: Tensor) -> Tensor:
        """Where a small change of a hidden layer's drive changes its activation, bool as the activation."""
        return (activation > 0) & (activation < self._ceiling(index, activation))

    def exact_drives(self, signal: Tensor) -> list[Tensor]:
        """What every layer's weights and bias would make of the activations themselves, in place of the ramps.

        Args:
            signal: what the first layer receives, `[S, observation_dim]`: of actors without convolutions alone.

        Returns:
            `[S, N]` of every hidden layer, and `[S, action_dim]` of the output layer.
        """
        (exact,) = self._exact
        found = []
        for index, layer in enumerate(exact.hidden):
            drive = layer(signal)
            found.append((drive[..., None] * self._signs - self._starts).flatten(1))
            signal = exact.activate(index, drive)
        return [*found, exact.output(signal)]

    def _ceiling(self, index: int, like: Tensor) -> Tensor:
        ceiling = self._ceilings[index]
        return ceiling[:, None, None] if like.dim() == 4 else ceiling


def as_relus(actor: Actor, neuron: Neuron) -> Actor:
    """An actor of ReLUs, perhaps with ceilings, that a neuron can run as; the actor itself where it is one.

    Raises:
        InputError: its numbers are so large that the ramps' slopes make infinities of them.
    """
    if actor.activation == RELU:
        return actor
    try:
        return Rewritten(actor, neuron)
    except InputError as error:
        raise InputError(
            f"the actor's numbers are too large to write its {actor.activation} as ReLUs: {error}"
        ) from error


def endless(ramps: Sequence[Ramp]) -> list[Ramp]:
    """The same sum of ramps that do not end: each is the difference of two of them."""
    slopes: dict[tuple[int, float], float] = {}
    for sign, start, width, slope in ramps:
        for place, change in ((start, slope), (start + width, -slope)):
            if place < math.inf:
                slopes[sign, place] = slopes.get((sign, place), 0.0) + change
    return [Ramp(sign, start, math.inf, slope) for (sign, start), slope in slopes.items()]


def _spread(weight: Tensor, slopes: Tensor, channels: int) -> Tensor:
    """The weight of a layer that receives the ramps in place of the activations of so many channels or neurons."""
    each = math.prod(weight.shape[1:]) // max(channels, 1)  # of layers without neurons, -1 would not tell
    columns = weight.reshape(len(weight), channels, 1, each) * slopes[:, None]
    if weight.dim() == 4:
        return columns.reshape(len(weight), channels * len(slopes), *weight.shape[2:])
    return columns.flatten(1)
