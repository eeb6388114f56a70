"""The semantics page: its six checks as properties, and an independent loop that computes the same as the package."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.cases import (
    ACTOR_WIDTHS,
    DEFAULT_NEURONS,
    INPUTS,
    LAYER_BACKENDS,
    NEURONS,
    TIMESTEPS,
    Layer,
    Size,
    assert_same_bits,
    each,
    needs_cpu,
    random_actor,
    random_layer,
    random_observations,
    run_layer,
)
from support.semantics_loop import LoopActor, constant_code, decide_layer
from torch import Tensor

import snnkern
from snnkern import MT, SNM, Dynamics, SpikingActivation
from snnkern.kernels import reference
from snnkern.kernels.neurons import Kind

check = settings(max_examples=20, deadline=None, derandomize=True, database=None)
backend = pytest.mark.parametrize("backend", LAYER_BACKENDS)

CARRIES = {
    "no-carry": {"alpha": 0.0},
    "alpha": {"alpha": 0.6},
    "alpha-memory": {"alpha": 0.6, "memory": 0.8},
    "wide-clip": {"alpha": 1.0, "memory": 1.0, "clip": 3.0},
}
fractions = st.floats(0, 1, width=32)


def numbers(low: float, high: float, *shape: int) -> st.SearchStrategy[Tensor]:
    """Tensors of float32 values, half of them multiples of 1/8, so that comparisons meet their boundaries."""
    steps = st.integers(round(low * 8), round(high * 8)).map(lambda eighths: eighths / 8)
    elements = st.one_of(steps, st.floats(low, high, width=32))
    return arrays(np.float32, shape, elements=elements, fill=st.nothing()).map(torch.from_numpy)


@st.composite
def decisions(draw, count=1, neurons=NEURONS, **dynamics) -> list[Layer]:
    """`count` decisions of one layer: the same neurons, other currents. The carry is that of a fresh layer."""
    neuron = draw(st.sampled_from(list(neurons.values())))
    drawn = {"alpha": draw(fractions), "memory": draw(fractions), "clip": draw(st.floats(0, 2, width=32))}
    timesteps, batch, width = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    threshold = draw(numbers(0, 2, width))
    bias = draw(numbers(-1, 1, width)) if neuron.kind is Kind.DC else None
    return [
        Layer(
            draw(numbers(-2, 2, timesteps, batch, width)),
            threshold,
            torch.zeros(batch, width),
            Dynamics(neuron, timesteps, **(drawn | dynamics)),
            bias,
        )
        for _ in range(count)
    ]


def run_decisions(layers: list[Layer], backend: str) -> list:
    """Runs decisions one after the other, each with the carry that the one before it left."""
    results, carry = [], layers[0].carry
    for layer in layers:
        results.append(run_layer(replace(layer, carry=carry), backend))
        carry = results[-1].carry
    return results


def code_of(values: Tensor, neuron) -> Tensor:
    """The signal that stands for the values o_1 … o_T: o_t itself, or o_t − e_{t−1} in differential coding."""
    if neuron.kind is not Kind.DC:
        return values
    coded, mean = [], torch.zeros_like(values[0])
    for t, value in enumerate(values, start=1):
        coded.append(value - mean)
        mean = mean + coded[-1] / t
    return torch.stack(coded)


def assert_results_equal(actual, expected) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert_same_bits(one, other)


def make(widths, dtype, neuron, timesteps, backend, **carry):
    actor, thresholds = random_actor(widths, dtype)
    return snnkern.convert(
        actor, thresholds=thresholds, neuron=neuron, timesteps=timesteps, backend=backend, **{"alpha": 0.0, **carry}
    )


# Check 1: α = 0 equals plain conversion, decision by decision.


@backend
@check
@given(layers=decisions(count=3, alpha=0.0))
def test_without_alpha_every_decision_is_that_of_a_fresh_layer(backend, layers):
    for chained, fresh in zip(run_decisions(layers, backend), layers, strict=True):
        assert_results_equal(chained, run_layer(fresh, backend))


@backend
@each("neuron", DEFAULT_NEURONS)
def test_without_alpha_an_actor_needs_no_reset_and_with_alpha_it_does(backend, neuron):
    widths = ACTOR_WIDTHS["two-layers"]
    observations = random_observations(4, 5, widths[0])

    def actions(alpha: float, resets: bool) -> Tensor:
        policy = make(widths, torch.float32, neuron, 4, backend, alpha=alpha, memory=0.5)
        found = []
        for observation in observations:
            found.append(policy(observation))
            if resets:
                policy.reset()
        return torch.stack(found)

    assert_same_bits(actions(0.0, resets=False), actions(0.0, resets=True))
    carried, plain = actions(0.7, resets=False), actions(0.0, resets=True)
    assert_same_bits(carried[0], plain[0])
    assert not torch.equal(carried[1:], plain[1:])


# Check 2: T → ∞: mean output → clamp(mean input, 0, θ) for IF, SNM and MT; → ReLU(mean input) for DC.

# 24 levels allow T ≤ 255; and what leaks away is neither sent nor owed.
CONSERVING = {name: neuron for name, neuron in NEURONS.items() if neuron.levels < 24 and not neuron.leak}


@backend
@each("neuron", CONSERVING)
@pytest.mark.parametrize("timesteps", [64, 256], ids=["T64", "T256"])
@settings(check, max_examples=2)
@given(data=st.data())
def test_the_mean_output_tends_to_the_clamped_mean_input(backend, neuron, timesteps, data):
    width = 12
    threshold = data.draw(numbers(0.25, 2, width)).double()
    level = data.draw(numbers(-1, 2, 1, width)).double()
    ripple = data.draw(numbers(-1, 1, 4, 1, width)).double()
    ripple = (ripple - ripple.mean(dim=0)).repeat(timesteps // 4, 1, 1)
    current = code_of((level + ripple) * threshold, neuron)
    mean_input = level * threshold
    bias = None
    if neuron.kind is Kind.DC:
        bias = data.draw(numbers(-0.5, 0.5, width)).double() * threshold
        mean_input = mean_input + bias
    layer = Layer(current, threshold, torch.zeros(1, width).double(), Dynamics(neuron, timesteps), bias)
    highest = torch.inf if neuron.kind is Kind.DC else threshold
    expected = mean_input.clamp(min=0).minimum(torch.as_tensor(highest).double())
    error = (run_layer(layer, backend).mean - expected).abs() / threshold
    assert error.max() <= 8 / timesteps


@backend
def test_dc_is_not_bounded_by_its_threshold_and_the_others_are(backend):
    current, threshold, carry = torch.full((1, 1), 3.0), torch.ones(1), torch.zeros(1, 1)
    means = {
        name: run_layer(Layer(current, threshold, carry, Dynamics(neuron, 512)), backend).mean.item()
        for name, neuron in DEFAULT_NEURONS.items()
    }
    assert means == pytest.approx({"if": 1.0, "lif": 1.0, "snm": 1.0, "mt": 1.0, "dc": 3.0}, abs=0.02)


# Check 3: constant input 0 ≤ a ≤ θ and no carry: |mean output − a| ≤ 0.5·θ/T (SNM), ≤ 0.75·θ/T (MT).

ERROR_BOUNDS = {"snm": (SNM(), 0.5), **{f"mt-L{levels}": (MT(levels=levels), 0.75) for levels in (1, 2, 4, 7, 24)}}


@backend
@each("neuron_and_bound", ERROR_BOUNDS)
@check
@given(data=st.data(), timesteps=st.integers(1, 16))
def test_the_error_for_a_constant_input_is_a_fraction_of_a_step(backend, neuron_and_bound, data, timesteps):
    neuron, bound = neuron_and_bound
    width = 12
    threshold = data.draw(numbers(0.125, 100, width)).double()
    current = data.draw(numbers(0, 1, 1, width)).double() * threshold
    layer = Layer(current, threshold, torch.zeros(1, width).double(), Dynamics(neuron, timesteps))
    error = (run_layer(layer, backend).mean - current).abs() / threshold
    assert error.max() <= bound / timesteps + 1e-13


# Check 4: μ = 1, α = 1, clamp inactive: the carry is the sum of all residuals, so the summed error stays bounded.


@backend
@check
@given(layers=decisions(count=4, alpha=1.0, memory=1.0, clip=1e6, neurons=CONSERVING))
def test_with_full_memory_the_carry_is_the_sum_of_the_residuals(backend, layers):
    live = layers[0].threshold >= 1e-3  # where θ is 0 or next to it, the clamp is not inactive
    layers = [layer.to(torch.float64) for layer in layers]
    owed = torch.zeros_like(layers[0].carry)
    for layer, result in zip(layers, run_decisions(layers, backend), strict=True):
        timesteps = layer.dynamics.timesteps
        # the mean of a current: of o_t in differential coding, whose e_T is the bias and Σ s_t / t
        steps = torch.arange(1, timesteps + 1).double().reshape(-1, 1, 1)
        mean_input = layer.current.mean(dim=0) if layer.bias is None else (layer.current / steps).sum(dim=0)
        mean_input = mean_input if layer.bias is None else mean_input + layer.bias
        owed = owed + timesteps * (mean_input.clamp(min=0) - result.mean)
        torch.testing.assert_close(result.carry[:, live], owed[:, live], rtol=0, atol=1e-12)


@backend
@each("neuron", CONSERVING)
@pytest.mark.parametrize("timesteps", [1, 3, 8], ids=["T1", "T3", "T8"])
def test_the_summed_error_stays_bounded_with_memory_and_grows_linearly_without_alpha(backend, neuron, timesteps):
    threshold = torch.ones(50).double()
    current = ((torch.arange(50).double() + 0.37) / 50).reshape(1, -1)  # nothing that a sum of levels could reach

    def summed_errors(**carry: float) -> Tensor:
        layer = Layer(current, threshold, torch.zeros_like(current), Dynamics(neuron, timesteps, **carry))
        means = [result.mean for result in run_decisions([layer] * 30, backend)]
        return timesteps * (current - torch.cat(means)).cumsum(dim=0)

    assert summed_errors(alpha=1.0, memory=1.0, clip=1e6).abs().max() <= 1.0
    plain = summed_errors(alpha=0.0)
    assert plain[0].abs().min() > 1e-4
    torch.testing.assert_close(plain[-1], 30 * plain[0], rtol=1e-9, atol=0)


# Check 5: permuting the batch permutes the outputs, splitting it changes nothing; bit for bit.


@backend
@check
@given(layer=decisions().map(lambda layers: layers[0]), data=st.data())
def test_permuting_the_rows_of_a_layer_permutes_its_outputs(backend, layer, data):
    carry = data.draw(numbers(-1, 1, *layer.carry.shape))
    layer = replace(layer, carry=carry)
    order = torch.tensor(data.draw(st.permutations(range(len(carry)))))
    whole, permuted = run_layer(layer, backend), run_layer(layer.rows(order), backend)
    assert_same_bits(permuted.spikes, whole.spikes[:, order])
    assert_results_equal(permuted[1:], [part[order] for part in whole[1:]])


@backend
@check
@given(layer=decisions().map(lambda layers: layers[0]), data=st.data())
def test_splitting_the_rows_of_a_layer_changes_nothing(backend, layer, data):
    layer = replace(layer, carry=data.draw(numbers(-1, 1, *layer.carry.shape)))
    at = data.draw(st.integers(0, len(layer.carry)))
    parts = [run_layer(layer.rows(rows), backend) for rows in (slice(None, at), slice(at, None))]
    whole = run_layer(layer, backend)
    assert_same_bits(torch.cat([part.spikes for part in parts], dim=1), whole.spikes)
    for name in ("mean", "carry", "counts"):
        assert_same_bits(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def run_actor(policy, observations: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Actions `[D, B, A]` and spike counts `[D, layers, B]` of some decisions, and the carries after them."""
    actions, spikes = [], []
    for observation in observations:
        actions.append(policy(observation))
        spikes.append(policy.spikes)
    return torch.stack(actions), torch.stack(spikes), [layer.carry.value for layer in policy.hidden]


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@each("neuron", DEFAULT_NEURONS)
@each("widths", ACTOR_WIDTHS)
def test_permuting_and_splitting_the_batch_of_an_actor_changes_no_bit(widths, neuron, dtype):
    observations = random_observations(3, 13, widths[0], dtype)

    def run(rows) -> tuple[Tensor, Tensor, list[Tensor]]:
        policy = make(widths, dtype, neuron, 4, "cpu", alpha=0.7, memory=0.5)
        return run_actor(policy, observations[:, rows])

    actions, spikes, carries = run(slice(None))
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    for rows in (order, slice(0, 1), slice(0, 4), slice(4, 13), slice(12, 13)):
        some_actions, some_spikes, some_carries = run(rows)
        assert_same_bits(some_actions, actions[:, rows])
        assert_same_bits(some_spikes, spikes[:, :, rows])
        assert_results_equal(some_carries, [carry[rows] for carry in carries])


