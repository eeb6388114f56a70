"""`snnkern convert`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from snnkern.cli import options
from snnkern.text import count


def convert_command(
    actor: Annotated[str, options.ACTOR],
    output: Annotated[Path, typer.Argument(help="Where the spiking actor goes (.safetensors).")],
    neuron: Annotated[str, typer.Option("--neuron", help="if, snm, mt or dc.")] = "mt",
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", help="T, simulation steps per decision.")] = 4,
    alpha: Annotated[
        str, typer.Option("--alpha", help="α of CRPI, 0 … 1; 0 is plain conversion; auto: as recommended.")
    ] = "auto",
    memory: Annotated[float, typer.Option("--memory", help="μ, how much of the old carry stays, 0 … 1.")] = 0.0,
    levels: options.Levels = None,
    calibration: options.Calibration = "auto",
    env: options.Env = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    observations: options.Observations = None,
    action_scale: options.Scale = None,
    activation: options.Activation = None,
    vec_normalize: options.VecNormalize = None,
    as_json: options.Json = False,
) -> None:
    """Convert a trained actor and save the spiking one.

    Thresholds come from the dense actor's activations, on observations that it collects in its environment (--env) or
    that you give (--observations). The file remembers the environment.

    Example: snnkern convert td3-halfcheetah snn.safetensors --neuron mt --timesteps 4
    """
    from snnkern.conversion.convert import convert
    from snnkern.conversion.rules import parse_calibration
    from snnkern.policies import storage
    from snnkern.policies.loading import load_actor
    from snnkern.report.terminal import say
    from snnkern.studies.settings import grid

    rule = parse_calibration(calibration)
    options.check_output(output, actor, observations)
    dense = load_actor(
        actor,
        action_scale=action_scale,
        activation=activation,
        vec_normalize=options.parse_normalization(vec_normalize),
    )
    options.note_how_it_was_read(dense)
    (setting,) = grid([neuron], [timesteps], [options.parse_number(alpha)], [memory], levels, dense, rule)
    data = options.load_observations(dense, observations, env, steps, seed)
    snn = convert(dense, data, **vars(setting), calibration=rule)
    if env:
        snn.metadata["environment"] = env
    storage.save(snn, output)
    neurons = [math.prod(layer.neuron_shape) for layer in snn.hidden]
    # A channel that is never active has a whole image of such neurons.
    dead = [
        int((layer.threshold == 0).sum()) * number // layer.threshold.numel()
        for layer, number in zip(snn.hidden, neurons, strict=True)
    ]
    if as_json:
        read = {key: snn.metadata.get(key) for key in ("environment", "activation", "vec_normalize", "objects")}
        numbers = {"observations": len(data), "silent_neurons": dead}
        options.print_json({"output": str(output), **snn.dynamics.to_dict(), **numbers, **read})
        return
    widths = " + ".join(map(str, neurons))
    say(
        f"Wrote {output}: {setting.neuron.label}, T = {timesteps}, α = {snn.alpha:g}, {widths} neurons, "
        f"{sum(dead)} of them never active on {count(len(data), 'observation')}."
    )
