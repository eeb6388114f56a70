"""The tables and the figure of docs/paper.md: the CRPI paper's result, the same with fitted thresholds, and refined.

    make results ACTORS=FOLDER        # among others, the sweeps of bench/grids/paper.toml
    python bench/refine.py FOLDER
    python bench/paper_page.py

Draws from bench/results/paper.jsonl and refined.jsonl, and runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pages import ROOT, fill, percent, table

from snnkern.control.evaluation import Evaluation, average_performance_ratio
from snnkern.control.intervals import Interval
from snnkern.report import style
from snnkern.studies.results import Collection, Point, TrainedActor, read_collection

PAGE = ROOT / "docs" / "paper.md"
FIGURE = ROOT / "docs" / "results" / "paper.png"
RESULTS = ROOT / "bench" / "results" / "paper.jsonl"
REFINED = ROOT / "bench" / "results" / "refined.jsonl"
CALIBRATIONS = {"max": "at the maximum", "auto": "fitted"}
ONE_ALPHA = 0.2  # what `convert` takes for IF
SETS = 3  # of episodes, by seed
# What the paper states for TD3 and IF, in percent: by T, without the carry and with the best α of each environment.
STATED = {8: (64.71, 72.26)}


@dataclass(frozen=True)
class Measured:
    """Thresholds of one kind at one T, by α: what every actor reached."""

    dense: dict[TrainedActor, Evaluation]
    points: dict[float, Point]

    def average(self, alpha: float) -> Interval:
        """With one α for all actors."""
        return self._average(lambda actor: self.points[alpha].evaluations[actor])

    def best(self) -> Interval:
        """With the best α of each actor, chosen by the episodes that it is judged by, as published."""
        return self._average(lambda actor: self.points[self.best_alpha(actor)].evaluations[actor])

    def best_alpha(self, actor: TrainedActor) -> float:
        return max(self.points, key=lambda alpha: self.points[alpha].evaluations[actor].mean)

    def best_elsewhere(self) -> Interval:
        """With the best α of each actor; each set of episodes is judged with the α that is best on the other sets."""
        return self._average(self._elsewhere)

    def _elsewhere(self, actor: TrainedActor) -> Evaluation:
        alphas = list(self.points)
        returns = np.array([self.points[alpha].evaluations[actor].returns for alpha in alphas])
        sets = np.split(returns, SETS, axis=1)
        judged = []
        for index, one in enumerate(sets):
            others = np.concatenate([other for place, other in enumerate(sets) if place != index], axis=1)
            judged.append(one[others.mean(axis=1).argmax()])
        return Evaluation(tuple(map(float, np.concatenate(judged))), (), ())

    def _average(self, evaluation: Callable[[TrainedActor], Evaluation]) -> Interval:
        return average_performance_ratio([(evaluation(actor), dense) for actor, dense in self.dense.items()])


def measured(found: Collection) -> dict[tuple[str, int], Measured]:
    """By kind of thresholds and T."""
    by: dict[tuple[str, int], dict[float, Point]] = {}
    for point in found.points:
        setting = point.setting
        by.setdefault((setting.calibration, setting.timesteps), {})[float(setting.alpha)] = point
    return {key: Measured(found.dense, points) for key, points in by.items()}


def refined() -> dict[int, Interval]:
    """By T, where refinement of IF has been measured on all four actors."""
    ones = [one for one in map(json.loads, REFINED.read_text().splitlines()) if one["neuron"] == "if"]
    found = {}
    for timesteps in sorted({one["timesteps"] for one in ones}):
        groups = [
            (Evaluation(tuple(one["refined"]), (), ()), Evaluation(tuple(one["dense"]), (), ()))
            for one in ones
            if one["timesteps"] == timesteps and one["actor"].startswith("TD3")
        ]
        if len(groups) == 4:
            found[timesteps] = average_performance_ratio(groups)
    return found


def averages_table(by: dict[tuple[str, int], Measured], after: dict[int, Interval]) -> str:
    """Average performance ratios by T: the paper's result, the same with fitted thresholds, and refined."""
    rows: list[list[Any]] = []
    for calibration, name in CALIBRATIONS.items():
        for timesteps in sorted(each for kind, each in by if kind == calibration):
            one = by[calibration, timesteps]
            ratios = (one.average(0.0), one.average(ONE_ALPHA), one.best(), one.best_elsewhere())
            stated = STATED.get(timesteps, ()) if calibration == "max" else ()
            rows.append([name, timesteps, *map(percent, ratios), ", ".join(f"{value:.1f}" for value in stated)])
    rows += [["refined", timesteps, "", percent(ratio), "", "", ""] for timesteps, ratio in after.items()]
    head = ["without the carry", f"α = {ONE_ALPHA:g}", "best α of each", "best α, other episodes", "the paper"]
    return table(["thresholds", "T", *head], rows)


