"""What refinement adds to a conversion: returns of the published actors before and after it.

    python bench/refine.py FOLDER

FOLDER holds the published actors, which are named ALGORITHM_ENVIRONMENT_actor. One recipe for all; seeds of episodes by
which nothing was chosen. Every result goes to bench/results/refined.jsonl as soon as it is there, and what is there is
not run again. Draws the table of docs/refine.md; `--redraw` only does that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from pages import ROOT, fill, percent, table
from rich.console import Console

import snnkern
from snnkern.control.evaluation import Evaluation, average_performance_ratio
from snnkern.control.timing import machine

RESULTS = ROOT / "bench" / "results" / "refined.jsonl"
PAGE = ROOT / "docs" / "refine.md"
SETTINGS = (("if", 4), ("if", 2), ("if", 8), ("snm", 4), ("mt", 2), ("dc", 2))
SEED = 12_000


def measure(file: Path, neuron: str, timesteps: int, minutes: float, episodes: int, threads: int) -> dict[str, Any]:
    """One actor at one setting: converted, refined, and both evaluated beside the dense one."""
    _, env, _ = file.name.split("_")
    actor = snnkern.load_actor(file)
    observations = snnkern.collect(actor, env)
    snn = snnkern.convert(actor, observations, neuron=neuron, timesteps=timesteps)
    torch.set_num_threads(threads)
    refined = snnkern.refine(snn, observations, env, minutes=minutes)
    torch.set_num_threads(1)
    policies = {"dense": actor, "converted": snn, "refined": refined}
    returns = {
        name: list(snnkern.evaluate(policy, env, episodes=episodes, seed=SEED).returns)
        for name, policy in policies.items()
    }
    return {"said": refined.metadata["refined"], **returns}


def draw() -> None:
    """The tables of the page, one for each algorithm, from what has been measured."""
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    algorithms = sorted({one["actor"].partition("_")[0] for one in found}, reverse=True)
    fill(
        PAGE,
        "refined",
        "\n\n".join(table_of([one for one in found if one["actor"].startswith(f"{name}_")]) for name in algorithms),
    )


def table_of(found: Sequence[dict[str, Any]]) -> str:
    """The table of an algorithm's actors."""
    actors = sorted({one["actor"] for one in found})
    head = ["neuron", "T", "minutes of a core", "converted", "refined", *actors]
    rows = []
    settings = [setting for setting in SETTINGS if any((one["neuron"], one["timesteps"]) == setting for one in found)]
    for neuron, timesteps in settings:
        ones = {one["actor"]: one for one in found if (one["neuron"], one["timesteps"]) == (neuron, timesteps)}
        minutes = sorted({one["minutes"] * one["threads"] for one in ones.values()})
        cells = [neuron.upper(), timesteps, " to ".join(f"{number:g}" for number in minutes)]
        cells += [average(ones.values(), part) for part in ("converted", "refined")]
        for actor in actors:
            one = ones.get(actor)
            parts = ("converted", "refined")
            cells.append(
                " → ".join(f"{100 * np.mean(one[part]) / np.mean(one['dense']):.0f}" for part in parts) if one else ""
            )
        rows.append(cells)
    return table(head, rows)


def average(ones: Iterable[dict[str, Any]], name: str) -> str:
    """The average performance ratio in percent, with its interval."""
    groups = [(evaluation(one[name]), evaluation(one["dense"])) for one in ones]
    return percent(average_performance_ratio(groups))


def evaluation(returns: Sequence[float]) -> Evaluation:
    return Evaluation(tuple(returns), tuple(1 for _ in returns), ())


def main(
    folder: Annotated[Path, typer.Argument(help="Where the published actors are.")],
    minutes: Annotated[float, typer.Option(help="Of each refinement.")] = 5.0,
    episodes: Annotated[int, typer.Option(help="Of every policy.")] = 60,
    threads: Annotated[int, typer.Option(help="That a refinement uses.")] = 2,
    only: Annotated[str, typer.Option(help="Part of the names of the actors to run.")] = "TD3",
    neuron: Annotated[str | None, typer.Option(help="The only neuron to run.")] = None,
    timesteps: Annotated[int | None, typer.Option("-T", help="The only T to run.")] = None,
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the table again.")] = False,
) -> None:
    """Measures what is not measured yet, and draws the table."""
    console = Console()
    RESULTS.touch()
    for kind, number in () if redraw else SETTINGS:
        for file in sorted(folder.glob(f"*{only}*")):
            done = {(one["actor"], one["neuron"], one["timesteps"]) for one in map(json.loads, RESULTS.open())}
            name = file.name.removesuffix("_actor")
            if neuron not in (None, kind) or timesteps not in (None, number) or (name, kind, number) in done:
                continue
            numbers = measure(file, kind, number, minutes, episodes, threads)
            setting = {"actor": name, "neuron": kind, "timesteps": number, "minutes": minutes, "threads": threads}
            with RESULTS.open("a") as results:
                results.write(json.dumps(setting | numbers | {"machine": machine(("snnkern", "torch"))}) + "\n")
            before, after = (
                100 * np.mean(numbers[part]) / np.mean(numbers["dense"]) for part in ("converted", "refined")
            )
            console.print(f"{name}, {kind.upper()} T = {number}: {before:.0f} % -> {after:.0f} %; {numbers['said']}")
    if RESULTS.read_text():
        draw()


if __name__ == "__main__":
    typer.run(main)
