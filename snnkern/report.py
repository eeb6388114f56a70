"""Results as plain data and as a figure."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from snnkern.benchmark import ACT, DENSE, LOOP, TENSOR, Benchmark
from snnkern.evaluation import Evaluation
from snnkern.figures import (
    DARK,
    DENSE_BAR,
    GREY,
    NEURON_STYLES,
    OTHER_BAR,
    check_drawing,
    neuron_bar,
    tidy,
    write_figure,
)
from snnkern.intervals import Interval
from snnkern.study import Sweep
from snnkern.summaries import Latencies, NotBeaten, Timed
from snnkern.timing import busy, quartiles


def summarize_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Mean return, spread and 95 % interval of an evaluation, and its episodes; ready for JSON."""
    interval = evaluation.interval()
    return {
        "return_mean": evaluation.mean,
        "return_std": evaluation.std,
        "return_interval": ends(interval.low, interval.high),
        "returns": list(evaluation.returns),
        "lengths": list(evaluation.lengths),
    }


def summarize_sweep(sweep: Sweep, seconds: Mapping[tuple[str, int] | None, float] | None = None) -> dict[str, Any]:
    """The dense actor and every setting with its performance ratio (None where that means nothing); ready for JSON.

    Args:
        sweep: what was measured.
        seconds: seconds per decision at batch 1, by (neuron name, T); the dense actor's under None.
    """
    times = seconds or {}
    dense = summarize_evaluation(sweep.dense)
    if None in times:
        dense["microseconds_per_decision"] = 1e6 * times[None]
    results = []
    for setting, evaluation in sweep.results:
        ratio = evaluation.ratio(sweep.dense, sweep.random)
        entry = {
            **setting.to_dict(),
            **summarize_evaluation(evaluation),
            "performance_ratio": None if math.isnan(ratio.value) else ratio.value,
            "performance_ratio_interval": ends(ratio.low, ratio.high),
            "spikes_per_decision": sum(evaluation.spikes),
            "spikes_per_decision_per_layer": list(evaluation.spikes),
        }
        key = (setting.neuron.name, setting.timesteps)
        if key in times:
            entry["microseconds_per_decision"] = 1e6 * times[key]
        results.append(entry)
    summary: dict[str, Any] = {"dense": dense, "ratio": sweep.dense.ratio_formula(sweep.random) or None}
    if sweep.random:
        summary["random"] = summarize_evaluation(sweep.random)
    return {**summary, "results": results}


def summarize_benchmark(benchmark: Benchmark) -> Latencies:
    """Every case with its time and how many times as fast as the dense actor it is; ready for JSON.

    Times are the quartiles of microseconds per decision of the whole batch, ratios the quartiles of ratios within a
    round. A spiking actor does not beat a dense runtime where the lower quartile is not above 1.
    """
    results: list[Timed] = []
    not_beaten: list[NotBeaten] = []
    for case, seconds in benchmark.rounds.items():
        entry: Timed = {
            "name": case.name,
            "batch": case.batch,
            "threads": case.threads,
            "microseconds": quartiles(1e6 * seconds),
            "turns": len(seconds),
            "times_as_fast_as": benchmark.ratios(case),
            "agreeing_with_reference": benchmark.agreements[case].agreeing,
            "wrong": benchmark.agreements[case].wrong,
        }
        if (dynamics := case.dynamics) is not None:
            entry = {**entry, **dynamics.to_dict()}
            if case.name in (ACT, TENSOR):
                spikes = benchmark.spikes[dynamics]
                entry["spikes_per_decision"] = sum(spikes)
                entry["spikes_per_decision_per_layer"] = list(spikes)
                not_beaten += [
                    {
                        "name": case.name,
                        "neuron": entry["neuron"],
                        "timesteps": dynamics.timesteps,
                        "batch": case.batch,
                        "threads": case.threads,
                        "runtime": runtime,
                        "times_as_fast": ratio,
                    }
                    for runtime, ratio in entry["times_as_fast_as"].items()
                    if runtime in DENSE and ratio[0] <= 1
                ]
        results.append(entry)
    shapes = dict.fromkeys((case.batch, case.threads) for case in benchmark.rounds)
    fastest = {shape: benchmark.fastest_dense(*shape) for shape in shapes}
    return {
        "layers": list(benchmark.widths),
        "machine": {**benchmark.machine, "busy": busy(benchmark.machine)},
        "seconds": benchmark.seconds,
        "interrupted": benchmark.interrupted,
        "missing": dict(benchmark.missing),
        "unreached": len(benchmark.unreached),
        "fastest_dense": [
            {"batch": batch, "threads": threads, "runtime": case.name}
            for (batch, threads), case in fastest.items()
            if case is not None
        ],
        "not_beaten": not_beaten,
        "results": results,
    }


def shorten(value: float) -> str:
    """A positive number with about three digits that count, or all those before the point."""
    if value < 0.095:
        return f"{value:.1g}"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
        panel.axhline(dense, color=DARK, linewidth=0.8, linestyle=":", label="dense actor")
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
            dash, marker = _dash_and_marker(bool(alpha), alike.index((alpha, memory)))
            style = {"color": NEURON_STYLES[neuron.name].color if alpha else GREY, "linestyle": dash, "marker": marker}
            _draw_line(panel, points, f"{label}, μ = {memory:g}" if several else label, style)
        panel.set_title(neuron.label, fontweight="bold")
        panel.set_xscale("log", base=2)
        panel.set_xticks(timesteps, [str(steps) for steps in timesteps])
        panel.minorticks_off()
        panel.set_xlabel("simulation steps T")
        panel.grid(axis="y", color="0.9")
    tidy(panels)
    panels[0].set_ylabel(relative or "return")
    if relative:
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
        panels[0].set_ylim(bottom=min(0.0, panels[0].get_ylim()[0]))
    named: dict[str, Any] = {}  # a panel need not have every line
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            if label not in named:
                named[label] = copy.copy(handle)
                if handle.get_color() not in (GREY, DARK):  # a colour is its panel's neuron
                    named[label].set_color(DARK)
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=min(len(named), 4), frameon=False
    )
    figure.suptitle(f"{title}; bands: 95 % intervals", fontsize="medium")
    write_figure(figure, path)


