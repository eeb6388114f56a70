"""Studies: actors in environments, settings and seeds, run as tasks whose results are kept.

One task is one actor in one environment with one setting and one seed: its episodes' returns, lengths and spikes.
`sweep` is the study of one actor.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.control import environments
from snnkern.control.collect import calibration_steps, collect
from snnkern.control.evaluation import RANDOM, Evaluation, RandomPolicy, backend_name, describe_task, evaluation_record
from snnkern.control.records import CalibrationDescription, Outcome, Record, SettingDescription, TaskDescription
from snnkern.control.rollout import Acts
from snnkern.conversion.activations import as_tensor, check_given, check_observations
from snnkern.conversion.convert import convert
from snnkern.conversion.rules import (
    Auto,
    Calibration,
    Max,
    chosen_alpha,
    parse_calibration,
    parse_of_activations,
)
from snnkern.conversion.spikify import DenseNetwork, SpikingNetwork, spikify
from snnkern.errors import InputError, check_whole
from snnkern.files import read_array, write_atomically
from snnkern.kernels.neurons import Dynamics
from snnkern.limits import MOST_EPISODES, check_seed
from snnkern.policies.actor import Actor, Policy, check_actor
from snnkern.policies.spiking import SpikingActor
from snnkern.studies.estimate import RemainingTime
from snnkern.studies.executors import Executor, Failure, LocalExecutor
from snnkern.studies.settings import Setting
from snnkern.studies.store import Store, complete, task_name

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """A dense actor in an environment.

    Attributes:
        name: the actor's, for people: a zoo name or a file's.
        actor: the dense actor, or a module that `sweep` was given.
        environment: a registered name.
        observations: what it is calibrated on, `[N, observation_dim]`; None where it has yet to collect them.
    """

    name: str
    actor: Actor | DenseNetwork
    environment: str
    observations: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Task:
    """One subject of a study, by its number there, with one setting (None: the dense actor) and one seed.

    With `random` it is a random policy in the subject's environment, for the ratios of all subjects there.
    """

    subject: int
    setting: Setting | None
    episodes: int
    seed: int
    random: bool = False


@dataclass(frozen=True, eq=False)
class Study:
    """Every subject with every setting and every seed; `grids.read_study` makes one from a grid.

    Attributes:
        subjects: actors in environments.
        settings: what each is converted to.
        seeds: of the first episode of a task; the others follow.
        episodes: of a task.
        dense_episodes: of a task of the dense actor.
        calibration_steps: how many of its states the dense actor is calibrated on; None for as many as `collect` gives.
        calibration_seed: of the first episode of those.
        backend: a name from `snnkern.backends()`, or "auto".
    """

    subjects: tuple[Subject, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    episodes: int
    dense_episodes: int
    calibration_steps: int | None
    calibration_seed: int
    backend: str = "auto"

    @cached_property
    def tasks(self) -> list[Task]:
        """All tasks: an actor's together, its dense ones first, a setting's seeds next to each other."""
        return [
            Task(index, setting, self.dense_episodes if setting is None else self.episodes, seed)
            for index in range(len(self.subjects))
            for setting in (None, *self.settings)
            for seed in self.seeds
        ]

    def describe(self, task: Task) -> TaskDescription:
        """All that the task's result depends on, ready for JSON."""
        setting: SettingDescription | None = None
        calibration: CalibrationDescription | None = None
        if task.setting is not None:
            setting = task.setting.to_dict()
            calibration = {"rule": task.setting.calibration, **self._calibrated_on[task.subject]}
            actor = self.subjects[task.subject].actor  # nothing is "auto" for a module
            if isinstance(actor, Actor) and (meant := task.setting.recommended(actor)):
                calibration["recommended"] = meant
        numbers: Any = {"episodes": task.episodes, "seed": task.seed}
        environment = self.subjects[task.subject].environment
        backend = self.backends[task.subject]
        return describe_task(
            RANDOM if task.random else self._fingerprints[task.subject],
            environment,
            setting,
            calibration,
            **numbers,
            backend=backend,
        )

    @cached_property
    def backends(self) -> list[str]:
        """What computes each subject's spiking versions, on every worker: "auto" may be another one there."""
        return [backend_name(subject.actor, self.backend) for subject in self.subjects]

    @cached_property
    def _fingerprints(self) -> list[str]:
        return [subject.actor.fingerprint() for subject in self.subjects]

    @cached_property
    def _calibrated_on(self) -> list[CalibrationDescription]:
        """Each subject's observations: a hash of those that are given, else how they are collected."""
        return [
            {"steps": steps, "seed": self.calibration_seed}
            if subject.observations is None
            else {"observations": _digest(subject.observations)}
            for subject, steps in zip(self.subjects, self.steps, strict=True)
        ]

    @cached_property
    def steps(self) -> list[int]:
        """How many of its states each subject is calibrated on, where they have to be collected."""
        return [self.calibration_steps or calibration_steps(subject.actor) for subject in self.subjects]


