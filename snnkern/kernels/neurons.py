"""The kinds of neurons with their parameters, and `Dynamics`, the settings of one decision step.

All are frozen dataclasses: hashable, comparable, and checked when they are made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, TypedDict

from snnkern.errors import InputError, brief

MAX_LEVELS = 24
_MAX_COUNT = 2**31 - 1


class Kind(IntEnum):
    """Names a neuron kind in operators and kernels.

    `csrc/neuron.h` and `backends/triton/neurons.py` have the same values.
    """

    IF = 0
    SNM = 1
    MT = 2
    DC = 3
    LIF = 4


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """The base of all neurons; use one of `IF`, `SNM`, `MT`, `DC`, `LIF`.

    Attributes:
        initial_fraction: β, the potential at the start of a decision step as a fraction of the threshold, 0 … 1.
        negative_fraction: η, below which fraction of the threshold a negative spike is sent (SNM only).
        levels: L, the number of thresholds per sign, λ_j = θ / 2^j (MT and DC only).
        signed: whether it may send negative spikes.
        multilevel: whether its spikes have several sizes.
        differential: whether its spikes carry changes of a rate, which the receiver integrates. Its layer adds the bias
            once per decision, and a constant current is coded as x_1 = current, x_2 = … = 0.
    """

    kind: ClassVar[Kind]
    signed: ClassVar[bool] = False
    multilevel: ClassVar[bool] = False
    differential: ClassVar[bool] = False

    initial_fraction: float = 0.5
    negative_fraction: float = field(default=0.0, init=False, repr=False)
    levels: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_fraction(f"{self.label}'s initial_fraction", self.initial_fraction)
        if not _is_finite(self.negative_fraction) or not self.negative_fraction < 1:
            raise InputError(
                f"{self.label}'s negative_fraction must be a number below 1, got {brief(self.negative_fraction)}"
            )
        if not _is_integer(self.levels) or not 1 <= self.levels <= MAX_LEVELS:
            raise InputError(
                f"{self.label}'s levels must be a whole number from 1 to {MAX_LEVELS}, got {brief(self.levels)}"
            )
        # Plain numbers, whatever kind came in (NumPy's, fractions): for JSON, and for operators' arguments.
        for name, convert in (("initial_fraction", float), ("negative_fraction", float), ("levels", int)):
            object.__setattr__(self, name, convert(getattr(self, name)))

    @property
    def leak(self) -> float:
        """The part of the potential that is lost at every step (LIF only)."""
        return 0.0

    @property
    def name(self) -> str:
        """The name that `parse_neuron` knows this kind by: "if", "snm", "mt", "dc" or "lif"."""
        return self.kind.name.lower()

    @property
    def label(self) -> str:
        """The name as papers print it: "IF", "SNM", "MT", "DC" or "LIF"."""
        return self.kind.name


@dataclass(frozen=True, kw_only=True)
class IF(Neuron):
    """Integrate-and-fire neuron with reset by subtraction: it sends θ when its potential exceeds θ.

    Source: Xu et al., "Error Amplification Limits ANN-to-SNN Conversion in Continuous Control", ICML 2026.
    """

    kind: ClassVar[Kind] = Kind.IF


@dataclass(frozen=True, kw_only=True)
class SNM(Neuron):
    """Signed neuron with memory: an IF neuron that can also send −θ, to take back a spike that it has sent.

    Source: Wang et al., "Signed Neuron with Memory", IJCAI 2022; the parametrisation of that paper is `SNM.original()`.
    """

    kind: ClassVar[Kind] = Kind.SNM
    signed: ClassVar[bool] = True
    negative_fraction: float = 0.0

    @classmethod
    def original(cls) -> SNM:
        """The neuron as the IJCAI 2022 paper states it: β = 0, η = −1."""
        return cls(initial_fraction=0.0, negative_fraction=-1.0)


@dataclass(frozen=True, kw_only=True)
class MT(Neuron):
    """Multi-threshold neuron: it sends ±θ / 2^j, the largest of its L levels that the potential reaches.

    Source: Huang et al., "Towards High-performance Spiking Transformers from ANN to SNN Conversion", ACM MM 2024.
    """

    kind: ClassVar[Kind] = Kind.MT
    signed: ClassVar[bool] = True
    multilevel: ClassVar[bool] = True
    initial_fraction: float = 0.0
    levels: int = 4


@dataclass(frozen=True, kw_only=True)
class DC(Neuron):
    """Differential coding with MT thresholds: a spike is a change of a rate, and the receiver sums the changes.

    Source: Huang et al., "Differential Coding for Training-Free ANN-to-SNN Conversion", ICML 2025.
    """

    kind: ClassVar[Kind] = Kind.DC
    signed: ClassVar[bool] = True
    multilevel: ClassVar[bool] = True
    differential: ClassVar[bool] = True
    initial_fraction: float = 0.0
    levels: int = 4


@dataclass(frozen=True, kw_only=True)
class LIF(Neuron):
    """Leaky integrate-and-fire: IF that loses a part of its potential at every step, before the current arrives.

    Attributes:
        leak: the part that is lost, 0 … below 1; 0 is IF.

    Source: Gerstner et al., "Neuronal Dynamics", 2014, section 1.3, in steps of one unit of time.
    """

    kind: ClassVar[Kind] = Kind.LIF
    leak: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_finite(self.leak) or not 0 <= self.leak < 1:
            raise InputError(f"LIF's leak must be a number from 0 to below 1, got {brief(self.leak)}")
        object.__setattr__(self, "leak", float(self.leak))


NEURONS: dict[Kind, type[Neuron]] = {cls.kind: cls for cls in (IF, SNM, MT, DC, LIF)}
NEURON_NAMES = ("if", "snm", "mt", "dc")  # what is compared where none is named: the neurons of the papers


def parse_neuron(neuron: str | Neuron, levels: int | None = None) -> Neuron:
    """Turns "if", "snm", "mt", "dc" or "lif" into a neuron with default parameters; a `Neuron` passes through.

    Args:
        neuron: a name, in any case, or a neuron.
        levels: L for MT and DC named by string; others ignore it, so that one value serves a list of names.

    Raises:
        InputError: there is no such neuron.
    """
    if isinstance(neuron, Neuron):
        return neuron
    names = [cls.kind.name.lower() for cls in NEURONS.values()]
    if not isinstance(neuron, str) or neuron.lower() not in names:
        raise InputError(f"unknown neuron {brief(neuron)}: choose one of {', '.join(names)}")
    cls = NEURONS[Kind[neuron.upper()]]
    if levels is not None and cls.multilevel:
        return neuron_from(cls.kind, {"levels": levels})
    return cls()


def neuron_from(kind: Kind, parameters: Mapping[str, Any]) -> Neuron:
    """A neuron of a kind from named parameters; those that the kind does not have are left out."""
    cls = NEURONS[kind]
    known = {spec.name for spec in fields(cls) if spec.init}
    return cls(**{name: value for name, value in parameters.items() if name in known})


class _EveryNeuron(TypedDict):
    name: str
    initial_fraction: float
    negative_fraction: float
    levels: int


class NeuronDescription(_EveryNeuron, total=False):
    """A neuron in `Dynamics.to_dict`: its name, what every neuron has, used or not, and what some have."""

    leak: float


class DynamicsDescription(TypedDict):
    """What `Dynamics.to_dict` returns."""

    neuron: NeuronDescription
    timesteps: int
    alpha: float
    memory: float
    clip: float


class Numbers(NamedTuple):
    """All numbers of a `Dynamics`, as operators and native code take them: `DynamicsNumbers` in `csrc/neuron.h`."""

    kind: int
    levels: int
    initial_fraction: float
    negative_fraction: float
    leak: float
    timesteps: int
    alpha: float
    memory: float
    clip: float

    @property
    def decay(self) -> float:
        """The part of the potential that stays, which is what kernels compute with."""
        return 1.0 - self.leak


@dataclass(frozen=True)
class Dynamics:
    """The settings of a spiking layer for one decision step: neuron, number of steps, residual carry.

    Attributes:
        neuron: the neuron kind and its parameters.
        timesteps: T, simulation steps per decision step, ≥ 1.
        alpha: α, the part of the residual that is carried into the next decision (CRPI), 0 … 1; 0 is plain conversion.
        memory: μ, the part of the old carry that stays in the new one, 0 … 1; 0 is the published CRPI.
        clip: κ, bound on the carry as a fraction of the threshold, ≥ 0.

    Source: Xu et al., ICML 2026; μ is ours (`docs/semantics.md`, "Residual carry").
    """

    neuron: Neuron
    timesteps: int
    alpha: float = 0.0
    memory: float = 0.0
    clip: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.neuron, Neuron):
            raise InputError(f"neuron must be IF(), SNM(), MT(), DC() or LIF(), got {self.neuron!r}")
        if not _is_integer(self.timesteps) or self.timesteps < 1:
            raise InputError(f"timesteps (T) must be a whole number of at least 1, got {brief(self.timesteps)}")
        largest = _MAX_COUNT >> (self.neuron.levels - 1)
        if self.timesteps > largest:
            raise InputError(
                f"timesteps (T) may be at most {largest} with {self.neuron.levels} levels, got {brief(self.timesteps)}"
            )
        _check_fraction("alpha (α)", self.alpha)
        _check_fraction("memory (μ)", self.memory)
        if not _is_finite(self.clip) or not self.clip >= 0:
            raise InputError(f"clip (κ) must be a finite number of at least 0, got {brief(self.clip)}")
        for name, convert in (("timesteps", int), ("alpha", float), ("memory", float), ("clip", float)):
            object.__setattr__(self, name, convert(getattr(self, name)))

    @property
    def numbers(self) -> Numbers:
        """All of these and the neuron's parameters."""
        own = self.neuron
        return Numbers(  # by position, in half the time of names: every call of an operator asks
            int(own.kind),
            own.levels,
            own.initial_fraction,
            own.negative_fraction,
            own.leak,
            self.timesteps,
            self.alpha,
            self.memory,
            self.clip,
        )

    @classmethod
    def from_numbers(cls, *numbers: float) -> Dynamics:
        """The dynamics whose `numbers` these are."""
        given = Numbers._make(numbers)
        neuron = neuron_from(Kind(given.kind), given._asdict())
        return cls(neuron, given.timesteps, given.alpha, given.memory, given.clip)

    def to_dict(self) -> DynamicsDescription:
        """A JSON-ready description that `from_dict` reads back."""
        neuron: Any = {"name": self.neuron.name, **asdict(self.neuron)}
        return {
            "neuron": neuron,
            "timesteps": self.timesteps,
            "alpha": self.alpha,
            "memory": self.memory,
            "clip": self.clip,
        }

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Dynamics:
        """Reads what `to_dict` wrote.

        Raises:
            InputError: something is missing, of another type or out of range.
        """
        found = _entries("it", description, DynamicsDescription)
        parameters = _entries("neuron", found["neuron"], NeuronDescription)
        neuron = neuron_from(parse_neuron(parameters["name"]).kind, parameters)
        return cls(neuron, found["timesteps"], found["alpha"], found["memory"], found["clip"])


def _entries(name: str, value: object, kind: Any) -> Mapping[str, Any]:
    """A part of a description, refused where its keys are not a TypedDict's; constructors look at the values."""
    if not isinstance(value, Mapping):
        raise InputError(f"not a description of neuron dynamics: {name} must be a dictionary, got {brief(value)}")
    missing, unknown = kind.__required_keys__ - value.keys(), value.keys() - kind.__annotations__.keys()
    for keys, problem in ((missing, "too few"), (unknown, "too many")):
        if keys:
            names = ", ".join(sorted(map(str, keys)))
            raise InputError(f"not a description of neuron dynamics: {name} has {names} {problem}")
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    """Whether it is a real number that a float can hold, which an integer of 400 digits is not."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _check_fraction(name: str, value: float) -> None:
    if not _is_finite(value) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, got {brief(value)}")
