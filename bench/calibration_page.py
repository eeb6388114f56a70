"""The tables of docs/calibration.md and one of README.md, from the sweeps of bench/grids and what sweeps cannot vary.

    python bench/calibration_page.py FOLDER

FOLDER holds the published actors. Measures the carry by layer, and its bound; writes bench/results/carry.json, and
draws the tables from it and from those sweeps (`make results`); `--redraw` only does the latter.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from pages import ROOT, fill, percent, table
from rich.console import Console
from rich.progress import Progress

import snnkern
from snnkern.control.evaluation import Evaluation, average_performance_ratio
from snnkern.control.intervals import Interval
from snnkern.control.records import Record
from snnkern.control.timing import machine
from snnkern.conversion.rules import chosen_alpha
from snnkern.files import write_atomically
from snnkern.kernels import ops
from snnkern.kernels.neurons import parse_neuron
from snnkern.studies.executors import Failure, LocalExecutor
from snnkern.studies.results import Collection, Point, TrainedActor, collect_results, read_collection
from snnkern.studies.store import read_records

RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "calibration.md"
TARGETS = (("IF", 8), ("SNM", 8), ("MT", 2), ("DC", 2), ("IF", 4))
COMPARED = (("IF", 4), ("IF", 8), ("SNM", 8), ("MT", 2), ("DC", 2))  # with thresholds at the maximum, on every actor
# Beside the recommended settings: a carry, α by layer, and κ.
VARIANTS: dict[str, dict[str, Any]] = {
    "recommended (α = 0)": {},
    "α = 0.2": {"alpha": 0.2},
    "α = 0.2 in the first layer alone": {"alphas": (0.2, 0.0)},
    "α = 0.2 in the second layer alone": {"alphas": (0.0, 0.2)},
    "α = 0.2, κ = 0.25": {"alpha": 0.2, "clip": 0.25},
    "α = 0.2, κ = 1": {"alpha": 0.2, "clip": 1.0},
}
_BEST = "mse:weighted:linear"
_HIGH = f"{_BEST}:floor=0.3"
RULES = (
    *("max", "percentile:99.9", "gaussian", "mse", "mse:weighted", "mse:weighted:bias", "mse:linear"),
    *(_BEST, f"{_BEST}:matched"),
)
NUMBERS = (_BEST, *(f"{_BEST}:{part}" for part in ("ridge=0.02", "ridge=0.5", "floor=0.1")), _HIGH)
MEASURED = (("if", 8),)
SEED = 3000


class ByLayer:
    """A spiking actor whose hidden layers have an α each; every row is one episode."""

    def __init__(self, snn: snnkern.SpikingActor, alphas: Sequence[float]) -> None:
        self.snn = snn
        self.dynamics = [replace(snn.dynamics, alpha=alpha) for alpha in alphas]
        self.carries: list[torch.Tensor] = []

    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        snn = self.snn
        signal = snn.interface.normalize(torch.from_numpy(observation.astype(np.float32)))
        if not self.carries:
            self.carries = [theta.new_zeros(len(signal), len(theta)) for theta in snn.thresholds]
        for index, (layer, dynamics) in enumerate(zip(snn.hidden, self.dynamics, strict=True)):
            current = ops.linear(signal, layer.weight, layer.bias)
            run = ops.neuron_mean if index == len(snn.hidden) - 1 else ops.neuron_spikes
            signal, self.carries[index], _ = run(current, layer.threshold, self.carries[index], dynamics)
        action: NDArray[Any] = snn.interface.action(ops.linear(signal, snn.output.weight, snn.output.bias)).numpy()
        return action


def evaluate(episodes: int, task: tuple[Path, str, int, str]) -> list[float]:
    """Returns of one variant on one actor; of the dense actor where there is no variant."""
    file, neuron, timesteps, name = task
    _, env, _ = file.name.split("_")
    actor = snnkern.load_actor(file)
    if not name:
        return list(snnkern.evaluate(actor, env, episodes=100, seed=SEED).returns)
    settings: dict[str, Any] = {"neuron": neuron, "timesteps": timesteps, **VARIANTS[name]}
    alphas = settings.pop("alphas", None)
    snn = snnkern.convert(actor, snnkern.collect(actor, env), **settings)
    policy = ByLayer(snn, alphas) if alphas else snn
    return list(snnkern.evaluate(policy, env, episodes=episodes, seed=SEED, rows=episodes).returns)


def measure(files: list[Path], episodes: int) -> dict[str, Any]:
    """Average performance ratios of every variant."""
    variants = [(*setting, name) for setting in MEASURED for name in VARIANTS]
    tasks = [(file, *variant) for file in files for variant in [("", 0, ""), *variants]]
    found: dict[tuple[Path, str, int, str], Evaluation] = {}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("the carry", total=len(tasks))
        for index, returns in LocalExecutor(os.cpu_count() or 1).run(evaluate, episodes, tasks):
            if isinstance(returns, Failure):
                raise returns.error
            found[tasks[index]] = Evaluation(tuple(returns), (), ())
            progress.advance(bar)
    entries = []
    for variant in variants:
        pairs = [(found[(file, *variant)], found[file, "", 0, ""]) for file in files]
        ratio = average_performance_ratio(pairs)
        environments = {
            file.name: spiking.mean / dense.mean for file, (spiking, dense) in zip(files, pairs, strict=True)
        }
        entries.append(
            {
                "neuron": variant[0],
                "timesteps": variant[1],
                "variant": variant[2],
                "average_performance_ratio": ratio.value,
                "interval": [ratio.low, ratio.high],
                "ratios": environments,
            }
        )
    versions = machine(("snnkern", "torch", "numpy", "gymnasium", "mujoco"))["versions"]
    return {"episodes": episodes, "versions": versions, "results": entries}


def points(collection: Collection, neuron: str, timesteps: int, calibration: str, memory: float = 0.0) -> list[Point]:
    """What a sweep has of one neuron, T, calibration and μ, in order of α."""
    return [
        point
        for point in collection.points
        if point.setting.family == (neuron, calibration, memory) and point.setting.timesteps == timesteps
    ]


def recommended_table(collection: Collection) -> str:
    """Thresholds at the maximum beside what is recommended, for the README."""
    rows = []
    for target in TARGETS:
        found = {
            rule: next(point for point in points(collection, *target, rule) if point.setting.alpha == "auto")
            for rule in ("max", "auto")
        }
        ratios = [percent(found[rule].average) for rule in ("max", "auto")]
        rows.append([*target, *ratios, f"{found['auto'].spikes:.0f}"])
    return table(["neuron", "T", "thresholds at the maximum", "recommended", "spikes per decision"], rows)


def rules_table(collection: Collection, rules: Sequence[str], targets: Sequence[tuple[str, int]] = TARGETS) -> str:
    """Average performance ratio by rule, at the recommended α."""
    rows = [[f"`{rule}`", *_averages(collection, targets, rule)] for rule in rules]
    return table(_heading("", targets), rows)


def observations_table(records: Sequence[Record]) -> str:
    """Average performance ratio by what the recommended rule is calibrated on."""
    targets = [("IF", 8), ("SNM", 8), ("MT", 2), ("DC", 2)]
    rows = []
    dense = [record for record in records if record["task"]["calibration"] is None]
    by: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in records:
        if calibration := record["task"]["calibration"]:
            by[calibration["steps"], calibration["seed"]].append(record)
    for (steps, seed), spiking in sorted(by.items()):
        collection = collect_results("observations", dense + spiking)
        rows.append([f"{steps:,}, {seed}", *_averages(collection, targets, "auto")])
    return table(_heading("observations, seed", targets), rows)


def _heading(first: str, targets: Sequence[tuple[str, int]]) -> list[str]:
    return [first, *(f"{neuron}, T = {timesteps}" for neuron, timesteps in targets)]


def _averages(collection: Collection, targets: Sequence[tuple[str, int]], rule: str) -> list[str]:
    """A rule's average performance ratio at every target, at the recommended α; nothing where it was not measured."""
    found = [
        [point for point in points(collection, *target, rule) if point.setting.alpha == "auto"] for target in targets
    ]
    return [percent(cell[0].average) if cell else "" for cell in found]


