"""Refinement: a spiking actor learns to act as the dense actor does, by gradients and without reward.

Sources: Ross, Gordon, Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011 (DAgger); Neftci, Mostafa, Zenke, "Surrogate Gradient Learning in Spiking Neural Networks",
IEEE Signal Processing Magazine 2019.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.control import environments
from snnkern.errors import InputError, check_number, check_whole
from snnkern.files import make_folder
from snnkern.kernels.neurons import Dynamics
from snnkern.limits import check_seed
from snnkern.policies.actor import Interface, Policy, update_with_tensors
from snnkern.policies.spiking import SpikingActor, dense_actor
from snnkern.policies.training import TrainableActor
from snnkern.training import checkpoint
from snnkern.training.checkpoint import Checkpoint
from snnkern.training.memory import Memory
from snnkern.training.recipe import Recipe
from snnkern.training.visits import Environment, Visitor

_DEVICES = ("cpu", "cuda")
_AT_ONCE = 4_096  # observations that an actor answers for
_HELD_BACK = 10  # without an environment, one of so many observations measures
_FIRST = 20  # updates after which the time of the others is known, again and again
_FEWEST = 50  # updates of a last round, below which it is not worth the time
_BETAS = (0.9, 0.99)  # of Adam
_LOWEST = 0.02  # of the learning rate, at the end


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
    alpha: float | Literal["auto"] = "auto",
    seed: int = 0,
    store: Path | None = None,
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
        rounds: at most so many, whatever time is left. Then the learning rate falls over the rounds in place of the
            time, and with enough time a seed gives the same result again on the same machine.
        recipe: learning rates and the like; by default `Recipe.recommended`.
        alpha: α of the refined actor. "auto" is 0: to an actor that has learnt to decide well alone, a carry is noise
            (`docs/refine.md` has the measurements).
        seed: of the episodes and of what is drawn.
        store: folder for what is finished, made if it is missing: after an interruption the same call goes on after the
            last finished round. None keeps nothing.
        progress: called after every few updates and decisions.

    Returns:
        a new spiking actor with the same dynamics but for α. Its metadata say how it was refined ("refined"). Where no
        round was better, it is the one that was given, with its α.

    Raises:
        InputError: an argument does not fit, or the store holds another refinement.
    """
    if not isinstance(snn, SpikingActor):
        raise InputError(f"refine takes a SpikingActor that convert has made, got {type(snn).__name__}")
    if snn.output.weight.device.type not in _DEVICES:
        raise InputError(
            f"refine works on the CPU and on NVIDIA GPUs, but the actor is on {snn.output.weight.device}: "
            "move it with .to('cpu')"
        )
    if isinstance(snn.alpha, Tensor):
        raise InputError("alpha (α) is set for every row: set it to one number before refining")
    dynamics = replace(snn.dynamics, alpha=0.0 if alpha == "auto" else alpha)
    limit = 60 * check_number("minutes", minutes, 0.01, 1e5)
    if rounds is not None:
        check_whole("rounds", rounds, least=1)
    if env is not None:
        environments.check(env, snn)
    run = _Run(
        snn,
        _checked(observations, snn),
        env,
        limit,
        rounds,
        recipe or Recipe.recommended(snn),
        dynamics,
        check_seed(seed),
        store,
        progress,
    )
    with closing(run.visitor) if run.visitor else nullcontext():
        while run.measure() and run.learn():
            pass
    return run.result()