def run_study(
    study: Study,
    store: Store | None,
    executor: Executor,
    *,
    collected: Progress | None = None,
    finished: Callable[[Task, Record], None] | None = None,
) -> tuple[dict[Task, Record], dict[Task, Exception]]:
    """Runs the tasks that the store does not have, and keeps each as soon as it is done.

    Interrupted or killed, it resumes. The observations that actors are calibrated on are collected first,
    as tasks, and kept beside the results: who resumes calibrates on the same.

    Args:
        study: the grid.
        store: where results are kept; no second sweep may work on it meanwhile. None keeps nothing, and then all
            subjects have observations.
        executor: where tasks run.
        collected: called with how many of the actors that need observations have them, and how many need them.
        finished: called with every task that is done now, and its record.

    Returns:
        the records by task, those found and those made, and of random policies where ratios need them; and the tasks
        that failed, with the reason.

    Raises:
        InputError: another sweep works on the store, or a file in it is damaged.
    """
    with store.alone() if store else nullcontext():
        records, left = found_in(store, study)

        def done(task: Task, record: Record) -> None:
            records[task] = record
            if finished:
                finished(task, record)

        spiking = sorted({task.subject for task in left if task.setting is not None})
        report = collected or (lambda count, total: None)
        observations, without = _observations(study, spiking, store, executor, report)
        shared = Shared(study.subjects, observations, study.backends)
        failed = {task: without[task.subject] for task in left if task.setting is not None and task.subject in without}
        ready = [task for task in left if task not in failed]
        run = partial(complete, function=run_task, shared=shared, describe=study.describe, store=store)
        failed |= run(ready, executor=executor, finished=done)
        random, left = _found(store, study, _random_tasks(study, records))
        if left:
            failed |= run(left, executor=executor, finished=random.__setitem__)
    return {task: records[task] for task in study.tasks if task in records} | random, failed


def _random_tasks(study: Study, records: Mapping[Task, Record]) -> list[Task]:
    """A random policy's tasks in the environments where a dense actor's mean return is not positive."""
    tasks: dict[str, list[Task]] = {}
    for index, subject in enumerate(study.subjects):
        dense = [task for task in records if task.subject == index and task.setting is None]
        returns = [value for task in dense for value in records[task]["result"]["returns"]]
        if returns and np.mean(returns) <= 0 and subject.environment not in tasks:
            try:
                RandomPolicy(subject.environment, 0, subject.actor)
            except InputError:  # its actions have no bounds: there is no ratio then
                continue
            tasks[subject.environment] = [Task(index, None, task.episodes, task.seed, random=True) for task in dense]
    return [task for found in tasks.values() for task in found]


@dataclass(frozen=True)
class Sweep:
    """The dense actor and its spiking versions in one environment.

    Attributes:
        dense: the dense actor's evaluation.
        results: the spiking versions', in the order of the settings.
        random: a random policy's, if the dense actor's mean return is not positive (`Evaluation.ratio`).
    """

    dense: Evaluation
    results: tuple[tuple[Dynamics, Evaluation], ...]
    random: Evaluation | None = None


