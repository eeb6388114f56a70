"""Thresholds fitted to a neuron and a T, and corrections of the layer above."""

import numpy as np
import pytest
import torch
from builders import NEURONS, identity_actor, make_actor, make_observations

import snnkern
from snnkern import InputError
from snnkern.fitting import CANDIDATES, fit, gaussian_threshold, least_squares
from snnkern.neurons import Dynamics, parse_neuron


@pytest.mark.parametrize("timesteps", [1, 2, 5])
@pytest.mark.parametrize("neuron", NEURONS)
def test_mse_is_the_best_candidate_of_a_loop_over_neurons(neuron, timesteps):
    observations = make_observations(60, 3)
    (threshold,) = fit(identity_actor(3), observations, neuron=neuron, timesteps=timesteps).thresholds
    dynamics = Dynamics(parse_neuron(neuron), timesteps)
    for column in range(3):
        values = torch.from_numpy(observations[:, column : column + 1])
        wanted = values.clamp(min=0.0)

        def error(theta, values=values, wanted=wanted):
            bias = torch.zeros(1) if neuron == "dc" else None
            mean, _, _ = snnkern.ops.neuron_mean(
                values, theta.reshape(1), torch.zeros(60, 1), dynamics, bias=bias, backend="reference"
            )
            return float((mean - wanted).square().mean())

        best = min(error(wanted.max() * fraction) for fraction in CANDIDATES)
        assert error(threshold[column]) == pytest.approx(best, rel=1e-4, abs=1e-9)


def test_least_squares_finds_the_weights_that_explain_the_targets():
    inputs = torch.from_numpy(make_observations(200, 4)).double()
    weight, bias = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double(), torch.ones(2).double()
    found, offset = least_squares(inputs, inputs @ weight.T + bias, torch.zeros_like(weight), bias * 0, 1e-9)
    torch.testing.assert_close(found, weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(offset, bias, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", ["max", "mse", "gaussian"])
@pytest.mark.parametrize("correction", ["none", "bias", "linear"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_one_observation_and_silent_neurons(neuron, correction, rule):
    actor = make_actor(4, 9, 13, 2)
    found = fit(actor, make_observations(1, 4), neuron=neuron, timesteps=1, rule=rule, correction=correction)
    activations = actor.hidden_activations(torch.from_numpy(make_observations(1, 4)))
    for threshold, activation in zip(found.thresholds, activations, strict=True):
        assert torch.isfinite(threshold).all()
        assert torch.equal(threshold > 0, activation[0] > 0)


def test_gaussian_threshold_beats_its_neighbours_on_normal_drives():
    drive = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0)) * 2.0 + 1.0
    theta = gaussian_threshold(drive, 1, 8)

    def error(theta):
        steps = (drive / theta * 8).round().clamp(0, 8)
        return float((drive - theta * steps / 8).square().mean())

    assert error(theta) < min(error(theta * 0.93), error(theta * 1.07))


def test_bad_input_is_refused():
    actor = make_actor(4, 9, 2)
    for bad, message in ((np.full((2, 4), np.nan, np.float32), "NaN"), (np.zeros((0, 4), np.float32), "empty")):
        with pytest.raises(InputError, match=message):
            fit(actor, bad)
    with pytest.raises(InputError, match="unknown rule 'median'"):
        fit(actor, make_observations(2, 4), rule="median")
