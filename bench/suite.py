"""What the microbenchmarks share: calls timed in rounds, and a table per suite with the neurons side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from snnkern.control.timing import ROUND_SECONDS, seconds_per_call

FEWEST_ROUNDS = 10

Info = dict[str, Any]


class Call(NamedTuple):
    """What is timed: a function of one argument, and that."""

    function: Callable[[Any], object]
    given: Any


class Timed(NamedTuple):
    """Seconds per call in every round, `[rounds]`; in a round the rival follows the call."""

    call: NDArray[np.float64]
    rival: NDArray[np.float64]


def time_in_rounds(benchmark: BenchmarkFixture, call: Call, seconds: float, rival: Call | None = None) -> Timed | None:
    """Times a call, and in each round another call after it, so that both meet the same noise.

    Each begins with one call that is not timed: the other one has left its own data in the caches.

    Args:
        benchmark: takes the times of `call`; with `--benchmark-disable` there is one call and nothing is timed.
        call: what is measured.
        seconds: how long to measure, for each of the two.
        rival: what it is compared with.

    Returns:
        None where benchmarks are disabled.
    """
    rivals: list[float] = []
    if benchmark.disabled:
        benchmark.pedantic(call.function, [call.given])
        return None
    calls, rounds = _calls_and_rounds(call, seconds)
    rival_calls = _calls_and_rounds(rival, seconds)[0] if rival else 0

    def between_rounds(given: object) -> None:
        if rival:
            rival.function(rival.given)
            rivals.append(seconds_per_call(rival.function, [rival.given] * rival_calls))
            call.function(given)

    call.function(call.given)
    benchmark.pedantic(call.function, [call.given], iterations=calls, rounds=rounds, teardown=between_rounds)
    times = np.array(benchmark.stats.stats.data)
    return Timed(times, np.array(rivals[: len(times)]))  # pytest-benchmark calls once more at the end, for the result


def _calls_and_rounds(call: Call, seconds: float) -> tuple[int, int]:
    """Calls in a round, and rounds."""
    call.function(call.given)
    once = min(seconds_per_call(call.function, [call.given]) for _ in range(5))
    calls = max(1, round(ROUND_SECONDS / once))
    return calls, max(FEWEST_ROUNDS, round(seconds / (calls * once)))


@dataclass(frozen=True, eq=False)
class Suite:
    """A suite's table: a line per setting, and in it the same figures for every neuron.

    Attributes:
        title: says what the headings mean.
        setting: entries of `extra_info` that make a line, and head its first columns.
        figures: headings of a neuron's columns, and their text, from `extra_info`.
    """

    title: str
    setting: Sequence[str]
    figures: Mapping[str, Callable[[Info], str]]

    def table(self, found: Sequence[Info]) -> str:
        """Draws what was found, in the order in which it was; every entry has "neuron"."""
        neurons = dict.fromkeys(info["neuron"] for info in found)
        lines: dict[tuple[str, ...], dict[str, Info]] = {}
        for info in found:
            lines.setdefault(tuple(str(info[name]) for name in self.setting), {})[info["neuron"]] = info
        blocks = [_block("", [tuple(self.setting), *lines], str.ljust)]
        for neuron in neurons:
            cells = [
                tuple(text(of[neuron]) if neuron in of else "" for text in self.figures.values())
                for of in lines.values()
            ]
            blocks.append(_block(neuron.upper(), [tuple(self.figures), *cells], str.rjust))
        return "\n".join([self.title, *(" | ".join(line).rstrip() for line in zip(*blocks, strict=True))])


def _block(name: str, rows: Sequence[tuple[str, ...]], align: Callable[[str, int], str]) -> list[str]:
    """Rows of cells as lines of one length, under a name."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(align(cell, width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [name.center(len(lines[0])), *lines]
