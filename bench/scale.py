"""How long a large study takes on how many machines: docs/scale.md, from what one machine measures.

    python bench/scale.py FOLDER

FOLDER holds the published actors that bench/grids/scale.toml names. Runs a random sample of that grid's tasks, and
tasks that do nothing, by either executor; ten minutes on two cores that others use as well. Costs are CPU time, which
other programs disturb less than they do a clock. Writes bench/results/scale.json and from it the tables of
docs/scale.md; `--redraw` only does the latter.
"""

from __future__ import annotations

import heapq
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray
import torch
import typer
from pages import ROOT, fill, table
from rich.console import Console
from rich.progress import Progress

from snnkern.contrib.ray import RayExecutor
from snnkern.control.collect import collect
from snnkern.control.records import Record
from snnkern.control.timing import machine
from snnkern.files import write_atomically
from snnkern.studies.estimate import RemainingTime
from snnkern.studies.executors import Executor, LocalExecutor
from snnkern.studies.grids import read_study
from snnkern.studies.store import Store, complete
from snnkern.studies.study import Shared, Study, Task, found_in, run_task
from snnkern.text import duration, shorten

GRID = ROOT / "bench" / "grids" / "scale.toml"
RESULTS = ROOT / "bench" / "results" / "scale.json"
PAGE = ROOT / "docs" / "scale.md"
MACHINES, CORES = (1, 10, 100), 16
WINDOW = 2 * 100 * CORES  # tasks that the driver has given out at a time on the largest cluster
PROCESSES = 2
ROUNDS, SHORT = 3, 12  # a short sweep by each executor, in turns


def timed(shared: Shared, task: Task) -> dict[str, Any]:
    """A task, with what it and its worker so far have taken."""
    began = time.process_time()
    record = run_task(shared, task)
    ended = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**record, "seconds": ended - began, "start": began, "memory": memory}


def nothing(record: Record, task: int) -> Record:
    """A task that takes no time and has a result of the usual size."""
    return {**record, "run": {"seconds": 0.0}}


