"""Refinement: a spiking actor learns to act as the dense actor does, by gradients and without reward.

Sources: Ross, Gordon, Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011 (DAgger); Neftci, Mostafa, Zenke, "Surrogate Gradient Learning in Spiking Neural Networks",
IEEE Signal Processing Magazine 2019.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.control import environments
from snnkern.control.rollout import bounds_of
from snnkern.conversion.regression import matching_distance
from snnkern.errors import InputError, InputWarning, check_number, check_whole
from snnkern.files import make_folder
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.tensors import check_numbers, check_tensor
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
_DTYPES = (torch.float32, torch.float64)
_AT_ONCE = 4_096  # observations that an actor answers for
_HELD_BACK = 10  # without an environment, one of so many observations measures
_FIRST = 20  # updates after which the time of the others is known, again and again
_FEWEST = 50  # updates of a last round, below which it is not worth the time
_BETAS = (0.9, 0.99)  # of Adam
_LOWEST = 0.02  # of the learning rate, at the end
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
    before it learns from them. It must also beat the one that was given in these states; otherwise that one comes back.

    Args:
        snn: a converted actor. It is not changed.
        observations: of the dense actor, `[N, *observation_shape]`, as for `convert`.
        env: a registered name, or a function that makes the environment. Without one, it learns from `observations`
            alone, of which one in ten measures.
        minutes: of time in all, environment steps included. Where they are slow, a visit has fewer.
        rounds: at most so many, whatever time is left. Then the learning rate falls over the rounds in place of the
            time, and with enough time a seed gives the same result again on the same machine.
        recipe: learning rates and the like; by default `Recipe.recommended`.
        alpha: α of the refined actor. "auto" is 0: to an actor that has learnt to decide well alone, a carry is noise
            (`docs/refine.md` has the measurements).
        seed: of the episodes and of what is drawn.
        store: folder for what is finished, made if it is missing: after an interruption the same call goes on after the
            last finished round. None keeps nothing. Another actor, other observations, spaces, settings, or another
            name of the environment or of the function that makes it is noticed, and refused; what that function does
            is not.
        progress: called after every few updates and decisions.

    Returns:
        a new spiking actor with the same dynamics but for α. Its metadata say how it was refined ("refined"). Where no
        round was better, it is the one that was given, with its α.

    Raises:
        InputError: an argument does not fit, or the store holds another refinement.

    Warns:
        InputWarning: there was no time for a round; the store can no longer be written; or the refinement ended early,
            since learning diverged or the environment failed. What comes back is the best actor until then.
    """
    began = time.monotonic()
    dynamics = check_settings(snn, minutes, rounds, alpha, seed)
    if not isinstance(recipe, Recipe | None):
        raise InputError(f"recipe must be a snnkern.Recipe, got {type(recipe).__name__}")
    if not isinstance(store, str | os.PathLike | None):
        raise InputError(f"store must be the path of a folder, got {type(store).__name__}")
    spaces, bounds = "", None
    if env is not None:
        with environments.one_of(env, snn) as made:
            environments.check_spaces(snn.interface, made.observation_space, made.action_space)
            spaces, bounds = repr((made.observation_space, made.action_space)), bounds_of(snn, made.action_space)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller does without
        run = _Run(
            snn,
            _checked(observations, snn),
            env,
            spaces,
            bounds,
            began,
            60 * minutes,
            rounds,
            recipe or Recipe.recommended(snn),
            dynamics,
            seed,
            None if store is None else Path(store),
            progress,
        )
        with closing(run):
            while run.measure() and run.learn():
                pass
        return run.result()


