"""Figures of an analysis and of costs, drawn from what `snnkern analyze` and `snnkern energy` write."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snnkern.analysis.amplification import CORRELATED, CRPI, DENSE, OTHER, PLAIN, RANDOM, WHITE, Returns
from snnkern.analysis.statistics import Curve
from snnkern.analysis.summaries import AnalysisSummary, EnergySummary, SettingCost
from snnkern.control.intervals import Interval
from snnkern.report.style import (
    BOUND_LINE,
    DARK,
    FILLS,
    GRID,
    LIGHT,
    NEURON_STYLES,
    PINK,
    PLAIN_LINE,
    SKY,
    TAKEN_BACK,
    ZERO_LINE,
    check_drawing,
    draw_band,
    scale_timesteps,
    tidy,
    write_figure,
)
from snnkern.text import count


def draw_analysis(summary: AnalysisSummary, folder: str | os.PathLike[str]) -> list[Path]:
    """Draws all figures of an analysis, each as PNG and PDF, and says which files they are.

    Args:
        summary: what `snnkern analyze` writes.
        folder: where the files go; each is written whole or not at all.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: a file cannot be written.
    """
    check_drawing()
    files = []
    for name, draw in FIGURES.items():
        figure = draw(summary)
        files += [write_figure(figure, Path(folder) / f"{name}.{suffix}") for suffix in ("png", "pdf")]
    return files


def returns_figure(summary: AnalysisSummary) -> Any:
    """Returns by whose states are visited and whose actions are taken in them."""
    names, styles = list(dict.fromkeys(entry.states for entry in summary.returns)), _styles(summary)
    bars: list[tuple[float, Returns]] = []
    ticks, at = [], 0.0
    for states in names:
        entries = [entry for entry in summary.returns if entry.states == states]
        ticks.append(at + (len(entries) - 1) / 2)
        for entry in entries:
            bars.append((at, entry))
            at += 1.0
        at += 0.6
    figure, (panel,) = _panels(summary, 1, (7.5, 0.9 + 0.3 * at), "Whose states, whose actions")
    for place, entry in bars:
        actions = DENSE if entry.states == OTHER else entry.actions
        color, _, _, hatch = styles[actions]
        mean = entry.mean
        if not math.isfinite(mean.value):  # a reward was not
            panel.annotate(
                f"{actions}: not finite", (0.0, place), (5, 0), textcoords="offset points", va="center", size=8
            )
            continue
        whisker = None if math.isnan(mean.low) else [[mean.value - mean.low], [mean.high - mean.value]]
        panel.barh(
            place,
            mean.value,
            0.85,
            xerr=whisker,
            color=color,
            alpha=0.75,
            hatch=hatch,
            edgecolor="white",
            ecolor="black",
            capsize=2,
        )
        right = max(mean.value, mean.value if math.isnan(mean.high) else mean.high, 0.0)
        panel.annotate(
            f"{actions}: {mean.value:,.0f}", (right, place), (5, 0), textcoords="offset points", va="center", size=8
        )
    panel.set_yticks(ticks, [f"{name}" for name in names])
    panel.set_ylabel("who drives (whose states)")
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    panel.margins(x=0.35)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_xlabel("return that the named policy's actions earn in these states, with 95 % intervals")
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panel.grid(axis="x", color=GRID)
    return figure


def errors_figure(summary: AnalysisSummary) -> Any:
    """Action errors over time, their autocorrelation and their spectrum; open loop above, closed loop below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panels, styles = figure.subplots(2, 3, sharex="col"), _styles(summary)
    for row, (loop, is_open) in enumerate((("open loop: dense states", True), ("closed loop: own states", False))):
        trace, correlation, spectrum = panels[row]
        for entry in summary.errors:
            if (entry.states == DENSE) != is_open:
                continue
            name = entry.actions
            color, dash, _, _ = styles[name]
            errors = [step[0] for step in entry.trace[:100]]
            trace.plot(errors, linestyle=dash, color=color, linewidth=1)
            label = f"{name}, RMS {entry.size.value:.2g}"
            _curve(correlation, entry.autocorrelation, label, styles[name], first=1)
            _curve(spectrum, entry.spectrum, f"{name}, {_percent(entry.low_frequency_share)} in grey", styles[name])
        trace.set_ylabel(f"{loop}\n\nerror / half range")
        trace.axhline(0, **ZERO_LINE)
        correlation.set_ylim(-0.35, 1)
        correlation.legend(fontsize=7.5, loc="upper right")
        correlation.axhline(0, **ZERO_LINE)
        correlation.set_ylabel("autocorrelation")
        spectrum.axvspan(0, summary.low_frequency, color=GRID, zorder=0)
        spectrum.axhline(1, **BOUND_LINE)
        _log_ticks(spectrum)
        spectrum.set_ylabel("power, white noise = 1")
        spectrum.legend(fontsize=7.5, loc="best")
    panels[0, 0].set_title("first action, first episode")
    panels[0, 1].set_title("by lag")
    panels[0, 2].set_title("by frequency")
    panels[1, 0].set_xlabel("decision")
    panels[1, 1].set_xlabel("lag in decisions")
    panels[1, 2].set_xlabel("cycles per decision")
    tidy(panels.flat)
    figure.suptitle(f"Action errors; {_title(summary)}", fontsize="medium")
    return figure


