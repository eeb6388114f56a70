"""Stable-Baselines3: its models, read and converted, act as they do there, and its own functions run the result."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import random
import zipfile
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from support.builders import make_actor, make_observations
from support.sb3_models import HIGH, LOW, Space, saved

import snnkern
from snnkern.policies.readers import sb3 as sb3_reader
from snnkern.policies.readers.torch_rl import actor_from_sb3
from snnkern.policies.spiking import dense_actor

sb3 = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed: pip install 'snnkern[sb3]'")

from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.torch_layers import FlattenExtractor  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

ALGORITHMS = {"td3": sb3.TD3, "ddpg": sb3.DDPG, "sac": sb3.SAC}
ON_POLICY = {"ppo": sb3.PPO, "a2c": sb3.A2C}


def make(algorithm: str = "td3", policy: dict | None = None, **options):
    policy = {"net_arch": [17, 9], **(policy or {})}
    options |= {"policy_kwargs": policy, "buffer_size": 100, "device": "cpu", "seed": 0}
    return ALGORITHMS[algorithm]("MlpPolicy", Space(), **options)


def make_on_policy(algorithm: str = "ppo", policy: dict | None = None, env=None, kind: str = "MlpPolicy", **options):
    """A model of PPO or A2C whose output layer has large weights, so that actions leave their range."""
    policy = {"net_arch": [17, 9], "ortho_init": False, **(policy or {})}
    options = {"n_steps": 8, "device": "cpu", "seed": 0, **options}
    options |= {"batch_size": 8, "n_epochs": 1} if algorithm == "ppo" else {}
    model = ON_POLICY[algorithm](kind, env or Space(), policy_kwargs=policy, **options)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(30)
    return model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("from_file", [False, True], ids=["model", "zip"])
def test_the_actor_acts_as_the_model(algorithm, from_file, tmp_path):
    model = make(algorithm)
    observations = make_observations(50, 5)
    source = saved(model, tmp_path) if from_file else model
    policy = snnkern.from_sb3(source, observations, neuron="if", timesteps=8)
    dense = dense_actor(policy.actor)
    wanted, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(dense.act(observations), wanted, rtol=0, atol=1e-6)
    assert np.ptp(wanted, axis=0).min() > 1e-3
    assert dense.interface.action_scale.tolist() == pytest.approx(((HIGH - LOW) / 2).tolist())
    assert [layer.out_features for layer in dense.hidden] == [17, 9]
    assert dense.metadata["algorithm"] == ("SAC" if algorithm == "sac" else "TD3")
    if from_file:  # the command line takes it as well
        assert snnkern.load_actor(source).fingerprint() == dense.fingerprint()


ACTIVATIONS = {
    "tanh": torch.nn.Tanh,
    "elu": torch.nn.ELU,
    "leaky_relu": torch.nn.LeakyReLU,
    "relu": torch.nn.ReLU,
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("activation", ["tanh", "elu", "leaky_relu"])
@pytest.mark.parametrize("from_file", [False, True], ids=["model", "zip"])
def test_other_activations_are_those_of_the_model(algorithm, activation, from_file, tmp_path):
    model = make(algorithm, {"activation_fn": ACTIVATIONS[activation]})
    observations = make_observations(50, 5)
    policy = snnkern.from_sb3(saved(model, tmp_path) if from_file else model, observations, neuron="if")
    dense = dense_actor(policy.actor)
    wanted, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(dense.act(observations), wanted, rtol=0, atol=1e-6)
    assert dense.activation == dense.metadata["activation"] == activation


@pytest.mark.parametrize("algorithm", ON_POLICY)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("from_file", [False, True], ids=["model", "zip"])
def test_actors_of_ppo_act_as_the_model(algorithm, activation, from_file, tmp_path):
    """Their actions are clipped: by `predict`, and where an environment runs here."""
    model = make_on_policy(algorithm, {} if activation is None else {"activation_fn": ACTIVATIONS[activation]})
    observations = 5 * make_observations(50, 5)
    source = saved(model, tmp_path) if from_file else model
    policy = snnkern.from_sb3(source, observations, neuron="snm", timesteps=64, alpha=0.0)
    dense = dense_actor(policy.actor)
    wanted, _ = model.predict(observations, deterministic=True)
    assert (wanted == LOW).any()
    assert (wanted == HIGH).any()
    np.testing.assert_allclose(dense.act(observations).clip(LOW, HIGH), wanted, rtol=0, atol=1e-5)
    assert dense.activation == dense.metadata["activation"] == (activation or "tanh")
    assert dense.metadata["algorithm"] == algorithm.upper()
    assert not dense.interface.squash

    actions, _ = policy.predict(observations)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, policy.actor.act(observations).clip(LOW, HIGH))
    snnkern.save(policy.actor, tmp_path / "snn.safetensors")  # the range goes on into the file
    again = snnkern.SB3Policy(snnkern.load(tmp_path / "snn.safetensors"))
    np.testing.assert_array_equal(again.predict(observations)[0], actions)
    np.testing.assert_array_equal(again.predict(observations[0])[0], again.predict(observations[:1])[0][0])


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_an_environment_receives_the_actions_of_ppo_clipped(algorithm):
    """`Space` refuses others."""
    actor = actor_from_sb3(sb3_reader.describe(make_on_policy(algorithm)))
    observations = snnkern.collect(actor, Space, steps=20)
    assert ((actor.act(observations) > HIGH) | (actor.act(observations) < LOW)).any()
    snn = snnkern.convert(actor, observations, neuron="if")
    for policy in (actor, snn, snnkern.SB3Policy(snn)):
        assert snnkern.evaluate(policy, Space, episodes=2).lengths == (7, 7)


def test_a_zip_is_of_the_activation_that_is_stated_or_refused(tmp_path):
    path = saved(make_on_policy(policy={"activation_fn": torch.nn.ELU}), tmp_path)
    assert snnkern.load_actor(path, activation="elu").activation == "elu"
    with pytest.raises(snnkern.CheckpointError, match="its activation is elu, but relu was stated"):
        snnkern.load_actor(path, activation="relu")


def test_a_policy_of_ppo_is_known_by_its_tensors_alone(tmp_path):
    model, observations = make_on_policy(), make_observations(50, 5)
    torch.save(model.policy.state_dict(), tmp_path / "policy.pth")
    actor = snnkern.load_actor(tmp_path / "policy.pth")
    wanted, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(actor.act(observations).clip(LOW, HIGH), wanted, rtol=0, atol=1e-5)
    assert actor.metadata == {"activation": "tanh (assumed)"}


def test_actions_of_another_scale_are_not_clipped_to_the_range_of_before(tmp_path):
    path, observations = saved(make_on_policy(), tmp_path), make_observations(20, 5)
    scaled = snnkern.load_actor(path, action_scale=10.0)
    np.testing.assert_allclose(scaled.act(observations), 10 * snnkern.load_actor(path).act(observations), rtol=1e-6)
    policy = snnkern.SB3Policy(snnkern.convert(scaled, observations))
    action, _ = policy.predict(observations)
    assert np.abs(action).max() > 2 * max(np.abs(LOW).max(), np.abs(HIGH).max())


def test_the_range_of_actions_in_a_file_is_checked():
    actor = make_actor(5, 7, 2, squash=False)
    for text in ("{", "[]", "[[1.0], [2.0]]", "[[1.0, 1.0], [0.0, 2.0]]", '[["a"], [2]]', "[[NaN, 1.0], [2.0, 2.0]]"):
        snn = snnkern.convert(actor.replaced(metadata={"action_range": text}), make_observations(20, 5))
        with pytest.raises(snnkern.InputError, match="the metadata's action_range"):
            snnkern.SB3Policy(snn)


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_ppo_is_calibrated_on_its_last_rollout_where_that_is_long(algorithm):
    model = make_on_policy(algorithm, env=make_vec_env("Pendulum-v1", n_envs=4, seed=0), n_steps=256)
    with pytest.raises(snnkern.InputError, match=r"give observations to calibrate on.*has fewer than 1,000"):
        snnkern.from_sb3(model)  # it is not trained
    model.learn(1024)
    policy = snnkern.from_sb3(model, neuron="if", calibration="max")
    given = snnkern.from_sb3(model, model.rollout_buffer.observations.reshape(-1, 3), neuron="if", calibration="max")
    for first, second in zip(policy.actor.thresholds, given.actor.thresholds, strict=True):
        torch.testing.assert_close(first, second)
    assert not any(bool(layer.weight.isnan().any()) for layer in policy.actor.hidden)


@pytest.mark.parametrize("net_arch", [[], [6]], ids=["output alone", "own layers"])
@pytest.mark.parametrize("from_file", [False, True], ids=["model", "zip"])
def test_a_cnn_policy_of_ppo_acts_as_the_model(from_file, net_arch, tmp_path):
    options = {"net_arch": net_arch, "features_extractor_kwargs": {"features_dim": 5}, "activation_fn": torch.nn.ReLU}
    model = make_on_policy(policy=options, env=Pictures(), kind="CnnPolicy")
    observations = np.random.default_rng(0).integers(0, 256, (5, 1, 36, 36), dtype=np.uint8)
    policy = snnkern.from_sb3(saved(model, tmp_path) if from_file else model, observations, neuron="snm")
    wanted, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(dense_actor(policy.actor).act(observations).clip(LOW, HIGH), wanted, rtol=0, atol=1e-5)


def test_many_steps_make_the_dense_actions():
    model, observations = make("sac"), make_observations(50, 5)
    policy = snnkern.from_sb3(model, observations, neuron="snm", timesteps=4096, alpha=0.0)
    actions, state = policy.predict(observations)
    np.testing.assert_allclose(actions, model.predict(observations, deterministic=True)[0], rtol=0, atol=2e-3)
    assert [carry.shape for carry in state] == [(50, 17), (50, 9)]


def test_a_bfloat16_state_comes_back_as_it_was():
    observations = make_observations(3, 5)
    snn = snnkern.from_sb3(make(), observations, neuron="if", timesteps=3, alpha=0.9).actor.to(torch.bfloat16)
    policy = snnkern.SB3Policy(snn)
    _, state = policy.predict(observations)
    assert state[0].dtype == np.float32
    carry = [value.clone() for value in snn.carry]
    policy.predict(make_observations(1, 5))
    policy.actor.carry = None
    action, _ = policy.predict(observations, state)
    snn.carry = carry
    np.testing.assert_array_equal(action, snn.act(observations))


def test_the_state_is_the_carry_and_nothing_else():
    observations = [make_observations(3, 5, seed=seed) for seed in range(4)]
    policy = snnkern.from_sb3(make(), np.concatenate(observations), neuron="if", timesteps=3, alpha=0.9, memory=0.5)
    snn = policy.actor
    wanted = []
    snn.reset()
    for step, observation in enumerate(observations):
        if step == 2:
            snn.reset(torch.tensor([False, True, False]))
        wanted.append(snn.act(observation))

    state, starts = None, np.ones(3, dtype=bool)
    for step, observation in enumerate(observations):
        before = None if state is None else [carry.copy() for carry in state]
        policy.predict(make_observations(1, 5))  # someone else's decision in between
        action, after = policy.predict(observation, state, starts)
        np.testing.assert_array_equal(action, wanted[step])
        if before is not None:
            assert all(
                np.array_equal(*pair) for pair in zip(before, state, strict=True)
            )  # what was given is not touched
        state, starts = after, np.array([False, step == 1, False])

    single, state = policy.predict(observations[0][1])
    np.testing.assert_array_equal(single, wanted[0][1])
    again, _ = policy.predict(observations[1][1], state, np.array([False]))
    np.testing.assert_array_equal(again, wanted[1][1])


@pytest.mark.parametrize("rows", [None, 1, 3], ids=["one", "a row", "rows"])
def test_a_state_goes_on_in_the_memory_that_the_actor_works_in(rows, monkeypatch):
    """No tensor is made, copied or bound anew: `SpikingActor.carry` and `_bind` are not even asked."""
    observations = make_observations(10, 5)
    policy = snnkern.from_sb3(make(), observations, neuron="if", timesteps=3, alpha=0.9)
    given = observations[0] if rows is None else observations[:rows]
    wanted = [policy.predict(given, None)]
    for _ in range(3):
        wanted.append(policy.predict(given, wanted[-1][1]))

    def forbidden(*arguments):
        raise AssertionError("the slow way")

    _, older = policy.predict(given, None)
    monkeypatch.setattr(snnkern.SpikingActor, "carry", property(forbidden, forbidden))
    monkeypatch.setattr(snnkern.SpikingActor, "_bind", forbidden)
    policy.predict(-given, older)  # somebody else goes on from the same state
    for starts in (None, np.zeros(rows or 1, dtype=bool)):
        state = older
        for action, carries in wanted[1:]:
            found, state = policy.predict(given, state, starts)
            np.testing.assert_array_equal(found, action)
            for first, second in zip(state, carries, strict=True):
                np.testing.assert_array_equal(first, second)
    action, _ = policy.predict(given, None)  # a loop that keeps no state: every decision begins an episode
    np.testing.assert_array_equal(action, wanted[0][0])


def test_a_copy_of_a_policy_has_a_memory_of_its_own():
    observations = make_observations(2, 5)
    policy = snnkern.from_sb3(make(), observations, neuron="if", timesteps=3, alpha=0.9)
    _, state = policy.predict(observations)
    wanted, _ = policy.predict(observations, state)
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        policy.predict(observations, state)
        other.predict(-observations)
        np.testing.assert_array_equal(other.predict(observations, state)[0], wanted)
        np.testing.assert_array_equal(policy.predict(observations, state)[0], wanted)
    policy.actor.double()
    action, state = policy.predict(observations.astype(np.float64))
    assert (action.dtype, state[0].dtype) == (np.float64, np.float64)
    np.testing.assert_allclose(policy.predict(observations.astype(np.float64), state)[0], wanted, rtol=0, atol=1e-5)


def test_snnkern_evaluates_it_as_its_actor():
    """Its carry is emptied where an episode ends, as a spiking actor's is."""
    policy = snnkern.from_sb3(
        sb3.TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [9]}, seed=3, device="cpu"),
        make_observations(50, 3), neuron="if", timesteps=2, alpha=1.0,
    )  # fmt: skip
    found = snnkern.evaluate(policy, "Pendulum-v1", episodes=2, rows=1)
    assert found == snnkern.evaluate(policy.actor, "Pendulum-v1", episodes=2, rows=1)
    assert len(found.spikes) == 1
    with pytest.raises(snnkern.InputError, match=r"got SB3Policy: save its \.actor"):
        snnkern.save(policy, "actor.safetensors")
    with pytest.raises(snnkern.InputError, match=r"got SB3Policy: its \.actor is a spiking one"):
        snnkern.convert(policy, make_observations(50, 3))


