"""Refinement: a spiking actor learns to act as the dense actor does, by gradients and without reward.

Sources: Ross, Gordon, Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011 (DAgger); Neftci, Mostafa, Zenke, "Surrogate Gradient Learning in Spiking Neural Networks",
IEEE Signal Processing Magazine 2019.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.errors import InputError, check_number, check_whole
from snnkern.limits import check_seed
from snnkern.policies.spiking import SpikingActor, dense_actor
from snnkern.training.memory import Memory
from snnkern.training.recipe import Recipe
from snnkern.training.student import Student
from snnkern.training.visits import Environment, Visitor

_AT_ONCE = 4_096  # observations that an actor answers for
_HELD_BACK = 10  # without an environment, one of so many observations measures
_FIRST = 20  # updates after which the time of the others is known
_FEWEST = 50  # updates of a last round, below which it is not worth the time


class Progress(NamedTuple):
    """How far a refinement is.

    Attributes:
        seconds: spent so far.
        rounds: finished so far.
        error: action error of the best actor so far on states that it visits: the root of the mean square, as a part
            of the action's scale. NaN before it was first measured.
        given: the same of the actor that was given.
    """

    seconds: float
    rounds: int
    error: float
    given: float


def refine(
    snn: SpikingActor,
    observations: NDArray[Any],
    env: Environment | None = None,
    *,
    minutes: float = 5.0,
    rounds: int | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> SpikingActor:
    """Refines a converted actor: weights, biases and thresholds learn to act as the dense actor does.

    The dense actor is the one that `snn` was converted from, which it knows. In every round the spiking actor runs in
    the environment; the dense actor says what it would have done in the states that were visited; then gradients
    descend on the distance between the two actions. No reward is read: the environment is wrapped so that there is
    none. What comes back is the best actor of all rounds by its action error on states that it visits itself, measured
    before it learns from them. The one that was given takes part, so the error is never larger.

    Args:
        snn: a converted actor. It is not changed.
        observations: of the dense actor, `[N, *observation_shape]`, as for `convert`.
        env: a registered name, or a function that makes the environment. Without one, it learns from `observations`
            alone, of which one in ten measures.
        minutes: of time in all, environment steps included.
        rounds: at most so many, whatever time is left. With them and enough time, a seed gives the same result again on
            the same machine.
        recipe: learning rates and the like; the default is the same for all actors.
        seed: of the episodes and of what is drawn.
        progress: called after every few updates and decisions.

    Returns:
        a new spiking actor with the same dynamics. Its metadata say how it was refined ("refined").

    Raises:
        InputError: an argument does not fit.
    """
    if not isinstance(snn, SpikingActor):
        raise InputError(f"refine takes a SpikingActor that convert has made, got {type(snn).__name__}")
    limit = 60 * check_number("minutes", minutes, 0.01, 1e5)
    if rounds is not None:
        check_whole("rounds", rounds, least=1)
    run = _Run(snn, observations, env, limit, recipe or Recipe(), check_seed(seed), progress)
    with closing(run.visitor) if run.visitor else nullcontext():
        while run.measure() and (rounds is None or run.rounds < rounds) and run.learn():
            pass
    return run.result()


class _Run:
    """A refinement under way: `measure` and `learn` in turn, measuring last."""

    def __init__(
        self,
        snn: SpikingActor,
        observations: NDArray[Any],
        env: Environment | None,
        limit: float,
        recipe: Recipe,
        seed: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._began = time.monotonic()
        self._limit, self._recipe, self._seed, self._report = limit, recipe, seed, progress
        self._given = snn
        self._teacher = dense_actor(snn)
        self._student = Student(snn, recipe.surrogate)
        self._acting = self._student.actor()
        self.visitor = None if env is None else Visitor(env, self._acting, recipe.rows, seed)
        states = _checked(observations, snn)
        held = np.arange(len(states)) % _HELD_BACK == 0
        self._held = states[held]
        if env is None and len(states) > 1:
            states = states[~held]
        self._recorded = Memory(states, self._answers(states))
        self._visited: Memory | None = None
        self._draw = torch.Generator().manual_seed(seed)
        self._numbers = list(self._student.parameters())
        self._average = [number.detach().clone() for number in self._numbers]
        self._optimizer = torch.optim.Adam(
            [
                {"params": self._student.weights(), "rate": recipe.learning_rate},
                {"params": self._student.thresholds(), "rate": recipe.threshold_rate},
            ],
            betas=(0.9, 0.99),
        )
        self._updates = 0
        self.rounds = 0
        self._measuring = 0.0  # seconds that the last measurement took
        self._given_error = self._best_error = math.nan
        self._best = [number.clone() for number in self._average]

    def measure(self) -> bool:
        """Sees how the average acts, and keeps it if it is the best so far. Whether time is left."""
        began = self._spent()
        self._student.write(self._acting, self._average)
        if self.visitor is None:
            states, actions = self._held, _in_parts(self._act, self._held)
        else:
            seen, actions = self.visitor.visit(self._acting, self.rounds, self._recipe.states, self._tell)
            states = _checked(seen, self._given)
        answers = self._answers(states)
        error = float(self._distance(torch.from_numpy(actions).to(answers), answers).square().mean().sqrt())
        if self.rounds == 0:
            self._given_error = self._best_error = error
        elif error < self._best_error:
            self._best_error = error
            self._best = [number.clone() for number in self._average]
        if self.visitor is not None:
            if self._visited is None:
                self._visited = Memory(states, answers)
            else:
                self._visited.add(states, answers)
        self._measuring = self._spent() - began
        self._tell()
        return self._spent() < self._limit

    def learn(self) -> bool:
        """A round of updates, or as many as there is time for. Whether there was any."""
        began, planned, done = self._spent(), self._recipe.updates, 0
        end = self._limit - self._measuring
        while done < planned:
            if done == min(_FIRST, planned - 1):
                fit = int(_FIRST * (end - began) / max(self._spent() - began, 1e-9))
                if fit < min(_FEWEST, planned):
                    return False
                planned = min(planned, fit)
            self._update(done / planned)
            done += 1
            if done % _FIRST == 0:
                self._tell()
        self.rounds += 1
        return True

    def _update(self, part: float) -> None:
        """One step of Adam, after this part of a round."""
        recipe = self._recipe
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * part))
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * fall
        recorded = recipe.batch if self._visited is None else round(recipe.batch * recipe.recorded)
        parts = [self._recorded.draw(recorded, self._draw)] if recorded else []
        if self._visited is not None and recorded < recipe.batch:
            parts.append(self._visited.draw(recipe.batch - recorded, self._draw))
        states, answers = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        self._optimizer.zero_grad(set_to_none=True)
        action = self._student(states, self._student.carries(len(states), recipe.jitter, self._draw))
        distance = self._distance(action, answers)
        loss = torch.nn.functional.huber_loss(distance, torch.zeros_like(distance), delta=recipe.smoothness)
        loss.backward()
        self._optimizer.step()
        self._updates += 1
        kept = min(recipe.average, (1 + self._updates) / (10 + self._updates))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._numbers, 1 - kept)

    def result(self) -> SpikingActor:
        refined = self._student.actor()
        self._student.write(refined, self._best)
        refined.metadata["refined"] = (
            f"{self.rounds} rounds, {self._updates:,} updates, seed {self._seed}: action error "
            f"{self._given_error:.4f} -> {self._best_error:.4f}"
        )
        return refined

    def _distance(self, action: Tensor, answer: Tensor) -> Tensor:
        return (action - answer) / self._teacher.interface.action_scale

    def _answers(self, states: NDArray[Any]) -> Tensor:
        return torch.from_numpy(_in_parts(self._teacher.act, states))

    def _act(self, states: NDArray[Any]) -> NDArray[Any]:
        self._acting.reset()
        return self._acting.act(states)

    def _spent(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, _: int = 0) -> None:
        if self._report:
            self._report(Progress(self._spent(), self.rounds, self._best_error, self._given_error))


def _in_parts(act: Callable[[NDArray[Any]], NDArray[Any]], states: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([act(states[at : at + _AT_ONCE]) for at in range(0, len(states), _AT_ONCE)])


def _checked(observations: NDArray[Any], snn: SpikingActor) -> NDArray[Any]:
    """Observations as the actor takes them, in memory of their own kind.

    Raises:
        InputError: they are none, or hold a NaN or an infinity.
    """
    array = np.asarray(observations)
    snn.interface.check_array(array)
    if array.ndim == len(snn.interface.observation_shape) or not len(array):
        raise InputError(f"observations must be rows [N, ...], at least one, got shape {list(array.shape)}")
    if array.dtype.kind == "f":
        array = array.astype(np.float64 if snn.interface.action_scale.dtype == torch.float64 else np.float32)
        if not np.isfinite(array).all():
            raise InputError("observations hold NaN or infinity")
    return np.ascontiguousarray(array)
