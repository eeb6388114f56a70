"""Draws the figure of a benchmark: times of a decision, and speed against the batch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from snnkern.analysis.latency import ACT, LOOP, TENSOR
from snnkern.analysis.summaries import Latencies, Timed
from snnkern.report.style import (
    DARK,
    DASHES,
    DENSE_BAR,
    DENSE_LINE,
    GRID,
    NEURON_STYLES,
    OTHER_BAR,
    check_drawing,
    draw_band,
    legend_of_bars,
    neuron_bar,
    tidy,
)
from snnkern.text import shorten


def latency_figure(summary: Latencies, title: str) -> Any:
    """Draws times at the smallest batch as bars, and speed against the batch.

    Both are for the smallest number of threads. Whiskers and bands are quartiles over rounds.

    Args:
        summary: what was measured, as `summarize_benchmark` has it.
        title: what was measured, in a few words.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    check_drawing()
    from matplotlib.figure import Figure

    threads = min(entry["threads"] for entry in summary["results"])
    entries = [entry for entry in summary["results"] if entry["threads"] == threads]
    batches = sorted({entry["batch"] for entry in entries})
    bars = [entry for entry in entries if entry["batch"] == batches[0] and entry["name"] != TENSOR]
    bars.sort(key=lambda entry: -entry["microseconds"][1])
    several = len(batches) > 1
    figure = Figure(figsize=(11 if several else 6.5, 1.6 + 0.24 * max(len(bars), 10)), layout="constrained")
    panels = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    _draw_bars(panels[0], bars)
    panels[0].set_xlabel(f"µs per decision, batch {batches[0]}, called from Python")
    if several:
        fastest = {each["batch"]: each["runtime"] for each in summary["fastest_dense"] if each["threads"] == threads}
        _draw_batches(panels[1], [entry for entry in entries if entry["name"] == ACT and "neuron" in entry], fastest)
        panels[1].set_xticks(batches, [f"{batch:,}" for batch in batches])
    tidy(panels)
    of = "one thread" if threads == 1 else f"{threads} threads"
    figure.suptitle(f"{title}; {of}, {summary['machine']['cpu']}", fontsize="medium")
    return figure


def _draw_bars(panel: Any, bars: Sequence[Timed]) -> None:
    for index, entry in enumerate(bars):
        low, median, high = entry["microseconds"]
        whisker = {"xerr": [[median - low], [high - median]], "ecolor": DARK, "capsize": 1.5}
        panel.barh(index, median, **_bar_style(entry), **whisker)
        panel.annotate(shorten(median), (high, index), (4, 0), textcoords="offset points", va="center", fontsize=8)
    panel.set_yticks(range(len(bars)), [_label(entry) for entry in bars], fontsize=8.5)
    panel.set_ylim(-0.6, len(bars) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.set_xscale("log")
    if bars:
        smallest, largest = (pick(entry["microseconds"][end] for entry in bars) for pick, end in ((min, 0), (max, 2)))
        panel.set_xlim(10 ** math.floor(math.log10(0.8 * smallest)), 3 * largest)
    panel.grid(axis="x", color=GRID)
    looks: dict[str, list[dict[str, Any]]] = {}
    for entry in reversed(bars):
        meaning = {ACT: "snn.act, by neuron", LOOP: "published loop, IF"}.get(entry["name"], "dense")
        if (look := _bar_style(entry)) not in looks.setdefault(meaning, []):
            looks[meaning].append(look)
    legend_of_bars(panel, looks)


def _bar_style(entry: Timed) -> dict[str, Any]:
    if entry["name"] == ACT:
        return neuron_bar(entry["neuron"]["name"])
    return OTHER_BAR if entry["name"] == LOOP else DENSE_BAR


def _draw_batches(panel: Any, entries: Sequence[Timed], fastest: Mapping[int, str]) -> None:
    timesteps = sorted({entry["timesteps"] for entry in entries})
    lines: dict[tuple[str, int], list[Timed]] = {}
    for entry in entries:
        lines.setdefault((json.dumps(entry["neuron"]), entry["timesteps"]), []).append(entry)
    for (_, steps), line in lines.items():
        points = [
            (entry["batch"], *entry["times_as_fast_as"][runtime])
            for entry in sorted(line, key=lambda entry: int(entry["batch"]))
            if (runtime := fastest.get(entry["batch"], "")) in entry["times_as_fast_as"]
        ]
        if not points:  # time ran out before the dense actor was timed
            continue
        color, _, marker = NEURON_STYLES[line[0]["neuron"]["name"]]
        style = {"color": color, "linestyle": DASHES[timesteps.index(steps) % len(DASHES)], "marker": marker}
        where, low, median, high = zip(*points, strict=True)
        draw_band(panel, where, (median, low, high), **style, markersize=4, label=_label(line[0]))
    panel.axhline(1.0, **DENSE_LINE, label="dense, fastest runtime")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g} ×" if value >= 1 else f"1/{1 / value:g} ×")
    panel.minorticks_off()
    panel.set_xlabel("batch")
    panel.set_ylabel("times as fast as the fastest dense runtime")
    panel.grid(color=GRID)
    panel.legend(frameon=False, fontsize=8)


def _label(entry: Timed) -> str:
    """Names a contender by its entry in the summary."""
    if "neuron" not in entry:
        return f"dense, {entry['name']}"
    what = f"published loop, α = {entry['alpha']:g}" if entry["name"] == LOOP else entry["neuron"]["name"].upper()
    return f"{what}, T = {entry['timesteps']}"
