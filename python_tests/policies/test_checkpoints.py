"""Readers of trained actors: what they accept, what they refuse and how they say so; files that are whole or absent."""

import builtins
import copy
import errno
import itertools
import math
import os
import random
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from support.builders import (
    LAYOUTS,
    PUBLISHED,
    assert_same_tensors,
    cleanrl_ppo_state,
    dense_action,
    flax_state,
    make_actor,
    make_layers,
    make_observations,
    rsl_checkpoint,
    sac_state,
    sb3_ppo_state,
    sequential_state,
    td3_state,
    write_legacy_torch,
    write_pickle,
    write_safetensors,
    write_torch,
)
from torch import nn

import snnkern
from snnkern import CheckpointError, InputError, Interface, actor_from_module, actor_from_state_dict, load_actor
from snnkern.policies.loading import load_policy
from snnkern.policies.spiking import dense_actor

DEPTHS = [
    pytest.param((5, 7, 2), id="1-hidden"),
    pytest.param((3, 9, 13, 1), id="2-hidden"),
    pytest.param((17, 6, 3, 11, 4), id="3-hidden"),
    pytest.param((4, 5, 6, 7, 8, 9, 3), id="5-hidden"),
]
WRITERS = {"safetensors": write_safetensors, "torch": write_torch, "torch-legacy": write_legacy_torch}

if PUBLISHED.is_dir():
    published = pytest.mark.parametrize(
        "path", [pytest.param(path, id=path.name) for path in sorted(PUBLISHED.iterdir())]
    )
else:
    absent = pytest.mark.skip(reason=f"the published actors carry no licence and are not in {PUBLISHED}")
    published = pytest.mark.parametrize("path", [pytest.param(PUBLISHED, id="absent", marks=absent)])


