"""The specification as a backend: slow, on any device, in any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from snnkern.kernels import reference
from snnkern.kernels.backends import ActorParts, Gradients, Problem, Result
from snnkern.kernels.surrogates import Surrogate
from snnkern.kernels.tensors import DTYPES

NAME = "reference"


def detail() -> str:
    return "readable PyTorch, any device and float dtype"


def unavailable() -> str:
    return ""


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    return dtype in DTYPES


def neuron(problem: Problem) -> Result:
    current, threshold, carry, dynamics, bias, row_alpha, wants_spikes, counts = problem
    decision = reference.neuron(current, threshold, carry, dynamics, bias, row_alpha)
    output = decision.spikes if wants_spikes else decision.mean
    if counts is None:
        return Result(output, decision.carry, decision.counts)
    return Result(output, carry.copy_(decision.carry), counts.copy_(decision.counts))


def neuron_gradients(problem: Problem, gradient: Tensor, surrogate: Surrogate) -> Gradients:
    current, threshold, carry, dynamics, bias, *_ = problem
    return reference.neuron_gradients(current, threshold, carry, dynamics, gradient, surrogate, bias)


def linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    return reference.linear_gradients(gradient, input, weight, of_input, of_weight)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return reference.linear(input, weight.T, bias)


def engine(actor: ActorParts) -> None:
    return None