# Check 6: rows reset by mask equal a fresh batch's rows.


@backend
@each("neuron", DEFAULT_NEURONS)
@settings(check, max_examples=4)
@given(mask=st.lists(st.booleans(), min_size=4, max_size=4), as_numpy=st.booleans())
def test_rows_of_an_actor_reset_by_mask_equal_those_of_a_fresh_one(backend, neuron, mask, as_numpy):
    widths = ACTOR_WIDTHS["two-layers"]
    before, after = random_observations(4, 4, widths[0]).split(2)
    reset_rows = torch.tensor(mask)

    def policy():
        return make(widths, torch.float32, neuron, 3, backend, alpha=0.9, memory=0.5)

    undisturbed, partly_reset, fresh = policy(), policy(), policy()
    run_actor(undisturbed, before)
    run_actor(partly_reset, before)
    partly_reset.reset(np.array(mask) if as_numpy else reset_rows)
    kept = run_actor(undisturbed, after)
    new = run_actor(fresh, after)
    actions, spikes, carries = run_actor(partly_reset, after)
    assert_same_bits(actions, torch.where(reset_rows[:, None], new[0], kept[0]))
    assert_same_bits(spikes, torch.where(reset_rows, new[1], kept[1]))
    for carry, new_carry, kept_carry in zip(carries, new[2], kept[2], strict=True):
        assert_same_bits(carry, torch.where(reset_rows[:, None], new_carry, kept_carry))