def test_evaluate_policy_resets_each_environment_at_its_episodes_end(monkeypatch):
    """Four environments with episodes of different lengths: each starts with an empty carry, and no other step does."""
    lengths = [3, 4, 5, 7]
    env = DummyVecEnv([lambda length=length: Space(length) for length in lengths])
    policy = snnkern.from_sb3(make(), make_observations(50, 5), neuron="if", timesteps=3, alpha=1.0)
    starts, decisions = [], []
    plain = policy.predict

    def predict(observation, state, episode_start, deterministic):
        starts.append(episode_start.copy())
        decisions.append(policy.actor.carry)
        return plain(observation, state, episode_start, deterministic)

    def reset(mask=None):
        if mask is not None:
            np.testing.assert_array_equal(mask, starts[-1])
        type(policy.actor).reset(policy.actor, mask)

    monkeypatch.setattr(policy, "predict", predict)
    monkeypatch.setattr(policy.actor, "reset", reset)
    _, episode_lengths = evaluate_policy(policy, env, n_eval_episodes=8, warn=False, return_episode_rewards=True)
    assert sorted(episode_lengths) == sorted(lengths * 2)
    for step, start in enumerate(starts[:6]):
        assert start.tolist() == [step % length == 0 for length in lengths]


def test_pendulum_is_evaluated_as_the_model_is():
    """An untrained actor has returns to compare as well, and costs no minutes."""
    model = sb3.TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [32, 32]}, seed=3, device="cpu")
    env = make_vec_env("Pendulum-v1", n_envs=3, seed=5)
    observations = np.random.default_rng(0).uniform([-1, -1, -8], [1, 1, 8], size=(500, 3)).astype(np.float32)
    policy = snnkern.from_sb3(model, observations, neuron="dc", timesteps=32)
    dense, _ = evaluate_policy(model, env, n_eval_episodes=6)
    env.seed(5)
    spiking, _ = evaluate_policy(policy, env, n_eval_episodes=6)
    assert spiking == pytest.approx(dense, rel=0.1)


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_vec_normalize_of_ppo_moves_inside(algorithm):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=4, seed=0), clip_obs=1.5)
    model = make_on_policy(algorithm, env=env, n_steps=256)
    model.learn(1024)
    env.training = False
    raw = np.random.default_rng(0).uniform([-1, -1, -8], [1, 1, 8], size=(100, 3)).astype(np.float32)
    seen = env.normalize_obs(raw)
    wanted, _ = model.predict(seen, deterministic=True)
    outside = snnkern.from_sb3(model, neuron="if")  # the last rollout is of normalised observations
    np.testing.assert_allclose(dense_actor(outside.actor).act(seen).clip(-2, 2), wanted, rtol=0, atol=1e-5)
    inside = snnkern.from_sb3(model, raw, vec_normalize=True, neuron="if")
    np.testing.assert_allclose(dense_actor(inside.actor).act(raw).clip(-2, 2), wanted, rtol=0, atol=1e-5)
    with pytest.raises(snnkern.InputError, match=r"give observations .*: the rollout buffer holds normalised ones"):
        snnkern.from_sb3(model, vec_normalize=True)


