"""Tables and lists of the report, as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from snnkern.evaluation import Interval
from snnkern.markup import Markup, element, join
from snnkern.neurons import NEURONS, Kind
from snnkern.report import duration
from snnkern.results import Collection, cheapest, describe_setting, plain

_SHARES = (0.9, 0.95, 0.99)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Markup:
    """A table that scrolls sideways where it is too wide.

    Args:
        caption: what it shows.
        head: of every column; none where rows name themselves.
        rows: cells.
        words: how many columns, from the left, hold words; the others hold numbers. The first cell names its row.
    """

    def cell(index: int, content: str) -> Markup:
        kind = {} if index < words else {"class_": "number"}
        return element("th", content, scope="row") if index == 0 else element("td", content, **kind)

    heads = [
        element("th", text, scope="col", **({} if index < words else {"class_": "number"}))
        for index, text in enumerate(head)
    ]
    body = [element("tr", *(cell(index, content) for index, content in enumerate(row))) for row in rows]
    top = element("thead", element("tr", *heads)) if head else Markup()
    whole = element("table", element("caption", caption), top, element("tbody", *body))
    return element("div", whole, class_="scroll", role="region", tabindex="0", aria_label=caption)


def findings(collection: Collection) -> Markup:
    """The settings with the fewest spikes that keep so much of the dense return."""
    points = [point for point in collection.points if point.average]
    every = [point.setting for point in points]
    rows = []
    for share in _SHARES:
        best = cheapest(points, share)
        kept = f"{100 * share:.0f} %"
        if best is None:
            rows.append([kept, "none of these settings", "", ""])
        else:
            assert best.average
            rows.append([kept, describe_setting(best.setting, every), interval(best.average), f"{best.spikes:,.0f}"])
    head = ["at least", "setting", "average ratio [95 %]", "spikes per decision"]
    notes = element("ul", *(element("li", note) for note in collection.notes)) if collection.notes else Markup()
    return join(table("The fewest spikes that keep so much of the dense return", head, rows, words=2), notes)


def averages_table(collection: Collection) -> Markup:
    """Average performance ratio and spikes of every setting."""
    rows = [
        [
            point.setting.variant.neuron,
            str(point.setting.timesteps),
            plain(point.setting.alpha),
            plain(point.setting.variant.memory),
            point.setting.variant.calibration,
            "–" if point.average is None else interval(point.average),
            f"{point.spikes:,.0f}",
        ]
        for point in collection.points
    ]
    head = ["neuron", "T", "α", "μ", "thresholds", "average ratio [95 %]", "spikes"]
    return table("Average performance ratio and spikes per decision", head, rows)


def returns_table(collection: Collection) -> Markup:
    """Mean return and its spread of every setting and the dense actor, by actor."""
    places = sorted(collection.dense)

    def mean(evaluation: Any) -> str:
        return "–" if evaluation is None else f"{evaluation.mean:,.0f} ± {evaluation.std:,.0f}"

    every = [point.setting for point in collection.points]
    rows = [["dense", *(mean(collection.dense[place]) for place in places)]]
    rows += [
        [describe_setting(point.setting, every), *(mean(point.evaluations.get(place)) for place in places)]
        for point in collection.points
    ]
    return table("Return, mean ± standard deviation over episodes", ["", *(place.label for place in places)], rows)


def actors_table(collection: Collection) -> Markup:
    """The dense actors, what they are compared by, and a hash that tells them apart."""
    rows = []
    for place in sorted(collection.dense):
        dense = collection.dense[place]
        ends = dense.interval()
        between = "" if math.isnan(ends.low) else f" [{ends.low:,.0f} … {ends.high:,.0f}]"
        row = [place.actor, place.environment, f"{dense.mean:,.0f}{between}", f"{dense.std:,.0f}"]
        rows.append([*row, str(len(dense.returns)), place.fingerprint[:12]])
    head = ["actor", "environment", "dense return [95 %]", "standard deviation", "episodes", "fingerprint"]
    return table("Dense actors", head, rows, words=2)


def settings_table(collection: Collection) -> Markup:
    """How the results were made: what all tasks have, or all that they differ in."""
    tasks = [record["task"] for record in collection.records]
    spiking = [task for task in tasks if task["setting"] is not None]
    runs = [record["run"] for record in collection.records]
    ended = sorted(run["finished"][:16].replace("T", " ") for run in runs if "finished" in run)
    seconds = sum(run.get("seconds", 0.0) for run in runs)
    facts = {
        "tasks": f"{len(tasks):,}",
        "episodes of a spiking actor": _all(task["episodes"] for task in spiking),
        "episodes of a dense actor": _all(task["episodes"] for task in tasks if task["setting"] is None),
        "seeds of first episodes": _all(task["seed"] for task in tasks),
        "neurons": _all(_neuron(task["setting"]) for task in spiking),
        "T": _all(task["setting"]["timesteps"] for task in spiking),
        "α": _all(task["setting"]["alpha"] for task in spiking),
        "μ": _all(task["setting"]["memory"] for task in spiking),
        "κ": _all(task["setting"]["clip"] for task in spiking),
        "thresholds": _all(_calibration(task["calibration"]) for task in spiking),
        "computed by": _all(task["backend"] for task in spiking if task["backend"]),
        "versions": _all(_versions(task["versions"]) for task in tasks if task["versions"]),
        "run": f"{ended[0]} to {ended[-1]} UTC" if ended else "",
        "processor time": duration(seconds),
    }
    rows = [[name, fact] for name, fact in facts.items() if fact]
    return table(f"How the results of {collection.name} were made", [], rows, words=2)


def chosen_table(collection: Collection) -> Markup:
    """What rules chose for α and μ, by actor; empty where there were no rules."""
    rows: dict[tuple[str, ...], None] = {}
    for record in collection.records:
        setting, dynamics = record["task"]["setting"], record["result"].get("dynamics")
        if setting and dynamics and any(isinstance(setting[key], str) for key in ("alpha", "memory")):
            row = (
                record["actor"],
                _neuron(setting),
                str(setting["timesteps"]),
                _calibration(record["task"]["calibration"]),
                plain(dynamics["alpha"]),
                plain(dynamics["memory"]),
            )
            rows[row] = None
    if not rows:
        return Markup()
    return table("What the rules chose", ["actor", "neuron", "T", "thresholds", "α", "μ"], sorted(rows), words=1)


def machine_table(what: str, summary: dict[str, Any]) -> Markup:
    """How an analysis, an energy account or a benchmark was made."""
    machine = summary.get("machine", {})
    dynamics = summary.get("dynamics")
    facts = {
        "actor": summary["actor"],
        "environment": summary.get("environment"),
        "setting": dynamics
        and f"{_neuron(dynamics)}, T = {dynamics['timesteps']}, α = {dynamics['alpha']:g}, μ = {dynamics['memory']:g}, "
        f"κ = {dynamics['clip']:g}",
        "thresholds": summary.get("calibration"),
        "episodes": summary.get("episodes"),
        "along": summary.get("along"),
        "seed of the first episode": summary.get("seed"),
        "processor": machine.get("cpu"),
        "kernels": machine.get("engine"),
        "versions": _versions(machine.get("versions", {})),
        "warning": machine.get("busy"),
    }
    rows = [[name, str(fact)] for name, fact in facts.items() if fact not in (None, "")]
    return table(what, [], rows, words=2)


def interval(estimate: Interval) -> str:
    """A ratio in percent with its interval."""
    between = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:.1f} … {100 * estimate.high:.1f}]"
    return f"{100 * estimate.value:.1f} %{between}"


def _all(values: Iterable[Any]) -> str:
    """All different values, numbers before names."""
    found = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    return ", ".join(plain(value) for value in found)


def _neuron(setting: dict[str, Any]) -> str:
    """A neuron with all its parameters."""
    given = dict(setting["neuron"])
    name = given.pop("name").upper()
    has = {field.name for field in fields(NEURONS[Kind[name]]) if field.init}
    symbols = {"initial_fraction": "β", "negative_fraction": "η", "levels": "L", "leak": "leak"}
    symbols = {key: symbol for key, symbol in symbols.items() if key in has}
    return f"{name} ({', '.join(f'{symbol} = {given[key]:g}' for key, symbol in symbols.items())})"


def _calibration(calibration: dict[str, Any]) -> str:
    if "steps" in calibration:
        return f"{calibration['rule']} ({calibration['steps']:,} steps, seed {calibration['seed']})"
    return calibration.get("rule") or f"given ({calibration['thresholds'][:12]})"


def _versions(versions: dict[str, Any]) -> str:
    return " · ".join(f"{name} {number}" for name, number in versions.items() if number)