def check_settings(
    snn: SpikingActor, minutes: float, rounds: int | None, alpha: float | Literal["auto"], seed: int
) -> Dynamics:
    """Checks what `refine` is given beside observations and environment.

    Returns:
        the dynamics of the refined actor.

    Raises:
        InputError: the actor cannot be refined, or a number is out of range.
    """
    if not isinstance(snn, SpikingActor):
        inside = ""
        if isinstance(snn, TrainableActor):
            inside = ": refine its .spiking()"
        elif isinstance(getattr(snn, "actor", None), SpikingActor):
            inside = ": refine its .actor"
        raise InputError(f"refine takes a SpikingActor that convert has made, got {type(snn).__name__}{inside}")
    if snn.output.weight.device.type not in _DEVICES:
        raise InputError(
            f"refine works on the CPU and on NVIDIA GPUs, but the actor is on {snn.output.weight.device}: "
            "move it with .to('cpu')"
        )
    if snn.output.weight.dtype not in _DTYPES:
        raise InputError(f"refine learns in float32 or float64, but the actor is {snn.output.weight.dtype}: .float()")
    if not bool(snn.interface.action_scale.any()):
        raise InputError("the actor's action_scale is 0 in every dimension: there is nothing to learn")
    if isinstance(snn.alpha, Tensor):
        raise InputError("alpha (α) is set for every row: set it to one number before refining")
    check_number("minutes", minutes, 0.01, 1e5)
    if rounds is not None:
        check_whole("rounds", rounds, least=1)
    check_seed(seed)
    return replace(snn.dynamics, alpha=0.0 if alpha == "auto" else alpha)


