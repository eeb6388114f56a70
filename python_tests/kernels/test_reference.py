"""The reference: neurons worked out by hand, every float dtype, constant currents, the margin."""

import math
from dataclasses import replace

import pytest
import torch
from support.cases import (
    ALL_DTYPES,
    DEFAULT_NEURONS,
    NEURONS,
    NEURONS_ON_GRID,
    Size,
    assert_same_bits,
    each,
    random_actor,
    random_layer,
    random_observations,
)
from support.visual import FORMS, frames, loop_actor, reference_layers, visual_actor, visual_thresholds
from torch import Tensor

from snnkern import DC, IF, MT, SNM, Dynamics
from snnkern.kernels import reference
from snnkern.kernels.layers import Convolution
from snnkern.kernels.neurons import Kind


def run_one(currents: list[float], dynamics: Dynamics, *, threshold=1.0, carry=0.0, bias=None) -> reference.Decision:
    """One neuron in float64."""
    return reference.neuron(
        torch.tensor(currents, dtype=torch.float64).reshape(-1, 1, 1),
        torch.tensor([threshold], dtype=torch.float64),
        torch.tensor([[carry]], dtype=torch.float64),
        dynamics,
        None if bias is None else torch.tensor([bias], dtype=torch.float64),
    )


def run(layer) -> reference.Decision:
    return reference.neuron(layer.current, layer.threshold, layer.carry, layer.dynamics, layer.bias)


# Currents and the spikes that follow from the semantics page, worked out by hand for θ = 1.
WORKED = {
    "if-strict-at-threshold": (IF(), [0.5, 0.25, 0.25], [0, 1, 0]),
    "if-never-takes-back": (IF(), [1.0, -3.0, 1.0], [1, 0, 0]),
    "if-sends-one-spike-per-step": (IF(), [3.0, 0.0, 0.0, 0.0], [1, 1, 1, 0]),
    "snm-takes-back": (SNM(), [1.0, -1.0, 0.0], [1, -1, 0]),
    "snm-strict-below-zero": (SNM(), [1.0, -0.5, 0.0], [1, 0, 0]),
    "snm-takes-back-only-what-it-sent": (SNM(), [1.0, -3.0, -1.0], [1, -1, 0]),
    "snm-sends-nothing-negative-at-first": (SNM(), [-3.0, -1.0], [0, 0]),
    "snm-original-starts-empty": (SNM.original(), [1.0, 0.25, -1.25, -0.25], [0, 1, 0, -1]),
    "mt-at-three-quarters-of-a-level": (MT(levels=2), [0.375, 0.0], [0.5, 0]),
    "mt-below-three-quarters-of-a-level": (MT(levels=2), [0.374, 0.0], [0, 0]),
    "mt-sends-the-largest-level": (MT(levels=3), [0.75, 0.625, 0.375], [1, 0.5, 0.25]),
    "mt-takes-back-a-level-in-parts": (MT(levels=2), [0.75, -0.25, -0.5], [1, -0.5, -0.5]),
    "mt-takes-back-at-minus-three-quarters": (MT(levels=1), [1.0, -0.75], [1, -1]),
    "mt-takes-back-only-what-it-sent": (MT(levels=2), [0.5, -2.0, -2.0], [0.5, -0.5, 0]),
    "dc-sends-a-constant-once": (DC(levels=1), [1.0, 0.0, 0.0], [1, 0, 0]),
    "dc-takes-back-what-it-promised": (DC(levels=1), [1.0, -2.0, 0.0], [1, -1, -1]),
}


@each("case", WORKED)
def test_spikes_are_those_worked_out_by_hand(case):
    neuron, currents, spikes = case
    decision = run_one(currents, Dynamics(neuron, len(currents)))
    assert decision.spikes.flatten().tolist() == spikes
    assert decision.counts.item() == sum(spike != 0 for spike in spikes)
    expected = sum(spikes) / len(spikes)
    if neuron.kind is Kind.DC:
        expected = sum(spike / t for t, spike in enumerate(spikes, start=1))
    assert decision.mean.item() == pytest.approx(expected, rel=1e-15)


