"""The layers of a spiking actor, and its decision as a pure function, one operator at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from snnkern.errors import InputError
from snnkern.kernels import ops
from snnkern.kernels.layers import Convolution, spread
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.nn import Carry
from snnkern.kernels.tensors import CheckedState
from snnkern.policies.actor import Interface, layer_norm, linear
from snnkern.policies.actor import describe_step as describe_dense_step


class SpikingLayer(CheckedState):
    """A hidden layer of a `SpikingActor`: weight, bias, threshold and carry.

    A Linear layer's weight is `[in, out]` (a spike adds a row), its threshold `[N]`. A convolution's weight is
    `[out, in, ky, kx]`, and its threshold one for every channel `[C]` or for every neuron `[C, H, W]`.
    """

    differentiable = False
    weight: Tensor
    bias: Tensor
    threshold: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, threshold: Tensor, convolution: Convolution | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("threshold", threshold)
        self._convolution = convolution
        self.carry = Carry()

    @property
    def convolution(self) -> Convolution | None:
        """The geometry of a convolution; None for a Linear layer. It cannot be set: an engine has packed it."""
        return self._convolution

    @property
    def neuron_shape(self) -> tuple[int, ...]:
        """Of the layer's neurons in a row, and so of its carry: `(N,)`, or `(C, H, W)`."""
        return tuple(self.bias.shape) if self._convolution is None else self._convolution.output_shape

    def start(self, batch: int, uncarried: bool = False) -> Tensor:
        """The carry `[batch, *neuron_shape]` that a decision of this many rows starts with, as `Carry.start`."""
        return self.carry.start(batch, self.threshold, uncarried, self.neuron_shape)

    def per_neuron(self, value: Tensor) -> Tensor:
        """The threshold or the bias as one number for every neuron, flat: `[N]`, N = C·H·W."""
        return value if self._convolution is None else spread(value, self._convolution.output_shape)

    def current(self, signal: Tensor, with_bias: bool, backend: str) -> Tensor:
        """What the neurons receive from signals `[…, in]` or `[…, C, H, W]`, with one or two dimensions in front.

        Returns:
            `[…, N]`, the neurons of a convolution flat.
        """
        bias = self.bias if with_bias else None
        if self._convolution is None:
            return ops.linear(flat(signal), self.weight, bias, backend=backend, trainable=self.differentiable)
        images = signal.flatten(0, -4)  # all T·B at once
        product = nn.functional.conv2d(images, self.weight, bias, self._convolution.stride, self._convolution.padding)
        return product.flatten(1).unflatten(0, signal.shape[:-3])

    def extra_repr(self) -> str:
        return str(self._convolution) if self._convolution else f"{self.weight.shape[0]} -> {self.weight.shape[1]}"


def check_carries(carries: object, layers: int) -> None:
    """Refuses what is not one carry for each hidden layer.

    Raises:
        InputError: says what was given.
    """
    if not isinstance(carries, Sequence) or len(carries) != layers:
        given = f"carries for {len(carries)}" if isinstance(carries, Sequence) else type(carries).__name__
        raise InputError(f"the actor has {layers} hidden layers, got {given}")


def flat(signal: Tensor) -> Tensor:
    """Images `[B, C, H, W]` or `[T, B, C, H, W]` as vectors; vectors `[B, N]` or `[T, B, N]` as they are."""
    return signal.flatten(-3) if signal.dim() > 3 else signal


class Readout(CheckedState):
    """A layer of a `SpikingActor` that does not spike, such as the output layer: weight `[in, out]` and bias."""

    differentiable = False
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, signal: Tensor, backend: str = "auto") -> Tensor:
        """`[B, out]` for `[B, in]`."""
        return ops.linear(signal, self.weight, self.bias, backend=backend, trainable=self.differentiable)


class Norm(CheckedState):
    """A layer normalisation in a bridge: weight and bias `[N]`."""

    differentiable = True
    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self._eps = eps

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        return self._eps

    def forward(self, signal: Tensor, backend: str = "auto") -> Tensor:
        """`[B, N]` for `[B, N]`."""
        return nn.functional.layer_norm(signal, self.weight.shape, self.weight, self.bias, self._eps)


class Tanh(nn.Module):
    """A tanh in a bridge."""

    differentiable = True

    def forward(self, signal: Tensor, backend: str = "auto") -> Tensor:
        """`[B, N]` for `[B, N]`."""
        return torch.tanh(signal)


def bridge_step(step: nn.Module) -> Readout | Norm | Tanh:
    """A step of a dense actor's bridge as one of a spiking actor's, with tensors of its own."""
    if isinstance(step, nn.Linear):
        return Readout(step.weight.detach().T.clone(memory_format=torch.contiguous_format), step.bias.detach().clone())
    if isinstance(step, nn.LayerNorm):
        return Norm(step.weight.detach().clone(), step.bias.detach().clone(), step.eps)
    return Tanh()