def refusal(path: Path, load=load_actor) -> str:
    """The message of the error that reading `path` gives; it must be one short line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 500
    return message


# Layouts


@published
def test_every_published_actor_acts_as_its_tensors_say(path):
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    names = ["fc1", "fc2", "fc_mu"] if path.name.startswith("SAC") else ["l1", "l2", "l3"]
    layers = [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names]
    actor = load_actor(path, action_scale=1.5)
    assert [layer.out_features for layer in actor.hidden] == [256, 256]
    assert actor.output.weight.dtype == torch.float32
    observation = make_observations(64, layers[0][0].shape[1])
    action = actor.double().act(observation)  # its outputs are large: float32 would need a loose bound
    np.testing.assert_allclose(action, dense_action(layers, observation, scale=1.5), atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("widths", DEPTHS)
def test_every_layout_acts_as_a_plain_computation_does(layout, widths):
    layers = make_layers(*widths)
    actor = actor_from_state_dict(LAYOUTS[layout](layers), action_scale=2.0)
    assert [layer.out_features for layer in actor.hidden] == list(widths[1:-1])
    observation = make_observations(33, widths[0])
    np.testing.assert_allclose(actor.act(observation), dense_action(layers, observation, scale=2.0), atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_every_layout_is_read_from_every_kind_of_file(tmp_path, layout, writer):
    state = LAYOUTS[layout](make_layers(5, 7, 9, 2))
    path = tmp_path / "actor"
    WRITERS[writer](state, path)
    assert_same_tensors(load_actor(path).state_dict(), actor_from_state_dict(state).state_dict())


def test_a_state_dict_of_a_module_is_read(tmp_path):
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.l1, self.l2 = nn.Linear(4, 6), nn.Linear(6, 2)

    module = Policy()
    write_torch(module.state_dict(), tmp_path / "actor.pt")
    actor = load_actor(str(tmp_path / "actor.pt"))
    assert torch.equal(actor.output.weight, module.l2.weight)
    assert not any(parameter.requires_grad for parameter in actor.parameters())


def test_metadata_of_a_safetensors_file_is_kept(tmp_path):
    metadata = {"algo": "TD3", "env": "Hopper-v5"}
    (tmp_path / "actor").write_bytes(safetensors_bytes(flax_state(make_layers(3, 4, 2)), metadata))
    assert metadata.items() <= load_actor(tmp_path / "actor").metadata.items()


STATED = {
    "argument": ({}, "relu", "relu"),
    "metadata": ({"activation": "relu"}, None, "relu"),
    "metadata, as a class": ({"activation": "torch.nn.ReLU"}, None, "relu"),
    "both": ({"activation": "ReLU"}, "relu", "relu"),
    "nobody": ({}, None, "relu (assumed)"),
}


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_activation_is_stated_or_noted_as_assumed(layout, stated, tmp_path):
    """Tensors do not say it. What was stated once, or never, goes on into every file that is made of the actor."""
    metadata, given, wanted = STATED[stated]
    path = tmp_path / "actor.safetensors"
    path.write_bytes(safetensors_bytes(LAYOUTS[layout](make_layers(3, 4, 5, 2)), metadata))
    actor = load_actor(path, activation=given)
    assert actor.metadata["activation"] == wanted
    snnkern.save(actor, path)
    assert load_actor(path).metadata["activation"] == wanted
    assert load_actor(path, activation="relu").metadata["activation"] == "relu"
    snn = snnkern.convert(actor, make_observations(9, 3))
    snnkern.save(snn, path)
    assert snnkern.load(path).metadata["activation"] == wanted


def test_what_is_known_to_be_of_relus_says_nothing_of_assumptions(tmp_path):
    cleanrl = sac_state(make_layers(3, 4, 2)) | {"action_scale": torch.ones(1, 2), "action_bias": torch.zeros(1, 2)}
    assert "activation" not in actor_from_state_dict(cleanrl).metadata
    assert "activation" not in load_actor("td3-hopper").metadata
    snnkern.save(make_actor(3, 4, 2), tmp_path / "actor")
    assert "activation" not in load_actor(tmp_path / "actor").metadata


def test_other_activations_are_refused(tmp_path):
    state = td3_state(make_layers(3, 4, 2))
    for given in ("relu6", "", 3, torch.nn.Sigmoid):
        for load in (load_actor, actor_from_state_dict):
            with pytest.raises(InputError, match=r"activation must be one of relu, tanh, .*, gelu, got"):
                load("td3-hopper" if load is load_actor else state, activation=given)
    path = tmp_path / "actor"
    path.write_bytes(safetensors_bytes(state, {"activation": "relu6"}))
    with pytest.raises(CheckpointError, match=r"its metadata: activation must be one of .*, got 'relu6'"):
        load_actor(path)


def test_what_the_metadata_assume_is_assumed_again():
    actor = actor_from_state_dict(td3_state(make_layers(3, 4, 2)), metadata={"activation": "elu (assumed)"})
    assert (actor.activation, actor.metadata["activation"]) == ("elu", "elu (assumed)")


@pytest.mark.parametrize("said", ["elu", "ELU", "nn.ELU", "<class 'torch.nn.modules.activation.ELU'>"])
def test_an_activation_is_stated_by_the_metadata_or_by_the_user(tmp_path, said):
    state, path = td3_state(make_layers(3, 4, 2)), tmp_path / "actor"
    path.write_bytes(safetensors_bytes(state, {"activation": said}))
    for actor in (load_actor(path), load_actor(path, activation="elu"), actor_from_state_dict(state, activation=said)):
        assert actor.activation == actor.metadata["activation"] == "elu"
    with pytest.raises(CheckpointError, match=r"its metadata say that its activation is .*, but relu was stated"):
        load_actor(path, activation="relu")


def test_an_actor_with_another_activation_says_so(tmp_path):
    for said in ("tanh", "tanh (assumed)"):
        actor = make_actor(3, 4, 2, metadata={"activation": said, "algorithm": "PPO"})
        other = actor.replaced(activation="elu")
        assert other.metadata == {"activation": "elu", "algorithm": "PPO"}
        snnkern.save(other, tmp_path / "actor")
        assert load_actor(tmp_path / "actor").fingerprint() == other.fingerprint()
    assert make_actor(3, 4, 2).replaced(activation="elu").metadata == {}


def test_a_file_of_an_actor_says_its_activation(tmp_path):
    path = tmp_path / "actor"
    state = td3_state(make_layers(3, 4, 2))
    snnkern.save(actor_from_state_dict(state, activation="tanh"), path)
    assert load_actor(path).activation == load_actor(path, activation="tanh").activation == "tanh"
    with pytest.raises(CheckpointError, match="its metadata say that its activation is tanh, but relu was stated"):
        load_actor(path, activation="relu")
    snnkern.save(actor_from_state_dict(state), path)  # ReLU was assumed, so another one may be stated
    assert load_actor(path).activation == "relu"
    assert load_actor(path, activation="silu").activation == "silu"
    with pytest.raises(CheckpointError, match="its activation is relu, but elu was stated"):
        load_actor("td3-hopper", activation="elu")


def test_the_actor_of_a_whole_policy_is_found():
    """Stable-Baselines3's policy has its critics and targets beside the actor."""
    layers = make_layers(3, 4, 5, 2)
    actor = {f"actor.mu.{2 * index}.{name.partition('.')[2]}": tensor for index in range(3) for name, tensor in
             td3_state(layers).items() if name.startswith(f"l{index + 1}.")}  # fmt: skip
    others = {name.replace("actor", other): tensor + 1 for name, tensor in actor.items() for other in ("critic", "x")}
    wanted = actor_from_state_dict(td3_state(layers))
    assert actor_from_state_dict(others | actor).fingerprint() == wanted.fingerprint()


def test_a_zip_is_found_without_its_ending(tmp_path):
    torch.save(td3_state(make_layers(3, 4, 2)), tmp_path / "model.zip")
    assert load_actor(tmp_path / "model").fingerprint() == load_actor(tmp_path / "model.zip").fingerprint()


def test_a_safetensors_file_is_known_as_one_whatever_the_length_of_its_header(tmp_path):
    """The file begins with that length, whose first byte may be any multiple of 8: also 0x80, where a pickle begins."""
    state, path, seen = flax_state(make_layers(3, 4, 2)), tmp_path / "actor", set()
    for padding in range(0, 256, 4):
        path.write_bytes(safetensors_bytes(state, {"note": "x" * padding}))
        seen.add(path.read_bytes()[0])
        assert load_actor(path).metadata["note"] == "x" * padding
    assert 0x80 in seen


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_other_precisions_become_float32(dtype):
    state = {name: (8 * tensor).to(dtype) for name, tensor in td3_state(make_layers(3, 4, 2)).items()}
    actor = actor_from_state_dict(state)
    assert actor.output.weight.dtype == torch.float32
    assert torch.equal(actor.output.weight, state["l2.weight"].float())


def test_float64_stays_float64():
    actor = actor_from_state_dict(td3_state(make_layers(3, 4, 2, dtype=torch.float64)))
    assert actor.act(make_observations(2, 3)).dtype == np.float64


def test_layers_of_different_precision_are_refused_or_brought_to_one():
    state = td3_state(make_layers(3, 4, 2))
    state["l1.weight"], state["l1.bias"] = state["l1.weight"].double(), state["l1.bias"].double()
    try:
        actor = actor_from_state_dict(state)
    except InputError as error:
        assert "float64" in str(error)  # noqa: PT017 (either outcome is fine)
    else:
        assert actor.act(make_observations(2, 3)).shape == (2, 2)


