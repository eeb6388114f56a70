"""DrQ-v2's snapshots and state dicts as actors: they act as the agent, and what cannot be converted is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.command_line import run
from support.drqv2 import DrQV2Agent, as_old, snapshot
from torch import nn

import snnkern
from snnkern import CheckpointError, InputError, actor_from_state_dict, load_actor
from snnkern.policies.readers.visual import assemble

KINDS = pytest.mark.parametrize("normalized", [False, True], ids=["relu", "layer norm"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def frames(rows: int, channels: int = 3, size: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, channels, size, size), dtype=np.uint8)


def written(content: bytes, tmp_path, name: str = "snapshot.pt"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_actor(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message


def assert_acts_as(agent: DrQV2Agent, actor: snnkern.Actor) -> None:
    observations = frames(16)
    wanted = agent.action(torch.from_numpy(observations))
    np.testing.assert_allclose(actor.act(observations), wanted.numpy(), rtol=0, atol=1e-6)
    assert np.ptp(wanted.numpy(), axis=0).min() > 1e-4  # it depends on what it sees


@KINDS
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_a_snapshot_acts_as_its_agent(normalized, old, tmp_path):
    agent = DrQV2Agent(normalized=normalized)
    path = written(snapshot(as_old(agent) if old else agent, zipped=not old), tmp_path)
    actor = load_actor(path)
    assert_acts_as(agent, actor)
    interface = actor.interface
    assert (interface.observation_shape, interface.observation_dtype) == ((3, 20, 20), torch.uint8)
    assert (interface.observation_scale, interface.observation_offset, interface.squash) == (255.0, -0.5, True)
    kinds = [type(layer).__name__ for layer in actor.hidden]
    assert kinds == ["Conv2d"] * 4 + ["Linear"] * (2 if normalized else 3)
    assert actor.metadata == {
        "algorithm": "DrQ-v2",
        "activation": "relu",
        "objects": f"{DrQV2Agent.__module__}.DrQV2Agent",
    }
    with pytest.raises(CheckpointError, match="its activation is relu, but tanh was stated"):
        load_actor(path, activation="tanh")
    snnkern.save(actor, tmp_path / "actor.safetensors")
    assert load_actor(tmp_path / "actor.safetensors").fingerprint() == actor.fingerprint()


@KINDS
def test_a_state_dict_is_the_same_actor(normalized, tmp_path):
    agent = DrQV2Agent(normalized=normalized)
    tensors = agent.tensors() | {"critic.trunk.0.weight": torch.ones(1)}
    metadata = {"task": "cartpole_swingup", "action_repeat": "2", "frame_stack": "1", "camera": "0"}
    save_file(tensors, tmp_path / "actor.safetensors", metadata)
    torch.save(tensors, tmp_path / "actor.pt")
    actor = load_actor(tmp_path / "actor.safetensors")
    assert_acts_as(agent, actor)
    assert actor.metadata == {
        "algorithm": "DrQ-v2",
        "activation": "relu",
        "environment": "dm_control/cartpole-swingup-v0",
        **metadata,
    }
    for other in (
        load_actor(tmp_path / "actor.pt"),
        actor_from_state_dict(tensors),
        actor_from_state_dict({"encoder": agent.encoder.state_dict(), "actor": agent.actor.state_dict()}),
        load_actor(written(snapshot(agent), tmp_path)),
    ):
        assert other.fingerprint() == actor.fingerprint()


def test_drqv2_s_own_size_is_84():
    agent = DrQV2Agent(84, frames=9, channels=32, features=2, hidden=3)
    actor = actor_from_state_dict(agent.tensors(), action_scale=2.0)
    assert actor.interface.observation_shape == (9, 84, 84)
    assert actor.interface.action_scale.tolist() == [2.0, 2.0]
    assert actor.hidden[4].in_features == 39_200


def test_strides_and_paddings_are_those_of_the_snapshot(tmp_path):
    agent = DrQV2Agent(normalized=True, strides=(1, 2))
    convolution = agent.encoder.convnet[0]
    convolution.padding = (1, 1)
    agent.actor.trunk[0] = nn.Linear(4 * 9 * 9, 6)
    agent.actor.trunk[1].eps = 0.125
    actor = load_actor(written(snapshot(agent), tmp_path))
    assert [(layer.stride, layer.padding) for layer in actor.hidden[:2]] == [((1, 1), (1, 1)), ((2, 2), (0, 0))]
    assert_acts_as(agent, actor)


@pytest.mark.parametrize(
    ("task", "environment"),
    [
        ("reacher_easy", "dm_control/reacher-easy-v0"),
        ("ball_in_cup_catch", "dm_control/ball_in_cup-catch-v0"),
        ("cup_catch", "dm_control/ball_in_cup-catch-v0"),
        ("point_mass_easy", "dm_control/point_mass-easy-v0"),
        ("cartpole_two_poles", "dm_control/cartpole-two_poles-v0"),
        ("os:system_x", None),
        ("cartpole", None),
    ],
)
def test_the_task_says_the_environment(task, environment):
    actor = actor_from_state_dict(DrQV2Agent().tensors(), metadata={"task": task})
    assert actor.metadata.get("environment") == environment
    said = actor_from_state_dict(DrQV2Agent().tensors(), metadata={"task": task, "environment": "Mine-v0"})
    assert said.metadata["environment"] == "Mine-v0"


# What is refused


def changed(change) -> DrQV2Agent:
    agent = DrQV2Agent()
    change(agent)
    return agent


def test_all_that_cannot_be_converted_is_named_at_once(tmp_path):
    agent = DrQV2Agent()
    agent.encoder.convnet[0] = nn.Conv2d(3, 6, 3, stride=2, groups=3)
    agent.encoder.convnet[1] = nn.ELU()
    agent.encoder.convnet[2] = nn.Conv2d(4, 4, 3, dilation=2, padding="same", padding_mode="circular")
    agent.actor.trunk[1] = nn.BatchNorm1d(6)
    agent.actor.policy[0].register_forward_hook(print)
    agent.encoder.register_forward_pre_hook(print)
    agent.actor.extra = nn.Linear(2, 2)
    assert refusal(written(snapshot(agent), tmp_path)).removeprefix(str(tmp_path)) == (
        "/snapshot.pt: its DrQV2Agent cannot be read: encoder has hooks, which are code; actor.extra is not "
        "known; encoder.convnet.0: a convolution with groups = 3 is not converted; encoder.convnet.1 is ELU; "
        "encoder.convnet.2: a convolution with dilation = (2, 2), padding_mode = 'circular', padding = 'same' is "
        "not converted; actor.trunk.1 is BatchNorm1d; actor.policy.0 has hooks, which are code"
    )


MISTAKES = {
    "no policy": (lambda agent: delattr(agent.actor, "policy"), "actor.policy is missing, not a Sequential"),
    "no encoder": (lambda agent: delattr(agent, "encoder"), "encoder.convnet is missing"),
    "an empty policy": (lambda agent: setattr(agent.actor, "policy", nn.Sequential()), "actor.policy is empty"),
    "another trunk": (
        lambda agent: setattr(agent.actor, "trunk", nn.Linear(36, 6)),
        "trunk is linear.Linear, not a Seq",
    ),
    "layers without ReLU": (
        lambda agent: agent.encoder.convnet.pop(1),
        "encoder.convnet.0 is Conv2d(3, 4, kernel_size=(3, 3), stride=(2, 2)), without a ReLU behind it",
    ),
    "no output layer": (lambda agent: agent.actor.policy.pop(4), "the last module is no Linear"),
    "a trunk of another width": (
        lambda agent: agent.actor.trunk.__setitem__(0, nn.Linear(40, 6)),
        "40 numbers, which are not 4 channels of a square image",
    ),
    "a policy of another width": (lambda agent: agent.actor.policy.__setitem__(2, nn.Linear(9, 8)), "layer 7's weight"),
    "numbers that are none": (
        lambda agent: agent.actor.policy[4].bias.data.fill_(torch.nan),
        "layer 8's bias holds NaN or infinity",
    ),
    "whole numbers": (
        lambda agent: setattr(
            agent.actor.policy[4], "weight", nn.Parameter(torch.ones(2, 8, dtype=torch.int64), requires_grad=False)
        ),
        "torch.int64",
    ),
    "a weight in two dimensions too few": (
        lambda agent: setattr(agent.encoder.convnet[0], "weight", nn.Parameter(torch.ones(4))),
        "encoder.convnet.0: its weight has shape [4]",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_snapshot_of_another_network_is_refused(name, tmp_path):
    change, wanted = MISTAKES[name]
    assert wanted in refusal(written(snapshot(changed(change)), tmp_path))


def test_other_objects_are_refused_as_before(tmp_path):
    for number, content in enumerate((nn.Linear(2, 2), {"agent": nn.Linear(2, 2)}, [DrQV2Agent()])):
        torch.save(content, tmp_path / f"{number}.pt")
        assert "asks to run code or build objects" in refusal(tmp_path / f"{number}.pt")
    torch.save(DrQV2Agent(), tmp_path / "agent.pt")  # without a dict around it
    assert load_actor(tmp_path / "agent.pt").metadata["algorithm"] == "DrQ-v2"


STATES = {
    "a missing layer": (lambda tensors: tensors.pop("encoder.convnet.2.weight"), "missing encoder.convnet.2.weight"),
    "no trunk": (lambda tensors: tensors.pop("actor.trunk.0.bias"), "missing actor.trunk.0.bias"),
    "an unexpected layer": (
        lambda tensors: tensors.update({"actor.trunk.3.weight": torch.ones(2)}),
        "unexpected actor.trunk.3.weight",
    ),
    "half a norm": (
        lambda tensors: tensors.update({"actor.trunk.1.weight": torch.ones(6)}),
        "missing actor.trunk.1.bias",
    ),
    "a norm of another width": (
        lambda tensors: tensors.update({"actor.trunk.1.weight": torch.ones(5), "actor.trunk.1.bias": torch.ones(5)}),
        "actor.trunk.1 must be [6], got shapes [5] and [5]",
    ),
    "a convolution of nothing": (
        lambda tensors: tensors.update(
            {"encoder.convnet.6.weight": torch.ones(0, 4, 3, 3), "encoder.convnet.6.bias": torch.ones(0)}
        ),
        "encoder.convnet.6's weight must be [out, 4, ky, kx], got shape [0, 4, 3, 3]",
    ),
    "shapes": (
        lambda tensors: tensors.update(
            {"encoder.convnet.0.weight": torch.ones(4, 3), "actor.policy.2.weight": torch.ones(8, 9)}
        ),
        "encoder.convnet.0's weight must be [out, in, ky, kx], got shape [4, 3]; "
        "actor.policy.2's weight must be [out, 8]",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_dict_of_another_network_is_refused(name):
    change, wanted = STATES[name]
    tensors = DrQV2Agent().tensors()
    change(tensors)
    with pytest.raises(CheckpointError) as caught:
        actor_from_state_dict(tensors)
    assert wanted in str(caught.value)
    assert str(caught.value).startswith("not a DrQ-v2 actor: ")


@pytest.mark.parametrize(("stride", "kernel"), [((2, 1), (3, 4)), ((1, 3), (2, 3)), ((3, 2), (1, 5))])
def test_images_are_square_where_strides_and_kernels_are_not(stride, kernel, tmp_path):
    agent = DrQV2Agent()
    agent.encoder.convnet[2] = nn.Conv2d(4, 4, kernel, stride)
    with torch.no_grad():
        sizes = [agent.encoder.convnet(torch.zeros(1, 3, size, size)).numel() for size in range(40, 60)]
    wanted = 40
    while sizes[wanted + 1 - 40] == sizes[0]:  # the largest of those that make as many numbers
        wanted += 1
    agent.actor.trunk[0] = nn.Linear(sizes[0], 6)
    actor = load_actor(written(snapshot(agent), tmp_path))
    assert actor.interface.observation_shape == (3, wanted, wanted)
    images = frames(3, size=wanted)
    np.testing.assert_allclose(actor.act(images), agent.action(torch.from_numpy(images)).numpy(), atol=1e-5)


def test_both_parts_of_what_acts_may_be_saved_as_they_are(tmp_path):
    agent = DrQV2Agent()
    parts = {"encoder": agent.encoder.state_dict(), "actor": agent.actor.state_dict()}
    torch.save(parts, tmp_path / "parts.pt")
    found = load_actor(tmp_path / "parts.pt")
    assert found.fingerprint() == actor_from_state_dict(parts).fingerprint()
    assert found.metadata["algorithm"] == "DrQ-v2"


class Another(DrQV2Agent):
    """Somebody's own."""


