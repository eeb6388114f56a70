"""Statistics of episodes: errors over time, distances and distributions, with intervals from resampled episodes.

Episodes are the unit that is resampled, since steps of one episode are not independent. Arrays are `[steps, rows]` or
`[steps, rows, …]` with a row per episode, and `running` `[steps, rows]` says where an episode has not ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snnkern.errors import require

_RESAMPLES = 1000
_FEW_RESAMPLES = 100  # where each sorts all states anew
_STATES_PER_EPISODE = 100

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % bootstrap interval.

    The value is None where there is none (a share of nothing), low and high also where there is only one episode.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """A quantity at several places (steps, lags, frequencies), with 95 % bootstrap intervals where there are any.

    NaN, where no episode has a value, is None.
    """

    at: list[float]
    value: list[float | None]
    low: list[float | None]
    high: list[float | None]


def mean_over_episodes(values: Array) -> Estimate:
    """The mean of one value per episode, `[rows]`."""
    return _estimate(np.asarray(values, dtype=np.float64), np.ones(len(values)))


def curve_over_steps(values: Array, running: Mask, root: bool = False) -> Curve:
    """The mean over the episodes that are running at each step; its square root where `root`.

    Every step up to 100, then every tenth.
    """
    steps = np.arange(len(values))
    steps = steps[(steps < 100) | (steps % 10 == 0)]
    counted = running[steps]
    sums = np.where(counted, values[steps], 0.0)
    value, low, high = _ratio(sums.T, counted.T.astype(np.float64))
    if root:
        value, low, high = np.sqrt(value), np.sqrt(low), np.sqrt(high)
    return _curve(steps, value, low, high)


def root_mean_square(errors: Array, running: Mask) -> Estimate:
    """Of errors `[steps, rows, dimensions]` over all steps, rows and dimensions."""
    squares = np.where(running, (errors**2).mean(axis=2), 0.0)
    found = _estimate(squares.sum(axis=0), running.sum(axis=0).astype(np.float64))
    return Estimate(*(None if end is None else float(np.sqrt(end)) for end in (found.value, found.low, found.high)))


def offset_share(errors: Array, running: Mask) -> Estimate:
    """The share of an error's power that is each episode's mean error: 0 for errors that cancel, 1 for a constant."""
    present = np.where(running[..., None], errors, 0.0)
    lengths = running.sum(axis=0)
    offset = (present.sum(axis=0) ** 2).sum(axis=1) / lengths
    return _estimate(offset, (present**2).sum(axis=(0, 2)))


def autocorrelation(errors: Array, running: Mask, lags: int = 50) -> Curve:
    """ρ(k) = mean of e_t · e_{t+k} over mean of e_t², all dimensions together; lags 0 … `lags`.

    The mean is not taken out: a constant error is an error again at every lag, and pushes the state in one direction.

    Args:
        errors: `[steps, rows, dimensions]`.
        running: `[steps, rows]`.
        lags: the largest lag; episodes with no more steps than a lag do not count for it.
    """
    present = np.where(running[..., None], errors, 0.0)
    steps, lags = len(errors), min(lags, len(errors) - 1)
    padded = np.fft.rfft(present, n=2 * steps, axis=0)
    products = np.fft.irfft((padded * padded.conj()).sum(axis=2), n=2 * steps, axis=0)[: lags + 1]
    pairs = np.maximum(running.sum(axis=0) - np.arange(lags + 1)[:, None], 0)
    weights = _weights(running.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (weights @ products.T) / (weights @ pairs.T)
        correlation /= correlation[:, :1]
    return _curve(np.arange(lags + 1), *_ends(correlation))


def spectrum(errors: Array, running: Mask, bands: int = 50) -> Curve:
    """Power of the errors by frequency, relative to white noise of the same power, which is 1 everywhere.

    Frequencies are in cycles per decision, 0 … 0.5, as the middles of `bands` bands. The mean is not taken out.
    """
    power = np.stack([_power_by_band(errors[:, row][running[:, row]], bands) for row in range(running.shape[1])])
    total = power.sum(axis=1, keepdims=True)
    value, low, high = _ratio(power, np.broadcast_to(total / bands, power.shape))
    return _curve((np.arange(bands) + 0.5) * 0.5 / bands, value, low, high)


def low_frequency_share(errors: Array, running: Mask, below: float = 0.05) -> Estimate:
    """The share of an error's power at frequencies below `below` cycles per decision; white noise has 2 · `below`."""
    shares = []
    for row in range(running.shape[1]):
        frequency, power = _periodogram(errors[:, row][running[:, row]])
        shares.append((power[frequency < below].sum(), power.sum()))
    low, total = np.array(shares).T
    return _estimate(low, total)


