"""Latency: what a decision of a spiking actor costs beside the dense actor and the published loop.

All are timed in one process, in rounds, on the same observations; ratios are taken within a round.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.analysis import rivals
from snnkern.control.timing import (
    MOST,
    Contender,
    Machine,
    load_average,
    machine,
    quartiles,
    rounds,
    rows,
    using_threads,
)
from snnkern.conversion.activations import check_observations
from snnkern.conversion.rules import Calibration, Form, calibrated
from snnkern.errors import InputError, check_number, check_whole
from snnkern.kernels import reference
from snnkern.kernels.neurons import IF, Dynamics, Neuron
from snnkern.limits import LEAST_SECONDS, MOST_BATCH, MOST_SECONDS, MOST_THREADS
from snnkern.policies.actor import Actor
from snnkern.policies.spiking import SpikingActor, corrected_actor, dense_actor, reference_parts

BATCHES = (1, 16, 256, 1024)
ACT, TENSOR, LOOP = "snn.act", "snn(tensor)", "published loop"
DENSE = PYTORCH, NUMPY, ONNX = "PyTorch", "NumPy", "ONNX Runtime"
PACKAGES = ("snnkern", "torch", "numpy", "onnxruntime")

# A float64 run that comes closer than this to firing or not, as a fraction of θ, may be decided by rounding.
_MARGIN = 1e-5
_TOLERANCE = 1e-4  # of an action, as a fraction of it where it is above 1
_CHECKED = 8, 4  # rows and decisions: few, since the reference takes its time
_COUNTED = 24, 20
_CHECKED_IMAGES, _COUNTED_IMAGES = (2, 2), (4, 5)
_SMALL, _MORE = 16, 3  # small batches take less time: they are timed so many times more in a round


class Case(NamedTuple):
    """What is timed.

    Attributes:
        name: `ACT`, `TENSOR`, `LOOP`, or the dense actor's runtime, one of `DENSE`.
        dynamics: None for the dense actor.
        batch: rows of an observation; with 1, an observation is `[*observation_shape]`.
        threads: how many it may use.
    """

    name: str
    dynamics: Dynamics | None
    batch: int
    threads: int


class Agreement(NamedTuple):
    """How a contender's actions compare with the reference's.

    Attributes:
        certain: the share of actions that rounding cannot have decided, in their decision or one before it.
        agreeing: the share of all actions within the tolerance.
        wrong: how many actions differ that rounding cannot have decided.
    """

    certain: float
    agreeing: float
    wrong: int


@dataclass(frozen=True)
class Benchmark:
    """What `run` measured.

    Attributes:
        rounds: seconds per decision of the whole batch, one value per round; only cases that were timed.
        unreached: cases that the time did not reach.
        missing: dense runtimes that are not installed, and why they do not run.
        spikes: spikes per decision and row in each hidden layer, for each setting.
        agreements: how each case's actions compare with the reference's.
        widths: of the actor's layers, observation and action included.
        machine: processor, versions, and the load average before and after.
        seconds: how long it took.
        interrupted: whether an interruption (Ctrl-C) ended it.
    """

    rounds: Mapping[Case, NDArray[np.float64]]
    unreached: tuple[Case, ...]
    missing: Mapping[str, str]
    spikes: Mapping[Dynamics, tuple[float, ...]]
    agreements: Mapping[Case, Agreement]
    widths: tuple[int, ...]
    machine: Machine
    seconds: float
    interrupted: bool

    def ratio(self, case: Case, other: Case) -> list[float] | None:
        """How many times the time of `case` the other one takes: quartiles over rounds; None where one is missing."""
        if case not in self.rounds or other not in self.rounds:
            return None
        ours, theirs = self.rounds[case], self.rounds[other]
        both = min(len(ours), len(theirs))  # the last round may have ended between the two
        return quartiles(theirs[:both] / ours[:both])

    def ratios(self, case: Case) -> dict[str, list[float]]:
        """`ratio` to every dense runtime, and to the published loop of the same T and α, by name."""
        others = [case._replace(name=name, dynamics=None) for name in DENSE]
        if case.dynamics is not None:
            others.append(case._replace(name=LOOP, dynamics=_loop_beside(case.dynamics)))
        return {other.name: ratio for other in others if (ratio := self.ratio(case, other)) is not None}

    def fastest_dense(self, batch: int, threads: int) -> Case | None:
        """The dense actor's runtime with the lowest median; None where none was timed."""
        dense = [Case(name, None, batch, threads) for name in DENSE]
        return min(
            (case for case in dense if case in self.rounds),
            key=lambda case: float(np.median(self.rounds[case])),
            default=None,
        )