def _ratios(point: Point, actors: Sequence[TrainedActor]) -> list[str]:
    """The average performance ratio with its interval, then that of each actor."""
    return [percent(point.average), *(f"{100 * point.ratios[actor].value:.0f}" for actor in actors)]


def auto_table(collection: Collection) -> str:
    """The recommended setting, by environment."""
    actors = list(collection.dense)
    rows = []
    for point in collection.points:
        if point.setting.calibration == "auto" and point.setting.alpha == "auto":
            cells = [point.setting.label, point.setting.timesteps, *_ratios(point, actors)]
            rows.append([*cells, f"{point.spikes:.0f}"])
    return table(["neuron", "T", "average", *(actor.label for actor in actors), "spikes per decision"], rows)


def others_table(collection: Collection) -> str:
    """Recommended and maximum thresholds on other actors, and the former with another floor."""
    actors = list(collection.dense)
    rows = []
    for neuron, timesteps in TARGETS:
        for rule in ("max", "auto", _BEST, _HIGH):
            found = points(collection, neuron, timesteps, rule)
            rows += [[f"{neuron}, {timesteps}", f"`{rule}`", *_ratios(point, actors)] for point in found]
    return table(["neuron, T", "thresholds", "average", *(actor.label for actor in actors)], rows)


def carry_table(collection: Collection) -> str:
    """α and μ, by calibration."""
    alphas = [0.0, 0.2, 0.5, 1.0]
    rows = []
    for neuron, timesteps, rule in (("IF", 8, "max"), ("IF", 8, "auto"), ("MT", 2, "auto")):
        for memory in (0.0, 1.0):
            found = {point.setting.alpha: point for point in points(collection, neuron, timesteps, rule, memory)}
            cells = [percent(found[alpha].average) if alpha in found else "" for alpha in alphas]
            rows.append([f"{neuron}, {timesteps}", f"`{rule}`", f"{memory:g}", *cells])
    return table(["neuron, T", "thresholds", "μ", *(f"α = {alpha:g}" for alpha in alphas)], rows)


