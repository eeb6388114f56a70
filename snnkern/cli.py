"""The command line: every verb is one call into the library, its result as a table or as JSON."""

from __future__ import annotations

import functools
import math
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

import snnkern
from snnkern import benchmark, conversion, zoo
from snnkern._backends.choice import choices, rule
from snnkern.actors import Actor
from snnkern.benchmark_summary import summarize_benchmark
from snnkern.calibration import parse_calibration
from snnkern.checkpoints import load_actor
from snnkern.cli_analysis import analyze_command, energy_command
from snnkern.cli_options import (
    _ACTOR,
    _EPISODE_SEED,
    _EPISODES,
    _Activation,
    _Backend,
    _Calibration,
    _check_output,
    _collect,
    _cores,
    _counts,
    _Env,
    _environment,
    _Json,
    _Levels,
    _list,
    _normalization,
    _number,
    _Observations,
    _observations,
    _print_json,
    _progress,
    _refuse,
    _say_how_it_was_read,
    _Scale,
    _Seed,
    _Steps,
    _VecNormalize,
    _Workers,
)
from snnkern.cli_sweep import report_command, sweep_command
from snnkern.columns import summarize_evaluation, summarize_sweep, sweep_rows
from snnkern.demo import run_demo
from snnkern.errors import Error, InputError, InputWarning, check_number
from snnkern.evaluation import evaluate
from snnkern.figures import check_drawing, write_figure
from snnkern.files import to_json, write_atomically
from snnkern.latency_figures import latency_figure
from snnkern.latency_tables import print_benchmark
from snnkern.limits import LEAST_SECONDS, MOST_BATCH, MOST_SECONDS, MOST_THREADS
from snnkern.neurons import NEURON_NAMES
from snnkern.nn import SpikingActor
from snnkern.performance_figures import performance_figure
from snnkern.settings import grid
from snnkern.study import sweep
from snnkern.summaries import BenchSummary
from snnkern.tables import print_evaluation, print_sweep
from snnkern.terminal import accept_all_text, console, make_table, say, show, silence
from snnkern.text import count, printable
from snnkern.timing import busy, machine

# The base of every complaint about a command line, whether Typer brings its own Click or uses the real one.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

_INTERRUPTED = 130  # what a shell gives for a program that Ctrl-C has ended
_UNREAD = 1  # as Click has it
_LONGEST = 500  # characters of a complaint, which may quote what was given

app = typer.Typer(
    name="snnkern",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    epilog="Start with: snnkern demo",
)


