"""What `snnkern analyze`, `energy` and `bench` write as JSON, and the reading of it.

Types and ranges are checked where a file is read. A number that is not finite is null in JSON, and NaN here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec
from msgspec import Meta

from snnkern.analysis.amplification import Findings
from snnkern.analysis.energy import CostSummary, Energies
from snnkern.control.timing import Machine
from snnkern.errors import InputError
from snnkern.files import from_json, read_bytes
from snnkern.kernels.neurons import DynamicsDescription, NeuronDescription
from snnkern.limits import Count, Number, Positive

T = TypeVar("T")
Quartiles = Annotated[list[Positive], Meta(min_length=3, max_length=3)]


@dataclass(frozen=True, kw_only=True)
class AnalysisSummary(Findings):
    """What `snnkern analyze` writes: what was found, and of what.

    Attributes:
        actor: its name, for people.
        environment: a registered name.
        calibration: where the thresholds come from.
        calibration_steps: observations that the thresholds are calibrated on; None where the actor had thresholds.
        calibration_seed: seed of collecting them.
        dynamics: the setting with CRPI.
        low_frequency: below which frequency errors count as lasting, in cycles per decision.
        machine: where it was computed.
        seconds: how long it took.
    """

    actor: str
    environment: str
    dynamics: DynamicsDescription
    low_frequency: Positive
    kind: str = "analysis"
    calibration: str = ""
    calibration_steps: int | None = None
    calibration_seed: int | None = None
    machine: Machine = field(default_factory=Machine)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SettingCost(CostSummary):
    """What a decision of a spiking actor costs, with its setting."""

    neuron: NeuronDescription
    timesteps: Count
    alpha: Number
    memory: Number
    clip: Number = 0.5


@dataclass(frozen=True, kw_only=True)
class EnergySummary:
    """What `snnkern energy` writes.

    Attributes:
        actor: its name, for people.
        along: what was counted on, in words.
        dense: the dense actor.
        dense_without_zeros: the dense actor where weights whose input is zero are skipped.
        results: of every setting.
        environment: a registered name; empty where observations were given.
        seed: of the first episode.
        calibration: where the thresholds come from; empty where the actor had thresholds.
        picojoules: per operation.
        machine: where it was computed.
    """

    actor: str
    along: str
    dense: CostSummary
    dense_without_zeros: CostSummary
    results: list[SettingCost]
    kind: str = "energy"
    environment: str = ""
    seed: int | None = None
    calibration: str = ""
    picojoules: Energies = field(default_factory=Energies)
    machine: Machine = field(default_factory=Machine)


class _Case(TypedDict):
    name: str
    batch: Count
    threads: Count


class _Time(_Case):
    microseconds: Quartiles
    times_as_fast_as: dict[str, Quartiles]


class Timed(_Time, total=False):
    """A case that was timed: the dense actor in a runtime, or with the parts of a setting a spiking one.

    Times are microseconds per decision of the whole batch, ratios are taken within a round: quartiles of both.
    """

    rounds: int
    agreeing_with_reference: float
    wrong: int
    neuron: NeuronDescription
    timesteps: Count
    alpha: Number
    memory: Number
    clip: Number
    spikes_per_decision: float
    spikes_per_decision_per_layer: list[float]


class Fastest(TypedDict):
    """The dense runtime with the lowest median."""

    batch: Count
    threads: Count
    runtime: str


class NotBeaten(_Case):
    """A dense runtime that a spiking actor is no faster than."""

    neuron: NeuronDescription
    timesteps: int
    runtime: str
    times_as_fast: list[float]


class _Latencies(TypedDict):
    machine: Machine
    fastest_dense: list[Fastest]
    results: Annotated[list[Timed], Meta(min_length=1)]


class Latencies(_Latencies, total=False):
    """What was measured."""

    observations: int
    layers: list[int]
    seconds: float
    interrupted: bool
    missing: dict[str, str]
    unreached: int
    not_beaten: list[NotBeaten]


class BenchSummary(Latencies):
    """What `snnkern bench` writes: what was measured, and of whom."""

    actor: str


def read_summaries(paths: Sequence[Path], kind: type[T], verb: str) -> list[T]:
    """Reads what a verb wrote.

    Args:
        paths: files of JSON.
        kind: what that verb writes.
        verb: its name.

    Raises:
        InputError: a file cannot be read, or does not hold what that verb writes.
    """
    found = []
    for path in paths:
        content = from_json(read_bytes(path), dict[str, Any], str(path))
        try:
            found.append(msgspec.convert(_without_nulls(content), kind))
        except (msgspec.ValidationError, RecursionError) as error:  # nested more deeply than a file of ours
            raise InputError(f"{path} is not what snnkern {verb} writes: {error}") from error
    return found


def _without_nulls(content: Any) -> Any:
    """The same without entries that are null: what is not given is NaN or None, as the type says."""
    if isinstance(content, dict):
        return {key: _without_nulls(value) for key, value in content.items() if value is not None}
    return [_without_nulls(value) for value in content] if isinstance(content, list) else content
