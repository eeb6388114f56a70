"""Sets thresholds from recorded activations of the dense actor.

A threshold θ bounds the mean output of IF, SNM and MT neurons, and T divides it into levels. A threshold that is too
small clips activations; one that is too large wastes resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern import environments
from snnkern.actors import Actor, check_actor
from snnkern.errors import InputError, check_whole
from snnkern.limits import MOST_OBSERVED, check_seed
from snnkern.neurons import Neuron

if TYPE_CHECKING:
    import gymnasium

# Rows that pass through the actor at once while recording: bounds the memory that recording takes.
_CHUNK = 4096
_BINS = 4096
# What is calibrated on unless told otherwise: with a third of it, which observations they are decides as much as the
# rule (docs/calibration.md).
CALIBRATION_STEPS = 30_000


class Statistics:
    """The maximum and, where percentiles are wanted, the distribution of the activations of several layers.

    Gathered batch by batch in memory that does not grow: per neuron, the maximum and a histogram of the positive
    activations whose range is a power of two and doubles when it is exceeded.

    Args:
        like: a tensor `[N]` for every layer, whose dtype and device the maximum has.
        percentiles: whether `percentile` will be asked for; the maximum alone is several times faster.
    """

    def __init__(self, like: Sequence[Tensor], percentiles: bool = True) -> None:
        self.observations = 0
        self._maximum = [torch.zeros_like(tensor) for tensor in like]
        self._histograms = [_Histogram(len(tensor)) for tensor in like if percentiles]

    def record(self, activations: Sequence[Tensor]) -> None:
        """Takes in the activations of every layer, `[rows, N]` each.

        Raises:
            InputError: an activation is not finite.
        """
        if not all(bool(torch.isfinite(activation).all()) for activation in activations):
            raise InputError("calibration observations are so large that activations overflow")
        for index, activation in enumerate(activations):
            self._maximum[index] = torch.maximum(self._maximum[index], activation.amax(dim=0))
            if self._histograms:
                self._histograms[index].update(activation.double().cpu().numpy())
        self.observations += len(activations[0])

    def maximum(self) -> list[Tensor]:
        """The largest activation of every neuron, `[N]` per hidden layer; 0 for a neuron that was never active.

        Raises:
            InputError: nothing has been recorded.
        """
        self._check_recorded()
        return [maximum.clone() for maximum in self._maximum]

    def percentile(self, percentile: float) -> list[Tensor]:
        """A percentile of the positive activations of every neuron, `[N]` per hidden layer; at most the maximum.

        Taken over positive activations alone, so that a neuron that is rarely active is not silenced. Within 1/2048 of
        the maximum of the smallest activation that so many percent do not exceed. 0 for a neuron that was never active.

        Raises:
            InputError: nothing has been recorded.
        """
        self._check_recorded()
        return [
            torch.minimum(torch.from_numpy(histogram.percentile(percentile)).to(maximum), maximum)
            for histogram, maximum in zip(self._histograms, self._maximum, strict=True)
        ]

    def _check_recorded(self) -> None:
        if not self.observations:
            raise InputError("calibration data is empty: give at least one observation")


class ActivationRecorder(Statistics):
    """Statistics of the hidden activations of a dense actor.

    But for the rounding of the actor's own products, the result depends on the observations alone, not on their order
    or on how they were split.

    Args:
        actor: the dense actor.
        percentiles: as for `Statistics`.
    """

    def __init__(self, actor: Actor, percentiles: bool = True) -> None:
        super().__init__([layer.bias for layer in actor.hidden], percentiles)
        self.actor = actor

    @torch.no_grad()
    def update(self, observations: NDArray[np.floating] | Tensor) -> None:
        """Records the activations on observations `[N, observation_dim]`.

        Raises:
            InputError: wrong shape or dtype, or a NaN or infinity.
        """
        check_observations(self.actor, observations)
        for start in range(0, len(observations), _CHUNK):
            chunk = as_tensor(observations[start : start + _CHUNK])
            self.record(self.actor.hidden_activations(chunk.to(self._maximum[0])))


class _Histogram:
    """Counts of positive values per neuron, in `_BINS` bins over [0, 2^exponent) with an exponent for each neuron."""

    def __init__(self, neurons: int) -> None:
        self.counts = np.zeros((neurons, _BINS), dtype=np.int64)
        self.exponent = np.full(neurons, -1100)  # below every double's

    def update(self, values: NDArray[np.float64]) -> None:
        """Counts values `[B, N]`."""
        largest = values.max(axis=0)
        _, exponent = np.frexp(largest)  # largest < 2^exponent
        self._widen(np.where(largest > 0, np.maximum(exponent, self.exponent), self.exponent))
        bins = (np.ldexp(values, -self.exponent) * _BINS).astype(np.int64)
        rows, neurons = np.nonzero(values > 0)
        counted = np.bincount(neurons * _BINS + bins[rows, neurons], minlength=self.counts.size)
        self.counts += counted.reshape(self.counts.shape)

    def _widen(self, exponent: NDArray[np.int64]) -> None:
        for neuron in np.flatnonzero(exponent > self.exponent):
            merged = np.arange(_BINS) >> min(exponent[neuron] - self.exponent[neuron], 63)
            self.counts[neuron] = np.bincount(merged, self.counts[neuron], minlength=_BINS)
        self.exponent = exponent

    def percentile(self, percentile: float) -> NDArray[np.float64]:
        """The percentile of every neuron's values, linear inside a bin; 0 where there are none."""
        cumulative = self.counts.cumsum(axis=1)
        wanted = cumulative[:, -1] * (percentile / 100.0)
        index = (cumulative < wanted[:, None]).sum(axis=1)
        inside = np.take_along_axis(self.counts, index[:, None], axis=1)[:, 0]
        below = np.take_along_axis(cumulative, index[:, None], axis=1)[:, 0] - inside
        value: NDArray[np.float64] = np.ldexp((index + (wanted - below) / np.maximum(inside, 1)) / _BINS, self.exponent)
        return value


