"""Conversion of actors that see: thresholds per channel, memory that is bounded, plain modules, what is refused."""

import numpy as np
import pytest
import torch
from support.builders import NEURONS, assert_same_tensors
from support.cases import each
from support.visual import FORMS, Form, frames, visual_actor
from torch import nn

import snnkern
from snnkern import InputError
from snnkern.conversion import activations
from snnkern.conversion.rules import recommended
from snnkern.kernels.neurons import parse_neuron

TRUNK = FORMS["trunk"]
SMALL = FORMS["two-convolutions"]


def per_channel(actor: snnkern.Actor, pixels: np.ndarray) -> list[np.ndarray]:
    """The activations of every channel or neuron, `[values, N]`."""
    found = actor.hidden_activations(torch.from_numpy(pixels))
    return [(one if one.dim() == 2 else one.movedim(1, -1).flatten(0, -2)).double().numpy() for one in found]


# Thresholds


@each("form", FORMS)
def test_max_is_the_largest_activation_of_a_channel(form):
    actor, pixels = visual_actor(form), frames(40, form.image)
    for threshold, values in zip(snnkern.calibrate(actor, pixels), per_channel(actor, pixels), strict=True):
        np.testing.assert_allclose(threshold.numpy(), values.max(axis=0), rtol=1e-5)


@pytest.mark.parametrize("percentile", [50.0, 99.0, 100.0])
def test_percentile_is_taken_over_the_positive_activations_of_a_channel(percentile):
    actor, pixels = visual_actor(SMALL), frames(60, SMALL.image)
    thresholds = snnkern.calibrate(actor, pixels, snnkern.Percentile(percentile))
    for threshold, values in zip(thresholds, per_channel(actor, pixels), strict=True):
        for channel, found in zip(values.T, threshold.double().numpy(), strict=True):
            positive = channel[channel > 0]
            wanted = np.percentile(positive, percentile, method="inverted_cdf") if len(positive) else 0.0
            assert abs(found - wanted) <= channel.max() / 2048 * 1.001
            assert found <= channel.max()


@pytest.mark.parametrize("rule", ["max", "percentile:90"])
def test_batches_give_what_one_array_gives(rule):
    actor, pixels = visual_actor(SMALL), frames(50, SMALL.image)
    wanted = snnkern.calibrate(actor, pixels, rule)
    for split in (
        iter([pixels[:1], pixels[1:20], pixels[20:]]),
        [torch.from_numpy(pixels)],
        (pixels[start : start + 7][:, :, ::-1][:, :, ::-1] for start in range(0, 50, 7)),
    ):
        for one, other in zip(snnkern.calibrate(actor, split, rule), wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_no_more_images_pass_at_once_than_memory_is_meant_for(monkeypatch):
    actor, pixels = visual_actor(SMALL), frames(30, SMALL.image)
    wanted = snnkern.calibrate(actor, pixels)
    seen = []
    dense = snnkern.Actor.hidden_activations

    def watched(self, observation):
        seen.append(len(observation))
        return dense(self, observation)

    monkeypatch.setattr(snnkern.Actor, "hidden_activations", watched)
    numbers = 3 * 12 * 12 + 5 * 5 * 5 + 4 * 3 * 3 + 7  # of an image and what it makes
    monkeypatch.setattr(activations, "_NUMBERS", 8 * numbers + 5)
    found = snnkern.calibrate(actor, pixels)
    assert seen == [8, 8, 8, 6]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr(activations, "_NUMBERS", 1)
    snnkern.calibrate(actor, pixels[:2])
    assert seen[4:] == [1, 1]


def test_the_published_network_passes_in_parts():
    from support.visual import DRQV2

    assert activations.chunk_rows(visual_actor(DRQV2)) == 2**22 // (63504 + 53792 + 48672 + 43808 + 39200 + 562)


@pytest.mark.parametrize("neuron", NEURONS)
def test_auto_is_what_is_recommended_for_those_that_see_too(neuron):
    actor, pixels = visual_actor(TRUNK), frames(20, TRUNK.image)
    rule, alpha = recommended(parse_neuron(neuron), actor)
    snn = snnkern.convert(actor, pixels, neuron=neuron)
    assert snn.metadata["calibration"] == f"auto ({rule})"
    assert snn.metadata["environment"] == "dm_control/x"
    assert snn.alpha == alpha == 0.0
    same = snnkern.convert(actor, pixels, neuron=neuron, calibration=rule, alpha=alpha)
    assert_same_tensors(snn.state_dict(), same.state_dict())


@pytest.mark.parametrize("neuron", NEURONS)
def test_with_many_steps_a_converted_actor_acts_as_the_dense_one(neuron):
    actor, pixels = visual_actor(SMALL), frames(30, SMALL.image)
    snn = snnkern.convert(actor, pixels, neuron=neuron, timesteps=256, alpha=0.0, calibration="max")
    assert np.abs(snn.act(pixels) - actor.act(pixels)).max() <= 0.05


# What is refused


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        pytest.param(np.zeros((4, 12, 12, 3), np.uint8), "channels come first", id="HWC"),
        pytest.param(
            np.zeros((4, 3, 12, 12), np.float32), r"must be uint8 \[N, 3, 12, 12\], got torch.float32", id="float"
        ),
        pytest.param(np.zeros((4, 9, 12, 12), np.uint8), "9 channels where 3 are wanted", id="frames"),
        pytest.param(np.zeros((3, 12, 12), np.uint8), r"got torch.uint8 of shape \[3, 12, 12\]", id="one"),
        pytest.param(np.zeros((0, 3, 12, 12), np.uint8), "calibration data is empty", id="none"),
        pytest.param([], "calibration data is empty", id="no-batches"),
    ],
)
def test_observations_that_do_not_fit_are_refused(observations, message):
    with pytest.raises(InputError, match=message):
        snnkern.convert(visual_actor(SMALL), observations)