def measure(folder: Path, sample: int) -> dict[str, Any]:
    found = machine(("snnkern", "torch", "numpy", "gymnasium", "mujoco", "ray"))
    study, reading = _cost(lambda: read_study(GRID, folder=folder))
    with tempfile.TemporaryDirectory() as empty:
        (_, left), looking = _cost(lambda: found_in(Store(Path(empty)), study))
    estimate, trying = _cost(lambda: RemainingTime(study, left, {}))
    observations, collecting = {}, []
    numbers = (study.calibration_steps, study.calibration_seed)
    for index, subject in enumerate(study.subjects):
        observations[index], seconds = _cost(partial(collect, subject.actor, subject.environment, *numbers))
        collecting.append(seconds)
    shared = Shared(study.subjects, observations, study.backends)
    tasks = random.Random(0).sample(study.tasks, sample)
    ray.init(address="local", num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    local, cluster = LocalExecutor(PROCESSES), RayExecutor()
    outcomes = _run(local, shared, tasks)
    wide = RayExecutor(workers=WINDOW)  # it gives out as many tasks as if there were so many workers
    record = {key: outcomes[0][key] for key in ("actor", "result", "run")}
    short: dict[str, list[float]] = {"local": [], "ray": []}
    driver: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
    for _ in range(ROUNDS):
        for name, executor in (("local", local), ("ray", cluster)):
            short[name].append(sum(outcome["seconds"] for outcome in _run(executor, shared, tasks[:SHORT])))
        for name, executor in (("local", local), ("ray", wide)):
            driver[name].append(_driver(executor, study, estimate, record))
    ray.shutdown()
    return {
        **found,
        "load_after": machine(())["load"],
        "tasks": len(study.tasks),
        "prepare": {"reading": reading, "looking": looking, "trying": trying},
        "collecting": collecting,
        "seconds": [outcome["seconds"] for outcome in outcomes],
        "start": min(outcome["start"] for outcome in outcomes),
        "memory": max(outcome["memory"] for outcome in outcomes),
        "short": short,
        "driver": driver,
    }


def _cost(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the CPU time that it took."""
    began = time.process_time()
    return function(), time.process_time() - began


def _run(executor: Executor, shared: Shared, tasks: list[Task]) -> list[dict[str, Any]]:
    outcomes = []
    with Progress(console=Console(stderr=True)) as progress:
        for _, outcome in progress.track(executor.run(timed, shared, tasks), total=len(tasks)):
            outcomes.append(outcome)
    return outcomes


def _driver(executor: Executor, study: Study, estimate: RemainingTime, record: Record) -> dict[str, float]:
    """CPU time of the process that gives out tasks and keeps results, per task, the store and the estimate included."""
    tasks = study.tasks[-3000:]

    def finished(task: Task, record: Record) -> None:
        estimate.finished(task, record)
        estimate.remaining(executor.workers)

    with tempfile.TemporaryDirectory() as folder:
        rest: dict[str, Any] = {"describe": study.describe, "store": Store(Path(folder)), "finished": finished}
        complete(tasks[:10], nothing, record, executor=executor, **rest)  # workers that start are another matter
        _, seconds = _cost(lambda: complete(tasks, nothing, record, executor=executor, **rest))
        _, keeping = _cost(lambda: [rest["store"].write({"task": study.describe(task), **record}) for task in tasks])
        _, finding = _cost(lambda: [rest["store"].read(study.describe(task)) for task in tasks])
    return {"all": seconds / len(tasks), "store": keeping / len(tasks), "finding": finding / len(tasks)}


def costs_table(results: dict[str, Any]) -> str:
    """What was measured."""
    seconds, driver, store = np.array(results["seconds"]), _driver_seconds(results), results["driver"]["local"]
    error = 1.96 * seconds.std(ddof=1) / np.sqrt(len(seconds))
    low, middle, high, longest = np.percentile(seconds, [25, 50, 75, 100])
    prepare, collecting = results["prepare"], results["collecting"]
    hours = results["tasks"] / 3600
    rows = [
        (f"a task, mean of {len(seconds)} [95 %]", f"{_span(seconds.mean(), error)} s"),
        ("a task, quartiles; the longest", f"{low:.2f} … {middle:.2f} … {high:.2f}; {longest:.1f} s"),
        (f"all {results['tasks']:,} tasks [95 %]", f"{_span(seconds.mean() * hours, error * hours)} core hours"),
        ("a worker, until it has its first task", f"{results['start']:.1f} s, {results['memory'] / 1e6:.0f} MB"),
        ("reading the grid, looking into the store, estimating", f"{sum(prepare.values()):.1f} s"),
        ("observations of an actor: the longest; all", f"{max(collecting):.1f} s; {sum(collecting):.0f} s"),
        ("the driver, per task: local executor", f"{1e3 * driver['local']:.2f} ms"),
        (f"the driver, per task: Ray, {WINDOW:,} tasks given out", f"{1e3 * driver['ray']:.2f} ms"),
        ("of it the store", f"{1e3 * np.median([turn['store'] for turn in store]):.2f} ms"),
        ("finding a finished task in the store", f"{1e3 * np.median([turn['finding'] for turn in store]):.2f} ms"),
    ]
    ratios = np.divide(results["short"]["ray"], results["short"]["local"])
    rows.append(("the same tasks on Ray's workers, to the local executor's", f"{np.median(ratios):.2f}"))
    lines = ["| CPU time | |", "|---|---|", *(f"| {what} | {cost} |" for what, cost in rows)]
    versions = results["versions"]
    load = " and ".join(f"{average:.1f}" for average in (results["load"], results["load_after"]))
    lines += [
        "",
        f"{results['cpu']}, {results['cores']} cores, load average {load} before and after; Python packages: ",
    ]
    lines[-1] += ", ".join(f"{name} {number}" for name, number in versions.items()) + "."
    return "\n".join(lines)


def sizes_table(results: dict[str, Any]) -> str:
    """How long the study takes: tasks drawn from those measured, each given to the worker that is free first."""
    durations = np.random.default_rng(0).choice(results["seconds"], results["tasks"])
    collecting = results["collecting"]
    before = sum(results["prepare"].values()) + results["start"]
    heads = ["machines", "workers", "time", "before the first task", "tasks", "workers at work", "limited by"]
    rows = []
    for machines in MACHINES:
        workers = machines * CORES
        driver = results["tasks"] * _driver_seconds(results)["local" if machines == 1 else "ray"]
        working = _schedule(durations, workers)
        running = max(working, driver)
        first = before + _schedule(np.array(collecting), workers)
        total = first + running
        cells = [
            f"{machines}",
            f"{workers:,}",
            duration(total),
            f"{first:.0f} s",
            f"{shorten(results['tasks'] / total)} per s",
            f"{100 * durations.sum() / (workers * total):.0f} %",
            "the workers" if working > driver else "the driver",
            duration(before + sum(collecting) + running),
        ]
        rows.append(cells)
    return table([*heads, "observations one after the other"], rows)


def _driver_seconds(results: dict[str, Any]) -> dict[str, Any]:
    """Per task, by executor."""
    return {name: np.median([turn["all"] for turn in turns]) for name, turns in results["driver"].items()}


def _schedule(durations: np.ndarray[Any, Any], workers: int) -> float:
    """When the last of so many workers is done, each taking the next task as soon as it is free."""
    free = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(free, free[0] + float(seconds))
    return max(free)


def _span(value: float, error: float) -> str:
    return f"{value:.2f} [{value - error:.2f} … {value + error:.2f}]"


TABLES = {"costs": costs_table, "sizes": sizes_table}


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of published actors.")] = Path(),
    sample: Annotated[int, typer.Option(help="Tasks to run.", min=SHORT)] = 100,
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the tables again.")] = False,
) -> None:
    if not redraw:
        torch.set_num_threads(1)
        write_atomically(RESULTS, json.dumps(measure(folder, sample), indent=1).encode())
    results = json.loads(RESULTS.read_text())
    for name, draw in TABLES.items():
        fill(PAGE, name, draw(results))


if __name__ == "__main__":
    typer.run(main)