def states_figure(summary: AnalysisSummary) -> Any:
    """How runs started alike part, and how far the distributions of states shift."""
    figure, (growth, shift) = _panels(summary, 2, (10, 4), "States against the dense actor's")
    styles = _styles(summary)
    for index, entry in enumerate(summary.divergences):
        look = color, _, marker, _ = styles[entry.states]
        _curve(growth, entry.distance, entry.states, look)
        average = entry.shift.average
        if not math.isnan(average.low):
            shift.plot([average.low, average.high], [index, index], color=color, linewidth=1.5)
        shift.plot(average.value, index, marker=marker, color=color, markersize=7)
    _log_ticks(growth)
    growth.set_xscale("symlog", linthresh=10, linscale=0.6)
    growth.set_xlim(left=0)
    growth.set_xlabel("decision")
    growth.set_ylabel("distance from the dense run\n(standard deviations per dimension)")
    growth.axhline(math.sqrt(2), **BOUND_LINE)
    growth.legend(fontsize=8, loc="lower right")
    shift.set_yticks(range(len(summary.divergences)), [entry.states for entry in summary.divergences])
    shift.invert_yaxis()
    shift.set_xlim(left=0)
    shift.grid(axis="x", color=GRID)
    shift.set_xlabel("Wasserstein-1 distance of the states' distribution\n(standard deviations, mean over dimensions)")
    return figure


def residuals_figure(summary: AnalysisSummary) -> Any:
    """Distribution of the residuals of every hidden layer, and how often the clamp cuts the carry."""
    number = len(next(iter(summary.residuals.values())))
    figure, panels = _panels(summary, number, (1 + 4.5 * number, 3.8), "Residuals at the end of decisions")
    clip, styles = summary.dynamics["clip"], _styles(summary)
    for name, layers in summary.residuals.items():
        color, dash, _, _ = styles[name]
        for index, (panel, layer) in enumerate(zip(panels, layers, strict=True)):
            cut = f", clamp cuts {_short_percent(layer.clamped)}" if name == CRPI else ""
            label = f"{name}: {_short_percent(layer.owing)} not zero, {_short_percent(layer.large)} beyond ±θ{cut}"
            panel.stairs(layer.share, layer.edges, color=color, linestyle=dash, linewidth=1.3, label=label)
            panel.set_title(f"hidden layer {index + 1}", fontsize="medium")
    for panel in panels:
        panel.set_yscale("log")
        panel.set_xlabel("residual r / θ (where not zero; outermost bins: and beyond)")
        low, high = panel.get_ylim()
        panel.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend
        panel.legend(fontsize=7.5, loc="upper center", frameon=False)
        alpha = summary.dynamics["alpha"]
        if alpha and not summary.dynamics["memory"]:
            for side in (-clip / alpha, clip / alpha):
                if abs(side) <= 2:
                    panel.axvline(side, **BOUND_LINE)
    panels[0].set_ylabel("share of residuals per bin")
    return figure