@backend
@each("neuron", DEFAULT_NEURONS)
def test_rows_of_an_activation_reset_by_mask_equal_those_of_a_fresh_one(backend, neuron):
    layer = random_layer(Dynamics(neuron, 4), Size(4, 9), seed=2)

    def activation() -> SpikingActivation:
        return SpikingActivation(neuron, layer.threshold, 4, alpha=0.9, memory=0.5, bias=layer.bias, backend=backend)

    partly_reset, undisturbed, fresh = activation(), activation(), activation()
    mask = torch.tensor([True, False, True, False])
    for module in (partly_reset, undisturbed):
        module(layer.current.flip(0))
    partly_reset.reset(mask)
    spikes, kept, new = (module(layer.current) for module in (partly_reset, undisturbed, fresh))
    assert_same_bits(spikes, torch.where(mask[:, None], new, kept))
    assert not torch.equal(new, kept)


# The independent loop.


@backend
@each("timesteps", TIMESTEPS)
@each("carry", CARRIES)
@each("neuron", NEURONS)
def test_a_layer_computes_what_the_loop_over_single_neurons_does(backend, neuron, carry, timesteps):
    for name in ("ordinary", "on-boundaries", "zero-thresholds"):
        dynamics = Dynamics(neuron, timesteps, **carry)
        layer = INPUTS[name](random_layer(dynamics, Size(2, 9), torch.float64, seed=timesteps))
        expected = decide_layer(
            layer.current.numpy(),
            layer.threshold.numpy(),
            layer.carry.numpy(),
            dynamics,
            None if layer.bias is None else layer.bias.numpy(),
        )
        assert_equals_loop(run_layer(layer, backend), expected)


