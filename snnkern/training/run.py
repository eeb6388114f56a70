"""A refinement under way: visits, rounds of updates, the choice of the best, and what is kept of them on disk."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from snnkern.control.environments import Environment
from snnkern.errors import InputError, InputWarning
from snnkern.files import make_folder
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.tensors import check_numbers
from snnkern.policies.actor import update_with_tensors
from snnkern.policies.spiking import SpikingActor, dense_actor
from snnkern.training import checkpoint
from snnkern.training.checkpoint import Checkpoint
from snnkern.training.distance import Bounds, action_error
from snnkern.training.learner import Learner
from snnkern.training.memory import Memory
from snnkern.training.recipe import Recipe
from snnkern.training.states import answers_of, as_tensor, finite_rows
from snnkern.training.visits import Visitor

_HELD_BACK = 10  # without an environment, one of so many observations measures
_FIRST = 20  # updates after which the time of the others is known, again and again
_FEWEST = 50  # updates of a last round, below which it is not worth the time
_SHARE = 1 / 3  # of the time that is left, which a visit may take: as much is left for learning, and for the last visit
_SLACK = 0.25  # of the last visit's time, which the next one may take more, and beyond all the time


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


@dataclass(frozen=True)
class Task:
    """All that a refinement depends on but time; `spaces` are the environment's, as a text."""

    snn: SpikingActor
    observations: Tensor
    env: Environment | None
    spaces: str
    bounds: Bounds | None
    recipe: Recipe
    dynamics: Dynamics
    seed: int

    def key(self) -> str:
        """A hash of it; of a function that makes environments, its name and their spaces."""
        name = env = self.env
        if env is not None and not isinstance(env, str):
            made = getattr(env, "func", env)  # of functools.partial
            kind = type(made)
            name = f"{getattr(made, '__module__', kind.__module__)}.{getattr(made, '__qualname__', kind.__qualname__)}"
        snn = self.snn
        parts = snn.dynamics, snn.alpha, snn.activation, name, self.spaces, self.recipe, self.dynamics, self.seed
        digest = hashlib.sha256(repr(parts).encode())
        update_with_tensors(digest, snn)
        digest.update(self.observations.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


class Run:
    """A refinement under way: `measure` and `learn` in turn, measuring first and last.

    Args:
        task: what is refined, and how.
        began: when, as `time.monotonic` says.
        limit: seconds in all.
        planned: rounds, if their number is.
        store: folder for what is finished.
        progress: called now and then.
    """

    def __init__(
        self,
        task: Task,
        began: float,
        limit: float,
        planned: int | None,
        store: Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._task, self._began, self._limit, self._planned = task, began, limit, planned
        self._store, self._report = store, progress
        self._env, self._recipe = task.env, task.recipe
        self._key = "" if store is None else task.key()
        self._teacher = dense_actor(task.snn)
        self._given = copy.deepcopy(task.snn)
        self._learner = Learner(task.snn, task.recipe, task.dynamics, task.seed)
        observations = task.observations
        held = torch.arange(len(observations)) % _HELD_BACK == 0
        self._held = observations[held]
        alone = task.env is None and len(observations) > 1
        recorded = observations[~held] if alone else observations
        self._recorded = Memory(recorded, answers_of(self._teacher, recorded))
        self._visited = Memory(recorded[:0], self._recorded.answers[:0])
        self._sizes: list[int] = []  # states of every visit
        self.rounds = 0
        self._measuring = 0.0  # seconds that the last measurement took
        self._given_error = self._best_error = math.nan
        self._written = 0  # visits in the store
        self._warned = False
        self._measured = False  # whether the present average was
        self._taken_up: int | None = None  # rounds that were in the store
        self._visitor: Visitor | None = None
        if store is not None:
            make_folder(store)
            if kept := checkpoint.read(store, self._key):
                self._take_up(*kept)

    def close(self) -> None:
        """Closes the environments."""
        if self._visitor is not None:
            self._visitor.close()

    def measure(self) -> bool:
        """Sees how the average acts, and keeps it if it is the best so far. Whether time and rounds are left."""
        if self._measured and not self._goes_on():  # by an earlier call
            self._tell()
            return False
        began = self._spent()
        acting = self._learner.average() if self.rounds else self._given
        try:
            states, actions, answers = self._states(acting)
        except Exception as failure:  # whatever an environment raises
            again = self._store is None or self._taken_up == self.rounds
            if not self.rounds or (self._goes_on() and not again):
                raise  # with a store, the same call goes on from here; should it fail again, it returns the best
            why = " ".join(f"{type(failure).__name__}: {failure}".split())
            self._warn(f"the visit after round {self.rounds} failed ({why}): what comes back is the best actor so far")
            return False
        distance = self._distance(actions, answers)
        error = float(distance.square().mean().sqrt())
        if not math.isfinite(error):
            error = float(distance.double().square().mean().sqrt())  # a square overflowed
        if self.rounds == 0:
            self._given_error = self._best_error = error
        elif error < self._best_error and self._beats_the_given(states, answers):
            self._best_error = error
            self._learner.keep_best()
        if self._env is not None:
            self._visited.add(states, answers)
            self._sizes.append(len(states))
        self._measuring = self._spent() - began
        self._tell()
        if self._goes_on():
            return True
        self._measured = True
        if self.rounds:
            self._keep()
        else:
            self._warn("there was no time for a round: give more minutes")
        return False

    def learn(self) -> bool:
        """A round of updates, or as many as there is time for. Whether there was any."""
        began, planned, done = self._spent(), self._recipe.updates, 0
        while done < planned:
            if done and (done % _FIRST == 0 or (done < _FIRST and self._spent() > self._limit)):
                left, pace = self._limit - self._measuring - self._spent(), (self._spent() - began) / done
                planned = min(self._recipe.updates, done + max(int(left / max(pace, 1e-9)), 0))
                if done <= _FIRST and planned < min(_FEWEST, self._recipe.updates):
                    if not self.rounds:
                        self._warn("there was no time for a round: give more minutes")
                    return False
                self._tell()
            self._learner.update(*self._batch(), self._part(done / planned), self._task.bounds)
            done += 1
        if not self._learner.is_finite():
            self._warn(
                f"round {self.rounds + 1} made numbers that are not finite: what comes back is the best actor before "
                "it; give the recipe a smaller learning_rate"
            )
            return False
        self.rounds += 1
        self._measured = False
        self._keep()
        return True

    def _states(self, acting: SpikingActor) -> tuple[Tensor, Tensor, Tensor]:
        """States that an actor visits, what it does there, and what the dense actor would do; all of them finite.

        Raises:
            InputError: there are none.
        """
        if self._env is None:
            return self._held, answers_of(acting, self._held), answers_of(self._teacher, self._held)
        if self._visitor is None:
            self._visitor = Visitor(self._env, acting, self._recipe.rows, self._task.seed)
        left = self._limit - self._spent()
        slack = _SLACK * self._measuring
        seconds = max(_SHARE * left, min(self._measuring, left) + slack)
        visits = self._visitor.visit(acting, self.rounds, self._recipe.states, self._tell, seconds)
        states, actions = as_tensor(visits.observations, acting), torch.from_numpy(visits.actions)
        if len(states):
            answers = answers_of(self._teacher, states)
            actions = actions.to(answers)
            good = finite_rows(states) & finite_rows(actions) & finite_rows(answers)
            if not bool(good.all()):
                states, actions, answers = states[good], actions[good], answers[good]
        if not len(states):
            raise InputError("the environment gave no state in which all numbers are finite")
        return states, actions, answers

    def _goes_on(self) -> bool:
        """Whether time and rounds are left."""
        return self._spent() < self._limit and (self._planned is None or self.rounds < self._planned)

    def _beats_the_given(self, states: Tensor, answers: Tensor) -> bool:
        """Whether the average acts better than the given actor in the same states, which neither has learnt from.

        Two visits are of other episodes, and of few states chance would choose.
        """
        if 2 * len(states) < (self._sizes[0] if self._sizes else 0):
            return False
        given, average = (
            self._distance(answers_of(one, states), answers).double().square().sum()
            for one in (self._given, self._learner.average())
        )
        return bool(average < given)

    def _warn(self, text: str) -> None:
        warnings.warn(f"refine: {text}", InputWarning, stacklevel=4)

    def result(self) -> SpikingActor:
        """The best actor so far, at the start of an episode."""
        rounds = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        said = (
            f"{rounds}, {self._learner.updates} updates, seed {self._task.seed}: "
            f"action error {self._given_error:.4f} -> {self._best_error:.4f}"
        )
        before = self._given.metadata.get("refined")
        if self._best_error < self._given_error:
            refined = self._learner.best()
            refined.metadata["refined"] = f"{before}; then {said}" if before else said
        else:
            refined = self._given
            refined.reset()  # it has acted
            refined.metadata.setdefault("refined", said)
        return refined

    def _part(self, of_round: float) -> float:
        """What part of all is done: of the rounds, where they are given, or of the time."""
        if self._planned is not None:
            return (self.rounds + of_round) / self._planned
        return min(self._spent() / self._limit, 1.0)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """States to learn from, recorded ones and visited ones, and the dense actor's answers."""
        recipe = self._recipe
        recorded = round(recipe.batch * recipe.recorded) if len(self._visited) else recipe.batch
        parts = [
            memory.draw(number, self._learner.draw)
            for memory, number in ((self._recorded, recorded), (self._visited, recipe.batch - recorded))
            if number
        ]
        states, answers = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return states, answers

    def _distance(self, actions: Tensor, answers: Tensor) -> Tensor:
        return action_error(actions, answers, self._task.snn.interface, self._task.bounds)

    def _spent(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, _: int = 0) -> None:
        if self._report:
            self._report(Progress(self._spent(), self.rounds, self._best_error, self._given_error))

    def _keep(self) -> None:
        """Keeps all that the next round depends on. That it cannot be written is said once, and learning goes on."""
        if self._store is None:
            return
        visits = self.rounds if self._env is not None else 0
        errors = self._given_error, self._best_error
        numbers = Checkpoint(
            self._key,
            self.rounds,
            visits,
            self._measured,
            self._learner.updates,
            self._spent(),
            self._measuring,
            *errors,
        )
        try:
            ends = list(itertools.accumulate(self._sizes))
            while self._written < visits:  # first: the numbers say that they are there
                end, size = ends[self._written], self._sizes[self._written]
                states, answers = self._visited.states[end - size : end], self._visited.answers[end - size : end]
                # Copies: a file of a view would be one of all that is viewed.
                tensors = {"states": states.clone(), "answers": answers.clone()}
                checkpoint.write_visit(self._store, self._key, self._written, tensors)
                self._written += 1
            checkpoint.write(self._store, numbers, self._learner.tensors())
        except InputError as error:
            if not self._warned:
                self._warn(f"{error}: the refinement goes on, but after an interruption it cannot")
            self._warned = True

    def _take_up(self, kept: Checkpoint, tensors: dict[str, Tensor]) -> None:
        """Goes on where `_keep` was last called.

        Raises:
            InputError: the tensors are not those of this refinement.
        """
        assert self._store is not None
        try:
            if kept.visits != (kept.rounds if self._env is not None else 0):
                raise InputError(f"{kept.rounds} rounds have {kept.visits} visits")
            if kept.best_error > kept.given_error:
                raise InputError(f"the best error {kept.best_error:g} is above the first one, {kept.given_error:g}")
            self._learner.load(tensors, kept.updates)
            for number in range(kept.visits):
                self._add_visit(checkpoint.read_visit(self._store, self._key, number))
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{self._store} holds a damaged refinement: {error}") from error
        self.rounds = self._taken_up = kept.rounds
        self._measured, self._measuring = kept.measured, kept.measuring
        self._given_error, self._best_error = kept.given_error, kept.best_error
        self._written = kept.visits
        self._began -= kept.seconds

    def _add_visit(self, tensors: dict[str, Tensor]) -> None:
        """Learns from a visit of the store.

        Raises:
            InputError: its tensors are not states and answers.
        """
        if set(tensors) != {"states", "answers"}:
            raise InputError(f"a visit has states and answers, not {sorted(tensors)}")
        number = len(tensors["states"]) if tensors["states"].dim() else 0
        for name, like in (("states", self._visited.states), ("answers", self._visited.answers)):
            shape, found = (number, *like.shape[1:]), tensors[name]
            if found.dtype != like.dtype or found.shape != shape:
                wanted = f"{like.dtype} {list(shape)}"
                raise InputError(f"{name} of a visit must be {wanted}, got {found.dtype} {list(found.shape)}")
            check_numbers(name, tensors[name])
        device = self._visited.states.device
        self._visited.add(tensors["states"].to(device), tensors["answers"].to(device))
        self._sizes.append(number)
