"""bench/gpu.py's part about gradients: Triton's and CUDA's kernels for those of a layer of neurons, checked and timed.

What is timed is what docs/gpu.md predicts: both hidden layers of an actor in a training step, without products. The
first has a constant current and gets the gradients of its spikes, the last one a sequence and the gradient of its mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from gpu_timing import Graph, Run
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels.backends import Backend, Gradients, Problem, reference
from snnkern.kernels.backends.choice import choose
from snnkern.kernels.neurons import NEURON_NAMES, Dynamics, parse_neuron
from snnkern.kernels.surrogates import Surrogate

BACKENDS = ("triton", "cuda")
BATCHES, NEURONS = (256, 65536), 256
SMALL = (4, 16)  # a batch and neurons where there is no GPU
CHECKED = (37, 261)
SECONDS = 20  # that must be left: kernels are compiled
TIMESTEPS, ALPHA = 8, 0.2
CLOSE = 1e-5  # of the largest gradient
# Numbers that a neuron reads and writes: currents and the gradients that come, those that go, and the carry's.
NUMBERS = (1 + TIMESTEPS + 1 + 2) + (TIMESTEPS + 1 + TIMESTEPS + 2)


class Step(NamedTuple):
    """A layer's part of a training step: what it decided, and the gradient that comes."""

    problem: Problem
    gradient: Tensor

    @classmethod
    def random(cls, name: str, shape: tuple[int, int], first: bool, device: torch.device, seed: int) -> Step:
        generator = torch.Generator(device).manual_seed(seed)
        dynamics = Dynamics(parse_neuron(name), TIMESTEPS, ALPHA)
        of_one, of_sequence = shape, (TIMESTEPS, *shape)
        current = torch.randn(of_one if first else of_sequence, device=device, generator=generator) * 0.5 + 0.2
        gradient = torch.randn(of_sequence if first else of_one, device=device, generator=generator)
        threshold = torch.rand(shape[1], device=device, generator=generator) + 0.5
        carry = (torch.rand(shape, device=device, generator=generator) - 0.5) * 0.3
        bias = torch.full_like(threshold, 0.1) if dynamics.neuron.differential else None
        return cls(Problem(current, threshold, carry, dynamics, bias, None, first), gradient)

    def back(self, backend: Backend) -> Gradients:
        return backend.neuron_gradients(self.problem, self.gradient, Surrogate.TRIANGLE)

    def on_host(self) -> Step:
        tensors = {name: one.cpu() for name, one in self.problem._asdict().items() if isinstance(one, Tensor)}
        return Step(self.problem._replace(**tensors), self.gradient.cpu())


def check(name: str, shape: tuple[int, int], device: torch.device, backend: Backend) -> None:
    """Both layers' gradients against the reference's.

    Raises:
        AssertionError: a gradient differs by more than rounding.
    """
    for first in (True, False):
        step = Step.random(name, shape, first, device, seed=1)
        wanted = step.on_host().back(reference)
        largest = max(one.abs().max().item() for one in wanted)
        for what, mine, other in zip(Gradients._fields, step.back(backend), wanted, strict=True):
            error = (mine.cpu() - other).abs().max().item()
            assert error <= CLOSE * largest, f"{name}, the gradient of the {what}: {error:.3g} from the reference's"


def time_gradients(run: Run, small: bool, cache: int) -> Iterator[dict[str, Any]]:
    """Seconds of the gradients of both hidden layers, over so many of them that a cache of so many bytes holds none."""
    sizes: Sequence[tuple[int, int]] = [SMALL] if small else [(batch, NEURONS) for batch in BATCHES]
    backends = []
    for backend in BACKENDS:
        try:
            backends.append(choose(backend, run.device, torch.float32))
        except InputError as error:  # noqa: PERF203  # the other goes on
            run.found["missing"][f"gradients by {backend}"] = str(error)
    names = NEURON_NAMES[:1] if small else NEURON_NAMES
    for backend, name, shape in itertools.product(backends, names, sizes):
        what = f"gradients by {backend.NAME}, {name} at batch {shape[0]:,}"
        if run.left() < SECONDS:
            run.found["unreached"].append(what)
            continue
        moved = shape[0] * shape[1] * 4 * NUMBERS
        rounds = 1 if small else max(1, cache // moved)
        try:
            check(name, SMALL if small else CHECKED, run.device, backend)
            pairs = itertools.product(range(rounds), (True, False))
            steps = [Step.random(name, shape, first, run.device, seed) for seed, first in pairs]
            graph = Graph([partial(step.back, backend) for step in steps], run.device)
            seconds = run.quartiles(graph.replay, shared=rounds)
        except Exception as error:  # the others go on
            run.fail(what, error)
            continue
        yield {"backend": backend.NAME, "neuron": name, "batch": shape[0], "seconds": seconds, "bytes": moved}