def sweep(
    actor: Actor | nn.Module,
    env: str,
    settings: Sequence[Dynamics],
    *,
    observations: NDArray[np.floating] | Tensor,
    calibration: str | Calibration = "auto",
    episodes: int = 10,
    dense_episodes: int | None = None,
    seed: int = 1000,
    store: Path | str | None = None,
    workers: int = 1,
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    estimate: Callable[[float], None] | None = None,
) -> Sweep:
    """Evaluates the dense actor and one spiking version for every setting, all over the same episodes.

    A finished setting is written to the store at once and is not run again: an interrupted sweep resumes, and a larger
    one reuses a smaller one's results. A result is reused only where actor, observations, calibration, environment,
    setting, episodes, seed, backend and the versions of snnkern, torch, Gymnasium and MuJoCo are the same.

    Args:
        actor: the dense actor; or a module of another form, which `spikify` converts. Its calibration is "max" or a
            percentile, and "auto" is "max".
        env: a registered name.
        settings: the settings to evaluate; see `grid`.
        observations: those that every setting is calibrated on, `[N, observation_dim]`; see `collect`.
        calibration: as for `convert`.
        episodes: per setting.
        dense_episodes: of the dense actor; by default as many.
        seed: seed of the first episode.
        store: folder for finished settings, made if it is missing; None keeps nothing.
        workers: processes that share the work. With more than one, a script needs `if __name__ == "__main__":`.
        backend: a name from `snnkern.backends()`, or "auto".
        progress: called with the number of finished evaluations and of all.
        estimate: called before that with the seconds that those that are left will take, about.

    Raises:
        InputError: the environment does not exist or does not fit the actor, observations do not either; the store
            cannot be written, or another sweep works on it.
    """
    dense_episodes = episodes if dense_episodes is None else dense_episodes
    numbers = {"episodes": episodes, "dense_episodes": dense_episodes}
    numbers = {name: check_whole(name, value, 1, MOST_EPISODES) for name, value in numbers.items()}
    seed = check_seed(seed)
    executor = LocalExecutor(workers)
    rule = parse_calibration(calibration)
    if isinstance(actor, nn.Module) and not isinstance(actor, Policy):
        policy: Actor | DenseNetwork = DenseNetwork(actor, observations)
        rule = Max() if isinstance(rule, Auto) else parse_of_activations(rule)
    else:
        policy = check_actor(actor)
    if not isinstance(env, str):
        raise InputError(f"a sweep takes the environment's registered name, got {type(env).__name__}")
    for setting in settings:
        if not isinstance(setting, Dynamics):
            raise InputError(f"a setting is a Dynamics (see grid), got {setting!r}")
    check_observations(policy, observations)
    check_given(len(observations))
    environments.check(env, policy)
    wanted = [Setting(**vars(setting), calibration=str(rule)) for setting in settings]
    subject = Subject(policy.metadata.get("algorithm", ""), policy, env, as_tensor(observations).numpy(force=True))
    distinct = tuple(dict.fromkeys(wanted))
    study = Study((subject,), distinct, (seed,), **numbers, calibration_steps=0, calibration_seed=0, backend=backend)
    kept = None if store is None else Store(Path(store))
    found, left = found_in(kept, study)
    done = len(found)
    remaining = RemainingTime(study, left, found) if estimate else None

    def report() -> None:
        if estimate and remaining:
            estimate(remaining.remaining(executor.workers))
        if progress:
            progress(done, len(study.tasks))

    def finished(task: Task, record: Record) -> None:
        nonlocal done
        done += 1
        if remaining:
            remaining.finished(task, record)
        report()

    report()

    records, failed = run_study(study, kept, executor, finished=finished)
    for error in failed.values():
        raise error
    evaluations = {(task.setting, task.random): Evaluation.from_record(record) for task, record in records.items()}
    results = zip(settings, (evaluations[setting, False] for setting in wanted), strict=True)
    return Sweep(evaluations[None, False], tuple(results), evaluations.get((None, True)))


def found_in(store: Store | None, study: Study) -> tuple[dict[Task, Record], list[Task]]:
    """The records of a study that a store has, and the tasks that it does not have."""
    return _found(store, study, study.tasks)


