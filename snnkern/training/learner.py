"""A spiking actor that learns: Adam on weights, biases and log-thresholds, and the running average that acts."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.tensors import check_numbers, check_tensor
from snnkern.policies.spiking import SpikingActor
from snnkern.policies.training import TrainableActor
from snnkern.training import checkpoint
from snnkern.training.distance import Bounds, matching_loss
from snnkern.training.recipe import Recipe

_BETAS = (0.9, 0.99)  # of Adam
_LOWEST = 0.02  # of the learning rate, at the end


class Learner:
    """What learns, the running average of its numbers, and the best average so far.

    Args:
        snn: the spiking actor to start from, which stays as it is.
        recipe: learning rates and the like.
        dynamics: of the actor that learns.
        seed: of the batches and carries that are drawn.

    Attributes:
        draw: the generator that draws them.
        updates: so far.
    """

    def __init__(self, snn: SpikingActor, recipe: Recipe, dynamics: Dynamics, seed: int) -> None:
        start = copy.deepcopy(snn)
        start.alpha = dynamics.alpha
        self._recipe = recipe
        self._student = TrainableActor(start, recipe.surrogate)
        self._convolutions = [layer for layer in self._student.hidden if layer.convolution]
        self._average = copy.deepcopy(self._student).requires_grad_(False)
        self._best = copy.deepcopy(self._average)
        thresholds = [layer.log_threshold for layer in self._student.hidden]
        others = [number for number in self._student.parameters() if all(number is not one for one in thresholds)]
        self._optimizer = torch.optim.Adam(
            [
                {"params": others, "highest": recipe.learning_rate},
                {"params": thresholds, "highest": recipe.threshold_rate},
            ],
            betas=_BETAS,
            fused=True,
        )
        self.draw = torch.Generator(snn.output.weight.device).manual_seed(seed)
        self.updates = 0

    def average(self) -> SpikingActor:
        """The running average, which acts."""
        return self._average.spiking()

    def best(self) -> SpikingActor:
        """The average that was kept last."""
        return self._best.spiking()

    def keep_best(self) -> None:
        """Keeps the present average as the best."""
        self._best.load_state_dict(self._average.state_dict())

    def update(self, states: Tensor, answers: Tensor, part: float, bounds: Bounds | None) -> None:
        """One step of Adam.

        Args:
            states: observations `[B, *observation_shape]`.
            answers: the dense actor's actions there, `[B, action_dim]`.
            part: of all, which is done.
            bounds: of the actions that the environment gets.
        """
        recipe = self._recipe
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest"] * (_LOWEST + (1 - _LOWEST) * 0.5 * (1 + math.cos(math.pi * part)))
        for layer in self._convolutions:
            layer.requires_grad_(part >= recipe.frozen)
        spread = recipe.jitter * self._student.dynamics.alpha
        carries = self._student.draw_carries(len(states), spread, self.draw) if spread else None
        results, _ = self._student.decide(states, carries)
        self._optimizer.zero_grad(set_to_none=True)
        matching_loss(results, answers, self._student.interface, bounds).backward()
        self._optimizer.step()
        self.updates += 1
        stays = min(recipe.average, (1 + self.updates) / (10 + self.updates))  # early on, the first numbers do not
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.parameters()), list(self._student.parameters()), 1 - stays)

    def is_finite(self) -> bool:
        """Whether all is that the next update depends on, thresholds included."""
        numbers = itertools.chain(
            self._numbers().values(),
            (layer.threshold for actor in (self._student, self._average) for layer in actor.hidden),
        )
        return all(bool(torch.isfinite(tensor).all()) for tensor in numbers)

    def tensors(self) -> dict[str, Tensor]:
        """All that the next update depends on, by name; they are not copied."""
        return self._numbers() | {"draw": self.draw.get_state()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Goes on where `tensors` was called, after so many updates.

        Raises:
            InputError: the tensors are not those of this learner.
            RuntimeError: the generator's state is none.
        """
        self._check(tensors)
        with torch.no_grad():
            for name, parameter in self._parameters():
                parameter.copy_(tensors[name])
        for layer in (*self._student.hidden, *self._average.hidden, *self._best.hidden):
            check_numbers("a threshold", layer.threshold, least=0)
        groups, state = self._optimizer.state_dict()["param_groups"], {}
        for index in range(len(self._learnt())):
            if moments := checkpoint.part(tensors, f"adam.{index}"):
                state[index] = moments
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.draw.set_state(tensors["draw"])
        self.updates = updates

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuses tensors that are not those of `tensors`. Of what never learnt, Adam has none, and would take any."""
        wanted = dict(self._parameters())
        for index, number in enumerate(self._learnt()):
            if any(name.startswith(f"adam.{index}.") for name in tensors):
                wanted |= {f"adam.{index}.{key}": number for key in ("exp_avg", "exp_avg_sq")}
                wanted[f"adam.{index}.step"] = torch.zeros((), dtype=torch.float32)  # whatever torch's default is
        missing, unknown = sorted({*wanted, "draw"} - set(tensors)), sorted(set(tensors) - {*wanted, "draw"})
        if missing or unknown:
            raise InputError(f"it lacks {missing or 'nothing'}, and holds {unknown or 'nothing'} that is not known")
        for name, like in wanted.items():
            check_tensor(name, tensors[name], like.shape, like.dtype, torch.device("cpu"))
            least = 0.0 if name.endswith((".step", ".exp_avg_sq")) else -math.inf
            check_numbers(name, tensors[name], least=least)

    def _learnt(self) -> list[Tensor]:
        """The parameters in Adam's order."""
        return [number for group in self._optimizer.param_groups for number in group["params"]]

    def _numbers(self) -> dict[str, Tensor]:
        """All numbers that learning changes."""
        tensors = dict(self._parameters())
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": tensor for key, tensor in state.items()}
        return tensors

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, module in (("student", self._student), ("average", self._average), ("best", self._best)):
            yield from module.named_parameters(prefix=name)
