"""`snnkern analyze`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from snnkern.cli import options
from snnkern.errors import require


def analyze_command(
    policy: Annotated[str, options.POLICY],
    neuron: Annotated[str | None, typer.Option("--neuron", help="if, snm, mt or dc (default if).")] = None,
    timesteps: Annotated[
        int | None, typer.Option("--timesteps", "-T", help="T, simulation steps per decision (default 8).")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="α of CRPI, to compare with none (default 0.2).")
    ] = None,
    memory: Annotated[float | None, typer.Option("--memory", help="μ, how much of the old carry stays.")] = None,
    levels: options.Levels = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="As for convert; default auto.")] = None,
    env: options.Env = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    episodes: Annotated[int, options.EPISODES_SIDE_BY_SIDE] = 20,
    episode_seed: Annotated[int, options.EPISODE_SEED] = 1000,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for analysis.json and the figures; made where missing.")
    ] = Path("analysis"),
    action_scale: options.Scale = None,
    backend: options.Backend = "auto",
    as_json: options.Json = False,
) -> None:
    """Find out where a conversion loses return: error amplification, as the CRPI paper analyses it.

    Runs the dense actor and its spiking version, without and with CRPI, and asks each what it would do in the states
    that the other visits; measures errors over time, how runs started alike part, how far the states shift, and the
    residuals inside the layers. Writes analysis.json and figures (PNG and PDF) of returns, errors, states, residuals
    and a spike raster. A spiking actor's file is analysed as it is.

    Examples:

    * snnkern analyze td3-halfcheetah --neuron if --timesteps 8 --alpha 0.2 --output cheetah
    * snnkern analyze hopper.safetensors --episodes 50
    """
    from snnkern.analysis.amplification import LOW_FREQUENCY, analyze, check_plain
    from snnkern.analysis.summaries import AnalysisSummary
    from snnkern.control import environments
    from snnkern.control.collect import calibration_steps
    from snnkern.control.timing import machine
    from snnkern.conversion.convert import convert
    from snnkern.conversion.rules import parse_calibration
    from snnkern.files import make_folder, to_json, write_atomically
    from snnkern.policies.loading import load_policy
    from snnkern.policies.spiking import SpikingActor, corrected_actor, dense_actor
    from snnkern.report.analysis_figures import draw_analysis
    from snnkern.report.analysis_tables import print_analysis
    from snnkern.report.style import check_drawing
    from snnkern.report.terminal import say
    from snnkern.studies.settings import grid

    started = time.monotonic()
    check_drawing()
    require("scipy", "rl", "an analysis")
    loaded = load_policy(policy, action_scale=action_scale, backend=backend)
    options.note_how_it_was_read(loaded)
    check_plain(dense_actor(loaded))
    name = options.environment_of(loaded, env)
    environments.check(name, loaded)
    rule = parse_calibration("auto" if calibration is None else calibration)
    if isinstance(loaded, SpikingActor):
        wanted = {"--neuron": neuron, "--timesteps": timesteps, "--alpha": alpha, "--memory": memory}
        data = {"--calibration": calibration, "--steps": steps, "--seed": seed}
        options.refuse(
            {**wanted, "--levels": levels, **data}, f"{policy} is a spiking actor already, and is analysed as it is"
        )
        setting = loaded.dynamics
    else:
        (setting,) = grid(
            [neuron or "if"],
            [8 if timesteps is None else timesteps],
            [0.2 if alpha is None else alpha],
            [memory or 0.0],
            levels,
        )
    make_folder(output)
    if isinstance(loaded, SpikingActor):
        snn = loaded
    else:
        snn = convert(
            loaded, options.collect_observations(loaded, name, steps, seed), **vars(setting), calibration=rule
        )
    with options.progress_bars() as report:
        found = analyze(
            dense_actor(snn),
            name,
            setting,
            thresholds=snn.thresholds,
            corrected=corrected_actor(snn),
            episodes=episodes,
            seed=episode_seed,
            backend=backend,
            progress=report,
        )
    summary = AnalysisSummary(
        **{**vars(found), "dynamics": found.dynamics.to_dict()},
        actor=Path(policy).name,
        environment=name,
        calibration=snn.metadata.get("calibration", ""),
        calibration_steps=None if isinstance(loaded, SpikingActor) else steps or calibration_steps(loaded),
        calibration_seed=None if isinstance(loaded, SpikingActor) else seed or 0,
        low_frequency=LOW_FREQUENCY,
        machine=machine(options.PACKAGES),
        seconds=time.monotonic() - started,
    )
    write_atomically(output / "analysis.json", to_json(summary))
    files = draw_analysis(summary, output)
    if as_json:
        options.print_json(summary)
        return
    print_analysis(summary)
    say(f"\nWrote {output / 'analysis.json'} and {len(files)} figures beside it.")