def run(
    policy: Actor | SpikingActor,
    observations: NDArray[np.floating],
    settings: Sequence[Dynamics] = (),
    *,
    calibration: str | Calibration = "max",
    batches: Sequence[int] = BATCHES,
    threads: Sequence[int] = (1,),
    seconds: float = 120.0,
    progress: Callable[[float], None] = lambda passed: None,
) -> Benchmark:
    """Times decisions of a spiking actor, the dense actor in several runtimes, and the published loop.

    The actor is converted with every setting; each is called as `snn.act` and as `snn(tensor)`. The published loop runs
    IF neurons at every T. Before it is timed, everyone decides on a few observations, which is compared with the
    reference. One observation at a time is decided on one thread.

    Args:
        policy: the dense actor; or a spiking one, which is measured as it is, beside the dense actor that it is from.
        observations: consecutive ones of a rollout, `[N, *observation_shape]`; see `snnkern.collect`.
        settings: what to convert a dense actor to; see `snnkern.grid`.
        calibration: thresholds of a dense actor's conversion; see `snnkern.convert`.
        batches: numbers of rows that a decision is for.
        threads: numbers of threads.
        seconds: how long it may take in all, give or take one case, from small batches to large ones. An interruption
            (Ctrl-C) ends it before, with what has been measured.
        progress: called between cases with the seconds that have passed; what it does is not timed.

    Raises:
        InputError: observations do not fit the actor, a number is out of range, a dense actor has no settings, or
            a spiking one with some.
    """
    start = time.monotonic()
    batches = [check_whole("batch", value, least=1, most=MOST_BATCH) for value in batches or [0]]
    threads = [check_whole("threads", value, least=1, most=MOST_THREADS) for value in threads or [0]]
    seconds = check_number("seconds", seconds, least=LEAST_SECONDS, most=MOST_SECONDS)
    actor = dense_actor(policy)
    if isinstance(policy, SpikingActor) == bool(settings):
        raise InputError("a dense actor needs settings to convert it to (see grid), and a spiking actor has its own")
    weight = actor.output.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        raise InputError(f"only float32 and float64 actors on the CPU are timed, got {weight.dtype} on {weight.device}")
    if not isinstance(observations, np.ndarray):
        raise InputError(f"observations must be an array [N, …], got {type(observations).__name__}")
    if isinstance(policy, SpikingActor):
        settings = [policy.dynamics]
    form = _forms(policy, observations, calibration)
    form(settings[0].neuron)  # which checks the observations
    if actor.interface.observation_dtype.is_floating_point:
        observations = observations.astype(weight.numpy().dtype)

    found = machine(PACKAGES)
    cases = _cases(list(dict.fromkeys(settings)), dict.fromkeys(batches), dict.fromkeys(threads))
    line_up = _LineUp(policy, actor, form, observations)
    groups: dict[tuple[int, int], tuple[dict[Case, Contender], NDArray[Any]]] = {}
    taken: dict[Case, list[float]] = {}
    interrupted = False
    with torch.no_grad():
        try:
            for case in cases:
                if (contender := line_up.make(case)) is not None:
                    shape = case.batch, case.threads
                    if shape not in groups:
                        groups[shape] = {}, rows(observations, case.batch, max(4, min(MOST, 8192 // case.batch)))
                    groups[shape][0][case] = contender
                passed = time.monotonic() - start
                progress(passed)
                if groups and passed > seconds / 2:  # so that those who are ready are timed
                    break
            small = [group for (batch, _), group in groups.items() if batch <= _SMALL]
            with contextlib.closing(rounds([*groups.values(), *small * _MORE], fewest=1)) as stream:
                for case, duration in stream:
                    taken.setdefault(case, []).append(duration)
                    passed = time.monotonic() - start
                    progress(passed)
                    if passed > seconds:
                        break
        except KeyboardInterrupt:
            if not taken:
                raise
            interrupted = True
    return Benchmark(
        rounds={case: np.array(taken[case]) for case in cases if case in taken},
        unreached=tuple(case for case in cases if case not in taken and case.name not in line_up.missing),
        missing=line_up.missing,
        spikes=line_up.spikes,
        agreements=line_up.agreements,
        widths=(actor.interface.observation_dim, *(len(layer.bias) for layer in [*actor.hidden, actor.output])),
        machine={**found, "load_after": load_average()},
        seconds=time.monotonic() - start,
        interrupted=interrupted,
    )


def _cases(settings: Sequence[Dynamics], batches: Iterable[int], threads: Iterable[int]) -> list[Case]:
    loops = dict.fromkeys(_loop_beside(setting) for setting in settings)
    everyone: list[tuple[str, Dynamics | None]] = [(name, setting) for setting in settings for name in (ACT, TENSOR)]
    everyone += [(LOOP, loop) for loop in loops]
    everyone += [(name, None) for name in DENSE]
    return [
        Case(name, setting, batch, count)
        for batch in batches
        for count in ([1] if batch == 1 else threads)
        for name, setting in everyone
        if name != NUMPY or count == 1
    ]


def _loop_beside(setting: Dynamics) -> Dynamics:
    """What the published loop runs beside a setting: it has IF neurons and no memory."""
    return Dynamics(IF(), setting.timesteps, setting.alpha)


def _forms(
    policy: Actor | SpikingActor, observations: NDArray[Any], calibration: str | Calibration
) -> Callable[[Neuron], Form]:
    """Which weights and thresholds a neuron runs on."""
    if not isinstance(policy, SpikingActor):
        return calibrated(policy, observations, calibration)
    check_observations(policy, observations)
    own = corrected_actor(policy), list(policy.thresholds)
    return lambda neuron: own


class _LineUp:
    """Makes the contenders of a benchmark and sees how they decide.

    Those who decide for as many rows share a spiking actor, and the published loop: what it carries is not timed.
    """

    def __init__(
        self,
        policy: Actor | SpikingActor,
        actor: Actor,
        form: Callable[[Neuron], Form],
        observations: NDArray[Any],
    ) -> None:
        self.actor = actor
        self.few = rows(observations, *(_CHECKED if actor.is_plain else _CHECKED_IMAGES))
        self.counted = rows(observations, *(_COUNTED if actor.is_plain else _COUNTED_IMAGES))
        self.missing: dict[str, str] = {}
        self.spikes: dict[Dynamics, tuple[float, ...]] = {}
        self.agreements: dict[Case, Agreement] = {}
        backend = policy.backend if isinstance(policy, SpikingActor) else "auto"

        @functools.cache
        def spiking(setting: Dynamics, batch: int) -> SpikingActor:
            return SpikingActor(*form(setting.neuron), setting, backend=backend, check_finite=policy.check_finite)

        @functools.cache
        def loop(setting: Dynamics, batch: int) -> rivals.PublishedLoop:
            return rivals.PublishedLoop(*form(setting.neuron), setting.timesteps, setting.alpha)

        @functools.cache
        def wanted(setting: Dynamics | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            own, thresholds = form(setting.neuron) if setting else (actor, ())
            return expected(own, thresholds, setting, self.few)

        self._spiking, self._loop, self._wanted = spiking, loop, wanted

    def make(self, case: Case) -> Contender | None:
        """The contender that a case is about; None where it is not installed."""
        try:
            contender = self._dense(case) if case.dynamics is None else self._spikes(case, case.dynamics)
        except rivals.Missing as error:
            self.missing[case.name] = str(error)
            return None
        self.agreements[case] = agreement(contender, self.few, self._wanted(case.dynamics), case.batch == 1)
        return contender

    def _spikes(self, case: Case, setting: Dynamics) -> Contender:
        if case.name == LOOP:
            return self._loop(setting, case.batch).contender(case.threads)
        snn = self._spiking(setting, case.batch)
        if setting not in self.spikes:
            self.spikes[setting] = spikes_per_decision(snn, self.counted)
        if case.name == TENSOR:
            dims = len(snn.interface.observation_shape)
            return Contender(
                snn, snn.reset, lambda given: torch.from_numpy(rivals.in_rows(given, dims)), setting, case.threads
            )
        return Contender(snn.act, snn.reset, setting=setting, threads=case.threads)

    def _dense(self, case: Case) -> Contender:
        if case.name == NUMPY:
            return rivals.numpy(self.actor)
        make = rivals.eager if case.name == PYTORCH else rivals.onnx_runtime
        return make(self.actor, case.threads)


# ---- does a contender decide as the reference does?


def expected(
    actor: Actor, thresholds: Sequence[Tensor], setting: Dynamics | None, observations: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The reference's actions for `[decisions, batch, …]`, and which of them rounding cannot decide.

    In float64; DC in the actor's precision, since whether a DC neuron may take a spike back turns on rounding of what
    it has sent, the same in every run of that precision.
    """
    differential = setting is not None and setting.neuron.differential
    dtype = actor.output.weight.dtype if differential else torch.float64
    exact = copy.deepcopy(actor).to(dtype)
    interface = exact.interface
    inputs = torch.from_numpy(observations)
    inputs = inputs.to(dtype) if interface.observation_dtype.is_floating_point else inputs
    if setting is None:
        dense = np.stack([exact(observation).numpy() for observation in inputs])
        return dense, np.ones(dense.shape[:-1], dtype=bool)
    snn = SpikingActor(exact, thresholds, setting)
    parts = reference_parts(snn)
    carries: list[Tensor] = list(snn.stateless().start(inputs.shape[1]))
    actions, certainties = [], []
    certain = torch.ones(inputs.shape[1], dtype=torch.bool)
    for observation in inputs:
        decided = reference.actor(interface.normalize(observation), carries=carries, dynamics=setting, **parts)
        carries = [layer.carry for layer in decided.layers]
        for layer in decided.layers:
            certain = certain & (layer.margin > _MARGIN)
        actions.append(interface.action(decided.output).numpy())
        certainties.append(certain.numpy())
    return np.stack(actions), np.stack(certainties)


def agreement(
    contender: Contender,
    observations: NDArray[Any],
    wanted: tuple[NDArray[np.float64], NDArray[np.bool_]],
    by_row: bool,
) -> Agreement:
    """Compares a contender's actions for `[decisions, batch, …]` with what `expected` gives for them.

    Args:
        contender: who decides; it is reset before and after.
        observations: what it decides on.
        wanted: actions, and which of them are certain.
        by_row: whether it decides on one observation at a time.
    """
    wanted_actions, certain = wanted
    actions = np.empty(wanted_actions.shape)
    groups: Iterable[Any] = range(observations.shape[1]) if by_row else [slice(None)]
    with using_threads(contender.threads):
        for group in groups:
            contender.reset()
            for decision, observation in enumerate(observations[:, group]):
                given = contender.prepare(np.ascontiguousarray(observation))
                actions[decision, group] = np.asarray(contender.act(given))
    contender.reset()
    tolerance = _TOLERANCE * np.maximum(1.0, np.abs(wanted_actions))
    agreeing = np.all(np.abs(actions - wanted_actions) <= tolerance, axis=-1)
    return Agreement(float(certain.mean()), float(agreeing.mean()), int((~agreeing[certain]).sum()))


def spikes_per_decision(snn: SpikingActor, observations: NDArray[Any]) -> tuple[float, ...]:
    """Spikes per decision and row in each hidden layer, for `[decisions, batch, …]` from a reset on."""
    snn.reset()
    sent = []
    for observation in observations:
        snn.act(observation)
        sent.append(snn.spikes.double().mean(dim=1))
    snn.reset()
    return tuple(float(value) for value in torch.stack(sent).mean(dim=0))
