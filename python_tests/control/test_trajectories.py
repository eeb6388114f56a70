"""Episodes step by step, with others' actions beside them, and what the layers did."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from support.builders import NEURONS, make_actor, make_observations
from support.environments_for_tests import Scripted

import snnkern
from snnkern.control import environments
from snnkern.control.follow import follow, replay


class Slide(gymnasium.Env):
    """A point that actions push: the reward is its position, the end comes at step `length` or beyond 5."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    length = 6

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = float(self.np_random.integers(3))
        self.steps = 0
        return np.array([self.position]), {}

    def step(self, action):
        self.position += float(action[0])
        self.steps += 1
        return np.array([self.position]), self.position, self.position > 5, self.steps == self.length, {}


class Push:
    """Always the same action."""

    def __init__(self, action: float) -> None:
        self.action = action

    def act(self, observation: np.ndarray) -> np.ndarray:
        return np.full((len(observation), 1), self.action)


def test_the_driver_drives_and_the_others_are_tried_in_its_states() -> None:
    policies = {"right": Push(1.0), "left": Push(-0.5)}
    found = follow("right", policies, Slide, episodes=3, seed=4)
    starts = found.observations[0, :, 0]
    for row, start in enumerate(starts):
        length = found.lengths[row]
        assert length == min(Slide.length, 6 - start)
        states = start + np.arange(length)
        assert found.observations[:length, row, 0].tolist() == states.tolist()
        assert found.rewards["right"][:length, row].tolist() == (states + 1).tolist()
        assert found.rewards["left"][:length, row].tolist() == (states - 0.5).tolist()
        assert not found.rewards["left"][length:, row].any()
    assert found.running.sum() == found.lengths.sum()
    assert (found.actions["left"][found.running] == -0.5).all()


def test_a_copy_that_pays_otherwise_is_refused() -> None:
    class Doubled(gymnasium.RewardWrapper):
        def reward(self, reward):
            return 2 * reward

    with pytest.raises(snnkern.Error, match="rewards depend on more than the state"):
        follow("a", {"a": Push(1.0), "b": Push(0.5)}, lambda: Doubled(Slide()))
    follow("a", {"a": Push(1.0)}, lambda: Doubled(Slide()))  # nothing is tried, so nothing is copied


def test_mujoco_is_tried_in_the_same_state() -> None:
    """The same policy as driver and as passenger earns the same, to the last bit."""
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    actor = snnkern.load_actor("td3-hopper")

    def env():
        return gymnasium.wrappers.TimeLimit(environments.make("Hopper-v5").unwrapped, 60)

    found = follow("one", {"one": actor, "other": actor}, env, episodes=2, seed=3)
    assert found.lengths.tolist() == [60, 60]
    assert np.array_equal(found.rewards["one"], found.rewards["other"])
    assert snnkern.evaluate(actor, env, episodes=2, seed=3).returns == pytest.approx(found.rewards["one"].sum(axis=0))


def test_mistakes_are_named() -> None:
    with pytest.raises(snnkern.InputError, match=r"one of the policies \(a\), got 'b'"):
        follow("b", {"a": Push(1.0)}, Slide)
    with pytest.raises(snnkern.InputError, match="episodes must be a whole number of at least 1, got 0"):
        follow("a", {"a": Push(1.0)}, Slide, episodes=0)
    with pytest.raises(snnkern.InputError, match="observation space"):
        follow("a", {"a": make_actor(5, 4, 2)}, lambda: Scripted(0))
    snn = snnkern.convert(make_actor(3, 4, 2), make_observations(20, 3))
    with pytest.raises(snnkern.InputError, match=r"must be \[decisions, B, 3\], got shape \[20, 3\]"):
        next(replay(snn, make_observations(20, 3)))


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_a_replay_does_what_the_actor_did(neuron, memory) -> None:
    actor, observations = make_actor(3, 9, 8, 2), make_observations(40, 3).reshape(10, 4, 3)
    snn = snnkern.convert(
        actor, make_observations(90, 3, seed=2), neuron=neuron, timesteps=4, alpha=0.6, memory=memory, clip=0.1
    )
    before = snn.act(observations[0])
    snn.reset()
    for observation, decisions in zip(observations, replay(snn, observations), strict=True):
        action = snn.act(observation)
        counts = torch.stack([(decision.spikes != 0).sum(dim=(0, 2)) for decision in decisions])
        assert torch.equal(counts, snn.spikes)
        for decision, layer in zip(decisions, snn.hidden, strict=True):
            assert torch.allclose(decision.carry, layer.carry.value, atol=1e-5)
            limited = decision.unclamped.abs() > 0.1 * layer.threshold
            assert torch.equal(limited, decision.carry != decision.unclamped)
        z = decisions[-1].mean @ snn.output.weight + snn.output.bias
        assert np.allclose(snn.interface.action(z).numpy(), action, atol=1e-5)
    snn.reset()
    assert np.array_equal(snn.act(observations[0]), before)