@dataclass(frozen=True)
class Max:
    """Sets θ to the largest recorded activation: nothing is clipped on the calibration data."""

    name: ClassVar[str] = "max"

    def thresholds(self, recorder: Statistics) -> list[Tensor]:
        """θ `[N]` of every hidden layer."""
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
        """θ `[N]` of every hidden layer."""
        return recorder.percentile(self.percentile)

    def __str__(self) -> str:
        return f"{self.name}:{self.percentile:g}"


Rule = Literal["mse", "gaussian"]
Correction = Literal["none", "bias", "linear"]


@dataclass(frozen=True)
class Fitted:
    """Fits thresholds layer by layer to the neuron and its T; it holds the parameters of `snnkern.fitting.fit`.

    `str` gives the rule and every parameter that differs from its default: "mse:weighted:linear:ridge=0.05".
    """

    rule: Rule = "mse"
    weighted: bool = False
    correction: Correction = "none"
    ridge: float = 0.1

    def __str__(self) -> str:
        parts: list[str] = [self.rule]
        parts += ["weighted"] if self.weighted else []
        parts += [self.correction] if self.correction != "none" else []
        parts += [f"ridge={self.ridge:g}"] if self.ridge != Fitted.ridge else []
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
                if part == "weighted":
                    given[part] = True
                elif part in ("bias", "linear"):
                    given["correction"] = part
                elif name == "ridge":
                    given[name] = float(value)
                else:
                    raise ValueError
            except ValueError as error:
                raise InputError(
                    f"calibration {text!r}: {part!r} is none of weighted, bias, linear, ridge=number"
                ) from error
        return cls(cast("Rule", rule), **given)


@dataclass(frozen=True)
class Auto:
    """Takes the recommended calibration of the neuron, found on four TD3 actors and then frozen; see `recommended`."""

    name: ClassVar[str] = "auto"

    def __str__(self) -> str:
        return self.name


Calibration = Max | Percentile | Fitted | Auto


def recommended(neuron: Neuron) -> tuple[Fitted, float]:
    """The recommended calibration and α of a neuron, for every T; they are what "auto" stands for.

    Thresholds have the least squared error of the neuron's own response, and the next layer's weights are corrected.
    Errors count by how much they move the action; DC's errors are so small that DC does better if all states count
    alike. α is 0.2 for IF and SNM, and 0 for MT and DC, which do better without a carry. The measurements are in
    `docs/calibration.md`.

    Args:
        neuron: the neuron; its parameters do not matter.

    Returns:
        How thresholds are fitted, and α.
    """
    weighted = not neuron.differential
    return Fitted(weighted=weighted, correction="linear"), 0.0 if neuron.multilevel else 0.2


def chosen_alpha(alpha: float | str, neuron: Neuron) -> Any:
    """α, or the recommended one where it is "auto"; `Dynamics` judges what else it may be."""
    return recommended(neuron)[1] if alpha == "auto" else alpha


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
            f"calibration {calibration!r} depends on the neuron and T: it works with convert and snnkern sweep"
        )
    return rule


