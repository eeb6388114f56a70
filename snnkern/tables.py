"""What the command line prints: summaries of results as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from snnkern.benchmark import ACT, DENSE, LOOP, TENSOR
from snnkern.intervals import Interval
from snnkern.report import shorten
from snnkern.results import Collection, plain
from snnkern.summaries import BenchSummary, NotBeaten, Timed
from snnkern.terminal import say, show
from snnkern.text import count

_FEW = 10  # turns
_MANY = 80  # lines of a table


def print_evaluation(summary: dict[str, Any]) -> None:
    """One policy's return; a summary as `snnkern evaluate --json` prints it."""
    interval = summary["return_interval"]
    between = f", 95 % interval {interval[0]:,.1f} … {interval[1]:,.1f}" if interval else ""
    say(
        f"{summary['policy']} in {summary['environment']}: return {summary['return_mean']:,.1f} "
        f"± {summary['return_std']:,.1f} over {count(len(summary['returns']), 'episode')}{between}"
    )
    if "spikes_per_decision_per_layer" in summary:
        layers = " + ".join(f"{spikes:.1f}" for spikes in summary["spikes_per_decision_per_layer"])
        say(f"spikes per decision: {layers}")


def print_sweep(summary: dict[str, Any]) -> None:
    """The dense actor and every setting; a summary as `snnkern demo --json` prints it."""
    timed = "microseconds_per_decision" in summary["dense"]
    formula = summary["ratio"]
    remembers = any(entry["memory"] for entry in summary["results"])
    table = Table(
        "neuron", title=f"{summary['actor']} in {summary['environment']}", title_justify="left", caption_justify="left"
    )
    headings = ["T", "α", *(["μ"] if remembers else []), "return", "ratio, %", "spikes", *(["µs"] if timed else [])]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)

    def row(entry: dict[str, Any], *first: str) -> None:
        ends = entry.get("performance_ratio_interval")
        between = f" [{100 * ends[0]:.1f} … {100 * ends[1]:.1f}]" if ends else ""
        ratio = entry.get("performance_ratio")
        spikes = entry.get("spikes_per_decision")
        cells = [
            *first,
            f"{entry['return_mean']:,.0f} ± {entry['return_std']:,.0f}",
            "" if ratio is None else f"{100 * ratio:.1f}{between}",
            "" if spikes is None else f"{spikes:.0f}",
        ]
        if timed:
            cells.append(f"{entry['microseconds_per_decision']:.1f}")
        table.add_row(*cells)

    without = [""] * (3 if remembers else 2)
    row(summary["dense"] | {"performance_ratio": 1.0 if formula else None}, "dense", *without)
    if "random" in summary:
        row(summary["random"] | {"performance_ratio": 0.0 if formula else None}, "random", *without)
    previous = None
    for entry in summary["results"]:
        if entry["neuron"] != previous:
            table.add_section()
        previous = entry["neuron"]
        carry = [f"{entry['alpha']:g}", *([f"{entry['memory']:g}"] if remembers else [])]
        row(entry, entry["neuron"]["name"].upper(), str(entry["timesteps"]), *carry)
    notes = [
        "return: mean ± standard deviation over episodes",
        f"ratio: {formula}, [95 % interval]" if formula else "no ratio: the dense return is not positive",
        "spikes: per decision, all hidden layers",
    ]
    if timed:
        notes.append("µs: one decision at batch 1, from Python, one thread")
    table.caption = "\n".join(notes)
    show(table)


def print_collection(collection: Collection) -> None:
    """Average performance ratio and spikes of every setting of a sweep."""
    settings = [point.setting for point in collection.points]
    if len(settings) > _MANY:
        say(f"{len(settings):,} settings: too many for a table here, see the report.")
        return
    table = Table("neuron", title="Averages over actors", title_justify="left", caption_justify="left")
    for heading in ("T", "α", "μ", "thresholds", "ratio, %", "spikes"):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for point in collection.points:
        variant, timesteps, alpha = point.setting
        if variant != previous and previous is not None:
            table.add_section()
        previous = variant
        ratio = "–" if point.average is None else _ratio(point.average)
        table.add_row(
            variant.neuron,
            str(timesteps),
            plain(alpha),
            f"{variant.memory:g}",
            variant.calibration,
            ratio,
            f"{point.spikes:,.0f}",
        )
    notes = [
        "ratio: return / dense return (or as said below), mean over actors, [95 % interval]",
        "spikes: per decision, all layers",
    ]
    table.caption = "\n".join([*notes, *collection.notes])
    show(table)


def _ratio(interval: Interval) -> str:
    between = "" if math.isnan(interval.low) else f" [{100 * interval.low:.0f} … {100 * interval.high:.0f}]"
    return f"{100 * interval.value:.1f}{between}"