def test_an_agent_of_another_class_is_told_what_to_save(tmp_path):
    message = refusal(written(snapshot(Another()), tmp_path))
    assert f"holds an object, '{__name__}.Another', which is refused: of DrQ-v2, DrQV2Agent alone is read" in message
    assert "torch.save({'encoder': agent.encoder.state_dict(), 'actor': agent.actor.state_dict()}, path)" in message


def test_another_activation_is_refused():
    with pytest.raises(CheckpointError, match="DrQ-v2's actors are of ReLUs, but elu was stated"):
        actor_from_state_dict(DrQV2Agent().tensors(), metadata={"activation": "elu"})


def test_modules_that_are_no_actor_are_named_at_once():
    chain = [nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, padding="same"), nn.ReLU(), nn.Sigmoid(), nn.ReLU()]
    with pytest.raises(InputError) as caught:
        assemble([(str(number), module) for number, module in enumerate(chain)], (3, 8, 8))
    shown = [f"{number} is {module}" for number, module in enumerate(chain)]
    shown[1] += ", whose padding differs from side to side"
    del shown[2]
    problems = "; ".join([*shown, "the last module is no Linear"])
    assert str(caught.value).startswith(f"this network cannot be converted: {problems}; an actor is ")


def test_the_command_line_says_what_was_read(tmp_path, capsys):
    agent = DrQV2Agent()
    with torch.no_grad():
        agent.encoder.convnet[0].bias[1] = -100  # a channel that is never active
    path = written(snapshot(agent), tmp_path)
    np.save(tmp_path / "seen.npy", frames(8))
    spiking, seen = tmp_path / "snn.safetensors", tmp_path / "seen.npy"
    code, out, errors = run(capsys, "convert", path, spiking, "--observations", seen, "--neuron", "if", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["silent_neurons"][0] == 9 * 9
    assert found["objects"].endswith(".DrQV2Agent")
    assert "an object, support.drqv2.DrQV2Agent, of which nothing was run" in errors
    assert snnkern.load(spiking).metadata["algorithm"] == "DrQ-v2"
