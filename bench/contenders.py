"""Who takes part in `bench/peers.py`: the same actor, run by snnkern, as published, by other libraries, and dense.

Everyone is given a NumPy observation and returns a NumPy action, one thread, no gradients. Where there is a choice the
other side gets the faster one: the first layer's current is computed once, layers run all T steps in one call where
the library can, thresholds are folded into weights beforehand. Only the published loop does as the published code does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from comparison import ALPHA, T, Task, setting
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern import Actor
from snnkern.analysis import rivals
from snnkern.analysis.rivals import optional
from snnkern.control.timing import Contender
from snnkern.kernels.neurons import NEURON_NAMES

TIMESTEPS = (1, 2, 4, 8, 16, 32)

PEERS = {
    "SpikingJelly": "spikingjelly",
    "snnTorch": "snntorch",
    "sinabs": "sinabs",
    "Norse": "norse",
    "ONNX Runtime": "onnxruntime",
}
NOT_EQUIVALENT = {
    "all four libraries": "no carry (α = 0): none has one. They do less than snnkern and the loops, which carry with "
    f"α = {ALPHA}.",
    "SpikingJelly": "one threshold per layer, not per neuron: weights and biases are divided by θ instead. Fires at "
    "u = θ, where IF does not.",
    "snnTorch": "nothing. `Leaky` with β = 1; it subtracts θ at the start of the next step, which is the same.",
    "sinabs": "fires at u = θ, where IF does not. `SingleSpike`, since the default sends several spikes in a step.",
    "Norse": "its neuron without leak resets to a value, not by subtraction; `LIFBoxCell` resets by subtraction and "
    "leaks, here 2⁻²² of the potential per step.",
}


# ---- snnkern


def engine(task: Task, neuron: str, timesteps: int, threads: int = 1) -> Contender:
    snn = task.convert(neuron, timesteps)
    return Contender(snn.act, snn.reset, setting=setting(neuron, timesteps), threads=threads)


def engine_on_tensors(task: Task, neuron: str, timesteps: int) -> Contender:
    snn = task.convert(neuron, timesteps)
    return Contender(
        snn,
        snn.reset,
        prepare=lambda observation: torch.from_numpy(np.atleast_2d(observation)),
        setting=setting(neuron, timesteps),
    )


def readable(task: Task, neuron: str) -> Contender:
    snn = task.convert(neuron, T, backend="reference")
    return Contender(snn.act, snn.reset, setting=setting(neuron))


# ---- the published loop


def published_loop(task: Task) -> Contender:
    return rivals.PublishedLoop(task.actor, task.thresholds, T, ALPHA).contender()


def loop_as_function(
    actor: Actor, thresholds: Sequence[Tensor], timesteps: int, alpha: float
) -> Callable[..., tuple[Tensor, ...]]:
    """The published loop for compilers and graphs: without state, the first layer's current computed once.

    Returns:
        a function of the observation `[B, observation_dim]` and the carry `[B, N]` of every hidden layer, which gives
        the action and the next carries.
    """

    def decide(observation: Tensor, *carries: Tensor) -> tuple[Tensor, ...]:
        current = nn.functional.linear(
            actor.interface.normalize(observation), actor.hidden[0].weight, actor.hidden[0].bias
        )
        starts = [0.5 * theta + carry for theta, carry in zip(thresholds, carries, strict=True)]
        potentials = list(starts)
        counts = [torch.zeros_like(start) for start in starts]
        for _ in range(timesteps):
            signal = current
            for index, theta in enumerate(thresholds):
                if index > 0:
                    layer = actor.hidden[index]
                    signal = nn.functional.linear(signal, layer.weight, layer.bias)
                potential = potentials[index] + signal
                fired = (potential > theta).to(theta.dtype)
                signal = fired * theta
                potentials[index], counts[index] = potential - signal, counts[index] + fired
        mean = counts[-1] * thresholds[-1] / timesteps
        z = nn.functional.linear(mean, actor.output.weight, actor.output.bias)
        residuals = [
            torch.maximum(potential - start, -theta * count)
            for potential, start, theta, count in zip(potentials, starts, thresholds, counts, strict=True)
        ]
        bounds = [0.5 * theta for theta in thresholds]
        next_carries = [torch.clamp(alpha * owed, -bound, bound) for owed, bound in zip(residuals, bounds, strict=True)]
        return actor.interface.action(z), *next_carries

    return decide


def compiled_loop(task: Task) -> Contender:
    loop = CompiledLoop(task)
    return Contender(loop.act, loop.reset, setting=setting())


class CompiledLoop:
    """The published loop under torch.compile."""

    def __init__(self, task: Task) -> None:
        function = loop_as_function(task.actor, task.thresholds, T, ALPHA)
        self.decide = torch.compile(function, fullgraph=True)
        self.zeros = [torch.zeros(1, len(theta)) for theta in task.thresholds]
        self.reset()

    def reset(self) -> None:
        self.carries = self.zeros

    def act(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        action, *self.carries = self.decide(torch.from_numpy(observation[None]), *self.carries)
        return action.numpy()[0]


# ---- other libraries


def _unit_layers(task: Task) -> list[nn.Linear]:
    """Layers for spikes of 1: what follows a spiking layer has its thresholds in its weights."""
    sizes = [torch.ones(task.actor.interface.observation_dim), *task.thresholds]
    return [_linear(weight * size, bias) for (weight, bias), size in zip(task.layers(), sizes, strict=True)]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
    return layer.requires_grad_(False)


def _reachable(threshold: Tensor) -> Tensor:
    """Thresholds at which a neuron with θ = 0, which never fires, never fires."""
    return torch.where(threshold > 0, threshold, 1e30)


def spikingjelly(task: Task) -> Contender:
    neuron = optional("spikingjelly.activation_based.neuron")
    layers = _unit_layers(task)
    for layer, threshold in zip(layers, task.thresholds, strict=False):
        scale = 1 / _reachable(threshold)
        layer.weight.data *= scale[:, None]
        layer.bias.data *= scale
    nodes = [neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m").eval() for _ in task.thresholds]
    halves = [torch.full((1, len(threshold)), 0.5) for threshold in task.thresholds]

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        current = layers[0](torch.from_numpy(observation[None]))
        nodes[0].v, nodes[1].v = halves
        spikes = nodes[0](current.expand(T, -1, -1))
        spikes = nodes[1](layers[1](spikes))
        return task.action(layers[2](spikes.mean(dim=0)))[0]

    return Contender(act, setting=setting(alpha=0.0))


def snntorch(task: Task) -> Contender:
    package = optional("snntorch")
    layers = _unit_layers(task)
    nodes = [
        package.Leaky(beta=1.0, threshold=_reachable(theta), reset_mechanism="subtract", surrogate_disable=True)
        for theta in task.thresholds
    ]
    halves = [0.5 * theta[None] for theta in task.thresholds]

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        current = layers[0](torch.from_numpy(observation[None]))
        potential1, potential2 = halves
        total: Any = 0.0
        for _ in range(T):
            spikes, potential1 = nodes[0](current, potential1)
            spikes, potential2 = nodes[1](layers[1](spikes), potential2)
            total = total + spikes
        return task.action(layers[2](total / T))[0]

    return Contender(act, setting=setting(alpha=0.0))


def sinabs(task: Task) -> Contender:
    package = optional("sinabs.layers")
    single_spike = optional("sinabs.activation").SingleSpike
    layers = _unit_layers(task)
    nodes = [package.IAF(spike_threshold=_reachable(theta), spike_fn=single_spike) for theta in task.thresholds]
    for node, theta in zip(nodes, task.thresholds, strict=True):
        node.init_state_with_shape((1, len(theta)))
    halves = [0.5 * theta[None] for theta in task.thresholds]

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        current = layers[0](torch.from_numpy(observation[None]))
        nodes[0].v_mem, nodes[1].v_mem = halves
        spikes = nodes[0](current[:, None].expand(-1, T, -1))  # [B, T, N]
        spikes = nodes[1](layers[1](spikes))
        return task.action(layers[2](spikes.mean(dim=1)))[0]

    return Contender(act, setting=setting(alpha=0.0))


def norse(task: Task) -> Contender:
    box = optional("norse.torch.functional.lif_box")
    cell = optional("norse.torch.module.lif_box").LIFBoxCell
    subtract = optional("norse.torch.functional.reset").reset_subtract
    leak = 2.0**-22
    layers = _unit_layers(task)
    for layer in layers[:-1]:
        layer.weight.data /= leak
        layer.bias.data /= leak
    cells = [
        cell(
            box.LIFBoxParameters(
                tau_mem_inv=torch.tensor(leak), v_th=_reachable(theta), method="heaviside", reset_method=subtract
            ),
            dt=1.0,
        )
        for theta in task.thresholds
    ]
    halves = [box.LIFBoxFeedForwardState(v=0.5 * theta[None]) for theta in task.thresholds]

    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        current = layers[0](torch.from_numpy(observation[None]))
        state1, state2 = halves
        total: Any = 0.0
        for _ in range(T):
            spikes, state1 = cells[0](current, state1)
            spikes, state2 = cells[1](layers[1](spikes), state2)
            total = total + spikes
        return task.action(layers[2](total / T))[0]

    return Contender(act, setting=setting(alpha=0.0))


# ---- the dense actor


def compiled(task: Task) -> Contender:
    return rivals.from_network(torch.compile(rivals.dense_network(task.actor), fullgraph=True))


# ---- all of them


def at_batch_one(task: Task) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Name and maker of everyone who decides on one observation at a time."""
    for neuron in NEURON_NAMES:
        for timesteps in TIMESTEPS:
            yield f"act {neuron} {timesteps}", lambda n=neuron, t=timesteps: engine(task, n, t)
            yield f"tensor {neuron} {timesteps}", lambda n=neuron, t=timesteps: engine_on_tensors(task, n, t)
        yield f"reference {neuron} {T}", lambda n=neuron: readable(task, n)
    yield "published loop", lambda: published_loop(task)
    yield "compiled loop", lambda: compiled_loop(task)
    yield "dense torch.compile", lambda: compiled(task)
    yield "SpikingJelly", lambda: spikingjelly(task)
    yield "snnTorch", lambda: snntorch(task)
    yield "sinabs", lambda: sinabs(task)
    yield "Norse", lambda: norse(task)
    yield "dense Actor.act", lambda: Contender(task.actor.act)
    yield "dense eager PyTorch", lambda: rivals.eager(task.actor)
    yield "dense ONNX Runtime", lambda: rivals.onnx_runtime(task.actor)
    yield "dense NumPy", lambda: rivals.numpy(task.actor)


def at_batch_many(task: Task) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Name and maker of everyone who decides on a large batch."""
    for neuron in NEURON_NAMES:
        yield f"act {neuron} {T}", lambda n=neuron: engine(task, n, T)
        if (os.cpu_count() or 1) > 1:
            yield f"act {neuron} {T} ×2", lambda n=neuron: engine(task, n, T, threads=2)
    yield "published loop", lambda: published_loop(task)
    yield "dense ONNX Runtime", lambda: rivals.onnx_runtime(task.actor)
