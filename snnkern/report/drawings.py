"""Adds captions and alternative texts to the figures of analyses, costs and latencies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from snnkern.analysis.amplification import DENSE
from snnkern.analysis.statistics import Curve
from snnkern.analysis.summaries import AnalysisSummary, BenchSummary, EnergySummary
from snnkern.report.analysis_figures import FIGURES, energy_figure
from snnkern.report.latency_figures import latency_figure
from snnkern.report.sweep_figures import Drawing


def analysis_drawings(analysis: AnalysisSummary, name: str) -> list[Drawing]:
    """Lists the figures of an analysis."""
    means = {(entry.states, entry.actions): entry.mean.value for entry in analysis.returns}
    returns = "; ".join(
        f"{actions} in the states of {states}: {mean:,.0f}" for (states, actions), mean in means.items()
    )
    errors = "; ".join(
        f"{entry.actions} in {'dense' if entry.states == DENSE else 'its own'} states: "
        + ", ".join(f"{_at(entry.autocorrelation, lag)} at lag {lag}" for lag in (1, 5, 20))
        for entry in analysis.errors
    )
    shifts = "; ".join(f"{entry.states}: {entry.shift.average.value:.2f}" for entry in analysis.divergences)
    owing = "; ".join(
        f"{which}: " + ", ".join(f"{100 * layer.owing:.0f} % in layer {n}" for n, layer in enumerate(layers, 1))
        for which, layers in analysis.residuals.items()
    )
    raster = analysis.raster
    texts = {
        "returns": (
            "Whose states, whose actions",
            "Each group of bars is one policy’s states; each bar is what a policy’s actions earn in them. The loss is "
            "in the states where spiking actions earn as much in the dense actor’s states, and the dense actor’s as "
            "little in the spiking one’s. Whiskers are 95 % intervals.",
            f"Returns: {returns}.",
        ),
        "errors": (
            "Action errors and their autocorrelation",
            "Spiking minus dense action in the dense actor’s states (above) and in the spiking policy’s own (below): "
            "the first hundred errors of one action, the autocorrelation by lag, and the power by frequency. Errors "
            "that keep their sign add up; white ones cancel. Bands are 95 % intervals.",
            f"Autocorrelation of the errors: {errors}.",
        ),
        "states": (
            "How far the states shift",
            "How runs from the same seed part from the dense one (left; the dotted line is what two unrelated states "
            "are apart), and how far the distributions of states lie from the dense actor’s (right).",
            f"Distance between the distributions of states, in standard deviations: {shifts}.",
        ),
        "residuals": (
            "What the layers owe",
            "Distribution of the residual r, which CRPI carries on, at the end of decisions, in units of θ.",
            f"Neurons whose residual is not zero: {owing}.",
        ),
        "raster": (
            "A few decisions from the inside",
            "The neurons that spike most. Black strokes upwards are spikes, downwards spikes taken back; the grey line "
            "is the membrane potential; the thick stroke at the start of a decision is the carry from the one before, "
            "as a share of its bound.",
            f"Spikes, potentials and carry through {raster.decisions} decisions of {raster.timesteps} steps, "
            f"from decision {raster.first} on, in {len(raster.layers)} layers.",
        ),
    }
    return [
        Drawing(f"{name}-{part}", *texts[part], partial(_only_wide, draw, analysis), narrows=False)
        for part, draw in FIGURES.items()
    ]


def _only_wide(draw: Callable[[AnalysisSummary], Any], summary: AnalysisSummary, narrow: bool) -> Any:
    return draw(summary)


def _at(curve: Curve, place: int) -> str:
    value = dict(zip(curve.at, curve.value, strict=True)).get(place)
    return "none" if value is None else f"{value:.2f}"


def energy_drawing(energy: EnergySummary, number: int) -> Drawing:
    """Describes the figure of spikes and energy against T."""
    costs = "; ".join(
        f"{entry.neuron['name'].upper()}, T = {entry.timesteps}: {entry.spikes:,.0f} spikes, {entry.nanojoules:.0f} nJ"
        for entry in energy.results
    )
    return Drawing(
        f"energy-{number}",
        "Spikes and energy against T",
        f"Per decision, along {energy.along}. A dense actor that skips its zeros is the fair rival.",
        f"{costs}; dense: {energy.dense.nanojoules:.0f} nJ, with zeros skipped "
        f"{energy.dense_without_zeros.nanojoules:.0f} nJ.",
        lambda _: energy_figure(energy),
        narrows=False,
    )


def latency_drawing(bench: BenchSummary, number: int) -> Drawing:
    """Describes the figure of latencies."""
    first = min((entry["batch"], entry["threads"]) for entry in bench["results"])
    times = "; ".join(
        f"{entry['name']}{' ' + entry['neuron']['name'].upper() if 'neuron' in entry else ''}"
        f"{', T = ' + str(entry['timesteps']) if 'timesteps' in entry else ''}: {entry['microseconds'][1]:.1f} µs"
        for entry in bench["results"]
        if (entry["batch"], entry["threads"]) == first
    )
    return Drawing(
        f"latency-{number}",
        "Latency",
        "Left: microseconds for one decision (logarithmic), with quartiles. Right, where several batches were "
        "measured: "
        "how many times as fast as the fastest dense runtime.",
        f"Medians at batch {first[0]}: {times}.",
        lambda _: latency_figure(bench, bench["actor"]),
        narrows=False,
    )
