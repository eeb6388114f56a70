"""`snnkern bench`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snnkern.cli import options
from snnkern.errors import check_number
from snnkern.kernels.neurons import NEURON_NAMES
from snnkern.limits import LEAST_SECONDS, MOST_BATCH, MOST_SECONDS, MOST_THREADS

if TYPE_CHECKING:
    from snnkern.analysis.summaries import BenchSummary


def bench_command(
    policy: Annotated[str, options.POLICY],
    neuron: options.Neurons = None,
    timesteps: options.Timesteps = None,
    levels: options.Levels = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="max (default), percentile or percentile:P of the activations.")
    ] = None,
    env: options.Env = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    observations: options.Observations = None,
    action_scale: options.Scale = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", help="Rows that a decision is for, one or several (default 1,16,256,1024)."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", help="For batches above 1: one or several (default 1 and all cores).")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long it may measure, in all.")] = 120,
    output: options.Output = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw times and ratios (.png).")] = None,
    as_json: options.Json = False,
) -> None:
    """Time decisions of an actor's spiking versions beside the dense actor.

    All are timed in rounds, in one process, on observations that the dense actor collects in its environment (--env) or
    that you give (--observations): snn.act and snn(tensor), the dense actor in PyTorch, NumPy and ONNX Runtime (if it
    is installed), and the published Python loop. A spiking actor's file is measured as it is. Interrupted, it shows
    what it has measured.

    Examples:

    * snnkern bench td3-hopper
    * snnkern bench snn.safetensors --observations observations.npy --batch 1,64 --seconds 20
    """
    from snnkern.analysis import latency
    from snnkern.analysis.latency_summary import summarize_benchmark
    from snnkern.control.timing import busy, machine
    from snnkern.conversion.rules import parse_of_activations
    from snnkern.files import to_json, write_atomically
    from snnkern.policies.loading import load_policy
    from snnkern.policies.spiking import SpikingActor, dense_actor
    from snnkern.report.latency_figures import latency_figure
    from snnkern.report.latency_tables import print_benchmark
    from snnkern.report.style import check_drawing, write_figure
    from snnkern.studies.settings import grid

    batches = latency.BATCHES if batch is None else options.parse_counts("--batch", batch, MOST_BATCH)
    counts = (
        [*dict.fromkeys([1, options.cores()])]
        if threads is None
        else options.parse_counts("--threads", threads, MOST_THREADS)
    )
    check_number("--seconds", seconds, LEAST_SECONDS, MOST_SECONDS)
    rule = parse_of_activations("max" if calibration is None else calibration)
    for file in (output, figure):
        if file:
            options.check_output(file, policy, observations)
    if figure:
        check_drawing(figure)
    loaded = load_policy(policy, action_scale=action_scale)
    options.note_how_it_was_read(loaded)
    if isinstance(loaded, SpikingActor):
        given = {"--neuron": neuron, "--timesteps": timesteps, "--levels": levels, "--calibration": calibration}
        options.refuse(given, f"{policy} is a spiking actor already, and is measured as it is")
        settings = []
    else:
        settings = grid(
            NEURON_NAMES if neuron is None else options.parse_list("--neuron", neuron, str),
            [4, 8] if timesteps is None else options.parse_list("--timesteps", timesteps, int),
            levels=levels,
            actor=loaded,
            calibration=rule,
        )
    data = options.load_observations(dense_actor(loaded), observations, env, steps, seed)
    if warning := busy(machine(())):
        print(f"Warning: {warning}.", file=sys.stderr)
    with _seconds_left(seconds) as report:
        result = latency.run(
            loaded,
            data,
            settings,
            calibration=rule,
            batches=batches,
            threads=counts,
            seconds=seconds,
            progress=report,
        )
    summary: BenchSummary = {"actor": policy, "observations": len(data), **summarize_benchmark(result)}
    if output:
        write_atomically(output, to_json(summary, indent=1))
    if figure:
        write_figure(latency_figure(summary, f"{policy}, {'-'.join(map(str, result.widths))}"), figure)
    options.print_json(summary) if as_json else print_benchmark(summary)
    if result.interrupted:
        raise KeyboardInterrupt


@contextmanager
def _seconds_left(seconds: float) -> Iterator[Callable[[float], None]]:
    """A bar of time on standard error; drawn between rounds, not by a thread of its own, which rounds would feel."""
    from rich.progress import BarColumn, Progress, TextColumn

    from snnkern.report.terminal import console

    columns = (TextColumn("measuring"), BarColumn(), TextColumn("{task.remaining:.0f} s left"))
    drawn = -math.inf
    with Progress(*columns, console=console(stderr=True), auto_refresh=False) as progress:
        bar = progress.add_task("", total=seconds)

        def report(passed: float) -> None:
            nonlocal drawn
            if passed - drawn > 0.5 or passed > seconds:
                drawn = passed
                progress.update(bar, completed=min(passed, seconds), refresh=True)

        yield report