class _Run:
    """A refinement under way: `measure` and `learn` in turn, measuring first and last."""

    def __init__(
        self,
        snn: SpikingActor,
        observations: Tensor,
        env: Environment | None,
        spaces: str,
        bounds: tuple[NDArray[np.floating], NDArray[np.floating]] | None,
        began: float,
        limit: float,
        planned: int | None,
        recipe: Recipe,
        dynamics: Dynamics,
        seed: int,
        store: Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._began = began
        self._env, self._limit, self._planned, self._recipe, self._seed = env, limit, planned, recipe, seed
        self._store, self._report = store, progress
        self._key = "" if store is None else _key(snn, observations, env, spaces, recipe, dynamics, seed)
        self._teacher = dense_actor(snn)
        self._bounds = None
        if bounds is not None:
            low, high = (torch.from_numpy(np.array(bound)).to(snn.interface.action_scale) for bound in bounds)
            self._bounds = low, high
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
        self._sizes: list[int] = []  # states of every visit
        self.rounds = self._updates = 0
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
        acting = self._average.spiking() if self.rounds else self._given
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
            self._best.load_state_dict(self._average.state_dict())
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
            self._update(self._part(done / planned))
            done += 1
        if not self._is_finite():
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
            return self._held, _answers(acting, self._held), _answers(self._teacher, self._held)
        if self._visitor is None:
            self._visitor = Visitor(self._env, acting, self._recipe.rows, self._seed)
        left = self._limit - self._spent()
        slack = _SLACK * self._measuring
        seconds = max(_SHARE * left, min(self._measuring, left) + slack)
        visits = self._visitor.visit(acting, self.rounds, self._recipe.states, self._tell, seconds)
        states, actions = _tensor(visits.observations, acting), torch.from_numpy(visits.actions)
        if len(states):
            answers = _answers(self._teacher, states)
            actions = actions.to(answers)
            good = _finite_rows(states) & _finite_rows(actions) & _finite_rows(answers)
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
            self._distance(_answers(one, states), answers).double().square().sum()
            for one in (self._given, self._average.spiking())
        )
        return bool(average < given)

    def _is_finite(self) -> bool:
        """Whether all is that the next round depends on, thresholds included."""
        numbers = itertools.chain(
            self._kept_tensors().values(),
            (layer.threshold for actor in (self._student, self._average) for layer in actor.hidden),
        )
        return all(bool(torch.isfinite(tensor).all()) for tensor in numbers)

    def _warn(self, text: str) -> None:
        warnings.warn(f"refine: {text}", InputWarning, stacklevel=4)

    def result(self) -> SpikingActor:
        """The best actor so far, at the start of an episode."""
        said = (
            f"{self.rounds} round{'' if self.rounds == 1 else 's'}, {self._updates} updates, seed {self._seed}: "
            f"action error {self._given_error:.4f} -> {self._best_error:.4f}"
        )
        before = self._given.metadata.get("refined")
        if self._best_error < self._given_error:
            refined = self._best.spiking()
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
        matching_loss(results, answers, self._student.interface, self._bounds).backward()
        self._optimizer.step()
        self._updates += 1
        stays = min(recipe.average, (1 + self._updates) / (10 + self._updates))  # early on, the first numbers do not
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.parameters()), list(self._student.parameters()), 1 - stays)

    def _distance(self, actions: Tensor, answers: Tensor) -> Tensor:
        """The action error of what the environment gets, in the dimensions with a scale."""
        if self._bounds is not None:
            actions, answers = actions.clamp(*self._bounds), answers.clamp(*self._bounds)
        interface = self._student.interface
        where = _with_scale(interface)
        return (actions - answers)[where] / interface.action_scale[where]

    def _spent(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, _: int = 0) -> None:
        if self._report:
            self._report(Progress(self._spent(), self.rounds, self._best_error, self._given_error))

    def _kept_tensors(self) -> dict[str, Tensor]:
        """All numbers that learning changes."""
        tensors = dict(self._parameters())
        for index, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": tensor for key, tensor in state.items()}
        return tensors

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, module in (("student", self._student), ("average", self._average), ("best", self._best)):
            yield from module.named_parameters(prefix=name)

    def _keep(self) -> None:
        """Keeps all that the next round depends on. That it cannot be written is said once, and learning goes on."""
        if self._store is None:
            return
        visits = self.rounds if self._env is not None else 0
        errors = self._given_error, self._best_error
        numbers = Checkpoint(
            self._key, self.rounds, visits, self._measured, self._updates, self._spent(), self._measuring, *errors
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
            checkpoint.write(self._store, numbers, self._kept_tensors() | {"draw": self._draw.get_state()})
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
            self._check_numbers(tensors)
            with torch.no_grad():
                for name, parameter in self._parameters():
                    parameter.copy_(tensors[name])
            for layer in (*self._student.hidden, *self._average.hidden, *self._best.hidden):
                check_numbers("a threshold", layer.threshold, least=0)
            self._load_moments(tensors)
            self._draw.set_state(tensors["draw"])
            for number in range(kept.visits):
                self._add_visit(checkpoint.read_visit(self._store, self._key, number))
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{self._store} holds a damaged refinement: {error}") from error
        self.rounds = self._taken_up = kept.rounds
        self._updates, self._measured, self._measuring = kept.updates, kept.measured, kept.measuring
        self._given_error, self._best_error = kept.given_error, kept.best_error
        self._written = kept.visits
        self._began -= kept.seconds

    def _check_numbers(self, tensors: dict[str, Tensor]) -> None:
        """Refuses tensors of a store that are not those of `_kept_tensors`. Of what never learnt, Adam has none."""
        wanted = dict(self._parameters())
        learnt = [number for group in self._optimizer.param_groups for number in group["params"]]
        for index, number in enumerate(learnt):
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

    def _load_moments(self, tensors: dict[str, Tensor]) -> None:
        """Adam's moments; torch would take any."""
        groups, state = self._optimizer.state_dict()["param_groups"], {}
        for index in range(sum(len(group["params"]) for group in groups)):
            if one := checkpoint.part(tensors, f"adam.{index}"):
                state[index] = one
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

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


def matching_loss(
    results: Tensor, answers: Tensor, interface: Interface, bounds: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """A distance from the output layer's results to actions whose gradient is the action error itself.

    With tanh it is `matching_distance`; without, half the squared error, which goes on as a straight line beyond the
    bounds. Where it is least, the mean action error is 0.

    Args:
        results: z, before tanh and scaling, `[B, action_dim]`.
        answers: the actions to come to, `[B, action_dim]`.
        interface: of the actor, whether it has a tanh, and its scale.
        bounds: the least and the largest action that the environment gets, `[action_dim]`, of an actor without tanh:
            what is beyond them is clipped to them.

    Returns:
        the mean over all dimensions whose scale is not 0, as a part of the action's scale.
    """
    where = _with_scale(interface)

    def as_results(actions: Tensor) -> Tensor:
        return ((actions - interface.action_bias) / interface.action_scale)[where]

    results, targets = results[where], as_results(answers)
    if interface.squash:
        return matching_distance(results, targets).mean()
    if bounds is None:
        return 0.5 * nn.functional.mse_loss(results, targets)
    ends = [as_results(bound) for bound in bounds]
    low, high = torch.minimum(*ends), torch.maximum(*ends)  # a negative scale turns them round
    inside, targets = results.clamp(low, high), targets.clamp(low, high)
    error = inside - targets
    return (0.5 * error.square() + (results - inside) * error).mean()


def _with_scale(interface: Interface) -> EllipsisType | tuple[EllipsisType, Tensor]:
    """The index of the action's dimensions that have a scale; in the others, all actions are the same."""
    kept = interface.action_scale != 0
    return ... if bool(kept.all()) else (..., kept)


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
    wanted = ", ".join(map(str, snn.interface.observation_shape))
    given = type(observations).__name__
    if observations is None or isinstance(observations, str | bytes | Iterator):
        batches = ", of batches np.concatenate([...])" if isinstance(observations, Iterator) else ""
        raise InputError(f"observations must be an array [N, {wanted}]{batches}, got {given}")
    try:
        array = np.asarray(observations)
    except (TypeError, ValueError, RuntimeError) as error:  # NumPy's and torch's, of what has many forms, or a gradient
        raise InputError(f"observations must be an array [N, {wanted}], got {given}: {error}") from error
    snn.interface.check_array(array)
    if array.ndim == len(snn.interface.observation_shape) or not len(array):
        raise InputError(f"observations must be rows [N, ...], at least one, got shape {list(array.shape)}")
    tensor = _tensor(array, snn)
    bad = (~_finite_rows(tensor)).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"observations hold NaN or infinity in {len(bad)} of {len(tensor)} rows (first: row {bad[0]}): "
            "leave these rows out"
        )
    return snn.interface.check(tensor, check_finite=False)


def _tensor(array: NDArray[Any], snn: SpikingActor) -> Tensor:
    """An array in memory of its own, of the dtype of the actor's observations, on its device."""
    with np.errstate(over="ignore"):
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    return tensor.to(snn.output.weight.device, snn.interface.observation_dtype)


def _finite_rows(tensor: Tensor) -> Tensor:
    """Whether the numbers of each row are finite, bool `[N]`."""
    if not tensor.is_floating_point():
        return torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
    return torch.isfinite(tensor).flatten(1).all(dim=1)


def _key(
    snn: SpikingActor,
    observations: Tensor,
    env: Environment | None,
    spaces: str,
    recipe: Recipe,
    dynamics: Dynamics,
    seed: int,
) -> str:
    """A hash of all that a refinement depends on; of a function that makes environments, its name and their spaces."""
    name = env
    if env is not None and not isinstance(env, str):
        made = getattr(env, "func", env)  # of functools.partial
        kind = type(made)
        name = f"{getattr(made, '__module__', kind.__module__)}.{getattr(made, '__qualname__', kind.__qualname__)}"
    parts = (snn.dynamics, snn.alpha, snn.activation, name, spaces, recipe, dynamics, seed)
    digest = hashlib.sha256(repr(parts).encode())
    update_with_tensors(digest, snn)
    digest.update(observations.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