def _periodogram(errors: Array) -> tuple[Array, Array]:
    """Frequencies and power of errors `[steps, dimensions]`, all dimensions together; sums to steps · Σ e²."""
    steps = len(errors)
    power = (np.abs(np.fft.rfft(errors, axis=0)) ** 2).sum(axis=1)
    power[1 : (steps + 1) // 2] *= 2  # the negative frequencies
    return np.fft.rfftfreq(steps).astype(np.float64), power / steps


def _power_by_band(errors: Array, bands: int) -> Array:
    frequency, power = _periodogram(errors)
    band = np.minimum((frequency * 2 * bands).astype(int), bands - 1)
    return np.bincount(band, power, minlength=bands).astype(np.float64)


def distances(first: Array, second: Array, scale: Array) -> Array:
    """How far two runs are apart, `[steps, rows]`: root mean square over dimensions of (s − s') / scale.

    Two independent draws from one distribution with this scale as its standard deviation are about √2 apart.

    Args:
        first: observations `[steps, rows, dimensions]`; the longer run is cut.
        second: the same.
        scale: `[dimensions]`; dimensions with scale 0 do not count.
    """
    steps, moving = min(len(first), len(second)), scale > 0
    apart = (first[:steps][..., moving] - second[:steps][..., moving]) / scale[moving]
    result: Array = np.sqrt((apart**2).mean(axis=2))
    return result


@dataclass(frozen=True)
class Shift:
    """How far a distribution of states lies from another one, dimension by dimension.

    Attributes:
        mean_difference: in units of the scale.
        deviation_ratio: standard deviation over the scale.
        wasserstein: Wasserstein-1 distance in units of the scale.
        average: of `wasserstein` over dimensions, with its interval.
    """

    mean_difference: list[float]
    deviation_ratio: list[float]
    wasserstein: list[float]
    average: Estimate


def state_shift(states: Array, running: Mask, base: Array, base_running: Mask, scale: Array) -> Shift:
    """How far the states of some episodes lie from those of others.

    The Wasserstein distance is that of about 100 states of every episode, evenly spaced; that of two samples of one
    distribution is above 0, the more so the fewer the episodes.

    Args:
        states: `[steps, rows, dimensions]`.
        running: `[steps, rows]`.
        base: the others, `[steps', rows', dimensions]`.
        base_running: `[steps', rows']`.
        scale: standard deviations that distances are measured in, `[dimensions]`; dimensions with 0 are left out.
    """
    moving = scale > 0
    one = _by_episode(states[..., moving] / scale[moving], running)
    two = _by_episode(base[..., moving] / scale[moving], base_running)
    every = [list(range(len(one))), list(range(len(two)))]
    wasserstein = _wasserstein(one, two, *every)
    estimates = []
    generator = np.random.default_rng(0)
    if min(len(one), len(two)) > 1:
        for _ in range(_FEW_RESAMPLES):
            chosen = [generator.integers(len(rows), size=len(rows)).tolist() for rows in every]
            estimates.append(_wasserstein(one, two, *chosen).mean())
    low, high = np.quantile(estimates, [0.025, 0.975]) if estimates else (None, None)
    first, second = np.concatenate(one), np.concatenate(two)
    return Shift(
        mean_difference=(first.mean(axis=0) - second.mean(axis=0)).tolist(),
        deviation_ratio=first.std(axis=0).tolist(),
        wasserstein=wasserstein.tolist(),
        average=Estimate(float(wasserstein.mean()), _plain(low), _plain(high)),
    )


def _by_episode(states: Array, running: Mask) -> list[Array]:
    rows = [states[:, row][running[:, row]] for row in range(running.shape[1])]
    return [row[:: max(1, len(row) // _STATES_PER_EPISODE)] for row in rows]


def _wasserstein(one: list[Array], two: list[Array], first: list[int], second: list[int]) -> Array:
    distance = require("scipy.stats", "rl", "a Wasserstein distance").wasserstein_distance
    left, right = np.concatenate([one[row] for row in first]), np.concatenate([two[row] for row in second])
    return np.array([distance(left[:, index], right[:, index]) for index in range(left.shape[1])])


def _weights(rows: int) -> Array:
    """How often each row is drawn: once each in the first line, then in each resample; a fixed generator."""
    drawn = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=_RESAMPLES if rows > 1 else 0)
    return np.concatenate([np.ones((1, rows)), drawn]).astype(np.float64)


def _ratio(numerator: Array, denominator: Array) -> tuple[Array, Array, Array]:
    """Σ numerator / Σ denominator over rows, both `[rows, places]`, and the interval's ends."""
    weights = _weights(len(numerator))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _ends((weights @ numerator) / (weights @ denominator))


def _ends(samples: Array) -> tuple[Array, Array, Array]:
    """The value in the first line, and the 95 % interval of the lines below."""
    if len(samples) == 1:
        nothing = np.full(samples.shape[1], np.nan)
        return samples[0], nothing, nothing
    missing = np.isnan(samples[1:]).any(axis=0)  # a resample without a single running episode
    low, high = np.quantile(np.where(missing, 0.0, samples[1:]), [0.025, 0.975], axis=0)
    return samples[0], np.where(missing, np.nan, low), np.where(missing, np.nan, high)


def _estimate(numerator: Array, denominator: Array) -> Estimate:
    value, low, high = _ratio(numerator[:, None], denominator[:, None])
    return Estimate(_plain(value[0]), _plain(low[0]), _plain(high[0]))


def _curve(at: NDArray[np.integer] | Array, value: Array, low: Array, high: Array) -> Curve:
    return Curve([float(place) for place in at], *([_plain(number) for number in ends] for ends in (value, low, high)))


def _plain(number: float | None) -> float | None:
    return None if number is None or np.isnan(number) else float(number)
