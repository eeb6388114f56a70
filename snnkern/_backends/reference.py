"""The specification as a backend: slow, on any device, in any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from snnkern import reference
from snnkern._backends import ActorParts, Problem, Result

NAME = "reference"
DEVICES = None


def detail() -> str:
    return "readable PyTorch, any device and float dtype"


def unavailable() -> str:
    return ""


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    return dtype.is_floating_point


def neuron(problem: Problem) -> Result:
    decision = reference.neuron(problem.current, problem.threshold, problem.carry, problem.dynamics, problem.bias)
    output = decision.spikes if problem.wants_spikes else decision.mean
    return Result(output, decision.carry, decision.counts)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return reference.linear(input, weight.T, bias)


def engine(actor: ActorParts) -> None:
    return None
