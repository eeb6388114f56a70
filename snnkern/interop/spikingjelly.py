"""Runs SpikingJelly networks of IF neurons with our kernels.

The reverse needs no conversion: a `SpikingActivation` runs inside a multi-step network of SpikingJelly, `[T, B, …]` in
and out, and `functional.reset_net` resets it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from snnkern.errors import InputError, require
from snnkern.kernels.neurons import IF
from snnkern.kernels.nn import SpikingActivation

_NEURONS = "spikingjelly.activation_based.neuron"
# Potential after a reset, as a fraction of the threshold, of the neurons that are IF with reset by subtraction.
_INITIAL = {"IFNode": 0.0, "SimpleIFNode": 0.0, "HalfThresholdIFNode": 0.5}


class UnitSpikes(nn.Module):
    """A layer of IF neurons with SpikingJelly's spikes: current `[T, B, …]` in, spikes of 0 and 1 out.

    Every call starts from the potential of a reset.

    Args:
        threshold: θ > 0.
        timesteps: T.
        initial_fraction: β.
        backend: a name from `snnkern.backends()`, or "auto".
    """

    def __init__(self, threshold: Tensor, timesteps: int, initial_fraction: float, backend: str = "auto") -> None:
        super().__init__()
        neuron = IF(initial_fraction=initial_fraction)
        self.activation = SpikingActivation(neuron, threshold, timesteps, backend=backend)

    def forward(self, current: Tensor) -> Tensor:
        """Spikes `[T, B, …]`, 0 or 1."""
        self.activation.reset()  # with α = 0 nothing is carried: calls may differ in B
        return self.activation(current) / self.activation.threshold


def from_spikingjelly(network: nn.Module, timesteps: int, *, backend: str = "auto") -> nn.Module:
    """Copies a SpikingJelly network so that our kernels run its IF neurons, with the same spikes.

    Converts `IFNode` and `SimpleIFNode` with reset by subtraction (`v_reset=None`), and `HalfThresholdIFNode`, all
    multi-step. Each call of the copy is a sequence that begins after a reset. If a potential equals the threshold,
    SpikingJelly fires and these neurons do not.

    Args:
        network: runs `[T, B, …]`, `step_mode="m"`.
        timesteps: T, the length of every sequence.
        backend: a name from `snnkern.backends()`, or "auto".

    Raises:
        InputError: the network has no such neurons, or has other neurons, which are named.
        MissingDependencyError: SpikingJelly is not installed.
    """
    theirs = require(_NEURONS, "spikingjelly", "from_spikingjelly")
    if not isinstance(network, nn.Module):
        raise InputError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    known = (theirs.BaseNode, theirs.SimpleBaseNode)  # and whatever is derived from them, to be named
    neurons = {name: child for name, child in network.named_modules() if isinstance(child, known)}
    if problems := [f"{name or 'the network'}, {why}" for name, node in neurons.items() if (why := _unfit(node))]:
        raise InputError(f"cannot convert {'; '.join(problems)}")
    if not neurons:
        raise InputError("the network has no IF neurons of SpikingJelly")
    holder = nn.ModuleDict({"network": copy.deepcopy(network).eval().requires_grad_(False)})
    like = next(network.parameters(), torch.empty(0))
    for name, node in neurons.items():
        threshold = torch.as_tensor(node.v_threshold).to(like)
        ours = UnitSpikes(threshold, timesteps, _INITIAL[type(node).__name__], backend)
        holder.set_submodule(f"network.{name}".rstrip("."), ours)
    return holder["network"]


def _unfit(node: Any) -> str:
    """Why a neuron of SpikingJelly is none of ours; empty where it is."""
    kind = type(node).__name__
    if kind not in _INITIAL:
        return f"a {kind}, which is not one of {', '.join(_INITIAL)}"
    if node.v_reset is not None:
        return f"a {kind} that is reset to v_reset = {node.v_reset}: only reset by subtraction (v_reset=None) converts"
    if node.step_mode != "m":
        return f'a {kind} with step_mode="{node.step_mode}": call functional.set_step_mode(network, "m")'
    threshold = torch.as_tensor(node.v_threshold)
    if threshold.numel() != 1 or not 0 < float(threshold) < float("inf"):
        return f"a {kind} with v_threshold = {node.v_threshold}, where one number above 0 was wanted"
    return ""
