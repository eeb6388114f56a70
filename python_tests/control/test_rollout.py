"""Rollouts: the carry is reset exactly when an episode ends, episodes are counted fairly, seeds are kept."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")

import gymnasium
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support.builders import make_actor
from support.environments_for_tests import ACTION_DIM, Scripted, length, observation, random_actor
from torch import nn

import snnkern
from snnkern.control.environments import make_vector
from snnkern.control.follow import follow
from snnkern.control.rollout import rollout
from snnkern.conversion.spikify import DenseNetwork

MODES = [pytest.param(mode, id=mode.value) for mode in AutoresetMode]


def spiking_actor(neuron: str = "if") -> snnkern.SpikingActor:
    return snnkern.convert(
        random_actor(), thresholds=[torch.full((16,), 2.0)], neuron=neuron, timesteps=3, alpha=1.0, memory=0.5
    )


def expected_returns(rows: int, episodes: int) -> np.ndarray:
    """Every episode by a policy that was made for it alone."""
    returns = np.zeros((rows, episodes))
    for row in range(rows):
        for episode in range(episodes):
            policy = spiking_actor()
            for step in range(length(row, episode)):
                action = policy.act(observation(row, episode, step))
                returns[row, episode] += float(np.sum(action, dtype=np.float64))
    return returns


@pytest.mark.parametrize("mode", MODES)
def test_carry_starts_afresh_with_every_episode_of_every_row(mode: AutoresetMode) -> None:
    rows, episodes = 5, 4
    envs = SyncVectorEnv([lambda row=row: Scripted(row) for row in range(rows)], autoreset_mode=mode)
    result = rollout(spiking_actor(), envs, episodes=episodes)
    np.testing.assert_array_equal(result.returns, expected_returns(rows, episodes))


def test_a_rollout_starts_afresh_whatever_the_policy_did_before() -> None:
    policy = spiking_actor()
    for mode in AutoresetMode:
        envs = SyncVectorEnv([lambda row=row: Scripted(row) for row in range(3)], autoreset_mode=mode)
        np.testing.assert_array_equal(rollout(policy, envs, episodes=2).returns, expected_returns(3, 2))


def test_the_carry_matters_to_these_returns() -> None:
    """Guards the test above: without a reset between episodes the returns are different ones."""
    carried = spiking_actor()
    returns = [
        sum(float(np.sum(carried.act(observation(0, episode, step)))) for step in range(length(0, episode)))
        for episode in range(4)
    ]
    assert not np.allclose(returns, expected_returns(1, 4)[0])


@pytest.mark.parametrize("mode", MODES)
def test_every_row_counts_the_same_number_of_episodes_whatever_their_lengths(mode: AutoresetMode) -> None:
    rows, episodes = 6, 3
    envs = SyncVectorEnv([lambda row=row: Scripted(row) for row in range(rows)], autoreset_mode=mode)
    result = rollout(random_actor(), envs, episodes=episodes)
    wanted = [[length(row, episode) for episode in range(episodes)] for row in range(rows)]
    np.testing.assert_array_equal(result.lengths, wanted)


def test_episode_seeds_do_not_depend_on_the_number_of_rows() -> None:
    for rows, episodes in ((6, 1), (3, 2), (1, 6)):
        envs = SyncVectorEnv(
            [lambda row=row: Scripted(row) for row in range(rows)], autoreset_mode=AutoresetMode.DISABLED
        )
        rollout(random_actor(), envs, episodes=episodes, seed=40)
        used = {seed for env in envs.envs for seed in env.seeds[:episodes]}
        assert used == set(range(40, 46))


def test_spikes_are_averaged_over_the_recorded_decisions_only() -> None:
    rows, episodes = 3, 2
    envs = SyncVectorEnv([lambda row=row: Scripted(row) for row in range(rows)], autoreset_mode=AutoresetMode.NEXT_STEP)
    result = rollout(spiking_actor("mt"), envs, episodes=episodes)
    sent = decisions = 0
    for row in range(rows):
        for episode in range(episodes):
            policy = spiking_actor("mt")
            for step in range(length(row, episode)):
                policy.act(observation(row, episode, step))
                sent += int(policy.spikes.sum())
                decisions += 1
    assert sent > 0
    assert result.spikes is not None
    np.testing.assert_allclose(result.spikes, [sent / decisions])


def test_any_object_with_act_is_a_policy() -> None:
    class Still:
        def act(self, observation: np.ndarray) -> np.ndarray:
            return np.zeros((len(observation), ACTION_DIM), dtype=np.float32)

    envs = SyncVectorEnv([lambda: Scripted(0)])
    result = rollout(Still(), envs, episodes=2)
    assert result.returns.tolist() == [[0.0, 0.0]]
    assert result.spikes is None


def test_an_environment_that_does_not_fit_is_refused_before_it_runs() -> None:
    envs = make_vector("CartPole-v1", 2)
    with pytest.raises(snnkern.InputError, match=r"observation space is Box.*the actor's observations are \[3\]"):
        rollout(random_actor(), envs)
    with pytest.raises(snnkern.InputError, match="episodes must be a whole number of at least 1, got 0"):
        rollout(random_actor(), SyncVectorEnv([lambda: Scripted(0)]), episodes=0)
    with pytest.raises(snnkern.InputError, match="seed must be a whole number of at least 0, got -1"):
        rollout(random_actor(), SyncVectorEnv([lambda: Scripted(0)]), seed=-1)


def test_a_network_of_another_form_than_the_environment_is_refused() -> None:
    class Sigmoid(torch.nn.Module):
        def __init__(self, inputs: int, actions: int) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(inputs, 4), torch.nn.Linear(4, actions)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.last(torch.relu(self.first(x))))

    for inputs, actions, message in (
        (3, ACTION_DIM + 1, rf"action space is Box.*the actor's actions are \[{ACTION_DIM + 1}\]"),
        (4, ACTION_DIM, r"observation space is Box.*the actor's observations are \[4\]"),
    ):
        network = snnkern.spikify(Sigmoid(inputs, actions), torch.rand(5, inputs))
        assert network.engine == "operators"
        with pytest.raises(snnkern.InputError, match=message):
            rollout(network, SyncVectorEnv([lambda: Scripted(0)]))


def test_episodes_side_by_side_need_environments_of_their_own() -> None:
    one = Scripted(0)
    for maker in (lambda: one, lambda: gymnasium.Wrapper(one)):
        with pytest.raises(snnkern.InputError, match="returned the same one twice, but episodes run side by side"):
            snnkern.evaluate(random_actor(), maker, episodes=2)
        assert snnkern.evaluate(random_actor(), maker, episodes=2, rows=1).returns


def test_what_is_no_vector_environment_is_refused() -> None:
    with pytest.raises(snnkern.InputError, match="vector environment, got Scripted"):
        rollout(random_actor(), Scripted(0))
    with pytest.raises(snnkern.InputError, match="a function that makes one, got Scripted: here several are made"):
        make_vector(Scripted(0), 1)
    with pytest.raises(snnkern.InputError, match="the function that makes the environment returned int"):
        make_vector(lambda: 3, 1)


def test_progress_hears_of_every_finished_episode() -> None:
    heard: list[int] = []
    envs = SyncVectorEnv([lambda row=row: Scripted(row) for row in range(2)])
    rollout(random_actor(), envs, episodes=3, progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 6


class Strict(gymnasium.Env):
    """It refuses actions outside of its action space; a reward is their sum."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([0.5, 2.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action.astype(np.float32))
        self.steps += 1
        return self.np_random.normal(size=3).astype(np.float32), float(action.sum()), False, self.steps == 9, {}


