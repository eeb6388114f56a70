"""`snnkern energy`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snnkern.cli import options
from snnkern.kernels.neurons import NEURON_NAMES
from snnkern.limits import MOST_SEED, MOST_SIDE_BY_SIDE
from snnkern.text import count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from snnkern.policies.actor import Actor
    from snnkern.policies.spiking import SpikingActor


def energy_command(
    policy: Annotated[str, options.POLICY],
    neuron: options.Neurons = None,
    timesteps: options.Timesteps = None,
    alpha: Annotated[str | None, typer.Option("--alpha", help="α of CRPI, one or several (default auto).")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="μ, one or several (default 0).")] = None,
    levels: options.Levels = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help="As for convert; default auto.")] = None,
    env: options.Env = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    observations: options.Observations = None,
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
    output: options.Output = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw spikes and energy against T (.png).")] = None,
    action_scale: options.Scale = None,
    backend: options.Backend = "auto",
    as_json: options.Json = False,
) -> None:
    """Count what a decision costs: spikes, operations and energy of spiking versions and of the dense actor.

    Each spiking actor is counted along the episodes that it runs itself, or along observations that you give
    (--observations, a sequence). Energies are Horowitz's (ISSCC 2014) for 45 nm and 32-bit floats: 4.6 pJ per
    multiply-accumulate, 0.9 pJ per addition; docs/energy.md says what is counted.

    Examples:

    * snnkern energy td3-halfcheetah --neuron if,dc --timesteps 4,8,16
    * snnkern energy snn.safetensors --observations observations.npy --by-layer
    """
    import numpy as np

    from snnkern.analysis.amplification import DENSE
    from snnkern.analysis.energy import Energies, dense_cost, spiking_cost
    from snnkern.analysis.summaries import EnergySummary, SettingCost
    from snnkern.control.follow import follow
    from snnkern.control.timing import machine
    from snnkern.conversion.convert import convert
    from snnkern.conversion.rules import parse_calibration
    from snnkern.files import to_json, write_atomically
    from snnkern.policies.loading import load_policy
    from snnkern.policies.spiking import SpikingActor, dense_actor
    from snnkern.report.analysis_figures import energy_figure
    from snnkern.report.analysis_tables import print_energy, print_energy_of_layers
    from snnkern.report.style import check_drawing, write_figure
    from snnkern.studies.settings import grid

    energies = Energies(multiplication, addition, scaling, read)
    first = 1000 if episode_seed is None else episode_seed
    rule = parse_calibration("auto" if calibration is None else calibration)
    loaded = load_policy(policy, action_scale=action_scale, backend=backend)
    options.note_how_it_was_read(loaded)
    for file in (output, figure):
        if file:
            options.check_output(file, policy, observations)
    if figure:
        check_drawing(figure)
    if isinstance(loaded, SpikingActor):
        wanted = {"--neuron": neuron, "--timesteps": timesteps, "--alpha": alpha, "--memory": memory}
        options.refuse(
            {**wanted, "--levels": levels, "--calibration": calibration},
            f"{policy} is a spiking actor already, and is counted as it is",
        )
        if observations is None:
            options.refuse({"--steps": steps, "--seed": seed}, "a spiking actor needs no calibration")
        settings = []
    else:
        settings = grid(
            NEURON_NAMES if neuron is None else options.parse_list("--neuron", neuron, str),
            [4, 8] if timesteps is None else options.parse_list("--timesteps", timesteps, int),
            options.parse_list("--alpha", "auto" if alpha is None else alpha, options.parse_number),
            [0.0] if memory is None else options.parse_list("--memory", memory, float),
            levels,
            dense_actor(loaded),
            rule,
        )
    dense = dense_actor(loaded)
    data = None
    if observations is not None or not isinstance(loaded, SpikingActor):
        data = options.load_observations(dense, observations, env, steps, seed)
    name = ""
    if observations is None:
        name = options.environment_of(loaded, env)
    else:
        options.refuse({"--episodes": episodes, "--episode-seed": episode_seed}, "you give the observations yourself")
    spiking = [loaded] if isinstance(loaded, SpikingActor) else []
    if settings:
        assert data is not None
        spiking = [convert(dense, data, **vars(setting), calibration=rule, backend=backend) for setting in settings]

    def visited(
        of: Actor | SpikingActor, progress: Callable[[int, int], None]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if observations is not None:
            assert data is not None
            return data[:, None], np.ones((len(data), 1), dtype=bool)
        run = follow(DENSE, {DENSE: of}, name, episodes=episodes or 1, seed=first, progress=progress)
        return run.observations, run.running

    with options.progress_bars() as report:
        seen, running = visited(dense, partial(report, "the dense actor's decisions"))
        costs = []
        report("settings counted", 0, len(spiking))
        for index, snn in enumerate(spiking, 1):
            shown = partial(report, f"decisions of {snn.dynamics.neuron.label}, T = {snn.dynamics.timesteps}")
            costs.append((snn.dynamics, spiking_cost(snn, *visited(snn, shown))))
            report("settings counted", index, len(spiking))
    own = f"{count(episodes or 1, 'own episode')} in {name}"
    summary = EnergySummary(
        actor=Path(policy).name,
        environment=name,
        along=own if observations is None else f"the {count(len(seen), 'observation')} of {observations.name}",
        seed=first if observations is None else None,
        calibration=str(rule) if settings else "",
        machine=machine(options.PACKAGES),
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
        options.print_json(summary)
        return
    print_energy(summary)
    if by_layer:
        print_energy_of_layers(summary)
