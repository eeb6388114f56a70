"""The states that a refinement learns from, as tensors, and what a policy does in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.errors import InputError
from snnkern.policies.actor import Policy
from snnkern.policies.spiking import SpikingActor

_AT_ONCE = 4_096  # observations that an actor answers for


def answers_of(policy: Policy, states: Tensor) -> Tensor:
    """A policy's actions `[N, action_dim]`; a spiking one's from the start of an episode."""
    actions = []
    for rows in states.split(_AT_ONCE):
        if isinstance(policy, SpikingActor):
            policy.reset()
        actions.append(torch.from_numpy(policy.act(rows.cpu().numpy())))
    return torch.cat(actions).to(states.device)


def checked(observations: NDArray[Any], snn: SpikingActor) -> Tensor:
    """Observations in memory of their own, as the actor takes them, on its device.

    Raises:
        InputError: they do not fit the actor, are none, or hold a NaN or an infinity.
    """
    wanted = ", ".join(map(str, snn.interface.observation_shape))
    given = type(observations).__name__
    if observations is None or isinstance(observations, str | bytes | Iterator):
        batches = ", of batches np.concatenate([...])" if isinstance(observations, Iterator) else ""
        raise InputError(f"observations must be an array [N, {wanted}]{batches}, got {given}")
    try:
        array = np.asarray(observations)
    except (TypeError, ValueError, RuntimeError) as error:  # NumPy's and torch's, of what has many forms, or a gradient
        raise InputError(f"observations must be an array [N, {wanted}], got {given}: {error}") from error
    snn.interface.check_array(array)
    if array.ndim == len(snn.interface.observation_shape) or not len(array):
        raise InputError(f"observations must be rows [N, ...], at least one, got shape {list(array.shape)}")
    tensor = as_tensor(array, snn)
    bad = (~finite_rows(tensor)).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"observations hold NaN or infinity in {len(bad)} of {len(tensor)} rows (first: row {bad[0]}): "
            "leave these rows out"
        )
    return snn.interface.check(tensor, check_finite=False)


def as_tensor(array: NDArray[Any], snn: SpikingActor) -> Tensor:
    """An array in memory of its own, of the dtype of the actor's observations, on its device."""
    with np.errstate(over="ignore"):
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    return tensor.to(snn.output.weight.device, snn.interface.observation_dtype)


def finite_rows(tensor: Tensor) -> Tensor:
    """Whether the numbers of each row are finite, bool `[N]`."""
    if not tensor.is_floating_point():
        return torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
    return torch.isfinite(tensor).flatten(1).all(dim=1)
