"""Results as plain data and as a figure."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from snnkern.errors import require
from snnkern.evaluation import Evaluation, Interval, Sweep
from snnkern.files import write_atomically


def summarize_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Mean return, spread and 95 % interval of an evaluation, and its episodes; ready for JSON."""
    interval = evaluation.interval()
    return {
        "return_mean": evaluation.mean,
        "return_std": evaluation.std,
        "return_interval": _ends(interval.low, interval.high),
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
        ratio = evaluation.ratio(sweep.dense)
        entry = {
            **setting.to_dict(),
            **summarize_evaluation(evaluation),
            "performance_ratio": None if math.isnan(ratio.value) else ratio.value,
            "performance_ratio_interval": _ends(ratio.low, ratio.high),
            "spikes_per_decision": sum(evaluation.spikes),
            "spikes_per_decision_per_layer": list(evaluation.spikes),
        }
        key = (setting.neuron.name, setting.timesteps)
        if key in times:
            entry["microseconds_per_decision"] = 1e6 * times[key]
        results.append(entry)
    return {"dense": dense, "results": results}


def check_drawing() -> None:
    """Refuses to begin work that ends in a figure where matplotlib is not installed.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "report", "drawing a figure")


def performance_figure(sweep: Sweep, path: str | os.PathLike[str], title: str) -> None:
    """Draws performance ratio against T, a panel per neuron and a line per α and μ, and writes it as PNG.

    Bands are 95 % bootstrap intervals. Where the dense actor's mean return is not positive, a ratio means nothing, and
    returns are drawn instead.

    Args:
        sweep: what was measured.
        path: the PNG file; written whole or not at all.
        title: what was measured where, in a few words.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    check_drawing()
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    relative = sweep.dense.mean > 0
    neurons = list(dict.fromkeys(setting.neuron for setting, _ in sweep.results))
    timesteps = sorted({setting.timesteps for setting, _ in sweep.results})
    carries = sorted({(setting.alpha, setting.memory) for setting, _ in sweep.results})
    figure = Figure(figsize=(1.2 + 2.6 * max(len(neurons), 2), 3.5), layout="constrained")
    panels = figure.subplots(1, len(neurons), sharey=True, squeeze=False)[0]
    for panel, neuron in zip(panels, neurons, strict=True):
        dense = 1.0 if relative else sweep.dense.mean
        panel.axhline(dense, color="0.35", linewidth=0.8, linestyle=":", label="dense actor")
        for index, (alpha, memory) in enumerate(carries):
            points = [
                (setting.timesteps, evaluation.ratio(sweep.dense) if relative else evaluation.interval())
                for setting, evaluation in sweep.results
                if (setting.neuron, setting.alpha, setting.memory) == (neuron, alpha, memory)
            ]
            label = f"CRPI, α = {alpha:g}" if alpha else "without CRPI"
            several = len({memory for _, memory in carries}) > 1
            _draw_line(panel, points, f"{label}, μ = {memory:g}" if several else label, plain=not alpha, index=index)
        panel.set_title(neuron.label, fontweight="bold")
        panel.set_xscale("log", base=2)
        panel.set_xticks(timesteps, [str(steps) for steps in timesteps])
        panel.minorticks_off()
        panel.set_xlabel("simulation steps T")
        panel.grid(axis="y", color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("return / dense return" if relative else "return")
    if relative:
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
        panels[0].set_ylim(bottom=min(0.0, panels[0].get_ylim()[0]))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    figure.suptitle(f"{title}; bands: 95 % intervals", fontsize="medium")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=160)
    write_atomically(path, image.getvalue())


# Okabe and Ito: colours that people with colour-blindness can tell apart. Grey is for the plain conversion.
_GREY = "#767676"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _draw_line(panel: Any, points: Sequence[tuple[int, Interval]], label: str, *, plain: bool, index: int) -> None:
    ordered = sorted(points, key=lambda point: point[0])
    steps = [timesteps for timesteps, _ in ordered]
    color = _GREY if plain else _COLORS[(index - 1) % len(_COLORS)]
    panel.plot(
        steps,
        [estimate.value for _, estimate in ordered],
        color=color,
        marker="s" if plain else "o",
        markersize=4.5,
        linestyle="--" if plain else "-",
        label=label,
    )
    low, high = [estimate.low for _, estimate in ordered], [estimate.high for _, estimate in ordered]
    panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)


def _ends(low: float, high: float) -> list[float] | None:
    """An interval for JSON, which has no NaN: None where there were too few episodes."""
    return None if math.isnan(low) else [low, high]