def latency_figure(summary: Latencies, title: str) -> Any:
    """Draws times at the smallest batch as bars, and speed against the batch.

    Both are for the smallest number of threads. Whiskers and bands are quartiles over turns.

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


def _draw_bars(panel: Any, bars: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.patches import Patch

    for index, entry in enumerate(bars):
        low, median, high = entry["microseconds"]
        whisker = {"xerr": [[median - low], [high - median]], "ecolor": "0.25", "capsize": 1.5}
        panel.barh(index, median, **_bar_style(entry), **whisker)
        panel.annotate(shorten(median), (high, index), (4, 0), textcoords="offset points", va="center", fontsize=8)
    panel.set_yticks(range(len(bars)), [_label(entry) for entry in bars], fontsize=8.5)
    panel.set_ylim(-0.6, len(bars) - 0.4)
    panel.tick_params(axis="y", length=0)
    panel.set_xscale("log")
    if bars:
        smallest, largest = (pick(entry["microseconds"][end] for entry in bars) for pick, end in ((min, 0), (max, 2)))
        panel.set_xlim(10 ** math.floor(math.log10(0.8 * smallest)), 3 * largest)
    panel.grid(axis="x", color="0.9")
    first: dict[str, Mapping[str, Any]] = {}
    for entry in reversed(bars):
        meaning = {ACT: "snn.act, by neuron", LOOP: "published loop, IF"}.get(entry["name"], "dense")
        first.setdefault(meaning, entry)
    handles = [Patch(**_bar_style(entry), label=meaning) for meaning, entry in first.items()]
    panel.legend(handles=handles, loc="upper right", frameon=False, fontsize=8)


def _bar_style(entry: Mapping[str, Any]) -> dict[str, Any]:
    if entry["name"] == ACT:
        return neuron_bar(entry["neuron"]["name"])
    return OTHER_BAR if entry["name"] == LOOP else DENSE_BAR


def _draw_batches(panel: Any, entries: Sequence[Mapping[str, Any]], fastest: Mapping[int, str]) -> None:
    timesteps = sorted({entry["timesteps"] for entry in entries})
    lines: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for entry in entries:
        lines.setdefault((json.dumps(entry["neuron"]), entry["timesteps"]), []).append(entry)
    dashes = ("-", "--", "-.", ":")
    for (_, steps), line in lines.items():
        points = [
            (entry["batch"], *entry["times_as_fast_as"][runtime])
            for entry in sorted(line, key=lambda entry: int(entry["batch"]))
            if (runtime := fastest.get(entry["batch"], "")) in entry["times_as_fast_as"]
        ]
        if not points:  # time ran out before the dense actor's turn
            continue
        color, _, marker = NEURON_STYLES[line[0]["neuron"]["name"]]
        style = {"color": color, "linestyle": dashes[timesteps.index(steps) % len(dashes)], "marker": marker}
        where, low, median, high = zip(*points, strict=True)
        panel.plot(where, median, **style, markersize=4, label=_label(line[0]))
        panel.fill_between(where, low, high, color=color, alpha=0.15, linewidth=0)
    panel.axhline(1.0, color=DARK, linewidth=0.8, linestyle=":", label="dense, fastest runtime")
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g} ×" if value >= 1 else f"1/{1 / value:g} ×")
    panel.minorticks_off()
    panel.set_xlabel("batch")
    panel.set_ylabel("times as fast as the fastest dense runtime")
    panel.grid(color="0.9")
    panel.legend(frameon=False, fontsize=8)


def _dash_and_marker(carries: bool, index: int) -> tuple[Any, str]:
    """Of a line with CRPI or of one without, the first such line, the second, …"""
    if not carries:
        return "--", "sDPX"[index % 4]
    looks: list[tuple[Any, str]] = [("-", "o"), ("-.", "^"), (":", "v"), ((0, (6, 1, 1, 1, 1, 1)), "d"), ("-", "x")]
    return looks[index % len(looks)]


def _draw_line(panel: Any, points: Sequence[tuple[int, Interval]], label: str, style: Mapping[str, Any]) -> None:
    ordered = sorted(points, key=lambda point: point[0])
    steps = [timesteps for timesteps, _ in ordered]
    panel.plot(steps, [estimate.value for _, estimate in ordered], **style, markersize=4.5, label=label)
    low, high = [estimate.low for _, estimate in ordered], [estimate.high for _, estimate in ordered]
    panel.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def ends(low: float, high: float) -> list[float] | None:
    """An interval for JSON, which has no NaN: None where there were too few episodes."""
    return None if math.isnan(low) else [low, high]


def _label(entry: Mapping[str, Any]) -> str:
    """A contender's name, from its entry in the summary."""
    if "neuron" not in entry:
        return f"dense, {entry['name']}"
    what = f"published loop, α = {entry['alpha']:g}" if entry["name"] == LOOP else entry["neuron"]["name"].upper()
    return f"{what}, T = {entry['timesteps']}"
