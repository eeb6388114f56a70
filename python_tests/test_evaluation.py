"""Evaluation in real environments, intervals, and sweeps that resume."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import torch
from environments_for_tests import Scripted
from test_rollout import random_actor

import snnkern
from snnkern import evaluation
from snnkern.evaluation import Evaluation, evaluate, grid, sweep


def short_cheetah():
    """A HalfCheetah whose episodes are short enough for tests."""
    return snnkern.environments.make("HalfCheetah-v5", max_episode_steps=60)


@pytest.fixture(scope="module")
def cheetah() -> tuple[snnkern.Actor, list[torch.Tensor]]:
    actor = snnkern.load_actor("td3-halfcheetah")
    return actor, snnkern.calibrate(actor, snnkern.collect(actor, "HalfCheetah-v5", 1500, seed=0))


def test_options_reach_the_environment() -> None:
    assert short_cheetah().spec.max_episode_steps == 60
    assert snnkern.environments.make(Scripted, identity=3).identity == 3


def test_the_same_seeds_give_the_same_returns(cheetah) -> None:
    actor, thresholds = cheetah
    policy = snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=4)
    first = evaluate(policy, short_cheetah, episodes=3, seed=5)
    assert first == evaluate(policy, short_cheetah, episodes=3, seed=5)
    assert first.returns != evaluate(policy, short_cheetah, episodes=3, seed=6).returns


def test_returns_do_not_depend_on_how_episodes_share_rows(cheetah) -> None:
    """On the CPU backend, bit for bit: a row's decision depends on that row alone."""
    if not snnkern.backends()[0].available:
        pytest.skip("the reference backend's products depend on the batch size in their last bits")
    actor, thresholds = cheetah
    policy = snnkern.convert(actor, thresholds=thresholds, neuron="dc", timesteps=4)
    side_by_side = evaluate(policy, short_cheetah, episodes=4, rows=4)
    assert side_by_side == evaluate(policy, short_cheetah, episodes=4, rows=2)
    assert side_by_side == evaluate(policy, short_cheetah, episodes=4, rows=1)


def test_a_zoo_actor_survives_conversion(cheetah) -> None:
    """A real rollout: DC at T = 8 keeps the dense actor's return over 200 steps of HalfCheetah within 5 %."""
    actor, thresholds = cheetah

    def env():
        return snnkern.environments.make("HalfCheetah-v5", max_episode_steps=200)

    dense = evaluate(actor, env, episodes=4)
    spiking = evaluate(snnkern.convert(actor, thresholds=thresholds, neuron="dc", timesteps=8), env, episodes=4)
    assert dense.mean > 500
    assert spiking.ratio(dense).value == pytest.approx(1.0, abs=0.05)
    assert 50 < sum(spiking.spikes) < 512 * 8
    assert dense.spikes == ()


def test_mean_spread_and_intervals_of_known_returns() -> None:
    dense = Evaluation((90.0, 110.0, 100.0, 100.0), (1, 1, 1, 1), ())
    spiking = Evaluation((40.0, 60.0, 50.0, 50.0), (1, 1, 1, 1), (3.0,))
    assert (spiking.mean, spiking.std) == (50.0, pytest.approx(math.sqrt(50)))
    interval = spiking.interval()
    assert 40 <= interval.low < 50 < interval.high <= 60
    ratio = spiking.ratio(dense)
    assert ratio.value == 0.5
    assert 40 / 110 <= ratio.low < 0.5 < ratio.high <= 60 / 90
    assert ratio == spiking.ratio(dense)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        sample = tuple(generator.normal(10.0, 2.0, size=40))
        interval = Evaluation(sample, (1,) * 40, ()).interval()
        hits += interval.low <= 10.0 <= interval.high
    assert 51 <= hits <= 60


def test_a_ratio_to_a_return_that_is_not_positive_is_not_a_number() -> None:
    spiking = Evaluation((-90.0, -95.0), (1, 1), ())
    for dense in (Evaluation((-100.0, -110.0), (1, 1), ()), Evaluation((0.0, 0.0), (1, 1), ())):
        assert math.isnan(spiking.ratio(dense).value)


def test_the_average_ratio_weighs_environments_alike() -> None:
    pairs = [
        (Evaluation((50.0, 50.0), (1, 1), ()), Evaluation((100.0, 100.0), (1, 1), ())),
        (Evaluation((9000.0,) * 20, (1,) * 20, ()), Evaluation((9000.0,) * 3, (1,) * 3, ())),
    ]
    assert evaluation.average_performance_ratio(pairs).value == pytest.approx(0.75)
    with pytest.raises(snnkern.InputError, match="at least one environment"):
        evaluation.average_performance_ratio([])