@pytest.mark.parametrize("suffix", ["fc_std", "fc_log_std", "fc_logstd"])
def test_names_of_the_unused_head_of_sac(suffix):
    layers = make_layers(3, 4, 2)
    state = {name.replace("fc_std", suffix): tensor for name, tensor in LAYOUTS["sac"](layers).items()}
    assert torch.equal(actor_from_state_dict(state).output.weight, layers[-1][0])


# Actors without tanh, of PPO and A2C


def elu(drive: np.ndarray) -> np.ndarray:
    return np.where(drive > 0, drive, np.expm1(np.minimum(drive, 0)))


UNSQUASHED = {
    "sb3": (sb3_ppo_state, "tanh", True),
    "cleanrl": (cleanrl_ppo_state, "tanh", False),
    **{f"rsl-rl-{release}": (partial(rsl_checkpoint, release=release), "elu", True) for release in (1, 3, 4, 5)},
    "rsl-rl-policy": (lambda layers: rsl_checkpoint(layers)["model_state_dict"], "elu", True),
}


@pytest.mark.parametrize("widths", DEPTHS)
@pytest.mark.parametrize("layout", UNSQUASHED)
def test_actors_of_ppo_act_as_a_plain_computation_does(layout, widths, tmp_path):
    """What is not said of their activation is what their library uses unless told otherwise."""
    make, activation, is_assumed = UNSQUASHED[layout]
    layers, observation = make_layers(*widths), 3 * make_observations(33, widths[0])
    torch.save(make(layers), tmp_path / "actor.pt")
    actor = load_actor(tmp_path / "actor.pt")
    assert actor_from_state_dict(make(layers)).fingerprint() == actor.fingerprint()
    wanted = dense_action(layers, observation, squash=False, activate={"tanh": np.tanh, "elu": elu}[activation])
    np.testing.assert_allclose(actor.act(observation), wanted, atol=1e-5)
    assert actor.metadata.get("activation") == (f"{activation} (assumed)" if is_assumed else None)
    assert not actor.interface.squash

    snnkern.save(actor, tmp_path / "actor")  # the assumption goes on into the file
    again = load_actor(tmp_path / "actor")
    assert (again.fingerprint(), again.metadata) == (actor.fingerprint(), actor.metadata)
    if is_assumed:
        for path in ("actor.pt", "actor"):
            stated = load_actor(tmp_path / path, activation="silu")
            assert stated.activation == stated.metadata["activation"] == "silu"
    scaled = load_actor(tmp_path / "actor.pt", action_scale=0.25, action_bias=1.0)
    ranged = actor_from_state_dict(
        {**make(layers), "action_scale": torch.full((widths[-1],), 0.25), "action_bias": torch.ones(widths[-1])}
    )  # CleanRL's TD3 has these, and so is known to be of ReLUs
    assert ranged.activation == activation
    np.testing.assert_allclose(scaled.act(observation), 0.25 * wanted + 1.0, atol=1e-5)


@pytest.mark.parametrize("release", [1, 3, 4, 5])
def test_the_normalisation_of_rsl_rl_moves_into_the_actor(release, tmp_path):
    layers, observation = make_layers(3, 6, 5, 2), 10 * make_observations(33, 3)
    mean, std = np.array([1.0, -20.0, 0.0], np.float32), np.array([0.1, 10.0, 0.0], np.float32)
    torch.save(rsl_checkpoint(layers, release, (mean, std)), tmp_path / "model_1000.pt")
    wanted = dense_action(layers, (observation - mean) / (std + 1e-2), squash=False, activate=elu)
    np.testing.assert_allclose(load_actor(tmp_path / "model_1000.pt").act(observation), wanted, rtol=1e-4)


def without(part: str, *names: str) -> dict:
    content = rsl_checkpoint(make_layers(3, 4, 2), 4 if part == "actor_state_dict" else 3, (np.zeros(3), np.ones(3)))
    for name in names:
        del content[part][name]
    return content


def beside(part: str, name: str, tensor: torch.Tensor) -> dict:
    content = rsl_checkpoint(make_layers(3, 4, 2), 4 if part == "actor_state_dict" else 1)
    content[part][name] = tensor
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            beside("model_state_dict", "memory_a.rnn.weight_ih_l0", torch.zeros(4, 3)),
            r"cannot be converted: it has a recurrent network \(memory_a\.rnn\.weight_ih_l0\)",
            id="recurrent",
        ),
        pytest.param(
            beside("actor_state_dict", "rnn.rnn.weight_ih_l0", torch.zeros(4, 3)),
            "a recurrent network",
            id="recurrent-4",
        ),
        pytest.param(
            beside("actor_state_dict", "cnns.camera.0.weight", torch.zeros(4, 3)), "unexpected cnns.camera", id="images"
        ),
        pytest.param(without("model_state_dict", "std"), "none of std, log_std, and an output layer", id="noise"),
        pytest.param(
            without("actor_state_dict", "obs_normalizer._mean"), r"missing obs_normalizer\._mean$", id="statistics"
        ),
        pytest.param(
            beside("model_state_dict", "actor_obs_normalizer._std", torch.ones(2))
            | {"obs_norm_state_dict": {"_mean": torch.zeros(1, 2)}},
            r"observation_mean must be a number or \[3\], got shape \[2\]",
            id="width",
        ),
        pytest.param(
            beside("model_state_dict", "actor_obs_normalizer._mean", torch.zeros(3).to_sparse())
            | {"obs_norm_state_dict": {"_std": torch.ones(1, 3)}},
            r"actor_obs_normalizer\._mean must be a dense tensor of real numbers",
            id="sparse",
        ),
        pytest.param(
            {"log_std": torch.zeros(2), **sequential_state("action_net", make_layers(3, 2), "action_net")},
            "it has no hidden layer, only action_net",
            id="linear",
        ),
        pytest.param(
            sb3_ppo_state(make_layers(3, 4, 2)) | {"mlp_extractor.shared_net.0.weight": torch.zeros(3, 3)},
            r"it has layers that actor and critic share \(mlp_extractor\.shared_net",
            id="shared",
        ),
        pytest.param({"model_state_dict": {}, "iter": 3}, "not an actor's tensors", id="empty"),
        pytest.param({"model_state_dict": {"std": 3}, "iter": 3}, "not a state dict of tensors", id="numbers"),
    ],
)
def test_what_of_ppo_cannot_be_converted_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / "actor.pt")
    assert re.search(message, refusal(tmp_path / "actor.pt"))


