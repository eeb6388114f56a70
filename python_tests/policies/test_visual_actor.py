"""Actors that see: what they compute, what they refuse, how they are saved."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from support.builders import assert_same_tensors, make_actor
from support.cases import each
from support.visual import DRQV2, DRQV2_ORIGINAL, FORMS, Form, frames, visual_actor
from torch import nn

import snnkern
from snnkern import Actor, CheckpointError, InputError, Interface
from snnkern.kernels.layers import Convolution
from snnkern.policies.actor import Conv

SMALL = FORMS["two-convolutions"]


def as_module(actor: Actor) -> nn.Sequential:
    """The layers of an actor as a module of torch's own, without its interface."""
    modules: list[nn.Module] = []
    for layer, convolution in zip(actor.hidden, actor.convolutions, strict=True):
        modules += [*([nn.Flatten()] if convolution is None else []), layer, nn.ReLU()]
    return nn.Sequential(*modules, nn.Flatten(), actor.output)


# Convolution


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [((9, 84, 84), (3, 3), (2, 2), (0, 0)), ((1, 7, 9), (2, 3), (3, 1), (1, 2)), ((2, 4, 4), (4, 4), (1, 1), (0, 0))],
)
def test_the_output_shape_is_that_of_torch(shape, kernel, stride, padding):
    found = Convolution(shape, 5, kernel, stride, padding)
    made = nn.Conv2d(shape[0], 5, kernel, stride, padding)
    assert found.output_shape == tuple(made(torch.zeros(1, *shape)).shape[1:])
    assert found.weight_shape == tuple(made.weight.shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3, 4, 4), 5, (5, 5)), r"kernel of \[5, 5\] is larger than its image of \[3, 4, 4\]"),
        (((3, 4, 4), 5, (3, 3), (0, 1)), "stride must be 2 whole numbers from 1 to"),
        (((3, 4, 4), 5, (3, 3), (1, 1), (3, 0)), r"padding must be smaller than its kernel \[3, 3\], got \[3, 0\]"),
        (((3, 4), 5, (3, 3)), "input_shape must be 3 whole numbers"),
        (((3, 4, 4), 0, (3, 3)), "channels must be 1 whole numbers"),
        (((3, 4, 4.5), 5, (3, 3)), "input_shape must be 3 whole numbers"),
        (((1, 2**15, 2**15), 1, (1, 1)), "more than 67,108,864 are refused"),
        (((1, 2**13, 2**13), 2, (1, 1)), "more than 67,108,864 are refused"),
    ],
)
def test_impossible_convolutions_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Convolution(*arguments)


# What a dense actor computes


@each("form", {name: form for name, form in FORMS.items() if form.bridge is None})
def test_an_actor_computes_what_its_layers_do(form):
    actor = visual_actor(form, torch.float64)
    images = frames(5, form.image)
    wanted = 2.0 * torch.tanh(as_module(actor)(torch.from_numpy(images).double() / 255 - 0.5)) + 0.25
    torch.testing.assert_close(actor(torch.from_numpy(images)), wanted)
    np.testing.assert_allclose(actor.act(images), wanted.numpy())
    np.testing.assert_allclose(actor.act(images[0]), wanted[0].numpy())


@pytest.mark.parametrize("form", ["trunk", "bridge-at-the-output", "bridge-in-front"])
def test_a_bridge_works_on_what_comes_in_flat(form):
    actor = visual_actor(FORMS[form], torch.float64)
    signal = torch.from_numpy(frames(4, FORMS[form].image)).double() / 255 - 0.5
    for index, layer in enumerate([*actor.hidden, actor.output]):
        if index == FORMS[form].bridge:
            linear, norm, _ = actor.bridges[str(index)]
            signal = signal.flatten(1) @ linear.weight.T + linear.bias
            centred = signal - signal.mean(dim=1, keepdim=True)
            scaled = centred / (centred.square().mean(dim=1, keepdim=True) + norm.eps).sqrt()
            signal = torch.tanh(scaled * norm.weight + norm.bias)
        signal = layer(signal if isinstance(layer, nn.Conv2d) else signal.flatten(1))
        signal = torch.relu(signal) if index < len(actor.hidden) else signal
    wanted = 2.0 * torch.tanh(signal) + 0.25
    torch.testing.assert_close(actor(torch.from_numpy(frames(4, FORMS[form].image))), wanted)


def test_hidden_activations_keep_the_form_of_images():
    actor = visual_actor(FORMS["odd-sizes"])
    found = actor.hidden_activations(torch.from_numpy(frames(4, (2, 11, 7))))
    assert [tuple(activation.shape) for activation in found] == [(4, 3, 6, 6), (4, 5, 5, 8), (4, 6), (4, 5)]
    assert all(bool((activation >= 0).all()) for activation in found)


