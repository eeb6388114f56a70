"""Stable-Baselines3's CnnPolicy: actors act as they do there, whatever the order of channels in what they see."""

from __future__ import annotations

import json
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch
from support.sb3_models import HIGH, LOW, saved
from torch import nn

import snnkern
from snnkern import CheckpointError, InputError
from snnkern.policies.spiking import dense_actor

sb3 = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed: pip install 'snnkern[sb3]'")

from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.torch_layers import NatureCNN  # noqa: E402

ALGORITHMS = {"td3": sb3.TD3, "ddpg": sb3.DDPG, "sac": sb3.SAC}
SMALL = {"net_arch": [17, 9], "features_extractor_kwargs": {"features_dim": 12}}


class Pixels(gym.Env):
    """An environment that shows images and otherwise does nothing."""

    action_space = gym.spaces.Box(LOW, HIGH)

    def __init__(self, shape: tuple[int, ...] = (36, 40, 3), dtype: type = np.uint8, high: float = 255) -> None:
        self.observation_space = gym.spaces.Box(0, high, shape, dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.step_number += 1
        return self.observation_space.sample(), 1.0, False, self.step_number == 5, {}


def make(algorithm: str = "sac", env: gym.Env | None = None, **policy):
    torch.manual_seed(0)
    model = ALGORITHMS[algorithm]("CnnPolicy", env or Pixels(), buffer_size=30, policy_kwargs=SMALL | policy, seed=0)
    with torch.no_grad():  # as a trained network: what it sees decides
        for parameter in model.policy.actor.parameters():
            parameter.mul_(1.5)
    return model


def images(rows: int, model) -> np.ndarray:
    space = model.observation_space
    generator = np.random.default_rng(0)
    if space.dtype == np.uint8:
        return generator.integers(0, 256, (rows, *space.shape), dtype=np.uint8)
    return generator.random((rows, *space.shape), dtype=np.float32)


def assert_acts_as(model, actor: snnkern.Actor) -> None:
    observations = images(8, model)
    wanted, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(actor.act(observations), wanted, rtol=0, atol=2e-6)
    assert np.ptp(wanted, axis=0).min() > 1e-4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("from_file", [False, True], ids=["model", "zip"])
def test_the_actor_acts_as_the_model(algorithm, from_file, tmp_path):
    model = make(algorithm)
    source = saved(model, tmp_path) if from_file else model
    policy = snnkern.from_sb3(source, images(20, model), neuron="if", timesteps=4)
    dense = dense_actor(policy.actor)
    assert_acts_as(model, dense)
    interface = dense.interface
    assert (interface.observation_shape, interface.observation_dtype) == ((3, 36, 40), torch.uint8)
    assert (interface.observation_scale, interface.observation_offset) == (255.0, 0.0)
    assert interface.action_scale.tolist() == pytest.approx(((HIGH - LOW) / 2).tolist())
    assert [layer.weight.shape[0] for layer in dense.hidden] == [32, 64, 64, 12, 17, 9]
    assert [layer.stride[0] for layer in dense.hidden[:3]] == [4, 2, 1]
    said = {key: dense.metadata.get(key) for key in ("algorithm", "activation")}
    assert said == {"algorithm": "SAC" if algorithm == "sac" else "TD3", "activation": "relu"}
    if from_file:
        assert snnkern.load_actor(source).fingerprint() == dense.fingerprint()


def test_stable_baselines3_s_own_sizes(tmp_path):
    model = make("td3", Pixels((4, 84, 84)), net_arch=None, features_extractor_kwargs={})
    dense = snnkern.load_actor(saved(model, tmp_path))
    assert_acts_as(model, dense)
    assert [layer.weight.shape[0] for layer in dense.hidden] == [32, 64, 64, 512, 256, 256]


@pytest.mark.parametrize("from_file", [False, True], ids=["model", "zip"])
@pytest.mark.parametrize(
    ("env", "policy", "scale"),
    [
        pytest.param(Pixels(), {"normalize_images": False}, 1.0, id="bytes as they are"),
        pytest.param(
            Pixels((3, 36, 40), np.float32, 1.0),
            {"normalize_images": False, "features_extractor_kwargs": {"features_dim": 12, "normalized_image": True}},
            1.0,
            id="fractions",
        ),
        pytest.param(Pixels((3, 36, 40)), {"net_arch": [9]}, 255.0, id="channels first"),
        pytest.param(Pixels(), {"features_extractor_class": NatureCNN}, 255.0, id="an extractor by name"),
    ],
)
def test_pixels_are_scaled_as_the_policy_says(env, policy, scale, from_file, tmp_path):
    model = make("td3", env, **policy)
    with torch.no_grad():
        model.policy.actor.features_extractor.cnn[0].weight.mul_(
            scale / 255 if env.observation_space.high.max() > 1 else 1
        )
    source = saved(model, tmp_path) if from_file else model
    dense = dense_actor(snnkern.from_sb3(source, images(5, model), neuron="if", timesteps=2).actor)
    assert dense.interface.observation_scale == scale
    assert_acts_as(model, dense)


def test_either_order_of_channels_is_taken_as_the_model_takes_it():
    model = make()
    policy = snnkern.from_sb3(model, images(20, model), neuron="snm", timesteps=4)
    first = images(3, model)
    last = np.moveaxis(first, 1, -1)
    assert last.shape[1:] == Pixels().observation_space.shape
    starts = np.ones(3, dtype=bool)
    wanted, state = policy.predict(first, None, starts)
    given, others = policy.predict(last, None, starts)
    np.testing.assert_array_equal(given, wanted)
    assert [carry.shape for carry in state][:2] == [(3, 32, 8, 9), (3, 64, 3, 3)]
    assert all(map(np.array_equal, state, others))
    one, state = policy.predict(last[0])
    np.testing.assert_array_equal(one, wanted[0])
    again, _ = policy.predict(first[1], state, np.array([False]))
    both, _ = policy.predict(last[1], state, np.array([False]))
    np.testing.assert_array_equal(again, both)
    mean, _ = evaluate_policy(policy, Pixels(), n_eval_episodes=2, warn=False)
    assert mean == 5.0


def test_thresholds_come_from_the_replay_buffer():
    model = make("td3", Pixels())
    model.learn(12)
    policy = snnkern.from_sb3(model, neuron="if", timesteps=2, calibration="max")
    stored = model.replay_buffer.observations[:12, 0]
    wanted = snnkern.from_sb3(model, stored, neuron="if", timesteps=2, calibration="max")
    for found, threshold in zip(policy.actor.thresholds, wanted.actor.thresholds, strict=True):
        torch.testing.assert_close(found, threshold)


class Other(NatureCNN):
    pass


class ELUs(NatureCNN):
    """Somebody's own, by the same name."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.cnn[1] = nn.ELU()


ELUs.__name__ = ELUs.__qualname__ = "NatureCNN"

MISTAKES = {
    "another extractor": ({"features_extractor_class": Other}, "pass through Other, not FlattenExtractor or NatureCNN"),
    "another of that name": ({"features_extractor_class": ELUs}, f"pass through {__name__}.NatureCNN, not"),
    "activations": ({"activation_fn": nn.Tanh}, "its NatureCNN has ReLUs, but the layers behind it have tanh"),
}


@pytest.mark.parametrize("from_file", [False, True])
def test_sac_without_layers_of_its_own_has_those_of_the_extractor(from_file, tmp_path):
    model = make("sac", net_arch=[])
    seen = images(3, model)
    actor = (
        snnkern.load_actor(saved(model, tmp_path)) if from_file else dense_actor(snnkern.from_sb3(model, seen).actor)
    )
    wanted, _ = model.predict(seen, deterministic=True)
    np.testing.assert_allclose(actor.act(seen), wanted, atol=1e-5)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_converted_is_named(name):
    policy, wanted = MISTAKES[name]
    with pytest.raises(InputError, match="this model cannot be converted") as caught:
        snnkern.from_sb3(make(**policy), images(2, make()))
    assert wanted in str(caught.value)


def test_an_image_in_an_mlp_policy_is_refused():
    model = sb3.TD3("MlpPolicy", Pixels(), buffer_size=2, policy_kwargs={"net_arch": [4]})
    with pytest.raises(InputError, match=r"Box of uint8 \[3, 36, 40\], not a Box of floats \[N\]"):
        snnkern.from_sb3(model, images(2, model))


def rewritten(path, change):
    """A model's file whose description is another one."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    change(data)
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


LIES = {
    "another size": (lambda data: data["observation_space"].update(_shape=[3, 50, 40]), "weight must be [out, "),
    "a size too small": (lambda data: data["observation_space"].update(_shape=[3, 7, 40]), "larger than its image"),
    "other channels": (
        lambda data: data["observation_space"].update(_shape=[4, 36, 40]),
        "weight must be [out, 4, ky, kx]",
    ),
    "no channels": (lambda data: data["observation_space"].update(_shape=[36, 40]), "not a Box of images [C, H, W]"),
    "an enormous size": (lambda data: data["observation_space"].update(_shape=[3, 10**9, 10**9]), "whole numbers"),
    "a vector": (
        lambda data: data["policy_kwargs"].update(features_extractor_class="FlattenExtractor"),
        "Box of floats",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_whose_parts_do_not_fit_is_refused(name, tmp_path):
    change, wanted = LIES[name]
    path = rewritten(saved(make(), tmp_path), change)
    with pytest.raises(CheckpointError) as caught:
        snnkern.load_actor(path)
    assert wanted in str(caught.value)
    assert str(path) in str(caught.value)