class _Run:
    """A refinement under way: `measure` and `learn` in turn, measuring first and last."""

    def __init__(
        self,
        snn: SpikingActor,
        observations: Tensor,
        env: Environment | None,
        limit: float,
        planned: int | None,
        recipe: Recipe,
        dynamics: Dynamics,
        seed: int,
        store: Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._began = time.monotonic()
        self._limit, self._planned, self._recipe, self._seed = limit, planned, recipe, seed
        self._store, self._report = store, progress
        self._key = "" if store is None else _key(snn, observations, env, recipe, dynamics, seed)
        self._teacher = dense_actor(snn)
        self._given = copy.deepcopy(snn)
        learner = copy.deepcopy(snn)
        learner.alpha = dynamics.alpha
        self._student = TrainableActor(learner, recipe.surrogate)
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
        self._draw = torch.Generator(observations.device).manual_seed(seed)
        held = torch.arange(len(observations)) % _HELD_BACK == 0
        self._held = observations[held]
        alone = env is None and len(observations) > 1
        recorded = observations[~held] if alone else observations
        self._recorded = Memory(recorded, _answers(self._teacher, recorded))
        self._visited = Memory(recorded[:0], self._recorded.answers[:0])
        self.rounds = self._updates = 0
        self._measuring = 0.0  # seconds that the last measurement took
        self._given_error = self._best_error = math.nan
        if store is not None:
            make_folder(store)
            if kept := checkpoint.read(store, self._key):
                self._take_up(*kept)
        self.visitor = None if env is None else Visitor(env, snn, recipe.rows, seed)  # last: it has to be closed

    def measure(self) -> bool:
        """Sees how the average acts, and keeps it if it is the best so far. Whether time and rounds are left."""
        began = self._spent()
        acting = self._average.spiking() if self.rounds else self._given
        if self.visitor is None:
            states, actions = self._held, _answers(acting, self._held)
        else:
            visits = self.visitor.visit(acting, self.rounds, self._recipe.states, self._tell)
            states, actions = _checked(visits.observations, acting), torch.from_numpy(visits.actions)
        answers = _answers(self._teacher, states)
        error = float(self._distance(actions.to(answers), answers).square().mean().sqrt())
        if self.rounds == 0:
            self._given_error = self._best_error = error
        elif error < self._best_error:
            self._best_error = error
            self._best.load_state_dict(self._average.state_dict())
        if self.visitor is not None:
            self._visited.add(states, answers)
        self._measuring = self._spent() - began
        self._tell()
        return self._spent() < self._limit and (self._planned is None or self.rounds < self._planned)

    def learn(self) -> bool:
        """A round of updates, or as many as there is time for. Whether there was any."""
        began, planned, done = self._spent(), self._recipe.updates, 0
        while done < planned:
            if done and done % _FIRST == 0:
                left, pace = self._limit - self._measuring - self._spent(), (self._spent() - began) / done
                planned = min(self._recipe.updates, done + max(int(left / max(pace, 1e-9)), 0))
                if done == _FIRST and planned < min(_FEWEST, self._recipe.updates):
                    return False
                self._tell()
            self._update(self._part(done / planned))
            done += 1
        self.rounds += 1
        self._keep()
        return True

    def result(self) -> SpikingActor:
        """The best actor so far."""
        refined = self._best.spiking() if self._best_error < self._given_error else self._given
        refined.metadata["refined"] = (
            f"{self.rounds} rounds, {self._updates} updates, seed {self._seed}: "
            f"action error {self._given_error:.4f} -> {self._best_error:.4f}"
        )
        return refined

    def _part(self, of_round: float) -> float:
        """What part of all is done: of the rounds, where they are given, or of the time."""
        if self._planned is not None:
            return (self.rounds + of_round) / self._planned
        return min(self._spent() / self._limit, 1.0)

    def _update(self, part: float) -> None:
        """One step of Adam, after this part of all."""
        recipe = self._recipe
        for group in self._optimizer.param_groups:
            group["lr"] = group["highest"] * (_LOWEST + (1 - _LOWEST) * 0.5 * (1 + math.cos(math.pi * part)))
        for layer in self._convolutions:
            layer.requires_grad_(part >= recipe.frozen)
        recorded = round(recipe.batch * recipe.recorded) if len(self._visited) else recipe.batch
        parts = [
            memory.draw(number, self._draw)
            for memory, number in ((self._recorded, recorded), (self._visited, recipe.batch - recorded))
            if number
        ]
        states, answers = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        spread = recipe.jitter * self._student.dynamics.alpha
        carries = self._student.draw_carries(len(states), spread, self._draw) if spread else None
        results, _ = self._student.decide(states, carries)
        self._optimizer.zero_grad(set_to_none=True)
        matching_loss(results, answers, self._student.interface).backward()
        self._optimizer.step()
        self._updates += 1
        stays = min(recipe.average, (1 + self._updates) / (10 + self._updates))  # early on, the first numbers do not
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.parameters()), list(self._student.parameters()), 1 - stays)

    def _distance(self, actions: Tensor, answers: Tensor) -> Tensor:
        return (actions - answers) / self._student.interface.action_scale

    def _spent(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, _: int = 0) -> None:
        if self._report:
            self._report(Progress(self._spent(), self.rounds, self._best_error, self._given_error))

    def _keep(self) -> None:
        """Keeps all that the next round depends on."""
        if self._store is None:
            return
        modules = {"student": self._student, "average": self._average, "best": self._best}
        tensors = {
            f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()
        }
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": tensor for key, tensor in state.items()}
        tensors |= {"states": self._visited.states, "answers": self._visited.answers, "draw": self._draw.get_state()}
        errors = self._given_error, self._best_error
        checkpoint.write(
            self._store, Checkpoint(self._key, self.rounds, self._updates, self._spent(), *errors), tensors
        )

    def _take_up(self, kept: Checkpoint, tensors: dict[str, Tensor]) -> None:
        """Goes on where `_keep` was last called.

        Raises:
            InputError: the tensors are not those of this refinement.
        """
        try:
            for name, module in (("student", self._student), ("average", self._average), ("best", self._best)):
                module.load_state_dict(checkpoint.part(tensors, name))
            self._load_moments(tensors)
            states, answers = tensors["states"], tensors["answers"]
            if len(states) != len(answers):
                raise ValueError(f"{len(states)} states have {len(answers)} answers")
            self._visited.add(states, answers)
            self._draw.set_state(tensors["draw"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{self._store} holds a damaged refinement: {error}") from error
        self.rounds, self._updates = kept.rounds, kept.updates
        self._given_error, self._best_error = kept.given_error, kept.best_error
        self._began -= kept.seconds

    def _load_moments(self, tensors: dict[str, Tensor]) -> None:
        """Adam's moments; torch would take any."""
        groups, state = self._optimizer.state_dict()["param_groups"], {}
        learnt = [number for group in self._optimizer.param_groups for number in group["params"]]
        for index, number in enumerate(learnt):
            one = checkpoint.part(tensors, f"adam.{index}")
            state[index] = {key: one[key] for key in ("step", "exp_avg", "exp_avg_sq")}
            if {tensor.shape for key, tensor in one.items() if key != "step"} != {number.shape}:
                raise ValueError(f"Adam's moments of parameter {index} have another shape")
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def matching_loss(results: Tensor, answers: Tensor, interface: Interface) -> Tensor:
    """A distance from the output layer's results to actions whose gradient is the action error itself.

    With tanh it is the logistic loss: a neuron that is saturated on the wrong side of an action of ±1, where the
    gradient of a squared error vanishes, learns most. Where it is least, the mean action error is zero.

    Args:
        results: z, before tanh and scaling, `[B, action_dim]`.
        answers: the actions to come to, `[B, action_dim]`.
        interface: of the actor, whether it has a tanh, and its scale.

    Returns:
        the mean over all, as a part of the action's scale.

    Source: Helmbold, Kivinen, Warmuth, "Relative Loss Bounds for Single Neurons", IEEE Transactions on Neural Networks
    1999 (matching losses).
    """
    targets = (answers - interface.action_bias) / interface.action_scale
    if not interface.squash:
        return 0.5 * nn.functional.mse_loss(results, targets)
    return (nn.functional.softplus(2 * results) - (1 + targets) * results).mean()


def _answers(policy: Policy, states: Tensor) -> Tensor:
    """A policy's actions `[N, action_dim]`; a spiking one's from the start of an episode."""
    actions = []
    for rows in states.split(_AT_ONCE):
        if isinstance(policy, SpikingActor):
            policy.reset()
        actions.append(torch.from_numpy(policy.act(rows.cpu().numpy())))
    return torch.cat(actions).to(states.device)


def _checked(observations: NDArray[Any], snn: SpikingActor) -> Tensor:
    """Observations in memory of their own, as the actor takes them, on its device.

    Raises:
        InputError: they do not fit the actor, are none, or hold a NaN or an infinity.
    """
    array = np.asarray(observations)
    snn.interface.check_array(array)
    if array.ndim == len(snn.interface.observation_shape) or not len(array):
        raise InputError(f"observations must be rows [N, ...], at least one, got shape {list(array.shape)}")
    tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    tensor = tensor.to(snn.output.weight.device, snn.interface.observation_dtype)
    return snn.interface.check(tensor, check_finite=True)


def _key(
    snn: SpikingActor, observations: Tensor, env: Environment | None, recipe: Recipe, dynamics: Dynamics, seed: int
) -> str:
    """A hash of all that a refinement depends on; of an environment that a function makes, nothing is known."""
    name = env if isinstance(env, str) else ""
    digest = hashlib.sha256(repr((snn.dynamics, snn.alpha, name, env is None, recipe, dynamics, seed)).encode())
    update_with_tensors(digest, snn)
    digest.update(observations.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