def raster_figure(summary: AnalysisSummary) -> Any:
    """Spikes, membrane potentials and carries of some neurons through some decisions."""
    from matplotlib.figure import Figure

    raster, bound = summary.raster, summary.dynamics["clip"] or 1.0
    layers, steps = raster.layers, raster.timesteps
    total = raster.decisions * steps
    rows = [max(len(layer.neurons), 1) for layer in layers]
    figure = Figure(figsize=(10, 1.2 + 0.42 * sum(rows)), layout="constrained")
    panels = figure.subplots(len(layers), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for number, (panel, layer) in enumerate(zip(panels, layers, strict=True), 1):
        for row in range(len(layer.neurons)):
            potentials = np.array([step[row] for step in layer.potentials])
            spikes = np.array([step[row] for step in layer.spikes])
            carries = [decision[row] for decision in layer.carries]
            # Half a unit of height is one θ: potentials beyond it run into the neighbour, and are cut.
            panel.plot(np.arange(total) + 0.5, row + 0.4 * np.clip(potentials, -1, 1), color=LIGHT, linewidth=0.8)
            panel.axhline(row, color=GRID, linewidth=0.6, zorder=0)
            for at in np.flatnonzero(spikes):
                color = "black" if spikes[at] > 0 else TAKEN_BACK
                panel.vlines(at + 0.5, row, row + 0.4 * float(np.clip(spikes[at], -1, 1)), color=color, linewidth=2)
            for decision, carry in enumerate(carries):
                height = 0.4 * float(np.clip(carry / bound, -1, 1))
                panel.vlines(decision * steps, row, row + height, color=SKY, linewidth=4, alpha=0.8)
        for decision in range(raster.decisions + 1):
            panel.axvline(decision * steps, color=LIGHT, linewidth=0.8, zorder=0)
        panel.set_yticks(range(len(layer.neurons)), layer.neurons)
        panel.set_ylim(-0.6, rows[number - 1] - 0.4)
        panel.set_ylabel(f"layer {number}: neuron")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlim(-0.5, total)
    middles = (np.arange(raster.decisions) + 0.5) * steps
    panels[-1].set_xticks(middles, [str(raster.first + index) for index in range(raster.decisions)])
    panels[-1].set_xlabel(f"decision ({count(steps, 'simulation step')} each)")
    figure.suptitle(
        f"Black: spikes (red, down: taken back); grey line: potential; height: share of θ. Blue, thick: carry at the "
        f"start; height: share of κ·θ\n"
        f"{_title(summary)}",
        fontsize="medium",
    )
    return figure


def energy_figure(summary: EnergySummary) -> Any:
    """Spikes and energy per decision against T, a line per neuron, beside the dense actor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    lines: dict[tuple[str, float, float], list[SettingCost]] = {}
    for entry in sorted(summary.results, key=lambda entry: int(entry.timesteps)):
        lines.setdefault((entry.neuron["name"], entry.alpha, entry.memory), []).append(entry)
    carries = list(dict.fromkeys((alpha, memory) for _, alpha, memory in lines))
    remembers = any(memory for _, memory in carries)
    for (name, alpha, memory), entries in lines.items():
        color, dash, marker = NEURON_STYLES[name]
        carry = f", α = {alpha:g}{f', μ = {memory:g}' if remembers else ''}" if len(carries) > 1 else ""
        # A neuron's lines differ in how its markers are filled.
        nth = [other for other in carries if (name, *other) in lines].index((alpha, memory))
        style = {"color": color, "linestyle": dash, "marker": marker, "fillstyle": FILLS[nth % len(FILLS)]}
        timesteps = [entry.timesteps for entry in entries]
        numbers = [entry.spikes for entry in entries], [entry.nanojoules for entry in entries]
        for panel, values in zip(panels, numbers, strict=True):
            panel.plot(timesteps, values, **style, markersize=5, label=f"{name.upper()}{carry}")
    dense = ((summary.dense, "dense", "-"), (summary.dense_without_zeros, "dense, zeros skipped", "--"))
    for cost, label, dash in dense:
        panels[1].axhline(cost.nanojoules, color=DARK, linewidth=1, linestyle=dash, label=label)
    ticks = sorted({entry.timesteps for entry in summary.results})
    for panel, label in zip(panels, ("spikes per decision", "nJ per decision"), strict=True):
        scale_timesteps(panel, ticks)
        _log_ticks(panel)
        low, high = panel.get_ylim()
        wider = max(5 * low / high, 1.0) ** 0.5  # so that there are ticks
        panel.set_ylim(low / wider, high * wider)
        panel.minorticks_off()
        panel.set_ylabel(label)
        panel.legend(fontsize=8)
        panel.grid(color=GRID)
    tidy(panels)
    figure.suptitle(f"{summary.actor}, along {summary.along}", fontsize="medium")
    return figure


def _styles(summary: AnalysisSummary) -> dict[str, tuple[str, Any, str, str]]:
    """Returns colour, dash, marker and hatching of every policy. The policy with CRPI looks like its neuron."""
    return {
        DENSE: (DARK, "-", "*", ""),
        PLAIN: (PLAIN_LINE["color"], PLAIN_LINE["linestyle"], "P", "////"),
        CRPI: (*NEURON_STYLES[summary.dynamics["neuron"]["name"]], "...."),
        WHITE: (SKY, ":", "<", "||||"),
        CORRELATED: (PINK, "-.", ">", "----"),
        RANDOM: (LIGHT, (0, (1, 3)), "x", "xxxx"),
        OTHER: (LIGHT, (0, (5, 1, 1, 1)), "d", ""),
    }


def _log_ticks(panel: Any) -> None:
    """A logarithmic vertical axis with plain numbers."""
    from matplotlib.ticker import LogLocator

    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))


FIGURES: dict[str, Callable[[AnalysisSummary], Any]] = {
    "returns": returns_figure,
    "errors": errors_figure,
    "states": states_figure,
    "residuals": residuals_figure,
    "raster": raster_figure,
}


def _panels(summary: AnalysisSummary, number: int, size: tuple[float, float], what: str) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, number, squeeze=False)[0]
    tidy(panels)
    figure.suptitle(f"{what}; {_title(summary)}", fontsize="medium")
    return figure, panels


def _title(summary: AnalysisSummary) -> str:
    setting = summary.dynamics
    memory = f", μ = {setting['memory']:g}" if setting["memory"] else ""
    return (
        f"{summary.actor} in {summary.environment}, {setting['neuron']['name'].upper()}, "
        f"T = {setting['timesteps']}, α = {setting['alpha']:g}{memory}, {count(summary.episodes, 'episode')}"
    )


def _curve(panel: Any, curve: Curve, label: str, look: tuple[Any, ...], first: int = 0) -> None:
    """Draws a curve with its interval, from its point `first` on; it has gaps where there is no value."""
    color, dash, *_ = look
    ends = [np.array(part, dtype=np.float64)[first:] for part in (curve.value, curve.low, curve.high)]  # None is NaN
    draw_band(panel, curve.at[first:], ends, color=color, linestyle=dash, linewidth=1.4, label=label)


def _percent(estimate: Interval) -> str:
    return "–" if math.isnan(estimate.value) else _short_percent(estimate.value)


def _short_percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