@backend
@each("neuron", NEURONS)
def test_a_constant_current_is_what_the_loop_codes_step_by_step(backend, neuron):
    dynamics = Dynamics(neuron, 6, alpha=0.6, memory=0.8)
    layer = random_layer(dynamics, Size(2, 9), torch.float64).constant()
    coded = np.apply_along_axis(lambda one: constant_code(one[0], dynamics), 0, layer.current.numpy()[None])
    bias = None if layer.bias is None else layer.bias.numpy()
    expected = decide_layer(coded, layer.threshold.numpy(), layer.carry.numpy(), dynamics, bias)
    assert_equals_loop(run_layer(layer, backend), expected)


def assert_equals_loop(result, expected) -> None:
    spikes, mean, _, carry, _ = expected
    np.testing.assert_array_equal(result.spikes.numpy(), spikes)
    np.testing.assert_array_equal(result.mean.numpy(), mean)
    np.testing.assert_array_equal(result.carry.numpy(), carry)
    np.testing.assert_array_equal(result.counts.numpy(), np.count_nonzero(spikes, axis=(0, 2)))


ACTOR_CARRIES = {name: CARRIES[name] for name in ("no-carry", "alpha-memory")}
ACTOR_NEURONS = {name: NEURONS[name] for name in ("if", "snm", "snm-original", "mt-L1", "mt-L4", "dc-L1", "dc-L4")}


