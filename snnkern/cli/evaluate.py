"""`snnkern evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snnkern.cli import options
from snnkern.errors import InputError
from snnkern.text import count


def evaluate_command(
    policy: Annotated[str, options.POLICY],
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
    levels: options.Levels = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="With --neuron: as snnkern convert takes it (default auto).")
    ] = None,
    env: options.Env = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    episodes: Annotated[int, options.EPISODES] = 10,
    episode_seed: Annotated[int, options.EPISODE_SEED] = 1000,
    store: Annotated[
        Path | None, typer.Option("--store", help="Folder that keeps finished settings; they are not run again.")
    ] = None,
    workers: options.Workers = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw performance ratio against T (.png).")] = None,
    action_scale: options.Scale = None,
    activation: options.Activation = None,
    vec_normalize: options.VecNormalize = None,
    backend: options.Backend = "auto",
    as_json: options.Json = False,
) -> None:
    """Run a policy in its environment and report returns.

    A dense actor or a converted one is run as it is. With --neuron, a dense actor is converted to every combination of
    neuron, T, α and μ, and all of them are compared with it.

    Examples:

    * snnkern evaluate sac-hopper
    * snnkern evaluate td3-walker2d --neuron if,snm,mt,dc --timesteps 4,8 --alpha 0,0.2 --store results
    """
    from snnkern.control.evaluation import evaluate
    from snnkern.conversion.rules import parse_calibration
    from snnkern.policies.actor import Actor
    from snnkern.policies.loading import load_policy
    from snnkern.policies.spiking import SpikingActor
    from snnkern.report.columns import summarize_evaluation, summarize_sweep, sweep_rows
    from snnkern.report.performance_figures import performance_figure
    from snnkern.report.style import check_drawing
    from snnkern.report.tables import print_evaluation, print_sweep
    from snnkern.studies.settings import grid
    from snnkern.studies.study import sweep

    reading = {
        "action_scale": action_scale,
        "activation": activation,
        "vec_normalize": options.parse_normalization(vec_normalize),
    }
    loaded = load_policy(policy, backend=backend, **reading)
    options.note_how_it_was_read(loaded)
    name = options.environment_of(loaded, env)
    if neuron is None:
        options.refuse(
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
        with options.progress_bars() as report:
            result = evaluate(
                loaded,
                name,
                episodes=episodes,
                seed=episode_seed,
                progress=options.episodes_of(report, loaded, name, episodes),
            )
        if not as_json:
            print_evaluation(policy, name, result)
            return
        summary = {"policy": policy, "environment": name, **summarize_evaluation(result)}
        if isinstance(loaded, SpikingActor):
            summary |= {**loaded.dynamics.to_dict(), "spikes_per_decision_per_layer": list(result.spikes)}
        options.print_json(summary)
        return

    if not isinstance(loaded, Actor):
        raise InputError(f"{policy} is a spiking actor already: --neuron converts a dense one")
    rule = parse_calibration("auto" if calibration is None else calibration)
    if figure:
        check_drawing(figure)
        options.check_output(figure, policy)
    settings = grid(
        options.parse_list("--neuron", neuron, str),
        options.parse_list("--timesteps", "8" if timesteps is None else timesteps, int),
        options.parse_list("--alpha", "auto" if alpha is None else alpha, options.parse_number),
        options.parse_list("--memory", "0" if memory is None else memory, float),
        levels,
        loaded,
        rule,
    )
    observations = options.collect_observations(loaded, name, steps, seed)
    seconds: float | None = None

    def estimate(left: float) -> None:
        nonlocal seconds
        seconds = left or None  # 0 where it is not known

    with options.progress_bars() as report:
        measured = sweep(
            loaded,
            name,
            settings,
            observations=observations,
            calibration=rule,
            episodes=episodes,
            seed=episode_seed,
            store=store,
            workers=workers or options.cores(),
            backend=backend,
            progress=lambda done, total: report(f"{count(episodes, 'episode')} per setting", done, total, seconds),
            estimate=estimate,
        )
    if as_json:
        options.print_json(
            {"actor": policy, "environment": name, "calibration": str(rule), **summarize_sweep(measured)}
        )
    else:
        print_sweep(f"{policy} in {name}", sweep_rows(measured), measured.dense.ratio_formula(measured.random))
    if figure:
        performance_figure(measured, figure, f"{policy} in {name}: {count(episodes, 'episode')} per point")
