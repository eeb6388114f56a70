"""Converts one actor to every neuron at several T, and draws the return of each against its spikes."""

from pathlib import Path

import typer
from matplotlib.figure import Figure
from rich.progress import track
from snnkern.figures import NEURON_STYLES, write_figure

import snnkern


def main(name: str = "td3-walker2d", steps: int = 10_000, episodes: int = 10, output: Path = Path("neurons.png")):
    """Compare IF, SNM, MT and DC neurons on the actor NAME."""
    snnkern.files.check_writable(output)
    actor = snnkern.load_actor(name)
    environment = snnkern.environments.named_by(actor)
    observations = snnkern.collect(actor, environment, steps)
    dense = snnkern.evaluate(actor, environment, episodes=episodes)

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(100, color="0.7", linewidth=0.8)
    for neuron in track(("if", "snm", "mt", "dc"), "neurons"):
        points = []
        for timesteps in (2, 4, 8, 16):
            snn = snnkern.convert(actor, observations, neuron=neuron, timesteps=timesteps)
            result = snnkern.evaluate(snn, environment, episodes=episodes)
            points.append((sum(result.spikes), 100 * result.ratio(dense).value))
        axes.plot(
            *zip(*points, strict=True), **NEURON_STYLES[neuron]._asdict(), label=f"{neuron.upper()}, T = 2, 4, 8, 16"
        )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="spikes per decision", ylabel="return, % of the dense one", title=f"{name} in {environment}")
    axes.legend()
    write_figure(figure, output)


if __name__ == "__main__":
    typer.run(main)