@functools.cache
def loop_decisions(widths: tuple[int, ...], dynamics: Dynamics) -> list[tuple[np.ndarray, np.ndarray]]:
    """Actions and closeness of a float64 actor's decisions, from the loop."""
    actor, thresholds = random_actor(widths, torch.float64)
    hidden = [
        (layer.weight.numpy(), layer.bias.numpy(), threshold.numpy())
        for layer, threshold in zip(actor.hidden, thresholds, strict=True)
    ]
    output = (actor.output.weight.numpy(), actor.output.bias.numpy())
    loop = LoopActor(hidden, output, dynamics, scale=2.0, shift=0.25)
    return [loop.act(observation.numpy()) for observation in random_observations(3, 3, widths[0], torch.float64)]


@backend
@each("carry", ACTOR_CARRIES)
@each("neuron", ACTOR_NEURONS)
@each("widths", ACTOR_WIDTHS)
def test_a_float64_actor_acts_as_the_loop_does(backend, widths, neuron, carry):
    policy = make(widths, torch.float64, neuron, 4, backend, **carry)
    expected = loop_decisions(widths, policy.dynamics)
    for observation, (actions, closest) in zip(
        random_observations(3, 3, widths[0], torch.float64), expected, strict=True
    ):
        assert (closest >= 1e-9).all(), "choose another seed: rounding may turn a comparison"
        np.testing.assert_allclose(policy(observation).numpy(), actions, rtol=0, atol=1e-12)


@functools.cache
def reference_decisions(widths: tuple[int, ...], dynamics: Dynamics, batch: int) -> list[tuple[Tensor, Tensor]]:
    """Actions and margins of a float32 actor's decisions, from the reference in float64."""
    actor, thresholds = random_actor(widths)
    actor = actor.double()
    hidden = [
        (layer.weight, layer.bias, threshold.double())
        for layer, threshold in zip(actor.hidden, thresholds, strict=True)
    ]
    output = (actor.output.weight, actor.output.bias)
    carries = [torch.zeros(batch, len(threshold)).double() for threshold in thresholds]
    results = []
    for observation in random_observations(2, batch, widths[0]):
        decision = reference.actor(observation.double(), hidden, output, carries, dynamics)
        carries = [layer.carry for layer in decision.layers]
        margin = torch.stack([layer.margin for layer in decision.layers]).amin(dim=0)
        results.append((2.0 * decision.output.tanh() + 0.25, margin))
    return results


@backend
@each("carry", ACTOR_CARRIES)
@each("neuron", {**ACTOR_NEURONS, "mt-L7": NEURONS["mt-L7"], "dc-L7": NEURONS["dc-L7"]})
@each("widths", ACTOR_WIDTHS)
def test_a_float32_actor_follows_the_float64_reference_where_no_comparison_is_close(backend, widths, neuron, carry):
    batch = 64
    policy = make(widths, torch.float32, neuron, 4, backend, **carry)
    expected = reference_decisions(widths, policy.dynamics, batch)
    sure = torch.full((batch,), True)
    for observation, (actions, margin) in zip(random_observations(2, batch, widths[0]), expected, strict=True):
        sure &= margin >= 1e-5
        torch.testing.assert_close(policy(observation)[sure].double(), actions[sure], rtol=0, atol=1e-4)
    # Q of DC often equals a level but for rounding, and then the margin of the whole row is 0.
    assert sure.float().mean() >= (0.03 if neuron.kind is Kind.DC else 0.8)
