"""Results as plain data and as a figure."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from snnkern.errors import require
from snnkern.evaluation import Evaluation, Sweep
from snnkern.files import write_atomically
from snnkern.neurons import Dynamics


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
    """The dense actor and every setting with its performance ratio; ready for JSON.

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
            "performance_ratio": ratio.value,
            "performance_ratio_interval": _ends(ratio.low, ratio.high),
            "spikes_per_decision": sum(evaluation.spikes),
            "spikes_per_decision_per_layer": list(evaluation.spikes),
        }
        key = (setting.neuron.name, setting.timesteps)
        if key in times:
            entry["microseconds_per_decision"] = 1e6 * times[key]
        results.append(entry)
    return {"dense": dense, "results": results}


def performance_figure(sweep: Sweep, path: str | os.PathLike[str], title: str) -> None:
    """Draws performance ratio against T, a panel per neuron, without CRPI and with each α, and writes it as PNG.

    Bands are 95 % bootstrap intervals.

    Args:
        sweep: what was measured.
        path: the PNG file; written whole or not at all.
        title: what was measured where, in a few words.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    require("matplotlib", "report", "drawing a figure")
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    neurons = list(dict.fromkeys(setting.neuron for setting, _ in sweep.results))
    timesteps = sorted({setting.timesteps for setting, _ in sweep.results})
    alphas = sorted({setting.alpha for setting, _ in sweep.results})
    figure = Figure(figsize=(1.2 + 2.6 * len(neurons), 3.5), layout="constrained")
    panels = figure.subplots(1, len(neurons), sharey=True, squeeze=False)[0]
    for panel, neuron in zip(panels, neurons, strict=True):
        panel.axhline(1.0, color="0.35", linewidth=0.8, linestyle=":")
        for index, alpha in enumerate(alphas):
            chosen = [pair for pair in sweep.results if pair[0].neuron == neuron and pair[0].alpha == alpha]
            _draw_line(panel, chosen, sweep.dense, alpha, index)
        panel.set_title(neuron.label, fontweight="bold")
        panel.set_xscale("log", base=2)
        panel.set_xticks(timesteps, [str(steps) for steps in timesteps])
        panel.set_xlabel("simulation steps T")
        panel.grid(axis="y", color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("return / dense return")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0].set_ylim(bottom=min(0.0, panels[0].get_ylim()[0]))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title, fontsize="medium")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=160)
    write_atomically(path, image.getvalue())


# Okabe and Ito: colours that people with colour-blindness can tell apart. Grey is for the plain conversion.
_COLORS = ("#767676", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def _draw_line(
    panel: Any, points: Sequence[tuple[Dynamics, Evaluation]], dense: Evaluation, alpha: float, index: int
) -> None:
    ordered = sorted(points, key=lambda pair: pair[0].timesteps)
    steps = [setting.timesteps for setting, _ in ordered]
    ratios = [evaluation.ratio(dense) for _, evaluation in ordered]
    color = _COLORS[index % len(_COLORS)]
    panel.plot(
        steps,
        [ratio.value for ratio in ratios],
        color=color,
        marker="o" if alpha else "s",
        markersize=4.5,
        linestyle="-" if alpha else "--",
        label=f"with CRPI, α = {alpha:g}" if alpha else "without CRPI (α = 0)",
    )
    panel.fill_between(
        steps, [ratio.low for ratio in ratios], [ratio.high for ratio in ratios], color=color, alpha=0.15, linewidth=0
    )


def _ends(low: float, high: float) -> list[float] | None:
    """An interval for JSON, which has no NaN: None where there were too few episodes."""
    return None if low != low else [low, high]
