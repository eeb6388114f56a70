"""Sweeps of one actor: what they run, keep, reuse and refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

from support.builders import make_actor, make_observations
from support.environments_for_tests import random_actor

import snnkern
from snnkern.control import evaluation
from snnkern.control.evaluation import Evaluation
from snnkern.conversion.rules import recommended
from snnkern.report.columns import summarize_sweep
from snnkern.studies.results import collect_results
from snnkern.studies.settings import grid
from snnkern.studies.study import sweep

OBSERVATIONS = make_observations(100, 17)


class TestSweep:
    """With `evaluate` replaced by a count: what a sweep runs, keeps and reuses."""

    @pytest.fixture(autouse=True)
    def count(self, monkeypatch) -> None:
        self.ran: list[str] = []
        self.seeds: list[int] = []

        def fake(policy, env, *, episodes, seed):
            name = policy.dynamics.neuron.name if isinstance(policy, snnkern.SpikingActor) else "dense"
            if name == getattr(self, "breaks_at", None):
                raise KeyboardInterrupt
            self.ran.append(name)
            self.seeds.append(seed)
            return Evaluation((float(len(self.ran)), 2.0), (1, 1), ())

        monkeypatch.setattr(evaluation, "evaluate", fake)

    def run(self, store: Path | None, neurons=("if", "snm", "mt"), **changed):
        actor = changed.pop("actor", None) or snnkern.load_actor("td3-halfcheetah")
        settings = grid(neurons, [4], [0.0])
        changed = {"observations": OBSERVATIONS, "calibration": "max", **changed}
        return sweep(actor, "HalfCheetah-v5", settings, store=store, **changed)

    def test_finished_settings_are_not_run_again(self, tmp_path) -> None:
        first = self.run(tmp_path)
        assert self.ran == ["dense", "if", "snm", "mt"]
        assert self.run(tmp_path) == first
        assert len(self.ran) == 4

    def test_an_interrupted_sweep_goes_on_where_it_was(self, tmp_path) -> None:
        self.breaks_at = "snm"
        with pytest.raises(KeyboardInterrupt):
            self.run(tmp_path)
        self.breaks_at = None
        self.ran.clear()
        result = self.run(tmp_path)
        assert self.ran == ["snm", "mt"]
        assert [setting.neuron.name for setting, _ in result.results] == ["if", "snm", "mt"]

    @pytest.mark.parametrize("changed", ["seed", "episodes", "observations", "calibration", "actor"])
    def test_a_result_is_reused_only_where_all_is_the_same(self, tmp_path, changed) -> None:
        self.run(tmp_path, neurons=["if"])
        other = snnkern.load_actor("td3-halfcheetah")
        other.output.bias[0] += 1e-3
        value = {"seed": 1, "episodes": 3, "observations": 2 * OBSERVATIONS, "calibration": "mse", "actor": other}
        self.ran.clear()
        self.run(tmp_path, neurons=["if"], **{changed: value[changed]})
        assert "if" in self.ran

    @pytest.mark.parametrize("field", ["timesteps", "alpha", "memory", "clip"])
    def test_a_result_belongs_to_its_setting_alone(self, tmp_path, field) -> None:
        first = snnkern.Dynamics(snnkern.MT(), 4, alpha=0.2, memory=0.1, clip=0.5)
        other = replace(first, **{field: {"timesteps": 5}.get(field, 0.3)})
        actor = snnkern.load_actor("td3-halfcheetah")
        for setting in (first, other):
            sweep(actor, "HalfCheetah-v5", [setting], observations=OBSERVATIONS, calibration="max", store=tmp_path)
        assert self.ran == ["dense", "mt", "mt"]

    def test_another_backend_or_version_runs_again(self, tmp_path, monkeypatch) -> None:
        self.run(tmp_path, neurons=["if"])
        self.run(tmp_path, neurons=["if"], backend="reference")
        assert self.ran == ["dense", "if", "if"]
        monkeypatch.setattr(evaluation, "installed", lambda package: "another")
        self.run(tmp_path, neurons=["if"])
        assert self.ran == ["dense", "if", "if", "dense", "if"]

    def test_the_seed_reaches_every_evaluation(self) -> None:
        self.run(None, seed=17)
        assert self.seeds == [17] * 4

    def test_without_a_store_everything_runs(self) -> None:
        self.run(None)
        self.run(None)
        assert len(self.ran) == 8

    def test_a_damaged_result_is_named(self, tmp_path) -> None:
        self.run(tmp_path, neurons=["if"])
        for file in tmp_path.glob("*.json"):
            file.write_text("{")
        with pytest.raises(snnkern.InputError, match=r"\.json is not a stored result.*delete it"):
            self.run(tmp_path, neurons=["if"])

    def test_stored_results_say_what_they_belong_to(self, tmp_path) -> None:
        self.run(tmp_path, neurons=["mt"])
        records = [json.loads(file.read_text())["task"] for file in tmp_path.glob("*.json")]
        assert {record["environment"] for record in records} == {"HalfCheetah-v5"}
        assert [record["setting"]["neuron"]["levels"] for record in records if record["setting"]] == [4]

    def test_progress_counts_what_was_found_and_what_was_run(self, tmp_path) -> None:
        self.run(tmp_path, neurons=["if"])
        heard: list[tuple[int, int]] = []
        self.run(tmp_path, progress=lambda done, total: heard.append((done, total)))
        assert heard == [(2, 4), (3, 4), (4, 4)]

    def test_bad_input_is_refused_before_anything_runs(self, tmp_path) -> None:
        with pytest.raises(snnkern.InputError, match="workers must be a whole number of at least 1, got 0"):
            self.run(tmp_path, workers=0)
        with pytest.raises(snnkern.InputError, match="no environment 'Nothing-v0'"):
            sweep(random_actor(), "Nothing-v0", [], observations=np.zeros((1, 3)))
        with pytest.raises(snnkern.InputError, match="the actor's observations are"):
            sweep(random_actor(), "HalfCheetah-v5", [], observations=np.zeros((1, 3)))
        actor = snnkern.load_actor("td3-halfcheetah")
        for wrong, message in (
            ({"settings": ["if"]}, "a setting is a Dynamics"),
            ({"env": lambda: None}, "registered name, got function"),
            ({"observations": OBSERVATIONS[:, :3]}, r"must be floating-point \[N, 17\], got .* of shape \[100, 3\]"),
            ({"observations": OBSERVATIONS[:0]}, "calibration data is empty"),
            ({"calibration": "min"}, "unknown calibration 'min'"),
            ({"dense_episodes": 0}, "dense_episodes must be a whole number of at least 1, got 0"),
        ):
            arguments = {"env": "HalfCheetah-v5", "settings": [], "observations": OBSERVATIONS} | wrong
            with pytest.raises(snnkern.InputError, match=message):
                sweep(actor, **arguments)
        (tmp_path / "file").write_text("")
        with pytest.raises(snnkern.InputError, match="cannot make the folder"):
            self.run(tmp_path / "file")
        assert self.ran == []


def test_a_random_policy_is_measured_where_the_dense_return_is_not_positive_and_only_there(tmp_path) -> None:
    """Once for each environment and seed, kept as other tasks are."""
    actor = make_actor(3, 8, 1, action_scale=2.0)
    options = {"observations": make_observations(100, 3), "calibration": "max", "episodes": 2, "store": tmp_path}
    seconds: list[float] = []
    first = sweep(actor, "Pendulum-v1", grid(["if"], [2], [0.0]), **options, estimate=seconds.append)
    assert len(seconds) == 3  # before, and after the dense actor and the setting
    assert min(seconds[:2]) > seconds[2] == 0
    assert first.random.mean < 0
    assert first.random.lengths == (200, 200)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    assert len(files) == 3
    assert sweep(actor, "Pendulum-v1", grid(["if"], [2], [0.0]), **options) == first
    another = make_actor(3, 8, 1, action_scale=2.0, seed=5)
    assert sweep(another, "Pendulum-v1", grid(["if"], [2], [0.0]), **options).random == first.random
    assert len(list(tmp_path.glob("*.json"))) == 5  # another dense and another spiking one
    assert {file: file.stat().st_mtime_ns for file in files} == files
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    collection = collect_results("test", records)
    assert [place.environment for place in collection.dense] == ["Pendulum-v1"] * 2
    assert all("random" not in record["actor"] for record in collection.records)
    if first.dense.mean > first.random.mean:
        assert any("(return − random) / (dense − random)" in note for note in collection.notes)

    summary = summarize_sweep(first)
    assert summary["random"]["returns"] == list(first.random.returns)
    assert summary["ratio"] == (first.dense.ratio_formula(first.random) or None)


def test_two_processes_give_what_one_gives(tmp_path) -> None:
    actor = make_actor(11, 12, 9, 3)
    settings = grid(["if", "dc"], [2], [0.2])
    arguments = {"observations": snnkern.collect(actor, "Hopper-v5", 200), "episodes": 3, "seed": 3}
    alone = sweep(actor, "Hopper-v5", settings, **arguments)
    assert len({*alone.dense.returns, *(value for _, result in alone.results for value in result.returns)}) > 3
    assert sweep(actor, "Hopper-v5", settings, workers=2, store=tmp_path, **arguments) == alone
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_every_calibration_of_convert_is_swept() -> None:
    """`sweep` converts as `convert` does: the same returns as by hand."""
    actor = snnkern.load_actor("td3-hopper")
    observations = snnkern.collect(actor, "Hopper-v5", 300)
    (setting,) = grid(["snm"], [4])
    measured = sweep(actor, "Hopper-v5", [setting], observations=observations, episodes=2, dense_episodes=3)
    snn = snnkern.convert(actor, observations, neuron="snm", timesteps=4)
    assert measured.results == ((setting, snnkern.evaluate(snn, "Hopper-v5", episodes=2)),)
    assert len(measured.dense.returns) == 3


def test_what_auto_means_is_part_of_a_result(tmp_path) -> None:
    """Another version may recommend something else: then results are not reused."""
    actor = snnkern.load_actor("td3-hopper")
    observations = snnkern.collect(actor, "Hopper-v5", 50)
    sweep(actor, "Hopper-v5", grid(["if"], [1]), observations=observations, episodes=1, store=tmp_path)
    tasks = [json.loads(file.read_text())["task"] for file in tmp_path.glob("*.json")]
    (calibration,) = (task["calibration"] for task in tasks if task["calibration"])
    assert calibration["rule"] == "auto"
    assert calibration["recommended"] == {"calibration": str(recommended(snnkern.IF(), actor)[0])}


class Bridged(nn.Module):
    """A policy that is no chain, and returns nothing but actions if it is told so."""

    def __init__(self, alone: bool = True) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.alone = alone

    def forward(self, x):
        first = torch.relu(self.one(x))
        action = 2 * torch.tanh(self.three(torch.relu(self.two(torch.sigmoid(first))) + first))
        return action if self.alone else (action, first)


def test_a_module_is_swept_as_spikify_makes_it(tmp_path) -> None:
    torch.manual_seed(0)
    module, observations = Bridged(), make_observations(50, 3)
    settings = grid(["if", "dc"], [2], [0.0, 0.5])
    options = {"observations": observations, "episodes": 2, "store": tmp_path}
    found = sweep(module, "Pendulum-v1", settings, **options)
    for setting, evaluated in found.results:
        network = snnkern.spikify(module, observations, neuron=setting.neuron, timesteps=2, alpha=setting.alpha)
        assert network.engine == "operators"
        assert evaluated == snnkern.evaluate(network, "Pendulum-v1", episodes=2)
        assert len(evaluated.spikes) == 2
    files = sorted(tmp_path.glob("*.json"))
    results = [json.loads(file.read_text())["result"] for file in files]
    assert sorted(result.get("calibration", "") for result in results) == ["", ""] + ["max"] * 4
    assert sweep(module, "Pendulum-v1", settings, **options) == found
    assert sorted(tmp_path.glob("*.json")) == files
    module.three.weight.data.mul_(0.5)
    sweep(module, "Pendulum-v1", settings[:1], **options)
    assert len(list(tmp_path.glob("*.json"))) == len(files) + 2  # its dense one and its spiking one


def test_a_module_that_cannot_be_swept_is_refused_before_anything_runs(tmp_path) -> None:
    settings = grid(["if"], [2])
    options = {"observations": make_observations(50, 3), "episodes": 1, "store": tmp_path / "new"}
    for module, changed, message in (
        (Bridged(alone=False), {}, r"returns one tensor \[B, action_dim\]"),
        (Bridged(), {"calibration": "mse"}, "depends on the neuron and T"),
        (Bridged(), {"observations": make_observations(50, 4)}, r"cannot run on samples of shape \[B, 4\]"),
        (nn.Linear(3, 1), {}, "nothing would spike"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), {}, "the actor's actions are .2. real numbers"),
    ):
        with pytest.raises(snnkern.InputError, match=message):
            sweep(module, "Pendulum-v1", settings, **options | changed)
    assert not (tmp_path / "new").exists()
