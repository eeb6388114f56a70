"""`snnkern demo`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snnkern.cli import options
from snnkern.errors import InputError
from snnkern.kernels.neurons import NEURON_NAMES
from snnkern.text import count

if TYPE_CHECKING:
    from snnkern.control.timing import Contender
    from snnkern.report.columns import SweepRow
    from snnkern.studies.study import Sweep

TIMESTEPS = (2, 4, 8, 16)
ALPHAS = (0.0, 0.2)
_CALIBRATION_STEPS = 10_000  # a third of what `collect` gives: 32 settings are fitted
_TIMED_ON = 1_000
_ROUNDS = 10
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Demo:
    """What the demo measured and wrote.

    Attributes:
        sweep: returns of the dense actor and its spiking versions.
        rows: the same with times of decisions, for a table.
        summary: the content of `results`.
        results: the JSON file.
        figure: the PNG file.
    """

    sweep: Sweep
    rows: list[SweepRow]
    summary: dict[str, Any]
    results: Path
    figure: Path


def run_demo(
    name: str = "td3-halfcheetah",
    folder: str | Path = ".",
    *,
    episodes: int = 10,
    workers: int = 1,
    progress: Progress | None = None,
) -> Demo:
    """Measures a dense actor, converts it to every neuron at a few T, without and with CRPI, and runs them all.

    Writes `demo-results.json` and `demo.png`. An interrupted demo resumes from `demo-results.partial`,
    which is removed at the end.

    Args:
        name: an actor whose metadata names its environment.
        folder: where the files go.
        episodes: per setting.
        workers: processes that share the work.
        progress: called with what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: the actor's environment is not known, or the folder cannot be written to.
        MissingDependencyError: Gymnasium, MuJoCo or matplotlib is not installed.
    """
    import numpy as np

    from snnkern.control import environments
    from snnkern.control.collect import calibration_steps, collect
    from snnkern.control.timing import MOST, Contender, measure
    from snnkern.conversion.convert import convert
    from snnkern.files import check_writable, to_json, write_atomically
    from snnkern.policies.loading import load_actor
    from snnkern.report.columns import summarize_sweep, sweep_rows
    from snnkern.report.performance_figures import performance_figure
    from snnkern.report.style import check_drawing
    from snnkern.studies.settings import grid
    from snnkern.studies.study import sweep

    report = progress or (lambda task, done, total: None)
    folder = Path(folder)
    results, figure = folder / "demo-results.json", folder / "demo.png"
    check_writable(results)
    check_drawing()
    actor = load_actor(name)
    env = environments.named_by(actor)
    if not env:
        raise InputError(f"the metadata of {name!r} does not say its environment")

    steps = min(_CALIBRATION_STEPS, calibration_steps(actor))
    task = f"dense actor collects {steps:,} observations"
    observations = collect(actor, env, steps, seed=0, progress=lambda done: report(task, done, steps))
    settings = grid(NEURON_NAMES, TIMESTEPS, ALPHAS)
    store = folder / "demo-results.partial"
    measured = sweep(
        actor,
        env,
        settings,
        observations=observations,
        episodes=episodes,
        store=store,
        workers=workers,
        progress=lambda done, total: report(f"{count(episodes, 'episode')} per setting", done, total),
    )

    policies: dict[tuple[str, int] | None, Contender] = {None: Contender(actor.act)}
    timed = {(setting.neuron.name, setting.timesteps): setting for setting in settings}
    for done, (key, setting) in enumerate(timed.items()):
        report("conversions to time", done, len(timed))
        # A time does not depend on what the fit is worth: fewer observations do.
        few = observations[:_TIMED_ON]
        snn = convert(actor, few, neuron=setting.neuron, timesteps=setting.timesteps, alpha=setting.alpha)
        policies[key] = Contender(snn.act)
    report("conversions to time", len(timed), len(timed))
    times = measure(
        policies, observations[:MOST], _ROUNDS, progress=lambda *counts: report("time per decision", *counts)
    )
    seconds = {key: float(np.median(durations)) for key, durations in times.items()}

    summary = {
        "actor": name,
        "environment": env,
        "calibration": f"auto over {steps} steps",
        **summarize_sweep(measured, seconds),
    }
    title = f"{name} in {env}, converted without training: {count(episodes, 'episode')} per point"
    performance_figure(measured, figure, title)
    write_atomically(results, to_json(summary, indent=1))
    shutil.rmtree(store, ignore_errors=True)  # another demo may have begun on it
    return Demo(measured, sweep_rows(measured, seconds), summary, results, figure)


def demo_command(
    actor: Annotated[str, options.ACTOR] = "td3-halfcheetah",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for demo-results.json and demo.png.")] = Path(),
    episodes: Annotated[int, options.EPISODES] = 10,
    workers: options.Workers = None,
    as_json: options.Json = False,
) -> None:
    """Do the main job on an actor that ships with the package.

    Measures the dense actor in MuJoCo, converts it to IF, SNM, MT and DC neurons at T = 2 … 16, without and with the
    residual carry (CRPI), runs them all, and writes demo-results.json and demo.png. Interrupted, it resumes.
    """
    from snnkern.report.tables import print_sweep
    from snnkern.report.terminal import say

    with options.progress_bars() as report:
        result = run_demo(actor, output, episodes=episodes, workers=workers or options.cores(), progress=report)
    if as_json:
        options.print_json(result.summary)
        return
    print_sweep(f"{actor} in {result.summary['environment']}", result.rows, result.summary["ratio"])
    say(f"\nWrote {result.results} and {result.figure}.")
