"""What decisions of actors that see cost, and what happens inside their layers."""

import math

import numpy as np
import pytest
import torch
from support.cases import DEFAULT_NEURONS, each
from support.visual import FORMS, frames, visual_actor, visual_thresholds

import snnkern
from snnkern import Dynamics, InputError, SB3Policy, SpikingActor
from snnkern.analysis import latency, rivals
from snnkern.analysis.energy import dense_cost, spiking_cost
from snnkern.analysis.residuals import raster, residuals
from snnkern.control.follow import replay

TRUNK = FORMS["trunk"]


def make(form=TRUNK, neuron="if", **dynamics) -> SpikingActor:
    actor = visual_actor(form)
    settings = {"timesteps": 4, "alpha": 0.5} | dynamics
    return snnkern.convert(actor, thresholds=visual_thresholds(actor), neuron=neuron, **settings)


def film(decisions: int, rows: int, form=TRUNK) -> np.ndarray:
    """`[decisions, rows, C, H, W]`."""
    return np.stack([frames(rows, form.image, seed=seed) for seed in range(decisions)])


@each("form", FORMS)
@each("neuron", DEFAULT_NEURONS)
def test_a_replay_is_what_decisions_are(neuron, form):
    snn = make(form, neuron)
    pixels = film(3, 2, form)
    for observation, layers in zip(pixels, list(replay(snn, pixels)), strict=True):
        snn(torch.from_numpy(observation))
        for index, (layer, decision) in enumerate(zip(snn.hidden, layers, strict=True)):
            assert decision.spikes.shape == (4, 2, math.prod(layer.neuron_shape))
            assert torch.equal((decision.spikes != 0).sum(dim=(0, 2)), snn.spikes[index])
            torch.testing.assert_close(decision.carry, layer.carry.value.flatten(1))


def test_a_replay_refuses_other_observations():
    with pytest.raises(InputError, match=r"must be \[decisions, B, 3, 12, 12\], got shape \[2, 3, 12, 12\]"):
        next(iter(replay(make(), film(2, 1)[:, 0])))
    with pytest.raises(InputError, match="must be a uint8 array, got float32"):
        next(iter(replay(make(), film(2, 1).astype(np.float32))))


def ones_through(layer: torch.nn.Module, signal: torch.Tensor) -> float:
    """How many weights the non-zero numbers of a signal `[B, …]` meet, by a layer whose weights are all 1."""
    active = (signal != 0).double()
    weight = torch.ones_like(layer.weight).double()
    if isinstance(layer, torch.nn.Conv2d):
        return float(torch.nn.functional.conv2d(active, weight, None, layer.stride, layer.padding).sum())
    return float((active.flatten(1) @ weight.T).sum())


@each("form", FORMS)
def test_a_dense_actor_multiplies_where_its_kernels_lie(form):
    actor, pixels = visual_actor(form), frames(6, form.image)
    activations = actor.hidden_activations(torch.from_numpy(pixels))
    everything = [torch.ones(1, *form.image), *(torch.ones_like(one[:1]) for one in activations)]
    skipping = [torch.ones(6, *form.image), *activations]
    for cost, signals, rows in ((dense_cost(actor), everything, 1), (dense_cost(actor, pixels), skipping, 6)):
        for index, (layer, signal, found) in enumerate(
            zip([*actor.hidden, actor.output], signals, cost.layers, strict=True)
        ):
            wanted = 0.0
            if str(index) in actor.bridges:
                first, norm, _ = actor.bridges[str(index)]
                wanted += ones_through(first, signal) / rows + 3 * len(norm.bias)
                signal = torch.ones(rows, len(norm.bias))
            wanted += ones_through(layer, signal) / rows
            assert found.operations.multiplications == pytest.approx(wanted)


@pytest.mark.parametrize("form", ["two-convolutions", "odd-sizes", "trunk"])
def test_a_spike_reaches_as_many_neurons_as_kernels_cover_it(form):
    snn, pixels = make(FORMS[form], timesteps=3), film(4, 2, FORMS[form])
    actor = snnkern.policies.spiking.dense_actor(snn)
    wanted = torch.zeros(len(snn.hidden))
    sent = torch.zeros(len(snn.hidden))
    for layers in replay(snn, pixels):
        for index, (layer, decision) in enumerate(zip(snn.hidden, layers, strict=True)):
            sent[index] += (decision.spikes != 0).sum()
            if index + 1 < len(layers) and str(index + 1) not in snn.bridges:
                images = decision.spikes.unflatten(-1, layer.neuron_shape).flatten(0, 1)
                wanted[index + 1] += ones_through(actor.hidden[index + 1], images)
    cost = spiking_cost(snn, pixels)
    for index, layer in enumerate(cost.layers[:-1]):
        assert layer.spikes == pytest.approx(float(sent[index]) / 8)
        assert layer.synaptic_operations == pytest.approx(float(wanted[index]) / 8)
    assert cost.layers[0].synapses == dense_cost(actor).layers[0].synapses
    assert (cost.layers[2].synaptic_operations == 0) == (form == "trunk")


