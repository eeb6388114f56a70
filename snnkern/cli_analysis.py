"""The verbs that look into a conversion: `snnkern analyze` and `snnkern energy`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from snnkern import conversion, environments
from snnkern.actors import Actor
from snnkern.analysis import DENSE, LOW_FREQUENCY, analyze
from snnkern.analysis_figures import draw_analysis, energy_figure
from snnkern.analysis_tables import print_analysis, print_energy, print_energy_of_layers
from snnkern.calibration import CALIBRATION_STEPS, parse_calibration
from snnkern.cli_options import (
    _EPISODE_SEED,
    _EPISODES_SIDE_BY_SIDE,
    _Backend,
    _check_output,
    _collect,
    _Env,
    _environment,
    _Json,
    _Levels,
    _list,
    _make_folder,
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
)
from snnkern.energy import Energies, dense_cost, spiking_cost
from snnkern.errors import require
from snnkern.figures import check_drawing, write_figure
from snnkern.files import to_json, write_atomically
from snnkern.limits import MOST_SEED, MOST_SIDE_BY_SIDE
from snnkern.neurons import NEURON_NAMES
from snnkern.nn import SpikingActor
from snnkern.settings import grid
from snnkern.summaries import AnalysisSummary, EnergySummary, SettingCost
from snnkern.terminal import say
from snnkern.text import count
from snnkern.timing import machine
from snnkern.trajectories import follow

_PACKAGES = ("snnkern", "torch", "numpy", "scipy", "gymnasium", "mujoco")


def analyze_command(
    policy: Annotated[str, typer.Argument(help="A zoo actor, a checkpoint, or what snnkern convert wrote.")],
    neuron: Annotated[str | None, typer.Option("--neuron", help="if, snm, mt or dc (default if).")] = None,
    timesteps: Annotated[
        int | None, typer.Option("--timesteps", "-T", help="T, simulation steps per decision (default 8).")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="α of CRPI, to compare with none (default 0.2).")
    ] = None,
    memory: Annotated[float | None, typer.Option("--memory", help="μ, how much of the old carry stays.")] = None,
    levels: _Levels = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="As for convert; default auto.")] = None,
    env: _Env = None,
    steps: _Steps = None,
    seed: _Seed = None,
    episodes: Annotated[int, _EPISODES_SIDE_BY_SIDE] = 20,
    episode_seed: Annotated[int, _EPISODE_SEED] = 1000,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for analysis.json and the figures; made where missing.")
    ] = Path("analysis"),
    action_scale: _Scale = None,
    backend: _Backend = "auto",
    as_json: _Json = False,
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
    started = time.monotonic()
    check_drawing()
    require("scipy", "rl", "an analysis")
    loaded = conversion.load_policy(policy, action_scale=action_scale, backend=backend)
    _say_how_it_was_read(loaded)
    name = _environment(loaded, env)
    environment = environments.make(name)
    environments.check_spaces(loaded.interface, environment.observation_space, environment.action_space)
    environment.close()
    rule = parse_calibration("auto" if calibration is None else calibration)
    if isinstance(loaded, SpikingActor):
        wanted = {"--neuron": neuron, "--timesteps": timesteps, "--alpha": alpha, "--memory": memory}
        data = {"--calibration": calibration, "--steps": steps, "--seed": seed}
        _refuse(
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
    _make_folder(output)
    if isinstance(loaded, SpikingActor):
        snn = loaded
    else:
        snn = conversion.convert(loaded, _collect(loaded, name, steps, seed), **vars(setting), calibration=rule)
    with _progress() as report:
        found = analyze(
            conversion.dense_actor(snn),
            name,
            setting,
            thresholds=snn.thresholds,
            corrected=conversion.corrected_actor(snn),
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
        calibration_steps=None if isinstance(loaded, SpikingActor) else steps or CALIBRATION_STEPS,
        calibration_seed=None if isinstance(loaded, SpikingActor) else seed or 0,
        low_frequency=LOW_FREQUENCY,
        machine=machine(_PACKAGES),
        seconds=time.monotonic() - started,
    )
    write_atomically(output / "analysis.json", to_json(summary))
    files = draw_analysis(summary, output)
    if as_json:
        _print_json(summary)
        return
    print_analysis(summary)
    say(f"\nWrote {output / 'analysis.json'} and {len(files)} figures beside it.")


def energy_command(
    policy: Annotated[str, typer.Argument(help="A zoo actor, a checkpoint, or what snnkern convert wrote.")],
    neuron: Annotated[str | None, typer.Option("--neuron", help="One or several (default if,snm,mt,dc).")] = None,
    timesteps: Annotated[str | None, typer.Option("--timesteps", "-T", help="T, one or several (default 4,8).")] = None,
    alpha: Annotated[str | None, typer.Option("--alpha", help="α of CRPI, one or several (default auto).")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="μ, one or several (default 0).")] = None,
    levels: _Levels = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="As for convert; default auto.")] = None,
    env: _Env = None,
    steps: _Steps = None,
    seed: _Seed = None,
    observations: _Observations = None,
    episodes: Annotated[
        int | None,
        typer.Option("--episodes", help="Own episodes to count in, at once (default 1).", min=1, max=MOST_SIDE_BY_SIDE),
    ] = None,
    episode_seed: Annotated[
        int | None,
        typer.Option("--episode-seed", help="Seed of the first of them (default 1000).", min=0, max=MOST_SEED),
    ] = None,
    multiplication: Annotated[float, typer.Option("--multiplication", help="pJ per multiplication.")] = 3.7,
    addition: Annotated[float, typer.Option("--addition", help="pJ per addition.")] = 0.9,
    scaling: Annotated[
        float, typer.Option("--scaling", help="pJ per multiplication by a power of two (MT, DC); less for a shift.")
    ] = 3.7,
    read: Annotated[float, typer.Option("--read", help="pJ per parameter read.")] = 0.0,
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Show every layer as well.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write what --json prints to this file (.json) as well.")
    ] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw spikes and energy against T (.png).")] = None,
    action_scale: _Scale = None,
    backend: _Backend = "auto",
    as_json: _Json = False,
) -> None:
    """Count what a decision costs: spikes, operations and energy of spiking versions and of the dense actor.

    Each spiking actor is counted along the episodes that it runs itself, or along observations that you give
    (--observations, a sequence). Energies are Horowitz's (ISSCC 2014) for 45 nm and 32-bit floats: 4.6 pJ per
    multiply-accumulate, 0.9 pJ per addition; docs/energy.md says what is counted.

    Examples:

    * snnkern energy td3-halfcheetah --neuron if,dc --timesteps 4,8,16
    * snnkern energy snn.safetensors --observations observations.npy --by-layer
    """
    energies = Energies(multiplication, addition, scaling, read)
    rule = parse_calibration("auto" if calibration is None else calibration)
    loaded = conversion.load_policy(policy, action_scale=action_scale, backend=backend)
    _say_how_it_was_read(loaded)
    for file in (output, figure):
        if file:
            _check_output(file, policy, observations)
    if figure:
        check_drawing(figure)
    if isinstance(loaded, SpikingActor):
        wanted = {"--neuron": neuron, "--timesteps": timesteps, "--alpha": alpha, "--memory": memory}
        _refuse(
            {**wanted, "--levels": levels, "--calibration": calibration},
            f"{policy} is a spiking actor already, and is counted as it is",
        )
        if observations is None:
            _refuse({"--steps": steps, "--seed": seed}, "a spiking actor needs no calibration")
        settings = []
    else:
        settings = grid(
            NEURON_NAMES if neuron is None else _list("--neuron", neuron, str),
            [4, 8] if timesteps is None else _list("--timesteps", timesteps, int),
            _list("--alpha", "auto" if alpha is None else alpha, _number),
            [0.0] if memory is None else _list("--memory", memory, float),
            levels,
        )
    dense = conversion.dense_actor(loaded)
    data = None
    if observations is not None or not isinstance(loaded, SpikingActor):
        data = _observations(dense, observations, env, steps, seed)
    name = ""
    if observations is None:
        name = _environment(loaded, env)
    else:
        _refuse({"--episodes": episodes, "--episode-seed": episode_seed}, "you give the observations yourself")
    spiking = [loaded] if isinstance(loaded, SpikingActor) else []
    if settings:
        assert data is not None
        spiking = [
            conversion.convert(dense, data, **vars(setting), calibration=rule, backend=backend) for setting in settings
        ]

    def visited(of: Actor | SpikingActor) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if observations is not None:
            assert data is not None
            return data[:, None], np.ones((len(data), 1), dtype=bool)
        run = follow(DENSE, {DENSE: of}, name, episodes=episodes or 1, seed=episode_seed or 1000)
        return run.observations, run.running

    with _progress() as report:
        seen, running = visited(dense)
        costs = []
        for index, snn in enumerate(spiking):
            report("settings counted", index, len(spiking))
            costs.append((snn.dynamics, spiking_cost(snn, *visited(snn))))
        report("settings counted", len(spiking), len(spiking))
    own = f"{count(episodes or 1, 'own episode')} in {name}"
    summary = EnergySummary(
        actor=Path(policy).name,
        environment=name,
        along=own if observations is None else f"the {count(len(seen), 'observation')} of {observations.name}",
        seed=None if observations is not None else episode_seed or 1000,
        calibration=str(rule) if settings else "",
        machine=machine(_PACKAGES),
        picojoules=energies,
        dense=dense_cost(dense).summary(energies),
        dense_without_zeros=dense_cost(dense, seen[running]).summary(energies),
        results=[SettingCost(**setting.to_dict(), **vars(cost.summary(energies))) for setting, cost in costs],
    )
    if output:
        write_atomically(output, to_json(summary, indent=1))
    if figure:
        write_figure(energy_figure(summary), figure)
    if as_json:
        _print_json(summary)
        return
    print_energy(summary)
    if by_layer:
        print_energy_of_layers(summary)