class Squared(nn.Module):
    """What keeps a module from being an actor."""

    def forward(self, signal):
        return 20 * signal + 0.0 * signal.square()


@pytest.mark.parametrize("whole", ["observation", "action"])
def test_spaces_of_whole_numbers_are_refused(whole) -> None:
    class Whole(Strict):
        observation_space = gymnasium.spaces.Box(-5, 5, (3,), np.int32 if whole == "observation" else np.float64)
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.int64 if whole == "action" else np.float32)

    said = rf"the environment's {whole} space is Box\(.*, int\d+\), but the actor's {whole}s are \[\d\] real numbers"
    for call in (snnkern.collect, snnkern.evaluate):
        with pytest.raises(snnkern.InputError, match=said):
            call(make_actor(3, 8, 2), Whole)


def test_actions_of_an_actor_without_tanh_are_clipped_to_the_action_space() -> None:
    actor = make_actor(3, 8, 2, squash=False, action_scale=20.0)
    observations = snnkern.collect(actor, Strict, steps=30)
    space = Strict.action_space
    assert np.abs(actor.act(observations)).max() > 2.0
    snn = snnkern.convert(actor, observations, neuron="if", timesteps=2)
    found = follow("dense", {"dense": actor, "spiking": snn}, Strict, episodes=2)
    for actions in found.actions.values():
        assert ((actions == space.low) | (actions == space.high)).any()
    returns = found.rewards["dense"].sum(axis=0)
    assert snnkern.evaluate(actor, Strict, episodes=2, seed=1000).returns == pytest.approx(returns)
    assert snnkern.evaluate(snn, Strict, episodes=2).lengths == (9, 9)

    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), Squared(), nn.Linear(8, 2))
    dense = DenseNetwork(module, observations)
    network = snnkern.spikify(module, observations, neuron="mt", timesteps=32)
    assert network.engine == "operators"
    for policy in (dense, network):
        assert np.abs(policy.act(observations)).max() > 2.0
        assert snnkern.evaluate(policy, Strict, episodes=2).lengths == (9, 9)

    class Own:  # what is no actor does as it likes
        def act(self, observation):
            return np.full((len(observation), 2), 9.0)

    with pytest.raises(AssertionError):
        snnkern.evaluate(Own(), Strict, episodes=1)