# Tensors that are not an actor's


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_tensor_is_named(layout):
    state = LAYOUTS[layout](make_layers(5, 7, 9, 2))
    for name in state:
        if "fc_std" in name:
            continue
        rest = {other: tensor for other, tensor in state.items() if other != name}
        with pytest.raises(CheckpointError, match=f"missing {name}"):
            actor_from_state_dict(rest)


def test_a_missing_layer_is_named_with_all_its_tensors():
    state = td3_state(make_layers(5, 7, 7, 2))
    del state["l2.weight"], state["l2.bias"]
    with pytest.raises(CheckpointError, match=r"missing (l2\.bias, l2\.weight|l2\.weight, l2\.bias)$"):
        actor_from_state_dict(state)


def test_a_wide_gap_in_the_numbers_gives_a_short_error():
    state = td3_state(make_layers(5, 7, 2))
    state["l3000.weight"], state["l3000.bias"] = state.pop("l2.weight"), state.pop("l2.bias")
    with pytest.raises(CheckpointError, match="missing l2") as caught:
        actor_from_state_dict(state)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_and_unexpected_tensors_are_named_together(layout):
    state = LAYOUTS[layout](make_layers(5, 7, 9, 2))
    first, *_ = state
    state["norm.scale"] = state.pop(first)
    with pytest.raises(CheckpointError, match=rf"missing {first}; unexpected norm\.scale"):
        actor_from_state_dict(state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_misshapen_tensor_is_named(layout):
    state = LAYOUTS[layout](make_layers(5, 7, 9, 2))
    for name, tensor in state.items():
        layer = name.partition(".")[0]
        if layer in ("fc_std", "Dense_3"):
            continue
        for wrong in (
            torch.zeros([size + 1 for size in tensor.shape]),
            torch.zeros(1, *tensor.shape),
            torch.tensor(1.0),
        ):
            with pytest.raises(CheckpointError, match=f"{layer}'s"):
                actor_from_state_dict(state | {name: wrong})


def test_a_misshapen_flax_kernel_is_reported_as_the_file_has_it():
    state = flax_state(make_layers(5, 7, 2)) | {"Dense_1.kernel": torch.zeros(6, 2)}
    with pytest.raises(CheckpointError, match=r"Dense_1.*\[6, 2\]"):
        actor_from_state_dict(state)


def test_all_misshapen_layers_are_named():
    state = td3_state(make_layers(5, 7, 9, 2)) | {"l1.bias": torch.zeros(6), "l3.bias": torch.zeros(5)}
    with pytest.raises(CheckpointError, match=r"l1's bias must be \[7\], got shape \[6\]; l3's bias must be \[2\]"):
        actor_from_state_dict(state)


def test_all_kernels_scalar_is_refused():
    state = {f"Dense_{number}.{part}": torch.tensor(1.0) for number in range(3) for part in ("kernel", "bias")}
    with pytest.raises(CheckpointError, match="Dense_0's"):
        actor_from_state_dict(state)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["l1.weight", "l1.bias", "l2.weight", "l2.bias"])
def test_a_weight_that_is_not_finite_is_refused(tmp_path, name, value):
    state = td3_state(make_layers(3, 4, 2))
    state[name].view(-1)[-1] = value
    write_torch(state, tmp_path / "actor.pt")
    layer, part = name.split(".")
    assert f"{layer}'s {part} holds NaN or infinity" in refusal(tmp_path / "actor.pt")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tensor: tensor.to(torch.complex64), id="complex"),
        pytest.param(lambda tensor: tensor.to_sparse(), id="sparse"),
        pytest.param(lambda tensor: tensor.to("meta"), id="meta"),
    ],
)
def test_a_tensor_that_holds_no_plain_numbers_is_refused(change):
    state = {name: change(tensor) for name, tensor in td3_state(make_layers(3, 4, 2)).items()}
    with pytest.raises(CheckpointError, match="l1"):
        actor_from_state_dict(state)


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({}, id="empty"),
        pytest.param({"weight": torch.zeros(2, 2)}, id="foreign"),
        pytest.param({f"net.{name}": t for name, t in td3_state(make_layers(3, 4, 2)).items()}, id="prefixed"),
    ],
)
def test_foreign_tensors_are_met_with_the_known_layouts(tmp_path, state):
    write_torch(state, tmp_path / "actor.pt")
    message = refusal(tmp_path / "actor.pt")
    assert all(name in message for name in ("l1", "fc_mu", "Dense_0"))
    assert (next(iter(state)) if state else "none") in message