def print_benchmark(summary: BenchSummary) -> None:
    """Times, ratios to the dense actor, and what is not beaten; a summary as `snnkern bench --json` prints it."""
    widths = "-".join(str(width) for width in summary["layers"])
    say(f"{summary['actor']} ({widths}): µs per decision")
    shapes = list(dict.fromkeys((entry["batch"], entry["threads"]) for entry in summary["results"]))
    tables = []
    if (1, 1) in shapes:
        tables.append(_table_of_one(_entries(summary, 1, 1)))
    for threads in sorted({threads for batch, threads in shapes if batch > 1}):
        batches = [batch for batch, count in shapes if batch > 1 and count == threads]
        tables.append(_table_of_many(summary, batches, threads))
    if summary["not_beaten"]:
        tables.append(_table_of_losses(summary, shapes))
    for table in tables:
        say("")
        show(table)
    say("")
    for line in [*_victories(summary, shapes), "", *_conditions(summary)]:
        say(line, wrapped=True)


def _entries(summary: BenchSummary, batch: int, threads: int) -> list[Timed]:
    return [entry for entry in summary["results"] if (entry["batch"], entry["threads"]) == (batch, threads)]


def _table_of_one(entries: list[Timed]) -> Table:
    """One observation at a time: both ways of calling, and how many times as fast as every dense runtime."""
    runtimes = [entry["name"] for entry in entries if entry["name"] in DENSE]
    short = [f"×{runtime.split()[0]}" for runtime in runtimes]
    table = _table("One observation", "", "T", "snn.act", "tensor", *short, "spikes")
    table.caption = (
        "snn.act: median and quartiles; tensor: snn(tensor); spikes: per decision\n"
        "×: how many times as fast as the dense actor in that runtime\n"
        "loop: the published Python loop, IF neurons"
    )
    tensors = {_key(entry): shorten(entry["microseconds"][1]) for entry in entries if entry["name"] == TENSOR}
    previous = None
    for entry in entries:
        if entry["name"] == TENSOR:
            continue
        if entry["name"] != previous and previous is not None and entry["name"] not in DENSE[1:]:
            table.add_section()
        previous = entry["name"]
        low, median, high = (shorten(value) for value in entry["microseconds"])
        table.add_row(
            _what(entry),
            str(entry.get("timesteps", "")),
            f"{median} [{low} … {high}]",
            tensors.get(_key(entry), "") if entry["name"] == ACT else "",
            *(_times(entry, runtime) for runtime in runtimes),
            f"{entry['spikes_per_decision']:,.0f}" if "spikes_per_decision" in entry else "",
        )
    return table


def _table_of_many(summary: BenchSummary, batches: Sequence[int], threads: int) -> Table:
    """Larger batches: `snn.act`, and how many times as fast as the fastest dense runtime."""
    fastest = {entry["batch"]: entry["runtime"] for entry in summary["fastest_dense"] if entry["threads"] == threads}
    headings = [heading for batch in batches for heading in (f"batch {batch:,}", "×")]
    table = _table(f"Batches, {'one thread' if threads == 1 else f'{threads} threads'}: snn.act", "", "T", *headings)
    table.caption = "×: how many times as fast as the fastest dense runtime"
    cells: dict[tuple[str, str], dict[int, Timed]] = {}
    for batch in batches:
        for entry in _entries(summary, batch, threads):
            if entry["name"] != TENSOR:
                cells.setdefault((_what(entry), str(entry.get("timesteps", ""))), {})[batch] = entry
    for (what, timesteps), by_batch in cells.items():
        row = [
            (shorten(by_batch[batch]["microseconds"][1]), _times(by_batch[batch], fastest.get(batch)))
            if batch in by_batch
            else ("", "")
            for batch in batches
        ]
        table.add_row(what, timesteps, *(cell for pair in row for cell in pair))
    return table


def _table_of_losses(summary: BenchSummary, shapes: Sequence[tuple[int, int]]) -> Table:
    """What spiking does not beat, where and with which settings; larger batches as `snn.act` alone."""
    table = _table("What it does not beat", "", "on", "with (settings)", "×", left=3)
    table.caption = "×: times as fast; not beaten: no faster in a quarter of the rounds or more"
    for batch, threads in shapes:
        for name in _ways(batch):
            settings = [entry for entry in _entries(summary, batch, threads) if entry["name"] == name]
            losses = _losses(summary, batch, threads, name)
            for runtime in DENSE:
                lost = [entry for entry in losses if entry["runtime"] == runtime]
                if not lost:
                    continue
                some = ", ".join(f"{entry['neuron']['name'].upper()} T = {entry['timesteps']}" for entry in lost)
                if len(lost) > 2:
                    some = f"all {len(lost)}" if len(lost) == len(settings) else f"{len(lost)} of {len(settings)}"
                medians = [entry["times_as_fast"][1] for entry in lost]
                spread = " … ".join(dict.fromkeys(shorten(value) for value in (min(medians), max(medians))))
                table.add_row(_dense(runtime), _where(batch, threads), f"{name}, {some}", spread)
    return table