def run(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        its exit code: 0; 2 for a user's mistake, or where output cannot be written; 130 after an interruption; 1 where
        nobody reads the output any more, as behind `| head`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = _shown(warnings.showwarning)
        return _run(arguments)


def _shown(otherwise: Callable[..., None]) -> Callable[..., None]:
    """How warnings are shown: those about what was given as one line, the others as before."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            print(f"Warning: {message}.", file=sys.stderr)
        else:
            otherwise(message, category, *where, **more)

    return show


def _run(arguments: list[str] | None) -> int:
    accept_all_text()
    try:
        code = app(arguments, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        if code == _INTERRUPTED:  # Typer may turn an interruption into this code by itself
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (Error, _CommandLineError) as error:
        return _complain(error.format_message() if hasattr(error, "format_message") else str(error))
    except MemoryError as error:
        return _complain(f"there is not enough memory for this: {error}")
    except (BrokenPipeError, SystemExit):  # the latter is how Click ends where nobody reads
        silence()
        return _UNREAD
    except OSError as error:
        if error.filename is not None:
            return _complain(f"cannot use {error.filename}: {error.strerror}")
        silence()  # it is standard output
        return _complain(f"cannot write the output: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        print("snnkern: interrupted; what the demo, bench, sweep or a --store has finished is kept", file=sys.stderr)
        return _INTERRUPTED


def _complain(message: str) -> int:
    """One line on standard error, and the exit code."""
    if message:
        print(f"snnkern: {printable(' '.join(message.split()), _LONGEST)}", file=sys.stderr)
    return 2


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"snnkern {snnkern.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_print_version)] = False,
) -> None:
    """Turn a trained continuous-control policy into a spiking network, without training, and run it."""


def demo_command(
    actor: Annotated[str, _ACTOR] = "td3-halfcheetah",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for demo-results.json and demo.png.")] = Path(),
    episodes: Annotated[int, _EPISODES] = 10,
    workers: _Workers = None,
    as_json: _Json = False,
) -> None:
    """Do the main job on an actor that ships with the package.

    Measures the dense actor in MuJoCo, converts it to IF, SNM, MT and DC neurons at T = 2 … 16, without and with the
    residual carry (CRPI), runs them all, and writes demo-results.json and demo.png. Interrupted, it resumes.
    """
    with _progress() as report:
        result = run_demo(actor, output, episodes=episodes, workers=workers or _cores(), progress=report)
    if as_json:
        _print_json(result.summary)
        return
    print_sweep(f"{actor} in {result.summary['environment']}", result.rows, result.summary["ratio"])
    say(f"\nWrote {result.results} and {result.figure}.")


def convert_command(
    actor: Annotated[str, _ACTOR],
    output: Annotated[Path, typer.Argument(help="Where the spiking actor goes (.safetensors).")],
    neuron: Annotated[str, typer.Option("--neuron", help="if, snm, mt or dc.")] = "mt",
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", help="T, simulation steps per decision.")] = 4,
    alpha: Annotated[
        str, typer.Option("--alpha", help="α of CRPI, 0 … 1; 0 is plain conversion; auto: as recommended.")
    ] = "auto",
    memory: Annotated[float, typer.Option("--memory", help="μ, how much of the old carry stays, 0 … 1.")] = 0.0,
    levels: _Levels = None,
    calibration: _Calibration = "auto",
    env: _Env = None,
    steps: _Steps = None,
    seed: _Seed = None,
    observations: _Observations = None,
    action_scale: _Scale = None,
    activation: _Activation = None,
    vec_normalize: _VecNormalize = None,
    as_json: _Json = False,
) -> None:
    """Convert a trained actor and save the spiking one.

    Thresholds come from the dense actor's activations, on observations that it collects in its environment (--env) or
    that you give (--observations). The file remembers the environment.

    Example: snnkern convert td3-halfcheetah snn.safetensors --neuron mt --timesteps 4
    """
    rule = parse_calibration(calibration)
    (setting,) = grid([neuron], [timesteps], [_number(alpha)], [memory], levels)
    _check_output(output, actor, observations)
    dense = load_actor(
        actor, action_scale=action_scale, activation=activation, vec_normalize=_normalization(vec_normalize)
    )
    _say_how_it_was_read(dense)
    data = _observations(dense, observations, env, steps, seed)
    snn = conversion.convert(dense, data, **vars(setting), calibration=rule)
    if env:
        snn.metadata["environment"] = env
    conversion.save(snn, output)
    dead = [int((threshold == 0).sum()) for threshold in snn.thresholds]
    if as_json:
        read = {key: snn.metadata.get(key) for key in ("environment", "activation", "vec_normalize")}
        numbers = {"observations": len(data), "silent_neurons": dead}
        _print_json({"output": str(output), **snn.dynamics.to_dict(), **numbers, **read})
        return
    widths = " + ".join(str(len(threshold)) for threshold in snn.thresholds)
    say(
        f"Wrote {output}: {setting.neuron.label}, T = {timesteps}, α = {snn.alpha:g}, {widths} neurons, "
        f"{sum(dead)} of them never active on {count(len(data), 'observation')}."
    )


def evaluate_command(
    policy: Annotated[str, typer.Argument(help="A zoo actor, a checkpoint, or what snnkern convert wrote.")],
    neuron: Annotated[
        str | None, typer.Option("--neuron", help="Convert a dense actor to these and compare, such as if,mt,dc.")
    ] = None,
    timesteps: Annotated[
        str | None, typer.Option("--timesteps", "-T", help="With --neuron: T, one or several, 4,8,16 (default 8).")
    ] = None,
    alpha: Annotated[
        str | None, typer.Option("--alpha", help="With --neuron: α of CRPI, one or several (default auto).")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="With --neuron: μ, one or several (default 0).")
    ] = None,
    levels: _Levels = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="With --neuron: as snnkern convert takes it (default auto).")
    ] = None,
    env: _Env = None,
    steps: _Steps = None,
    seed: _Seed = None,
    episodes: Annotated[int, _EPISODES] = 10,
    episode_seed: Annotated[int, _EPISODE_SEED] = 1000,
    store: Annotated[
        Path | None, typer.Option("--store", help="Folder that keeps finished settings; they are not run again.")
    ] = None,
    workers: _Workers = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw performance ratio against T (.png).")] = None,
    action_scale: _Scale = None,
    activation: _Activation = None,
    vec_normalize: _VecNormalize = None,
    backend: _Backend = "auto",
    as_json: _Json = False,
) -> None:
    """Run a policy in its environment and report returns.

    A dense actor or a converted one is run as it is. With --neuron, a dense actor is converted to every combination of
    neuron, T, α and μ, and all of them are compared with it.

    Examples:

    * snnkern evaluate sac-hopper
    * snnkern evaluate td3-walker2d --neuron if,snm,mt,dc --timesteps 4,8 --alpha 0,0.2 --store results
    """
    reading = {"action_scale": action_scale, "activation": activation, "vec_normalize": _normalization(vec_normalize)}
    loaded = conversion.load_policy(policy, backend=backend, **reading)
    _say_how_it_was_read(loaded)
    name = _environment(loaded, env)
    if neuron is None:
        _refuse(
            {
                "--timesteps": timesteps,
                "--alpha": alpha,
                "--memory": memory,
                "--levels": levels,
                "--calibration": calibration,
                "--steps": steps,
                "--seed": seed,
                "--store": store,
                "--workers": workers,
                "--figure": figure,
            },
            "it is for converting a dense actor: give --neuron too",
        )
        with _progress() as report:
            result = evaluate(
                loaded,
                name,
                episodes=episodes,
                seed=episode_seed,
                progress=lambda done: report(f"episodes in {name}", done, episodes),
            )
        if not as_json:
            print_evaluation(policy, name, result)
            return
        summary = {"policy": policy, "environment": name, **summarize_evaluation(result)}
        if isinstance(loaded, SpikingActor):
            summary |= {**loaded.dynamics.to_dict(), "spikes_per_decision_per_layer": list(result.spikes)}
        _print_json(summary)
        return

    if not isinstance(loaded, Actor):
        raise InputError(f"{policy} is a spiking actor already: --neuron converts a dense one")
    rule = parse_calibration("auto" if calibration is None else calibration)
    if figure:
        check_drawing(figure)
        _check_output(figure, policy)
    settings = grid(
        _list("--neuron", neuron, str),
        _list("--timesteps", "8" if timesteps is None else timesteps, int),
        _list("--alpha", "auto" if alpha is None else alpha, _number),
        _list("--memory", "0" if memory is None else memory, float),
        levels,
    )
    observations = _collect(loaded, name, steps, seed)
    with _progress() as report:
        measured = sweep(
            loaded,
            name,
            settings,
            observations=observations,
            calibration=rule,
            episodes=episodes,
            seed=episode_seed,
            store=store,
            workers=workers or _cores(),
            backend=backend,
            progress=lambda done, total: report(f"{count(episodes, 'episode')} per setting", done, total),
        )
    if as_json:
        _print_json({"actor": policy, "environment": name, "calibration": str(rule), **summarize_sweep(measured)})
    else:
        print_sweep(f"{policy} in {name}", sweep_rows(measured), measured.dense.ratio_formula(measured.random))
    if figure:
        performance_figure(measured, figure, f"{policy} in {name}: {count(episodes, 'episode')} per point")


def bench_command(
    policy: Annotated[str, typer.Argument(help="A zoo actor, a checkpoint, or what snnkern convert wrote.")],
    neuron: Annotated[str | None, typer.Option("--neuron", help="One or several (default if,snm,mt,dc).")] = None,
    timesteps: Annotated[str | None, typer.Option("--timesteps", "-T", help="T, one or several (default 4,8).")] = None,
    levels: _Levels = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="max (default), percentile or percentile:P of the activations.")
    ] = None,
    env: _Env = None,
    steps: _Steps = None,
    seed: _Seed = None,
    observations: _Observations = None,
    action_scale: _Scale = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", help="Rows that a decision is for, one or several (default 1,16,256,1024)."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option("--threads", help="For batches above 1: one or several (default 1 and all cores).")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long it may measure, in all.")] = 120,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write what --json prints to this file (.json) as well.")
    ] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw times and ratios (.png).")] = None,
    as_json: _Json = False,
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
    batches = benchmark.BATCHES if batch is None else _counts("--batch", batch, MOST_BATCH)
    counts = [*dict.fromkeys([1, _cores()])] if threads is None else _counts("--threads", threads, MOST_THREADS)
    check_number("--seconds", seconds, LEAST_SECONDS, MOST_SECONDS)
    rule = parse_calibration("max" if calibration is None else calibration)
    settings = grid(
        NEURON_NAMES if neuron is None else _list("--neuron", neuron, str),
        [4, 8] if timesteps is None else _list("--timesteps", timesteps, int),
        levels=levels,
    )
    for file in (output, figure):
        if file:
            _check_output(file, policy, observations)
    if figure:
        check_drawing(figure)
    loaded = conversion.load_policy(policy, action_scale=action_scale)
    _say_how_it_was_read(loaded)
    if isinstance(loaded, SpikingActor):
        given = {"--neuron": neuron, "--timesteps": timesteps, "--levels": levels, "--calibration": calibration}
        _refuse(given, f"{policy} is a spiking actor already, and is measured as it is")
        settings = []
    data = _observations(conversion.dense_actor(loaded), observations, env, steps, seed)
    if warning := busy(machine(())):
        print(f"Warning: {warning}.", file=sys.stderr)
    with _seconds_left(seconds) as report:
        result = benchmark.run(
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
    _print_json(summary) if as_json else print_benchmark(summary)
    if result.interrupted:
        raise KeyboardInterrupt


def info_command(as_json: _Json = False) -> None:
    """Show versions, backends and why one is missing, and the actors that ship with the package."""
    statuses = snnkern.backends()
    facts = {
        "snnkern": snnkern.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backends": [{"name": s.name, "available": s.available, "detail": s.detail} for s in statuses],
        "auto": [choice._asdict() for choice in choices()],
        "rule": rule(),
        "zoo": {name: load_actor(name).metadata for name in zoo.names()},
    }
    if as_json:
        _print_json(facts)
        return
    say(f"snnkern {facts['snnkern']}, Python {facts['python']}, torch {facts['torch']}\n")
    backends = make_table("What computes, in order of preference", "backend", "available", "", words=3, framed=True)
    for status in statuses:
        backends.add_row(status.name, "yes" if status.available else Text("no", style="red"), status.detail)
    show(backends)
    title = '\nWhat backend="auto" takes here'
    taken = make_table(title, "what", "computed by", "passed over", words=3, framed=True)
    for choice in choices():
        passed_over = "; ".join(f"{name}: {why}" for name, why in choice.passed_over.items())
        taken.add_row(choice.what, choice.backend, passed_over)
    show(taken)
    say(rule(), wrapped=True)
    title = "\nActors in the zoo"
    actors = make_table(title, "actor", "algorithm", "environment", "return", words=4, framed=True)
    for name in zoo.names():
        metadata = load_actor(name).metadata
        spread = f"{float(metadata['return_mean']):,.0f} ± {float(metadata['return_std']):,.0f}"
        actors.add_row(name, metadata["algorithm"], metadata["environment"], spread)
    show(actors)


@contextmanager
def _seconds_left(seconds: float) -> Iterator[Callable[[float], None]]:
    """A bar of time on standard error; drawn between turns, not by a thread of its own, which turns would feel."""
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


def _in_one_thread(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose products are computed in one thread: they are small, and threads of several processes collide."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        torch.set_num_threads(1)
        verb(*arguments, **options)

    return run


for _name, _verb in {
    "demo": demo_command,
    "convert": convert_command,
    "evaluate": evaluate_command,
    "bench": bench_command,
    "sweep": sweep_command,
    "analyze": analyze_command,
    "energy": energy_command,
    "report": report_command,
    "info": info_command,
}.items():
    app.command(name=_name)(_in_one_thread(_verb))