@pytest.mark.parametrize("layout", ["td3", "flax-td3"])
def test_a_network_without_hidden_layer_is_refused(layout):
    with pytest.raises(CheckpointError, match="no hidden layer"):
        actor_from_state_dict(LAYOUTS[layout](make_layers(3, 2)))


# Files that are not checkpoints


@pytest.mark.parametrize("load", [load_actor, snnkern.load])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_cut_anywhere_is_refused(tmp_path, writer, load):
    path = tmp_path / "actor"
    WRITERS[writer](td3_state(make_layers(3, 4, 2)), path)
    whole = path.read_bytes()
    for end in range(0, len(whole), 5):
        path.write_bytes(whole[:end])
        refusal(path, load)


def test_an_actor_with_one_action_has_a_fingerprint():
    actors = [make_actor(3, 4, 1, action_scale=scale) for scale in (2.0, [2.0], 3.0)]
    first, same, other = [actor.fingerprint() for actor in actors]
    assert first == same != other


def test_an_action_range_that_does_not_fit_is_refused(tmp_path):
    torch.save(sac_state(make_layers(3, 4, 2)) | {"action_scale": torch.ones(3)}, tmp_path / "actor")
    with pytest.raises(CheckpointError, match=r"action_scale must be a number or \[2\], got shape \[3\]"):
        load_actor(tmp_path / "actor")


@pytest.mark.parametrize("outer", [False, True], ids=["layers", "params"])
def test_nested_arrays_are_read_as_flax_keeps_them(outer):
    layers = make_layers(3, 5, 4, 2)
    nested = {}
    for name, tensor in flax_state(layers).items():
        layer, _, part = name.partition(".")
        nested.setdefault(layer, {})[part] = tensor.numpy()
        nested[layer][part].flags.writeable = False  # as JAX's arrays are
    observations = make_observations(20, 3)
    actor = snnkern.actor_from_state_dict({"params": nested} if outer else nested, action_scale=3.0)
    np.testing.assert_allclose(actor.act(observations), dense_action(layers, observations, scale=3.0), atol=1e-6)
    with pytest.raises(CheckpointError, match=r"Dense_0\.kernel must be a tensor or an array, got 'text'"):
        snnkern.actor_from_state_dict({"Dense_0": {"kernel": "text"}})


@pytest.mark.parametrize("writer", WRITERS)
def test_a_damaged_file_is_refused_or_read_but_nothing_else(tmp_path, writer):
    path = tmp_path / "actor"
    WRITERS[writer](td3_state(make_layers(3, 4, 2)), path)
    whole = path.read_bytes()
    generator = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 2, 8])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            actor = load_actor(path)
        except CheckpointError:
            continue
        assert all(bool(torch.isfinite(tensor).all()) for tensor in actor.state_dict().values())


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="any"),
        pytest.param(b"PK\x03\x04", id="zip"),
        pytest.param(b"\x80\x02", id="pickle-2"),
        pytest.param(b"\x80\x04", id="pickle-4"),
        pytest.param(b"\x40\0\0\0\0\0\0\0{", id="safetensors"),
        pytest.param(b"\xff\xff\xff\xff\xff\xff\xff\x7f{", id="safetensors-long"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_random_bytes_are_refused(tmp_path, head, size):
    path = tmp_path / "noise"
    for seed in range(20):
        path.write_bytes(head + random.Random(seed).randbytes(size))
        refusal(path)


@pytest.mark.parametrize("load", [load_actor, snnkern.load])
def test_an_empty_file_is_refused(tmp_path, load):
    (tmp_path / "empty").touch()
    assert "not a checkpoint" in refusal(tmp_path / "empty", load)


@pytest.mark.parametrize("load", [load_actor, snnkern.load])
def test_a_directory_is_refused(tmp_path, load):
    with pytest.raises(InputError, match=r"cannot read .*directory"):
        load(tmp_path)


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no actor '.*/nowhere'"):
        load_actor(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"cannot read .*/nowhere: No such file"):
        snnkern.load(tmp_path / "nowhere")


# The zoo


def test_the_zoo_lists_every_file_that_ships():
    folder = snnkern.zoo.path("any").parent
    assert {f"{name}.safetensors" for name in snnkern.zoo.names()} == {
        file.name for file in folder.glob("*.safetensors")
    }
    for name in snnkern.zoo.names():
        assert load_actor(name).metadata["environment"]


def test_a_changed_file_of_the_zoo_is_refused(tmp_path, monkeypatch):
    content = bytearray(snnkern.zoo.read("td3-hopper"))
    content[-1] ^= 1
    (tmp_path / "td3-hopper.safetensors").write_bytes(content)
    monkeypatch.setattr("snnkern.policies.zoo._FOLDER", tmp_path)
    for load in (load_actor, load_policy):
        with pytest.raises(CheckpointError, match="the zoo's td3-hopper has changed since the package was made"):
            load("td3-hopper")
    assert load_actor(tmp_path / "td3-hopper.safetensors")  # by its path it is a file like any other


# Pickles full of code


class Bomb:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


BOMBS = {
    "os-system": (lambda mark: Bomb(os.system, f"touch '{mark}'"), f"{os.system.__module__}.system"),
    "eval": (lambda mark: Bomb(eval, f"open({str(mark)!r}, 'w').close()"), "(eval)"),
    "exec": (lambda mark: Bomb(exec, f"open({str(mark)!r}, 'w').close()"), "(exec)"),
    "open": (lambda mark: Bomb(builtins.open, str(mark), "w"), "io.open"),
    "torch-save": (lambda mark: Bomb(torch.save, {}, str(mark)), "torch.serialization.save"),
    "mkdir": (lambda mark: Bomb(os.mkdir, str(mark)), f"{os.mkdir.__module__}.mkdir"),
}
PICKLE_WRITERS = {
    "torch": write_torch,
    "torch-legacy": write_legacy_torch,
    **{f"pickle-{protocol}": write_pickle(protocol) for protocol in (2, 3)},
}


@pytest.mark.parametrize("writer", PICKLE_WRITERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_code_in_a_file_is_refused_by_name_and_does_not_run(tmp_path, bomb, writer):
    make, name = BOMBS[bomb]
    mark, path = tmp_path / "mark", tmp_path / "actor"
    PICKLE_WRITERS[writer]({"l1.weight": make(mark)}, path)
    for load in (load_actor, snnkern.load):
        message = refusal(path, load)
        assert not mark.exists()
        assert name in message
        assert "refused" in message


@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_a_pickle_that_torch_never_writes_is_no_checkpoint_and_does_not_run(tmp_path, protocol):
    mark, path = tmp_path / "mark", tmp_path / "actor"
    write_pickle(protocol)({"l1.weight": Bomb(os.mkdir, str(mark))}, path)
    assert "not a checkpoint" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize("writer", ["torch", "torch-legacy"])
def test_a_whole_module_is_refused_with_what_to_save_instead(tmp_path, writer):
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    WRITERS[writer](module, tmp_path / "actor.pt")
    message = refusal(tmp_path / "actor.pt")
    assert "state_dict()" in message
    assert "torch.nn.modules.container.Sequential" in message


@pytest.mark.parametrize("writer", ["torch", "torch-legacy"])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param({"epoch": 3, "note": "x"}, "'epoch': int, 'note': str", id="dict-of-others"),
        pytest.param({"actor": {}, "critic": {}}, "'actor': dict, 'critic': dict", id="nested"),
        pytest.param({1: 2}, "1: int", id="numbered"),
        pytest.param([1, 2], "a list", id="list"),
        pytest.param("text", "a str", id="text"),
        pytest.param(None, "a NoneType", id="none"),
    ],
)
def test_a_file_of_other_things_than_tensors_says_what_it_holds(tmp_path, content, named, writer):
    WRITERS[writer](content, tmp_path / "actor")
    message = refusal(tmp_path / "actor")
    assert "not a state dict of tensors" in message
    assert named in message


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_no_checkpoint(tmp_path, protocol):
    write_pickle(protocol)({"l1.weight": [[1.0]]}, tmp_path / "actor")
    assert "not a checkpoint" in refusal(tmp_path / "actor")


