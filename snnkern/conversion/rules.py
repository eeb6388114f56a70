"""Sets thresholds from recorded activations of the dense actor.

A threshold θ bounds the mean output of IF, SNM and MT neurons, and T divides it into levels. A threshold that is too
small clips activations; one that is too large wastes resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snnkern.conversion.activations import ActivationRecorder, Statistics, batches
from snnkern.conversion.rewriting import as_relus
from snnkern.conversion.sensitivity import FLOOR
from snnkern.errors import InputError
from snnkern.kernels.neurons import Neuron
from snnkern.policies.activations import RELU
from snnkern.policies.actor import Actor, check_actor


@dataclass(frozen=True)
class Max:
    """Sets θ to the largest recorded activation: nothing is clipped on the calibration data."""

    name: ClassVar[str] = "max"

    def thresholds(self, recorder: Statistics) -> list[Tensor]:
        """θ of every hidden layer: `[N]`, or `[C]` of a convolution."""
        return recorder.maximum()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Percentile:
    """Sets θ to a percentile of the positive activations: robust to outliers, finer for the rest.

    Source: Rueckauer et al., "Conversion of Continuous-Valued Deep Networks to Efficient Event-Driven Networks for
    Image Classification", Frontiers in Neuroscience 2017; there per layer and over all activations.
    """

    name: ClassVar[str] = "percentile"
    percentile: float = 99.9

    def __post_init__(self) -> None:
        if not isinstance(self.percentile, (int, float)) or not 0 < self.percentile <= 100:
            raise InputError(f"the percentile must be a number above 0 and up to 100, got {self.percentile!r}")

    def thresholds(self, recorder: Statistics) -> list[Tensor]:
        """θ of every hidden layer: `[N]`, or `[C]` of a convolution."""
        return recorder.percentile(self.percentile)

    def __str__(self) -> str:
        return f"{self.name}:{self.percentile:g}"


Rule = Literal["mse", "gaussian"]
Correction = Literal["none", "bias", "linear"]


@dataclass(frozen=True)
class Fitted:
    """Fits thresholds layer by layer to the neuron and its T (`fitting.fit`).

    `str` gives the rule and every parameter that differs from its default: "mse:weighted:linear:ridge=0.05".

    Attributes:
        rule: "mse", the least squared error of the neuron's own response, or "gaussian", that of an expected one.
        weighted: whether an error counts by how much it moves the action (`sensitivity`), in the mse rule and in the
            linear correction.
        correction: "none"; "bias", which subtracts the mean error of every layer's output from the next layer's bias;
            or "linear", which fits the next layer's weights and bias to the spikes (`least_squares`).
        ridge: for "linear", how strongly weights are kept at their trained values.
        floor: where errors are weighted, what one that moves no action counts of the average one.
        matched: whether "linear" fits the output layer of an actor with tanh to its actions (`matching`).

    Raises:
        InputError: a parameter is none of its choices, or out of range.
    """

    rule: Rule = "mse"
    weighted: bool = False
    correction: Correction = "none"
    ridge: float = 0.1
    floor: float = FLOOR
    matched: bool = False

    def __post_init__(self) -> None:
        for name, value in (("ridge", self.ridge), ("floor", self.floor)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"{name} must be a finite number above 0, got {value!r}")
        for name, choice, choices in (
            ("rule", self.rule, get_args(Rule)),
            ("correction", self.correction, get_args(Correction)),
        ):
            if choice not in choices:
                raise InputError(f"unknown {name} {choice!r}: choose {', '.join(choices)}")
        if self.matched and self.correction != "linear":
            raise InputError(f"matched belongs to the correction 'linear', got correction {self.correction!r}")

    def __str__(self) -> str:
        parts: list[str] = [self.rule]
        parts += ["weighted"] if self.weighted else []
        parts += [self.correction] if self.correction != "none" else []
        parts += ["matched"] if self.matched else []
        parts += [f"ridge={self.ridge:g}"] if self.ridge != Fitted.ridge else []
        parts += [f"floor={self.floor:g}"] if self.floor != Fitted.floor else []
        return ":".join(parts)

    @classmethod
    def parse(cls, text: str) -> Fitted:
        """Reads what `str` wrote.

        Raises:
            InputError: a part is not one of them.
        """
        rule, *parts = text.split(":")
        given: dict[str, Any] = {}
        for part in parts:
            name, _, value = part.partition("=")
            try:
                if part in ("weighted", "matched"):
                    given[part] = True
                elif part in ("bias", "linear"):
                    given["correction"] = part
                elif name in ("ridge", "floor"):
                    given[name] = float(value)
                else:
                    raise ValueError
            except ValueError as error:
                raise InputError(
                    f"calibration {text!r}: {part!r} is none of weighted, bias, linear, matched, ridge=number, "
                    "floor=number"
                ) from error
        return cls(cast("Rule", rule), **given)


@dataclass(frozen=True)
class Auto:
    """Takes the recommended calibration of the neuron, found on published actors, then frozen; see `recommended`."""

    name: ClassVar[str] = "auto"

    def __str__(self) -> str:
        return self.name


Calibration = Max | Percentile | Fitted | Auto


_FLOOR_OF_MT = 0.3  # chosen by actors of TD3 and SAC


def recommended(neuron: Neuron, actor: Actor) -> tuple[Fitted, float]:
    """The recommended calibration and α of a neuron, for every T; they are what "auto" stands for.

    Thresholds have the least squared error of the neuron's own response, and the next layer's weights are corrected.
    Errors count by how much they move the action; for DC, all states count alike. For IF, the output layer is fitted to
    the actions where there is a tanh (`matched`). For MT, a state in which nothing moves the action counts more
    (`floor`). With convolutions or bridges, neither is so. α is as `chosen_alpha` says. The measurements are in
    `docs/calibration.md`.

    Args:
        neuron: the neuron; its parameters do not matter.
        actor: what is converted.

    Returns:
        How thresholds are fitted, and α.
    """
    is_mt = neuron.multilevel and not neuron.differential
    rule = Fitted(
        weighted=not neuron.differential,
        correction="linear",
        floor=_FLOOR_OF_MT if is_mt and actor.is_plain else FLOOR,
        matched=not neuron.signed and actor.is_plain,
    )
    return rule, chosen_alpha("auto", neuron, rule, actor)


def chosen_alpha(
    alpha: float | str, neuron: Neuron, calibration: str | Calibration | None = "auto", actor: object = None
) -> Any:
    """α, or the recommended one where it is "auto"; `Dynamics` judges what else it may be.

    It is 0.2 for SNM, and for IF with thresholds that are not fitted, whose coarse levels leave something to carry;
    0 for IF with fitted ones, for MT and DC, and for actors with convolutions or bridges, which do as well or better
    without.

    Args:
        alpha: α, or "auto".
        neuron: the neuron; its parameters do not matter.
        calibration: how thresholds are found; None if they are given.
        actor: what is converted; by default one of state vectors.
    """
    if alpha != "auto":
        return alpha
    if neuron.multilevel or (isinstance(actor, Actor) and not actor.is_plain):
        return 0.0
    fitted = calibration is not None and isinstance(parse_calibration(calibration), Fitted | Auto)
    return 0.0 if fitted and not neuron.signed else 0.2


def parse_calibration(calibration: str | Calibration) -> Calibration:
    """Turns "auto", "max", "percentile" (99.9), "percentile:99", "mse" or "gaussian" into a calibration.

    The last two take parameters: see `Fitted`. A calibration passes through.

    Raises:
        InputError: the name is unknown, or the percentile is not one.
    """
    if isinstance(calibration, Max | Percentile | Fitted | Auto):
        return calibration
    name, _, value = str(calibration).partition(":")
    if name in get_args(Rule):
        return Fitted.parse(calibration)
    try:
        if name == Max.name and not value:
            return Max()
        if calibration == Auto.name:
            return Auto()
        if name == Percentile.name:
            return Percentile(float(value)) if ":" in calibration else Percentile()
    except ValueError as error:
        raise InputError(f"not a percentile from 0 to 100: {value!r}") from error
    raise InputError(
        f"unknown calibration {calibration!r}: choose auto, max, percentile, percentile:P, mse or gaussian"
    )


def parse_of_activations(calibration: str | Calibration) -> Max | Percentile:
    """As `parse_calibration`, for what needs the activations alone.

    Raises:
        InputError: the calibration needs the neuron and T as well.
    """
    rule = parse_calibration(calibration)
    if isinstance(rule, Fitted | Auto):
        raise InputError(
            f"calibration {str(rule)!r} depends on the neuron and T: it works with convert and snnkern sweep"
        )
    return rule


Form = tuple[Actor, list[Tensor]]


def calibrated(
    actor: Actor, observations: NDArray[np.floating] | Tensor, calibration: str | Calibration = "max"
) -> Callable[[Neuron], Form]:
    """The weights that a neuron runs on, as `as_relus`, and their thresholds, as `calibrate`: each found once."""
    found: dict[bool, Form] = {}

    def form(neuron: Neuron) -> Form:
        endless = neuron.differential and actor.activation != RELU
        if endless not in found:
            relus = as_relus(actor, neuron)
            found[endless] = relus, calibrate(relus, observations, calibration)
        return found[endless]

    return form


def calibrate(
    actor: Actor,
    observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor],
    calibration: str | Calibration = "max",
) -> list[Tensor]:
    """Computes the thresholds of every hidden layer, `[N]` (of a convolution `[C]`) each, from observations.

    Args:
        actor: the dense actor.
        observations: `[N, *observation_shape]`, or an iterable of such batches, which are read one at a time.
        calibration: "max", "percentile", "percentile:P", `Max()` or `Percentile(p)`.

    Raises:
        InputError: there are no observations, or they do not fit the actor.
    """
    if check_actor(actor).activation != RELU:
        raise InputError(
            f"thresholds are those of ReLUs, but the actor's activation is {actor.activation}: convert rewrites it "
            "(calibration=)"
        )
    rule = parse_of_activations(calibration)
    recorder = ActivationRecorder(actor, percentiles=isinstance(rule, Percentile))
    for batch in batches(observations):
        recorder.update(batch)
    return rule.thresholds(recorder)
