"""Refinement: a spiking actor learns to act as the dense actor does, by gradients and without reward.

Sources: Ross, Gordon, Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011 (DAgger); Neftci, Mostafa, Zenke, "Surrogate Gradient Learning in Spiking Neural Networks",
IEEE Signal Processing Magazine 2019.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.control import environments
from snnkern.control.environments import Environment
from snnkern.control.rollout import bounds_of
from snnkern.errors import InputError, check_number, check_whole
from snnkern.kernels.neurons import Dynamics
from snnkern.limits import check_seed
from snnkern.policies.spiking import SpikingActor
from snnkern.policies.training import TrainableActor
from snnkern.training.distance import Bounds
from snnkern.training.recipe import Recipe
from snnkern.training.run import Progress, Run, Task
from snnkern.training.states import checked

_DEVICES = ("cpu", "cuda")
_DTYPES = (torch.float32, torch.float64)


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
    spaces = ""
    bounds: Bounds | None = None
    if env is not None:
        with environments.one_of(env, snn) as made:
            environments.check_spaces(snn.interface, made.observation_space, made.action_space)
            spaces = repr((made.observation_space, made.action_space))
            if found := bounds_of(snn, made.action_space):
                low, high = (torch.from_numpy(np.array(bound)).to(snn.interface.action_scale) for bound in found)
                bounds = low, high
    with torch.inference_mode(False), torch.enable_grad(), _threads(snn):  # whatever the caller does without
        task = Task(
            snn, checked(observations, snn), env, spaces, bounds, recipe or Recipe.recommended(snn), dynamics, seed
        )
        with closing(Run(task, began, 60 * minutes, rounds, None if store is None else Path(store), progress)) as run:
            while run.measure() and run.learn():
                pass
        return run.result()


@contextmanager
def _threads(snn: SpikingActor) -> Iterator[None]:
    """One thread but for convolutions, then as many as before.

    Layers of a small batch are too little work to share, and beside other programs, threads that wait for each other at
    every operator nearly stop.
    """
    before = torch.get_num_threads()
    if not any(layer.convolution for layer in snn.hidden):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
