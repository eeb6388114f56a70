"""Latency of one decision beside what else there is: one process, in rounds, same weights, same observations.

    python bench/peers.py

The task is in `bench/comparison.py`, contenders are in `bench/contenders.py`; those that are not installed
(`pip install -e .[peers]`) are reported missing. Before it is timed, each must decide as the reference does. Writes
JSON, and from it the tables and the figure of docs/performance.md; `--redraw` only does the latter.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy reads it when it is imported

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import comparison
import contenders
import numpy as np
import torch
import typer
from comparison import ALPHA, T, Task
from contenders import PEERS
from numpy.typing import NDArray
from pages import ROOT, fill
from peers_page import BATCH, TABLES, batch_table, draw, latency_table, targets_table

import snnkern
from snnkern.analysis.rivals import Missing
from snnkern.control import timing
from snnkern.control.timing import MOST, Contender, machine, quartiles
from snnkern.files import write_atomically
from snnkern.kernels import ops
from snnkern.kernels.backends import Problem, cpu

ROUNDS = 100
CHECKED_ROWS, CHECKED_DECISIONS = 24, 4
LOUD = 32  # neurons whose rows of weights stay in the first-level cache

Rounds = dict[str, NDArray[np.float64]]  # seconds per decision


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
        one = timing.measure(singles, task.observations[:MOST], rounds)
        batch = timing.measure(batched, many, max(rounds // 2, 3))
        kernel = timing.measure(kernel_and_copy(task), many, rounds)
        floor = measure_floor(task, rounds)
    found = {"one": one, "batch": batch, "kernel": kernel}
    return {
        "machine": machine(("snnkern", "torch", "numpy", *PEERS.values())),
        "rounds": rounds,
        "alpha": ALPHA,
        "missing": missing,
        "not_equivalent": contenders.NOT_EQUIVALENT,
        "checks": checks,
        **{name: {key: quartiles(seconds) for key, seconds in times.items()} for name, times in found.items()},
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
    """The neuron kernel for currents `[T, BATCH, N]`, and a copy that reads and writes as many bytes in all.

    Both write to memory that is there already. The operator allocates its results.
    """
    theta = task.thresholds[0]
    current = torch.randn(T, BATCH, len(theta)) * theta
    carry = torch.zeros(BATCH, len(theta))
    setting = comparison.setting()
    moved = current.numel() + 3 * carry.numel()  # reads the current and the carry, writes mean and carry
    source, target = torch.ones(moved // 2), torch.ones(moved // 2)
    problem = Problem(current, theta, carry, setting, bias=None, row_alpha=None, wants_spikes=False)
    result = cpu.neuron(problem)
    return {
        "kernel": Contender(lambda _: cpu.neuron_into(problem, result)),
        "operator": Contender(lambda _: ops.neuron_mean(current, theta, carry, setting)),
        "copy": Contender(lambda _: target.copy_(source)),
    }


def measure_floor(task: Task, rounds: int) -> dict[str, Any]:
    """What an IF decision at T steps comes to, part by part, from actors of the same widths that do only some of it.

    Seconds per decision and row, `[one row, BATCH rows]`: calling from Python; a silent network at 1 and at T steps;
    one in which `LOUD` neurons of the first layer fire at every step and nobody else, at T steps.
    """
    snn = task.convert("if", T)
    spikes = []
    for observation in task.observations[:500]:
        snn.act(observation)
        spikes.append(snn.spikes[:, 0].numpy())
    sent = np.mean(spikes, axis=0)
    (weight, bias), *rest = task.layers()
    widths = [len(weight) for weight, _ in task.layers()]
    additions = weight.numel() + sent[0] * widths[1] + min(sent[1], widths[1]) * widths[2]

    never = [torch.full_like(threshold, 1e30) for threshold in task.thresholds]
    always = torch.where(torch.arange(len(bias)) < LOUD, 1.0, -1.0)
    loud = replace(
        task,
        actor=snnkern.Actor([(torch.zeros_like(weight), always), *rest[:-1]], rest[-1], task.actor.interface),
        thresholds=[torch.full_like(never[0], 1e-3), *never[1:]],
    )
    silent = replace(task, thresholds=never)
    one = snnkern.Actor([(torch.ones(1, 1), torch.ones(1))], (torch.ones(1, 1), torch.ones(1)))
    smallest = snnkern.convert(one, thresholds=[torch.ones(1)], neuron="if", timesteps=1)
    parts: dict[str, list[float]] = {}
    for batch in (1, BATCH):
        observations = timing.rows(task.observations, batch, MOST if batch == 1 else CHECKED_DECISIONS)
        parties = {
            "silent 1": Contender(silent.convert("if", 1).act),
            "silent": Contender(silent.convert("if", T).act),
            "loud": Contender(loud.convert("if", T).act),
        }
        times = timing.measure(parties, observations, rounds)
        call = timing.measure({"call": Contender(smallest.act)}, np.zeros((4, 1), np.float32), rounds)["call"]
        for name, seconds in {**times, "call": call / batch}.items():
            parts.setdefault(name, []).append(quartiles(seconds)[1] / (1 if name == "call" else batch))
    return {
        "spikes": [float(value) for value in sent],
        "additions": float(additions),
        "bytes": float(4 * additions),
        "loud": LOUD,
        "parts": parts,
    }


# ---- targets


def targets(found: Mapping[str, Rounds], memory: int | None) -> list[dict[str, Any]]:
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
        ("its operator, which allocates the results, likewise", kernel, "operator", "copy", False, 1.3, 1),
    ]
    rows = []
    for what, times, above, below, more, least, reach in aims:
        if above in times and below in times:
            measured = quartiles(times[above] / times[below])
            rows.append({"what": what, "unit": "×", "more": more, "least": least, "reach": reach, "measured": measured})
    if memory is not None:
        mebibytes = [memory / 2**20] * 3
        what = f"memory beyond the packed weights, batch {BATCH}"
        rows.append({"what": what, "unit": "MiB", "more": False, "least": 16, "reach": 4, "measured": mebibytes})
    return rows


def main(
    rounds: Annotated[int, typer.Option(help="How often every contender is timed.", min=3)] = ROUNDS,
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