@pytest.mark.parametrize("writer", PICKLE_WRITERS)
def test_numpy_arrays_in_a_pickle_are_refused(tmp_path, writer):
    PICKLE_WRITERS[writer]({"l1.weight": np.zeros((2, 3))}, tmp_path / "actor")
    assert "numpy" in refusal(tmp_path / "actor")


# nn.Sequential


@pytest.mark.parametrize("squash", [False, True], ids=["plain", "tanh"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("widths", DEPTHS)
def test_a_sequential_acts_as_it_did(widths, bias, squash):
    modules = []
    for inputs, outputs in itertools.pairwise(widths):
        modules += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    module = nn.Sequential(*modules[:-1], *[nn.Tanh()] * squash)
    observation = make_observations(33, widths[0])
    with torch.no_grad():
        expected = 2.0 * module(torch.from_numpy(observation)).numpy() + 0.5
    actor = actor_from_module(module, action_scale=2.0, action_bias=0.5, metadata={"algorithm": "mine"})
    np.testing.assert_allclose(actor.act(observation), expected, atol=1e-5)
    assert actor.interface.squash is squash
    assert actor.metadata == {"algorithm": "mine"}


def test_a_sequential_may_use_one_relu_several_times():
    relu = nn.ReLU()
    module = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 5), relu, nn.Linear(5, 2))
    observation = make_observations(5, 3)
    with torch.no_grad():
        expected = module(torch.from_numpy(observation)).numpy()
    np.testing.assert_allclose(actor_from_module(module).act(observation), expected, atol=1e-6)


def test_what_a_sequential_has_between_relus_is_a_bridge():
    hidden = nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 6), nn.ReLU()
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), *hidden, nn.Linear(6, 2), nn.Tanh())
    observation = make_observations(5, 3)
    actor = actor_from_module(module)
    with torch.no_grad():
        np.testing.assert_allclose(actor.act(observation), module(torch.from_numpy(observation)).numpy(), atol=1e-6)
    assert {place: len(chain) for place, chain in actor.bridges.items()} == {"0": 2, "1": 3}