def alpha_table(collection: Collection) -> str:
    """Without a carry and with one, by calibration and actor."""
    actors = list(collection.dense)
    rows = []
    for neuron, timesteps in COMPARED:
        for rule in ("max", "auto"):
            for point in points(collection, neuron, timesteps, rule):
                alpha = f"{point.setting.alpha:g}"
                rows.append([f"{neuron}, {timesteps}", f"`{rule}`", alpha, *_ratios(point, actors)])
    return table(["neuron, T", "thresholds", "α", "average", *(actor.label for actor in actors)], rows)


def worse_table(collection: Collection) -> str:
    """Where the recommended settings are worse than the better α of "max" by more than two standard errors."""
    rows = []
    for neuron, timesteps in COMPARED:
        recommended = chosen_alpha("auto", parse_neuron(neuron.lower()))
        (auto,) = (one for one in points(collection, neuron, timesteps, "auto") if one.setting.alpha == recommended)
        for actor, ratio in auto.ratios.items():
            rivals = (one.ratios[actor] for one in points(collection, neuron, timesteps, "max"))
            best = max(rivals, key=lambda rival: rival.value)
            error = np.hypot(ratio.high - ratio.low, best.high - best.low) / (2 * 1.96)  # of 95 % intervals
            if best.value - ratio.value > 2 * error:
                rows.append([f"{neuron}, {timesteps}", actor.label, percent(best), percent(ratio)])
    return table(["neuron, T", "actor", "`max`", "`auto`"], rows)


def variants_table(results: dict[str, Any]) -> str:
    """The carry by layer, and its bound."""
    found = {(entry["neuron"], entry["timesteps"], entry["variant"]): entry for entry in results["results"]}
    rows = []
    for variant in VARIANTS:
        entries = [found[(*setting, variant)] for setting in MEASURED]
        cells = [percent(Interval(entry["average_performance_ratio"], *entry["interval"])) for entry in entries]
        rows.append([variant, *cells])
    return table(_heading("", [(name.upper(), timesteps) for name, timesteps in MEASURED]), rows)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of published actors.")] = Path(),
    episodes: Annotated[int, typer.Option(help="Episodes per setting.", min=2)] = 20,
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the tables again.")] = False,
) -> None:
    if not redraw:
        files = sorted(folder.glob("TD3_*_actor"))
        if not files:
            raise typer.BadParameter(f"no file TD3_*_actor in {folder}")
        write_atomically(RESULTS / "carry.json", json.dumps(measure(files, episodes), indent=1).encode())
    recommended, calibration, others, alpha = (
        read_collection(RESULTS / f"{name}.jsonl") for name in ("recommended", "calibration", "others", "alpha")
    )
    fill(ROOT / "README.md", "recommended", recommended_table(recommended))
    fill(PAGE, "auto", auto_table(recommended))
    fill(PAGE, "rules", rules_table(calibration, RULES))
    fill(PAGE, "numbers", rules_table(calibration, NUMBERS, [("IF", 8), ("MT", 2)]))
    fill(PAGE, "observations", observations_table(read_records(RESULTS / "observations.jsonl")))
    fill(PAGE, "others", others_table(others))
    fill(PAGE, "carry", carry_table(calibration))
    fill(PAGE, "alpha", alpha_table(alpha))
    fill(PAGE, "worse", worse_table(alpha))
    fill(PAGE, "variants", variants_table(json.loads((RESULTS / "carry.json").read_text())))


if __name__ == "__main__":
    typer.run(main)
