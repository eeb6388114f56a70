"""Thresholds fitted to a neuron and a T, and corrections of the layer above."""

import numpy as np
import pytest
import torch
from support.builders import NEURONS, identity_actor, make_actor, make_observations
from support.visual import FORMS, frames, visual_actor

import snnkern
from snnkern import InputError
from snnkern.conversion.fitting import CANDIDATES, fit, gaussian_threshold
from snnkern.conversion.rules import Fitted
from snnkern.conversion.sensitivity import sensitivity, squared_slope
from snnkern.kernels.neurons import Dynamics, parse_neuron


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


@pytest.mark.parametrize("neuron", NEURONS)
def test_an_observation_given_many_times_spoils_no_weights(neuron):
    actor = make_actor(4, 9, 13, 2)
    how = Fitted(weighted=True, correction="linear")
    found = fit(actor, make_observations(1, 4).repeat(200, 0), how, neuron=neuron)
    for fitted, trained in zip([*found.actor.hidden, found.actor.output], [*actor.hidden, actor.output], strict=True):
        assert torch.equal(fitted.weight, trained.weight)


@pytest.mark.parametrize("form", ["vectors", "two-convolutions"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_actions_of_a_matched_output_layer_have_no_mean_error(neuron, form):
    actor = make_actor(4, 9, 13, 2, seed=3) if form == "vectors" else visual_actor(FORMS[form])
    rows = make_observations(400, 4) if form == "vectors" else frames(200, FORMS[form].image)
    given = {"neuron": neuron, "timesteps": 2, "calibration": "mse:weighted:linear", "alpha": 0}
    fitted, matched = (
        snnkern.convert(actor, rows, **given | {"calibration": f"mse:weighted:linear{part}"})
        for part in ("", ":matched")
    )
    errors = [abs((snn.act(rows) - actor.act(rows)).mean(axis=0)).max() for snn in (fitted, matched)]
    assert errors[1] < 1e-4 < errors[0]
    for one, other in zip(fitted.hidden, matched.hidden, strict=True):
        assert torch.equal(one.weight, other.weight)


def test_matched_needs_a_tanh_and_a_linear_correction():
    actor, rows = make_actor(4, 9, 13, 2, squash=False), make_observations(50, 4)
    fitted, matched = (
        fit(actor, rows, Fitted(correction="linear", matched=matched), neuron="if", timesteps=2)
        for matched in (False, True)
    )
    assert torch.equal(fitted.actor.output.weight, matched.actor.output.weight)
    with pytest.raises(InputError, match="matched belongs to the correction 'linear', got correction 'bias'"):
        Fitted(correction="bias", matched=True)


@pytest.mark.parametrize("squash", [True, False])
def test_sensitivity_is_the_squared_jacobian_where_errors_are_small(squash):
    actor = make_actor(4, 9, 7, 2, squash=squash)
    rows = torch.from_numpy(make_observations(20, 4))
    with torch.no_grad():
        activations = actor.hidden_activations(rows)
        found = sensitivity(actor, activations, torch.full((2,), 1e-3))

    def action(first):
        z = actor.output(torch.relu(actor.hidden[1](first)))
        return torch.tanh(z) if squash else z

    jacobian = torch.stack([torch.autograd.functional.jacobian(action, row) for row in activations[0]])
    squares = jacobian.square().sum(dim=1)
    mean = squares.mean(dim=0)
    wanted = torch.where(mean > 0, squares / mean, 1.0) + 0.01
    torch.testing.assert_close(found.hidden[0], wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sees", [False, True])
def test_with_a_high_floor_all_states_count_alike(sees):
    """And with a low one they do not."""
    actor = visual_actor(FORMS["two-convolutions"]) if sees else make_actor(4, 9, 7, 2, seed=3)
    rows = torch.from_numpy(frames(40, FORMS["two-convolutions"].image) if sees else make_observations(400, 4))
    given = {"neuron": "if", "timesteps": 2}
    alike = torch.cat(fit(actor, rows, **given).thresholds)
    high, low = (
        torch.cat(fit(actor, rows, Fitted(weighted=True, floor=floor), **given).thresholds) for floor in (1e6, 1e-3)
    )
    assert torch.equal(high, alike)
    assert not torch.equal(low, alike)
    with pytest.raises(InputError, match="floor must be a finite number above 0, got 0"):
        Fitted(floor=0)


def test_sensitivity_takes_large_errors_for_what_they_do():
    # Far in saturation a small error moves nothing; one as large as z does.
    z = torch.tensor([[0.0], [4.0]])
    small, large = (squared_slope(z, torch.tensor([deviation])) for deviation in (0.1, 4.0))
    assert small[1] / small[0] < 1e-4
    assert large[1] / large[0] > 0.1
    draws = 4.0 * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    sampled = (torch.tanh(4.0 + draws) - torch.tanh(torch.tensor(4.0))).square().mean() / 16.0
    assert float(large[1]) == pytest.approx(float(sampled), rel=0.25)  # nine nodes for a function this steep


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rule", ["mse", "gaussian"])
@pytest.mark.parametrize("correction", ["none", "bias", "linear"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_one_observation_and_silent_neurons(neuron, correction, rule, weighted):
    actor = make_actor(4, 9, 13, 2)
    found = fit(actor, make_observations(1, 4), Fitted(rule, weighted, correction), neuron=neuron, timesteps=1)
    assert all(torch.isfinite(parameter).all() for parameter in found.actor.parameters())
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
        Fitted("median")
