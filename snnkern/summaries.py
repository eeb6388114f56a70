"""What the report needs of the JSON that `snnkern analyze`, `energy` and `bench` write: the types and ranges of it.

A summary is checked once, where it is read, and stays a dictionary: it is drawn by what also draws a fresh one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from snnkern.errors import InputError
from snnkern.limits import MOST_TIMESTEPS
from snnkern.results import read_summary

Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]
Count = Annotated[int, Meta(ge=1, le=2**31)]
Quartiles = Annotated[list[Positive], Meta(min_length=3, max_length=3)]
Curve = dict[Literal["at", "value", "low", "high"], list[Number | None]]


class Neuron(Struct):
    """A neuron and all its parameters."""

    name: Literal["if", "snm", "mt", "dc", "lif"]
    initial_fraction: Number
    negative_fraction: Number
    levels: Count


class Dynamics(Struct):
    """A setting."""

    neuron: Neuron
    timesteps: Count
    alpha: Number
    memory: Number


class Clipped(Dynamics):
    """A setting with κ."""

    clip: Amount


class Machine(Struct):
    """Where it was measured."""

    cpu: str | None = None
    engine: str | None = None
    busy: str | None = None
    versions: dict[str, str | None] = {}


class Cost(Struct):
    """What a decision costs."""

    spikes: Amount
    nanojoules: Amount


class SettingCost(Cost):
    """What a decision of a spiking actor costs."""

    neuron: Neuron
    timesteps: Count
    alpha: Number
    memory: Number


class Energy(Struct):
    """What `snnkern energy` writes."""

    actor: str
    along: str
    dense: Cost
    dense_without_zeros: Cost
    results: list[SettingCost]
    machine: Machine = msgspec.field(default_factory=Machine)


class Fastest(Struct):
    """The fastest dense runtime."""

    batch: Count
    threads: Count
    runtime: str


class Timed(Struct):
    """A contender: the dense actor in a runtime, or with the parts of a setting a spiking one."""

    name: str
    batch: Count
    threads: Count
    microseconds: Quartiles
    times_as_fast_as: dict[str, Quartiles]
    neuron: Neuron | None = None
    timesteps: Count | None = None
    alpha: Number | None = None


class Bench(Struct):
    """What `snnkern bench` writes."""

    actor: str
    results: Annotated[list[Timed], Meta(min_length=1)]
    fastest_dense: list[Fastest]
    machine: Machine


class Estimate(Struct):
    """A number with the ends of its interval, where there were episodes enough."""

    value: Number
    low: Number | None
    high: Number | None


class Share(Struct):
    """A share, where there was anything to share."""

    value: Number | None


class Returns(Struct):
    """Returns of one policy's actions in another one's states."""

    states: str
    actions: str
    mean: Estimate


class Errors(Struct):
    """Errors of a spiking version's actions in someone's states."""

    states: str
    actions: str
    size: Estimate
    low_frequency_share: Share
    autocorrelation: Curve
    spectrum: Curve
    trace: list[Annotated[list[Number], Meta(min_length=1)]]


class Shift(Struct):
    """How far distributions of states are apart."""

    average: Estimate


class Divergence(Struct):
    """How far a policy's states are from the dense actor's."""

    states: str
    distance: Curve
    shift: Shift


class Residuals(Struct):
    """What a layer owes."""

    edges: list[Number]
    share: list[Amount]
    owing: Amount
    large: Amount
    clamped: Amount


class RasterLayer(Struct):
    """A few neurons of a layer."""

    neurons: Annotated[list[int], Meta(max_length=100)]
    spikes: list[list[Number]]
    potentials: list[list[Number]]
    carries: list[list[Number]]


class Raster(Struct):
    """A few decisions."""

    first: int
    decisions: Annotated[int, Meta(ge=1, le=100)]
    timesteps: Annotated[int, Meta(ge=1, le=MOST_TIMESTEPS)]
    layers: Annotated[list[RasterLayer], Meta(min_length=1, max_length=100)]


class Analysis(Struct):
    """What `snnkern analyze` writes."""

    actor: str
    environment: str
    dynamics: Clipped
    episodes: Count
    low_frequency: Positive
    returns: Annotated[list[Returns], Meta(min_length=1, max_length=100)]
    errors: list[Errors]
    divergences: list[Divergence]
    residuals: Annotated[
        dict[str, Annotated[list[Residuals], Meta(min_length=1, max_length=100)]], Meta(min_length=1, max_length=10)
    ]
    raster: Raster
    machine: Machine = msgspec.field(default_factory=Machine)


_KINDS: dict[str, type[Struct]] = {"analyze": Analysis, "energy": Energy, "bench": Bench}


def read_summaries(paths: Sequence[Path], verb: str) -> list[dict[str, Any]]:
    """Reads what a verb wrote.

    Args:
        paths: files of JSON.
        verb: "analyze", "energy" or "bench".

    Raises:
        InputError: a file cannot be read, or does not hold what that verb writes.
    """
    kind = _KINDS[verb]
    wanted = [field.name for field in msgspec.structs.fields(kind) if field.required]
    found = []
    for path in paths:
        summary = read_summary(path, verb, wanted)
        try:
            msgspec.convert(summary, kind)
        except msgspec.ValidationError as error:
            raise InputError(f"{path} is not what snnkern {verb} writes: {error}") from error
        found.append(summary)
    return found
