"""What the kernels do on a GPU: builds them, checks that they are right, then times them beside what else there is.

    python bench/gpu.py                  # 8 minutes at most; prints a table, writes bench/results/gpu.json

Needs torch, triton, pybind11, cmake, ninja, nvcc and what snnkern itself needs, but neither an installed snnkern nor an
environment: `--record` wrote down what `td3-halfcheetah` sees (bench/results/halfcheetah.npy).
`bench/gpu_page.py` puts the times beside the predicted ones of docs/gpu.md. Where there is no GPU, a small run on the
CPU shows that all of this works, and its times mean nothing.

Neuron kernels and gradients are timed within CUDA graphs, over buffers that the caches do not hold, those that are
written too; neuron kernels beside a copy of as many bytes. Decisions are timed back to back, from an observation on the
device to an action on the device: "graph" says that 32 of them, each of its own observation, are replayed as one CUDA
graph, of which a decision has a 32nd; the others are called one by one, with what they take of the CPU. Times are
medians over some dozens of turns.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # it need not be installed
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it is imported

from contenders import loop_as_function  # noqa: E402
from gpu_gradients import time_gradients  # noqa: E402
from gpu_timing import CHAINED, ROTATING, Decider, Graph, Run, time_decision  # noqa: E402

import snnkern  # noqa: E402
from snnkern import SpikingActor  # noqa: E402
from snnkern.analysis import (  # noqa: E402
    latency,
    rivals,
)
from snnkern.analysis.rivals import Missing  # noqa: E402
from snnkern.control import timing  # noqa: E402
from snnkern.files import write_atomically  # noqa: E402
from snnkern.kernels import (  # noqa: E402
    ops,
    reference,
)
from snnkern.kernels.backends import integers  # noqa: E402
from snnkern.kernels.neurons import NEURON_NAMES, Dynamics, Kind, parse_neuron  # noqa: E402
from snnkern.policies.actor import Conv  # noqa: E402

RESULTS = ROOT / "bench" / "results"
OBSERVATIONS = RESULTS / "halfcheetah.npy"
T, ALPHA = 8, 0.2
BATCHES = (1, 16, 256, 1024, 4096, 16384, 65536)
MORE_BATCHES = (132, 264, 2048, 8192)  # of CUDA in a graph: where a multiprocessor gets a second row, and its border
VISUAL_BATCHES = (1, 32, 1024)
LAYER = (4096, 1024)  # rows and neurons
CACHE = 256 << 20  # bytes: more than any GPU's cache
# Forms of a neuron kernel, and how many numbers a neuron's decision reads and writes.
FORMS = {
    "a sequence in, spikes out": 2 * T + 2,
    "a sequence in, mean out": T + 3,
    "a constant current in, mean out": 4,
}
PUBLISHED = Dynamics(parse_neuron("if"), T, ALPHA)
CHECKED = 64, 3  # rows and decisions
COMPILED = "published loop compiled"
Made = TypeVar("Made")
COMPILING = 60.0  # seconds that must be left for it: compilers take as long as they take
SMALL = (8, 96)  # the layer where there is no GPU


# ---- building and checking


def build(run: Run) -> None:
    """Builds the native modules where sources are newer; goes on without where that fails, and says so."""
    sources = [*(ROOT / "csrc").rglob("*.*"), ROOT / "CMakeLists.txt"]
    newest = max(source.stat().st_mtime for source in sources)
    wanted = ["_cpu", "_cuda"] if run.device.type == "cuda" else ["_cpu"]
    modules = {name: next((ROOT / "snnkern").glob(f"{name}.*"), None) for name in wanted}
    if all(module is not None and module.stat().st_mtime > newest for module in modules.values()):
        return
    run.say("building the kernels")
    start = time.monotonic()
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=run.left(), check=False)
        failed = (done.stdout + done.stderr)[-2000:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        failed = "building took too long"
    run.found["build"] = {"seconds": time.monotonic() - start, "failed": failed}
    if failed:
        run.say(f"the build failed, what it left out is missing below: {failed}")


def available(run: Run) -> list[str]:
    """The backends that have kernels for the device; the others, and why they have none, are noted."""
    names = []
    for status in snnkern.backends():
        if status.name == "reference" or (status.name == "cpu") == (run.device.type == "cuda"):
            continue
        if status.available:
            names.append(status.name)
        else:
            run.found["missing"][status.name] = status.detail
    return names


class Layer(NamedTuple):
    """What a neuron operator takes."""

    current: Tensor
    threshold: Tensor
    carry: Tensor
    bias: Tensor | None

    @classmethod
    def random(cls, kind: Kind, shape: tuple[int, int], constant: bool, device: torch.device, seed: int) -> Layer:
        generator = torch.Generator(device).manual_seed(seed)
        steps = () if constant else (T,)
        current = torch.randn(*steps, *shape, device=device, generator=generator) * 0.5 + 0.2
        threshold = torch.rand(shape[1], device=device, generator=generator) + 0.5
        carry = (torch.rand(shape, device=device, generator=generator) - 0.5) * 0.3
        return cls(current, threshold, carry, current.new_full(shape[1:], 0.1) if kind is Kind.DC else None)

    def call(self, form: str, dynamics: Dynamics, backend: str) -> tuple[Tensor, ...]:
        run = ops.neuron_spikes if form.endswith("spikes out") else ops.neuron_mean
        return run(self.current, self.threshold, self.carry, dynamics, bias=self.bias, backend=backend)


def check_neurons(run: Run, backend: str) -> None:
    """Every kind and form of a neuron kernel against the reference, bit for bit.

    Raises:
        AssertionError: a bit differs.
    """
    for name, form in itertools.product(NEURON_NAMES, FORMS):
        dynamics = Dynamics(parse_neuron(name), T, ALPHA, 0.5)
        layer = Layer.random(dynamics.neuron.kind, (37, 261), "constant" in form, run.device, seed=1)
        found = layer.call(form, dynamics, backend)
        on_host = Layer(*(None if one is None else one.cpu() for one in layer))
        decided = reference.neuron(on_host.current, on_host.threshold, on_host.carry, dynamics, on_host.bias)
        output = decided.spikes if form.endswith("spikes out") else decided.mean
        for mine, wanted in zip(found, (output, decided.carry, decided.counts), strict=True):
            assert torch.equal(mine.cpu(), wanted), f"{backend}, {name}, {form}: differs from the reference"
    run.say(f"{backend}: all neuron kernels are the reference in every bit")


# ---- neuron kernels


def time_neurons(run: Run, backends: list[str], shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Seconds of every kernel, and its bandwidth as a share of a copy's, for so many bytes as it must move."""
    for form, numbers in FORMS.items():
        moved = math.prod(shape) * numbers * 4
        rounds = max(2, CACHE // moved) if run.device.type == "cuda" else 2
        sources = [torch.empty(moved // 8, device=run.device).normal_() for _ in range(rounds)]
        targets = [torch.empty_like(source) for source in sources]
        copies = [lambda a=a, b=b: a.copy_(b) for a, b in zip(targets, sources, strict=True)]
        copy = run.quartiles(Graph(copies, run.device).replay, shared=rounds)[1]
        del sources, targets, copies
        run.say(f"neuron kernels, {form}: a copy of as many bytes moves {moved / copy / 1e9:,.0f} GB/s")
        for backend, name in itertools.product(backends, NEURON_NAMES):
            if run.left() < 10:
                return
            dynamics = Dynamics(parse_neuron(name), T, ALPHA)
            layers = [
                Layer.random(dynamics.neuron.kind, shape, "constant" in form, run.device, seed)
                for seed in range(rounds)
            ]
            calls = [partial(one.call, form, dynamics, backend) for one in layers]
            seconds = run.quartiles(Graph(calls, run.device).replay, shared=rounds)
            yield {
                "backend": backend,
                "neuron": name,
                "form": form,
                "seconds": seconds,
                "bytes": moved,
                "copy_seconds": copy,
                "share_of_copy": copy / seconds[1],
            }


# ---- decisions


@dataclass(frozen=True)
class Task:
    """The actor, its thresholds and the observations `[N, observation_dim]`, all on one device."""

    actor: snnkern.Actor
    thresholds: list[Tensor]
    observations: NDArray[np.float32]

    @classmethod
    def load(cls) -> Task:
        actor = snnkern.load_actor("td3-halfcheetah")
        observations = np.load(OBSERVATIONS).astype(np.float32)
        return cls(actor, list(snnkern.calibrate(actor, observations, "max")), observations)

    def to(self, device: torch.device) -> Task:
        actor = snnkern.load_actor("td3-halfcheetah").to(device)
        return Task(actor, [threshold.to(device) for threshold in self.thresholds], self.observations)

    def spiking(self, neuron: str, backend: str) -> SpikingActor:
        dynamics = Dynamics(parse_neuron(neuron), T, ALPHA)
        snn = SpikingActor(self.actor, self.thresholds, dynamics, backend=backend, check_finite=False)
        return snn.to(self.thresholds[0].device)


def ours(neuron: str, backend: str, task: Task, batch: int) -> Decider:
    snn = task.spiking(neuron, backend)
    snn(task.thresholds[0].new_zeros(batch, task.actor.interface.observation_dim))
    if snn._engine is None:
        raise Missing("it runs this actor layer by layer")
    snn.warmup(batch)
    snn.reset()
    return Decider(snn, snn.dynamics, snn.reset)


def ours_in_a_graph(neuron: str, backend: str, task: Task, batch: int) -> Decider:
    return captured(task.spiking(neuron, backend), task, batch)


def captured(snn: SpikingActor, task: Task, batch: int) -> Decider:
    """Its decisions in a graph."""
    snn.warmup(batch)
    graph = _on_gpu(task, lambda: snn.capture(batch))

    def decide(observation: Tensor) -> Tensor:
        graph.observation.copy_(observation)
        return graph.replay()

    # As `capture` itself calls the engine, whose carry the decisions of a graph hand on.
    return Decider(decide, snn.dynamics, graph.reset, lambda observation: graph._engine.decide(observation, False, 1))


class Kernel(NamedTuple):
    """One of CUDA's kernels of whole actors, of which `warmup` takes one: what asks for it, and for how many rows."""

    setting: dict[str, str]
    least: int
    most: int


KERNELS = {
    "blocks": Kernel({"SNNKERN_CUDA_CLUSTERS": "0", "SNNKERN_INTEGERS": "0"}, 1, 4096),
    "clusters": Kernel({"SNNKERN_CUDA_CLUSTERS": "1", "SNNKERN_INTEGERS": "0"}, 1, 16),
    "integers": Kernel({"SNNKERN_INTEGERS": "1"}, 256, 65536),
}


def on_kernel(kernel: str, neuron: str, task: Task, batch: int) -> Decider:
    """CUDA's decision in a graph, by this kernel."""
    with mock.patch.dict(os.environ, KERNELS[kernel].setting):
        snn = task.spiking(neuron, "cuda")
        snn(task.thresholds[0].new_zeros(batch, task.actor.interface.observation_dim))
        engine = snn._engine
        taken = {"integers": isinstance(engine, integers.Engine), "clusters": bool(getattr(engine, "_clustered", ()))}
        if not taken.get(kernel, True):
            raise Missing("it does not serve this actor on this device")
        snn.reset()
        return captured(snn, task, batch)


def loop(task: Task, batch: int) -> Decider:
    published = rivals.PublishedLoop(task.actor, task.thresholds, T, ALPHA)
    return Decider(published.decide, published.dynamics, published.reset)


def compiled_loop(task: Task, batch: int) -> Decider:
    """The loop in its faster form, under torch.compile."""
    function = loop_as_function(task.actor, task.thresholds, T, ALPHA)
    compiled = _on_gpu(task, lambda: torch.compile(function, fullgraph=True, dynamic=False))
    zeros = [threshold.new_zeros(batch, len(threshold)) for threshold in task.thresholds]
    carries = list(zeros)

    def decide(observation: Tensor) -> Tensor:
        action, *carries[:] = compiled(observation, *carries)
        return action

    def reset() -> None:
        carries[:] = zeros

    return Decider(decide, PUBLISHED, reset)


def loop_in_a_graph(task: Task, batch: int) -> Decider:
    """The loop in its faster form, as a CUDA graph."""
    function = loop_as_function(task.actor, task.thresholds, T, ALPHA)
    carries = [threshold.new_zeros(batch, len(threshold)) for threshold in task.thresholds]

    def decide(observation: Tensor) -> Tensor:
        action, *new = function(observation, *carries)
        for carry, value in zip(carries, new, strict=True):
            carry.copy_(value)
        return action

    def reset() -> None:
        for carry in carries:
            carry.zero_()

    return _in_a_graph(task, Decider(decide, PUBLISHED, reset))


def dense(task: Task, batch: int) -> Decider:
    return Decider(rivals.dense_network(task.actor), None)


def dense_in_a_graph(task: Task, batch: int) -> Decider:
    return _in_a_graph(task, Decider(rivals.dense_network(task.actor), None))


def spikingjelly(task: Task, batch: int) -> Decider:
    """Its IF neurons, which choose a Triton kernel by themselves on a GPU; without a carry, which it does not have."""
    neuron = rivals.optional("spikingjelly.activation_based.neuron")
    reachable = [torch.where(threshold > 0, threshold, 1e30) for threshold in task.thresholds]
    layers = [*task.actor.hidden, task.actor.output]
    sent = [None, *task.thresholds]
    pairs = []
    for index, layer in enumerate(layers):  # it has one threshold per layer: weights and biases are divided by θ
        weight = layer.weight if sent[index] is None else layer.weight * sent[index]
        scale = 1 / reachable[index] if index < len(reachable) else torch.ones_like(layer.bias)
        pairs.append((weight * scale[:, None], layer.bias * scale))
    nodes = [neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m").eval() for _ in reachable]
    halves = [torch.full_like(threshold, 0.5).expand(batch, -1).contiguous() for threshold in reachable]

    def decide(observation: Tensor) -> Tensor:
        signal = torch.nn.functional.linear(task.actor.interface.normalize(observation), *pairs[0]).expand(T, -1, -1)
        for index, node in enumerate(nodes):
            node.v = halves[index]
            signal = node(signal if index == 0 else torch.nn.functional.linear(signal, *pairs[index]))
        return task.actor.interface.action(torch.nn.functional.linear(signal.mean(dim=0), *pairs[-1]))

    return Decider(decide, Dynamics(parse_neuron("if"), T, 0.0))


def _on_gpu(task: Task, make: Callable[[], Made]) -> Made:
    if task.thresholds[0].device.type != "cuda":
        raise Missing("it needs a GPU")
    return make()


def _in_a_graph(task: Task, decider: Decider) -> Decider:
    """The same, timed within a graph."""
    return _on_gpu(task, lambda: decider._replace(captured=decider.decide))


class Case(NamedTuple):
    """A contender, how many rows it decides for on what device, and how it is made."""

    name: str
    neuron: str
    batch: int
    task: Task
    make: Callable[[Task, int], Decider]


def cases(
    here: Task, on_host: Task, backends: Sequence[str], batches: Sequence[int], more: Sequence[int]
) -> Iterator[Case]:
    """Everyone but who takes minutes to compile, what matters most first, since time may be short."""
    for neuron, batch, backend in itertools.product(NEURON_NAMES, sorted((*batches, *more)), backends):
        if backend == "cuda" or (backend != "cpu" and batch not in more):  # Triton compiles for seconds
            yield Case(f"{backend} graph", neuron, batch, here, partial(ours_in_a_graph, neuron, backend))
    for kernel, neuron, batch in itertools.product(KERNELS, NEURON_NAMES, batches):
        if "cuda" in backends and KERNELS[kernel].least <= batch <= KERNELS[kernel].most:
            yield Case(f"cuda {kernel} graph", neuron, batch, here, partial(on_kernel, kernel, neuron))
    for neuron, batch in itertools.product(NEURON_NAMES, batches):
        for backend in backends:
            if backend != "cpu":
                yield Case(backend, neuron, batch, here, partial(ours, neuron, backend))
        if neuron == "if":
            yield Case("published loop", neuron, batch, here, loop)
            yield Case("published loop graph", neuron, batch, here, loop_in_a_graph)
            yield Case("SpikingJelly", neuron, batch, here, spikingjelly)
            yield Case("dense", "", batch, here, dense)
            yield Case("dense graph", "", batch, here, dense_in_a_graph)
    for neuron, batch in itertools.product(NEURON_NAMES, batches):
        yield Case("cpu", neuron, batch, on_host, partial(ours, neuron, "cpu"))


def compiled_cases(here: Task, batches: Sequence[int]) -> Iterator[Case]:
    """Who takes minutes to compile."""
    for batch in sorted(batches, key=lambda batch: (batch not in (1, 1024, 65536), batch)):
        yield Case(COMPILED, "if", batch, here, compiled_loop)


def time_decisions(run: Run, cases: Iterator[Case], on_host: Task) -> Iterator[dict[str, Any]]:
    """Everyone decides as the reference does, and then is timed; whoever there is no time for is noted."""
    few = timing.rows(on_host.observations, *CHECKED)
    expected = functools.cache(lambda dynamics: latency.expected(on_host.actor, on_host.thresholds, dynamics, few))
    for case in cases:
        what = f"{case.name} {case.neuron} at batch {case.batch:,}"
        if run.left() < (COMPILING if case.name == COMPILED else 5):
            run.found["unreached"].append(what)
            continue
        device = case.task.thresholds[0].device
        try:
            decider = case.make(case.task, case.batch)
            agrees = agreement(decider, case.batch, device, few, *expected(decider.dynamics))
            count = ROTATING if decider.captured is None else CHAINED
            inputs = timing.rows(on_host.observations, case.batch, count).reshape(count, case.batch, -1)
            seconds = time_decision(run, decider, [torch.from_numpy(one).to(device) for one in inputs])
        except (Missing, snnkern.Error) as error:
            run.found["missing"][f"{case.name} {case.neuron}".strip()] = str(error)
        except Exception as error:  # whoever fails, the others have their turn
            run.fail(what, error)
        else:
            run.say(f"{what}: {seconds[1] * 1e6:,.1f} µs")
            yield {"name": case.name, "neuron": case.neuron, "batch": case.batch, "seconds": seconds, **agrees}


def agreement(
    decider: Decider, batch: int, device: torch.device, few: NDArray[Any], wanted: NDArray[Any], certain: NDArray[Any]
) -> dict[str, float]:
    """How actions compare with the reference's, on few rows, which come again in large batches.

    Raises:
        AssertionError: an action differs that rounding cannot have decided.
    """
    contender = timing.Contender(
        act=lambda observation: decider.decide(observation).cpu().numpy(),
        reset=decider.reset,
        prepare=lambda observation: torch.from_numpy(observation).to(device),
        threads=torch.get_num_threads(),
    )
    again = np.arange(batch) % few.shape[1]
    found = latency.agreement(contender, few[:, again], (wanted[:, again], certain[:, again]), by_row=False)
    assert not found.wrong, f"{found.wrong} actions differ that rounding cannot decide"
    return {"certain": found.certain, "agreeing": found.agreeing}


# ---- decisions of an actor that sees


def seeing(small: bool) -> tuple[snnkern.Actor, list[Tensor], Tensor]:
    """DrQ-v2's network with random weights, its thresholds, and frames `[rows, C, H, W]`: what a GPU takes for it does
    not depend on how many neurons fire."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * (2 / math.prod(shape[1:])) ** 0.5

    image, channels, width = ((1, 8, 8), 4, 8) if small else ((9, 84, 84), 32, 1024)
    convolutions = [Conv(random(channels, image[0], 3, 3), torch.zeros(channels), 2)]
    convolutions += [Conv(random(channels, channels, 3, 3), torch.zeros(channels)) for _ in range(0 if small else 3)]
    signal = torch.zeros(1, *image)
    for layer in convolutions:
        signal = torch.nn.functional.conv2d(signal, layer.weight, None, layer.stride)
    widths = [signal.numel(), 50, width, width, 1]
    linear = [(random(wide, narrow), torch.zeros(wide)) for narrow, wide in itertools.pairwise(widths)]
    seen = {"observation_dtype": torch.uint8, "observation_scale": 255, "observation_offset": -0.5}
    actor = snnkern.Actor([*convolutions, *linear[:-1]], linear[-1], snnkern.Interface(image, 1, **seen))
    frames = torch.randint(0, 256, (ROTATING, *image), generator=generator, dtype=torch.uint8)
    active = actor.hidden_activations(frames)
    return actor, [one.amax(dim=(0, 2, 3) if one.dim() == 4 else 0) for one in active], frames


def time_seeing(run: Run, small: bool) -> Iterator[dict[str, Any]]:
    """Seconds of a decision on Triton's kernels for convolutions, layer by layer ("layers": cuDNN, and CUDA's kernels
    of neurons), and of the dense network in torch; all of them replayed as a graph on a GPU."""
    actor, thresholds, frames = seeing(small)
    wanted = SpikingActor(actor.double(), thresholds, PUBLISHED, backend="reference")(frames[:2])
    actor = actor.float().to(run.device)
    dense = as_function(actor)
    ways = {"triton": "triton", "layers": "cuda"}
    there = [status.name for status in snnkern.backends() if status.available]
    batches, names = (VISUAL_BATCHES[:1], NEURON_NAMES[:1]) if small else (VISUAL_BATCHES, NEURON_NAMES)
    for batch, name in itertools.product(batches, (*names, "")):
        pixels = frames[torch.arange(batch) % len(frames)].to(run.device)
        for path in ways if name else ("dense", "dense compiled"):
            what = f"seeing, {path} {name} at batch {batch:,}"
            if run.left() < (COMPILING if path == "dense compiled" else 20):
                run.found["unreached"].append(what)
                continue
            if name and ways[path] not in there:
                run.found["missing"][f"seeing, {path}"] = f"backend {ways[path]} is not available"
                continue
            try:
                if name:
                    dynamics = Dynamics(parse_neuron(name), T, ALPHA)
                    snn = SpikingActor(actor, [one.to(run.device) for one in thresholds], dynamics, backend=ways[path])
                    if name == "if":
                        found = snn(pixels[:2] if batch > 1 else pixels).cpu().double()
                        error = (found - wanted[: len(found)]).abs().max().item()
                        # Of so many spikes rounding decides some: in float32 the reference is up to 0.03 from itself.
                        assert error < 0.1, f"an action is {error:.3g} from the reference's"
                        snn.reset()
                    call = decision_of(snn.to(run.device), pixels, run.device)
                else:
                    function = torch.compile(dense) if path == "dense compiled" and not small else dense
                    call = Graph([partial(function, pixels)] * 2, run.device).replay
                seconds = run.quartiles(call, shared=1 if name else 2)
            except Exception as error:  # the others go on
                run.fail(what, error)
                continue
            yield {"path": path, "neuron": name, "batch": batch, "seconds": seconds}


def decision_of(snn: SpikingActor, pixels: Tensor, device: torch.device) -> Callable[[], object]:
    """A spiking actor's decision, as a graph on a GPU."""
    if device.type != "cuda":
        return partial(snn, pixels)
    snn.warmup(len(pixels))
    captured = snn.capture(len(pixels))
    captured.observation.copy_(pixels)
    return captured.replay


def as_function(actor: snnkern.Actor) -> torch.nn.Module:
    """The dense network alone, without checks."""

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.output, self.interface = actor.hidden, actor.output, actor.interface

        def forward(self, pixels: Tensor) -> Tensor:
            signal = self.interface.normalize(pixels)
            for layer in self.hidden:
                flat = signal.flatten(1) if isinstance(layer, torch.nn.Linear) else signal
                signal = torch.relu(layer(flat))
            return self.interface.action(self.output(signal.flatten(1)))

    return Dense()


# ---- all of it


def measure(run: Run, small: bool) -> None:
    """Fills in what is found, step by step, and writes it after each."""
    run.found |= {"missing": {}, "failed": {}, "unreached": []}
    run.found |= {"neurons": [], "gradients": [], "decisions": [], "visual": []}
    build(run)
    found = timing.machine(("snnkern", "torch", "triton", "numpy", "spikingjelly"))
    gpu = torch.cuda.get_device_name() if run.device.type == "cuda" else None
    run.found |= {"machine": found, "gpu": gpu, "timesteps": T, "alpha": ALPHA, "layer": SMALL if small else LAYER}
    backends = available(run)
    for backend in list(backends):
        try:
            check_neurons(run, backend)
        except Exception as error:  # noqa: PERF203  # the others go on
            run.fail(f"neuron kernels of {backend}", error)
            backends.remove(backend)
    on_host = Task.load()
    here = on_host.to(run.device)
    batches, more = (BATCHES[:2], ()) if small else (BATCHES, MORE_BATCHES)
    decide = partial(time_decisions, run, on_host=on_host)
    parts = [
        ("neurons", time_neurons(run, backends, run.found["layer"])),
        ("decisions", decide(cases(here, on_host, backends, batches, more))),
        ("visual", time_seeing(run, small)),
        ("gradients", time_gradients(run, small, CACHE)),
        ("decisions", decide(compiled_cases(here, batches))),
    ]
    for name, entries in parts:
        for entry in entries:
            run.found[name].append(entry)
            run.write()
        run.write()  # what failed, and for what there was no time


def show(found: dict[str, Any]) -> None:
    """The short table."""
    rows, neurons = found["layer"]
    forms = list(FORMS)
    print(f"\nNeuron kernels, {rows:,} × {neurons:,}, float32, T = {T}: µs, and the share of a copy's bandwidth")
    shares: dict[tuple[str, str], list[str]] = {}
    for entry in found["neurons"]:
        cells = shares.setdefault((entry["backend"], entry["neuron"]), [""] * len(forms))
        cells[forms.index(entry["form"])] = f"{entry['seconds'][1] * 1e6:,.1f} ({entry['share_of_copy']:.0%})"
    _print_table(["backend", "neuron", *forms], [[*name, *cells] for name, cells in shares.items()])
    _show_batches("Decisions, td3-halfcheetah", [(entry["name"], entry) for entry in found["decisions"]])
    _show_batches("Decisions, DrQ-v2's network", [(entry["path"], entry) for entry in found["visual"]])
    _show_batches("Gradients of both hidden layers", [(entry["backend"], entry) for entry in found["gradients"]])
    print()
    for what, why in found["missing"].items():
        print(f"missing: {what}: {why.splitlines()[0]}")
    if found["unreached"]:
        print(f"no time for {len(found['unreached'])}: {', '.join(found['unreached'][:3])}, …")
    for what, why in found["failed"].items():
        print(f"FAILED: {what}: {why.splitlines()[0]}")
    where = found["gpu"] or "the CPU, as a test of this program: there is no GPU, and these times mean nothing"
    print(f"On {where}; {found['seconds']:.0f} s.")


def _show_batches(what: str, entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """A table of medians: a row for each name and neuron, a column for each batch."""
    batches = sorted({entry["batch"] for _, entry in entries})
    print(f"\n{what}, T = {T}: µs at a batch of")
    times: dict[tuple[str, str], list[str]] = {}
    for name, entry in entries:
        cells = times.setdefault((name, entry["neuron"]), [""] * len(batches))
        cells[batches.index(entry["batch"])] = f"{entry['seconds'][1] * 1e6:,.1f}"
    _print_table(
        ["", "neuron", *(f"{batch:,}" for batch in batches)], [[*name, *cells] for name, cells in times.items()]
    )


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    for row in [headings, *rows]:
        first = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        print(
            "  ".join([*first, *(cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True))]).rstrip()
        )


def record() -> None:
    """Writes down what the actor sees in its environment, for machines that have none."""
    observations = snnkern.collect(snnkern.load_actor("td3-halfcheetah"), "HalfCheetah-v5", 1000, seed=0)
    buffer = io.BytesIO()
    np.save(buffer, observations.astype(np.float16))
    write_atomically(OBSERVATIONS, buffer.getvalue())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=460.0, help="how long it may take in all (default 460)")
    parser.add_argument("--turn", type=float, default=0.2, help="seconds for which each is timed (default 0.2)")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json", help="where the JSON goes")
    parser.add_argument("--record", action="store_true", help="only write down observations; needs snnkern[rl]")
    given = parser.parse_args()
    if given.record:
        record()
        return 0
    began = time.monotonic()
    small = not torch.cuda.is_available()
    if small:
        print("There is no GPU: a small run on the CPU shows that this program works. Its times mean nothing.")
    torch.set_num_threads(os.cpu_count() or 1)
    device = torch.device("cpu" if small else "cuda")
    run = Run(device, began, began + given.seconds, turn=0.02 if small else given.turn, output=given.output)
    with torch.no_grad():
        measure(run, small)
    show(run.found)
    return 1 if run.found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
