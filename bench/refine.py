"""What refinement adds to a conversion: returns of the published actors, and the zoo's, before and after it.

    python bench/refine.py FOLDER
    python bench/refine.py           # the zoo's actors of state vectors

FOLDER holds the published actors, which are named ALGORITHM_ENVIRONMENT_actor. One recipe for all; seeds of episodes by
which nothing was chosen. Every result goes to bench/results/refined.jsonl as soon as it is there, and what is there is
not run again. Draws the table of docs/refine.md; `--redraw` only does that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pages import ROOT, fill, percent, table
from rich.console import Console

import snnkern
from snnkern.control.evaluation import Evaluation, average_performance_ratio
from snnkern.control.timing import machine
from snnkern.policies import zoo

RESULTS = ROOT / "bench" / "results" / "refined.jsonl"
PAGE = ROOT / "docs" / "refine.md"
SETTINGS = (("if", 4), ("if", 2), ("if", 8), ("if", 16), ("if", 32), ("snm", 4), ("mt", 2), ("dc", 2))
SEED = 12_000


def sources(folder: Path | None, part: str) -> Iterator[tuple[str, str, Path | str]]:
    """Name, environment and source of the actors in a folder, or in the zoo, whose names hold a part."""
    for file in () if folder is None else sorted(folder.glob(f"*{part}*")):
        yield file.name.removesuffix("_actor"), file.name.split("_")[1], file
    for name in () if folder else zoo.names():
        actor = snnkern.load_actor(name)
        if actor.is_plain and part in name:
            yield name, actor.metadata["environment"], name


def measure(source: Path | str, env: str, neuron: str, timesteps: int, minutes: float, episodes: int) -> dict[str, Any]:
    """One actor at one setting: converted, refined, and both evaluated beside the dense one."""
    actor = snnkern.load_actor(source)
    observations = snnkern.collect(actor, env)
    snn = snnkern.convert(actor, observations, neuron=neuron, timesteps=timesteps)
    refined = snnkern.refine(snn, observations, env, minutes=minutes)
    policies = {"dense": actor, "converted": snn, "refined": refined}
    returns = {
        name: list(snnkern.evaluate(policy, env, episodes=episodes, seed=SEED).returns)
        for name, policy in policies.items()
    }
    return {"said": refined.metadata["refined"], **returns}


def draw() -> None:
    """The tables of the page, one for each algorithm, from what has been measured."""
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault(one["actor"].partition("_")[0] if "_" in one["actor"] else "", []).append(one)
    fill(PAGE, "refined", "\n\n".join(table_of(groups[name]) for name in sorted(groups, reverse=True)))


def table_of(found: Sequence[dict[str, Any]]) -> str:
    """The table of an algorithm's actors, or of the zoo's."""
    actors = sorted({one["actor"] for one in found})
    head = ["neuron", "T", "minutes of a core", "converted", "refined", *actors]
    rows = []
    settings = [setting for setting in SETTINGS if any((one["neuron"], one["timesteps"]) == setting for one in found)]
    for neuron, timesteps in settings:
        ones = {one["actor"]: one for one in found if (one["neuron"], one["timesteps"]) == (neuron, timesteps)}
        minutes = sorted({one["minutes"] for one in ones.values()})
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
    folder: Annotated[
        Path | None, typer.Argument(help="Where the published actors are; without it, the zoo's.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Of each refinement.")] = 5.0,
    episodes: Annotated[int, typer.Option(help="Of every policy.")] = 60,
    only: Annotated[str | None, typer.Option(help="Part of the names of the actors to run; in a folder, TD3.")] = None,
    neuron: Annotated[str | None, typer.Option(help="The only neuron to run.")] = None,
    timesteps: Annotated[int | None, typer.Option("-T", help="The only T to run.")] = None,
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the table again.")] = False,
) -> None:
    """Measures what is not measured yet, and draws the table."""
    console = Console()
    RESULTS.touch()
    for kind, number in () if redraw else SETTINGS:
        for name, env, source in sources(folder, only or ("TD3" if folder else "")):
            done = {(one["actor"], one["neuron"], one["timesteps"]) for one in map(json.loads, RESULTS.open())}
            if neuron not in (None, kind) or timesteps not in (None, number) or (name, kind, number) in done:
                continue
            numbers = measure(source, env, kind, number, minutes, episodes)
            setting = {"actor": name, "neuron": kind, "timesteps": number, "minutes": minutes}
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
