"""Settings: what an actor is converted to. Studies run them; stores, results, tables and figures name them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from snnkern.control.records import SettingDescription
from snnkern.conversion.rules import Calibration, chosen_alpha, recommended
from snnkern.errors import check_whole
from snnkern.kernels.neurons import NEURONS, Dynamics, Neuron, neuron_from, parse_neuron
from snnkern.limits import MOST_TIMESTEPS
from snnkern.policies.actor import Actor

_SYMBOLS = {"initial_fraction": "β", "negative_fraction": "η", "levels": "L"}


@dataclass(frozen=True)
class Setting:
    """What an actor is converted to.

    Attributes:
        neuron: the neuron kind and its parameters.
        timesteps: T.
        alpha: α, or a name that `convert` knows.
        memory: μ.
        calibration: a name that `convert` knows; in results also "given (…)", with a part of the thresholds' hash.
        clip: κ.
    """

    neuron: Neuron
    timesteps: int
    alpha: float | str
    memory: float
    calibration: str
    clip: float = 0.5

    @classmethod
    def from_dict(cls, description: Mapping[str, Any], calibration: str) -> Setting:
        """Reads what `to_dict` wrote, which does not hold the calibration.

        Raises:
            InputError: the neuron is unknown, or its parameters are out of range.
        """
        neuron = neuron_from(parse_neuron(description["neuron"]["name"]).kind, description["neuron"])
        given = {key: description[key] for key in ("timesteps", "alpha", "memory", "clip")}
        return cls(neuron, calibration=calibration, **given)

    def to_dict(self) -> SettingDescription:
        """A JSON-ready description without the calibration.

        Raises:
            InputError: a number is out of range.
        """
        number = 0.0 if isinstance(self.alpha, str) else self.alpha
        checked = Dynamics(self.neuron, self.timesteps, number, self.memory, self.clip).to_dict()
        return {**checked, "alpha": self.alpha if isinstance(self.alpha, str) else checked["alpha"]}

    def recommended(self, actor: Actor) -> dict[str, Any]:
        """What "auto" stands for in it and for this actor, by its name; another version may recommend another one."""
        rule, _ = recommended(self.neuron, actor)
        meant = {"calibration": str(rule), "alpha": chosen_alpha("auto", self.neuron, self.calibration, actor)}
        return {name: meaning for name, meaning in meant.items() if getattr(self, name) == "auto"}

    def arguments(self) -> dict[str, Any]:
        """What `convert` is called with."""
        return dict(vars(self))

    @property
    def label(self) -> str:
        """The neuron's name for tables and figures: "IF", or "MT, levels = 6" where a parameter is not its default."""
        default = NEURONS[self.neuron.kind]()
        words = [
            f"{field.name} = {getattr(self.neuron, field.name):g}"
            for field in fields(self.neuron)
            if getattr(self.neuron, field.name) != getattr(default, field.name)
        ]
        if self.clip != Setting.clip:
            words.append(f"κ = {self.clip:g}")
        return ", ".join([self.neuron.label, *words])

    @property
    def family(self) -> tuple[str, str, float]:
        """Label, calibration and μ, which are equal for settings that differ in T and α only."""
        return self.label, self.calibration, self.memory

    @property
    def order(self) -> tuple[Any, ...]:
        """A key to sort settings by: neurons in their usual order, then calibration, μ, T, and α with names last."""
        alpha = (math.inf, self.alpha) if isinstance(self.alpha, str) else (self.alpha, "")
        return self.neuron.kind, *self.family, self.timesteps, *alpha


def describe_setting(setting: Setting, every: Iterable[Setting]) -> str:
    """Describes a setting in a few words: neuron, T, α, and what else differs among all settings."""
    words = [setting.label, f"T = {setting.timesteps}", f"α = {plain(setting.alpha)}"]
    return ", ".join([*words, *differing(setting, every)])


def differing(setting: Setting, every: Iterable[Setting]) -> list[str]:
    """Describes what of a setting, besides neuron, T and α, differs among all settings."""
    words = []
    every = list(every)
    if len({other.memory for other in every}) > 1:
        words.append(f"μ = {setting.memory:g}")
    if len({other.calibration for other in every}) > 1:
        words.append(f"thresholds: {setting.calibration}")
    return words


def describe_neuron(neuron: Neuron) -> str:
    """Describes a neuron with all parameters of its kind: "MT (β = 0, L = 4)"."""
    own = [field.name for field in fields(neuron) if field.init]
    return f"{neuron.label} ({', '.join(f'{_SYMBOLS.get(name, name)} = {getattr(neuron, name):g}' for name in own)})"


def plain(value: float | str) -> str:
    """Writes a number, or the name of a rule."""
    return value if isinstance(value, str) else f"{value:g}"


def grid(
    neurons: Iterable[str | Neuron],
    timesteps: Iterable[int],
    alphas: Iterable[float | str] = ("auto",),
    memories: Iterable[float] = (0.0,),
    levels: int | None = None,
    actor: Actor | None = None,
    calibration: str | Calibration = "auto",
) -> list[Dynamics]:
    """Makes the settings of `sweep`: every combination of neuron, T, α and μ, once each.

    "auto" as α is the recommended one of the neuron (`snnkern.conversion.rules.chosen_alpha`) for this actor and this
    calibration; without an actor, for those that see state vectors.

    Raises:
        InputError: a parameter is out of range.
    """
    kinds = [parse_neuron(neuron, levels) for neuron in neurons]
    steps = [check_whole("timesteps (T)", each, least=1, most=MOST_TIMESTEPS) for each in timesteps]
    combinations = itertools.product(kinds, steps, alphas, memories)
    return list(
        dict.fromkeys(
            Dynamics(kind, t, chosen_alpha(alpha, kind, calibration, actor), memory)
            for kind, t, alpha, memory in combinations
        )
    )
