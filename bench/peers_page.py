"""The tables and the figure of docs/performance.md, from what `bench/peers.py` measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comparison import T
from contenders import PEERS, TIMESTEPS

from snnkern.kernels.neurons import NEURON_NAMES
from snnkern.report.style import (
    DENSE_BAR,
    DENSE_LINE,
    GRID,
    NEURON_STYLES,
    OTHER_BAR,
    legend_of_bars,
    neuron_bar,
    scale_timesteps,
    tidy,
    write_figure,
)
from snnkern.text import shorten

BATCH = 1024


def targets_table(results: dict[str, Any]) -> str:
    lines = ["| what | target | reach for | measured | quartiles | |", "|---|---|---|---|---|---|"]
    for row in results["targets"]:
        low, middle, high = row["measured"]
        sign, unit = ("≥" if row["more"] else "≤"), row["unit"]
        better, worse = (high, low) if row["more"] else (low, high)
        verdict = "**missed**"
        for value, aim, word in (
            (better, "least", "at the limit"),
            (worse, "least", "met"),
            (worse, "reach", "reached"),
        ):
            if value >= row[aim] if row["more"] else value <= row[aim]:
                verdict = word
        spread = f"{shorten(low)} … {shorten(high)}" if low != high else ""
        aims = f"{sign} {row['least']:g} {unit} | {row['reach']:g} {unit}"
        lines.append(f"| {row['what']} | {aims} | {shorten(middle)} {unit} | {spread} | {verdict} |")
    return "\n".join(lines)


def labels() -> list[tuple[str, str, str]]:
    """Contenders at batch 1 as name, label and group, those of snnkern first."""
    spiking = [(f"act {name} {T}", f"snnkern {name.upper()}, `snn.act`", "snnkern") for name in NEURON_NAMES]
    spiking.append((f"tensor if {T}", "snnkern IF, `snn(tensor)`", "snnkern"))
    loops = [
        ("compiled loop", "published loop, first layer hoisted, `torch.compile`", "spiking"),
        ("SpikingJelly", "SpikingJelly, IF without carry", "spiking"),
        ("sinabs", "sinabs, IF without carry", "spiking"),
        ("Norse", "Norse, IF without carry", "spiking"),
        ("published loop", "published loop, IF", "spiking"),
        ("snnTorch", "snnTorch, IF without carry", "spiking"),
        (f"reference if {T}", 'snnkern IF, `backend="reference"`', "spiking"),
    ]
    dense = [
        ("dense NumPy", "dense, NumPy", "dense"),
        ("dense ONNX Runtime", "dense, ONNX Runtime", "dense"),
        ("dense eager PyTorch", "dense, eager PyTorch", "dense"),
        ("dense Actor.act", "dense, eager PyTorch with checks (`actor.act`)", "dense"),
        ("dense torch.compile", "dense, `torch.compile`", "dense"),
    ]
    return spiking + loops + dense


def latency_table(results: dict[str, Any]) -> str:
    one = results["one"]
    ours = one[f"act if {T}"][1]
    lines = [f"| batch 1, T = {T} | µs | quartiles | times `snn.act`, IF |", "|---|---|---|---|"]
    groups = ("snnkern", "spiking", "dense")
    for name, label, _ in sorted(labels(), key=lambda row: (groups.index(row[2]), one.get(row[0], [0, 0])[1])):
        if name not in one:
            lines.append(f"| {label} | missing | | |")
            continue
        low, middle, high = (1e6 * value for value in one[name])
        ratio = shorten(middle / (1e6 * ours))
        lines.append(f"| {label} | {shorten(middle)} | {shorten(low)} … {shorten(high)} | {ratio} |")
    lines += ["", "| `snn.act`, `snn(tensor)`, µs | " + " | ".join(name.upper() for name in NEURON_NAMES) + " |"]
    lines.append("|---|" + "---|" * len(NEURON_NAMES))
    for timesteps in TIMESTEPS:
        cells = [
            ", ".join(shorten(1e6 * one[f"{way} {name} {timesteps}"][1]) for way in ("act", "tensor"))
            for name in NEURON_NAMES
        ]
        lines.append(f"| T = {timesteps} | {' | '.join(cells)} |")
    lines += ["", _conditions(results)]
    return "\n".join(lines)


def batch_table(results: dict[str, Any]) -> str:
    batch = results["batch"]
    lines = [f"| batch {BATCH}, T = {T} | one thread, µs | quartiles | two threads, µs |", "|---|---|---|---|"]
    rows = [(f"act {name} {T}", f"snnkern {name.upper()}, `snn.act`") for name in NEURON_NAMES]
    rows += [("published loop", "published loop, IF"), ("dense ONNX Runtime", "dense, ONNX Runtime")]
    for name, label in rows:
        if name not in batch:
            lines.append(f"| {label} | missing | | |")
            continue
        low, middle, high = (f"{1e6 * value:,.0f}" for value in batch[name])
        two = f"{1e6 * batch[f'{name} ×2'][1]:,.0f}" if f"{name} ×2" in batch else ""
        lines.append(f"| {label} | {middle} | {low} … {high} | {two} |")
    return "\n".join(lines)


def floor_table(results: dict[str, Any]) -> str:
    """The parts of a decision, which are measured one by one, and what remains of the whole."""
    floor = results["floor"]
    parts = floor["parts"]
    measured = [results["one"][f"act if {T}"][1], results["batch"][f"act if {T}"][1] / BATCH]
    spikes = [
        floor["spikes"][0] * (loud - silent) / (T * floor["loud"]) for loud, silent in _pairs(parts, "loud", "silent")
    ]
    known = {
        "calling from Python (an actor of 1-1-1, T = 1)": parts["call"],
        "one step in which nobody fires: first layer, outputs, tanh, carry": [
            silent - call for silent, call in _pairs(parts, "silent 1", "call")
        ],
        f"{T - 1} more such steps: every neuron updated": [
            silent - first for silent, first in _pairs(parts, "silent", "silent 1")
        ],
        f"{floor['spikes'][0]:.0f} spikes of the first layer, as where {floor['loud']} neurons fire": spikes,
    }
    whole = [sum(values) for values in zip(*known.values(), strict=True)]
    known |= {
        "these parts": whole,
        "what remains": [value - part for value, part in zip(measured, whole, strict=True)],
        "measured, `snn.act`": measured,
    }
    lines = [f"| IF, T = {T}: µs per decision and row | batch 1 | batch {BATCH} |", "|---|---|---|"]
    lines += [f"| {what} | {' | '.join(f'{1e6 * value:.2f}' for value in values)} |" for what, values in known.items()]
    sent = ", ".join(f"{value:.0f}" for value in floor["spikes"])
    per_spike = " and ".join(f"{1e9 * value / floor['spikes'][0]:.1f}" for value in spikes)
    lines.append(
        f"\nSpikes per decision, hidden layers: {sent}. Additions of a weight: {floor['additions']:,.0f}, on "
        f"{floor['bytes'] / 1024:.0f} KiB of weights. A spike of the first layer: {per_spike} ns."
    )
    return "\n".join(lines)


def _pairs(parts: dict[str, list[float]], first: str, second: str) -> Iterator[tuple[float, float]]:
    return zip(parts[first], parts[second], strict=True)


def peers_table(results: dict[str, Any]) -> str:
    versions, checks = results["machine"]["versions"], results["checks"]
    lines = ["| what | version | actions that agree | not equivalent |", "|---|---|---|---|"]
    for name, package in PEERS.items():
        said = results["not_equivalent"].get(name, "nothing: a graph of Gemm, Relu and Tanh")
        found = f"dense {name}" if f"dense {name}" in checks else name
        agreeing = f"{100 * checks[found]['agreeing']:.0f} %" if found in checks else "missing"
        lines.append(f"| {name} | {versions[package] or 'missing'} | {agreeing} | {said} |")
    lines.append(f"\nAll four libraries: {results['not_equivalent']['all four libraries']}")
    return "\n".join(lines)


def _conditions(results: dict[str, Any]) -> str:
    found = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    missing = ", ".join(f"{name} ({reason})" for name, reason in results["missing"].items()) or "none"
    load = "" if found["load"] is None else f" Load average at the end: {found['load']:.1f}."
    return (
        f"{found['cpu']}, {found['cores']} cores, engine: {found['engine']}; {versions}. Medians over "
        f"{results['rounds']} rounds each.{load} Missing: {missing}."
    )


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of batch-1 latency on a logarithmic scale, and latency against T."""
    from matplotlib.figure import Figure

    one = results["one"]
    others = {"spiking": OTHER_BAR, "dense": DENSE_BAR}
    bars = sorted(
        (
            (
                1e6 * one[name][1],
                label.replace("`", ""),
                neuron_bar(name.split()[1]) if group == "snnkern" else others[group],
            )
            for name, label, group in labels()
            if name in one
        ),
        key=lambda bar: -bar[0],
    )
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    panel, lines = figure.subplots(1, 2, width_ratios=[2, 1])
    panel.set_yticks(range(len(bars)), [label for _, label, _ in bars])
    for index, (value, _, look) in enumerate(bars):
        panel.barh(index, value, **look)
        panel.annotate(shorten(value), (value, index), (3, 0), textcoords="offset points", va="center", fontsize=8)
    panel.set_xscale("log")
    panel.set_xlim(1, 3.0 * max(value for value, _, _ in bars))
    panel.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    panel.set_xlabel(f"µs per decision, batch 1, T = {T}, called from Python")
    panel.tick_params(axis="y", length=0, labelsize=8.5)
    panel.grid(axis="x", color=GRID)
    ours = [neuron_bar(name) for name in NEURON_NAMES]
    legend_of_bars(panel, {"spiking, snnkern": ours, "spiking, others": [OTHER_BAR], "dense": [DENSE_BAR]})
    for name in NEURON_NAMES:
        color, dash, marker = NEURON_STYLES[name]
        medians = [1e6 * one[f"act {name} {timesteps}"][1] for timesteps in TIMESTEPS]
        lines.plot(TIMESTEPS, medians, color=color, linestyle=dash, marker=marker, markersize=4, label=name.upper())
    if "dense ONNX Runtime" in one:
        dense = 1e6 * one["dense ONNX Runtime"][1]
        lines.axhline(dense, **DENSE_LINE, label="dense, ONNX Runtime")
    scale_timesteps(lines, TIMESTEPS)
    lines.set_yscale("log", base=2)
    ticks = [1, 2, 4, 8, 16, 32]
    lines.set_yticks(ticks, [str(tick) for tick in ticks])
    lines.minorticks_off()
    lines.set_ylabel("µs per decision, snn.act")
    lines.grid(color=GRID)
    lines.legend(frameon=False, fontsize=8)
    tidy([panel, lines])
    figure.suptitle(f"17-256-256-6 actor, one thread, {results['machine']['cpu']}", fontsize="medium")
    write_figure(figure, path)


TABLES = {
    "targets": targets_table,
    "latency": latency_table,
    "batch": batch_table,
    "peers": peers_table,
    "floor": floor_table,
}
