"""The tables of docs/vision.md on what actors that see reach.

    snnkern sweep bench/grids/visual.toml --store STORE -o bench/results/visual.jsonl
    python bench/vision_page.py

The sweep draws for about two hours on two idle cores; what its store has is not run again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pages import ROOT, fill, percent, table

from snnkern.control.evaluation import Evaluation
from snnkern.control.intervals import Interval
from snnkern.studies.results import Collection, Point, TrainedActor, read_collection

PAGE = ROOT / "docs" / "vision.md"
RESULTS = ROOT / "bench" / "results" / "visual.jsonl"


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
    """Performance ratios by the published protocol: for every α and T."""
    points = [point for point in found.points if point.setting.calibration == "max"]
    actors = [actor for actor in found.dense if any(actor in point.ratios for point in points)]
    steps = sorted({point.setting.timesteps for point in points})
    head = ["α", *(f"{_short(actor)}, T = {each}" for actor in actors for each in steps)]
    rows = []
    for alpha in sorted({point.setting.alpha for point in points}, key=float):
        cells = [percent(_ratio(points, actor, each, alpha)) for actor in actors for each in steps]
        rows.append([f"{alpha:g}", *cells])
    return table(head, rows)


def _ratio(points: Sequence[Point], actor: TrainedActor, timesteps: int, alpha: float | str) -> Interval | None:
    for point in points:
        if (point.setting.timesteps, point.setting.alpha) == (timesteps, alpha):
            return point.ratios.get(actor)
    return None


def _short(actor: TrainedActor) -> str:
    return actor.environment.removeprefix("dm_control/").rpartition("-")[0]


def _return(evaluation: Evaluation) -> str:
    interval = evaluation.interval()
    return f"{evaluation.mean:.0f} [{interval.low:.0f} … {interval.high:.0f}]"


def main() -> None:
    found = read_collection(RESULTS)
    fill(PAGE, "visual recommended", recommended_table(found))
    fill(PAGE, "visual published", published_table(found))


if __name__ == "__main__":
    main()