def alphas_table(by: dict[tuple[str, int], Measured]) -> str:
    """Average performance ratios for every α."""
    columns = [key for kind in CALIBRATIONS for key in sorted(by) if key[0] == kind]
    alphas = sorted({alpha for one in by.values() for alpha in one.points})
    rows = [
        [f"{alpha:g}", *(percent(by[key].average(alpha)) if alpha in by[key].points else "" for key in columns)]
        for alpha in alphas
    ]
    return table(["α", *(f"{CALIBRATIONS[kind]}, T = {timesteps}" for kind, timesteps in columns)], rows)


def actors_table(by: dict[tuple[str, int], Measured]) -> str:
    """By actor: without the carry and with the best α, which stands in brackets."""
    actors = list(next(iter(by.values())).dense)
    rows = []
    for calibration, name in CALIBRATIONS.items():
        for timesteps in sorted(each for kind, each in by if kind == calibration):
            one = by[calibration, timesteps]
            cells = []
            for actor in actors:
                alpha = one.best_alpha(actor)
                plain, best = (100 * one.points[each].ratios[actor].value for each in (0.0, alpha))
                cells.append(f"{plain:.0f} → {best:.0f} ({alpha:g})")
            rows.append([name, timesteps, *cells])
    return table(["thresholds", "T", *(actor.label for actor in actors)], rows)


def figure(by: dict[tuple[str, int], Measured], after: dict[int, Interval]) -> Any:
    """Average performance ratio against T: what the carry adds, what fitting adds, and what refinement adds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    drawing = Figure(figsize=(7.0, 4.2), layout="constrained")
    panel = drawing.subplots()
    panel.axhline(100, **style.DENSE_LINE)
    color = style.NEURON_STYLES["if"].color
    looks = {
        ("max", "plain"): (
            "thresholds at the maximum, no carry",
            {"color": style.GREY, "linestyle": "--", "marker": "o"},
        ),
        ("max", "best"): (
            "with the best α of each environment",
            {"color": style.GREY, "linestyle": "-", "marker": "o"},
        ),
        ("auto", "plain"): ("fitted thresholds, no carry", {"color": color, "linestyle": "--", "marker": "s"}),
        ("auto", "best"): ("with the best α of each environment", {"color": color, "linestyle": "-", "marker": "s"}),
    }
    steps = sorted({timesteps for _, timesteps in by})
    for (calibration, what), (label, look) in looks.items():
        ones = [by[calibration, each] for each in steps if (calibration, each) in by]
        ratios = [one.average(0.0) if what == "plain" else one.best_elsewhere() for one in ones]
        _draw(panel, steps[: len(ones)], ratios, label, look)
    _draw(
        panel,
        list(after),
        list(after.values()),
        "refined, no reward",
        {"color": "black", "marker": "*", "linestyle": ":"},
    )
    panel.set_xscale("log", base=2)
    panel.set_xticks(steps, [str(each) for each in steps])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("time steps T of a decision, IF")
    panel.set_ylabel("average performance ratio, %")
    panel.grid(color=style.GRID, linewidth=0.6)
    panel.legend(frameon=False, loc="lower right")
    return drawing


def _draw(panel: Any, steps: Sequence[int], ratios: Sequence[Interval], label: str, look: dict[str, Any]) -> None:
    values = 100 * np.array([(ratio.value, ratio.low, ratio.high) for ratio in ratios]).reshape(-1, 3)
    spread = np.abs(values[:, 1:] - values[:, :1]).T
    panel.errorbar(steps, values[:, 0], spread, label=label, capsize=2, markersize=5, linewidth=1.4, **look)


def main() -> None:
    by, after = measured(read_collection(RESULTS)), refined()
    fill(PAGE, "averages", averages_table(by, after))
    fill(PAGE, "alphas", alphas_table(by))
    fill(PAGE, "actors", actors_table(by))
    style.write_figure(figure(by, after), FIGURE)


if __name__ == "__main__":
    main()
