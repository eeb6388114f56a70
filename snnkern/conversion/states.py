"""What arrives at the layers of an actor with convolutions or bridges, in the states that they are fitted on.

A neuron of a convolution is a channel at a position, so positions are states of a channel like any others, and a sample
of them is enough. Spikes of whole images do not fit into memory: what arrives at a layer is computed anew for each
layer, a few observations at a time, until the images have become vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.conversion.activations import (
    as_tensor,
    batches,
    check_activations,
    check_given,
    check_observations,
    received,
)
from snnkern.kernels import ops, reference
from snnkern.kernels.layers import Convolution
from snnkern.kernels.neurons import Dynamics, Neuron
from snnkern.policies.actor import Actor
from snnkern.policies.stateless import SpikingLayer, bridge_step, bridged, flat

OBSERVATIONS = 256  # of a fit, at even distances
_POSITIONS = 2**14  # that a convolution is fitted on, in every fourth of these observations
_APART = 4
_NUMBERS = 2**23  # that the spikes of the largest layer may be, over all steps, which are computed at once


class States(NamedTuple):
    """What arrives at a layer.

    Attributes:
        mean: what the layers below send, averaged over the steps, `[S, in]`: of a convolution, what its kernel covers.
        drive: what the dense layer makes of the dense activations, before its ReLU, `[S, out]`.
        squares: of the slopes of the actions by this layer's activations (or by z), summed over the actions,
            `[S, out]`; None if not asked for.
    """

    mean: Tensor
    drive: Tensor
    squares: Tensor | None


class Walk:
    """Observations on their way through the layers of an actor, as far as these have been fitted.

    Args:
        actor: the dense actor.
        observations: `[S, *observation_shape]`, as the actor takes them.
        dynamics: neuron and T; every decision starts with an empty carry.
        slopes: of the actions by z, `[S, action_dim]`, if `States.squares` are wanted.
    """

    def __init__(self, actor: Actor, observations: Tensor, dynamics: Dynamics, slopes: Tensor | None = None) -> None:
        self.actor, self.dynamics, self.slopes = actor, dynamics, slopes
        self._frames = observations
        self._fitted: list[SpikingLayer] = []
        self._vectors: tuple[Tensor, Tensor] | None = None  # what the last layer sends and what the dense one does
        self._bridges = {place: [bridge_step(step) for step in chain] for place, chain in actor.bridges.items()}

    def states(self, index: int) -> States:
        """The states of a layer, those before it being fitted; the output layer has the index behind the last one's.

        Raises:
            InputError: activations overflow.
        """
        last = index == len(self.actor.hidden)
        layer = cast("nn.Module", self.actor.output if last else self.actor.hidden[index])
        convolution = self._convolution(index)
        found = []
        for rows in self._parts(index):
            sent, dense = self._arriving(rows, index)
            mean, drive = decoded(sent, self.dynamics.neuron), layer(dense)
            check_activations([drive])
            parts = [mean, drive]
            if self.slopes is not None:
                parts.append(self._squares(drive, index, self.slopes[rows.start : rows.stop : rows.step]))
            if convolution is None:
                parts[0] = flat(mean)
            else:
                places = _places(rows, convolution, len(self._frames))
                parts = [_columns(mean, places, convolution), *(_at(part, places) for part in parts[1:])]
            found.append(parts)
        return States(*map(torch.cat, zip(*found, strict=True)), *([] if self.slopes is not None else [None]))

    def currents(self, index: int, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the neurons of a layer with this weight and bias receive in its states, `[S, out]` or `[T, S, out]`."""
        convolution = self._convolution(index)
        found = []
        for rows in self._parts(index):
            sent, _ = self._arriving(rows, index)
            if convolution is None:
                found.append(ops.linear(flat(sent), weight.T.contiguous(), bias))
                continue
            product = nn.functional.conv2d(sent.flatten(0, -4), weight, bias, convolution.stride, convolution.padding)
            places = _places(rows, convolution, len(self._frames))
            found.append(_at(product.unflatten(0, sent.shape[:-3]), places))
        return torch.cat(found, dim=-2)

    def add(self, weight: Tensor, bias: Tensor, threshold: Tensor, current: Tensor, drive: Tensor) -> None:
        """Goes on to the next layer: the last one has these numbers, and this current and drive in its states."""
        index = len(self._fitted)
        layer = SpikingLayer(
            weight.T.contiguous() if weight.dim() == 2 else weight, bias, threshold, self._convolution(index)
        )
        self._fitted.append(layer)
        if layer.convolution is None:
            self._vectors = self._sent(index, current), self.actor.activate(index, drive)

    def _convolution(self, index: int) -> Convolution | None:
        return None if index == len(self.actor.hidden) else self.actor.convolutions[index]

    def _parts(self, index: int) -> Iterator[range]:
        """The observations that a layer is fitted on, as many at a time as fit into memory."""
        rows = range(0, len(self._frames), _APART if self._convolution(index) else 1)
        if self._vectors is not None:
            yield rows
            return
        shapes = [one.output_shape for one in self.actor.convolutions[:index] if one]
        largest = max(map(math.prod, [self.actor.interface.observation_shape, *shapes]))
        size = max(1, _NUMBERS // (largest * self.dynamics.timesteps))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _arriving(self, rows: range, index: int) -> tuple[Tensor, Tensor]:
        """What a layer receives: `[T, B, …]`, or `[B, …]` where it is constant; and in the dense actor, `[B, …]`."""
        if self._vectors is not None:
            sent, dense = self._vectors
        else:
            sent = self.actor.interface.normalize(self._frames[rows.start : rows.stop : rows.step])
            dense = sent
            for place, layer in enumerate(self._fitted):
                sent = bridged(sent, self._bridges.get(str(place), ()))
                sent = self._sent(place, layer.current(sent, not self.dynamics.neuron.differential, "auto"))
                dense = self.actor.activate(place, self.actor.hidden[place](self.actor.arriving(place, dense)))
        return bridged(sent, self._bridges.get(str(index), ())), self.actor.arriving(index, dense)

    def _sent(self, index: int, current: Tensor) -> Tensor:
        """What a fitted layer sends for this current: its spikes, or its mean output where a bridge comes behind it."""
        layer, kind = self._fitted[index], self.dynamics.neuron
        threshold = layer.per_neuron(layer.threshold)
        bias = layer.per_neuron(layer.bias) if kind.differential else None
        carry = threshold.new_zeros(current.shape[-2], len(threshold))
        run = ops.neuron_mean if str(index + 1) in self._bridges else ops.neuron_spikes
        sent, _, _ = run(current, threshold, carry, self.dynamics, bias=bias)
        return sent.unflatten(-1, layer.neuron_shape)

    @torch.enable_grad()
    def _squares(self, drive: Tensor, index: int, slopes: Tensor) -> Tensor:
        if index == len(self.actor.hidden):
            return slopes.square()
        own = self.actor.activate(index, drive.detach()).requires_grad_()
        signal = own
        for place in range(index + 1, len(self.actor.hidden)):
            signal = self.actor.activate(place, self.actor.hidden[place](self.actor.arriving(place, signal)))
        z = self.actor.output(self.actor.arriving(len(self.actor.hidden), signal))
        moved = (z * slopes).sum(dim=0)
        gradients = [torch.autograd.grad(one, own, retain_graph=True)[0] for one in moved]
        return torch.stack(gradients).square().sum(dim=0)


def sample(
    actor: Actor, observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor], count: int
) -> Tensor:
    """At most so many observations at even distances, as the actor takes them; memory does not grow with their number.

    Which they are does not depend on how they are split into batches.

    Raises:
        InputError: there are none, or they do not fit the actor.
    """
    kept: list[Tensor] = []
    apart, seen = 1, 0
    for batch in batches(observations):
        check_observations(actor, batch)
        for row in range(-seen % apart, len(batch), apart):
            if (seen + row) % apart:  # they have become rarer within this batch
                continue
            kept.append(received(actor, as_tensor(batch[row : row + 1])).clone())  # not a view of the batch
            if len(kept) == 2 * count:
                kept, apart = kept[::2], 2 * apart
        seen += len(batch)
    check_given(len(kept))
    chosen = np.linspace(0, len(kept) - 1, min(len(kept), count)).round().astype(int)
    return torch.cat([kept[row] for row in chosen])


