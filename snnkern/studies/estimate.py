"""How long a study will take: a short trial of every actor beforehand, corrected by the tasks that have finished."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from snnkern.control import environments
from snnkern.control.records import Record
from snnkern.control.rollout import Acts, acting_within
from snnkern.control.timing import Contender, measure
from snnkern.conversion.rules import calibrated
from snnkern.kernels.neurons import Dynamics, Neuron
from snnkern.policies.actor import check_actor
from snnkern.policies.spiking import SpikingActor

if TYPE_CHECKING:
    from snnkern.studies.study import Study, Task

_TRIAL_STEPS, _TRIAL_ROWS = 40, 10
_UNLIMITED = 1000  # steps that an episode is taken to last where its environment sets no limit


class RemainingTime:
    """Seconds that the tasks of a study still take.

    Until a task of the same actor has finished, it is what full-length episodes take, without conversion: a policy that
    fails early takes less, thresholds that are fitted take more.

    Args:
        study: the grid.
        left: the tasks that have to be run; only their actors are tried out.
        records: of tasks that are finished.
    """

    def __init__(self, study: Study, left: Sequence[Task], records: Mapping[Task, Record]) -> None:
        self._study = study
        wanted: dict[int, set[tuple[Neuron, int] | None]] = {}
        for task in left:
            wanted.setdefault(task.subject, set()).add(_kind(task))
        self._step: dict[tuple[int, tuple[Neuron, int] | None], float] = {}
        self._limit: dict[int, int] = {}
        for index, kinds in wanted.items():
            with contextlib.suppress(Exception):  # the tasks meet it again, and each says so; there is no estimate
                self._try(index, kinds | {_kind(task) for task in records if task.subject == index})
        self._predicted = [0.0] * len(study.subjects)
        self._taken = [0.0] * len(study.subjects)
        self._left = [0.0] * len(study.subjects)
        self._waiting = 0
        for task in left:
            self._left[task.subject] += self._trial_seconds(task)
            self._waiting += 1
        for task, record in records.items():
            if task.subject in wanted:
                self._learn(task, record)

    def finished(self, task: Task, record: Record) -> None:
        """Takes note of a task that has finished."""
        self._left[task.subject] -= self._trial_seconds(task)
        self._waiting -= 1
        self._learn(task, record)

    def remaining(self, workers: int) -> float:
        """Seconds that the tasks that are left take in so many processes, shared evenly."""
        if not self._waiting:
            return 0.0
        corrected = (
            left * (taken / predicted if taken and predicted else 1.0)
            for left, taken, predicted in zip(self._left, self._taken, self._predicted, strict=True)
        )
        return sum(corrected) / min(workers, self._waiting)

    def _learn(self, task: Task, record: Record) -> None:
        self._predicted[task.subject] += self._trial_seconds(task)
        self._taken[task.subject] += record["run"].get("seconds", 0.0)

    def _trial_seconds(self, task: Task) -> float:
        return task.episodes * self._limit.get(task.subject, 0) * self._step.get((task.subject, _kind(task)), 0.0)

    def _try(self, index: int, kinds: Iterable[tuple[Neuron, int] | None]) -> None:
        """Times a step of the environment and every policy's decision, both per episode."""
        subject = self._study.subjects[index]
        rows = min(_TRIAL_ROWS, self._study.episodes)
        if environments.view(subject.environment, subject.actor):
            rows = 1  # drawn in this process, as workers do; several rows take so many times as long
        envs = environments.make_vector(subject.environment, rows, subject.actor)
        self._limit[index] = environments.limit(subject.environment, subject.actor) or _UNLIMITED
        act = acting_within(subject.actor, envs.single_action_space)
        observation, _ = envs.reset(seed=0)
        seen, step = [], 0.0
        for _ in range(_TRIAL_STEPS):
            seen.append(observation)
            action = act(seen[-1])
            started = time.perf_counter()
            observation, _, terminated, truncated, _ = envs.step(action)
            if (ended := terminated | truncated).any():
                observation, _ = envs.reset(options={"reset_mask": ended})
            step += (time.perf_counter() - started) / _TRIAL_STEPS
        envs.close()
        actor = check_actor(subject.actor)
        form = calibrated(actor, np.concatenate(seen))
        for kind in kinds:
            policy: Acts = subject.actor
            if kind is not None:
                policy = SpikingActor(*form(kind[0]), Dynamics(*kind), backend=self._study.backend)
            contender = Contender(policy.act, threads=torch.get_num_threads())
            self._step[index, kind] = (step + float(measure({kind: contender}, np.stack(seen), 1)[kind][0])) / rows


def _kind(task: Task) -> tuple[Neuron, int] | None:
    """What the time of a decision depends on."""
    return None if task.setting is None else (task.setting.neuron, task.setting.timesteps)
