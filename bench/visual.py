"""Latency of a visual actor's decision beside what else there is: one process, in rounds, same weights, same frames.

    python bench/visual.py

Thresholds and frames are those of a real episode of the zoo's drqv2-cartpole-swingup, one thread unless said. Before
it is timed, each spiking contender must decide as the reference does. Writes JSON, and from it the tables of
docs/performance.md; `--redraw` only does the latter. Those that are not installed (`pip install -e .[peers]`) are
reported missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from pages import ROOT, fill, table
from torch import Tensor, nn

import snnkern
from snnkern import Actor
from snnkern.analysis import rivals
from snnkern.analysis.rivals import Missing, optional
from snnkern.control.timing import MOST, Contender, machine, measure, quartiles, rows
from snnkern.files import write_atomically
from snnkern.kernels.neurons import IF, Dynamics

ACTOR = "drqv2-cartpole-swingup"
SETTINGS = (("if", 4), ("if", 8), ("snm", 8), ("mt", 4), ("dc", 4), ("dc", 8), ("if", 16), ("if", 32))
ALPHA = 0.2
BATCH = 32
ROUNDS = 30
ONNX, TORCH, LOOP, JELLY = "ONNX Runtime, dense", "PyTorch, dense", "published loop, IF T = 8", "SpikingJelly, IF T = 8"


class Target(NamedTuple):
    """A bound on how many times as long one contender takes as another."""

    what: str
    name: str
    beside: str
    most: float
    wanted: float


TARGETS = (
    Target("IF T = 8 beside the dense network", "if 8", ONNX, 1, 0.5),
    Target("IF T = 4 beside the dense network", "if 4", ONNX, 1, 0.5),
    Target("DC T = 4 beside the dense network", "dc 4", ONNX, 1, 0.5),
    Target("SNM T = 8 beside the dense network", "snm 8", ONNX, 1, 0.5),
    Target("IF T = 8 beside SpikingJelly", "if 8", JELLY, 1 / 10, 1 / 25),
    Target("IF T = 8 beside the published loop", "if 8", LOOP, 1 / 10, 1 / 25),
    Target(
        f"IF T = 8, batch {BATCH}, beside the dense network", f"if 8, batch {BATCH}", f"{ONNX}, batch {BATCH}", 1.5, 0.7
    ),
    Target("IF T = 8, two threads beside one", "if 8, 2 threads", "if 8", 1 / 1.6, 1 / 1.9),
    Target(
        f"IF T = 8, batch {BATCH}, two threads beside one",
        f"if 8, batch {BATCH}, 2 threads",
        f"if 8, batch {BATCH}",
        1 / 1.6,
        1 / 1.9,
    ),
)


def spiking(actor: Actor, thresholds: list[Tensor], neuron: str, timesteps: int, threads: int = 1) -> Contender:
    snn = snnkern.convert(actor, thresholds=thresholds, neuron=neuron, timesteps=timesteps, alpha=ALPHA)
    return Contender(snn.act, snn.reset, setting=snn.dynamics, threads=threads)


def spikingjelly(actor: Actor, thresholds: list[Tensor]) -> Contender:
    """As that library runs a converted network: all steps of a layer at once, θ folded into the weights, no carry."""
    neuron = optional("spikingjelly.activation_based.neuron")
    functional = optional("spikingjelly.activation_based.functional")
    steps = 8
    layers: list[nn.Module] = []
    sender = torch.ones(actor.interface.observation_shape[0])
    for layer, threshold in zip(actor.hidden, thresholds, strict=True):
        copy = type(layer)(*_sizes(layer))
        theta = torch.where(threshold > 0, threshold, 1e30)
        spread = sender.repeat_interleave(layer.weight.shape[1] // len(sender))
        shape = (-1, *[1] * (layer.weight.dim() - 1))
        copy.weight.data = layer.weight * spread.reshape(1, -1, *[1] * (layer.weight.dim() - 2)) / theta.reshape(shape)
        copy.bias.data = layer.bias / theta
        layers.append(copy.requires_grad_(False))
        sender = theta
    nodes = [neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m").eval() for _ in layers]
    output = nn.Linear(*_sizes(actor.output)).requires_grad_(False)
    output.weight.data, output.bias.data = actor.output.weight * sender, actor.output.bias.clone()

    def act(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        signal = actor.interface.normalize(torch.from_numpy(observation[None]))
        current = layers[0](signal).expand(steps, *layers[0](signal).shape)
        for index, node in enumerate(nodes):
            if index:
                flat = signal.flatten(2) if isinstance(layers[index], nn.Linear) else signal
                current = functional.seq_to_ann_forward(flat, layers[index])
            node.v = torch.full_like(current[0], 0.5)
            signal = node(current)
        return actor.interface.action(output(signal.mean(dim=0))).numpy()[0]

    return Contender(act, setting=Dynamics(IF(), steps))


def _sizes(layer: nn.Module) -> tuple[Any, ...]:
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
    return layer.in_features, layer.out_features


def recorded(steps: int) -> NDArray[np.uint8]:
    """What the dense actor sees.

    In a process of its own: Mesa, which draws, and Triton, which SpikingJelly imports, each bring an LLVM, and do not
    survive each other.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npy"
        program = (
            f"import numpy, snnkern; actor = snnkern.load_actor({ACTOR!r}); "
            f"numpy.save({str(path)!r}, snnkern.collect(actor, actor.metadata['environment'], {steps}))"
        )
        subprocess.run([sys.executable, "-c", program], check=True)
        return np.load(path)


