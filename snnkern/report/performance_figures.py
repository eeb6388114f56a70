"""Draws the figure of one actor's sweep: performance ratio against T."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

from snnkern.control.intervals import Interval
from snnkern.report.style import (
    DARK,
    DASHES,
    DENSE_LINE,
    FILLS,
    GREY,
    GRID,
    NEURON_STYLES,
    PLAIN_LINE,
    check_drawing,
    draw_band,
    handles_of,
    legend_below,
    scale_timesteps,
    tidy,
    write_figure,
)
from snnkern.studies.study import Sweep


def performance_figure(sweep: Sweep, path: str | os.PathLike[str], title: str) -> None:
    """Draws performance ratio against T, a panel per neuron and a line per α and μ, and writes it to a file.

    Bands are 95 % bootstrap intervals. Where no ratio means anything (`Evaluation.ratio`), returns are drawn instead.

    Args:
        sweep: what was measured.
        path: the file (.png, .pdf or .svg); written whole or not at all.
        title: what was measured where, in a few words.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    check_drawing(path)
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    relative = sweep.dense.ratio_formula(sweep.random)
    neurons = list(dict.fromkeys(setting.neuron for setting, _ in sweep.results))
    timesteps = sorted({setting.timesteps for setting, _ in sweep.results})
    carries = sorted({(setting.alpha, setting.memory) for setting, _ in sweep.results})
    figure = Figure(figsize=(1.2 + 2.6 * max(len(neurons), 2), 3.5), layout="constrained")
    panels = figure.subplots(1, len(neurons), sharey=True, squeeze=False)[0]
    for panel, neuron in zip(panels, neurons, strict=True):
        dense = 1.0 if relative else sweep.dense.mean
        panel.axhline(dense, **DENSE_LINE, label="dense actor")
        for alpha, memory in carries:
            points = [
                (setting.timesteps, evaluation.ratio(sweep.dense, sweep.random) if relative else evaluation.interval())
                for setting, evaluation in sweep.results
                if (setting.neuron, setting.alpha, setting.memory) == (neuron, alpha, memory)
            ]
            if not points:  # where α is as recommended it differs from neuron to neuron
                continue
            label = f"CRPI, α = {alpha:g}" if alpha else "without CRPI"
            several = len({memory for _, memory in carries}) > 1
            alike = [carry for carry in carries if bool(carry[0]) == bool(alpha)]
            nth = alike.index((alpha, memory))
            color, _, marker = NEURON_STYLES[neuron.name]
            style = {"marker": marker, "fillstyle": FILLS[nth % len(FILLS)]}
            style |= {"color": color, "linestyle": DASHES[nth % len(DASHES)]} if alpha else PLAIN_LINE
            _draw_line(panel, points, f"{label}, μ = {memory:g}" if several else label, style)
        panel.set_title(neuron.label, fontweight="bold")
        scale_timesteps(panel, timesteps)
        panel.grid(axis="y", color=GRID)
    tidy(panels)
    panels[0].set_ylabel(relative or "return")
    if relative:
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
        panels[0].set_ylim(bottom=min(0.0, panels[0].get_ylim()[0]))
    handles = {label: copy.copy(handle) for label, handle in handles_of(panels).items()}
    for handle in handles.values():
        handle.set_marker("")  # markers and colours are those of the panel's neuron
        if handle.get_color() not in (GREY, DARK):
            handle.set_color(DARK)
    legend_below(figure, handles)
    figure.suptitle(f"{title}; bands: 95 % intervals", fontsize="medium")
    write_figure(figure, path)


def _draw_line(panel: Any, points: Sequence[tuple[int, Interval]], label: str, style: Mapping[str, Any]) -> None:
    ordered = sorted(points, key=lambda point: point[0])
    ends = zip(*((estimate.value, estimate.low, estimate.high) for _, estimate in ordered), strict=True)
    draw_band(panel, [steps for steps, _ in ordered], list(ends), **style, markersize=4.5, label=label)
