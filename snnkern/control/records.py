"""The types of records, which stores keep of evaluations as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import msgspec

from snnkern.kernels.neurons import DynamicsDescription, NeuronDescription

_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class SettingDescription(TypedDict):
    """What `Setting.to_dict` returns: as `Dynamics.to_dict`, with the name of a rule where α has one."""

    neuron: NeuronDescription
    timesteps: _Count
    alpha: float | str
    memory: float
    clip: float


class CalibrationDescription(TypedDict, total=False):
    """Where thresholds come from: a rule and what it is calibrated on, or a hash of thresholds that were given."""

    rule: str
    recommended: dict[str, float | str]
    steps: _Whole
    seed: _Whole
    observations: str
    thresholds: str


class TaskDescription(TypedDict):
    """All that a task's result depends on; see `snnkern.control.evaluation.describe_task`."""

    actor: str
    environment: str
    setting: SettingDescription | None
    calibration: CalibrationDescription | None
    episodes: _Count
    seed: _Whole
    backend: str | None
    versions: dict[str, str]


class EpisodeRecord(TypedDict):
    """Return and length of each episode; there is at least one."""

    returns: Annotated[Sequence[float], msgspec.Meta(min_length=1)]
    lengths: Sequence[_Count]


class _Evaluated(EpisodeRecord):
    """Episodes, and spikes per decision of each hidden layer."""

    spikes: Sequence[float]


class Result(_Evaluated, total=False):
    """The result of a task; for a spiking actor also its setting, thresholds and calibration."""

    dynamics: DynamicsDescription | None
    thresholds: str
    calibration: str


class Run(TypedDict, total=False):
    """When a task ended, in UTC, and how many seconds it took."""

    finished: str
    seconds: float


class Outcome(TypedDict):
    """A record without its task: the actor's name for people, the result, and when the task ran."""

    actor: str
    result: Result
    run: Run


class Record(Outcome):
    """What a store keeps of a task."""

    task: TaskDescription
