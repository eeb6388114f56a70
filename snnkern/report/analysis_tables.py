"""Prints the results of `snnkern analyze` and `snnkern energy`."""

from __future__ import annotations

import math

from snnkern.analysis.amplification import DENSE
from snnkern.analysis.energy import CostSummary, LayerSummary
from snnkern.analysis.summaries import AnalysisSummary, EnergySummary
from snnkern.control.intervals import Interval
from snnkern.report.terminal import make_table, say, show
from snnkern.text import count


def print_analysis(summary: AnalysisSummary) -> None:
    """Returns, errors, states and residuals."""
    setting = summary.dynamics
    say(
        f"{summary.actor} in {summary.environment}: {setting['neuron']['name'].upper()}, "
        f"T = {setting['timesteps']}, α = {setting['alpha']:g}, μ = {setting['memory']:g}, "
        f"{count(summary.episodes, 'episode')}; [95 % intervals]"
    )
    returns = make_table("Returns", "whose states", "whose actions", "return", words=2)
    for entry in summary.returns:
        returns.add_row(entry.states, entry.actions, _estimate(entry.mean, "{:,.0f}"))
    errors = make_table("Action errors", "whose states", "spiking", "RMS", "lag 1", "lag 10", "below f, %", words=2)
    errors.caption = (
        "RMS: of half the action range; lag: autocorrelation; "
        f"below f: power under {summary.low_frequency:g} cycles per decision (white noise: "
        f"{200 * summary.low_frequency:.0f})"
    )
    for error in summary.errors:
        correlation = error.autocorrelation.value
        lags = ["" if len(correlation) <= lag else _number(correlation[lag], "{:.2f}") for lag in (1, 10)]
        errors.add_row(
            "dense (open loop)" if error.states == DENSE else "own (closed loop)",
            error.actions,
            _estimate(error.size, "{:.3f}"),
            *lags,
            _estimate(error.low_frequency_share, "{:.0f}", 100),
        )
    states = make_table("States", "whose states", "at 10", "at 100", "shift")
    states.caption = (
        "at: distance from the dense run of the same seed after so many decisions; shift: Wasserstein-1 distance\n"
        "both in standard deviations of the dense actor's states, averaged over dimensions"
    )
    for divergence in summary.divergences:
        at = dict(zip(divergence.distance.at, divergence.distance.value, strict=True))
        found = [_number(at.get(step), "{:.3f}") for step in (10, 100)]
        states.add_row(divergence.states, *found, _estimate(divergence.shift.average, "{:.3f}"))
    inside = make_table("Residuals r / θ", "spiking", "layer", "not zero", "-θ", "beyond ±θ", "clamped", "carry")
    inside.caption = (
        "in %; -θ (one spike too many), beyond ±θ and clamped: of the residuals that are not zero\n"
        "carry: root mean square of c / θ"
    )
    for name, layers in summary.residuals.items():
        for number, layer in enumerate(layers, 1):
            shares = [f"{100 * share:.1f}" for share in (layer.owing, layer.one_too_many, layer.large, layer.clamped)]
            inside.add_row(name, str(number), *shares, f"{layer.carry:.3f}")
    for table in (returns, errors, states, inside):
        say("")
        show(table)


def print_energy(summary: EnergySummary) -> None:
    """Operations and energy per decision."""
    remembers = any(entry.memory for entry in summary.results)
    headings = ["neuron", "T", "α", *(["μ"] if remembers else [])]
    numbers = ["spikes", "synaptic", "+", "×", "× 2^-j", "nJ", "dense", "synapses", "neurons"]
    title = f"{summary.actor}: per decision, along {summary.along}"
    table = make_table(title, *headings, *numbers)
    energies = summary.picojoules
    table.caption = (
        "synaptic: weights met by spikes; + and ×: additions and multiplications; × 2^-j: scalings by a power of two\n"
        f"nJ: at {energies.addition:g} pJ per addition, {energies.multiplication:g} per multiplication, "
        f"{energies.scaling:g} per scaling, {energies.read:g} per parameter read\n"
        "dense: energy of the dense actor over this; synapses, neurons: nJ of hidden layers' weights and updates"
    )
    dense = summary.dense.nanojoules

    def row(entry: CostSummary, *first: str) -> None:
        hidden = entry.layers[:-1]
        table.add_row(
            *first,
            *_counts(entry),
            f"{entry.nanojoules:.1f}",
            f"{dense / entry.nanojoules:.2f} ×" if entry.nanojoules else "",
            f"{sum(layer.nanojoules_synapses for layer in hidden):.1f}",
            f"{sum(layer.nanojoules_neurons for layer in hidden):.1f}",
        )

    blank = [""] * (len(headings) - 1)
    row(summary.dense, "dense", *blank)
    row(summary.dense_without_zeros, "dense, no zeros", *blank)
    previous = None
    for entry in summary.results:
        if entry.neuron != previous:
            table.add_section()
        previous = entry.neuron
        carry = [f"{entry.alpha:g}", *([f"{entry.memory:g}"] if remembers else [])]
        row(entry, entry.neuron["name"].upper(), str(entry.timesteps), *carry)
    show(table)


def print_energy_of_layers(summary: EnergySummary) -> None:
    """The same, layer by layer, for the dense actor and every setting."""
    table = make_table("\nBy layer", "", "T", "layer", "spikes", "synaptic", "+", "×", "× 2^-j", "reads", "nJ", words=3)
    kinds: list[tuple[str, str, CostSummary]] = [("dense", "", summary.dense)]
    kinds += [("dense, no zeros", "", summary.dense_without_zeros)]
    kinds += [(entry.neuron["name"].upper(), str(entry.timesteps), entry) for entry in summary.results]
    for name, timesteps, entry in kinds:
        for layer in entry.layers:
            reads = f"{layer.reads:,.0f}" if layer.reads else ""
            table.add_row(name, timesteps, layer.name, *_counts(layer), reads, f"{layer.nanojoules:.1f}")
        table.add_section()
    show(table)


def _counts(cost: CostSummary | LayerSummary) -> list[str]:
    counts = cost.spikes, cost.synaptic_operations, cost.additions, cost.multiplications, cost.scalings
    return [f"{number:,.0f}" if number else "" for number in counts]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _estimate(estimate: Interval, form: str, factor: float = 1.0) -> str:
    value, low, high = (
        "" if math.isnan(end) else form.format(factor * end) for end in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low} … {high}]" if low else value
