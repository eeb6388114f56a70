"""The command line as a user meets it: output, JSON, exit codes, one line for a mistake."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support import ROOT
from support.builders import make_actor, make_layers, make_observations, rsl_checkpoint, td3_state

pytest.importorskip("typer", reason="Typer is not installed")
pytest.importorskip("mujoco", reason="MuJoCo is not installed")

from support.command_line import run, run_json

import snnkern
from snnkern.cli import app, demo, options
from snnkern.control.evaluation import Evaluation
from snnkern.control.intervals import Interval
from snnkern.report import latency_tables, tables
from snnkern.report.columns import SweepRow


@pytest.fixture
def observations(tmp_path):
    path = tmp_path / "observations.npy"
    np.save(path, np.random.default_rng(0).normal(size=(200, 11)).astype(np.float32))
    return path


def test_help_teaches_every_verb(capsys) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in ("demo", "convert", "refine", "evaluate", "sweep", "report", "analyze", "energy", "bench", "info"):
        assert verb in out
        code, text, _ = run(capsys, verb, "--help")
        assert code == 0
        assert "--json" in text


def test_info_names_versions_backends_and_actors(capsys) -> None:
    facts = run_json(capsys, "info")
    assert facts["snnkern"] == snnkern.__version__
    assert [backend["name"] for backend in facts["backends"]] == ["cpu", "cuda", "triton", "reference"]
    assert set(facts["zoo"]) == set(snnkern.zoo.names())
    assert {"what": "bfloat16, float16 on the CPU", "backend": "reference"}.items() <= facts["auto"][1].items()
    assert facts["auto"][1]["passed_over"]["cpu"] == "does not compute bfloat16 on cpu"
    code, out, _ = run(capsys, "info")
    assert code == 0
    assert "passed over" in out
    assert "td3-halfcheetah" in out


def test_info_says_why_the_native_backend_is_missing(capsys, monkeypatch) -> None:
    monkeypatch.setattr("snnkern.kernels.backends.cpu._cpu", None)
    monkeypatch.setattr("snnkern.kernels.backends.cpu._reason", "the native CPU kernels were not built", raising=False)
    code, out, _ = run(capsys, "info")
    assert code == 0
    assert "not built" in out


def test_convert_then_evaluate(capsys, tmp_path, observations) -> None:
    output = tmp_path / "snn.safetensors"
    described = run_json(
        capsys,
        "convert",
        "td3-hopper",
        output,
        "--neuron",
        "dc",
        "-T",
        4,
        "--levels",
        5,
        "--observations",
        observations,
    )
    assert described["neuron"]["levels"] == 5
    snn = snnkern.load(output)
    assert snn.dynamics.timesteps == described["timesteps"] == 4
    result = run_json(capsys, "evaluate", output, "--episodes", 1)
    assert result["environment"] == "Hopper-v5"
    assert len(result["returns"]) == 1
    assert len(result["spikes_per_decision_per_layer"]) == 2


def test_every_verb_that_reads_actors_takes_those_of_ppo(capsys, tmp_path) -> None:
    """The note names what is assumed of the library; an environment receives actions within its bounds."""
    checkpoint, output = tmp_path / "model_1000.pt", tmp_path / "snn.safetensors"
    statistics = (np.zeros(3, np.float32), np.ones(3, np.float32))
    torch.save(rsl_checkpoint(make_layers(3, 8, 1), 3, statistics), checkpoint)
    scale, env, steps = ("--action-scale", 9), ("--env", "Pendulum-v1"), ("--steps", 50)
    setting = ("--neuron", "if", "--timesteps", 2)
    for command in (
        ("convert", checkpoint, output, *scale, *env, *steps, *setting),
        ("evaluate", checkpoint, *scale, *env, *steps, *setting, "--episodes", 1),
        ("energy", checkpoint, *scale, *env, *steps, *setting),
        ("evaluate", output, "--episodes", 1),
    ):
        code, _, err = run(capsys, *command)
        assert code == 0, err
        assert err.count("Note: the file does not say the network's activation, and ELU is assumed") == 1
    code, _, err = run(capsys, "evaluate", checkpoint, "--env", "Pendulum-v1", "--episodes", 1, "--activation", "elu")
    assert (code, "Note" in err) == (0, False)


def test_convert_collects_observations_itself(capsys, tmp_path) -> None:
    code, out, _ = run(capsys, "convert", "td3-hopper", tmp_path / "snn.safetensors", "--steps", 50)
    assert code == 0
    assert "MT, T = 4, α = 0, 256 + 256 neurons" in out


def test_convert_remembers_the_environment_that_it_is_given(capsys, tmp_path) -> None:
    snnkern.save(make_actor(3, 8, 1, action_scale=2.0), tmp_path / "actor.safetensors")
    output = tmp_path / "snn.safetensors"
    described = run_json(
        capsys, "convert", tmp_path / "actor.safetensors", output, "--env", "Pendulum-v1", "--steps", 50
    )
    assert described["environment"] == "Pendulum-v1"
    assert run_json(capsys, "evaluate", output, "--episodes", 1)["environment"] == "Pendulum-v1"


def test_an_activation_that_nobody_stated_is_noted_until_it_is(capsys, tmp_path, observations) -> None:
    checkpoint, output = tmp_path / "actor.pth", tmp_path / "snn.safetensors"
    torch.save(td3_state(make_layers(11, 8, 3)), checkpoint)
    convert = ("convert", checkpoint, output, "--observations", observations)
    evaluate = ("evaluate", output, "--env", "Hopper-v5", "--episodes", 1)
    for command in (convert, evaluate):
        code, _, err = run(capsys, *command)
        assert code == 0
        assert err.count("Note: the file does not say the network's activation") == 1
        assert "--activation relu" in err
    code, _, err = run(capsys, *convert, "--activation", "relu")
    assert (code, "Note" in err) == (0, False)
    code, _, err = run(capsys, *evaluate)
    assert (code, "Note" in err) == (0, False)
    code, _, err = run(capsys, *convert, "--activation", "elu")
    assert (code, "Note" in err) == (0, False)
    assert snnkern.load(output).activation == "elu"
    code, _, err = run(capsys, *convert, "--activation", "relu6")
    assert code == 2
    assert err.startswith("snnkern: activation must be one of relu, tanh, elu, ")


def test_vec_normalize_is_found_given_or_missed(capsys, tmp_path) -> None:
    sb3 = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed")
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
    model = sb3.TD3("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, learning_starts=1000, seed=0, device="cpu")
    model.learn(60)
    zip_file, file, output = tmp_path / "model.zip", tmp_path / "statistics", tmp_path / "snn.safetensors"
    model.save(zip_file)
    env.save(file)
    convert = ("convert", zip_file, output, "--env", "Pendulum-v1", "--steps", 50)
    code, _, err = run(capsys, *convert)
    assert code == 0
    (line,) = [line for line in err.splitlines() if line.startswith("Warning: ")]
    assert "had normalised" in line
    assert "--vec-normalize FILE" in line
    code, _, err = run(capsys, *convert, "--vec-normalize", "none")
    assert (code, "Warning" in err) == (0, False)
    code, _, err = run(capsys, *convert, "--vec-normalize", file)
    assert (code, "Warning" in err) == (0, False)
    assert "Note: observations are normalised as statistics says." in err
    assert run_json(capsys, *convert, "--vec-normalize", file)["vec_normalize"] == "statistics"
    file.rename(tmp_path / "vec_normalize.pkl")
    assert run_json(capsys, *convert)["vec_normalize"] == "vec_normalize.pkl"
    result = run_json(capsys, "evaluate", zip_file, "--env", "Pendulum-v1", "--episodes", 1)
    assert len(result["returns"]) == 1
    code, _, err = run(capsys, "evaluate", output, "--vec-normalize", tmp_path / "vec_normalize.pkl")
    assert code == 2
    assert "is a spiking actor and holds its own vec_normalize" in err


@pytest.mark.thorough
def test_a_negative_return_is_compared_with_a_random_policy(capsys, tmp_path) -> None:
    snnkern.save(make_actor(3, 8, 1, action_scale=2.0), tmp_path / "actor.safetensors")
    command = ["evaluate", tmp_path / "actor.safetensors", "--env", "Pendulum-v1", "--neuron", "if", "-T", 2]
    command += ["--steps", 200, "--episodes", 2, "--workers", 1, "--calibration", "max"]
    summary = run_json(capsys, *command)
    better = summary["dense"]["return_mean"] > summary["random"]["return_mean"]
    assert (summary["ratio"] == "(return − random) / (dense − random)") == better
    assert (summary["results"][0]["performance_ratio"] is not None) == better
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert "random" in out


def test_options_reach_what_they_are_about(capsys, tmp_path, observations, monkeypatch) -> None:
    output = tmp_path / "snn.safetensors"
    options = ["--alpha", 0.7, "--memory", 0.3, "--calibration", "percentile:50", "--observations", observations]
    run_json(capsys, "convert", "td3-hopper", output, *options)
    snn = snnkern.load(output)
    assert (snn.dynamics.alpha, snn.dynamics.memory) == (0.7, 0.3)
    wanted = snnkern.calibrate(snnkern.load_actor("td3-hopper"), np.load(observations), "percentile:50")
    assert all(map(torch.equal, snn.thresholds, wanted))

    given: list[tuple[object, ...]] = []

    def fake_sweep(actor, env, settings, **options):
        given.append((sorted({(s.alpha, s.memory) for s in settings}), options["seed"], options["episodes"]))
        raise snnkern.InputError("enough")

    monkeypatch.setattr("snnkern.studies.study.sweep", fake_sweep)
    arguments = ["--alpha", "0.1,0.5", "--memory", "0,1", "--episode-seed", 7, "--episodes", 3, "--steps", 20]
    run(capsys, "evaluate", "td3-hopper", "--neuron", "if", *arguments)
    assert given == [([(0.1, 0.0), (0.1, 1.0), (0.5, 0.0), (0.5, 1.0)], 7, 3)]


def test_a_file_cannot_choose_what_is_imported(capsys, tmp_path) -> None:
    actor = snnkern.load_actor("td3-hopper")
    actor.metadata = {"environment": "this:Hopper-v5"}
    snnkern.save(actor, tmp_path / "actor.safetensors")
    sys.modules.pop("this", None)
    code, _, err = run(capsys, "evaluate", tmp_path / "actor.safetensors")
    assert code == 2
    assert "would import a module" in err
    assert "this" not in sys.modules


def test_evaluate_compares_settings_and_keeps_them(capsys, tmp_path) -> None:
    arguments = ["evaluate", "sac-hopper", "--neuron", "if,mt", "-T", "1", "--alpha", "0", "--episodes", 1]
    arguments += ["--steps", 300, "--workers", 1, "--store", tmp_path / "store", "--figure", tmp_path / "figure.png"]
    summary = run_json(capsys, *arguments)
    assert [entry["neuron"]["name"] for entry in summary["results"]] == ["if", "mt"]
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(list((tmp_path / "store").glob("*.json"))) == 3
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "ratio, %" in out


def test_the_demo_writes_its_results_and_figure(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(demo, "TIMESTEPS", (2,))
    monkeypatch.setattr(demo, "_CALIBRATION_STEPS", 50)
    actor = tmp_path / "tiny.safetensors"
    snnkern.save(make_actor(11, 12, 9, 3, metadata={"environment": "Hopper-v5"}), actor)  # falls soon
    code, out, _ = run(capsys, "demo", actor, "-o", tmp_path, "--episodes", 1, "--workers", 1)
    assert code == 0
    assert "µs: one decision" in out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["demo-results.json", "demo.png", actor.name]
    summary = json.loads((tmp_path / "demo-results.json").read_text())
    assert len(summary["results"]) == 4 * 2
    assert all(entry["microseconds_per_decision"] > 0 for entry in [summary["dense"], *summary["results"]])


def test_progress_says_how_long_the_rest_takes(capsys, monkeypatch) -> None:
    clock = iter([0.0, 60.0, 70.0])
    monkeypatch.setattr(options.time, "monotonic", lambda: next(clock))
    with options.progress_bars() as report:
        report("frames", 10, 100)
        report("frames", 40, 100)  # 30 in a minute, 60 are left
        report("settings", 1, 3, 700.0)
    shown = capsys.readouterr().err
    assert re.search(r"frames.* 40/100 .*about 2 min left", shown)
    assert re.search(r"settings.* 1/3 .*about 12 min left", shown)


def test_of_an_actor_that_sees_decisions_are_shown() -> None:
    shown: list[tuple[object, ...]] = []
    name = "dm_control/cartpole-swingup-v0"
    progress = options.episodes_of(
        lambda *given: shown.append(given), snnkern.load_actor("drqv2-cartpole-swingup"), name, 4
    )
    progress(0)
    progress(0)
    progress(4)
    task = f"decisions of 4 episodes in {name}"
    assert shown == [(task, 4, 2_000), (task, 8, 2_000), (task, 2_000, 2_000)]
    progress = options.episodes_of(lambda *given: shown.append(given), snnkern.load_actor("td3-hopper"), "Hopper-v5", 4)
    progress(1)
    assert shown[-1] == ("episodes in Hopper-v5", 1, 4)


MISTAKES = {
    "analysis of images": (["analyze", "drqv2-cartpole-swingup"], "this one sees images"),
    "no such actor": (["evaluate", "td3-nothing"], "no actor 'td3-nothing'"),
    "no such verb": (["conver"], "No such command"),
    "missing argument": (["convert"], "Missing argument"),
    "unknown option": (["info", "--jsn"], "No such option"),
    "unknown neuron": (
        ["evaluate", "td3-hopper", "--neuron", "izhikevich"],
        "unknown neuron 'izhikevich': choose one of",
    ),
    "T below 1": (["convert", "td3-hopper", "x.safetensors", "-T", "0"], "timesteps (T) must be"),
    "T not a number": (["evaluate", "td3-hopper", "--neuron", "if", "-T", "a,b"], "--timesteps takes"),
    "alpha too large": (["convert", "td3-hopper", "x.safetensors", "--alpha", "1.5"], "alpha (α) must be"),
    "two alphas": (
        ["convert", "td3-hopper", "x.safetensors", "--alpha", "0,0.5"],
        "alpha (α) must be a number from 0 to 1",
    ),
    "alpha by a name": (["evaluate", "td3-hopper", "--neuron", "if", "--alpha", "best"], "got 'best'"),
    "settings without neuron": (["evaluate", "td3-hopper", "--alpha", "0"], "give --neuron too"),
    "unknown calibration": (["convert", "td3-hopper", "x.safetensors", "--calibration", "mean"], "unknown calibration"),
    "no such environment": (["evaluate", "td3-hopper", "--env", "Hoper-v5"], "no environment 'Hoper-v5'"),
    "unfit environment": (["evaluate", "td3-hopper", "--env", "HalfCheetah-v5"], "observations are [11]"),
    "no observations": (["convert", "td3-hopper", "x.safetensors", "--observations", "no.npy"], "cannot read no.npy"),
    "zero episodes": (["evaluate", "td3-hopper", "--episodes", "0"], "--episodes"),
    "unknown backend": (["evaluate", "td3-hopper", "--neuron", "if", "--backend", "tpu", "--steps", "10"], "'tpu'"),
    "no folder": (["demo", "-o", "nowhere"], "there is no folder nowhere"),
    "negative seed": (["evaluate", "td3-hopper", "--episode-seed", "-1"], "--episode-seed"),
    "an environment of old": (["evaluate", "td3-hopper", "--env", "Hopper-v2"], "cannot make environment 'Hopper-v2'"),
    "nowhere to convert to": (["convert", "td3-hopper", "no/x.safetensors"], "there is no folder no"),
    "nowhere to draw": (["evaluate", "td3-hopper", "--neuron", "if", "--figure", "no/x.png"], "there is no folder no"),
    "calibration alone": (["evaluate", "td3-hopper", "--calibration", "max"], "--calibration has no use here"),
    "calibration without percentile": (
        ["evaluate", "td3-hopper", "--neuron", "if", "--calibration", "percentile:"],
        "not a percentile",
    ),
    "empty list": (["evaluate", "td3-hopper", "--neuron", "if", "-T", ""], "--timesteps takes"),
    "no name": (["evaluate", ""], "no actor ''"),
    "bench without environment": (
        ["bench", "PLAIN"],
        "which environment the actor is for: give --env or --observations",
    ),
    "bench of a spiking actor with neurons": (["bench", "SPIKING", "--neuron", "if"], "--neuron has no use here"),
    "batch of none": (["bench", "td3-hopper", "--batch", "1,0"], "--batch must be a whole number of at least 1, got 0"),
    "batch not a number": (["bench", "td3-hopper", "--batch", "1;2"], "--batch takes one value or several"),
    "no threads": (["bench", "td3-hopper", "--threads", "0"], "--threads must be a whole number of at least 1, got 0"),
    "bench with a calibration for a neuron": (
        ["bench", "PLAIN", "--observations", "no.npy", "--calibration", "mse"],
        "calibration 'mse' depends on the neuron and T",
    ),
    "a sweep in an unfit environment": (
        ["sweep", "td3-hopper", "td3-halfcheetah", "--env", "Hopper-v5", "--dry-run"],
        "td3-halfcheetah: the environment's observation space is",
    ),
    "no time": (["bench", "td3-hopper", "--seconds", "0"], "--seconds"),
    "nowhere to write to": (["bench", "td3-hopper", "-o", "no/x.json"], "there is no folder no"),
    "observations of another actor": (["bench", "td3-hopper", "--observations", "THREE"], "floating-point [N, 11]"),
    "time without end": (["bench", "td3-hopper", "--seconds", "inf"], "--seconds must be a number from 0.001 to"),
    "no number of seconds": (["bench", "td3-hopper", "--seconds", "nan"], "--seconds must be a number from 0.001 to"),
    "a year of seconds": (["bench", "td3-hopper", "--seconds", "3e7"], "--seconds must be a number from 0.001 to"),
    "huge batch": (["bench", "td3-hopper", "--batch", "1,10**9"], "--batch takes one value or several"),
    "batch beyond memory": (
        ["bench", "td3-hopper", "--batch", "1000000000"],
        "--batch must be a whole number of at most",
    ),
    "threads beyond reason": (["bench", "td3-hopper", "--threads", "100000"], "--threads must be a whole number of at"),
    "episodes beyond reason": (["evaluate", "td3-hopper", "--episodes", "1000000000000"], "--episodes"),
    "episodes at once": (["analyze", "td3-hopper", "--episodes", "100000"], "--episodes"),
    "episodes to count in": (["energy", "td3-hopper", "--episodes", "100000"], "--episodes"),
    "seed of 64 bits": (["evaluate", "td3-hopper", "--episode-seed", "18446744073709551616"], "--episode-seed"),
    "steps beyond memory": (["convert", "td3-hopper", "x.safetensors", "--steps", "1000000000000"], "--steps"),
    "steps beyond memory for this actor": (
        ["convert", "td3-hopper", "x.safetensors", "--steps", "1000000000"],
        "steps must be a whole number of at most 90,909,090",
    ),
    "workers beyond reason": (["demo", "--workers", "1000000"], "--workers"),
    "levels of no neuron": (["convert", "td3-hopper", "x.safetensors", "--neuron", "if", "--levels", "-1"], "--levels"),
    "an integer of many digits": (["evaluate", "td3-hopper", "--neuron", "if", "-T", "1" * 5000], "--timesteps takes"),
    "energy without end": (["energy", "td3-hopper", "--read", "inf"], "the pJ of one read must be a number from 0 to"),
    "an environment of no name": (["evaluate", "td3-hopper", "--env", ":"], "cannot make environment ':'"),
    "an empty name": (["evaluate", "td3-hopper", "--env", ""], "environment ''"),
    "a figure of no kind": (
        ["evaluate", "td3-hopper", "--neuron", "if", "--figure", "x.jpg"],
        "ends in .png, .pdf, .svg",
    ),
    "a figure without a kind": (["energy", "td3-hopper", "--figure", "x"], "a figure's file ends in .png, .pdf, .svg"),
    "the actor as output": (["convert", "PLAIN", "PLAIN", "--observations", "THREE"], "is what the command reads"),
    "observations as output": (
        ["bench", "PLAIN", "--observations", "THREE", "-o", "THREE"],
        "is what the command reads",
    ),
    "a folder without a grid": (["sweep", "td3-hopper", "--folder", "actors"], "--folder has no use here"),
    "a name that steers the terminal": (["evaluate", "\x1b[31m\x07"], "no actor"),
    "a name without end": (["evaluate", "x" * 100_000], "x…x"),
    "observations and steps": (
        ["convert", "td3-hopper", "x.safetensors", "--observations", "x.npy", "--steps", "5"],
        "--steps has no use here",
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """An actor of no environment, its spiking version, and observations for them."""
    folder = tmp_path_factory.mktemp("files")
    actor, observations = make_actor(3, 17, 2), make_observations(50, 3)
    snnkern.save(actor, folder / "actor.safetensors")
    snnkern.save(snnkern.convert(actor, observations, neuron="dc", timesteps=3), folder / "snn.safetensors")
    np.save(folder / "observations.npy", observations)
    names = {"PLAIN": "actor.safetensors", "SPIKING": "snn.safetensors", "THREE": "observations.npy"}
    return {key: str(folder / name) for key, name in names.items()}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_line_and_exit_code_2(capsys, tmp_path, monkeypatch, files, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *(files.get(argument, argument) for argument in arguments))
    lines = [line for line in err.splitlines() if line.startswith("snnkern: ")]
    assert code == 2
    assert out == ""
    assert len(lines) == 1
    assert message in lines[0]
    assert len(lines[0]) < 600
    assert not set(err) & set("\x1b\x07")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_tables_fit_a_terminal_of_80_columns(capsys) -> None:
    evaluation, ratio = Evaluation((11111.1, 13580.1), (1, 1), (1000.0, 689.0)), Interval(1.004, 0.951, 1.042)
    setting = snnkern.Dynamics(snnkern.SNM(), 16, 0.2)
    rows = [
        SweepRow("dense", evaluation, Interval(1.0), None, 123.4e-6),
        SweepRow("SNM", evaluation, ratio, setting, 123.4e-6),
    ]
    tables.print_sweep("a in E", rows, "return / dense return")
    lines = capsys.readouterr().out.splitlines()
    assert any("100.4 [95.1 … 104.2]" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= 80


def test_bench_times_an_actor_of_no_environment(capsys, tmp_path, files) -> None:
    output, figure = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = ["--observations", files["THREE"], "--batch", "1,4", "--threads", 1, "--seconds"]
    options = ["--neuron", "if,mt", "-T", "2", "-o", output, "--figure", figure]
    for seconds in (1.5, 15, 150):  # a busy machine needs more of them to reach everyone
        summary = run_json(capsys, "bench", files["PLAIN"], *arguments, seconds, *options)
        if not summary["unreached"]:
            break
    assert json.loads(output.read_text()) == summary
    assert figure.stat().st_size > 10_000
    assert summary["layers"] == [3, 17, 2]
    assert {entry["neuron"]["name"] for entry in summary["results"] if entry["name"] == "snn.act"} == {"if", "mt"}
    assert {entry["batch"] for entry in summary["results"]} == {1, 4}
    assert {entry["wrong"] for entry in summary["results"]} == {0}

    code, out, _ = run(capsys, "bench", files["SPIKING"], *arguments, seconds)
    assert code == 0
    assert re.search(r"DC +3 +[\d.]+ \[[\d.]+ … [\d.]+\]", out)
    assert re.search(r"loop, α = [\d.]+ +3 ", out)
    assert ("ONNX Runtime (" in " ".join(out.split())) == ("onnxruntime" not in sys.modules)


@pytest.mark.parametrize("processor", ["i7", "Xeon(R) " * 30, "x" * 200], ids=["short", "long", "one long word"])
def test_the_tables_of_bench_fit_80_columns(capsys, processor) -> None:
    """Whatever the processor is called; times are given, since they are as wide as they are long."""
    setting = snnkern.Dynamics(snnkern.DC(), 16, 0.2).to_dict()
    common = {"batch": 1, "threads": 1, "microseconds": [123.4, 1234.5, 12345.6], "rounds": 20, "wrong": 0}
    ratios = {"PyTorch": [0.1, 0.9, 1.2], "NumPy": [10.0, 20.0, 30.0], "published loop": [100.0, 200.0, 300.0]}
    results = [
        {"name": name, **common, **what, "times_as_fast_as": ratios, "spikes_per_decision": 1234.0}
        for name, what in (("snn.act", setting), ("snn(tensor)", setting), ("published loop", setting), ("PyTorch", {}))
    ]
    lost = {"name": "snn.act", "batch": 1, "threads": 1, "runtime": "PyTorch", "times_as_fast": [0.1, 0.9, 1.2]}
    machine = {"cpu": processor, "cores": 2, "engine": "native kernels for avx512, float32 and float64", "busy": "busy"}
    summary = {
        "actor": "td3-hopper",
        "layers": [11, 256, 256, 3],
        "machine": {**machine, "versions": {"snnkern": "0.1.0", "torch": "2.13.0+cpu"}, "load": 1.0, "load_after": 1.0},
        "seconds": 120.0,
        "missing": {"ONNX Runtime": "ModuleNotFoundError: No module named 'onnxruntime'"},
        "unreached": 3,
        "fastest_dense": [{"batch": 1, "threads": 1, "runtime": "PyTorch"}],
        "not_beaten": [{**lost, **setting}],
        "results": results,
    }
    latency_tables.print_benchmark(summary)
    out = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    assert processor.strip() in " ".join(out.split()) or processor.strip() in "".join(out.split())


def test_an_interrupted_bench_shows_and_writes_what_it_has(capsys, tmp_path, files, monkeypatch) -> None:
    def interrupt(passed: float) -> None:
        heard.append(passed)
        if len(heard) == 30:
            raise KeyboardInterrupt

    heard: list[float] = []
    monkeypatch.setattr("snnkern.cli.bench._seconds_left", lambda seconds: contextlib.nullcontext(interrupt))
    output = tmp_path / "bench.json"
    code, out, err = run(
        capsys, "bench", files["SPIKING"], "--observations", files["THREE"], "--batch", 1, "-o", output
    )
    assert code == 130
    assert "snnkern: interrupted" in err
    assert "One observation" in out
    summary = json.loads(output.read_text())
    assert summary["interrupted"]
    assert summary["results"]


def test_bench_needs_gymnasium_or_observations(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    code, _, err = run(capsys, "bench", "td3-hopper")
    assert code == 2
    assert "needs gymnasium, which is not installed: pip install 'snnkern[rl]', or give --observations" in err


def test_version(capsys) -> None:
    assert run(capsys, "--version") == (0, f"snnkern {snnkern.__version__}\n", "")


def test_control_c_stops_a_sweep_at_once_and_keeps_what_is_finished(tmp_path) -> None:
    arguments = ["evaluate", "td3-hopper", "--neuron", "if,dc", "-T", "2,4,8", "--steps", "100", "--workers", "2"]
    arguments += ["--env", "support.waiting:Waiting-v0", "--store", str(tmp_path)]
    variables = {"PYTHONPATH": str(ROOT / "python_tests"), "WAITING_FOR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "snnkern", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
        # What has started the tests may ignore it.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    # No task that begins now ends: whenever the signal comes, there is one to be stopped.
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "snnkern: interrupted" in err
    assert "Traceback" not in out + err
    assert 1 <= len(list(tmp_path.glob("*.json"))) < 7


def test_a_spiking_actor_cannot_be_converted_again(capsys, tmp_path, observations) -> None:
    output = tmp_path / "snn.safetensors"
    assert run(capsys, "convert", "td3-hopper", output, "--observations", observations)[0] == 0
    code, _, err = run(capsys, "evaluate", output, "--neuron", "if")
    assert code == 2
    assert "is a spiking actor already" in err
    code, _, err = run(capsys, "convert", output, tmp_path / "again.safetensors", "--observations", observations)
    assert code == 2
    assert "'spiking-actor', where 'actor' was wanted" in err


def test_pickled_observations_are_refused(capsys, tmp_path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    code, _, err = run(
        capsys, "convert", "td3-hopper", tmp_path / "x.safetensors", "--observations", tmp_path / "objects.npy"
    )
    assert code == 2
    assert "as a .npy array" in err


def unread(folder):
    """The writing end of a pipe that nobody reads from, as behind `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def full(folder):
    return open("/dev/full", "w")


@pytest.mark.parametrize(
    ("arguments", "stream", "code", "message"),
    [
        (["info"], unread, 1, ""),
        (["info", "--json"], unread, 1, ""),
        (["--help"], unread, 1, ""),
        (["info"], full, 2, "snnkern: cannot write the output: No space left on device\n"),
        (["info", "--json"], full, 2, "snnkern: cannot write the output: No space left on device\n"),
    ],
)
def test_output_that_nobody_takes_ends_without_a_traceback(
    capsys, tmp_path, monkeypatch, arguments, stream, code, message
) -> None:
    with stream(tmp_path) as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert app.run(arguments) == code
    assert capsys.readouterr().err == message


def test_no_memory_is_one_line(capsys, monkeypatch) -> None:
    monkeypatch.setattr("snnkern.policies.loading.load_actor", lambda *arguments, **options: np.empty(10**14))
    code, _, err = run(capsys, "convert", "td3-hopper", "x.safetensors")
    assert code == 2
    assert err.startswith("snnkern: there is not enough memory for this: Unable to allocate")


def test_an_interruption_ends_with_130(capsys, monkeypatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("snnkern.control.evaluation.evaluate", interrupted)
    code, _, err = run(capsys, "evaluate", "td3-hopper")
    assert code == 130
    assert "Traceback" not in err


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snnkern", "evaluate", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("snnkern: no actor 'nothing'")


def test_importing_the_package_needs_torch_numpy_and_safetensors_alone() -> None:
    """Everything optional stays out until it is used, and its absence is one line."""
    hidden = ["gymnasium", "mujoco", "matplotlib", "scipy", "typer", "rich", "stable_baselines3"]
    program = f"""
import sys
for name in {hidden!r}:
    sys.modules[name] = None
import snnkern, snnkern.control.evaluation, snnkern.report.columns, snnkern.__main__
actor = snnkern.load_actor("td3-hopper")
try:
    snnkern.collect(actor, "Hopper-v5", 10)
except snnkern.MissingDependencyError as error:
    print(error)
snnkern.__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "running environments needs gymnasium, which is not installed: pip install 'snnkern[rl]'\n"
    assert done.stderr == "snnkern: the command line needs typer, which is not installed: pip install 'snnkern[cli]'\n"