def check(contender: Contender, reference: Contender, frames: NDArray[np.uint8]) -> float:
    """How far the first actions of two are apart."""
    contender.reset()
    reference.reset()
    return max(float(np.abs(contender.act(frame) - reference.act(frame)).max()) for frame in frames)


@torch.no_grad()
def measured(number: int, steps: int) -> dict[str, Any]:
    """Everything that the page shows."""
    torch.set_num_threads(1)
    actor = snnkern.load_actor(ACTOR)
    frames = recorded(steps)
    thresholds = list(snnkern.convert(actor, frames, neuron="if", calibration="max").thresholds)
    makers: dict[str, Callable[[], Contender]] = {
        f"{neuron} {timesteps}": lambda n=neuron, t=timesteps: spiking(actor, thresholds, n, t)  # type: ignore[misc]
        for neuron, timesteps in SETTINGS
    }
    makers["if 8, 2 threads"] = lambda: spiking(actor, thresholds, "if", 8, threads=2)
    makers[ONNX] = lambda: rivals.onnx_runtime(actor)
    makers[TORCH] = lambda: rivals.eager(actor)
    makers[LOOP] = lambda: rivals.PublishedLoop(actor, thresholds, 8, ALPHA).contender()
    makers[JELLY] = lambda: spikingjelly(actor, thresholds)
    one, missing = made(makers)
    many, _ = made(
        {
            f"if 8, batch {BATCH}": lambda: spiking(actor, thresholds, "if", 8),
            f"if 8, batch {BATCH}, 2 threads": lambda: spiking(actor, thresholds, "if", 8, threads=2),
            f"{ONNX}, batch {BATCH}": lambda: rivals.onnx_runtime(actor),
        }
    )
    checks = {}
    for name, contender in one.items():
        if contender.setting is None:
            continue
        # The reference in float64: in float32 two orders of a sum may part where a potential stands on a threshold.
        snn = snnkern.convert(actor, thresholds=thresholds, neuron=contender.setting.neuron, backend="reference",
                              timesteps=contender.setting.timesteps, alpha=contender.setting.alpha)  # fmt: skip
        checks[name] = check(contender, Contender(snn.act, snn.reset), frames[40:43])
    times = measure(one, frames[:MOST], number, seconds=0.02) | measure(
        many, rows(frames, BATCH, 4), max(number // 4, 3)
    )
    engine = spiking(actor, thresholds, "if", 8).act.__self__  # type: ignore[attr-defined]
    engine.act(frames[0])
    return {
        "machine": machine(("snnkern", "torch", "numpy", "onnxruntime", "spikingjelly")),
        "rounds": number,
        "missing": missing,
        "checks": checks,
        "scratch_bytes": engine._engine.scratch_bytes(),
        "milliseconds": {name: [1e3 * value for value in quartiles(seconds)] for name, seconds in times.items()},
        "ratios": {
            target.what: quartiles(times[target.name] / times[target.beside])
            for target in TARGETS
            if {target.name, target.beside} <= times.keys()
        },
    }


def made(makers: dict[str, Callable[[], Contender]]) -> tuple[dict[str, Contender], dict[str, str]]:
    """Those that can be made, and why others cannot."""
    found, missing = {}, {}
    for name, make in makers.items():
        contender = attempt(make)
        if isinstance(contender, str):
            missing[name] = contender
        else:
            found[name] = contender
    return found, missing


def attempt(make: Callable[[], Contender]) -> Contender | str:
    try:
        return make()
    except Missing as error:
        return str(error)


def times_table(results: dict[str, Any]) -> str:
    dense = results["milliseconds"].get(ONNX, [np.nan] * 3)[1]
    return table(
        ["one thread unless said", "ms a decision, median", "quartiles", "times the dense network in ONNX Runtime"],
        [
            (name, f"{median:.2f}", f"{low:.2f} – {high:.2f}", "" if "batch" in name else f"{median / dense:.2f}")
            for name, (low, median, high) in results["milliseconds"].items()
        ],
    )


def targets_table(results: dict[str, Any]) -> str:
    found = results["ratios"]
    lines = [
        (
            target.what,
            f"{target.most:.2f}",
            f"{target.wanted:.2f}",
            "{1:.2f} ({0:.2f} – {2:.2f})".format(*found[target.what]),
        )
        for target in TARGETS
        if target.what in found
    ]
    lines.append(
        ("memory beyond weights and carries, IF T = 8", "8 MiB", "2 MiB", f"{results['scratch_bytes'] / 2**20:.1f} MiB")
    )
    return table(["times as long, in one round", "at most", "reach for", "measured: median (quartiles)"], lines)


def main(
    rounds: Annotated[int, typer.Option(help="How often every contender is timed.", min=3)] = ROUNDS,
    steps: Annotated[int, typer.Option(help="Frames of the dense actor to calibrate on.", min=50)] = 500,
    output: Annotated[Path, typer.Option(help="The JSON file.")] = ROOT / "bench" / "results" / "visual_latency.json",
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the tables again.")] = False,
) -> None:
    if not redraw:
        write_atomically(output, json.dumps(measured(rounds, steps), indent=1).encode())
    results = json.loads(output.read_text())
    page = ROOT / "docs" / "performance.md"
    fill(page, "visual latency", times_table(results))
    fill(page, "visual targets", targets_table(results))
    print(f"{times_table(results)}\n\n{targets_table(results)}")


if __name__ == "__main__":
    typer.run(main)
