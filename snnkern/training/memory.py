"""States that a spiking actor learns from, and what the dense actor does in them."""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """States and answers, to which more can be added.

    Args:
        states: observations `[N, *observation_shape]`.
        answers: the dense actor's actions there, `[N, action_dim]`.
    """

    def __init__(self, states: Tensor, answers: Tensor) -> None:
        self.states, self.answers = states, answers

    def __len__(self) -> int:
        return len(self.answers)

    def add(self, states: Tensor, answers: Tensor) -> None:
        """Adds states and their answers."""
        self.states = torch.cat([self.states, states])
        self.answers = torch.cat([self.answers, answers])

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """So many states with their answers, each as likely as any other, with repetitions.

        Args:
            number: of states.
            generator: of the random numbers, on the device of the states.
        """
        rows = torch.randint(len(self), (number,), generator=generator, device=generator.device)
        return self.states[rows], self.answers[rows]
