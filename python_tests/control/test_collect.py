"""Observations collected in an environment: of which policy, how many, and from which environments."""

import numpy as np
import pytest
import torch
from support.builders import make_actor

import snnkern
from snnkern import InputError, calibrate, collect


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium", reason="Gymnasium is not installed")


def pendulum_actor(**interface) -> snnkern.Actor:
    return make_actor(3, 8, 1, **{"action_scale": 2.0, **interface})


def test_collect_gives_what_the_dense_actor_visits(gymnasium):
    actor, steps = pendulum_actor(), 450  # into the third episode
    env = gymnasium.make("Pendulum-v1")
    expected = []
    observation, _ = env.reset(seed=7)
    for _ in range(steps):
        expected.append(observation)
        observation, _, terminated, truncated, _ = env.step(actor.act(observation))
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    observations = collect(actor, "Pendulum-v1", steps=steps, seed=7)
    assert observations.dtype == np.float32
    np.testing.assert_array_equal(observations, np.array(expected))


@pytest.mark.parametrize(
    ("env", "widths", "scale"),
    [
        pytest.param("Pendulum-v1", (3, 8, 1), 2.0, id="Pendulum"),
        pytest.param("HalfCheetah-v5", (17, 8, 6), 1.0, id="HalfCheetah"),
    ],
)
def test_collect_repeats_with_its_seed_alone(gymnasium, env, widths, scale):
    if env.startswith("HalfCheetah"):
        pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    actor = make_actor(*widths, action_scale=scale)
    first, again, other = (collect(actor, env, steps=60, seed=seed) for seed in (3, 3, 4))
    assert first.shape == (60, widths[0])
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert all(bool((threshold > 0).any()) for threshold in calibrate(actor, first))


def test_collect_takes_a_function_and_closes_what_it_made(gymnasium):
    closed = []

    class Closing(gymnasium.Wrapper):
        def close(self):
            closed.append(self)
            super().close()

    def make():
        return Closing(gymnasium.make("Pendulum-v1"))

    actor = pendulum_actor(dtype=torch.float64)
    observations = collect(actor, make, steps=20)
    np.testing.assert_array_equal(observations, collect(actor, "Pendulum-v1", steps=20))
    with pytest.raises(InputError):
        collect(make_actor(4, 8, 1), make, steps=20)
    assert len(closed) == 2


def test_collect_reports_its_progress(gymnasium):
    seen = []
    collect(pendulum_actor(), "Pendulum-v1", steps=1100, progress=seen.append)
    assert seen == [500, 1_000, 1_100]


@pytest.mark.parametrize(
    ("actor", "env", "message"),
    [
        pytest.param(
            make_actor(4, 8, 1, action_scale=2.0),
            "Pendulum-v1",
            r"observation space .*observations are \[4\]",
            id="observation",
        ),
        pytest.param(
            make_actor(3, 8, 2, action_scale=2.0), "Pendulum-v1", r"action space .*actions are \[2\]", id="action"
        ),
        pytest.param(make_actor(4, 8, 1), "CartPole-v1", r"action space is Discrete\(2\)", id="discrete"),
        pytest.param(
            pendulum_actor(action_scale=3.0), "Pendulum-v1", r"span -3 … 3, .*takes -2 … 2: .*action_scale", id="scale"
        ),
        pytest.param(pendulum_actor(action_bias=0.5), "Pendulum-v1", r"span -1\.5 … 2\.5, .*takes -2 … 2", id="bias"),
        pytest.param(pendulum_actor(), "Pendulumm-v1", "no environment 'Pendulumm-v1'", id="unknown"),
        pytest.param(pendulum_actor(), "Pendulum-v99", "no environment 'Pendulum-v99'", id="version"),
        pytest.param(pendulum_actor(), "", "no environment ''", id="no-name"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(gymnasium, actor, env, message):
    with pytest.raises(InputError, match=message):
        collect(actor, env, steps=5)


def test_an_actor_may_use_a_part_of_the_action_range(gymnasium):
    assert len(collect(pendulum_actor(action_scale=1.0, action_bias=1.0), "Pendulum-v1", steps=5)) == 5


@pytest.mark.parametrize("steps", [0, -5, 1.5, "10"])
def test_a_number_of_steps_that_is_none_is_refused(gymnasium, steps):
    with pytest.raises(InputError, match=f"steps must be .*got '?{steps}"):
        collect(pendulum_actor(), "Pendulum-v1", steps=steps)


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_that_is_none_is_refused(gymnasium, seed):
    with pytest.raises(InputError, match=r"(?i)seed"):
        collect(pendulum_actor(), "Pendulum-v1", steps=5, seed=seed)