@pytest.fixture
def normalized():
    """A model trained for a few steps in VecNormalize, and the wrapper."""
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0), clip_obs=1.5)
    model = sb3.SAC("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, learning_starts=20, seed=0, device="cpu")
    model.learn(200)
    env.training = False
    return model, env


def test_vec_normalize_moves_inside(normalized):
    model, env = normalized
    raw = np.random.default_rng(0).uniform([-1, -1, -8], [1, 1, 8], size=(100, 3)).astype(np.float32)
    seen = env.normalize_obs(raw)
    assert (np.abs(seen) == 1.5).any()  # the clip counts
    wanted, _ = model.predict(seen, deterministic=True)
    inside = snnkern.from_sb3(model, vec_normalize=env, neuron="dc", timesteps=8, alpha=0.0)
    outside = snnkern.from_sb3(model, neuron="dc", timesteps=8, alpha=0.0)
    np.testing.assert_allclose(dense_actor(inside.actor).act(raw), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(dense_actor(outside.actor).act(seen), wanted, rtol=0, atol=1e-5)
    # Both were calibrated on what the replay buffer holds, each as it sees it.
    for first, second in zip(inside.actor.thresholds, outside.actor.thresholds, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inside.predict(raw)[0], outside.predict(seen)[0], rtol=0, atol=0.02)


class Scaled(FlattenExtractor):
    def forward(self, observations):
        return super().forward(observations) * 2


class Image(Space):
    observation_space = gym.spaces.Box(0, 255, (2, 3), np.uint8)


def td3_of(env):
    return sb3.TD3("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, buffer_size=10, device="cpu")


class Pictures(Space):
    observation_space = gym.spaces.Box(0, 255, (1, 36, 36), np.uint8)


class Parts(Space):
    observation_space = gym.spaces.Dict({"a": Space.observation_space})


def acting_in(space):
    class Acting(Space):
        action_space = space

    return lambda: make_on_policy(env=Acting())


class Leaky(torch.nn.LeakyReLU):
    def forward(self, drive):
        return super().forward(drive) + 1


class tanh(torch.nn.Module):  # by its name it might be taken for torch.tanh
    def forward(self, drive):
        return 2 * drive.tanh()


REFUSED = {
    "sigmoid": (
        lambda: make("sac", {"activation_fn": torch.nn.Sigmoid}),
        r"its activations are Sigmoid\S*, not one of",
    ),
    "ppo-activation": (lambda: make_on_policy(policy={"activation_fn": Leaky}), r"its activations are Leaky\S*, not"),
    "ppo-namesake": (lambda: make_on_policy(policy={"activation_fn": tanh}), r"its activations are \S*tanh\S*, not"),
    "ppo-linear": (lambda: make_on_policy(policy={"net_arch": []}), "it has no hidden layer, only action_net"),
    "ppo-gsde": (lambda: make_on_policy(use_sde=True), "gSDE"),
    "ppo-discrete": (acting_in(gym.spaces.Discrete(3)), r"its action space is Discrete, not a Box \[N\]$"),
    "ppo-several": (
        acting_in(gym.spaces.MultiDiscrete([2, 3])),
        r"its action space is MultiDiscrete, not a Box \[N\]$",
    ),
    "ppo-binary": (acting_in(gym.spaces.MultiBinary(3)), r"its action space is MultiBinary, not a Box \[N\]$"),
    "ppo-dict": (lambda: make_on_policy(env=Parts(), kind="MultiInputPolicy"), "its observation space is Dict"),
    "ppo-mixed": (
        lambda: make_on_policy(policy={"net_arch": [4]}, env=Pictures(), kind="CnnPolicy"),
        "its NatureCNN has ReLUs, but the layers behind it have tanh",
    ),
    "extractor": (
        lambda: make(policy={"features_extractor_class": Scaled}),
        "pass through Scaled, not FlattenExtractor",
    ),
    "gsde": (lambda: make("sac", use_sde=True), "gSDE"),
    "observations": (lambda: td3_of(Image()), r"its observation space is Box of uint8 \[2, 3\]"),
}


@pytest.mark.parametrize("from_file", [False, True], ids=["model", "zip"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_named(case, from_file, tmp_path):
    build, message = REFUSED[case]
    model = build()
    with pytest.raises(snnkern.InputError, match=message):
        snnkern.from_sb3(saved(model, tmp_path) if from_file else model, make_observations(5, 5))


@pytest.mark.parametrize("model", [make_on_policy, lambda: make("sac")], ids=["ppo", "sac"])
def test_a_model_whose_last_activation_was_taken_out_is_refused(model):
    changed = model()
    del (changed.policy.mlp_extractor.policy_net if model is make_on_policy else changed.policy.actor.latent_pi)[-1]
    with pytest.raises(snnkern.InputError, match=r"its activations are Identity\(\), (tanh|relu), not one of"):
        snnkern.from_sb3(changed, make_observations(20, 5))


def test_strangers_are_refused(tmp_path):
    stranger = sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu")
    with pytest.raises(snnkern.InputError, match="a TD3, DDPG, SAC, TQC, PPO, TRPO or A2C model of Stable-Baselines3"):
        snnkern.from_sb3(stranger, make_observations(5, 4))
    with pytest.raises(snnkern.CheckpointError, match=r"dqn\.policies's, not that of TD3, DDPG, .*TRPO or A2C"):
        snnkern.from_sb3(saved(stranger, tmp_path), make_observations(5, 4))
    with pytest.raises(snnkern.InputError, match="got 3"):
        snnkern.from_sb3(3)
    with pytest.raises(snnkern.InputError, match="give observations to calibrate on"):
        snnkern.from_sb3(make())
    model = make()
    model.action_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(snnkern.InputError, match="its actions range from"):
        snnkern.from_sb3(model, make_observations(5, 5))


def rewrite(path, **parts):
    """Replaces parts of a zip; None leaves them out."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (content | parts).items():
            if value is not None:
                archive.writestr(name, value)
    return path


@pytest.mark.parametrize(("library", "is_read"), [("tqc", True), ("crossq", False)])
def test_a_zip_of_sb3_contrib_is_read_where_its_actor_is_that_of_sac(library, is_read, tmp_path):
    """Its library is not needed: the tensors of its actor have the names of SAC's, and only they are read."""
    model, observations = make("sac"), make_observations(20, 5)
    path = saved(model, tmp_path)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    data["policy_class"]["__module__"] = f"sb3_contrib.{library}.policies"
    rewrite(path, data=json.dumps(data))
    if is_read:
        actor = snnkern.load_actor(path)
        np.testing.assert_allclose(
            actor.act(observations), model.predict(observations, deterministic=True)[0], atol=1e-6
        )
        assert actor.metadata["algorithm"] == "TQC"
        with pytest.raises(snnkern.InputError, match="samples from TQC's distribution"):
            snnkern.from_sb3(path, observations).predict(observations, deterministic=False)
    else:
        with pytest.raises(
            snnkern.CheckpointError, match=r"its policy is sb3_contrib\.crossq\.policies's, not that of"
        ):
            snnkern.load_actor(path)


def test_a_zip_of_trpo_is_that_of_ppo_but_for_its_settings(tmp_path):
    path, observations = saved(make_on_policy(), tmp_path), make_observations(20, 5)
    wanted = snnkern.load_actor(path)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    del data["clip_range"]
    actor = snnkern.load_actor(rewrite(path, data=json.dumps(data | {"cg_max_steps": 15})))
    assert (wanted.metadata["algorithm"], actor.metadata["algorithm"]) == ("PPO", "TRPO")
    np.testing.assert_array_equal(actor.act(observations), wanted.act(observations))


class _Evil:
    def __reduce__(self):
        return (os.system, ("echo run",))


def test_no_pickle_of_the_zip_is_opened(tmp_path, capsys):
    import base64
    import io

    path = saved(make(), tmp_path)
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    evil = base64.b64encode(pickle.dumps(_Evil())).decode()
    data = {key: value | {":serialized:": evil} if isinstance(value, dict) else value for key, value in data.items()}
    wanted = snnkern.load_actor(path).fingerprint()
    rewrite(path, data=json.dumps(data))
    assert snnkern.load_actor(path).fingerprint() == wanted

    file = io.BytesIO()
    torch.save({"actor.mu.0.weight": _Evil()}, file)
    with pytest.raises(
        snnkern.CheckpointError, match=r"policy\.pth asks to run code or build objects \(posix.system\)"
    ):
        snnkern.load_actor(rewrite(path, **{"policy.pth": file.getvalue()}))
    with pytest.raises(snnkern.CheckpointError, match=r"holds no policy\.pth: SBX saves parameters as a pickle"):
        snnkern.load_actor(rewrite(path, **{"policy.pth": None}))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verb", ["evaluate", "bench", "energy", "analyze", "convert"])
def test_every_verb_reads_the_zip(verb, tmp_path, monkeypatch, capsys):
    pytest.importorskip("typer", reason="typer is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from snnkern.cli import app

    path = saved(make(), tmp_path)
    np.save(tmp_path / "observations.npy", make_observations(20, 5))
    given = ["--observations", str(tmp_path / "observations.npy")]
    options = {
        "evaluate": ["--env", "none-v0"],
        "bench": [*given, "--seconds", "1", "--neuron", "if", "-T", "2", "--batch", "1", "--threads", "1"],
        "energy": [*given, "--neuron", "if", "-T", "2"],
        "analyze": ["--env", "none-v0", "-o", str(tmp_path / "analysis")],
        "convert": [str(tmp_path / "snn.safetensors"), *given],
    }
    code = app.run([verb, str(path), *options[verb]])
    message = capsys.readouterr().err
    assert (code, "no environment 'none-v0'" in message) in ((0, False), (2, True)), message
    assert "damaged" not in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged.*policy_kwargs"),
    ],
    ids=["json", "list", "empty"],
)
def test_damaged_zips_are_refused(data, message, tmp_path):
    with pytest.raises(snnkern.CheckpointError, match=message):
        snnkern.load_actor(rewrite(saved(make(), tmp_path), data=data))


def test_a_damaged_zip_is_refused_or_read_but_nothing_else(tmp_path):
    path = saved(make(policy={"net_arch": [3]}), tmp_path)
    whole = path.read_bytes()
    generator = random.Random(0)
    for trial in range(200):
        damaged = bytearray(whole[: generator.randrange(len(whole))] if trial % 4 == 0 else whole)
        for _ in range(generator.choice([1, 2, 8])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(snnkern.CheckpointError):
            assert np.isfinite(snnkern.load_actor(path).act(make_observations(3, 5))).all()


def test_sac_and_ppo_refuse_to_sample_and_td3_has_nothing_to_sample():
    observations = make_observations(5, 5)
    for model in (make("sac"), make_on_policy("ppo"), make_on_policy("a2c")):
        with pytest.raises(snnkern.InputError, match="deterministic=False samples"):
            snnkern.from_sb3(model, observations).predict(observations, deterministic=False)
    policy = snnkern.from_sb3(make("td3"), observations)
    np.testing.assert_array_equal(
        policy.predict(observations, deterministic=False)[0], policy.predict(observations, deterministic=True)[0]
    )


def test_predict_says_what_does_not_fit():
    observations = make_observations(5, 5)
    policy = snnkern.SB3Policy(snnkern.convert(make_actor(5, 6, 7, 2), observations, alpha=0.5))
    _, state = policy.predict(observations)
    with pytest.raises(snnkern.InputError, match="2 hidden layers, got carries for 1"):
        policy.predict(observations, state[:1])
    with pytest.raises(snnkern.InputError, match=r"hidden layer 2 must be torch.float32 \[B, N\] = \[5, 7\]"):
        policy.predict(observations, (state[0], state[0]))
    with pytest.raises(snnkern.InputError, match="the carry belongs to a batch of shape"):
        policy.predict(observations[:3], state)
    with pytest.raises(snnkern.InputError, match="reset mask has 3 rows"):
        policy.predict(observations, state, np.ones(3, dtype=bool))
    with pytest.raises(snnkern.InputError, match="must be a SpikingActor"):
        snnkern.SB3Policy(SimpleNamespace())
