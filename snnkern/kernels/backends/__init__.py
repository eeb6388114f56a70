"""What a backend is, and what it gets: a layer (`Problem`) or a whole actor (`ActorParts`).

`choice.py` says which backend runs. What gets here has been checked: layers by `snnkern.ops`, whole actors by
`arguments.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.kernels.neurons import Dynamics


class Problem(NamedTuple):
    """One decision step of one layer; tensors as in `snnkern.kernels.reference.neuron`."""

    current: Tensor
    threshold: Tensor
    carry: Tensor
    dynamics: Dynamics
    bias: Tensor | None
    row_alpha: Tensor | None
    wants_spikes: bool

    def new_result(self) -> Result:
        """Memory for what comes out, contiguous."""
        carry = self.carry
        shape = (self.dynamics.timesteps, *carry.shape) if self.wants_spikes else carry.shape
        counts = carry.new_empty(len(carry), dtype=torch.int64)
        return Result(carry.new_empty(shape), carry.new_empty(carry.shape), counts)


class Result(NamedTuple):
    """`output` is the spikes `[T, B, N]` where the problem wants them, else the mean output `[B, N]`."""

    output: Tensor
    carry: Tensor
    counts: Tensor


class ActorInterface(NamedTuple):
    """What lies between an actor and its environment, as an actor's `Interface` says; the tensors are `[width]`.

    `observation_mean` and `observation_std` are None for no normalisation, and `observation_clip` is infinite for no
    bound.
    """

    observation_dim: int
    action_dim: int
    action_scale: Tensor
    action_bias: Tensor
    squash: bool
    observation_mean: Tensor | None
    observation_std: Tensor | None
    observation_clip: float


class ActorParts(NamedTuple):
    """What a whole spiking actor consists of; weights are `[in, out]`.

    `hidden` holds weight, bias and threshold of every hidden layer, `output` weight and bias of the output layer.
    """

    hidden: list[tuple[Tensor, Tensor, Tensor]]
    output: tuple[Tensor, Tensor]
    interface: ActorInterface
    dynamics: Dynamics


class Engine(ABC):
    """A whole actor, packed. It works on the caller's carries `[B, N]` and spike counts `[hidden, B]`, in place."""

    @abstractmethod
    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        """Decides for these rows from now on; α is `[B]`, or None where all rows have that of the dynamics.

        Nothing checks the tensors: they are the caller's own, such as `snnkern.kernels.tensors.lasting` makes them.
        """

    @abstractmethod
    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        """The action for a checked observation `[B, in]`; None, and nothing done, where a value is not finite."""

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

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x·W + b; the weight is `[in, out]`."""

    def engine(self, actor: ActorParts) -> Engine | None:
        """A whole actor in one call; None where the backend has none for it."""
