"""Thresholds and corrections fitted to actors with convolutions or bridges."""

import numpy as np
import pytest
import torch
from support.builders import NEURONS, assert_same_tensors, make_actor, make_observations
from support.cases import each
from support.visual import FORMS, frames, reference_layers, visual_actor
from torch import Tensor, nn

import snnkern
from snnkern import Actor, Interface, SpikingActor
from snnkern.conversion import fitting, states
from snnkern.conversion.fitting import CANDIDATES, fit
from snnkern.conversion.rules import Fitted
from snnkern.conversion.states import Walk, sample
from snnkern.kernels import reference
from snnkern.kernels.layers import Convolution
from snnkern.kernels.neurons import Dynamics, parse_neuron
from snnkern.policies.actor import Conv
from snnkern.policies.spiking import dense_actor

SMALL = FORMS["two-convolutions"]


@pytest.fixture
def every_observation(monkeypatch):
    """All observations count in every layer, so that sums over them can be compared."""
    monkeypatch.setattr(states, "_APART", 1)
    monkeypatch.setattr(fitting, "_APART", 1)


def arriving(actor: Actor, signals: list[Tensor], index: int) -> Tensor:
    """What a layer receives, a row for every state: of a convolution, what its kernel covers."""
    signal = signals[index]
    if str(index) in actor.bridges:
        signal = actor.bridges[str(index)](signal.flatten(1))
    geometry = actor.convolutions[index] if index < len(actor.hidden) else None
    if geometry is None:
        return signal.flatten(1)
    return rows(nn.functional.unfold(signal, geometry.kernel, 1, geometry.padding, geometry.stride))


def rows(columns: Tensor) -> Tensor:
    return columns.flatten(2).mT.flatten(0, 1)


def drives(layer: nn.Module, geometry: Convolution | None, signal: Tensor) -> Tensor:
    """What a dense layer makes of what it receives, a row for every state."""
    return rows(layer(signal)) if geometry else layer(signal.flatten(1))


def decide(actor: Actor, thresholds: list[Tensor], pixels: np.ndarray, dynamics: Dynamics) -> list[Tensor]:
    """The observation and the mean output of every hidden layer, by the reference."""
    signal = actor.interface.normalize(torch.from_numpy(pixels))
    carries = [torch.zeros(()).expand(len(pixels), *shape) for shape in shapes(actor)]
    carries = [carry.to(signal) for carry in carries]
    layers = reference_layers(actor, thresholds)
    decision = reference.actor(signal, layers["hidden"], layers["output"], carries, dynamics, None, layers["bridge"])
    return [signal, *(layer.mean for layer in decision.layers)]


def shapes(actor: Actor) -> list[tuple[int, ...]]:
    pairs = zip(actor.hidden, actor.convolutions, strict=True)
    return [geometry.output_shape if geometry else tuple(layer.bias.shape) for layer, geometry in pairs]


