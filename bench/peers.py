"""Latency of one decision beside what else there is: one process, taking turns, same weights, same observations.

    python bench/peers.py

The task is in `bench/comparison.py`, contenders are in `bench/contenders.py`; those that are not installed
(`pip install -e .[peers]`) are reported missing. Before it is timed, each must decide as the reference does. Writes
JSON, and from it the tables and the figure of docs/performance.md; `--redraw` only does the latter.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy reads it when it is imported

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import comparison
import contenders
import numpy as np
import torch
import typer
from comparison import ALPHA, T, Task
from contenders import PEERS
from control import ROOT, fill
from numpy.typing import NDArray
from peers_page import BATCH, TABLES, batch_table, draw, latency_table, targets_table

import snnkern
from snnkern import ops, timing
from snnkern.baselines import Missing
from snnkern.files import write_atomically
from snnkern.timing import MOST, TURN_SECONDS, Contender, machine, quartiles

ROUNDS = 100
CHECKED_ROWS, CHECKED_DECISIONS = 24, 4

Turns = dict[str, NDArray[np.float64]]


def measure(rounds: int) -> dict[str, Any]:
    """Everything that the page shows."""
    torch.set_num_threads(1)
    memory = engine_memory()  # first: later, memory that others gave back would serve
    task = comparison.record()
    missing: dict[str, str] = {}
    checks: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        few = timing.rows(task.observations, CHECKED_ROWS, CHECKED_DECISIONS)
        singles = make(contenders.at_batch_one(task), task, few, True, missing, checks)
        many = timing.rows(task.observations, BATCH, CHECKED_DECISIONS)
        batched = make(contenders.at_batch_many(task), task, many, False, missing, {})
        one = take_turns(singles, task.observations[:MOST], rounds)
        batch = take_turns(batched, many, max(rounds // 2, 3))
        kernel = take_turns(kernel_and_copy(task), many, rounds)
        floor = measure_floor(task, rounds)
    found = {"one": one, "batch": batch, "kernel": kernel}
    return {
        "machine": machine(("snnkern", "torch", "numpy", *PEERS.values())),
        "rounds": rounds,
        "alpha": ALPHA,
        "missing": missing,
        "not_equivalent": contenders.NOT_EQUIVALENT,
        "checks": checks,
        **{name: {key: quartiles(turns) for key, turns in turns_of.items()} for name, turns_of in found.items()},
        "targets": targets(found, memory),
        "floor": floor,
    }


def make(
    makers: Iterator[tuple[str, Callable[[], Contender]]],
    task: Task,
    observations: NDArray[np.float32],
    by_row: bool,
    missing: dict[str, str],
    checks: dict[str, dict[str, float]],
) -> dict[str, Contender]:
    """Contenders that can take part, each of which has been seen to decide rightly."""
    made = {}
    for name, maker in makers:
        try:
            made[name] = maker()
        except Missing as error:
            missing[name] = str(error)
            continue
        checks[name] = comparison.check(task, name, made[name], observations, by_row)
    return made


def take_turns(
    parties: Mapping[str, Contender], observations: NDArray[np.float32], rounds: int, turn_seconds: float = TURN_SECONDS
) -> Turns:
    """Seconds per decision of every turn, `[rounds]` each; everyone has one turn per round, in changing order."""
    taken: dict[str, list[float]] = {name: [] for name in parties}
    with contextlib.closing(timing.turns([(parties, observations)], turn_seconds)) as turns:
        for name, seconds in itertools.islice(turns, rounds * len(parties)):
            taken[name].append(seconds)
    return {name: np.array(seconds) for name, seconds in taken.items()}


# ---- what has no rival: memory, the kernel against a copy, the floor


def engine_memory() -> int | None:
    """Bytes that the process grows by when a packed actor first decides on a large batch; None where unknown."""
    if not Path("/proc/self/statm").exists():
        return None
    actor = snnkern.load_actor("td3-halfcheetah")
    snn = snnkern.convert(actor, thresholds=[torch.ones(256)] * 2, neuron="if", timesteps=T, alpha=ALPHA)
    observations = np.ones((BATCH, actor.interface.observation_dim), np.float32)
    for rows in (1, 2):
        snn.act(observations[:rows].copy())
        snn.reset()
    before = _resident()
    for _ in range(3):
        snn.act(observations)
    return _resident() - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kernel_and_copy(task: Task) -> dict[str, Contender]:
    """The neuron operator for currents `[T, BATCH, N]`, and a copy that reads and writes as many bytes in all."""
    theta = task.thresholds[0]
    current = torch.randn(T, BATCH, len(theta)) * theta
    carry = torch.zeros(BATCH, len(theta))
    moved = current.numel() + 3 * carry.numel()  # reads the current and the carry, writes mean and carry
    source, target = torch.ones(moved // 2), torch.ones(moved // 2)
    return {
        "kernel": Contender(lambda _: ops.neuron_mean(current, theta, carry, comparison.setting())),
        "copy": Contender(lambda _: target.copy_(source)),
    }


def measure_floor(task: Task, rounds: int) -> dict[str, Any]:
    """What an IF decision at T steps must read and add, and how fast this machine's caches and adders give it."""
    snn = task.convert("if", T)
    spikes = []
    for observation in task.observations[:500]:
        snn.act(observation)
        spikes.append(snn.spikes[:, 0].numpy())
    sent = np.mean(spikes, axis=0)
    widths = [weight.shape for weight, _ in task.layers()]  # (out, in)
    first, second = widths[0][0] * widths[0][1], sent[0] * widths[1][0]
    output = min(sent[1], widths[2][1]) * widths[2][0]
    additions = first + second + output
    # The smallest actor that there is: what calling from Python costs.
    smallest = snnkern.convert(
        snnkern.Actor([(torch.ones(1, 1), torch.ones(1))], (torch.ones(1, 1), torch.ones(1))),
        thresholds=[torch.ones(1)],
        neuron="if",
        timesteps=1,
    )
    call = take_turns({"call": Contender(smallest.act)}, np.zeros((4, 1), np.float32), rounds)
    return {
        "spikes": [float(value) for value in sent],
        "additions": float(additions),
        "bytes": float(4 * additions),
        "first_level": _read_rate(512, 3584, 8, rounds),
        "second_level": _read_rate(24 * 1024, 96 * 1024, 4, rounds),
        "call": quartiles(call["call"])[1],
    }