def _found(store: Store | None, study: Study, tasks: Sequence[Task]) -> tuple[dict[Task, Record], list[Task]]:
    records, left = {}, []
    for task in tasks:
        record = store.read(study.describe(task)) if store else None
        if record is None:
            left.append(task)
        else:
            records[task] = record
    return records, left


@dataclass(frozen=True)
class Shared:
    """The parts of a study that workers need."""

    subjects: tuple[Subject, ...]
    observations: dict[int, NDArray[np.floating]]
    backends: list[str]


def run_task(shared: Shared, task: Task) -> Outcome:
    """Runs one task, as an executor does; returns its record without its "task"."""
    subject = shared.subjects[task.subject]
    policy: Acts = subject.actor
    if task.random:
        policy = RandomPolicy(subject.environment, task.seed, subject.actor)
    if task.setting is not None:
        policy = _converted(shared, task.subject, task.setting)
    name = RANDOM if task.random else subject.name
    record = evaluation_record(policy, name, subject.environment, task.episodes, task.seed)
    if isinstance(policy, SpikingActor):
        record["result"]["calibration"] = policy.metadata["calibration"]
    elif isinstance(policy, SpikingNetwork) and task.setting is not None:
        record["result"]["calibration"] = task.setting.calibration
    return record


_last: list[tuple[Shared, int, Setting, SpikingActor]] = []


def _converted(shared: Shared, index: int, setting: Setting) -> SpikingActor | SpikingNetwork:
    """The spiking actor; the last one is kept, since seeds and α follow each other and calibration takes seconds."""
    if _last:
        of, where, what, snn = _last[0]
        if of is shared and (where, replace(what, alpha=setting.alpha)) == (index, setting):
            snn.alpha = chosen_alpha(setting.alpha, setting.neuron, setting.calibration, shared.subjects[index].actor)
            return snn
    subject = shared.subjects[index]
    backend = shared.backends[index]
    if isinstance(subject.actor, DenseNetwork):
        return spikify(subject.actor.module, shared.observations[index], **setting.arguments(), backend=backend)
    snn = convert(subject.actor, shared.observations[index], **setting.arguments(), backend=backend)
    _last[:] = [(shared, index, setting, snn)]
    return snn


def _observations(
    study: Study, indices: list[int], store: Store | None, executor: Executor, report: Progress
) -> tuple[dict[int, NDArray[np.floating]], dict[int, Exception]]:
    """What actors are calibrated on: given, or from the store where it has them, else collected as tasks are run.

    Also returns whose could not be collected, and why.
    """
    found, files = {}, {}
    for index in indices:
        given = study.subjects[index].observations
        if given is not None:
            found[index] = given
            continue
        assert store is not None
        dense = study.describe(
            Task(index, None, study.steps[index], study.calibration_seed)
        )  # all that its run depends on
        file = store.folder / f"{task_name(dense)}.npy"
        if not file.exists():
            files[index] = file
            continue
        try:
            found[index] = read_array(file)
            check_observations(study.subjects[index].actor, found[index])
        except InputError as error:
            raise InputError(f"{file} holds no observations ({error}): delete it to collect them again") from error
    report(len(found), len(indices))
    failed: dict[int, Exception] = {}
    missing = list(files)
    shared = study.subjects, study.steps, study.calibration_seed
    with closing(executor.run(_collected, shared, missing)) as outcomes:
        for index, outcome in outcomes:
            if isinstance(outcome, Failure):
                failed[missing[index]] = outcome.error
                continue
            content = io.BytesIO()
            np.save(content, outcome)
            write_atomically(files[missing[index]], content.getvalue())
            found[missing[index]] = outcome
            report(len(found), len(indices))
    return found, failed


def _collected(shared: tuple[tuple[Subject, ...], list[int], int], index: int) -> NDArray[np.floating]:
    subjects, steps, seed = shared
    return collect(check_actor(subjects[index].actor), subjects[index].environment, steps[index], seed)


def _digest(observations: NDArray[np.floating]) -> str:
    return hashlib.sha256(np.ascontiguousarray(observations).tobytes()).hexdigest()