def decoded(sent: Tensor, neuron: Neuron) -> Tensor:
    """The mean `[S, …]` that spikes `[T, S, …]` stand for; what is constant as it is."""
    return sent if sent.dim() in (2, 4) else reference.decoded(sent, neuron.differential)


Places = tuple[Tensor, Tensor, Tensor]


def _places(rows: range, convolution: Convolution, observations: int) -> Places:
    """Which positions are states of a convolution: observation, y and x, drawn anew for every observation."""
    _, height, width = convolution.output_shape
    count = min(height * width, -(-_POSITIONS // len(range(0, observations, _APART))))
    drawn = [torch.randperm(height * width, generator=torch.Generator().manual_seed(row))[:count] for row in rows]
    place = torch.cat(drawn)
    return torch.arange(len(rows)).repeat_interleave(count), place // width, place % width


def _at(images: Tensor, places: Places) -> Tensor:
    """The channels `[…, S, C]` of images `[…, B, C, H, W]` at these places."""
    frame, y, x = places
    return images.movedim(-3, -1)[..., frame, y, x, :]


def _columns(images: Tensor, places: Places, convolution: Convolution) -> Tensor:
    """What the kernel covers of images `[B, C, H, W]` at these places, in the order of the weight: `[S, C·ky·kx]`."""
    (pad_y, pad_x), (high, wide) = convolution.padding, convolution.kernel
    padded = nn.functional.pad(images, (pad_x, pad_x, pad_y, pad_y))
    windows = padded.unfold(2, high, convolution.stride[0]).unfold(3, wide, convolution.stride[1])
    return windows.movedim(1, 3)[places].flatten(1)