def test_one_episode_has_no_interval() -> None:
    interval = Evaluation((5.0,), (1,), ()).interval()
    assert interval.value == 5.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes must be a whole number of at least 1, got 0"),
        ({"episodes": 4, "rows": 3}, r"rows must divide the number of episodes \(4\), got 3"),
        ({"episodes": 4, "rows": 0}, "rows must be a whole number of at least 1, got 0"),
        ({"episodes": 2.5}, "episodes must be a whole number of at least 1, got 2.5"),
        ({"episodes": True}, "episodes must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_numbers_are_refused(arguments, message) -> None:
    with pytest.raises(snnkern.InputError, match=message):
        evaluate(random_actor(), lambda: Scripted(0), **arguments)


def test_grid_has_every_combination() -> None:
    settings = grid(["if", snnkern.MT(levels=2)], [2, 4], [0.0, 0.5], [0.0, 1.0])
    assert len(settings) == len(set(settings)) == 16
    with pytest.raises(snnkern.InputError, match="unknown neuron 'lif': choose one of if, snm, mt, dc"):
        grid(["lif"], [2])


def test_levels_reach_the_neurons_that_have_them() -> None:
    first, second = grid(["if", "dc"], [2], [0.0], levels=6)
    assert first.neuron == snnkern.IF()
    assert second.neuron == snnkern.DC(levels=6)


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
        thresholds = changed.pop("thresholds", [torch.ones(256), torch.ones(256)])
        settings = grid(neurons, [4], [0.0])
        return sweep(actor, "HalfCheetah-v5", settings, thresholds=thresholds, store=store, **changed)

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

    @pytest.mark.parametrize("changed", ["seed", "episodes", "thresholds", "actor"])
    def test_a_result_is_reused_only_where_all_is_the_same(self, tmp_path, changed) -> None:
        self.run(tmp_path, neurons=["if"])
        other = snnkern.load_actor("td3-halfcheetah")
        other.output.bias[0] += 1e-3
        value = {"seed": 1, "episodes": 3, "thresholds": [torch.ones(256), torch.full((256,), 2.0)], "actor": other}
        self.ran.clear()
        self.run(tmp_path, neurons=["if"], **{changed: value[changed]})
        assert "if" in self.ran

    @pytest.mark.parametrize("field", ["timesteps", "alpha", "memory", "clip"])
    def test_a_result_belongs_to_its_setting_alone(self, tmp_path, field) -> None:
        first = snnkern.Dynamics(snnkern.MT(), 4, alpha=0.2, memory=0.1, clip=0.5)
        other = replace(first, **{field: {"timesteps": 5}.get(field, 0.3)})
        actor, thresholds = snnkern.load_actor("td3-halfcheetah"), [torch.ones(256), torch.ones(256)]
        for setting in (first, other):
            sweep(actor, "HalfCheetah-v5", [setting], thresholds=thresholds, store=tmp_path)
        assert self.ran == ["dense", "mt", "mt"]

    def test_another_backend_or_version_runs_again(self, tmp_path, monkeypatch) -> None:
        self.run(tmp_path, neurons=["if"])
        self.run(tmp_path, neurons=["if"], backend="reference")
        assert self.ran == ["dense", "if", "if"]
        monkeypatch.setattr(evaluation, "_version", lambda package: "another")
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
        for file in tmp_path.iterdir():
            file.write_text("{")
        with pytest.raises(snnkern.InputError, match=r"\.json is not a stored result.*delete it"):
            self.run(tmp_path, neurons=["if"])

    def test_stored_results_say_what_they_belong_to(self, tmp_path) -> None:
        self.run(tmp_path, neurons=["mt"])
        records = [json.loads(file.read_text())["task"] for file in tmp_path.iterdir()]
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
            sweep(random_actor(), "Nothing-v0", [], thresholds=[])
        with pytest.raises(snnkern.InputError, match="the actor's observations are"):
            sweep(random_actor(), "HalfCheetah-v5", [], thresholds=[])
        actor, ones = snnkern.load_actor("td3-halfcheetah"), [torch.ones(256), torch.ones(256)]
        for wrong, message in (
            ({"settings": ["if"]}, "a setting is a Dynamics"),
            ({"env": lambda: None}, "registered name, got function"),
            ({"thresholds": ones[:1], "settings": grid(["if"], [2])}, "2 hidden layers, got 1 thresholds"),
        ):
            arguments = {"env": "HalfCheetah-v5", "settings": [], "thresholds": ones} | wrong
            with pytest.raises(snnkern.InputError, match=message):
                sweep(actor, **arguments)
        (tmp_path / "file").write_text("")
        with pytest.raises(snnkern.InputError, match="cannot make the folder"):
            self.run(tmp_path / "file")
        assert self.ran == []


def test_two_processes_give_what_one_gives(cheetah, tmp_path) -> None:
    actor, thresholds = cheetah
    settings = grid(["if", "dc"], [2], [0.2])
    arguments = {"thresholds": thresholds, "episodes": 1, "seed": 3}
    alone = sweep(actor, "HalfCheetah-v5", settings, **arguments)
    assert sweep(actor, "HalfCheetah-v5", settings, workers=2, store=tmp_path, **arguments) == alone
    assert len(list(tmp_path.iterdir())) == 3
