"""The timer of decisions: contenders in one process, in rounds, on the same observations; and the machine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
import os
import platform
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from snnkern.kernels.backends.choice import backends
from snnkern.kernels.neurons import Dynamics
from snnkern.version import installed

ROUND_SECONDS = 2e-3  # of one contender in a round: no fewer decisions than `fewest`, no more than MOST
MOST = 500

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Contender:
    """One way of computing actions.

    Attributes:
        act: the action for what `prepare` makes of a NumPy observation; what is timed.
        reset: starts a new episode.
        prepare: brings an observation `[…]` or observations `[B, …]` into the form that `act` takes.
        setting: the dynamics that the actions must agree with; None for the dense actor.
        threads: what torch.set_num_threads is set to while it is timed; others have their own ways.
    """

    act: Callable[[Any], Any]
    reset: Callable[[], None] = lambda: None
    prepare: Callable[[NDArray[Any]], Any] = lambda observation: observation
    setting: Dynamics | None = None
    threads: int = 1


def rounds(
    groups: Sequence[tuple[Mapping[Name, Contender], NDArray[Any]]],
    seconds: float = ROUND_SECONDS,
    fewest: int = 5,
) -> Generator[tuple[Name, float], None, None]:
    """Times contenders one after the other, round after round without end: a name, and its seconds per decision.

    In a round everyone is timed once, group by group, within a group in random order, so that all meet the same noise.
    Garbage collection is off meanwhile.

    Args:
        groups: contenders by name, with the observations that they decide on, `[N, …]`. Names are unique. A group that
            is given several times is timed as many times in a round.
        seconds: how long each is timed in a round, about.
        fewest: decisions that each makes in a round, at least.
    """
    inputs: dict[Name, list[Any]] = {}
    decisions: dict[Name, int] = {}
    shuffle = np.random.default_rng(0)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while True:
            for contenders, observations in groups:
                order = list(contenders)
                for index in shuffle.permutation(len(order)):
                    name = order[index]
                    contender = contenders[name]
                    if name not in decisions:
                        inputs[name] = [contender.prepare(observation) for observation in observations]
                        duration = _seconds_per_decision(contender, inputs[name], 1)
                        if duration < seconds:
                            duration = _seconds_per_decision(contender, inputs[name], 3)
                        decisions[name] = int(np.clip(seconds / duration, fewest, MOST))
                    yield name, _seconds_per_decision(contender, inputs[name], decisions[name])
    finally:
        if collecting:
            gc.enable()


def measure(
    contenders: Mapping[Name, Contender],
    observations: NDArray[Any],
    number: int,
    seconds: float = ROUND_SECONDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, NDArray[np.float64]]:
    """Seconds per decision in every one of a number of rounds, `[number]` each; see `rounds`.

    Args:
        contenders: what to time, by name.
        observations: what they decide on, `[N, …]`.
        number: of rounds.
        seconds: how long each is timed in a round, about.
        progress: called after every round with the number of rounds done and of all.
    """
    taken: dict[Name, list[float]] = {name: [] for name in contenders}
    with contextlib.closing(rounds([(contenders, observations)], seconds)) as stream:
        for done in range(1, number + 1):
            for name, duration in itertools.islice(stream, len(contenders)):
                taken[name].append(duration)
            progress(done, number)
    return {name: np.array(durations) for name, durations in taken.items()}


def _seconds_per_decision(contender: Contender, inputs: Sequence[Any], decisions: int) -> float:
    """After one decision that brings weights and code back into the caches."""
    chosen = [inputs[index % len(inputs)] for index in range(decisions)]
    with using_threads(contender.threads):
        contender.act(inputs[-1])
        return seconds_per_call(contender.act, chosen)


def seconds_per_call(function: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """The mean over one call for each of the inputs."""
    start = time.perf_counter()
    for given in inputs:
        function(given)
    return (time.perf_counter() - start) / len(inputs)


def quartiles(values: NDArray[np.float64]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])]


def rows(observations: NDArray[Any], batch: int, decisions: int) -> NDArray[Any]:
    """Observations for so many decisions: `[decisions, batch, …]`, consecutive in a row, rows far apart.

    With a batch of 1, `[decisions, …]`. Where there are too few observations, they come again.
    """
    if batch == 1:
        return observations[np.arange(decisions) % len(observations)]
    apart = np.arange(batch) * max(len(observations) - decisions, batch) // batch
    return observations[(np.arange(decisions)[:, None] + apart) % len(observations)]


@contextlib.contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Gives PyTorch so many threads, and NumPy one where its BLAS is OpenBLAS, as it mostly is."""
    before = torch.get_num_threads()
    libraries = [(library, library.get()) for library in _openblas()]
    torch.set_num_threads(threads)
    for library, _ in libraries:
        library.set(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        for library, own in libraries:
            library.set(own)


class _OpenBlas(NamedTuple):
    get: Callable[[], int]
    set: Callable[[int], None]


@functools.cache
def _openblas() -> list[_OpenBlas]:
    """OpenBLAS as this process has loaded it, for NumPy has no way of its own to say how many threads it may use."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    found = []
    for path in sorted({line.split(maxsplit=5)[-1] for line in lines if "openblas" in line.rpartition("/")[2]}):
        try:
            library = ctypes.CDLL(path)
        except OSError:  # the file is another one by now
            continue
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            names = [f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set")]
            if all(hasattr(library, name) for name in names):
                found.append(_OpenBlas(*(getattr(library, name) for name in names)))
                break
    return found


class Machine(TypedDict, total=False):
    """Where something was measured: what `machine` finds, and of latencies also whether it was busy."""

    cpu: str | None
    cores: int | None
    engine: str | None
    load: float | None
    versions: dict[str, str | None]
    load_after: float | None
    busy: str


def machine(packages: Sequence[str]) -> Machine:
    """Processor, cores, native kernels, load average (None where unknown) and the packages' versions."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = found[0] if found else model
    engine = next(status.detail for status in backends() if status.name == "cpu")
    versions = {name: installed(name) for name in packages}
    return {"cpu": model, "cores": os.cpu_count(), "engine": engine, "load": load_average(), "versions": versions}


def busy(found: Machine) -> str:
    """A warning where other programs keep the machine busy, whose description `machine` gives; empty otherwise."""
    load, cores = found["load"], found["cores"] or 1
    if load is None or load <= max(0.5, cores / 4):
        return ""
    return f"this machine is busy (load average {load:.1f} on {cores} cores): times are longer and spread wider"


def load_average() -> float | None:
    """Processes that wanted to run, averaged over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