def _read_rate(small: int, large: int, bytes_per_value: int, rounds: int) -> float:
    """Bytes per second that the dot product of an array with itself reads from a cache; the call itself cancels out.

    Args:
        small: values of the shorter array.
        large: values of the longer one, which fits the cache.
        bytes_per_value: 8 where the cache gives both operands, 4 where the second comes from the level before it.
        rounds: turns.
    """
    arrays = {str(size): _aligned(size) for size in (small, large)}
    parties = {name: Contender(lambda _, array=array: np.dot(array, array)) for name, array in arrays.items()}
    turns = take_turns(parties, np.zeros((1, 1), np.float32), rounds)
    seconds = turns[str(large)].min() - turns[str(small)].min()  # what it can do: the least disturbed turns
    return float(bytes_per_value * (large - small) / seconds)


def _aligned(size: int) -> NDArray[np.float32]:
    """Ones that begin with a cache line, as the packed weights do."""
    longer = np.ones(size + 16, np.float32)
    start = -longer.ctypes.data % 64 // 4
    return longer[start : start + size]


# ---- targets


def targets(found: Mapping[str, Turns], memory: int | None) -> list[dict[str, Any]]:
    """What was aimed at and what was measured: ratios within a round, their quartiles over rounds.

    `more` says whether a target is a least value (times faster) or a most one.
    """
    one, batch, kernel = found["one"], found["batch"], found["kernel"]
    act, ort = f"act if {T}", "dense ONNX Runtime"
    aims = [
        (f"`snn.act`, IF, T = {T}, batch 1, against the published loop", one, "published loop", act, True, 150, 250),
        ("the same against the dense actor in ONNX Runtime", one, ort, act, True, 2.7, 4),
        ("`snn(tensor)` against `snn.act`, batch 1: times its time", one, f"tensor if {T}", act, False, 2, 1.3),
        ("SNM, T = 8, batch 1, against the dense actor in ONNX Runtime", one, ort, "act snm 8", True, 2, 3.5),
        ("MT (L = 4), T = 4, likewise", one, ort, "act mt 4", True, 2, 3.5),
        ("DC (L = 4), T = 4, likewise", one, ort, "act dc 4", True, 2, 3.5),
        (f"IF, T = {T}, batch {BATCH}, against ONNX Runtime: times its time", batch, act, ort, False, 1.5, 1),
        (f"batch {BATCH}, IF, two threads against one", batch, act, f"{act} ×2", True, 1.8, 1.95),
        ("T = 32 against T = 8, batch 1, IF: times its time", one, "act if 32", "act if 8", False, 3.2, 2.5),
        (
            f"neuron kernel, `[{T}, {BATCH}, 256]`: times a copy of as many bytes",
            kernel,
            "kernel",
            "copy",
            False,
            1.3,
            1,
        ),
    ]
    rows = []
    for what, turns, above, below, more, least, reach in aims:
        if above in turns and below in turns:
            measured = quartiles(turns[above] / turns[below])
            rows.append({"what": what, "unit": "×", "more": more, "least": least, "reach": reach, "measured": measured})
    if memory is not None:
        mebibytes = [memory / 2**20] * 3
        what = f"memory beyond the packed weights, batch {BATCH}"
        rows.append({"what": what, "unit": "MiB", "more": False, "least": 16, "reach": 4, "measured": mebibytes})
    return rows


def main(
    rounds: Annotated[int, typer.Option(help="Turns of every contender.", min=3)] = ROUNDS,
    output: Annotated[Path, typer.Option(help="The JSON file.")] = ROOT / "bench" / "results" / "peers.json",
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the tables and the figure again.")] = False,
) -> None:
    if not redraw:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, json.dumps(measure(rounds), indent=1).encode())
    results = json.loads(output.read_text())
    page = ROOT / "docs" / "performance.md"
    for name, table in TABLES.items():
        fill(page, name, table(results))
    draw(results, ROOT / "docs" / "latency.png")
    print(f"{latency_table(results)}\n\n{batch_table(results)}\n\n{targets_table(results)}")


if __name__ == "__main__":
    typer.run(main)
