"""Prints the results of `snnkern bench`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from snnkern.analysis.latency import ACT, DENSE, LOOP, TENSOR
from snnkern.analysis.summaries import BenchSummary, NotBeaten, Timed
from snnkern.report.terminal import make_table, say, show
from snnkern.text import count, shorten

_FEW = 10  # rounds


def print_benchmark(summary: BenchSummary) -> None:
    """Prints times, ratios to the dense actor, and the dense runtimes that are not beaten."""
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
    """The table for batch 1: times of both calls, and ratios to every dense runtime."""
    runtimes = [entry["name"] for entry in entries if entry["name"] in DENSE]
    short = [f"×{runtime.split()[0]}" for runtime in runtimes]
    table = make_table("One observation", "", "T", "snn.act", "tensor", *short, "spikes")
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
    """The table for larger batches: times of `snn.act`, and ratios to the fastest dense runtime."""
    fastest = {entry["batch"]: entry["runtime"] for entry in summary["fastest_dense"] if entry["threads"] == threads}
    headings = [heading for batch in batches for heading in (f"batch {batch:,}", "×")]
    table = make_table(
        f"Batches, {'one thread' if threads == 1 else f'{threads} threads'}: snn.act", "", "T", *headings
    )
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
    """The table of dense runtimes that are not beaten; larger batches have `snn.act` alone."""
    table = make_table("What it does not beat", "", "on", "with (settings)", "×", words=3)
    table.caption = "×: times as fast; not beaten: no faster in a quarter of the rounds or more"
    for batch, threads in shapes:
        for name in _calls(batch):
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


def _calls(batch: int) -> tuple[str, ...]:
    """The calls that are printed. At larger batches both take the same time."""
    return (ACT, TENSOR) if batch == 1 else (ACT,)


def _losses(summary: BenchSummary, batch: int, threads: int, name: str) -> list[NotBeaten]:
    where = batch, threads, name
    return [entry for entry in summary["not_beaten"] if (entry["batch"], entry["threads"], entry["name"]) == where]


def _where(batch: int, threads: int) -> str:
    if batch == 1:
        return "one observation"
    return f"batch {batch:,}, {count(threads, 'thread')}"


def _victories(summary: BenchSummary, shapes: Sequence[tuple[int, int]]) -> list[str]:
    """Says which dense runtimes every setting beats, and how IF compares with the published loop."""
    every = "every measured setting" if summary["unreached"] else "every setting"
    shapes_by_claim: dict[str, list[str]] = {}
    for batch, threads in shapes:
        entries = _entries(summary, batch, threads)
        for name in _calls(batch):
            ours = [entry["times_as_fast_as"] for entry in entries if entry["name"] == name]
            lost = {entry["runtime"] for entry in _losses(summary, batch, threads, name)}
            compared = [runtime for runtime in DENSE if ours and all(runtime in ratios for ratios in ours)]
            if beaten := [_dense(runtime) for runtime in compared if runtime not in lost]:
                shapes_by_claim.setdefault(f"{name} beats {', '.join(beaten)}", []).append(_where(batch, threads))
    lines = [f"{what} with {every}: {'; '.join(where)}." for what, where in shapes_by_claim.items()]
    loops = [
        f"{shorten(entry['times_as_fast_as'][LOOP][1])} × (T = {entry['timesteps']})"
        for entry in _entries(summary, *shapes[0])
        if entry["name"] == ACT and LOOP in entry["times_as_fast_as"] and entry["neuron"]["name"] == "if"
    ]
    if loops:
        lines.append(f"snn.act with IF is {', '.join(loops)} as fast as the published loop: {_where(*shapes[0])}.")
    return lines


def _conditions(summary: BenchSummary) -> list[str]:
    """Says where and how it was measured, and what is missing."""
    found = summary["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    loads = [f"{load:.1f}" for load in (found["load"], found["load_after"]) if load is not None]
    rounds = [entry["rounds"] for entry in summary["results"]]
    lines = [
        f"{found['cpu']}, {found['cores']} cores, {found['engine']}; {versions}.",
        f"{min(rounds)} to {max(rounds)} rounds each, in {summary['seconds']:.0f} s"
        + (f"; load average before and after: {', '.join(loads)}." if loads else "."),
    ]
    lines += [f"Not measured: {name} ({reason})." for name, reason in summary["missing"].items()]
    if max(rounds) < _FEW:
        lines.append(f"Warning: with fewer than {_FEW} rounds each, ratios say little: give more --seconds.")
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
