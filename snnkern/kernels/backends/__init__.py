"""What a backend is, and what it gets: a layer (`Problem`) or a whole actor (`ActorParts`).

`choice.py` says which backend runs. What gets here has been checked: layers by `snnkern.ops`, whole actors by
`arguments.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels.layers import Convolution
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.surrogates import Surrogate


class Problem(NamedTuple):
    """One decision step of one layer; tensors as in `snnkern.kernels.reference.neuron`.

    Where there are `counts`, the spikes' are to go there, and the next carry is to take the place of this one.
    """

    current: Tensor
    threshold: Tensor
    carry: Tensor
    dynamics: Dynamics
    bias: Tensor | None
    row_alpha: Tensor | None
    wants_spikes: bool
    counts: Tensor | None = None

    def new_result(self) -> Result:
        """Memory for what comes out, contiguous; an engine's carry and counts are its own."""
        carry = self.carry
        shape = (self.dynamics.timesteps, *carry.shape) if self.wants_spikes else carry.shape
        try:
            output = carry.new_empty(shape)
        except RuntimeError as error:  # torch has no type for it on a CPU
            if "allocate memory" not in str(error):
                raise
            raise InputError(beyond_memory(self.dynamics.timesteps, len(carry), carry.shape[1:])) from error
        if self.counts is not None:
            return Result(output, carry, self.counts)
        return Result(output, carry.new_empty(carry.shape), carry.new_empty(len(carry), dtype=torch.int64))


def divide(value: Tensor, number: float) -> Tensor:
    """value / number. Not as it stands: on CUDA, torch multiplies by the reciprocal of a Python number."""
    return value / torch.full((), number, dtype=value.dtype, device=value.device)


def beyond_memory(timesteps: int, rows: int, *neurons: Sequence[int]) -> str:
    """What an error says of a decision whose steps do not fit into memory, for neurons of these shapes."""
    count = sum(map(math.prod, neurons))
    return f"{timesteps:,} timesteps (T) of {rows:,} rows of {count:,} neurons need more memory than there is"


class Result(NamedTuple):
    """`output` is the spikes `[T, B, N]` where the problem wants them, else the mean output `[B, N]`."""

    output: Tensor
    carry: Tensor
    counts: Tensor


class Gradients(NamedTuple):
    """∂L/∂ of what a layer of neurons got: current `[T, B, N]` or `[B, N]`, threshold and bias `[N]`, carry `[B, N]`.

    The bias's is of zeros for neurons without one.
    """

    current: Tensor
    threshold: Tensor
    carry: Tensor
    bias: Tensor


class ActorInterface(NamedTuple):
    """What lies between an actor and its environment, as an actor's `Interface` says; the tensors are `[width]`.

    The first layer receives x = observation / scale + offset in the actor's dtype, normalised where there is a
    normalisation: `observation_mean` and `observation_std` are None for none, and `observation_clip` is infinite for no
    bound. Only a vector has a normalisation.
    """

    observation_shape: tuple[int, ...]
    action_dim: int
    action_scale: Tensor
    action_bias: Tensor
    squash: bool
    observation_mean: Tensor | None
    observation_std: Tensor | None
    observation_clip: float
    observation_dtype: torch.dtype  # of an observation: the actor's, or uint8
    observation_scale: float = 1.0
    observation_offset: float = 0.0

    @property
    def observation_dim(self) -> int:
        """Numbers of an observation."""
        return math.prod(self.observation_shape)

    @property
    def takes_vectors(self) -> bool:
        """Whether an observation is a vector in floating point that is taken as it is, but for a normalisation."""
        return (
            len(self.observation_shape) == 1
            and self.observation_dtype.is_floating_point
            and (self.observation_scale, self.observation_offset) == (1.0, 0.0)
        )

    def normalize(self, observation: Tensor) -> Tensor:
        """What the first layer receives for observations `[B, …]`, `[B, in]`."""
        signal = observation.to(self.action_scale.dtype).flatten(1)
        if self.observation_scale != 1:
            signal = divide(signal, self.observation_scale)
        if self.observation_offset != 0:
            signal = signal + self.observation_offset
        if self.observation_mean is None or self.observation_std is None:
            return signal
        normalized = (signal - self.observation_mean) / self.observation_std
        return normalized.clamp(-self.observation_clip, self.observation_clip)

    def action(self, z: Tensor) -> Tensor:
        """The action `[B, action_dim]` for the output layer's result z."""
        return self.action_scale * (torch.tanh(z) if self.squash else z) + self.action_bias


class LinearStep(NamedTuple):
    """A step of a bridge: x·W + b. The weight is `[in, out]`; an image is flattened."""

    weight: Tensor
    bias: Tensor