@each("form", {"published": DRQV2, "original": DRQV2_ORIGINAL})
def test_the_networks_of_drq_v2_are_actors(form):
    actor = visual_actor(form)
    assert [one and one.output_shape for one in actor.convolutions[:4]] == [
        (32, 41, 41),
        (32, 39, 39),
        (32, 37, 37),
        (32, 35, 35),
    ]
    action = actor.act(frames(1, form.image)[0])
    assert action.shape == (2,)
    assert np.isfinite(action).all()


def test_an_interface_scales_in_its_own_dtype_and_leaves_vectors_alone():
    vector = Interface(3, 1)
    observation = torch.tensor([[0.1, -0.2, math.pi]])
    assert vector.normalize(observation) is observation
    assert (vector.observation_shape, vector.observation_dtype) == ((3,), torch.float32)
    image = Interface((1, 1, 3), 1, observation_dtype=torch.uint8, observation_scale=255, observation_offset=-0.5)
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = image.to(dtype).normalize(pixels)
        assert found.dtype == dtype
        wanted = torch.tensor([0.0, 51, 255], dtype=dtype) / torch.tensor(255, dtype=dtype) - 0.5
        assert torch.equal(found[0, 0, 0], wanted)
    assert (image.observation_dim, image.observation_dtype) == (3, torch.uint8)


def test_rebuilt_with_other_numbers_an_actor_keeps_its_form():
    actor = visual_actor(FORMS["trunk"])
    pairs = [(layer.weight * 2, layer.bias + 1) for layer in (*actor.hidden, actor.output)]
    other = actor.replaced(pairs=pairs, metadata={"a": "b"})
    assert other.convolutions == actor.convolutions
    assert_same_tensors(other.bridges.state_dict(), actor.bridges.state_dict())
    assert torch.equal(other.hidden[0].weight, actor.hidden[0].weight * 2)
    assert torch.equal(other.output.bias, actor.output.bias + 1)
    assert other.metadata == {"a": "b"}
    assert actor.replaced().fingerprint() == actor.fingerprint()


# Files


@each("form", FORMS)
def test_a_file_gives_the_same_actor_back(form, tmp_path):
    actor = visual_actor(form, observation_scale=51.0)
    snnkern.save(actor, tmp_path / "a.safetensors")
    again = snnkern.load_actor(tmp_path / "a.safetensors")
    assert_same_tensors(again.state_dict(), actor.state_dict())
    assert again.fingerprint() == actor.fingerprint()
    assert again.interface.description() == actor.interface.description()
    assert again.convolutions == actor.convolutions
    images = frames(3, form.image)
    np.testing.assert_array_equal(again.act(images), actor.act(images))


def test_a_stride_a_padding_or_a_scale_is_part_of_what_an_actor_is():
    def actor(stride=1, padding=0, **interface):
        form = Form((2, 6, 6), [(3, 6, stride, padding)], ())
        return visual_actor(form, **interface)

    actors = [actor(), actor(stride=2), actor(observation_scale=1), actor(observation_offset=0)]
    assert len({one.fingerprint() for one in actors}) == 4
    assert actor().fingerprint() == actor().fingerprint()


def test_vectors_are_described_as_before(tmp_path):
    actor = make_actor(4, 5, 2, observation_mean=0.5, observation_std=2.0)
    snnkern.save(actor, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["snnkern"]) == {
        "format": "actor",
        "version": 1,
        "hidden_layers": 1,
        "metadata": {},
        "observation_dim": 4,
        "action_dim": 2,
        "squash": True,
        "normalized": True,
        "observation_clip": None,
    }