# Currents, parameters, old carry and the carry that follows, for θ = 1.
CARRIED = {
    "what-was-not-sent": (IF(), [0.25, 0.0], {"alpha": 1.0}, 0.0, 0.25),
    "a-part-of-it": (IF(), [0.25, 0.0], {"alpha": 0.5}, 0.0, 0.125),
    "what-was-sent-too-much": (IF(), [0.75, 0.0], {"alpha": 1.0}, 0.0, -0.25),
    "no-debt-from-silence": (IF(), [-3.0, -2.0], {"alpha": 1.0}, 0.0, 0.0),
    "no-more-debt-than-was-sent": (MT(levels=2), [0.75, 0.75, -9.0], {"alpha": 1.0, "clip": 9.0}, 0.0, -0.5),
    "no-alpha": (IF(), [0.25, 0.0], {"alpha": 0.0}, 0.25, 0.0),
    "memory-alone": (IF(), [0.25, 0.0], {"memory": 0.5}, 0.25, 0.125),
    "alpha-and-memory": (IF(), [0.125, 0.0], {"alpha": 1.0, "memory": 1.0}, 0.125, 0.25),
    "clamped-above": (IF(), [9.0], {"alpha": 1.0}, 0.0, 0.5),
    "clamped-below": (MT(levels=1), [0.75, 0.0], {"alpha": 1.0, "clip": 0.125}, 0.0, -0.125),
    "no-clip-no-carry": (IF(), [9.0], {"alpha": 1.0, "clip": 0.0}, 0.0, 0.0),
    "dc-mean-not-sent": (DC(levels=1), [0.25, 0.0], {"alpha": 1.0}, 0.0, 0.5),
}


@each("case", CARRIED)
def test_carry_is_that_worked_out_by_hand(case):
    neuron, currents, parameters, carry, expected = case
    decision = run_one(currents, Dynamics(neuron, len(currents), **parameters), carry=carry)
    assert decision.carry.item() == expected


def test_the_carry_is_what_the_next_decision_starts_with():
    dynamics = Dynamics(IF(), 1)
    assert run_one([0.5], dynamics, carry=0.0).counts.item() == 0
    assert run_one([0.5], dynamics, carry=0.25).counts.item() == 1


@each("dtype", ALL_DTYPES)
@each("neuron", NEURONS_ON_GRID)
def test_where_numbers_are_exact_every_dtype_gives_what_float64_does(neuron, dtype):
    layer = random_layer(Dynamics(neuron, 2, alpha=0.5, memory=0.5), Size(4, 33), torch.float64)

    def eighths(tensor: Tensor) -> Tensor:
        return (tensor * 8).round() / 8

    bias = None if layer.bias is None else eighths(layer.bias)
    threshold = (layer.threshold * 2).round() / 2
    exact = replace(layer, current=eighths(layer.current), carry=eighths(layer.carry), threshold=threshold, bias=bias)
    expected, actual = run(exact), run(exact.to(dtype))
    for name in ("spikes", "mean", "carry"):
        assert_same_bits(getattr(actual, name), getattr(expected, name).to(dtype))
    assert torch.equal(actual.counts, expected.counts)


@each("dtype", ALL_DTYPES)
@each("neuron", NEURONS)
def test_spikes_are_levels_and_everything_keeps_its_dtype(neuron, dtype):
    layer = random_layer(Dynamics(neuron, 5, alpha=0.6, memory=0.8), Size(3, 17), dtype)
    decision = run(layer)
    assert {decision.spikes.dtype, decision.mean.dtype, decision.carry.dtype, decision.margin.dtype} == {dtype}
    assert decision.counts.dtype == torch.int64
    levels = torch.stack([layer.threshold / 2**j for j in range(neuron.levels)])
    is_level = (decision.spikes.abs().unsqueeze(0) == levels[:, None, None]).any(dim=0)
    assert bool((is_level | (decision.spikes == 0)).all())
    assert decision.counts.sum() > 0
    assert bool((decision.carry.abs() <= 0.5 * layer.threshold).all())
    divisors = torch.arange(1, 6) if neuron.kind is Kind.DC else torch.full((5,), 5)
    mean = (decision.spikes.double() / divisors.reshape(-1, 1, 1)).sum(dim=0)
    torch.testing.assert_close(decision.mean.double(), mean, rtol=0, atol=8 * torch.finfo(dtype).eps)


@each("neuron", NEURONS)
def test_a_constant_current_is_a_sequence_that_repeats_or_for_dc_one_that_is_sent_once(neuron):
    layer = random_layer(Dynamics(neuron, 5, alpha=0.6), Size(3, 17)).constant()
    sequence = layer.current.expand(5, 3, 17)
    if neuron.kind is Kind.DC:
        sequence = torch.cat([sequence[:1], torch.zeros_like(sequence[1:])])
    for one, other in zip(run(layer), run(replace(layer, current=sequence)), strict=True):
        assert_same_bits(one, other)


def test_dc_adds_its_bias_once_to_the_mean_of_the_current():
    dynamics = Dynamics(DC(levels=1), 2)
    decision = run_one([0.5, 0.0], dynamics, bias=0.5)
    assert decision.spikes.flatten().tolist() == [1.0, 0.0]
    assert decision.mean.item() == 1.0