def test_an_actor_does_not_share_memory_with_its_sequential():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    actor = actor_from_module(module)
    before = actor.fingerprint()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert actor.fingerprint() == before
    assert actor.output.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        pytest.param([], "at least one ReLU", id="empty"),
        pytest.param([nn.Tanh()], "at least one ReLU", id="tanh"),
        pytest.param([nn.Linear(3, 2)], "at least one ReLU", id="one-linear"),
        pytest.param([nn.Linear(3, 2), nn.Tanh()], "at least one ReLU", id="no-relu"),
        pytest.param([nn.Linear(3, 2), nn.ReLU()], "the last module is no Linear", id="ends-with-relu"),
        pytest.param([nn.ReLU(), nn.Linear(3, 2)], "module 0 .*ReLU", id="relu-first"),
        pytest.param([nn.Linear(3, 2), nn.Linear(2, 2)], "at least one ReLU", id="no-relu-between"),
        pytest.param([nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 2)], "module 1 .*Sigmoid", id="sigmoid"),
        pytest.param(
            [nn.Linear(3, 2), nn.ELU(alpha=2.0), nn.Linear(2, 2)], r"module 1 .*ELU\(alpha=2.0\)", id="other-alpha"
        ),
        pytest.param(
            [nn.Linear(3, 2), nn.ELU(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)],
            r"module 2 .*Linear\(.*, which may .* ReLUs alone, but here is ELU; module 3 .*Tanh\(\), which may",
            id="two-activations",
        ),
        pytest.param(
            [nn.Linear(3, 2), nn.ELU(), nn.LayerNorm(2), nn.Linear(2, 2)], "module 2 .*LayerNorm.* ELU", id="elu-norm"
        ),
        pytest.param(
            [nn.Linear(3, 2), nn.ELU(torch.ones(2)), nn.Linear(2, 2)], r"module 1 .*ELU\(alpha=tensor", id="alphas"
        ),
        pytest.param(
            [nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.ELU(), nn.Linear(2, 2)], "module 3 .*ELU", id="mixed"
        ),
        pytest.param([nn.Linear(3, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 2)], "module 2 .*ReLU", id="norm"),
        pytest.param([nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Linear(2, 2)], "module 0 .*Conv2d", id="convolution"),
        pytest.param(
            [nn.Linear(3, 2), nn.ReLU(), nn.Linear(3, 2)], r"layer 2's weight must be \[out, 2\]", id="misfit"
        ),
    ],
)
def test_a_sequential_of_another_pattern_is_refused(modules, message):
    with pytest.raises(InputError, match=message):
        actor_from_module(nn.Sequential(*modules))


# Interface


@pytest.mark.parametrize(
    "vector", [[0.5, 2.0, 3.0], (0.5, 2.0, 3.0), np.array([0.5, 2.0, 3.0])], ids=["list", "tuple", "array"]
)
def test_action_scale_and_bias_may_be_one_per_action(tmp_path, vector):
    layers = make_layers(4, 6, 3)
    write_torch(td3_state(layers), tmp_path / "actor.pt")
    actor = load_actor(tmp_path / "actor.pt", action_scale=vector, action_bias=vector)
    observation = make_observations(9, 4)
    expected = dense_action(layers, observation, scale=[0.5, 2.0, 3.0], bias=[0.5, 2.0, 3.0])
    np.testing.assert_allclose(actor.act(observation), expected, atol=1e-5)


BAD_VECTORS = [
    pytest.param([1.0, 2.0], id="too-short"),
    pytest.param([1.0] * 4, id="too-long"),
    pytest.param([], id="empty"),
    pytest.param([[1.0], [1.0], [1.0]], id="matrix"),
    pytest.param([1.0, [2.0], 3.0], id="ragged"),
    pytest.param(math.nan, id="nan"),
    pytest.param([1.0, 2.0, math.inf], id="inf"),
    pytest.param(1e300, id="beyond-float32"),
    pytest.param("big", id="text"),
    pytest.param(1j, id="complex"),
    pytest.param(np.array([1j, 1.0, 1.0]), id="complex-array"),
]


@pytest.mark.parametrize("name", ["action_scale", "action_bias"])
@pytest.mark.parametrize("value", BAD_VECTORS)
def test_a_bad_action_scale_or_bias_is_named(tmp_path, name, value):
    with pytest.raises(InputError, match=name):
        Interface(4, 3, **{name: value})
    path = tmp_path / "actor.pt"
    write_torch(td3_state(make_layers(4, 6, 3)), path)
    with pytest.raises(InputError, match=name):
        load_actor(path, **{name: value})


@pytest.mark.parametrize("clip", [math.inf, 5.0, 0.25])
def test_observations_are_normalised_and_clipped(clip):
    layers = make_layers(3, 8, 2)
    mean, std = np.array([1.0, -20.0, 0.0]), np.array([0.1, 10.0, 3.0])
    actor = make_actor(3, 8, 2, observation_mean=mean, observation_std=std, observation_clip=clip)
    observation = make_observations(50, 3) * 2
    expected = dense_action(layers, np.clip((observation - mean) / std, -clip, clip))
    np.testing.assert_allclose(actor.act(observation), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"observation_mean": 0.0}, "go together", id="mean-alone"),
        pytest.param({"observation_std": 1.0}, "go together", id="std-alone"),
        pytest.param({"observation_mean": [0.0] * 2, "observation_std": 1.0}, r"observation_mean .*\[3\]", id="width"),
        pytest.param(
            {"observation_mean": 0.0, "observation_std": [1.0] * 4}, r"observation_std .*\[3\]", id="std-width"
        ),
        pytest.param({"observation_mean": 0.0, "observation_std": [1.0, 0.0, 1.0]}, "must be positive", id="std-zero"),
        pytest.param({"observation_mean": 0.0, "observation_std": -1.0}, "must be positive", id="std-negative"),
        pytest.param({"observation_mean": 0.0, "observation_std": 1e-60}, "must be positive", id="std-underflow"),
        pytest.param(
            {"observation_mean": math.nan, "observation_std": 1.0}, "observation_mean holds NaN", id="mean-nan"
        ),
        pytest.param({"observation_mean": 0.0, "observation_std": math.nan}, "observation_std holds NaN", id="std-nan"),
        pytest.param({"observation_clip": 0.0}, "observation_clip must be positive", id="clip-zero"),
        pytest.param({"observation_clip": -1.0}, "observation_clip must be positive", id="clip-negative"),
        pytest.param({"observation_clip": math.nan}, "observation_clip must be positive", id="clip-nan"),
    ],
)
def test_a_bad_normalisation_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Interface(3, 2, **arguments)


