"""`snnkern sweep`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snnkern.cli import options
from snnkern.errors import Error, InputError
from snnkern.limits import MOST_EPISODES
from snnkern.text import count, duration, printable

if TYPE_CHECKING:
    from snnkern.control.records import Record
    from snnkern.studies.estimate import RemainingTime
    from snnkern.studies.executors import Executor
    from snnkern.studies.store import Store
    from snnkern.studies.study import Study, Task

_GRIDS = (".toml", ".json")
_EXECUTORS = ("local", "ray")


def sweep_command(
    actors: Annotated[
        list[str], typer.Argument(help="A grid file (.toml or .json), or actors: zoo names or checkpoints.")
    ],
    env: Annotated[
        str | None,
        typer.Option("--env", "--environment", help="Environments, every actor in each (default: the actor's own)."),
    ] = None,
    neuron: Annotated[str | None, typer.Option("--neuron", help="Default if,snm,mt,dc.")] = None,
    timesteps: Annotated[str | None, typer.Option("--timesteps", "-T", help="T, default 2,4,8.")] = None,
    alpha: Annotated[str | None, typer.Option("--alpha", help="α of CRPI, default auto.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="μ, default 0.")] = None,
    levels: options.Levels = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="As snnkern convert takes it, default auto.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Seeds of first episodes, default 1000; a task for each.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", help="Episodes of a task (default 10).", min=1, max=MOST_EPISODES)
    ] = None,
    dense_episodes: Annotated[
        int | None,
        typer.Option(
            "--dense-episodes", help="Episodes of the dense actor's (default: as many).", min=1, max=MOST_EPISODES
        ),
    ] = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where a grid's checkpoints are (default: beside the grid).")
    ] = None,
    store: Annotated[
        Path, typer.Option("--store", help="Folder that keeps finished tasks; they are not run again.")
    ] = Path("sweep"),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all results of this grid to one file (.jsonl).")
    ] = None,
    workers: options.Workers = None,
    executor: Annotated[
        str,
        typer.Option("--executor", help="Where tasks run: local, processes on this machine; or ray, a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Head of the Ray cluster, host:port, or auto (default: Ray on this machine alone)."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to do, and how long.")] = False,
    backend: options.Backend = "auto",
    as_json: options.Json = False,
) -> None:
    """Run a grid of actors, environments, neurons, T, α, μ, calibrations and seeds.

    Lists are separated by commas. A grid file says the same and more (docs/report.md); options go before what it says.
    Every finished task is kept in the store at once: interrupted, or killed, the same command resumes.
    `snnkern report` draws the results.

    Examples:

    * snnkern sweep td3-halfcheetah td3-hopper --neuron if,dc -T 2,4,8 --alpha 0,0.2 --dry-run
    * snnkern sweep grid.toml --folder actors --store results --workers 16
    * snnkern sweep grid.toml --store results --executor ray --address head:6379
    """
    from snnkern.control import environments
    from snnkern.report.columns import POINT_COLUMNS, to_entry
    from snnkern.report.tables import print_collection
    from snnkern.report.terminal import say
    from snnkern.studies.estimate import RemainingTime
    from snnkern.studies.grids import read_study
    from snnkern.studies.results import collect_results
    from snnkern.studies.store import Store, write_records
    from snnkern.studies.study import found_in

    started = time.monotonic()
    _check_executor(executor, address)
    file = Path(actors[0]) if Path(actors[0]).suffix in _GRIDS else None
    if file and len(actors) > 1:
        raise InputError(f"give one grid file or actors, got {' '.join(actors)}")
    if not file:
        options.refuse({"--folder": folder}, "it is where a grid's checkpoints are, and no grid file is given")
    study = read_study(
        file,
        {
            "actors": None if file else actors,
            "environments": _some("--env", env, environments.trusted),
            "neurons": _some("--neuron", neuron, str),
            "timesteps": _some("--timesteps", timesteps, int),
            "alphas": _some("--alpha", alpha, options.parse_number),
            "memories": _some("--memory", memory, float),
            "calibrations": _some("--calibration", calibration, str),
            "levels": levels,
            "seeds": _some("--seeds", seeds, int),
            "episodes": episodes,
            "dense_episodes": dense_episodes,
            "calibration_steps": steps,
            "calibration_seed": seed,
        },
        folder=folder if file else Path(),
        backend=backend,
    )
    if output:
        options.check_output(output, *actors)
    with _executor(executor, address, workers) as tasks_on:
        nothing_there = dry_run and not store.exists()
        records, left = ({}, study.tasks) if nothing_there else found_in(Store(store), study)
        estimate = RemainingTime(study, left, records)
        seconds = estimate.remaining(tasks_on.workers)
        parts = ", ".join(
            [
                count(len(study.subjects), "actor"),
                f"the dense one and {count(len(study.settings), 'setting')} each",
                count(len(study.seeds), "seed"),
                count(study.episodes, "episode"),
            ]
        )
        line = (
            f"{count(len(study.tasks), 'task')} ({parts}): {len(records):,} in {store}, {len(left):,} to run, "
            f"about {duration(seconds)} with {count(tasks_on.workers, 'worker')}"
        )
        print(printable(line), file=sys.stdout if dry_run and not as_json else sys.stderr)
        summary: dict[str, Any] = {
            "kind": "sweep",
            "store": str(store),
            "tasks": len(study.tasks),
            "found": len(records),
            "estimated_seconds": seconds,
        }
        if dry_run:
            if as_json:
                options.print_json(summary)
            return
        with redirect_stdout(sys.stderr):  # where Ray says that a machine has died
            records, failed = _run(study, Store(store), tasks_on, estimate, len(left))
    if output:
        write_records(list(records.values()), output)
    collection = collect_results(store.name, list(records.values())) if records else None
    if as_json:
        results = [] if collection is None else [to_entry(POINT_COLUMNS, point) for point in collection.points]
        summary |= {"ran": len(left) - len(failed), "failed": len(failed), "seconds": time.monotonic() - started}
        options.print_json({**summary, "results": results})
    elif collection:
        print_collection(collection)
        say(f"\nThe report: snnkern report {output or store}")
    if failed:
        task, error = next(iter(failed.items()))
        name = study.subjects[task.subject].name
        setting = "dense" if task.setting is None else f"{task.setting.neuron.label}, T = {task.setting.timesteps}"
        raise Error(
            f"{len(failed)} of {len(study.tasks)} tasks failed, the first of them {name}, {setting}, seed {task.seed}: "
            f"{error}; the others are kept, and the same command runs these again"
        )


def _check_executor(name: str, address: str | None) -> None:
    if name not in _EXECUTORS:
        raise InputError(f"--executor is {' or '.join(_EXECUTORS)}, got {name!r}")
    if name != "ray":
        options.refuse({"--address": address}, "it is a Ray cluster's, and --executor ray is not given")


@contextmanager
def _executor(name: str, address: str | None, workers: int | None) -> Iterator[Executor]:
    """Where tasks run."""
    from snnkern.contrib.ray import RayExecutor
    from snnkern.studies.executors import LocalExecutor

    if name == "local":
        yield LocalExecutor(workers or options.cores())
        return
    with RayExecutor(address, workers if address else workers or options.cores()) as executor:
        yield executor


def _run(
    study: Study, store: Store, executor: Executor, estimate: RemainingTime, tasks: int
) -> tuple[dict[Task, Record], dict[Task, Exception]]:
    """Runs what is left under a bar that says how long it will still take."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from snnkern.report.terminal import console
    from snnkern.studies.study import run_study

    columns = (
        TextColumn("tasks"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console(stderr=True)) as progress:
        bar = progress.add_task("", total=tasks, left="")

        def show_time() -> None:
            remaining = estimate.remaining(executor.workers)
            progress.update(bar, left=f"about {duration(remaining)} left" if remaining else "")

        def collected(done: int, total: int) -> None:
            if done < total:
                progress.update(bar, left=f"collecting observations: {done} of {total} actors")
            else:
                show_time()

        def finished(task: Task, record: Record) -> None:
            estimate.finished(task, record)
            progress.advance(bar)
            show_time()

        return run_study(study, store, executor, collected=collected, finished=finished)


def _some(option: str, text: str | None, convert: Callable[[str], Any]) -> list[Any] | None:
    return None if text is None else options.parse_list(option, text, convert)
