"""`snnkern analyze` and `snnkern energy` as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.builders import make_actor, make_observations

pytest.importorskip("typer", reason="Typer is not installed")
pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

import gymnasium
from matplotlib import image
from support.command_line import run, run_json

import snnkern
from snnkern.analysis.summaries import AnalysisSummary
from snnkern.control import environments
from snnkern.report import analysis_figures

FIGURES = ("returns", "errors", "states", "residuals", "raster")


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    """Every environment ends after 40 steps."""
    make = environments.make

    def make_short(env, policy=None):
        return gymnasium.wrappers.TimeLimit(make(env, policy).unwrapped, 40)

    monkeypatch.setattr(environments, "make", make_short)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """A tiny actor for Hopper, its spiking version, and observations for them."""
    folder = tmp_path_factory.mktemp("files")
    actor = make_actor(11, 12, 9, 3, metadata={"environment": "Hopper-v5"})
    observations = make_observations(60, 11)
    snnkern.save(actor, folder / "actor.safetensors")
    snnkern.save(snnkern.convert(actor, observations, neuron="snm", timesteps=3), folder / "snn.safetensors")
    np.save(folder / "observations.npy", observations)
    names = {"TINY": "actor.safetensors", "SPIKING": "snn.safetensors", "ELEVEN": "observations.npy"}
    return {key: str(folder / name) for key, name in names.items()} | {"BELOW": str(folder / "actor.safetensors/x")}


def test_analyze_writes_data_and_figures(capsys, tmp_path, files) -> None:
    folder = tmp_path / "analysis"
    arguments = ["analyze", files["TINY"], "--steps", 200, "--episodes", 2, "--output", folder]
    code, out, _ = run(capsys, *arguments, "--neuron", "dc", "-T", 3, "--alpha", 0.4, "--memory", 0.5)
    assert code == 0
    for words in ("Action errors", "dense (open loop)", "random actions", "other seeds", "10 figures"):
        assert words in out
    assert max(len(line.rstrip()) for line in out.splitlines() if "Wrote" not in line) <= 100
    summary = json.loads((folder / "analysis.json").read_text())
    assert summary["dynamics"]["neuron"] == {
        "name": "dc",
        "initial_fraction": 0.0,
        "negative_fraction": 0.0,
        "levels": 4,
    }
    assert (summary["dynamics"]["alpha"], summary["dynamics"]["memory"]) == (0.4, 0.5)
    assert (summary["episodes"], summary["seed"], summary["calibration_steps"]) == (2, 1000, 200)
    assert summary["machine"]["versions"]["mujoco"]
    wanted = {"analysis.json"} | {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf")}
    assert {file.name for file in folder.iterdir()} == wanted
    for name in FIGURES:
        pixels = image.imread(folder / f"{name}.png")
        assert np.ptp(pixels[..., :3]) == 1.0, name
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.thorough
def test_a_spiking_actor_is_analysed_as_it_is(capsys, tmp_path, files) -> None:
    summary = run_json(capsys, "analyze", files["SPIKING"], "--episodes", 1, "-o", tmp_path)
    assert summary["dynamics"]["neuron"]["name"] == "snm"
    assert summary["calibration"] == "auto (mse:weighted:linear)"
    assert summary["calibration_steps"] is None
    assert summary["returns"][0]["mean"]["low"] is None  # one episode has no interval


def test_energy_counts_own_episodes(capsys, tmp_path, files) -> None:
    output, figure = tmp_path / "energy.json", tmp_path / "energy.png"
    arguments = ["energy", files["TINY"], "--steps", 200, "--neuron", "if,dc", "-T", "2,4", "--alpha", "0,0.2"]
    summary = run_json(capsys, *arguments, "-o", output, "--figure", figure)
    assert json.loads(output.read_text()) == summary
    assert len(summary["results"]) == 2 * 2 * 2
    weights = 11 * 12 + 12 * 9 + 9 * 3
    assert summary["dense"]["nanojoules"] == pytest.approx(4.6e-3 * weights)
    assert summary["dense_without_zeros"]["nanojoules"] < summary["dense"]["nanojoules"]
    assert image.imread(figure).shape[1] > 500
    code, out, _ = run(capsys, *arguments, "--by-layer", "--addition", 0.5)
    assert code == 0
    assert "hidden 2" in out
    assert "0.5 pJ per addition" in out


def test_energy_along_given_observations(capsys, files) -> None:
    summary = run_json(capsys, "energy", files["SPIKING"], "--observations", files["ELEVEN"])
    assert summary["along"] == "the 60 observations of observations.npy"
    snn, observations = snnkern.load(files["SPIKING"]), np.load(files["ELEVEN"])
    counted = 0
    for observation in observations:
        snn.act(observation)
        counted += int(snn.spikes.sum())
    (result,) = summary["results"]
    assert result["spikes"] == pytest.approx(counted / 60)


def test_energy_counts_the_episode_of_seed_zero(capsys, files) -> None:
    """0 is a seed as any other, and not the default of 1000."""
    summary = run_json(capsys, "energy", files["SPIKING"], "--episode-seed", 0)
    assert summary["seed"] == 0
    other = run_json(capsys, "energy", files["SPIKING"], "--episode-seed", 1000)
    assert other["seed"] == 1000
    assert summary["results"] != other["results"]


MISTAKES = {
    "options of a spiking actor": (["analyze", "SPIKING", "--neuron", "if"], "--neuron has no use here"),
    "episodes of none": (["analyze", "TINY", "--episodes", "0"], "--episodes"),
    "unknown neuron": (["analyze", "TINY", "--neuron", "izhikevich"], "unknown neuron 'izhikevich'"),
    "nowhere": (["analyze", "TINY", "-o", "BELOW"], "actor.safetensors/x: Not a directory"),
    "unfit environment": (["analyze", "TINY", "--env", "HalfCheetah-v5"], "observations are [11]"),
    "negative energy": (
        ["energy", "TINY", "--addition", "-1"],
        "the pJ of one addition must be a number from 0 to 1e+09, got -1.0",
    ),
    "episodes of observations": (
        ["energy", "TINY", "--observations", "ELEVEN", "--episodes", "2"],
        "--episodes has no use here",
    ),
    "calibrating a spiking actor": (["energy", "SPIKING", "--steps", "5"], "--steps has no use here"),
}


@pytest.mark.parametrize(
    ("verb", "array", "message"),
    [
        ("energy", np.array([["1.5"] * 11] * 5), "holds an array of '<U3', where one of real numbers was wanted"),
        ("energy", np.ones((5, 11), bool), "must be floating-point [N, 11], got torch.bool"),
        ("energy", np.ones((0, 11)), "holds no observation: at least one is needed"),
        ("bench", np.ones((5, 10)), "must be floating-point [N, 11], got torch.float64"),
    ],
    ids=["strings", "bool", "empty", "width"],
)
def test_bad_observations_are_refused_before_anything_is_counted(capsys, tmp_path, files, verb, array, message) -> None:
    np.save(tmp_path / "bad.npy", array)
    code, out, err = run(capsys, verb, files["SPIKING"], "--observations", tmp_path / "bad.npy")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1  # and no bar


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_line(capsys, tmp_path, monkeypatch, files, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *(files.get(argument, argument) for argument in arguments))
    lines = [line for line in err.splitlines() if line.startswith("snnkern: ")]
    assert (code, out) == (2, "")
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_analysis_leaves_no_file(capsys, tmp_path, monkeypatch, files) -> None:
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("snnkern.analysis.amplification.analyze", interrupt)
    code, _, err = run(capsys, "analyze", files["TINY"], "--steps", 20, "-o", tmp_path)
    assert code == 130
    assert "interrupted" in err
    assert list(tmp_path.iterdir()) == []


def test_figures_do_without_crpi_and_intervals(tmp_path, files) -> None:
    """α = 0 and one episode: one spiking version, no bands."""
    actor = snnkern.load_actor(files["TINY"])
    thresholds = snnkern.calibrate(actor, make_observations(60, 11))
    found = snnkern.analyze(actor, "Hopper-v5", snnkern.Dynamics(snnkern.MT(), 2), thresholds=thresholds, episodes=1)
    given = {**vars(found), "dynamics": found.dynamics.to_dict()}
    summary = AnalysisSummary(**given, actor="tiny", environment="Hopper-v5", low_frequency=0.05)
    assert len(analysis_figures.draw_analysis(summary, tmp_path)) == 2 * len(FIGURES)


def test_the_page_shows_what_was_measured() -> None:
    """The tables of docs/analysis.md are those that bench/analysis_page.py draws from its results."""
    import analysis_page

    analyses = json.loads(analysis_page.RESULTS.read_text())["analyses"]
    page = analysis_page.PAGE.read_text()
    for name, table in analysis_page.TABLES.items():
        assert f"<!-- {name} -->\n{table(analyses)}\n<!-- /{name} -->" in page