def test_an_interface_of_other_widths_than_the_layers_is_refused():
    layers = make_layers(3, 4, 2)
    with pytest.raises(InputError, match=r"interface is 5 -> 2, but the layers are 3 -> 2"):
        snnkern.Actor(layers[:-1], layers[-1], Interface(5, 2))


# Our own file


ACTORS = {
    "plain": lambda: make_actor(5, 7, 2),
    "deep": lambda: make_actor(4, 5, 6, 7, 8, 9, 3, seed=3),
    "float64": lambda: make_actor(5, 7, 2, dtype=torch.float64, action_scale=1 / 3),
    "no-tanh": lambda: make_actor(5, 7, 2, squash=False),
    "vectors": lambda: make_actor(5, 7, 2, action_scale=[0.1, 7.0], action_bias=[-1 / 3, 2.0]),
    "normalised": lambda: make_actor(5, 7, 2, observation_mean=[0.1, 2, -3, 4, 5], observation_std=[0.3, 1, 2, 3, 4]),
    "clipped": lambda: make_actor(5, 7, 2, observation_mean=0.1, observation_std=0.7, observation_clip=1 / 3),
    "metadata": lambda: make_actor(5, 7, 2, metadata={"algorithm": "TD3", "environment": "Hopper-v5", "θ": "'\"\\\n"}),
}


@pytest.mark.parametrize("name", ACTORS)
def test_an_actor_comes_back_bit_for_bit(tmp_path, name):
    actor, path = ACTORS[name](), tmp_path / "actor.safetensors"
    snnkern.save(actor, path)
    again = load_actor(path)
    assert_same_tensors(again.state_dict(), actor.state_dict())
    assert again.interface.description() == actor.interface.description()
    assert again.metadata == actor.metadata
    assert again.fingerprint() == actor.fingerprint()
    observation = make_observations(17, actor.interface.observation_dim)
    np.testing.assert_array_equal(again.act(observation), actor.act(observation))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_actor_of_half_precision_comes_back(activation, dtype, tmp_path):
    actor = make_actor(5, 7, 2, dtype=dtype, action_scale=2.0).replaced(activation=activation)
    snn = snnkern.convert(actor, torch.from_numpy(make_observations(20, 5)).to(dtype), neuron="if")
    for policy, load in ((actor, load_actor), (snn, snnkern.load)):
        snnkern.save(policy, tmp_path / "file")
        again = load(tmp_path / "file")
        assert dense_actor(again).fingerprint() == actor.fingerprint()
        np.testing.assert_array_equal(again.act(make_observations(9, 5)), policy.act(make_observations(9, 5)))


def test_what_is_given_at_loading_overrules_the_file(tmp_path):
    actor = make_actor(5, 7, 2, action_scale=3.0, action_bias=1.0, observation_mean=0.5, observation_std=2.0)
    snnkern.save(actor, tmp_path / "actor")
    again = load_actor(tmp_path / "actor", action_scale=[1.0, 2.0])
    assert again.interface.action_scale.tolist() == [1.0, 2.0]
    assert again.interface.action_bias.tolist() == [1.0, 1.0]
    assert again.interface.observation_std.tolist() == [2.0] * 5


def test_fingerprints_of_equal_actors_are_equal():
    assert make_actor(5, 7, 2).fingerprint() == make_actor(5, 7, 2, metadata={"algorithm": "TD3"}).fingerprint()
    actor = make_actor(5, 7, 2, observation_mean=0.1, observation_std=0.7)
    assert copy.deepcopy(actor).fingerprint() == actor.fingerprint()


def test_a_fingerprint_changes_with_every_number():
    actor = make_actor(3, 4, 5, 2, observation_mean=0.1, observation_std=0.7)
    seen = {actor.fingerprint()}
    changes = 0
    for tensor in actor.state_dict().values():
        flat = tensor.view(-1)
        for index in range(len(flat)):
            before = flat[index].item()
            flat[index] = torch.nextafter(flat[index], torch.tensor(math.inf))
            seen.add(actor.fingerprint())
            changes += 1
            flat[index] = before
    assert len(seen) == changes + 1
    assert actor.fingerprint() in seen


@pytest.mark.parametrize("other", ["float64", "no-tanh", "deep", "vectors", "clipped"])
def test_a_fingerprint_changes_with_what_surrounds_the_weights(other):
    assert ACTORS[other]().fingerprint() != ACTORS["plain"]().fingerprint()


def fail_with(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failed_rename_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "actor.safetensors"
    snnkern.save(make_actor(5, 7, 2), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", fail_with(error))
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        snnkern.save(make_actor(5, 7, 2, seed=9), path)
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "actor.safetensors"
    snnkern.save(make_actor(5, 7, 2), path)
    before = path.read_bytes()
    write_bytes = Path.write_bytes

    def write_half(self, content):
        write_bytes(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(InputError, match="No space left"):
        snnkern.save(make_actor(5, 7, 2, seed=9), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_saving_replaces_the_old_file(tmp_path):
    path = tmp_path / "actor.safetensors"
    for seed in (0, 1):
        snnkern.save(make_actor(5, 7, 2, seed=seed), path)
    assert load_actor(path).fingerprint() == make_actor(5, 7, 2, seed=1).fingerprint()
    assert os.listdir(tmp_path) == [path.name]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    actor = make_actor(5, 7, 2)
    with pytest.raises(InputError, match=r"cannot write .*/nowhere/actor: No such file"):
        snnkern.save(actor, tmp_path / "nowhere" / "actor")
    with pytest.raises(InputError, match=r"cannot write .*directory"):
        snnkern.save(actor, tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        snnkern.save(actor, "")
    assert os.listdir(tmp_path) == []
