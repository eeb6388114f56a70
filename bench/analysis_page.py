"""The analysis of docs/analysis.md: what `snnkern analyze` finds on published actors, as data and tables.

    python bench/analysis_page.py FOLDER

FOLDER holds published actors, `ALGORITHM_ENVIRONMENT_actor` (the CRPI paper's naming). Writes
bench/results/analysis.json and from it the tables of docs/analysis.md; `--redraw` only does the latter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pages import ROOT, fill, table
from rich.console import Console
from rich.progress import Progress
from scipy.stats import spearmanr

import snnkern
from snnkern.analysis.amplification import CORRELATED, CRPI, DENSE, OTHER, PLAIN, RANDOM, WHITE
from snnkern.control.timing import machine
from snnkern.files import write_atomically
from snnkern.studies.settings import grid

RESULTS = ROOT / "bench" / "results" / "analysis.json"
PAGE = ROOT / "docs" / "analysis.md"
# Neuron, T, α, μ.
SETTINGS = (("if", 8, 0.2, 0.0), ("if", 8, 0.2, 1.0), ("mt", 2, 0.2, 0.0), ("dc", 4, 0.2, 0.0))
LAGS = (1, 5, 20)
STEPS = (1, 10, 100, 500)


def measure(files: list[Path], episodes: int) -> dict[str, Any]:
    """Every setting on every actor."""
    found = []
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("settings", total=len(files) * len(SETTINGS))
        for file in files:
            _, env, _ = file.name.split("_")
            actor = snnkern.load_actor(file)
            thresholds = snnkern.calibrate(actor, snnkern.collect(actor, env, 10_000, seed=0), "max")
            for neuron, timesteps, alpha, memory in SETTINGS:
                (setting,) = grid([neuron], [timesteps], [alpha], [memory])
                analysis = snnkern.analyze(actor, env, setting, thresholds=thresholds, episodes=episodes)
                found.append({"actor": file.name, "environment": env, **_short(analysis.to_dict())})
                progress.advance(bar)
    versions = machine(("snnkern", "torch", "numpy", "scipy", "gymnasium", "mujoco"))["versions"]
    return {"versions": versions, "calibration": "max over 10000 steps, seed 0", "analyses": found}


def _short(analysis: dict[str, Any]) -> dict[str, Any]:
    """Without what only figures need."""

    def points(curve: dict[str, Any], at: tuple[int, ...]) -> dict[str, Any]:
        values = dict(zip(curve["at"], curve["value"], strict=True))
        return {str(place): values.get(place) for place in at}

    for entry in analysis["returns"]:
        del entry["returns"]
    for entry in analysis["errors"]:
        entry["autocorrelation"] = points(entry["autocorrelation"], LAGS)
        for name in ("trace", "spectrum", "size_over_time"):
            del entry[name]
    for entry in analysis["divergences"]:
        entry["distance"] = points(entry["distance"], STEPS)
        entry["shift"] = entry["shift"]["average"]
    for layers in analysis["residuals"].values():
        for layer in layers:
            del layer["edges"], layer["share"]
    del analysis["raster"]
    return analysis


def returns_table(analyses: list[dict[str, Any]]) -> str:
    """Returns by states and actions."""
    cells = [(DENSE, DENSE), (DENSE, PLAIN), (DENSE, RANDOM), (PLAIN, PLAIN), (PLAIN, DENSE), (CRPI, CRPI)]
    cells += [(WHITE, WHITE), (CORRELATED, CORRELATED)]
    heads = ["dense, dense", "dense, spiking", "dense, random", "spiking, spiking", "spiking, dense", "with CRPI"]
    rows = []
    for analysis in analyses:
        means = {(entry["states"], entry["actions"]): entry["mean"] for entry in analysis["returns"]}
        rows.append([_setting(analysis), *(_interval(means[cell], "{:,.0f}") for cell in cells)])
    return table(["", *heads, "white noise", "correlated noise"], rows)


def errors_table(analyses: list[dict[str, Any]]) -> str:
    """Size and correlation of action errors."""
    rows = []
    for analysis in analyses:
        for entry in analysis["errors"]:
            if _is_above(analysis, entry["actions"]):
                continue
            lags = [f"{value:.2f}" for value in entry["autocorrelation"].values()]
            rows.append(
                [
                    _setting(analysis),
                    "dense" if entry["states"] == DENSE else "own",
                    "with" if entry["actions"] == CRPI else "without",
                    _interval(entry["size"], "{:.3f}"),
                    *lags,
                    _interval(entry["low_frequency_share"], "{:.0f}", 100),
                    _interval(entry["offset_share"], "{:.1f}", 100),
                ]
            )
    return table(
        ["", "states", "CRPI", "RMS", "lag 1", "lag 5", "lag 20", "low-frequency share, %", "offset share, %"], rows
    )


def states_table(analyses: list[dict[str, Any]]) -> str:
    """Distances and shifts of states."""
    rows = []
    for analysis in analyses:
        for entry in analysis["divergences"]:
            if _is_above(analysis, entry["states"]):
                continue
            distances = ["–" if value is None else f"{value:.3f}" for value in entry["distance"].values()]
            shift = _interval(entry["shift"], "{:.3f}")
            rows.append([_setting(analysis), _whose(entry["states"]), *distances, shift])
    return table(["", "whose states", *(f"distance at {step}" for step in STEPS), "shift (Wasserstein-1)"], rows)


def shifts_table(analyses: list[dict[str, Any]]) -> str:
    """Whether a lower return goes with a larger shift: rank correlation over policies and settings."""
    rows = []
    for env in dict.fromkeys(analysis["environment"] for analysis in analyses):
        found = {}  # some policies are the same in several settings
        for analysis in analyses:
            means = {(entry["states"], entry["actions"]): entry["mean"]["value"] for entry in analysis["returns"]}
            for entry in analysis["divergences"]:
                name = entry["states"]
                if analysis["environment"] == env and name != OTHER and not _is_above(analysis, name):
                    point = means[name, name], entry["shift"]["value"], entry["distance"]["100"]
                    found[_setting(analysis), name] = point
        returns, shifts, distances = zip(*found.values(), strict=True)
        ranks = [spearmanr(returns, other).statistic for other in (shifts, distances)]
        rows.append([env, str(len(found)), *(f"{rank:.2f}" for rank in ranks)])
    return table(["environment", "policies", "Spearman's ρ of return and shift", "of return and distance at 100"], rows)


def residuals_table(analyses: list[dict[str, Any]]) -> str:
    """Residuals and the clamp."""
    heads = ["CRPI", "layer", "not zero, %", "−θ, %", "beyond ±θ, %", "clamped, %", "carry"]
    rows = []
    for analysis in analyses:
        for name, layers in analysis["residuals"].items():
            for number, layer in enumerate([] if _is_above(analysis, name) else layers, 1):
                shares = [f"{100 * layer[key]:.1f}" for key in ("owing", "one_too_many", "large", "clamped")]
                crpi = "with" if name == CRPI else "without"
                rows.append([_setting(analysis), crpi, str(number), *shares, f"{layer['carry']:.3f}"])
    return table(["", *heads], rows)


def _is_above(analysis: dict[str, Any], name: str) -> bool:
    """Whether this is what another setting's lines say already: one that differs in the carry alone."""
    setting = tuple(analysis["dynamics"][key] for key in ("timesteps", "alpha", "memory"))
    first = setting == SETTINGS[0][1:] and analysis["dynamics"]["neuron"]["name"] == SETTINGS[0][0]
    return (analysis["dynamics"]["memory"] > 0 and name != CRPI) or (not first and name == OTHER)