# Against plain actors, and against what is to be minimised


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rule", ["mse", "gaussian"])
@pytest.mark.parametrize("correction", ["none", "bias", "linear"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_convolutions_of_one_pixel_are_fitted_as_linear_layers(neuron, correction, rule, weighted, every_observation):
    plain = make_actor(4, 9, 7, 5, 2).double()
    pairs = [(layer.weight, layer.bias) for layer in plain.hidden]
    hidden = [Conv(weight[:, :, None, None], bias) for weight, bias in pairs[:2]] + pairs[2:]
    output = plain.output.weight, plain.output.bias
    image = Actor(hidden, output, Interface((4, 1, 1), 2, dtype=torch.float64))
    observations = make_observations(40, 4).astype(np.float64)
    how = Fitted(rule, weighted, correction)
    wanted = fit(plain, observations, how, neuron=neuron, timesteps=3)
    found = fit(image, observations[:, :, None, None], how, neuron=neuron, timesteps=3)
    np.testing.assert_allclose(found.error, wanted.error, rtol=1e-6)
    for one, other in zip(found.thresholds, wanted.thresholds, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(found.actor.parameters(), wanted.actor.parameters(), strict=True):
        torch.testing.assert_close(one.reshape(other.shape), other)


@pytest.mark.parametrize("timesteps", [1, 3])
@pytest.mark.parametrize("neuron", NEURONS)
def test_mse_is_the_best_candidate_of_a_loop_over_channels(neuron, timesteps, every_observation):
    actor, pixels = visual_actor(SMALL, torch.float64), frames(20, SMALL.image)
    threshold = fit(actor, pixels, neuron=neuron, timesteps=timesteps).thresholds[0]
    dynamics = Dynamics(parse_neuron(neuron), timesteps)
    signal = actor.interface.normalize(torch.from_numpy(pixels))
    bias = actor.hidden[0].bias if neuron == "dc" else None
    drive = rows(actor.hidden[0](signal))
    for channel in range(len(threshold)):
        wanted = drive[:, channel : channel + 1].clamp(min=0.0)

        def error(theta, channel=channel, wanted=wanted):
            own = None if bias is None else bias[channel : channel + 1]
            current = drive[:, channel : channel + 1] - (0.0 if own is None else own)
            found = reference.neuron(current, theta.reshape(1), torch.zeros_like(current), dynamics, own)
            return float((found.mean - wanted).square().mean())

        best = min(error(wanted.max() * fraction) for fraction in CANDIDATES)
        assert error(threshold[channel]) == pytest.approx(best, rel=1e-9, abs=1e-12)


@each("form", FORMS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_corrected_layers_explain_the_dense_ones_from_what_the_reference_sends(form, neuron, every_observation):
    actor, pixels = visual_actor(form, torch.float64), frames(30, form.image)
    found = fit(actor, pixels, Fitted(correction="linear", ridge=0.3), neuron=neuron, timesteps=2)
    sent = decide(found.actor, found.thresholds, pixels, Dynamics(parse_neuron(neuron), 2))
    dense = [sent[0], *actor.hidden_activations(torch.from_numpy(pixels))]
    trained, corrected = [*actor.hidden, actor.output], [*found.actor.hidden, found.actor.output]
    for index, (before, after) in enumerate(zip(trained, corrected, strict=True)):
        geometry = actor.convolutions[index] if index < len(actor.hidden) else None
        mean = arriving(actor, sent, index)
        received = dense[index]
        if str(index) in actor.bridges:
            received = actor.bridges[str(index)](received.flatten(1))
        wanted = drives(before, geometry, received)
        weight, change = after.weight.flatten(1), (after.weight - before.weight).flatten(1)
        if index == 0 and "0" not in actor.bridges:
            assert not change.any()
            continue
        error = mean @ weight.T + after.bias - wanted
        centred = mean - mean.mean(dim=0)
        strength = 0.3 * centred.square().sum() / len(mean) / min(centred.shape)
        gradient = error.T @ centred / len(mean) + strength * change
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)
        torch.testing.assert_close(error.mean(dim=0), torch.zeros_like(error[0]), atol=1e-10, rtol=0)


@each("form", {name: FORMS[name] for name in ("two-convolutions", "odd-sizes", "trunk", "bridge-at-the-output")})
def test_states_count_by_the_squared_jacobian(form, every_observation):
    actor, pixels = visual_actor(form, torch.float64), frames(3, form.image)
    slopes = torch.rand(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walk = Walk(actor, torch.from_numpy(pixels), Dynamics(parse_neuron("if"), 2), slopes)
    found = walk.states(0)
    activations = actor.hidden_activations(torch.from_numpy(pixels))

    def z(first: Tensor) -> Tensor:
        signal = first
        for index in range(1, len(actor.hidden)):
            signal = torch.relu(actor.hidden[index](actor.arriving(index, signal)))
        return actor.output(actor.arriving(len(actor.hidden), signal))

    squares = []
    for row in range(3):
        first = activations[0][row : row + 1]
        jacobian = torch.autograd.functional.jacobian(z, first)[0, :, 0] * slopes[row, :, None, None, None]
        squares.append(jacobian.square().sum(dim=0))
    # Positions are drawn in another order: the drives tell which is which.
    flat_drive = rows(actor.hidden[0](actor.interface.normalize(torch.from_numpy(pixels))))
    order = (found.drive[:, None] - flat_drive[None]).abs().sum(dim=2).argmin(dim=1)
    assert sorted(order.tolist()) == list(range(len(flat_drive)))
    torch.testing.assert_close(found.squares, rows(torch.stack(squares))[order])


def test_what_arrives_does_not_depend_on_how_much_is_computed_at_once(monkeypatch):
    actor, pixels = visual_actor(SMALL, torch.float64), frames(24, SMALL.image)
    how = Fitted(weighted=True, correction="linear")
    wanted = fit(actor, pixels, how, neuron="dc", timesteps=3)
    monkeypatch.setattr(states, "_NUMBERS", 1)
    found = fit(actor, pixels, how, neuron="dc", timesteps=3)
    for one, other in zip(found.thresholds, wanted.thresholds, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(found.actor.parameters(), wanted.actor.parameters(), strict=True):
        torch.testing.assert_close(one, other)


# Which observations


@pytest.mark.parametrize(("number", "count"), [(5, 8), (8, 8), (9, 8), (15, 8), (16, 8), (1000, 8), (257, 1)])
def test_a_sample_is_taken_at_even_distances_from_batches_of_any_size(number, count):
    actor = Actor(
        [Conv(torch.ones(1, 1, 1, 1), torch.zeros(1))], (torch.ones(1, 2), torch.zeros(1)), Interface((1, 1, 2), 1)
    )
    observations = torch.arange(2.0 * number).reshape(number, 1, 1, 2)
    found = sample(actor, observations, count)
    chosen = (found[:, 0, 0, 0] / 2).int().tolist()
    assert len(chosen) == min(number, count)
    assert chosen[0] == 0
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.min() >= 1
    assert len(gaps) == 0 or gaps.max() <= 2 * gaps.min()
    assert count == 1 or number - chosen[-1] <= max(gaps.max(), 1)
    for size in (1, 3, 100):
        split = (observations[start : start + size].numpy() for start in range(0, number, size))
        assert torch.equal(sample(actor, split, count), found)


def test_a_sample_does_not_keep_the_batches_that_it_is_taken_from():
    actor = visual_actor(SMALL)
    found = sample(actor, (torch.from_numpy(frames(50, SMALL.image)) for _ in range(3)), 4)
    assert found.untyped_storage().nbytes() == found.numel()


# Whole conversions


@each("form", FORMS)
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("correction", ["none", "bias", "linear"])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_observation_and_silent_channels(form, neuron, correction, weighted):
    actor, pixels = visual_actor(form), frames(1, form.image)
    found = fit(actor, pixels, Fitted(weighted=weighted, correction=correction), neuron=neuron, timesteps=1)
    assert all(torch.isfinite(parameter).all() for parameter in found.actor.parameters())
    for threshold, activation in zip(found.thresholds, actor.hidden_activations(torch.from_numpy(pixels)), strict=True):
        assert torch.isfinite(threshold).all()
        active = activation[0] > 0 if activation.dim() == 2 else (activation[0] > 0).flatten(1).any(dim=1)
        assert torch.equal(threshold > 0, active)


@each("form", FORMS)
def test_a_fitted_actor_comes_closer_than_one_with_thresholds_at_the_maximum(form):
    actor, pixels = visual_actor(form), frames(80, form.image)
    dense = actor.act(pixels)

    def error(calibration):
        snn = snnkern.convert(actor, pixels, neuron="if", timesteps=3, alpha=0.0, calibration=calibration)
        return float(np.square(snn.act(pixels) - dense).mean())

    assert error(Fitted(correction="linear")) < error("max")


def test_a_corrected_actor_keeps_the_trained_one(tmp_path):
    actor, pixels = visual_actor(SMALL), frames(30, SMALL.image)
    snn = snnkern.convert(actor, pixels, neuron="if", timesteps=4, calibration="mse:linear")
    assert not torch.equal(snn.hidden[1].weight, actor.hidden[1].weight)
    assert_same_tensors(dense_actor(snn).state_dict(), actor.state_dict())
    snnkern.save(snn, tmp_path / "snn.safetensors")
    loaded = snnkern.load(tmp_path / "snn.safetensors")
    assert isinstance(loaded, SpikingActor)
    np.testing.assert_array_equal(loaded.act(pixels), snn.act(pixels))
    assert_same_tensors(dense_actor(loaded).state_dict(), actor.state_dict())
