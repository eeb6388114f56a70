"""Makes the tables of the report's page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from snnkern.analysis.summaries import AnalysisSummary, BenchSummary, EnergySummary
from snnkern.control.evaluation import Evaluation
from snnkern.control.records import CalibrationDescription
from snnkern.control.timing import Machine
from snnkern.report.columns import POINT_COLUMNS, mean_return, percent, tabulate
from snnkern.studies.results import Collection, cheapest
from snnkern.studies.settings import Setting, describe_neuron, describe_setting, plain
from snnkern.text import duration

_SHARES = (0.9, 0.95, 0.99)


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        caption: what it shows.
        headings: of the columns; none where rows name themselves.
        rows: cells; the first one names its row.
        words: how many columns, from the left, hold words; the others hold numbers.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def findings_table(collection: Collection) -> Table:
    """Lists the settings with the fewest spikes that keep 90, 95 and 99 % of the dense return."""
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
            rows.append(
                [kept, describe_setting(best.setting, every), percent(best.average, " %"), f"{best.spikes:,.0f}"]
            )
    head = ["at least", "setting", "average ratio [95 %]", "spikes per decision"]
    return Table("The fewest spikes that keep so much of the dense return", head, rows, words=2)


def averages_table(collection: Collection) -> Table:
    """Lists the average performance ratio and the spikes of every setting."""
    cells = tabulate(POINT_COLUMNS, collection.points)
    return Table("Average performance ratio and spikes per decision", cells.headings, cells.rows)


def returns_table(collection: Collection) -> Table:
    """Lists the mean return of the dense actor and of every setting, by actor."""
    actors = sorted(collection.dense)

    def mean(evaluation: Evaluation | None) -> str:
        return "–" if evaluation is None else mean_return(evaluation)

    every = [point.setting for point in collection.points]
    rows = [["dense", *(mean(collection.dense[actor]) for actor in actors)]]
    rows += [
        [describe_setting(point.setting, every), *(mean(point.evaluations.get(actor)) for actor in actors)]
        for point in collection.points
    ]
    return Table("Return, mean ± standard deviation over episodes", ["", *(actor.label for actor in actors)], rows)


def actors_table(collection: Collection) -> Table:
    """Lists the dense actors with their returns and fingerprints."""
    rows = []
    for actor in sorted(collection.dense):
        dense = collection.dense[actor]
        ends = dense.interval()
        between = "" if math.isnan(ends.low) else f" [{ends.low:,.0f} … {ends.high:,.0f}]"
        row = [actor.name, actor.environment, f"{dense.mean:,.0f}{between}", f"{dense.std:,.0f}"]
        rows.append([*row, str(len(dense.returns)), actor.fingerprint[:12]])
    head = ["actor", "environment", "dense return [95 %]", "standard deviation", "episodes", "fingerprint"]
    return Table("Dense actors", head, rows, words=2)


def settings_table(collection: Collection) -> Table:
    """Lists how the results were made: the values of every setting, over all tasks."""
    tasks = [record["task"] for record in collection.records]
    spiking = [task for task in tasks if task["setting"] is not None]
    settings = [point.setting for point in collection.points]
    runs = [record["run"] for record in collection.records]
    ended = sorted(run["finished"][:16].replace("T", " ") for run in runs if "finished" in run)
    seconds = sum(run.get("seconds", 0.0) for run in runs)
    facts = {
        "tasks": f"{len(tasks):,}",
        "episodes of a spiking actor": _all(task["episodes"] for task in spiking),
        "episodes of a dense actor": _all(task["episodes"] for task in tasks if task["setting"] is None),
        "seeds of first episodes": _all(task["seed"] for task in tasks),
        "neurons": _all(describe_neuron(setting.neuron) for setting in settings),
        "T": _all(setting.timesteps for setting in settings),
        "α": _all(setting.alpha for setting in settings),
        "μ": _all(setting.memory for setting in settings),
        "κ": _all(setting.clip for setting in settings),
        "thresholds": _all(_calibration(found) for task in tasks if (found := task["calibration"])),
        "computed by": _all(task["backend"] for task in spiking if task["backend"]),
        "versions": _all(_versions(task["versions"]) for task in tasks if task["versions"]),
        "run": f"{ended[0]} to {ended[-1]} UTC" if ended else "",
        "processor time": duration(seconds),
    }
    rows = [[name, fact] for name, fact in facts.items() if fact]
    return Table(f"How the results of {collection.name} were made", [], rows, words=2)


def chosen_table(collection: Collection) -> Table:
    """Lists the α that rules chose, by actor; has no rows if no setting used a rule."""
    rows: dict[tuple[str, ...], None] = {}
    for record in collection.records:
        task, dynamics = record["task"], record["result"].get("dynamics")
        if task["setting"] and task["calibration"] and dynamics and isinstance(task["setting"]["alpha"], str):
            setting, thresholds = Setting.from_dict(task["setting"], ""), _calibration(task["calibration"])
            neuron, timesteps = describe_neuron(setting.neuron), str(setting.timesteps)
            rows[record["actor"], neuron, timesteps, thresholds, plain(dynamics["alpha"])] = None
    return Table("What the rules chose", ["actor", "neuron", "T", "thresholds", "α"], sorted(rows), words=1)


def analysis_table(summary: AnalysisSummary) -> Table:
    """Lists how an analysis was made."""
    setting = Setting.from_dict(summary.dynamics, summary.calibration)
    facts = {
        "environment": summary.environment,
        "setting": f"{describe_neuron(setting.neuron)}, T = {setting.timesteps}, α = {plain(setting.alpha)}, "
        f"μ = {setting.memory:g}, κ = {setting.clip:g}",
        "thresholds": setting.calibration,
        "episodes": summary.episodes,
        "seed of the first episode": summary.seed,
    }
    return _made("analysis", summary.actor, facts, summary.machine)


def energy_table(summary: EnergySummary) -> Table:
    """Lists how costs were computed."""
    facts = {
        "environment": summary.environment,
        "thresholds": summary.calibration,
        "along": summary.along,
        "seed of the first episode": summary.seed,
    }
    return _made("costs", summary.actor, facts, summary.machine)


def bench_table(summary: BenchSummary) -> Table:
    """Lists how a benchmark was made."""
    return _made("latency", summary["actor"], {}, summary["machine"])


def _made(what: str, actor: str, facts: Mapping[str, object], machine: Machine) -> Table:
    """Makes a table of facts and of the machine; unknown facts are left out."""
    versions = _versions(machine.get("versions", {}))
    measured = {"processor": machine.get("cpu"), "kernels": machine.get("engine"), "versions": versions}
    found = {"actor": actor, **facts, **measured, "warning": machine.get("busy")}
    rows = [[name, str(fact)] for name, fact in found.items() if fact not in (None, "")]
    return Table(f"How the {what} of {actor} was made", [], rows, words=2)


def _all(values: Iterable[Any]) -> str:
    """Lists the different values, numbers before names."""
    found = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    return ", ".join(plain(value) for value in found)


def _calibration(calibration: CalibrationDescription) -> str:
    if "steps" in calibration:
        return f"{calibration['rule']} ({calibration['steps']:,} steps, seed {calibration['seed']})"
    return calibration.get("rule") or f"given ({calibration['thresholds'][:12]})"


def _versions(versions: Mapping[str, str | None]) -> str:
    return " · ".join(f"{name} {number}" for name, number in versions.items() if number)