def _ways(batch: int) -> tuple[str, ...]:
    """How snnkern is called in what is printed: at larger batches the two ways are alike."""
    return (ACT, TENSOR) if batch == 1 else (ACT,)


def _losses(summary: BenchSummary, batch: int, threads: int, name: str) -> list[NotBeaten]:
    where = batch, threads, name
    return [entry for entry in summary["not_beaten"] if (entry["batch"], entry["threads"], entry["name"]) == where]


def _where(batch: int, threads: int) -> str:
    if batch == 1:
        return "one observation"
    return f"batch {batch:,}, {count(threads, 'thread')}"


def _victories(summary: BenchSummary, shapes: Sequence[tuple[int, int]]) -> list[str]:
    """What spiking beats with every setting, and how it compares with the published loop."""
    every = "every measured setting" if summary["unreached"] else "every setting"
    places: dict[str, list[str]] = {}
    for batch, threads in shapes:
        entries = _entries(summary, batch, threads)
        for name in _ways(batch):
            ours = [entry["times_as_fast_as"] for entry in entries if entry["name"] == name]
            lost = {entry["runtime"] for entry in _losses(summary, batch, threads, name)}
            compared = [runtime for runtime in DENSE if ours and all(runtime in ratios for ratios in ours)]
            if beaten := [_dense(runtime) for runtime in compared if runtime not in lost]:
                places.setdefault(f"{name} beats {', '.join(beaten)}", []).append(_where(batch, threads))
    lines = [f"{what} with {every}: {'; '.join(where)}." for what, where in places.items()]
    loops = [
        f"{shorten(entry['times_as_fast_as'][LOOP][1])} × (T = {entry['timesteps']})"
        for entry in _entries(summary, *shapes[0])
        if entry["name"] == ACT and LOOP in entry["times_as_fast_as"] and entry["neuron"]["name"] == "if"
    ]
    if loops:
        lines.append(f"snn.act with IF is {', '.join(loops)} as fast as the published loop: {_where(*shapes[0])}.")
    return lines


def _conditions(summary: BenchSummary) -> list[str]:
    """Where and how it was measured, and what is missing."""
    found = summary["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    loads = [f"{load:.1f}" for load in (found["load"], found["load_after"]) if load is not None]
    turns = [entry["turns"] for entry in summary["results"]]
    lines = [
        f"{found['cpu']}, {found['cores']} cores, {found['engine']}; {versions}.",
        f"{min(turns)} to {max(turns)} turns each, in {summary['seconds']:.0f} s"
        + (f"; load average before and after: {', '.join(loads)}." if loads else "."),
    ]
    lines += [f"Not measured: {name} ({reason})." for name, reason in summary["missing"].items()]
    if max(turns) < _FEW:
        lines.append(f"Warning: with fewer than {_FEW} turns each, ratios say little: give more --seconds.")
    if summary["unreached"]:
        lines.append(f"Not measured for want of time: {summary['unreached']} (see --seconds, --batch, --timesteps).")
    if wrong := [entry for entry in summary["results"] if entry["wrong"]]:
        some = dict.fromkeys(
            f"{_what(entry)} T = {entry['timesteps']}" if "timesteps" in entry else _what(entry) for entry in wrong
        )
        lines.append(f"Warning: not all actions are the reference's: {', '.join(some)}.")
    if found["busy"]:
        lines.append(f"Warning: {found['busy']}.")
    return lines


def _table(title: str, *headings: str, left: int = 1) -> Table:
    """A table narrower than the usual one, since there are many numbers; its first columns are words."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.caption_justify = "left"
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < left else "right", no_wrap=index > 0)
    return table


def _what(entry: Timed) -> str:
    if entry["name"] in DENSE:
        return _dense(entry["name"])
    return f"loop, α = {entry['alpha']:g}" if entry["name"] == LOOP else entry["neuron"]["name"].upper()


def _dense(runtime: str) -> str:
    return f"dense {runtime.split()[0]}"


def _key(entry: Timed) -> tuple[str, int]:
    return str(entry.get("neuron")), entry.get("timesteps", 0)


def _times(entry: Timed, runtime: str | None) -> str:
    ratio = entry["times_as_fast_as"].get(runtime or "")
    return shorten(ratio[1]) if ratio else ""
