"""Statistics of episodes against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason="SciPy is not installed")

from snnkern.analysis import statistics
from snnkern.analysis.statistics import autocorrelation, curve_over_steps, distances, low_frequency_share, state_shift

ROWS, STEPS = 30, 800
EVERYWHERE = np.ones((STEPS, ROWS), dtype=bool)


def autoregressive(kept: float, seed: int = 0, dimensions: int = 2) -> np.ndarray:
    """e_t = kept · e_{t−1} + noise, started in its stationary distribution: ρ(k) = kept^k."""
    generator = np.random.default_rng(seed)
    errors = generator.normal(size=(STEPS, ROWS, dimensions))
    for step in range(1, STEPS):
        errors[step] = kept * errors[step - 1] + np.sqrt(1 - kept**2) * errors[step]
    return errors


@pytest.mark.parametrize("kept", [-0.5, 0.0, 0.8])
def test_the_autocorrelation_of_an_autoregressive_error(kept) -> None:
    found = autocorrelation(autoregressive(kept), EVERYWHERE, lags=10)
    assert found.at == list(range(11))
    assert found.value == pytest.approx([kept**lag for lag in range(11)], abs=0.04)
    assert all(low <= value <= high for value, low, high in zip(found.value, found.low, found.high, strict=True))
    assert found.high[1] - found.low[1] < 0.05


def test_it_is_the_mean_of_products_and_ignores_what_comes_after_an_end() -> None:
    errors = autoregressive(0.5)
    running = np.arange(STEPS)[:, None] < np.linspace(5, STEPS, ROWS).astype(int)
    rows = [errors[: running[:, row].sum(), row] for row in range(ROWS)]
    changed = np.where(running[..., None], errors, 1e6)
    found = autocorrelation(changed, running)
    for lag in (1, 7):
        long = [row for row in rows if len(row) > lag]
        wanted = [(row[:-lag] * row[lag:]).sum(axis=1).mean() / (row**2).sum(axis=1).mean() for row in long]
        assert found.value[lag] == pytest.approx(np.median(wanted))


def test_one_episode_gone_wrong_does_not_speak_for_all() -> None:
    errors = autoregressive(0.0)
    errors[:, 0] = 100.0
    assert autocorrelation(errors, EVERYWHERE).value[1] == pytest.approx(0.0, abs=0.03)
    assert statistics.root_mean_square(errors, EVERYWHERE).value == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_the_low_frequencies_of_an_autoregressive_error(kept) -> None:
    """Its spectrum is (1 − φ²) / (1 − 2φ cos ω + φ²)."""
    errors, below = autoregressive(kept), 0.05
    frequency = (np.arange(10_000) + 0.5) / 20_000
    density = (1 - kept**2) / (1 - 2 * kept * np.cos(2 * np.pi * frequency) + kept**2)
    share = density[frequency < below].sum() / density.sum()
    found = low_frequency_share(errors, EVERYWHERE, below)
    assert found.value == pytest.approx(share, abs=0.02)
    bands = statistics.spectrum(errors, EVERYWHERE, bands=10)
    wanted = density.reshape(10, -1).mean(axis=1) / density.mean()
    assert bands.value == pytest.approx(wanted, rel=0.08)
    assert bands.at[0] == pytest.approx(0.025)


def test_a_constant_error_is_all_offset_and_white_noise_has_none() -> None:
    constant = np.full((STEPS, ROWS, 3), -0.2)
    assert statistics.offset_share(constant, EVERYWHERE).value == pytest.approx(1)
    assert low_frequency_share(constant, EVERYWHERE).value == pytest.approx(1)
    assert autocorrelation(constant, EVERYWHERE).value == pytest.approx([1.0] * 51)
    assert statistics.root_mean_square(constant, EVERYWHERE).value == pytest.approx(0.2)
    assert statistics.offset_share(autoregressive(0.0), EVERYWHERE).value < 0.01


def test_no_error_has_no_correlation() -> None:
    nothing = np.zeros((STEPS, ROWS, 1))
    assert set(autocorrelation(nothing, EVERYWHERE).value) == {None}
    assert math.isnan(low_frequency_share(nothing, EVERYWHERE).value)
    assert statistics.root_mean_square(nothing, EVERYWHERE).value == 0


def test_distances_are_root_mean_squares_in_units_of_the_scale() -> None:
    first = np.zeros((5, 2, 3))
    second = np.zeros((4, 2, 3))
    second[1, 0] = [3.0, 4.0, 100.0]
    found = distances(first, second, np.array([1.0, 2.0, 0.0]))
    assert found.shape == (4, 2)
    assert found[1, 0] == pytest.approx(np.sqrt((9 + 4) / 2))
    assert found.sum() == found[1, 0]


def test_curves_count_the_episodes_that_are_running() -> None:
    values = np.array([[1.0, 3.0], [5.0, 100.0], [100.0, 100.0]])
    running = np.array([[True, True], [True, False], [False, False]])
    found = curve_over_steps(values, running)
    assert found.value == [2.0, 5.0, None]
    assert (found.low[0], found.high[0]) == (1.0, 3.0)
    assert curve_over_steps(values[:, :1], running[:, :1]).low == [None, None, None]
    long = curve_over_steps(np.ones((300, 2)), np.ones((300, 2), dtype=bool))
    assert long.at == [*range(100), *range(100, 300, 10)]


def test_a_shifted_distribution_is_found_in_its_dimension() -> None:
    states = autoregressive(0.3, seed=1, dimensions=3)
    other = autoregressive(0.3, seed=2, dimensions=3)
    other[..., 1] = 2 * other[..., 1] + 0.5
    scale = np.array([1.0, 1.0, 0.0])
    found = state_shift(other, EVERYWHERE, states, EVERYWHERE, scale)
    assert found.mean_difference == pytest.approx([0, 0.5], abs=0.05)
    assert found.deviation_ratio == pytest.approx([1, 2], abs=0.05)
    assert found.wasserstein[0] < 0.1 < 0.5 < found.wasserstein[1]
    assert found.average.low < found.average.value < found.average.high
    same = state_shift(states, EVERYWHERE, states, EVERYWHERE, scale)
    assert same.average.value == 0
    shifted = state_shift(states + 0.25, EVERYWHERE, states, EVERYWHERE, np.ones(3))
    assert shifted.wasserstein == pytest.approx([0.25] * 3)


def test_the_interval_of_a_mean() -> None:
    found = statistics.mean_over_episodes(np.random.default_rng(0).normal(3.0, 2.0, size=400))
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    alone = statistics.mean_over_episodes(np.array([7.0]))
    assert alone.value == 7.0
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