# Plain modules


def plain(**options) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, **options),
        nn.ReLU(),
        nn.Conv2d(5, 4, (3, 2), padding="valid", bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 3 * 4, 6),
        nn.ReLU(),
        nn.Linear(6, 2),
        nn.Tanh(),
    )


def test_a_plain_module_is_an_actor():
    module, pixels = plain(), frames(6, (3, 12, 12))
    actor = snnkern.actor_from_module(
        module,
        observation_shape=(3, 12, 12),
        observation_dtype=torch.uint8,
        observation_scale=255,
        observation_offset=-0.5,
        action_scale=3.0,
    )
    with torch.no_grad():
        wanted = 3.0 * module(torch.from_numpy(pixels) / 255 - 0.5).numpy()
    np.testing.assert_allclose(actor.act(pixels), wanted, atol=1e-5)
    assert [one and (one.stride, one.padding) for one in actor.convolutions] == [
        ((2, 2), (0, 0)),
        ((1, 1), (0, 0)),
        None,
    ]


@pytest.mark.parametrize("kernel", [3, (5, 1)])
def test_the_same_size_is_a_padding(kernel):
    module = nn.Sequential(nn.Conv2d(2, 3, kernel, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 1))
    observation = np.random.default_rng(0).normal(size=(4, 2, 6, 6)).astype(np.float32)
    actor = snnkern.actor_from_module(module, observation_shape=(2, 6, 6))
    with torch.no_grad():
        np.testing.assert_allclose(actor.act(observation), module(torch.from_numpy(observation)).numpy(), atol=1e-5)


def test_convert_takes_a_module_and_what_it_sees_from_the_observations():
    module = plain()
    floats = np.random.default_rng(0).normal(size=(20, 3, 12, 12)).astype(np.float32)
    for observations in (floats, torch.from_numpy(floats), frames(20, (3, 12, 12))):
        snn = snnkern.convert(module, observations, neuron="mt", timesteps=64, alpha=0.0)
        given = torch.as_tensor(observations)
        assert snn.interface.observation_dtype == given.dtype
        with torch.no_grad():
            wanted = module(given.float())
        assert (snn(given) - wanted).abs().max() <= 0.1
    with pytest.raises(InputError, match="does not say how large an image is: give observations as one array"):
        snnkern.convert(module, [floats])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        pytest.param(plain(groups=1), r"module 0 .*Conv2d.*needs observation_shape", id="no-shape"),
    ],
)
def test_a_module_needs_to_know_what_it_sees(module, message):
    with pytest.raises(InputError, match=message):
        snnkern.actor_from_module(module)


def test_all_that_cannot_be_converted_is_named_at_once():
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2),
        nn.ELU(),
        nn.Conv2d(8, 8, 2, dilation=2, padding="same", padding_mode="circular"),
        nn.ReLU(),
        nn.Linear(8, 2),
        nn.ReLU(),
        nn.Conv2d(2, 2, 1),
        nn.ReLU(),
        nn.Linear(2, 2),
    )
    with pytest.raises(InputError) as caught:
        snnkern.actor_from_module(module, observation_shape=(4, 12, 12))
    message = str(caught.value)
    for part in (
        "module 0",
        "groups are 2",
        "module 1 of the Sequential is ELU",
        "dilation is (2, 2) and padding_mode is 'circular' and padding differs",
        "module 4 of the Sequential is Linear",
        "where a Flatten was wanted",
        "module 6",
        "where a vector comes in",
        "an actor is Conv2d, ReLU, …, Flatten, Linear, ReLU, …, Linear and an optional Tanh",
    ):
        assert part in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            [nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 8)],
            "module 2 .*without a ReLU.*the last module is no Linear",
        ),
        ([nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(7, 2)], r"weight must be \[out, 128\]"),
        ([nn.Conv2d(3, 2, 9), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)], "larger than its image"),
        ([nn.Conv2d(3, 2, 1), nn.ReLU(), nn.LayerNorm(8), nn.Flatten(), nn.Linear(128, 2)], "module 2 .*a Flatten was"),
        ([nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(128, 2)], "module 2 .*Flatten.*where only Flatten"),
        ([nn.Conv2d(3, 2, 1), nn.ReLU()], "the last module is no Linear"),
    ],
)
def test_chains_of_another_pattern_are_refused(modules, message):
    with pytest.raises(InputError, match=message):
        snnkern.actor_from_module(nn.Sequential(*modules), observation_shape=(3, 8, 8))


def test_a_flat_image_may_come_first():
    module = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 5), nn.ReLU(), nn.Linear(5, 1))
    actor = snnkern.actor_from_module(module, observation_shape=(2, 4, 4), observation_dtype=torch.uint8)
    pixels = frames(3, (2, 4, 4))
    with torch.no_grad():
        np.testing.assert_allclose(actor.act(pixels), module(torch.from_numpy(pixels).float()).numpy(), rtol=1e-5)


def test_a_convolution_may_stand_before_the_output():
    form = Form((2, 5, 5), [(3, 3, 1, 0)], ())
    actor, pixels = visual_actor(form), frames(9, form.image)
    snn = snnkern.convert(actor, pixels, neuron="dc", timesteps=64)
    assert np.abs(snn.act(pixels) - actor.act(pixels)).max() <= 0.05