def _whose(name: str) -> str:
    return {PLAIN: "spiking", CRPI: "spiking with CRPI", OTHER: "dense, other seeds"}.get(name, f"dense + {name}")


def _setting(analysis: dict[str, Any]) -> str:
    setting = analysis["dynamics"]
    memory = f", μ = {setting['memory']:g}" if setting["memory"] else ""
    name = setting["neuron"]["name"].upper()
    return f"{analysis['environment'].removesuffix('-v4')}, {name} {setting['timesteps']}{memory}"


def _interval(estimate: dict[str, Any], form: str, factor: float = 1.0) -> str:
    value, low, high = (None if end is None else form.format(factor * end) for end in estimate.values())
    return f"{value} [{low} … {high}]" if low else f"{value}"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of published actors.")] = Path(),
    pattern: Annotated[str, typer.Option(help="Which of them.")] = "TD3_*_actor",
    episodes: Annotated[int, typer.Option(help="Episodes of every policy.", min=2)] = 20,
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the tables again.")] = False,
) -> None:
    torch.set_num_threads(1)
    if not redraw:
        files = sorted(folder.glob(pattern))
        if not files:
            raise typer.BadParameter(f"no file {pattern} in {folder}")
        write_atomically(RESULTS, json.dumps(measure(files, episodes), indent=1).encode())
    analyses = json.loads(RESULTS.read_text())["analyses"]
    for name, draw in TABLES.items():
        fill(PAGE, name, draw(analyses))


TABLES = {
    "returns": returns_table,
    "errors": errors_table,
    "states": states_table,
    "shifts": shifts_table,
    "residuals": residuals_table,
}

if __name__ == "__main__":
    typer.run(main)