class NormStep(NamedTuple):
    """A step of a bridge: layer normalisation over all N, (x − mean) / sqrt(variance + eps) · weight + bias."""

    weight: Tensor
    bias: Tensor
    eps: float


class TanhStep(NamedTuple):
    """A step of a bridge: tanh."""


BridgeStep = LinearStep | NormStep | TanhStep


class HiddenPart(NamedTuple):
    """A hidden layer of a whole spiking actor.

    Attributes:
        weight: `[in, out]`; of a convolution `[out, in, ky, kx]`, as torch has it.
        bias: `[out]`.
        threshold: `[N]`; of a convolution one for every channel `[C]`, or for every neuron `[C, H, W]`.
        convolution: where it is one; None for a Linear layer, to which an image comes flat, in the order C, H, W.
        bridge: what stands before it and does not spike: it works on the mean output of the layer before, or on the
            observation, once per decision. The layer then receives a constant current.
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor
    convolution: Convolution | None = None
    bridge: tuple[BridgeStep, ...] = ()

    @property
    def neuron_shape(self) -> tuple[int, ...]:
        """Of the layer's neurons in a row: `(N,)`, or `(C, H, W)`."""
        return self.weight.shape[1:] if self.convolution is None else self.convolution.output_shape


class ActorParts(NamedTuple):
    """What a whole spiking actor consists of.

    `output` holds weight `[in, out]` and bias of the output layer, `bridge` what stands before it.
    """

    hidden: list[HiddenPart]
    output: tuple[Tensor, Tensor]
    interface: ActorInterface
    dynamics: Dynamics
    bridge: tuple[BridgeStep, ...] = ()

    @property
    def weights(self) -> list[Tensor]:
        """Of all layers, the output layer's the last."""
        return [*(layer.weight for layer in self.hidden), self.output[0]]

    @property
    def is_plain(self) -> bool:
        """Whether it has Linear layers alone, and takes vectors: what an engine without convolutions can serve."""
        bridges = (self.bridge, *(layer.bridge for layer in self.hidden))
        return (
            self.interface.takes_vectors
            and not any(bridges)
            and all(layer.convolution is None for layer in self.hidden)
        )

    def tensors(self) -> Iterator[Tensor]:
        """All of them, those that a bridge has included."""
        bridges = (step for bridge in (self.bridge, *(layer.bridge for layer in self.hidden)) for step in bridge)
        for part in (*self.hidden, self.output, self.interface, *bridges):
            yield from (value for value in part if isinstance(value, Tensor))


class Engine(ABC):
    """A whole actor, packed. It works on the caller's carries and spike counts `[hidden, B]`, in place.

    A carry is `[B, N]`; that of a convolution is `[B, C, H, W]`.

    Attributes:
        channels_last: whether the carries of convolutions come as `[B, H, W, C]`.
        usual: `decide` for the bound rows in one call, without the threads: it checks the observation by itself, and
            where that is not a plain tensor on the engine's device returns None, with nothing done. None for no such.
    """

    channels_last = False
    usual: Callable[[Tensor, bool], Tensor | None] | None = None

    @abstractmethod
    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        """Decides for these rows from now on; α is `[B]`, or None where all rows have that of the dynamics.

        Nothing checks the tensors: they are the caller's own, such as `snnkern.kernels.tensors.lasting` makes them.
        """

    @abstractmethod
    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        """The action for a checked observation `[B, …]`; None, and nothing done, where a value is not finite."""

    def act(self, observation: NDArray[Any], check_finite: bool, threads: int) -> NDArray[np.float32] | None:
        """The action for a NumPy observation; None, and nothing done, where `decide` has to serve it."""
        return None

    def warmup(self) -> object:
        """Does now what would delay the first decision for the bound rows; the carries and counts stay as they are."""
        return None


class Backend(Protocol):
    """One module of this package per backend.

    Attributes:
        NAME: how users name it.
    """

    NAME: str

    def detail(self) -> str:
        """What it runs on."""

    def unavailable(self) -> str:
        """Why it cannot be used on this machine; empty where it can."""

    def serves(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether it computes tensors of this device and dtype."""

    def neuron(self, problem: Problem) -> Result:
        """One decision step of one layer of neurons."""

    def neuron_gradients(self, problem: Problem, gradient: Tensor, surrogate: Surrogate) -> Gradients:
        """The gradients of one layer; `gradient` is that of the spikes, or of the mean output, as the problem wants."""

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x·W + b; the weight is `[in, out]`."""

    def linear_gradients(
        self, gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
    ) -> tuple[Tensor, Tensor]:
        """The gradients of such a product with respect to input `[rows, in]` and weight, those that are wanted.

        Of the gradient `[…, out]` and the input `[…, in]`, all but the last dimension are rows.
        """

    def engine(self, actor: ActorParts) -> Engine | None:
        """A whole actor in one call; None where the backend has none for it."""