def dense_step(step: Readout | Norm | Tanh) -> nn.Module:
    """The step of a dense actor's bridge that `bridge_step` has made one of a spiking actor's."""
    if isinstance(step, Readout):
        return linear(step.weight.mT, step.bias)
    if isinstance(step, Norm):
        return layer_norm(len(step.weight), step.weight, step.bias, step.eps)
    return nn.Tanh()


def describe_step(step: Readout | Norm | Tanh) -> dict[str, object]:
    """A step of a bridge as a file says it."""
    return describe_dense_step(dense_step(step))


def bridged(signal: Tensor, chain: Sequence[Readout | Norm | Tanh], backend: str = "auto") -> Tensor:
    """What a bridge makes of a mean output or an observation `[B, …]`; without steps it is as it was."""
    for step in chain:
        signal = step(flat(signal), backend)
    return signal


Bridges = Mapping[str, Sequence[Readout | Norm | Tanh]]


def decide_by_layers(
    signal: Tensor,
    carries: Sequence[Tensor],
    hidden: Sequence[SpikingLayer],
    output: Readout,
    dynamics: Dynamics,
    *,
    bridges: Bridges | None = None,
    row_alpha: Tensor | None = None,
    backend: str = "auto",
    surrogate: str | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Computes one decision of a spiking actor with one operator per layer, before tanh and scaling.

    Args:
        signal: what the first layer receives, `[B, in]` or `[B, C, H, W]`.
        carries: c of every hidden layer, `[B, N]` or `[B, C, H, W]`.
        hidden: the hidden layers.
        output: the output layer.
        dynamics: neuron, T, α, μ, κ.
        bridges: what stands in front of a layer and does not spike, by the layer's index.
        row_alpha: α of every row, `[B]`, in place of that of the dynamics.
        backend: a name from `snnkern.backends()`, or "auto".
        surrogate: what stands for the derivative of a spike; None for inference.

    Returns:
        z `[B, out]`, and the next carry, shaped like the one before, and the spike counts `[B]` of every hidden layer.
    """
    differential = dynamics.neuron.differential
    bridges = dict(bridges.items()) if bridges else {}
    after, counts = [], []
    for index, (layer, carry) in enumerate(zip(hidden, carries, strict=True)):
        signal = bridged(signal, bridges.get(str(index), ()), backend)
        # A bridge works on the mean, and so does the output layer.
        ends = index + 1 == len(hidden) or str(index + 1) in bridges
        run = ops.neuron_mean if ends else ops.neuron_spikes
        sent, next_carry, count = run(
            layer.current(signal, not differential, backend),
            layer.per_neuron(layer.threshold),
            carry.flatten(1) if layer.convolution else carry,
            dynamics,
            bias=layer.per_neuron(layer.bias) if differential else None,
            row_alpha=row_alpha,
            backend=backend,
            surrogate=surrogate,
        )
        signal = sent.unflatten(-1, layer.neuron_shape) if layer.convolution else sent
        after.append(next_carry.unflatten(-1, layer.neuron_shape) if layer.convolution else next_carry)
        counts.append(count)
    signal = bridged(signal, bridges.get(str(len(hidden)), ()), backend)
    return output(flat(signal), backend), after, counts


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
        bridges: what stands in front of a layer and does not spike, by the layer's index.
    """

    hidden: Sequence[SpikingLayer]
    bridges: Bridges

    def __init__(
        self,
        hidden: Sequence[SpikingLayer],
        output: Readout,
        interface: Interface,
        dynamics: Dynamics,
        backend: str = "auto",
        *,
        check_finite: bool = True,
        bridges: Bridges | None = None,
    ) -> None:
        super().__init__()
        layers = [SpikingLayer(layer.weight, layer.bias, layer.threshold, layer.convolution) for layer in hidden]
        self.bridges = nn.ModuleDict() if bridges is None else bridges  # type: ignore[assignment]
        self.hidden = cast("Sequence[SpikingLayer]", nn.ModuleList(layers))
        self.output = output
        self.interface = interface
        self.dynamics = dynamics
        self.backend = backend
        self.check_finite = check_finite

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """The carries that an episode starts with, `[batch, N]` or `[batch, C, H, W]` for every hidden layer."""
        return tuple(layer.threshold.new_zeros(batch, *layer.neuron_shape) for layer in self.hidden)

    def forward(self, observation: Tensor, *carries: Tensor) -> tuple[Tensor, ...]:
        """The action `[B, action_dim]` for an observation `[B, *observation_shape]`, and the next carries.

        Raises:
            InputError: wrong shape, dtype or device; a NaN or infinity (where `check_finite`); a tensor requires grad
                while grad is on.
        """
        self.interface.check(observation, check_finite=False)
        if self.check_finite and observation.is_floating_point():
            observation = ops.finite(observation)
        check_carries(carries, len(self.hidden))
        signal = self.interface.normalize(observation)
        z, after, _ = decide_by_layers(
            signal, carries, self.hidden, self.output, self.dynamics, bridges=self.bridges, backend=self.backend
        )
        return (self.interface.action(z), *after)
