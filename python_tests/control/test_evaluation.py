"""Evaluation in real environments, intervals, settings."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import torch
from support.environments_for_tests import Scripted, random_actor
from support.visual import FORMS, visual_actor

import snnkern
from snnkern.control import environments, evaluation
from snnkern.control.evaluation import Evaluation, evaluate
from snnkern.studies.settings import grid


def short_cheetah():
    """A HalfCheetah whose episodes are short enough for tests."""
    return environments.make("HalfCheetah-v5", max_episode_steps=60)


@pytest.fixture(scope="module")
def cheetah() -> tuple[snnkern.Actor, list[torch.Tensor]]:
    actor = snnkern.load_actor("td3-halfcheetah")
    return actor, snnkern.calibrate(actor, snnkern.collect(actor, "HalfCheetah-v5", 1500, seed=0))


def test_options_reach_the_environment() -> None:
    assert short_cheetah().spec.max_episode_steps == 60
    assert environments.make(Scripted, identity=3).identity == 3


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
        return environments.make("HalfCheetah-v5", max_episode_steps=200)

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


def returns(*values: float) -> Evaluation:
    return Evaluation(values, (1,) * len(values), ())


def test_a_ratio_to_a_return_that_is_not_positive_is_not_a_number_without_a_random_policy() -> None:
    for dense in (returns(-100, -110), returns(0, 0)):
        assert math.isnan(returns(-90, -95).ratio(dense).value)
        assert dense.ratio_formula() == ""
        for no_worse in (dense, returns(50)):
            assert math.isnan(returns(-90, -95).ratio(dense, no_worse).value)


def test_a_random_policy_is_the_zero_of_a_ratio_to_a_negative_return() -> None:
    dense, random = returns(-100, -100, -100), returns(-500, -500)
    assert dense.ratio_formula(random) == "(return − random) / (dense − random)"
    assert returns(-200, -200).ratio(dense, random) == evaluation.Interval(0.75, 0.75, 0.75)
    assert returns(-500, -500).ratio(dense, random).value == 0
    assert dense.ratio(dense, random).value == 1
    spread = returns(-200, -100).ratio(returns(-100, -140), returns(-500, -300))
    assert spread.value == pytest.approx((-150 + 400) / (-120 + 400))
    assert spread.low < spread.value < spread.high


def test_a_positive_return_is_compared_as_the_paper_does_whatever_a_random_policy_reaches() -> None:
    """To the last bit, so that what was published stays."""
    dense, spiking, random = returns(90, 100, 130), returns(60, 75), returns(-20, 5)
    assert dense.ratio_formula(random) == "return / dense return"
    assert spiking.ratio(dense, random) == spiking.ratio(dense)
    mixed = [(returns(-200, -200), returns(-100, -100), returns(-500, -500)), (spiking, dense, random)]
    assert evaluation.average_performance_ratio(mixed).value == pytest.approx((0.75 + spiking.mean / dense.mean) / 2)


def test_random_actions_fill_the_action_space_and_are_the_same_again() -> None:
    policy = evaluation.RandomPolicy("Pendulum-v1", seed=5)
    actions = policy.act(np.zeros((1000, 3)))
    assert (actions.shape, actions.dtype) == ((1000, 1), np.float32)
    assert -2 <= actions.min() < -1.9
    assert 1.9 < actions.max() <= 2
    again = evaluation.RandomPolicy("Pendulum-v1", seed=5)
    np.testing.assert_array_equal(again.act(np.zeros((1000, 3))), actions)
    first, second = (
        evaluate(evaluation.RandomPolicy("Pendulum-v1", 5), "Pendulum-v1", episodes=2, seed=3) for _ in range(2)
    )
    assert first == second
    with pytest.raises(snnkern.InputError, match="no random policy acts in CartPole-v1: its actions are Discrete"):
        evaluation.RandomPolicy("CartPole-v1", 0)


class Closing(Scripted):
    """Says whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_an_environment_or_a_vector_of_them_is_taken_as_it_is() -> None:
    actor = random_actor()
    wanted = evaluate(actor, lambda: Scripted(0), episodes=2, rows=1)
    env = Closing(0)
    assert evaluate(actor, env, episodes=2) == wanted
    assert env.seeds[:2] == [1000, 1001]
    assert not env.closed
    with pytest.raises(snnkern.InputError, match="rows is 2, but the environment that is given has 1"):
        evaluate(actor, Closing(0), episodes=2, rows=2)

    makers = [lambda: Closing(0), lambda: Closing(1)]
    vector = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED)
    assert len(evaluate(actor, vector, episodes=4).returns) == 4
    assert not any(one.closed for one in vector.envs)
    with pytest.raises(snnkern.InputError, match=r"rows must divide the number of episodes \(3\), got 2"):
        evaluate(actor, vector, episodes=3)
    vector.close()

    env = Closing(0)
    assert snnkern.collect(actor, env, 5).shape == (5, 3)
    assert not env.closed
    made = []

    def make():
        made.append(Closing(0))
        return made[-1]

    snnkern.collect(actor, make, 5)
    evaluate(actor, make, episodes=1)
    assert made
    assert all(one.closed for one in made)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda observation: observation, "got function"),
        (torch.nn.Linear(3, 2), "got Linear: snnkern.spikify"),
        ("td3-hopper", r"load it first: snnkern.load_actor\('td3-hopper'\)"),
    ],
    ids=["function", "module", "name"],
)
def test_what_does_not_act_is_refused_and_told_where_to_go(policy, message) -> None:
    with pytest.raises(snnkern.InputError, match=message):
        evaluate(policy, lambda: Scripted(0), episodes=1)


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
    with pytest.raises(snnkern.InputError, match="unknown neuron 'izhikevich': choose one of if, snm, mt, dc, lif"):
        grid(["izhikevich"], [2])


def test_alpha_is_the_recommended_one_unless_given() -> None:
    assert [setting.alpha for setting in grid(["if", "snm", "mt"], [2])] == [0.0, 0.2, 0.0]
    assert [setting.alpha for setting in grid(["if", "snm", "mt"], [2], calibration="max")] == [0.2, 0.2, 0.0]
    assert [setting.alpha for setting in grid(["mt"], [2], [0.5, "auto"])] == [0.5, 0.0]
    sees = visual_actor(FORMS["two-convolutions"])
    assert [setting.alpha for setting in grid(["if", "snm"], [2], ["auto", 0.2], actor=sees)] == [0.0, 0.2, 0.0, 0.2]


def test_levels_reach_the_neurons_that_have_them() -> None:
    first, second = grid(["if", "dc"], [2], [0.0], levels=6)
    assert first.neuron == snnkern.IF()
    assert second.neuron == snnkern.DC(levels=6)
