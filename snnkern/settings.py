"""Settings that a study varies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from snnkern.calibration import chosen_alpha
from snnkern.errors import check_whole
from snnkern.limits import MOST_TIMESTEPS
from snnkern.neurons import Dynamics, Neuron, parse_neuron


def grid(
    neurons: Iterable[str | Neuron],
    timesteps: Iterable[int],
    alphas: Iterable[float | str] = ("auto",),
    memories: Iterable[float] = (0.0,),
    levels: int | None = None,
) -> list[Dynamics]:
    """Every combination of neuron, T, α and μ, once each, as settings for `sweep`.

    An α of "auto" is the one that is recommended for the neuron (`snnkern.calibration.recommended`).

    Raises:
        InputError: a parameter is out of range.
    """
    kinds = [parse_neuron(neuron, levels) for neuron in neurons]
    steps = [check_whole("timesteps (T)", each, least=1, most=MOST_TIMESTEPS) for each in timesteps]
    combinations = itertools.product(kinds, steps, alphas, memories)
    return list(
        dict.fromkeys(Dynamics(kind, t, chosen_alpha(alpha, kind), memory) for kind, t, alpha, memory in combinations)
    )