def test_dc_without_a_bias_has_a_bias_of_zero():
    layer = random_layer(Dynamics(DC(), 4, alpha=0.5), Size(3, 17))
    without, zero = replace(layer, bias=None), replace(layer, bias=torch.zeros(17))
    for one, other in zip(run(without), run(zero), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(run(layer).spikes, run(zero).spikes)


@each("neuron", NEURONS)
def test_a_threshold_of_zero_never_fires(neuron):
    layer = random_layer(Dynamics(neuron, 5, alpha=1.0), Size(3, 17), current_scale=50.0)
    silent = replace(layer, threshold=torch.zeros(17))
    decision = run(silent)
    assert decision.counts.tolist() == [0, 0, 0]
    assert not decision.spikes.any()
    assert not decision.mean.any()
    assert not decision.carry.any()
    assert decision.margin.tolist() == [math.inf] * 3


@each("neuron", DEFAULT_NEURONS)
def test_nan_stays_visible_in_the_carry_of_its_neuron_alone(neuron):
    layer = random_layer(Dynamics(neuron, 3, alpha=0.5), Size(2, 5))
    layer.current[1, 0, 2] = math.nan
    carry = run(layer).carry
    assert carry.isnan().nonzero().tolist() == [[0, 2]]


# Currents and the closest that a potential comes to a comparison, for θ = 2.
MARGINS = {
    "if": (IF(), [1.5], 0.25),
    "if-second-step-on-the-boundary": (IF(), [1.5, 1.5], 0.0),
    "snm-lower-boundary-does-not-matter-at-first": (SNM(), [-0.9], 0.95),
    "snm-lower-boundary-matters-once-something-was-sent": (SNM(), [2.0, -0.9], 0.05),
    "mt-upper": (MT(levels=1), [1.0], 0.25),
    "mt-smaller-level-is-closer": (MT(levels=2), [1.0], 0.125),
    "mt-lower-does-not-matter-at-first": (MT(levels=1), [-1.4], 1.45),
    "mt-lower-once-something-was-sent": (MT(levels=1), [2.0, -1.4], 0.05),
    "dc-promise-equal-to-a-level": (DC(levels=2), [1.0, -4.0], 0.0),
}


@each("case", MARGINS)
def test_margin_is_the_smallest_distance_to_a_comparison_that_matters(case):
    neuron, currents, expected = case
    decision = run_one(currents, Dynamics(neuron, len(currents)), threshold=2.0)
    assert decision.margin.item() == pytest.approx(expected, abs=1e-12)


@each("neuron", NEURONS)
def test_potentials_shifted_by_less_than_the_margin_send_the_same_spikes(neuron):
    layer = random_layer(Dynamics(neuron, 5), Size(200, 3), torch.float64)
    decision = run(layer)
    assert bool((decision.margin > 0).any())
    finite = decision.margin.nan_to_num(posinf=0.0)
    for sign in (-0.99, 0.99):
        shift = sign * finite[:, None] * layer.threshold
        assert torch.equal(run(replace(layer, carry=layer.carry + shift)).spikes, decision.spikes)


def test_potentials_shifted_by_more_than_the_margin_send_other_spikes():
    layer = random_layer(Dynamics(IF(), 5), Size(200, 3), torch.float64)
    decision = run(layer)
    shift = 1.01 * decision.margin[:, None] * layer.threshold
    changed = torch.full((200,), False)
    for shifted in (layer.carry + shift, layer.carry - shift):
        spikes = run(replace(layer, carry=shifted)).spikes
        changed |= (spikes != decision.spikes).any(dim=2).any(dim=0)
    assert changed.all()


def test_margin_belongs_to_a_row_and_leaves_out_neurons_that_cannot_fire():
    current = torch.tensor([[0.5, 0.0], [0.3, 0.0]])
    decision = reference.neuron(current, torch.tensor([1.0, 0.0]), torch.zeros(2, 2), Dynamics(IF(), 1))
    torch.testing.assert_close(decision.margin, torch.tensor([0.0, 0.2]))


def test_nan_leaves_a_row_without_a_margin():
    current = torch.tensor([[math.nan], [0.3]])
    decision = reference.neuron(current, torch.ones(1), torch.zeros(2, 1), Dynamics(IF(), 1))
    assert (decision.margin >= 0).tolist() == [False, True]


@each("neuron", DEFAULT_NEURONS)
@pytest.mark.parametrize(("batch", "neurons"), [(0, 5), (3, 0), (0, 0)], ids=["B0", "N0", "B0-N0"])
def test_empty_layers_are_empty_decisions(neuron, batch, neurons):
    decision = run(random_layer(Dynamics(neuron, 4), Size(batch, neurons)))
    assert decision.spikes.shape == (4, batch, neurons)
    assert decision.mean.shape == decision.carry.shape == (batch, neurons)
    assert decision.counts.tolist() == [0] * batch
    assert decision.margin.tolist() == [math.inf] * batch


def test_linear_is_weight_times_signal_plus_bias():
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([0.5, 0.0, -0.5])
    signal = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert reference.linear(signal, weight, bias).tolist() == [[[1.5, 3.0, 4.5]], [[2.5, 4.0, 5.5]]]
    assert reference.linear(signal[0], weight).tolist() == [[1.0, 3.0, 5.0]]


@pytest.mark.parametrize("per_neuron", [False, True], ids=["per-channel", "per-neuron"])
@each("form", FORMS)
@each("neuron", DEFAULT_NEURONS)
def test_convolutions_and_bridges_are_those_of_the_semantics_page(neuron, form, per_neuron):
    """Decision by decision, against loops that share nothing with the reference."""
    actor = visual_actor(form, torch.float64)
    thresholds = visual_thresholds(actor, per_neuron=per_neuron)
    dynamics = Dynamics(neuron, 3, alpha=0.6, memory=0.4)
    loop = loop_actor(actor, thresholds, dynamics)
    parts = reference_layers(actor, thresholds)
    rows = 2
    carries = [
        torch.zeros(rows, *(layer.convolution.output_shape if layer.convolution else layer.bias.shape)).double()
        for layer in parts["hidden"]
    ]
    sure = torch.ones(rows, dtype=torch.bool)
    for step in range(2):
        signal = actor.interface.normalize(torch.from_numpy(frames(rows, form.image, seed=step)))
        z, spikes, closest = loop.decide(signal.numpy())
        decision = reference.actor(signal, carries=carries, dynamics=dynamics, **parts)
        carries = [layer.carry for layer in decision.layers]
        sure &= torch.from_numpy(closest > 1e-9)
        torch.testing.assert_close(decision.output[sure], torch.from_numpy(z)[sure], rtol=1e-10, atol=1e-10)
        for layer, sent, carry in zip(decision.layers, spikes, loop.carries, strict=True):
            assert layer.spikes.shape == (3, *carry.shape)
            torch.testing.assert_close(layer.spikes.transpose(0, 1)[sure], torch.from_numpy(sent)[sure])
            torch.testing.assert_close(layer.carry[sure], torch.from_numpy(carry)[sure], rtol=1e-9, atol=1e-10)
            assert layer.counts.tolist() == (layer.spikes != 0).flatten(2).sum(dim=(0, 2)).tolist()
        assert all(bool(layer.counts.any()) for layer in decision.layers)
    assert bool(sure.any())


@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (0, 0)), ((2, 3), (1, 2)), ((3, 1), (2, 0))])
def test_convolved_is_the_convolution_of_torch(stride, padding):
    generator = torch.Generator().manual_seed(0)
    geometry = Convolution((3, 10, 8), 4, (3, 4), stride, padding)
    weight = torch.randn(geometry.weight_shape, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    spikes = torch.randn(2, 5, 3, 10, 8, generator=generator, dtype=torch.float64)
    wanted = torch.nn.functional.conv2d(spikes.flatten(0, 1), weight, bias, stride, padding).unflatten(0, (2, 5))
    torch.testing.assert_close(reference.convolved(spikes, weight, geometry, bias), wanted)


@each("neuron", {name: neuron for name, neuron in DEFAULT_NEURONS.items() if not neuron.leak})
def test_a_quiet_reference_actor_that_sees_tends_to_the_dense_one(neuron):
    form = FORMS["trunk"]
    actor = visual_actor(form, torch.float64)
    thresholds = visual_thresholds(actor, factor=1.5)
    pixels = torch.from_numpy(frames(4, form.image))
    parts = reference_layers(actor, thresholds)
    carries = [activation * 0 for activation in actor.hidden_activations(pixels)]
    decision = reference.actor(
        actor.interface.normalize(pixels), carries=carries, dynamics=Dynamics(neuron, 512), **parts
    )
    assert (actor.interface.action(decision.output) - actor(pixels)).abs().max() <= 0.05


@each("neuron", {name: neuron for name, neuron in DEFAULT_NEURONS.items() if not neuron.leak})
def test_a_quiet_reference_actor_tends_to_the_dense_one(neuron):
    widths = (5, 9, 8, 3)
    actor, thresholds = random_actor(widths, torch.float64)
    observation = random_observations(1, 6, 5, torch.float64)[0] * 0.3
    hidden = [
        (layer.weight, layer.bias, threshold * 1.5) for layer, threshold in zip(actor.hidden, thresholds, strict=True)
    ]
    output = (actor.output.weight, actor.output.bias)
    carries = [torch.zeros(6, len(threshold)).double() for threshold in thresholds]
    decision = reference.actor(observation, hidden, output, carries, Dynamics(neuron, 512))
    dense = actor.output(actor.hidden_activations(observation)[-1])
    assert (decision.output - dense).abs().max() <= 0.05
    assert [layer.spikes.shape for layer in decision.layers] == [(512, 6, 9), (512, 6, 8)]
