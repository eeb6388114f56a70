"""Where Triton's kernels run, and what a launch gives each of them. triton is imported where it is first used."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from snnkern.kernels.neurons import Dynamics

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


class Parameters(NamedTuple):
    """The numbers of a `Dynamics` that kernels take at run time: no integers, some of which Triton compiles for."""

    initial_fraction: float
    negative_fraction: float
    decay: float
    alpha: float
    memory: float
    clip: float


def parameters(dynamics: Dynamics) -> Parameters:
    """The parameters of a launch."""
    return Parameters(*(getattr(dynamics.numbers, name) for name in Parameters._fields))


_NO_CHANGE = nullcontext()


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, whatever device the tensors are on."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return _NO_CHANGE
    return torch.cuda.device(tensor.device)
