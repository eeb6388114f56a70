"""The tables and the figure of docs/paper.md: the CRPI paper's result, beside `convert`'s and refinement's.

    make results ACTORS=FOLDER        # among others, the sweeps of bench/grids/paper.toml and recommended.toml
    python bench/refine.py FOLDER
    python bench/paper_page.py

Draws from bench/results/paper.jsonl, recommended.jsonl, recommended-more.jsonl and refined.jsonl, and runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pages import ROOT, fill, percent, table

from snnkern.control.evaluation import Evaluation, average_performance_ratio
from snnkern.control.intervals import Interval
from snnkern.report import style
from snnkern.studies.results import Point, TrainedActor, read_collection

PAGE = ROOT / "docs" / "paper.md"
FIGURE = ROOT / "docs" / "results" / "paper.png"
RESULTS = ROOT / "bench" / "results"
SETS = 3  # of episodes, by seed
# What the paper states for TD3 and IF, in percent: by T, without the carry and with the best α of each environment.
STATED = {8: (64.71, 72.26)}


@dataclass(frozen=True)
class Measured:
    """Thresholds at the maximum at one T, by α: what every actor reached."""

    dense: dict[TrainedActor, Evaluation]
    points: dict[float, Point]

    def average(self, alpha: float) -> Interval:
        """With one α for all actors."""
        return self._average(lambda actor: self.points[alpha].evaluations[actor])

    def best_for_all(self) -> float:
        """The one α with the best average, chosen by the episodes that it is judged by."""
        return max(self.points, key=lambda alpha: self.average(alpha).value)

    def best(self) -> Interval:
        """With the best α of each actor, chosen by the episodes that it is judged by, as published."""
        return self._average(lambda actor: self.points[self.best_alpha(actor)].evaluations[actor])

    def best_alpha(self, actor: TrainedActor) -> float:
        return max(self.points, key=lambda alpha: self.points[alpha].evaluations[actor].mean)

    def best_elsewhere(self) -> Interval:
        """With the best α of each actor; each set of episodes is judged with the α that is best on the other sets."""
        return self._average(self._elsewhere)

    def _elsewhere(self, actor: TrainedActor) -> Evaluation:
        returns = np.array([point.evaluations[actor].returns for point in self.points.values()])  # [α, episodes]
        sets = np.split(returns, SETS, axis=1)
        judged = []
        for index, one in enumerate(sets):
            others = np.concatenate(sets[:index] + sets[index + 1 :], axis=1)
            judged.append(one[others.mean(axis=1).argmax()])
        return Evaluation(tuple(map(float, np.concatenate(judged))), (), ())

    def _average(self, evaluation: Callable[[TrainedActor], Evaluation]) -> Interval:
        return average_performance_ratio([(evaluation(actor), dense) for actor, dense in self.dense.items()])


def measured() -> dict[int, Measured]:
    """By T."""
    found = read_collection(RESULTS / "paper.jsonl")
    by: dict[int, dict[float, Point]] = {}
    for point in found.points:
        by.setdefault(point.setting.timesteps, {})[float(point.setting.alpha)] = point
    return {timesteps: Measured(found.dense, points) for timesteps, points in by.items()}


def converted() -> dict[int, Interval]:
    """By T: what `convert` reaches with IF, its own thresholds and α."""
    return {
        point.setting.timesteps: point.average
        for name in ("recommended.jsonl", "recommended-more.jsonl")
        for point in read_collection(RESULTS / name).points
        if point.setting.family == ("IF", "auto", 0.0) and point.setting.alpha == "auto" and point.average
    }


def refined() -> dict[int, Interval]:
    """By T, where refinement of IF has been measured on all four actors."""
    ones = [one for one in map(json.loads, (RESULTS / "refined.jsonl").open()) if one["neuron"] == "if"]
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


def averages_table(by: dict[int, Measured], plain: dict[int, Interval], after: dict[int, Interval]) -> str:
    """Average performance ratios by T."""
    rows = []
    for timesteps, one in by.items():
        for_all = one.best_for_all()
        rows.append(
            [
                timesteps,
                percent(one.average(0.0)),
                percent(one.best()),
                percent(one.best_elsewhere()),
                f"{percent(one.average(for_all))}, α = {for_all:g}",
                " → ".join(f"{value:g}" for value in STATED.get(timesteps, ())),
                percent(plain.get(timesteps)),
                percent(after.get(timesteps)),
            ]
        )
    head = [
        "no carry",
        "best α of each",
        "best α, other episodes",
        "best α for all",
        "the paper",
        "`convert`",
        "`refine`",
    ]
    return table(["T", *head], rows)


def alphas_table(by: dict[int, Measured]) -> str:
    """Average performance ratios for every α."""
    alphas = sorted({alpha for one in by.values() for alpha in one.points})
    rows = [[f"{alpha:g}", *(percent(one.average(alpha)) for one in by.values())] for alpha in alphas]
    return table(["α", *(f"T = {timesteps}" for timesteps in by)], rows)


def actors_table(by: dict[int, Measured]) -> str:
    """By actor: without the carry and with the best α, which stands in brackets."""
    actors = list(next(iter(by.values())).dense)
    rows = []
    for timesteps, one in by.items():
        cells = []
        for actor in actors:
            alpha = one.best_alpha(actor)
            plain, best = (100 * one.points[each].ratios[actor].value for each in (0.0, alpha))
            cells.append(f"{plain:.0f} → {best:.0f} ({alpha:g})")
        rows.append([timesteps, *cells])
    return table(["T", *(actor.label for actor in actors)], rows)


def figure(by: dict[int, Measured], plain: dict[int, Interval], after: dict[int, Interval]) -> Any:
    """Average performance ratio against T: what the carry adds, what fitting adds, and what refinement adds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    drawing = Figure(figsize=(7.0, 4.2), layout="constrained")
    panel = drawing.subplots()
    panel.axhline(100, **style.DENSE_LINE)
    color = style.NEURON_STYLES["if"].color
    lines: dict[str, tuple[dict[int, Interval], dict[str, Any]]] = {
        "thresholds at the maximum, no carry": (
            {timesteps: one.average(0.0) for timesteps, one in by.items()},
            {"color": style.GREY, "linestyle": "--", "marker": "o"},
        ),
        "with the carry: the best α of each environment": (
            {timesteps: one.best_elsewhere() for timesteps, one in by.items()},
            {"color": style.SKY, "linestyle": "-", "marker": "o"},
        ),
        "convert: thresholds and weights fitted": (plain, {"color": color, "linestyle": "-", "marker": "s"}),
        "refine: learnt without reward": (after, {"color": "black", "linestyle": ":", "marker": "*"}),
    }
    for label, (ratios, look) in lines.items():
        values = 100 * np.array([(one.value, one.low, one.high) for one in ratios.values()])
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        panel.errorbar(list(ratios), values[:, 0], spread, label=label, capsize=2, markersize=6, linewidth=1.4, **look)
    steps = sorted({*by, *plain, *after})
    panel.set_xscale("log", base=2)
    panel.set_xticks(steps, [str(each) for each in steps])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xlabel("time steps T of a decision (IF)")
    panel.set_ylabel("average performance ratio, %")
    panel.grid(color=style.GRID, linewidth=0.6)
    panel.legend(frameon=False, loc="lower right")
    return drawing


def main() -> None:
    by, plain, after = measured(), converted(), refined()
    fill(PAGE, "averages", averages_table(by, plain, after))
    fill(PAGE, "alphas", alphas_table(by))
    fill(PAGE, "actors", actors_table(by))
    style.write_figure(figure(by, plain, after), FIGURE)


if __name__ == "__main__":
    main()
