"""The layers of a spiking actor, and its decision as a pure function, one operator at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from snnkern.errors import InputError
from snnkern.kernels import ops
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.nn import Carry
from snnkern.kernels.tensors import CheckedState
from snnkern.policies.actor import Interface


class SpikingLayer(CheckedState):
    """A hidden layer of a `SpikingActor`: weight `[in, out]` (a spike adds a row), bias, threshold and carry."""

    weight: Tensor
    bias: Tensor
    threshold: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("threshold", threshold)
        self.carry = Carry()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} -> {self.weight.shape[1]}"


class Readout(CheckedState):
    """A layer of a `SpikingActor` that does not spike, such as the output layer: weight `[in, out]` and bias."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)


def decide_by_layers(
    signal: Tensor,
    carries: Sequence[Tensor],
    hidden: Sequence[SpikingLayer],
    output: Readout,
    dynamics: Dynamics,
    *,
    row_alpha: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Computes one decision of a spiking actor with one operator per layer, before tanh and scaling.

    Args:
        signal: what the first layer receives, `[B, in]`.
        carries: c of every hidden layer, `[B, N]`.
        hidden: the hidden layers.
        output: the output layer.
        dynamics: neuron, T, α, μ, κ.
        row_alpha: α of every row, `[B]`, in place of that of the dynamics.
        backend: a name from `snnkern.backends()`, or "auto".

    Returns:
        z `[B, out]`, and the next carry `[B, N]` and the spike counts `[B]` of every hidden layer.
    """
    differential = dynamics.neuron.differential
    after, counts = [], []
    for layer, carry in zip(hidden, carries, strict=True):
        run = ops.neuron_mean if layer is hidden[-1] else ops.neuron_spikes
        current = ops.linear(signal, layer.weight, None if differential else layer.bias, backend=backend)
        signal, carry, count = run(
            current,
            layer.threshold,
            carry,
            dynamics,
            bias=layer.bias if differential else None,
            row_alpha=row_alpha,
            backend=backend,
        )
        after.append(carry)
        counts.append(count)
    return ops.linear(signal, output.weight, output.bias, backend=backend), after, counts


class StatelessActor(nn.Module):
    """A spiking actor's decision as a pure function, for torch.export and torch.func.

    Made by `SpikingActor.stateless`, whose tensors it has.

    Args:
        hidden: the hidden layers.
        output: the output layer.
        interface: normalisation, tanh, action scale and bias.
        dynamics: neuron, T, α, μ, κ; the same for all layers.
        backend: a name from `snnkern.backends()`, or "auto".
        check_finite: whether an observation with a NaN or an infinity is refused.
    """

    hidden: Sequence[SpikingLayer]

    def __init__(
        self,
        hidden: Sequence[SpikingLayer],
        output: Readout,
        interface: Interface,
        dynamics: Dynamics,
        backend: str = "auto",
        *,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        layers = [SpikingLayer(layer.weight, layer.bias, layer.threshold) for layer in hidden]
        self.hidden = cast("Sequence[SpikingLayer]", nn.ModuleList(layers))
        self.output = output
        self.interface = interface
        self.dynamics = dynamics
        self.backend = backend
        self.check_finite = check_finite

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """The carries that an episode starts with, `[batch, N]` for every hidden layer."""
        return tuple(layer.threshold.new_zeros(batch, len(layer.threshold)) for layer in self.hidden)

    def forward(self, observation: Tensor, *carries: Tensor) -> tuple[Tensor, ...]:
        """The action `[B, action_dim]` for an observation `[B, observation_dim]`, and the next carries, `[B, N]` each.

        Raises:
            InputError: wrong shape, dtype or device; a NaN or infinity (where `check_finite`); a tensor requires grad
                while grad is on.
        """
        self.interface.check(observation, check_finite=False)
        if self.check_finite:
            observation = ops.finite(observation)
        if len(carries) != len(self.hidden):
            raise InputError(f"the actor has {len(self.hidden)} hidden layers, got carries for {len(carries)}")
        signal = self.interface.normalize(observation)
        z, after, _ = decide_by_layers(signal, carries, self.hidden, self.output, self.dynamics, backend=self.backend)
        return (self.interface.action(z), *after)