def test_residuals_and_rasters_look_into_convolutions():
    snn, pixels = make(timesteps=8), film(5, 2)
    found = residuals(snn, pixels, np.ones((5, 2), dtype=bool))
    assert len(found) == 4
    assert all(0 < one.owing <= 1 and sum(one.share) == pytest.approx(1) for one in found)
    shown = raster(snn, pixels[:, 0], first=1, decisions=3, neurons=4)
    assert [len(layer.neurons) for layer in shown.layers] == [4, 4, 4, 4]
    assert all(np.shape(layer.spikes) == (24, len(layer.neurons)) for layer in shown.layers)
    (layer, _, _, _) = shown.layers
    inside = list(replay(snn, pixels[:, :1]))[1][0]
    threshold = snn.hidden[0].per_neuron(snn.hidden[0].threshold)
    wanted = (inside.spikes[:, 0] / threshold)[:, layer.neurons]
    np.testing.assert_allclose(np.array(layer.spikes)[:8], wanted.numpy(), rtol=1e-6)


def test_what_is_for_vectors_alone_says_so():
    snn = make()
    with pytest.raises(InputError, match="only actors of vectors and Linear layers are exported to NIR"):
        snnkern.nir.start(snn, 1)
    with pytest.raises(InputError, match="analyze compares states that are vectors"):
        snnkern.analyze(visual_actor(TRUNK), "Hopper-v5", Dynamics(snnkern.IF(), 4), thresholds=snn.thresholds)


def test_predict_keeps_the_carry_of_images():
    snn, policy = make(), SB3Policy(make())
    state = None
    for seed in range(3):
        pixels = frames(2, TRUNK.image, seed=seed)
        action, state = policy.predict(pixels, state, np.zeros(2, bool))
        np.testing.assert_array_equal(action, snn.act(pixels))
    assert [carry.shape[1:] for carry in state] == [layer.neuron_shape for layer in snn.hidden]
    action, state = policy.predict(frames(1, TRUNK.image)[0])
    assert action.shape == (2,)
    np.testing.assert_array_equal(action, make().act(frames(1, TRUNK.image)[0]))


# Timing


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@each("form", FORMS)
@pytest.mark.parametrize("make_rival", [rivals.eager, rivals.onnx_runtime])
def test_dense_runtimes_decide_as_the_actor(make_rival, form, dtype):
    actor = visual_actor(form, dtype)
    try:
        contender = make_rival(actor)
    except rivals.Missing as error:
        pytest.skip(str(error))
    pixels = film(3, 2, form)
    wanted = latency.expected(actor, [], None, pixels)
    with torch.no_grad():
        np.testing.assert_allclose(wanted[0][0], actor.act(pixels[0]), atol=1e-5)
        for by_row in (False, True):
            assert latency.agreement(contender, pixels, wanted, by_row).wrong == 0


@pytest.mark.parametrize("per_neuron", [False, True])
def test_the_published_loop_has_convolutions(per_neuron):
    form = FORMS["odd-sizes"]
    actor = visual_actor(form, torch.float64)
    thresholds = visual_thresholds(actor, per_neuron=per_neuron)
    pixels = film(4, 3, form)
    loop = rivals.PublishedLoop(actor, thresholds, 5, alpha=0.4).contender()
    wanted = latency.expected(actor, thresholds, Dynamics(snnkern.IF(), 5, 0.4), pixels)
    assert wanted[1].any()
    for by_row in (False, True):
        assert latency.agreement(loop, pixels, wanted, by_row) == latency.Agreement(wanted[1].mean(), 1.0, 0)


def test_rivals_that_cannot_see_say_so():
    with pytest.raises(rivals.Missing, match="NumPy has no convolution"):
        rivals.numpy(visual_actor(TRUNK))
    with pytest.raises(rivals.Missing, match="no bridges"):
        rivals.PublishedLoop(visual_actor(TRUNK), visual_thresholds(visual_actor(TRUNK)), 4, 0.0)


def test_an_actor_that_sees_is_timed():
    form = FORMS["two-convolutions"]
    pixels = frames(30, form.image)
    clock = iter(range(10**6))

    def stop(_):
        if next(clock) > 30:
            raise KeyboardInterrupt

    found = latency.run(
        visual_actor(form), pixels, [Dynamics(snnkern.IF(), 4)], batches=(1, 3), seconds=1e6, progress=stop
    )
    assert found.widths == (432, 5, 4, 7, 2)
    assert "NumPy has no convolution" in found.missing[latency.NUMPY]
    assert {case.name for case in found.rounds} >= {latency.ACT, latency.TENSOR, latency.LOOP, latency.PYTORCH}
    assert {agreement.wrong for agreement in found.agreements.values()} == {0}
    assert all(sent > 0 for sent in next(iter(found.spikes.values())))
