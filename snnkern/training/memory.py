"""States that a spiking actor learns from, and what the dense actor does in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Memory:
    """States and answers.

    Args:
        states: observations `[N, *observation_shape]`.
        answers: the dense actor's actions `[N, action_dim]`.
    """

    def __init__(self, states: NDArray[Any], answers: Tensor) -> None:
        self._states = torch.from_numpy(states)
        self._answers = answers

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, states: NDArray[Any], answers: Tensor) -> None:
        self._states = torch.cat([self._states, torch.from_numpy(states)])
        self._answers = torch.cat([self._answers, answers])

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """So many states with their answers, each as likely as any other."""
        rows = torch.randint(len(self), (number,), generator=generator)
        return self._states[rows], self._answers[rows]
