"""An actor with convolutions or bridges on a GPU, layer by layer: torch's product for the currents of all T steps at
once, then one kernel of neurons. Nothing waits for the device or depends on numbers there, so that a decision can be
captured as a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from snnkern.kernels import backends
from snnkern.kernels.backends import ActorParts, BridgeStep, HiddenPart, LinearStep, NormStep, Problem, Result, TanhStep
from snnkern.kernels.layers import Convolution, spread

_MOST_NUMBERS = 2**29  # spikes or currents of a layer at a time: 2 GiB; a larger batch is decided in parts


class Layers:
    """The layers of an actor on the caller's carries and counts; weights are copies.

    A signal is what a layer receives: a constant one `[B, in]`, or spikes `[T, B, in]`. Images are flat, in the order
    C, H, W.

    Args:
        actor: checked.
        neuron: what computes a layer of neurons, as a backend's `neuron` does.
        first: the first hidden layer that is computed here.
    """

    def __init__(self, actor: ActorParts, neuron: Callable[[Problem], Result], first: int = 0) -> None:
        self._neuron = neuron
        self._dynamics = actor.dynamics
        self.interface = actor.interface
        self._hidden = [*actor.hidden[:first], *map(_copied, actor.hidden[first:])]
        self._output = actor.output[0].clone(), actor.output[1].clone()
        self._bridges = [*(_copied_bridge(layer.bridge) for layer in actor.hidden), _copied_bridge(actor.bridge)]
        self._of_neurons = [
            (
                spread(layer.threshold, layer.neuron_shape).contiguous(),
                spread(layer.bias, layer.neuron_shape).contiguous(),
            )
            for layer in self._hidden
        ]
        widths = [actor.interface.observation_dim, *(len(threshold) for threshold, _ in self._of_neurons)]
        self.rows_at_once = max(1, _MOST_NUMBERS // (actor.dynamics.timesteps * max(widths)))

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        self._carries, self._counts, self._row_alpha = [carry.flatten(1) for carry in carries], counts, row_alpha

    def current(self, index: int, signal: Tensor) -> Tensor:
        """The current of a hidden layer, `[B, N]` or `[T, B, N]`; a DC neuron's is without the bias."""
        layer = self._hidden[index]
        signal = cross(self._bridges[index], signal)
        bias = None if self._dynamics.neuron.differential else layer.bias
        if layer.convolution is None:
            return functional.linear(signal, layer.weight.mT, bias)
        return convolve(signal, layer.weight, bias, layer.convolution)

    def fire(self, index: int, current: Tensor, rows: slice = slice(None)) -> Tensor:
        """The neurons of a hidden layer, for some rows of the batch: what the next layer receives.

        Carries and counts are those of the next decision afterwards.
        """
        threshold, bias = self._of_neurons[index]
        result = self._neuron(
            Problem(
                current=current,
                threshold=threshold,
                carry=self._carries[index][rows],
                dynamics=self._dynamics,
                bias=bias if self._dynamics.neuron.differential else None,
                row_alpha=None if self._row_alpha is None else self._row_alpha[rows],
                wants_spikes=self.wants_spikes(index),
                counts=self._counts[index, rows],
            )
        )
        return result.output

    def wants_spikes(self, index: int) -> bool:
        """Whether the layer behind a hidden one receives its spikes, and not their mean."""
        return index + 1 < len(self._hidden) and not self._bridges[index + 1]

    def decide(self, signal: Tensor, first: int = 0, rows: slice = slice(None)) -> Tensor:
        """The action for some rows of the batch, from the signal that the hidden layer `first` receives."""
        for index in range(first, len(self._hidden)):
            signal = self.fire(index, self.current(index, signal), rows)
        weight, bias = self._output
        return self.interface.action(functional.linear(cross(self._bridges[-1], signal), weight.mT, bias))

    def nothing(self) -> Tensor:
        """The actions of a batch without rows."""
        return self.interface.action_scale.new_empty(0, self.interface.action_dim)


class Engine(backends.Engine):
    """A whole actor, one operator for the currents and one for the neurons of each layer.

    Args:
        actor: checked.
        neuron: a backend's `neuron`.
    """

    def __init__(self, actor: ActorParts, neuron: Callable[[Problem], Result]) -> None:
        self._layers = Layers(actor, neuron)

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        self._layers.bind(carries, counts, row_alpha)

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        if check_finite and not is_finite(observation):
            return None
        return by_rows(
            lambda rows: self._layers.decide(self._layers.interface.normalize(observation[rows]), rows=rows),
            len(observation),
            self._layers.rows_at_once,
        )


def by_rows(decide: Callable[[slice], Tensor], batch: int, most: int) -> Tensor:
    """What `decide` says of all rows of a batch, for at most so many at a time."""
    return torch.cat([decide(slice(begin, begin + most)) for begin in range(0, max(batch, 1), most)])


def is_finite(observation: Tensor) -> bool:
    """Whether all of it is finite. Asking that waits for the device; nobody needs to ask it of whole numbers."""
    return not observation.is_floating_point() or bool(torch.isfinite(observation).all())


def convolve(signal: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution) -> Tensor:
    """The convolution of flat images `[…, in]`, flat, in float32 where cuDNN would take TF32 unless it is told."""
    images = signal.reshape(-1, *convolution.input_shape)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        found = functional.conv2d(images, weight, bias, convolution.stride, convolution.padding)
    return found.reshape(*signal.shape[:-1], math.prod(convolution.output_shape))


def cross(bridge: tuple[BridgeStep, ...], signal: Tensor) -> Tensor:
    """What stands on the other side of a bridge for a constant signal `[B, in]`."""
    for step in bridge:
        if isinstance(step, LinearStep):
            signal = functional.linear(signal, step.weight.mT, step.bias)
        elif isinstance(step, NormStep):
            signal = functional.layer_norm(signal, step.weight.shape, step.weight, step.bias, step.eps)
        else:
            signal = torch.tanh(signal)
    return signal


def _copied(layer: HiddenPart) -> HiddenPart:
    return layer._replace(
        weight=layer.weight.clone(), bias=layer.bias.clone(), threshold=layer.threshold.clone(), bridge=()
    )


def _copied_bridge(bridge: tuple[BridgeStep, ...]) -> tuple[BridgeStep, ...]:
    return tuple(
        step if isinstance(step, TanhStep) else step._replace(weight=step.weight.clone(), bias=step.bias.clone())
        for step in bridge
    )
