"""The tables of docs/vision.md on what actors that see reach.

    snnkern sweep bench/grids/visual.toml --store STORE -o bench/results/visual.jsonl
    snnkern sweep bench/grids/visual-paper.toml --store STORE -o bench/results/visual-paper.jsonl
    python bench/vision_page.py

The sweeps draw for about half an hour and an hour on two idle cores; what their store has is not run again.
"""

from __future__ import annotations

import itertools

from pages import ROOT, fill, percent, table

from snnkern.control.evaluation import Evaluation
from snnkern.control.intervals import Interval
from snnkern.studies.results import Collection, TrainedActor, read_collection

PAGE = ROOT / "docs" / "vision.md"
RESULTS = ROOT / "bench" / "results" / "visual.jsonl"
PAPER = ROOT / "bench" / "results" / "visual-paper.jsonl"


def recommended_table(found: Collection) -> str:
    """Returns at the recommended settings, and what is left of the dense actors'."""
    actors = list(found.dense)
    rows = [["dense", "", *(_return(found.dense[actor]) for actor in actors), ""]]
    for point in found.points:
        if point.setting.calibration == "auto":
            returns = (_return(point.evaluations[actor]) for actor in actors)
            rows.append([point.setting.label, str(point.setting.timesteps), *returns, percent(point.average)])
    return table(["neuron", "T", *map(_short, actors), "average ratio, %"], rows)


def published_table(found: Collection) -> str:
    """Performance ratios by the published protocol, for every α and T; the best α of each actor and T comes last."""
    by = {(point.setting.timesteps, float(point.setting.alpha)): point for point in found.points}
    steps, alphas = (sorted(set(values)) for values in zip(*by, strict=True))
    columns = list(itertools.product(found.dense, steps))
    rows = []
    for alpha in alphas:
        points = [by.get((each, alpha)) for _, each in columns]
        cells = [point and point.ratios.get(actor) for point, (actor, _) in zip(points, columns, strict=True)]
        rows.append([f"{alpha:g}", *map(percent, cells)])
    best = [
        max((point.ratios[actor] for (one, _), point in by.items() if one == each), key=_value)
        for actor, each in columns
    ]
    head = ["α", *(f"{_short(actor)}, T = {each}" for actor, each in columns)]
    return table(head, [*rows, ["best α", *map(percent, best)]])


def _value(interval: Interval) -> float:
    return interval.value


def _short(actor: TrainedActor) -> str:
    return actor.environment.removeprefix("dm_control/").rpartition("-")[0]


def _return(evaluation: Evaluation) -> str:
    interval = evaluation.interval()
    return f"{evaluation.mean:.0f} [{interval.low:.0f} … {interval.high:.0f}]"


def main() -> None:
    found = read_collection(RESULTS)
    fill(PAGE, "visual recommended", recommended_table(found))
    fill(PAGE, "visual published", published_table(read_collection(PAPER)))


if __name__ == "__main__":
    main()
