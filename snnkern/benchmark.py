"""Latency: what a decision of a spiking actor costs beside the dense actor and the published loop.

All take turns in one process, on the same observations; ratios are taken within a round.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern import baselines, reference
from snnkern.actors import Actor
from snnkern.calibration import Calibration, calibrate
from snnkern.conversion import dense_actor
from snnkern.errors import InputError, check_whole
from snnkern.neurons import Dynamics, Kind
from snnkern.nn import SpikingActor
from snnkern.timing import MOST, Contender, load_average, machine, quartiles, rows, turns, using_threads

BATCHES = (1, 16, 256, 1024)
ACT, TENSOR, LOOP = "snn.act", "snn(tensor)", "published loop"
DENSE = ("PyTorch", "NumPy", "ONNX Runtime")
PACKAGES = ("snnkern", "torch", "numpy", "onnxruntime")

# A float64 run that comes closer than this to firing or not, as a fraction of θ, may be decided by rounding.
_MARGIN = 1e-5
_TOLERANCE = 1e-4  # of an action, as a fraction of it where it is above 1
_CHECKED_ROWS, _CHECKED_DECISIONS, _COUNTED_DECISIONS = 24, 4, 20


class Case(NamedTuple):
    """What is timed.

    Attributes:
        name: `ACT`, `TENSOR`, `LOOP`, or the dense actor's runtime, one of `DENSE`.
        dynamics: None for the dense actor.
        batch: rows of an observation; with 1, an observation is `[observation_dim]`.
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
        turns: seconds per decision of the whole batch, one value per round; only cases that had a turn.
        unreached: cases that time ran out for.
        missing: dense runtimes that are not installed, and why they do not run.
        spikes: spikes per decision and row in each hidden layer, for each setting.
        agreements: how each case's actions compare with the reference's.
        widths: of the actor's layers, observation and action included.
        machine: processor, versions, and the load average before and after.
        seconds: how long it took.
        interrupted: whether an interruption (Ctrl-C) ended it.
    """

    turns: Mapping[Case, NDArray[np.float64]]
    unreached: tuple[Case, ...]
    missing: Mapping[str, str]
    spikes: Mapping[Dynamics, tuple[float, ...]]
    agreements: Mapping[Case, Agreement]
    widths: tuple[int, ...]
    machine: Mapping[str, Any]
    seconds: float
    interrupted: bool

    def ratio(self, case: Case, other: Case) -> list[float] | None:
        """How many times the time of `case` the other one takes: quartiles over rounds; None where one is missing."""
        if case not in self.turns or other not in self.turns:
            return None
        ours, theirs = self.turns[case], self.turns[other]
        rounds = min(len(ours), len(theirs))  # the last round may have ended between the two
        return quartiles(theirs[:rounds] / ours[:rounds])


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
        observations: consecutive ones of a rollout, `[N, observation_dim]`; see `snnkern.collect`.
        settings: what to convert a dense actor to; see `snnkern.grid`.
        calibration: thresholds of a dense actor's conversion; see `snnkern.convert`.
        batches: numbers of rows that a decision is for.
        threads: numbers of threads.
        seconds: how long it may take in all. What has had a turn by then, or by an interruption (Ctrl-C), is kept.
        progress: called after every turn with the seconds that have passed; what it does is not timed.

    Raises:
        InputError: observations do not fit the actor, a number is out of range, a dense actor comes without settings or
            a spiking one with some, or not even one turn fits in the time.
    """
    start = time.monotonic()
    for name, values in (("batch", batches), ("threads", threads)):
        for value in values or [0]:
            check_whole(name, value, least=1)
    if not seconds > 0:
        raise InputError(f"seconds must be a number above 0, got {seconds!r}")
    actor = dense_actor(policy)
    if isinstance(policy, SpikingActor) == bool(settings):
        raise InputError("a dense actor needs settings to convert it to (see grid), and a spiking actor has its own")
    weight = actor.output.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        raise InputError(f"only float32 and float64 actors on the CPU are timed, got {weight.dtype} on {weight.device}")
    if not isinstance(observations, np.ndarray):
        raise InputError(f"observations must be an array [N, observation_dim], got {type(observations).__name__}")
    thresholds: Sequence[Tensor] = calibrate(actor, observations, calibration)  # which checks the observations
    if isinstance(policy, SpikingActor):
        thresholds, settings = policy.thresholds, [policy.dynamics]
    observations = observations.astype(weight.numpy().dtype)

    found = machine(PACKAGES)
    line_up = _LineUp(policy, actor, thresholds, list(dict.fromkeys(settings)), observations)
    groups: list[tuple[dict[Case, Contender], NDArray[Any]]] = []
    taken: dict[Case, list[float]] = {}
    interrupted = False
    with torch.no_grad():
        try:
            for batch in dict.fromkeys(batches):
                for count in dict.fromkeys([1] if batch == 1 else threads):
                    contenders: dict[Case, Contender] = {}
                    groups.append((contenders, rows(observations, batch, max(4, min(MOST, 8192 // batch)))))
                    for case, contender in line_up.contenders(batch, count):
                        contenders[case] = contender
                        progress(time.monotonic() - start)
            with contextlib.closing(turns(groups, fewest=1)) as stream:
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
        turns={case: np.array(durations) for case, durations in taken.items()},
        unreached=tuple(case for contenders, _ in groups for case in contenders if case not in taken),
        missing=line_up.missing,
        spikes=line_up.spikes,
        agreements=line_up.agreements,
        widths=(actor.interface.observation_dim, *(layer.out_features for layer in [*actor.hidden, actor.output])),
        machine=found | {"load_after": load_average()},
        seconds=time.monotonic() - start,
        interrupted=interrupted,
    )


class _LineUp:
    """Makes the contenders of a benchmark and sees how they decide.

    Those who decide for as many rows share a spiking actor, and the published loop: what it carries is not timed.
    """

    def __init__(
        self,
        policy: Actor | SpikingActor,
        actor: Actor,
        thresholds: Sequence[Tensor],
        settings: Sequence[Dynamics],
        observations: NDArray[Any],
    ) -> None:
        self.actor = actor
        self.settings = settings
        self.few = rows(observations, _CHECKED_ROWS, _CHECKED_DECISIONS)
        self.counted = rows(observations, _CHECKED_ROWS, _COUNTED_DECISIONS)
        self.missing: dict[str, str] = {}
        self.spikes: dict[Dynamics, tuple[float, ...]] = {}
        self.agreements: dict[Case, Agreement] = {}
        backend = policy.backend if isinstance(policy, SpikingActor) else "auto"

        @functools.cache
        def spiking(setting: Dynamics, batch: int) -> SpikingActor:
            return SpikingActor(actor, thresholds, setting, backend=backend, check_finite=policy.check_finite)

        @functools.cache
        def loop(timesteps: int, alpha: float, batch: int) -> baselines.PublishedLoop:
            return baselines.PublishedLoop(actor, thresholds, timesteps, alpha)

        @functools.cache
        def wanted(setting: Dynamics | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return expected(actor, thresholds, setting, self.few)

        self._spiking, self._loop, self._wanted = spiking, loop, wanted

    def contenders(self, batch: int, threads: int) -> Iterator[tuple[Case, Contender]]:
        """Everyone who can take part, to decide for so many rows on so many threads."""
        for name, contender in self._everyone(batch, threads):
            case = Case(name, contender.setting, batch, threads)
            self.agreements[case] = agreement(contender, self.few, self._wanted(contender.setting), batch == 1)
            yield case, contender

    def _everyone(self, batch: int, threads: int) -> Iterator[tuple[str, Contender]]:
        for setting in self.settings:
            snn = self._spiking(setting, batch)
            if setting not in self.spikes:
                self.spikes[setting] = spikes_per_decision(snn, self.counted)
            yield ACT, Contender(snn.act, snn.reset, setting=setting, threads=threads)
            yield TENSOR, Contender(snn, snn.reset, _as_tensor, setting, threads)
        for timesteps, alpha in dict.fromkeys((setting.timesteps, setting.alpha) for setting in self.settings):
            yield LOOP, self._loop(timesteps, alpha, batch).contender(threads)
        yield "PyTorch", baselines.eager(self.actor, threads)
        if threads == 1:
            yield "NumPy", baselines.numpy(self.actor)
        try:
            yield "ONNX Runtime", baselines.onnx_runtime(self.actor, threads)
        except baselines.Missing as error:
            self.missing["ONNX Runtime"] = str(error)


def _as_tensor(observation: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.atleast_2d(observation))


# ---- does a contender decide as the reference does?


def expected(
    actor: Actor, thresholds: Sequence[Tensor], setting: Dynamics | None, observations: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The reference's actions for `[decisions, batch, observation_dim]`, and which of them rounding cannot decide.

    In float64; DC in the actor's precision, since whether a DC neuron may take a spike back turns on rounding of what
    it has sent, the same in every run of that precision.
    """
    differential = setting is not None and setting.neuron.kind is Kind.DC
    dtype = actor.output.weight.dtype if differential else torch.float64
    layers = [(layer.weight.to(dtype), layer.bias.to(dtype)) for layer in [*actor.hidden, actor.output]]
    interface = actor.interface
    inputs = interface.normalize(torch.from_numpy(observations).to(dtype))
    if setting is None:
        signal = inputs
        for weight, bias in layers[:-1]:
            signal = torch.relu(reference.linear(signal, weight, bias))
        dense = interface.action(reference.linear(signal, *layers[-1])).numpy()
        return dense, np.ones(dense.shape[:-1], dtype=bool)
    hidden = [(*layer, theta.to(dtype)) for layer, theta in zip(layers, thresholds, strict=False)]
    carries = [inputs.new_zeros(inputs.shape[1], len(theta)) for theta in thresholds]
    actions, certainties = [], []
    certain = torch.ones(inputs.shape[1], dtype=torch.bool)
    for observation in inputs:
        decided = reference.actor(observation, hidden, layers[-1], carries, setting)
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
    """Compares a contender's actions for `[decisions, batch, observation_dim]` with what `expected` gives for them.

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
    """Spikes per decision and row in each hidden layer, for `[decisions, batch, observation_dim]` from a reset on."""
    snn.reset()
    sent = []
    for observation in observations:
        snn.act(observation)
        sent.append(snn.spikes.double().mean(dim=1))
    snn.reset()
    return tuple(float(value) for value in torch.stack(sent).mean(dim=0))
