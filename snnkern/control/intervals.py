"""A number with its 95 % confidence interval, by resampling the episodes that it was computed from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snnkern.errors import require
from snnkern.limits import Number

_MOST_DRAWN = 10_000_000  # resampled numbers in memory at a time


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % bootstrap confidence interval.

    The value is NaN where there is none (a share of nothing), the ends also where there is only one episode.
    """

    value: Number = math.nan
    low: Number = math.nan
    high: Number = math.nan


def bootstrap(statistic: Callable[..., Any], *samples: ArrayLike, resamples: int = 10_000) -> Interval:
    """A statistic with its interval.

    Args:
        statistic: takes the samples; where it has a parameter `axis`, also many resamples at a time.
        samples: of independent episodes, `[episodes]` each; every one is resampled by itself.
        resamples: how many are drawn.

    Raises:
        MissingDependencyError: SciPy is not installed.
    """
    return Interval(*(float(end) for end in bootstrap_many(statistic, *samples, resamples=resamples)))


def bootstrap_many(
    statistic: Callable[..., Any], *samples: ArrayLike, resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The same for samples `[…, episodes]`, of which a resample takes the same episodes everywhere: value, low, high.

    Percentile bootstrap with a fixed generator, so that the same episodes give the same interval.
    """
    stats = require("scipy.stats", "rl", "a confidence interval")
    arrays = tuple(np.asarray(sample) for sample in samples)
    value = np.asarray(statistic(*arrays), dtype=np.float64)
    if any(array.shape[-1] < 2 for array in arrays):
        nothing = np.full_like(value, np.nan)
        return value, nothing, nothing
    with warnings.catch_warnings():  # about an end that is NaN, which a resample without a number makes it
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            arrays,
            statistic,
            n_resamples=resamples,
            batch=min(resamples, max(1, _MOST_DRAWN // max(array.size for array in arrays))),
            axis=-1,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return value, interval.low, interval.high