def calibrate(
    actor: Actor,
    observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor],
    calibration: str | Calibration = "max",
) -> list[Tensor]:
    """Computes the thresholds of every hidden layer, `[N]` each, from observations.

    Args:
        actor: the dense actor.
        observations: `[N, observation_dim]`, or an iterable of such batches, which are read one at a time.
        calibration: "max", "percentile", "percentile:P", `Max()` or `Percentile(p)`.

    Raises:
        InputError: there are no observations, or they do not fit the actor.
    """
    check_actor(actor)
    rule = parse_of_activations(calibration)
    recorder = ActivationRecorder(actor, percentiles=isinstance(rule, Percentile))
    for batch in batches(observations):
        recorder.update(batch)
    return rule.thresholds(recorder)


def collect(
    actor: Actor,
    env: str | Callable[[], gymnasium.Env[Any, Any]] | gymnasium.Env[Any, Any],
    steps: int = CALIBRATION_STEPS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Runs the dense actor in an environment and returns the observations that it visits, `[steps, observation_dim]`.

    Args:
        actor: the dense actor.
        env: a registered name, a function that makes the environment, or an environment, which is not closed.
        steps: how many observations.
        seed: seed of the first reset; later episodes go on with the environment's generator.
        progress: called with the number of observations gathered so far, now and then.

    Raises:
        InputError: the environment does not exist or does not fit the actor; a number is out of range.
    """
    check_actor(actor)
    steps = check_whole("steps", steps, least=1, most=MOST_OBSERVED // max(actor.interface.observation_dim, 1))
    seed = check_seed(seed)
    with environments.one_of(env) as environment:
        environments.check_spaces(actor.interface, environment.observation_space, environment.action_space)
        observations = np.empty((steps, actor.interface.observation_dim), dtype=np.float32)
        observation, _ = environment.reset(seed=seed)
        for step in range(steps):
            observations[step] = observation
            action = actor.act(np.asarray(observation, dtype=np.float32))
            observation, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                observation, _ = environment.reset()
            if progress and (step + 1) % 500 == 0:
                progress(step + 1)
    return observations


def check_observations(actor: Actor, observations: NDArray[np.floating] | Tensor) -> None:
    """Refuses what is not a batch of observations for the actor, `[N, observation_dim]` and finite.

    Raises:
        InputError: wrong shape or dtype, or a NaN or infinity.
    """
    width = actor.interface.observation_dim
    kind = check_numeric(observations)
    if observations.ndim != 2 or observations.shape[1] != width or not kind.is_floating_point:
        raise InputError(
            f"calibration observations must be floating-point [N, {width}], "
            f"got {kind} of shape {list(observations.shape)}"
        )
    chunks = (observations[start : start + _CHUNK] for start in range(0, len(observations), _CHUNK))
    if not all(bool(torch.isfinite(as_tensor(chunk)).all()) for chunk in chunks):
        raise InputError("calibration observations hold NaN or infinity")


def batches(
    observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor],
) -> Iterator[NDArray[np.floating] | Tensor]:
    """The batches that calibration data comes in: one, or many.

    Raises:
        InputError: it is neither.
    """
    if isinstance(observations, np.ndarray | Tensor):
        yield observations
    elif isinstance(observations, Iterable) and not isinstance(observations, str | bytes | Mapping):
        yield from observations
    else:
        raise InputError(
            f"calibration observations must be an array or batches, got {type(observations).__name__}: snnkern.collect "
            "gathers some in an environment"
        )


def check_numeric(observations: object) -> torch.dtype:
    """The dtype of numeric observations, as torch names it.

    Raises:
        InputError: they are neither an array of numbers nor a tensor.
    """
    if isinstance(observations, Tensor):
        return observations.dtype
    if isinstance(observations, np.ndarray) and observations.dtype.kind in "biufc":
        return as_tensor(np.empty(0, observations.dtype)).dtype
    kind = f"array of {observations.dtype}" if isinstance(observations, np.ndarray) else type(observations).__name__
    raise InputError(f"calibration observations must be numeric arrays or tensors, got {kind}")


def as_tensor(chunk: NDArray[np.floating] | Tensor) -> Tensor:
    """A chunk as a tensor. An array is copied: it may be read-only, strided backwards, or of another byte order."""
    if isinstance(chunk, Tensor):
        return chunk
    plain = np.float64 if chunk.dtype == np.longdouble else chunk.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(chunk, dtype=plain, order="C"))
