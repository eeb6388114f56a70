"""Control performance of converted actors over several environments: average performance ratios as data and tables.

    python bench/control.py FOLDER

FOLDER holds published actors, `ALGORITHM_ENVIRONMENT_actor` (the CRPI paper's naming). Thresholds are each neuron's
maximum over 10,000 steps of the dense actor. Finished settings are kept in `--store`, so an interrupted run resumes.
Writes JSON, and from it the tables in docs/control.md; `--redraw` only does the latter.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from pages import ROOT, fill, table
from rich.console import Console
from rich.progress import Progress

import snnkern
from snnkern.control.evaluation import Evaluation, average_performance_ratio
from snnkern.files import write_atomically
from snnkern.kernels.neurons import NEURON_NAMES
from snnkern.report.columns import summarize_sweep
from snnkern.studies.settings import grid
from snnkern.studies.study import sweep

TIMESTEPS = (2, 4, 8, 16)
ALPHAS = (0.0, 0.2)
DENSE_EPISODES = 100


def measure(files: list[Path], episodes: int, store: Path) -> dict[str, Any]:
    """Every neuron × T × α on every actor, and the averages over actors."""
    settings = grid(NEURON_NAMES, TIMESTEPS, ALPHAS)
    pairs: dict[int, list[tuple[Evaluation, Evaluation]]] = defaultdict(list)
    environments = {}
    with Progress(console=Console(stderr=True)) as progress:
        for file in files:
            algorithm, env, _ = file.name.split("_")
            bar = progress.add_task(f"{algorithm} {env}", total=None)
            actor = snnkern.load_actor(file)
            # A dense actor fails in a few of a hundred episodes: ten would decide by chance what all the others are
            # divided by.
            measured = sweep(
                actor,
                env,
                settings,
                observations=snnkern.collect(actor, env, 10_000, seed=0),
                calibration="max",
                episodes=episodes,
                dense_episodes=DENSE_EPISODES,
                store=store,
                workers=os.cpu_count() or 1,
                progress=lambda done, total, bar=bar: progress.update(bar, completed=done, total=total),
            )
            environments[f"{algorithm} {env}"] = summarize_sweep(measured)
            for index, (_, evaluation) in enumerate(measured.results):
                pairs[index].append((evaluation, measured.dense))
    averages = []
    for index, setting in enumerate(settings):
        ratio = average_performance_ratio(pairs[index])
        spikes = [sum(evaluation.spikes) for evaluation, _ in pairs[index]]
        averages.append(
            {
                **setting.to_dict(),
                "average_performance_ratio": ratio.value,
                "interval": [ratio.low, ratio.high],
                "spikes_per_decision": sum(spikes) / len(spikes),
            }
        )
    versions = {name: version(name) for name in ("snnkern", "torch", "gymnasium", "mujoco")}
    return {
        "episodes": episodes,
        "dense_episodes": DENSE_EPISODES,
        "versions": versions,
        "environments": environments,
        "averages": averages,
    }


def averages_table(results: dict[str, Any]) -> str:
    """Average performance ratios as Markdown."""
    rows = []
    found = _by_setting(results["averages"])
    for neuron in NEURON_NAMES:
        for timesteps in TIMESTEPS:
            entries = [found[neuron, timesteps, alpha] for alpha in ALPHAS]
            cells = []
            for entry in entries:
                low, high = entry["interval"]
                ratio = entry["average_performance_ratio"]
                cells.append(f"{100 * ratio:.1f} % [{100 * low:.0f} … {100 * high:.0f}]")
            spikes = entries[-1]["spikes_per_decision"]
            rows.append([neuron.upper(), timesteps, *cells, f"{spikes:.0f}"])
    return table(["neuron", "T", "α = 0", "α = 0.2", "spikes per decision, α = 0.2"], rows)


def environments_table(results: dict[str, Any]) -> str:
    """Mean returns and their spread, by environment, as Markdown."""
    names = list(results["environments"])
    rows = [["dense", "", "", *(_return(summary["dense"]) for summary in results["environments"].values())]]
    found = [_by_setting(summary["results"]) for summary in results["environments"].values()]
    for neuron, timesteps, alpha in found[0]:
        cells = [_return(entries[neuron, timesteps, alpha]) for entries in found]
        rows.append([neuron.upper(), timesteps, f"{alpha:g}", *cells])
    return table(["neuron", "T", "α", *names], rows)


def _by_setting(entries: list[dict[str, Any]]) -> dict[tuple[str, int, float], dict[str, Any]]:
    return {(entry["neuron"]["name"], entry["timesteps"], entry["alpha"]): entry for entry in entries}


def _return(summary: dict[str, Any]) -> str:
    return f"{summary['return_mean']:,.0f} ± {summary['return_std']:,.0f}"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of published actors.")] = Path(),
    pattern: Annotated[str, typer.Option(help="Which of them.")] = "TD3_*_actor",
    episodes: Annotated[int, typer.Option(help="Episodes per setting.", min=2)] = 10,
    store: Annotated[Path, typer.Option(help="Keeps finished settings.")] = Path("results/control"),
    output: Annotated[Path, typer.Option(help="The JSON file.")] = ROOT / "bench" / "results" / "control.json",
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the tables again.")] = False,
) -> None:
    if not redraw:
        files = sorted(folder.glob(pattern))
        if not files:
            raise typer.BadParameter(f"no file {pattern} in {folder}")
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, json.dumps(measure(files, episodes, store), indent=1).encode())
    results = json.loads(output.read_text())
    fill(ROOT / "docs" / "control.md", "averages", averages_table(results))
    fill(ROOT / "docs" / "control.md", "environments", environments_table(results))
    print(averages_table(results))


if __name__ == "__main__":
    typer.run(main)
