"""How bench/gpu.py times what runs on a device: turns, and many calls in one CUDA graph.

A graph holds many calls, so that its launch, which the CPU pays for, is a small part of each. What a call returns is
kept until the graph is gone: otherwise all of them would write to the same memory, which stays in the cache.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnkern.control import timing
from snnkern.files import write_atomically
from snnkern.kernels.neurons import Dynamics

CHAINED = 32  # decisions in a graph, each of an observation of its own
ROTATING = 8  # observations that a contender without a graph is given in turn


@dataclass
class Run:
    """A run of the benchmark: where it runs, how much time is left, and what it has found.

    Attributes:
        device: what is timed.
        began: when it began, by `time.monotonic`.
        ends: when it must be over, likewise.
        turn: seconds of a contender's turns, all together.
        output: the file that `write` writes.
        found: what goes into the file.
    """

    device: torch.device
    began: float
    ends: float
    turn: float
    output: Path
    found: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        return self.ends - time.monotonic()

    def fail(self, what: str, error: Exception) -> None:
        self.found["failed"][what] = f"{type(error).__name__}: {error}"
        self.say(f"{what} FAILED: {error}")

    def say(self, text: str) -> None:
        print(f"[{max(self.left(), 0):4.0f} s left] {text}", flush=True)

    def write(self) -> None:
        """Writes what has been found so far: a run that is cut off leaves that."""
        self.found["seconds"] = time.monotonic() - self.began
        write_atomically(self.output, json.dumps(self.found, indent=1).encode())

    def quartiles(self, call: Callable[[], object], device: torch.device | None = None, shared: int = 1) -> list[float]:
        """Seconds of a call, or of each of so many that share it: quartiles over turns, after a warm-up."""
        device = device or self.device
        for _ in range(3):
            call()
        calls = int(np.clip(2e-3 / max(_seconds(call, 1, device), 1e-7), 1, 200))
        turns: list[float] = []
        until = min(time.monotonic() + self.turn, self.ends)
        while len(turns) < 5 or (time.monotonic() < until and len(turns) < 60):
            turns.append(_seconds(call, calls, device) / calls / shared)
        return timing.quartiles(np.array(turns))


def _seconds(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """What the device takes for so many calls, by CUDA events on a GPU."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


class Graph:
    """Calls, one after the other, as a CUDA graph on a GPU; elsewhere they are called again.

    Attributes:
        results: what each call returned, each in memory of its own. A replay writes there again.
    """

    def __init__(self, calls: Sequence[Callable[[], object]], device: torch.device) -> None:
        self._calls = calls
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type != "cuda":
            self.results = [call() for call in calls]
            return
        for call in calls:  # whatever is compiled or loaded, is now
            call()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.results = [call() for call in calls]

    def replay(self) -> None:
        if self._graph is None:
            self.results = [call() for call in self._calls]
        else:
            self._graph.replay()


class Decider(NamedTuple):
    """One way to decide.

    Attributes:
        decide: the action for an observation `[B, observation_dim]` on its device.
        dynamics: None if it is dense.
        reset: starts a new episode.
        captured: what a graph of many decisions captures: `decide` without its own graph. None where decisions are
            called one by one.
    """

    decide: Callable[[Tensor], Tensor]
    dynamics: Dynamics | None
    reset: Callable[[], None] = lambda: None
    captured: Callable[[Tensor], object] | None = None


def time_decision(run: Run, decider: Decider, inputs: Sequence[Tensor]) -> list[float]:
    """Quartiles of a decision's seconds: within a graph of one for each input, or called with the inputs in turn."""
    device = inputs[0].device
    if decider.captured is None:
        turning = itertools.cycle(inputs)
        return run.quartiles(lambda: decider.decide(next(turning)), device)
    graph = Graph([partial(decider.captured, one) for one in inputs], device)
    return run.quartiles(graph.replay, device, shared=len(inputs))
