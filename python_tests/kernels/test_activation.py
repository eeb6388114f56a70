"""Spiking activations: what they compute, the carry that belongs to a row, what a call may be given."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from support.builders import NEURONS, make_layers, make_observations
from torch import nn

import snnkern
from snnkern import InputError, SpikingActivation
from snnkern.kernels import reference

BACKENDS = [status.name for status in snnkern.backends() if status.available]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize(
    ("shape", "features"),
    [
        pytest.param((), (3, 4, 5), id="scalar"),
        pytest.param((3,), (3, 4, 5), id="per-channel"),
        pytest.param((3, 4, 5), (3, 4, 5), id="full"),
        pytest.param((7,), (7,), id="per-neuron"),
        pytest.param((4,), (4, 4), id="per-channel-square"),
    ],
)
def test_thresholds_spread_over_the_features(neuron, shape, features, backend):
    generator = torch.Generator().manual_seed(3)
    threshold = torch.rand(shape, generator=generator) + 0.1
    bias = torch.randn(shape, generator=generator) if neuron == "dc" else None
    current = torch.randn(6, 2, *features, generator=generator)
    module = SpikingActivation(neuron, threshold, 6, alpha=0.5, memory=0.25, clip=0.4, bias=bias, backend=backend)

    def spread(value):
        trailing = [1] * (len(features) - value.dim())
        return value.reshape(*value.shape, *trailing).expand(features).flatten()

    carry = torch.zeros(2, math.prod(features))
    for _ in range(3):
        spikes = module(current)
        flat_bias = None if bias is None else spread(bias)
        expected = reference.neuron(current.flatten(2), spread(threshold), carry, module.dynamics, flat_bias)
        carry = expected.carry
        assert torch.equal(spikes, expected.spikes.reshape(current.shape))
        assert torch.equal(module.spikes, expected.counts)
    assert module.spikes.sum() > 0


def run_converted(neuron: str, layers, observation: torch.Tensor, timesteps: int) -> torch.Tensor:
    """A Linear, SpikingActivation, Linear network on a constant time-first input; its mean output."""
    (weight, bias), (out_weight, out_bias) = layers
    differential = neuron == "dc"
    first = nn.Linear(*weight.T.shape, bias=not differential)
    last = nn.Linear(*out_weight.T.shape, bias=not differential)
    with torch.no_grad():
        first.weight.copy_(weight)
        last.weight.copy_(out_weight)
        if not differential:
            first.bias.copy_(bias)
            last.bias.copy_(out_bias)
        threshold = (observation @ weight.T + bias).relu().amax(0)
        activation = SpikingActivation(neuron, threshold, timesteps, bias=bias if differential else None)
        network = nn.Sequential(first, activation, last)
        signal = observation.expand(timesteps, *observation.shape).clone()
        if differential:
            signal[1:] = 0.0  # a constant is coded as itself and no change
        out = network(signal)
    if differential:
        steps = torch.arange(1, timesteps + 1).reshape(-1, 1, 1)
        return (out / steps).sum(0) + out_bias
    return out.mean(0)


@pytest.mark.parametrize("neuron", NEURONS)
def test_inside_a_sequential_the_mean_approaches_relu(neuron):
    layers, observation = make_layers(6, 10, 4), torch.from_numpy(make_observations(20, 6, seed=2))
    (weight, bias), (out_weight, out_bias) = layers
    hidden = (observation @ weight.T + bias).relu()
    exact = hidden @ out_weight.T + out_bias
    errors = {t: (run_converted(neuron, layers, observation, t) - exact).abs().max().item() for t in (4, 256)}
    bound = float((out_weight.abs() @ hidden.amax(0)).max()) / 256  # every neuron wrong by θ / T
    assert errors[256] <= bound + 1e-5
    assert errors[256] < errors[4]
    assert (hidden > 0).any()


def test_an_activation_keeps_a_carry_for_each_row():
    activation = SpikingActivation("if", torch.tensor(1.0), 4, alpha=1.0)
    current = torch.rand(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    first = activation(current)
    kept = activation.carry.value
    assert not torch.equal(activation(current), first)
    with pytest.raises(InputError, match=r"carry belongs to a batch of shape \[3, 10\].*reset\(\)"):
        activation(current[:, :2])
    with pytest.raises(InputError, match=r"carry belongs to a batch of shape \[3, 10\].*reset\(\)"):
        activation(torch.rand(4, 3, 5))
    activation.reset(np.array([False, True, False]))
    assert not activation.carry.value[1].any()
    activation.reset()
    assert torch.equal(activation(current), first)
    assert torch.equal(activation.carry.value, kept)


@pytest.mark.parametrize(
    ("current", "message"),
    [
        pytest.param(torch.zeros(3, 2, 5), r"\[T, B, ...\] with T = 4, got shape \[3, 2, 5\]", id="timesteps"),
        pytest.param(torch.zeros(4, 2), r"\[T, B, ...\] with T = 4, got shape \[4, 2\]", id="no-features"),
        pytest.param(torch.tensor(1.0), r"\[T, B, ...\] with T = 4, got shape \[\]", id="scalar"),
        pytest.param(torch.zeros(4, 2, 6), r"threshold must be .*\[6\].* got shape \[5\]", id="threshold"),
        pytest.param(
            torch.zeros(4, 2, 3, 5), r"threshold must be .*\[3\] or \[3, 5\].* got shape \[5\]", id="channels"
        ),
        pytest.param(torch.zeros(4, 2, 5).double(), "float32, but current is torch.float64", id="float64"),
        pytest.param(torch.zeros(4, 2, 5).long(), "floating-point tensor, got torch.int64", id="int"),
        pytest.param(torch.zeros(4, 2, 5, requires_grad=True), "current requires grad", id="requires-grad"),
    ],
)
def test_a_current_that_does_not_fit_is_refused_and_the_carry_kept(current, message):
    activation = SpikingActivation("mt", torch.ones(5), 4, alpha=1.0)
    activation(torch.rand(4, 2, 5))
    kept, spikes = activation.carry.value, activation.spikes
    with pytest.raises(InputError, match=message):
        activation(current)
    assert torch.equal(activation.carry.value, kept)
    assert torch.equal(activation.spikes, spikes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"neuron": "izhikevich"}, "unknown neuron 'izhikevich': choose one of if, snm, mt, dc, lif", id="neuron"
        ),
        pytest.param({"timesteps": 0}, "timesteps .* got 0", id="timesteps"),
        pytest.param({"alpha": 1.5}, "alpha .* got 1.5", id="alpha"),
        pytest.param({"memory": -0.1}, "memory .* got -0.1", id="memory"),
        pytest.param({"clip": math.nan}, "clip .* got nan", id="clip"),
        pytest.param({"threshold": torch.tensor(-1.0)}, "threshold must be finite and at least 0", id="negative"),
        pytest.param({"threshold": torch.tensor([1.0, math.nan])}, "1 of 2 are not .first: nan", id="nan"),
        pytest.param({"threshold": torch.tensor(math.inf)}, "threshold must be finite", id="inf"),
        pytest.param(
            {"threshold": torch.ones(3, dtype=torch.int64)}, "floating-point tensor, got torch.int64", id="int"
        ),
        pytest.param({"threshold": "high"}, "threshold", id="text"),
        pytest.param({"neuron": "dc", "bias": torch.full((3,), math.nan)}, "bias", id="bias-nan"),
        pytest.param({"neuron": "dc", "bias": [0.1, 0.2, "x"]}, "bias", id="bias-text"),
        pytest.param({"neuron": "if", "bias": torch.ones(3)}, "bias is for DC neurons", id="bias-of-if"),
    ],
)
def test_an_activation_with_bad_parameters_is_refused_when_made(arguments, message):
    with pytest.raises(InputError, match=message):
        SpikingActivation(**{"neuron": "mt", "threshold": torch.ones(3), "timesteps": 4} | arguments)


def test_a_bias_that_does_not_fit_is_refused():
    activation = SpikingActivation("dc", torch.ones(3), 4, bias=torch.ones(2))
    with pytest.raises(InputError, match=r"bias must be .*got shape \[2\]"):
        activation(torch.zeros(4, 2, 3))


@pytest.mark.parametrize("neuron", NEURONS)
def test_an_activation_is_a_module_like_any_other(neuron):
    bias = torch.tensor([0.1, 0.2]) if neuron == "dc" else None
    activation = SpikingActivation(neuron, torch.tensor([0.5, 1.5]), 4, alpha=1.0, bias=bias)
    current = torch.rand(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    activation(current)
    twins = [copy.deepcopy(activation), pickle.loads(pickle.dumps(activation))]
    expected = activation(current)
    assert all(torch.equal(twin(current), expected) for twin in twins)
    empty = None if bias is None else torch.zeros(2)
    other = SpikingActivation(neuron, torch.zeros(2), 4, alpha=1.0, bias=empty)
    other.load_state_dict(activation.state_dict())
    activation.reset()
    assert torch.equal(other(current), activation(current))
    assert activation.double()(current.double()).dtype == torch.float64


def test_an_activation_on_an_empty_batch():
    activation = SpikingActivation("mt", torch.ones(5), 4)
    assert activation(torch.zeros(4, 0, 5)).shape == (4, 0, 5)
    assert activation.spikes.shape == (0,)