def _rewritten(path, change) -> None:
    """The same file with another description."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    description = json.loads(header["__metadata__"]["snnkern"])
    change(description)
    header["__metadata__"]["snnkern"] = json.dumps(description)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda d: d.update(observation_shape=[3, 12, 13]), "has not 432 numbers", id="other-shape"),
        pytest.param(
            lambda d: d.update(observation_shape=[3, 2**20, 2**20], observation_dim=3 * 2**40),
            "its description has not the form",
            id="huge-dim",
        ),
        pytest.param(
            lambda d: d.update(observation_shape=[1, 2**15, 2**15], observation_dim=2**30),
            "more than 67,108,864 are refused",
            id="huge-image",
        ),
        pytest.param(
            lambda d: d["convolutions"]["0"].update(padding=[2**20, 2**20]), "padding must be smaller", id="padding"
        ),
        pytest.param(lambda d: d["convolutions"]["0"].update(stride=[2**20, 1]), "larger than its image", id="stride"),
        pytest.param(lambda d: d["convolutions"].update({"7": d["convolutions"]["0"]}), "no layer 7", id="no-layer"),
        pytest.param(
            lambda d: d["convolutions"].update({"4": d["convolutions"]["0"]}), "output layer cannot be", id="output"
        ),
        pytest.param(lambda d: d["convolutions"].pop("0"), "weight must be", id="none"),
        pytest.param(lambda d: d.update(convolutions={}), "weight must be", id="no-convolutions"),
        pytest.param(lambda d: d["bridges"].update({"5": [{"kind": "tanh"}]}), "no layer 5", id="bridge-nowhere"),
        pytest.param(lambda d: d["bridges"].pop("2"), "unexpected bridges.2.0", id="no-bridge"),
        pytest.param(lambda d: d["bridges"]["2"].reverse(), "missing bridges.2.2", id="reversed"),
        pytest.param(
            lambda d: d["bridges"]["2"][1].update(eps=-1.0), "eps must be a number from 0 to 1, got -1.0", id="eps"
        ),
        pytest.param(lambda d: d["bridges"]["2"][1].update(kind="linear"), r"weight must be \[out, in\]", id="kind"),
        pytest.param(lambda d: d.update(observation_scale=0), "observation_scale must be positive", id="scale"),
        pytest.param(lambda d: d.update(observation_dtype="int8"), "has not the form", id="dtype"),
        pytest.param(lambda d: d.update(observation_shape=None), "receives is no image", id="no-shape"),
    ],
)
def test_a_description_that_does_not_fit_is_one_clear_error(change, message, tmp_path):
    actor = visual_actor(FORMS["trunk"])
    assert len(actor.hidden) == 4
    path = tmp_path / "a.safetensors"
    snnkern.save(actor, path)
    _rewritten(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        snnkern.load_actor(path)
    assert len(str(caught.value).splitlines()) == 1


# What is refused


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param(np.zeros((12, 12, 3), np.uint8), r"got shape \[12, 12, 3\]: channels come first", id="HWC"),
        pytest.param(np.zeros((4, 12, 12, 3), np.uint8), "channels come first", id="BHWC"),
        pytest.param(np.zeros((3, 12, 12), np.float32), r"uint8 array, got float32.*/ 255 -0.5 itself", id="float"),
        pytest.param(np.zeros((3, 12, 12), np.int64), "must be a uint8 array, got int64", id="int64"),
        pytest.param(np.zeros((9, 12, 12), np.uint8), "9 channels where 3 are wanted.*frames", id="frames"),
        pytest.param(np.zeros((3, 12, 13), np.uint8), r"must be \[3, 12, 12\] or \[B, 3, 12, 12\]", id="size"),
        pytest.param(np.zeros(432, np.uint8), r"got shape \[432\]", id="flat"),
        pytest.param(np.zeros((2, 2, 3, 12, 12), np.uint8), "got shape", id="5-d"),
        pytest.param("image", "uint8 array, got <U5", id="text"),
    ],
)
def test_act_refuses_what_is_no_frame(image, message):
    with pytest.raises(InputError, match=message):
        visual_actor(SMALL).act(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param(torch.zeros(2, 12, 12, 3, dtype=torch.uint8), "channels come first", id="HWC"),
        pytest.param(torch.zeros(3, 12, 12, dtype=torch.uint8), r"3, 12, 12\], got shape \[3, 12, 12\]$", id="no-rows"),
        pytest.param(torch.zeros(1, 3, 12, 12), "must be torch.uint8, got torch.float32", id="float"),
        pytest.param(torch.zeros(1, 6, 12, 12, dtype=torch.uint8), "6 channels where 3 are wanted", id="frames"),
        pytest.param(np.zeros((1, 3, 12, 12), np.uint8), "must be a tensor", id="array"),
        pytest.param(torch.zeros(1, 3, 12, 12, dtype=torch.uint8, device="meta"), "on meta", id="device"),
    ],
)
def test_a_call_refuses_what_are_no_frames(image, message):
    with pytest.raises(InputError, match=message):
        visual_actor(SMALL)(image)


def _weights(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(shape), torch.zeros(shape[0])


IMAGE = Interface((3, 8, 8), 2, observation_dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(([Conv(*_weights(4, 3, 3, 3))], _weights(2, 144)), "needs an interface", id="no-interface"),
        pytest.param(
            ([Conv(*_weights(4, 1, 3, 3))], _weights(2, 144), IMAGE),
            r"layer 1's weight must be \[out, 3, ky, kx\], got shape \[4, 1, 3, 3\]",
            id="channels",
        ),
        pytest.param(
            ([Conv(*_weights(4, 3, 9, 9))], _weights(2, 4), IMAGE), "layer 1: a kernel of", id="kernel-too-large"
        ),
        pytest.param(
            ([Conv(*_weights(4, 3, 3, 3))], _weights(2, 100), IMAGE),
            r"layer 2's weight must be \[out, 144\], got shape \[2, 100\]",
            id="width",
        ),
        pytest.param(
            ([_weights(5, 192), Conv(*_weights(4, 3, 3, 3))], _weights(2, 144), IMAGE),
            "layer 2 is a convolution, but what it receives is no image",
            id="after-linear",
        ),
        pytest.param(
            ([Conv(*_weights(4, 3, 3, 3), stride=(1, 2, 3))], _weights(2, 144), IMAGE), "stride must be 2", id="stride"
        ),
        pytest.param(([_weights(5, 7)], _weights(2, 5), IMAGE), "interface is 192 -> 2.*are 7 -> 2", id="flat-width"),
        pytest.param(
            ([Conv(torch.zeros(4, 3, 3, 3).double(), torch.zeros(4))], _weights(2, 144), IMAGE),
            "bias is torch.float32, but its weight",
            id="bias-dtype",
        ),
        pytest.param(
            ([Conv(*_weights(4, 3, 3, 3))], _weights(2, 144), IMAGE, None, {2: [nn.Tanh()]}), "from 0 to 1", id="place"
        ),
        pytest.param(
            ([Conv(*_weights(4, 3, 3, 3))], _weights(2, 144), IMAGE, None, {1: [nn.ReLU()]}),
            "step 1 of the bridge before layer 2 must be nn.Linear, nn.LayerNorm or nn.Tanh, got ReLU",
            id="step",
        ),
        pytest.param(
            ([Conv(*_weights(4, 3, 3, 3))], _weights(2, 144), IMAGE, None, {1: [nn.LayerNorm(36)]}),
            r"normalises \[36\] numbers, but receives \[144\]",
            id="norm",
        ),
        pytest.param(
            ([Conv(*_weights(4, 3, 3, 3))], _weights(2, 144), IMAGE, None, {1: [nn.Linear(100, 144)]}),
            r"weight must be \[out, 144\]",
            id="bridge-width",
        ),
        pytest.param(
            ([_weights(4, 3)], _weights(2, 4), None, None, {0: [nn.Tanh()]}), "needs an interface", id="bridge-no-size"
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Actor(*arguments)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        pytest.param(((3, 8), 2), {}, r"a vector or an image \[C, H, W\], got a shape of \(3, 8\)", id="two"),
        pytest.param(((3, 0, 8), 2), {}, "shape of an observation must be", id="zero"),
        pytest.param(((3, 8, 8), 2), {"observation_mean": 0.0, "observation_std": 1.0}, "an image is", id="mean"),
        pytest.param(((3, 8, 8), 2), {"observation_scale": 0.0}, "observation_scale must be positive", id="scale-0"),
        pytest.param(
            ((3, 8, 8), 2), {"observation_scale": 1e39}, r"number of torch.float32, got 1e\+39", id="scale-inf"
        ),
        pytest.param(
            ((3, 8, 8), 2), {"observation_scale": 1e-39}, "no less than 1.17549e-38, got 1e-39", id="scale-tiny"
        ),
        pytest.param(((3, 8, 8), 2), {"observation_offset": math.nan}, "observation_offset must be a", id="offset"),
        pytest.param(((3, 8, 8), 2), {"observation_offset": -1e39}, "observation_offset must be a", id="offset-inf"),
        pytest.param(((3, 8, 8), 2), {"observation_dtype": torch.int16}, "or torch.uint8, got torch.int16", id="int16"),
        pytest.param(((1, 2**14, 2**14), 2), {}, "more than 67,108,864 are refused", id="huge"),
    ],
)
def test_an_interface_that_cannot_be_is_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        Interface(*arguments, **options)


@pytest.mark.parametrize("spiking", [False, True])
def test_a_pixel_that_is_no_number_is_refused_by_its_row(spiking):
    actor = visual_actor(SMALL, observation_dtype=None, observation_scale=1.0, observation_offset=0.0)
    policy = snnkern.convert(actor, frames(3, SMALL.image).astype(np.float32)) if spiking else actor
    pixels = frames(4, SMALL.image).astype(np.float32)
    assert np.isfinite(policy.act(pixels)).all()
    pixels[2, 1, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinity in 1 of 4 rows \(first: row 2\)"):
        policy.act(pixels)


def test_copies_decide_alike():
    actor = visual_actor(FORMS["trunk"])
    images = frames(2, FORMS["trunk"].image)
    for other in (copy.deepcopy(actor), pickle.loads(pickle.dumps(actor))):
        np.testing.assert_array_equal(other.act(images), actor.act(images))
