"""Time of a training step, forward and backward, beside what else there is: one process, in rounds, same weights.

    python bench/training.py

The network is 17-256-256-6, IF with its thresholds fixed, a batch of 256, one thread. Every contender must first have
the gradients that snnkern has. Writes JSON, and from it a table of docs/performance.md; `--redraw` does only that.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import comparison
import numpy as np
import torch
import typer
from comparison import Task
from numpy.typing import NDArray
from pages import ROOT, fill, table
from torch import Tensor, nn

from snnkern.analysis.rivals import Missing, optional
from snnkern.control import timing
from snnkern.control.timing import Contender, machine, quartiles
from snnkern.files import write_atomically
from snnkern.policies.spiking import SpikingActor

BATCH, TIMESTEPS = 256, (4, 8)
NAMES = {
    "snnkern": "snnkern, `snn.trainable()`",
    "loop": "the same in a PyTorch loop",
    "spikingjelly": "SpikingJelly, torch backend, multi-step",
    "dense": "the dense actor",
}
Step = Callable[[Tensor], list[Tensor]]  # gradients of all weights and biases, as nn.Linear has them


def contenders(task: Task, timesteps: int) -> dict[str, Step]:
    """Those that are installed. Thresholds of 0 are replaced: the others would divide by them."""
    thresholds = [torch.where(one > 0, one, 1.0) for one in task.thresholds]
    made = {"snnkern": _snnkern(task, thresholds, timesteps), "loop": _loop(task, thresholds, timesteps)}
    with contextlib.suppress(Missing):
        made["spikingjelly"] = _spikingjelly(task, thresholds, timesteps)
    return made


def _snnkern(task: Task, thresholds: list[Tensor], timesteps: int) -> Step:
    snn = SpikingActor(task.actor, thresholds, comparison.setting(timesteps=timesteps, alpha=0.0), check_finite=False)
    trainable = snn.trainable("triangle")
    layers = [*trainable.hidden, trainable.output]
    for layer in trainable.hidden:
        layer.log_threshold.requires_grad_(False)

    def step(observation: Tensor) -> list[Tensor]:
        trainable.zero_grad()
        trainable(observation).square().mean().backward()
        return [gradient for layer in layers for gradient in (layer.weight.grad.T, layer.bias.grad)]

    return step


class _Triangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return gradients[0] * (1 - distance.abs()).clamp_min(0)


def _loop(task: Task, thresholds: list[Tensor], timesteps: int) -> Step:
    layers = _layers(task)

    def step(observation: Tensor) -> list[Tensor]:
        _forget(layers)
        current = layers[0](observation)
        potentials = [0.5 * threshold for threshold in thresholds]
        total: Any = 0.0
        for _ in range(timesteps):
            signal = current
            for index, threshold in enumerate(thresholds):
                signal = signal if index == 0 else layers[index](signal)
                potential = potentials[index] + signal
                signal = threshold * _Triangle.apply(potential / threshold - 1)  # type: ignore[no-untyped-call]
                potentials[index] = potential - signal
            total = total + signal
        task.actor.interface.action(layers[-1](total / timesteps)).square().mean().backward()
        return _gradients(layers)

    return step


def _spikingjelly(task: Task, thresholds: list[Tensor], timesteps: int) -> Step:
    neuron = optional("spikingjelly.activation_based.neuron")
    surrogate = optional("spikingjelly.activation_based.surrogate")
    layers = _layers(task)
    scales = [*(1 / threshold[:, None] for threshold in thresholds), torch.ones(1, 1)]
    for index, (layer, scale) in enumerate(zip(layers, scales, strict=True)):  # one threshold of 1 for all
        sender = 1.0 if index == 0 else thresholds[index - 1]
        layer.weight.data *= scale * sender
        layer.bias.data *= scale.flatten()
    nodes = [
        neuron.IFNode(
            v_threshold=1.0,
            v_reset=None,
            surrogate_function=surrogate.PiecewiseQuadratic(alpha=1.0),
            detach_reset=False,
            step_mode="m",
        )
        for _ in thresholds
    ]

    def step(observation: Tensor) -> list[Tensor]:
        _forget(layers)
        for node, threshold in zip(nodes, thresholds, strict=True):
            node.reset()
            node.v = torch.full((len(observation), len(threshold)), 0.5)
        signal = nodes[0](layers[0](observation).expand(timesteps, -1, -1))
        signal = nodes[1](layers[1](signal))
        task.actor.interface.action(layers[2](signal.mean(dim=0))).square().mean().backward()
        found = _gradients(layers)
        for index, scale in enumerate(scales):
            found[2 * index] = found[2 * index] * scale * (1.0 if index == 0 else thresholds[index - 1])
            found[2 * index + 1] = found[2 * index + 1] * scale.flatten()
        return found

    return step


def _dense(task: Task) -> Step:
    layers = _layers(task)

    def step(observation: Tensor) -> list[Tensor]:
        _forget(layers)
        signal = observation
        for layer in layers[:-1]:
            signal = torch.relu(layer(signal))
        task.actor.interface.action(layers[-1](signal)).square().mean().backward()
        return _gradients(layers)

    return step


def _layers(task: Task) -> list[nn.Linear]:
    layers = []
    for weight, bias in task.layers():
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
        layers.append(layer)
    return layers


def _forget(layers: list[nn.Linear]) -> None:
    for layer in layers:
        layer.zero_grad()


def _gradients(layers: list[nn.Linear]) -> list[Tensor]:
    return [gradient for layer in layers for gradient in (layer.weight.grad, layer.bias.grad) if gradient is not None]


def check(steps: dict[str, Step], observation: Tensor) -> None:
    """All have the same gradients, but for potentials that rounding puts on either side of a threshold.

    Raises:
        AssertionError: the gradients of a contender differ by more than a hundredth of their norm.
    """
    wanted = steps["snnkern"](observation)
    for name, step in steps.items():
        for index, (one, other) in enumerate(zip(step(observation), wanted, strict=True)):
            difference = float((one - other).norm() / other.norm())
            assert difference < 0.01, f"{name}: gradient {index} differs by {difference:.1%}"


def measure(rounds: int) -> dict[str, Any]:
    """Quartiles of the seconds of a step, by T and contender, and the spikes of a neuron at a step."""
    torch.set_num_threads(1)
    torch.empty(31 * 2**20, dtype=torch.uint8)  # freed once, it makes glibc keep memory, as a long training does
    task = comparison.record(steps=2_000)
    observations = timing.rows(task.observations, BATCH, 4)
    found: dict[str, Any] = {}
    for timesteps in TIMESTEPS:
        steps = contenders(task, timesteps)
        check(steps, torch.from_numpy(observations[0]))
        parties = {name: _party(step) for name, step in (steps | {"dense": _dense(task)}).items()}
        taken = timing.measure(parties, observations, rounds)
        found[str(timesteps)] = {
            "seconds": {name: quartiles(seconds) for name, seconds in taken.items()},
            "times": {name: quartiles(seconds / taken["snnkern"]) for name, seconds in taken.items()},
            "rates": _rates(task, timesteps, observations[0]),
        }
    return {"machine": machine(("snnkern", "torch", "spikingjelly")), "rounds": rounds, "timesteps": found}


def _party(step: Step) -> Contender:
    return Contender(step, prepare=torch.from_numpy)


def _rates(task: Task, timesteps: int, observation: NDArray[np.float32]) -> list[float]:
    snn = task.convert("if", timesteps, alpha=0.0)
    snn.act(observation)
    return [
        float(spikes.float().mean()) / timesteps / layer.bias.numel()
        for spikes, layer in zip(snn.spikes, snn.hidden, strict=True)
    ]


def training_table(results: dict[str, Any]) -> str:
    """Milliseconds of a step, and how many times as long as snnkern's, the median of rounds."""
    rows = []
    for name, text in NAMES.items():
        cells = []
        for timesteps in TIMESTEPS:
            entry = results["timesteps"][str(timesteps)]
            if name not in entry["seconds"]:
                cells += ["-", "-"]
                continue
            cells += [f"{1e3 * entry['seconds'][name][1]:.1f} ms", f"{entry['times'][name][1]:.1f} ×"]
        rows.append((text, *cells))
    head = ["forward and backward", *(text for t in TIMESTEPS for text in (f"T = {t}", "against snnkern"))]
    return table(head, rows)


def main(
    rounds: Annotated[int, typer.Option(help="How often every contender is timed.", min=3)] = 40,
    output: Annotated[Path, typer.Option(help="The JSON file.")] = ROOT / "bench" / "results" / "training.json",
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the table again.")] = False,
) -> None:
    if not redraw:
        write_atomically(output, json.dumps(measure(rounds), indent=1).encode())
    results = json.loads(output.read_text())
    text = training_table(results)
    fill(ROOT / "docs" / "performance.md", "training", text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
