"""How bench/gpu.py times: decisions chained in one graph, each of its own observation, into memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gpu_timing
import pytest
import torch
from gpu_timing import CHAINED, Decider, Graph, Run, time_decision
from torch import Tensor


class Turns(Run):
    """A run whose clock stands still: a call takes a second for each of its decisions."""

    def __init__(self, decided: list[Tensor]) -> None:
        super().__init__(torch.device("cpu"), 0.0, 0.0, 0.0, Path())
        self.decided = decided

    def quartiles(self, call: Callable[[], object], device: torch.device | None = None, shared: int = 1) -> list[float]:
        before = len(self.decided)
        call()
        return [(len(self.decided) - before) / shared]


def observations() -> list[Tensor]:
    return [torch.full((2, 3), float(index)) for index in range(CHAINED)]


@pytest.mark.parametrize("chained", [True, False])
def test_a_decision_is_timed_in_a_graph_of_one_for_each_observation(chained) -> None:
    decided: list[Tensor] = []

    def decide(observation: Tensor) -> Tensor:
        decided.append(observation)
        return observation + 1

    decider = Decider(decide, None, captured=decide if chained else None)
    inputs = observations()
    assert time_decision(Turns(decided), decider, inputs) == [1.0]
    last = decided[-CHAINED:] if chained else decided
    assert [one.data_ptr() for one in last] == [one.data_ptr() for one in inputs[: len(last)]]
    assert len(last) == (CHAINED if chained else 1)


def test_a_graph_captures_every_call_and_keeps_what_it_returns(monkeypatch) -> None:
    """As on a GPU: a call before, to compile, then the capture, whose results stay where they are."""
    events: list[str] = []

    class Fake:
        def replay(self) -> None:
            events.append("replay")

    @contextmanager
    def capture(graph: Fake) -> Iterator[None]:
        events.append("begin")
        yield
        events.append("end")

    monkeypatch.setattr(gpu_timing.torch.cuda, "CUDAGraph", Fake)
    monkeypatch.setattr(gpu_timing.torch.cuda, "graph", capture)
    monkeypatch.setattr(gpu_timing.torch.cuda, "synchronize", lambda: events.append("synchronize"))
    inputs = observations()
    graph = Graph([lambda x=x: (events.append("call"), x + 1)[1] for x in inputs], torch.device("cuda"))
    graph.replay()
    calls = ["call"] * CHAINED
    assert events == [*calls, "synchronize", "begin", *calls, "end", "replay"]
    assert len({result.data_ptr() for result in graph.results}) == CHAINED
    for x, result in zip(inputs, graph.results, strict=True):
        assert torch.equal(result, x + 1)


def test_what_has_been_found_is_written_before_the_end(tmp_path: Path) -> None:
    run = Run(torch.device("cpu"), 0.0, 0.0, 0.0, tmp_path / "gpu.json", {"neurons": [1]})
    run.write()
    assert '"neurons": [\n  1\n ]' in run.output.read_text()
