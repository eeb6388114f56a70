"""A spiking actor whose numbers can learn."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from snnkern.kernels import ops
from snnkern.policies.spiking import SpikingActor


class Student(nn.Module):
    """The decision of a spiking actor with gradients: weights, biases and the logarithms of thresholds are parameters.

    A threshold of 0 stays one. No carry comes out: every decision is an example of its own.

    Args:
        snn: whose numbers it starts with; it is not changed.
        surrogate: what stands for the derivative of a spike (`snnkern.ops.neuron_spikes`).
    """

    def __init__(self, snn: SpikingActor, surrogate: str) -> None:
        super().__init__()
        self._snn = copy.deepcopy(snn)
        self._surrogate = surrogate
        layers = [*snn.hidden, snn.output]
        self.weight = nn.ParameterList([layer.weight.detach().clone() for layer in layers])
        self.bias = nn.ParameterList([layer.bias.detach().clone() for layer in layers])
        self.logarithm = nn.ParameterList([torch.log(layer.threshold.where(layer.threshold > 0, 1)) for layer in snn.hidden])

    def weights(self) -> list[Tensor]:
        """Weights and biases."""
        return [*self.weight, *self.bias]

    def thresholds(self) -> list[Tensor]:
        """The logarithms of thresholds."""
        return list(self.logarithm)

    def carries(self, batch: int, jitter: float, draw: torch.Generator) -> list[Tensor]:
        """Carries `[batch, N]` of every layer, drawn between plus and minus so many thresholds."""
        return [
            (2 * torch.rand(batch, *layer.neuron_shape, generator=draw, dtype=layer.threshold.dtype) - 1) * jitter * layer.threshold
            for layer in self._snn.hidden
        ]

    def forward(self, observation: Tensor, carries: Sequence[Tensor]) -> Tensor:
        """The action `[B, action_dim]`."""
        snn, dynamics = self._snn, self._snn.dynamics
        signal = snn.interface.normalize(observation)
        for index, (layer, carry) in enumerate(zip(snn.hidden, carries, strict=True)):
            last = index + 1 == len(snn.hidden)
            threshold = torch.where(layer.threshold > 0, self.logarithm[index].exp(), 0)
            bias = self.bias[index]
            differential = dynamics.neuron.differential
            run = ops.neuron_mean if last else ops.neuron_spikes
            current = ops.linear(signal, self.weight[index], None if differential else bias, trainable=True)
            signal, *_ = run(current, threshold, carry, dynamics, bias=bias if differential else None, surrogate=self._surrogate)
        return snn.interface.action(ops.linear(signal, self.weight[-1], self.bias[-1], trainable=True))

    def actor(self) -> SpikingActor:
        """A spiking actor of the same form, to be written to."""
        return copy.deepcopy(self._snn)

    @torch.no_grad()
    def write(self, snn: SpikingActor, numbers: Iterable[Tensor]) -> None:
        """Gives a spiking actor these numbers, in the order of `parameters()`; its carry is reset."""
        given = dict(zip((name for name, _ in self.named_parameters()), numbers, strict=True))
        for index, layer in enumerate([*snn.hidden, snn.output]):
            layer.weight.copy_(given[f"weight.{index}"])
            layer.bias.copy_(given[f"bias.{index}"])
        for index, layer in enumerate(snn.hidden):
            layer.threshold.copy_(torch.where(layer.threshold > 0, given[f"logarithm.{index}"].exp(), 0))
        snn.reset()
