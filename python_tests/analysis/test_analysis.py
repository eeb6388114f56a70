"""The analysis of error amplification on cases whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from support.builders import NEURONS, make_actor, make_observations

pytest.importorskip("scipy", reason="SciPy is not installed")

import snnkern
from snnkern.analysis.amplification import CRPI, DENSE, OTHER, PLAIN, RANDOM, WHITE, analyze
from snnkern.analysis.residuals import raster, residuals
from snnkern.policies.spiking import corrected_actor


class Pushed(gymnasium.Env):
    """Two coordinates that decay and that the action pushes; the reward is minus the distance from the origin."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.normal(size=2), 0
        return self.state.copy(), {}

    def step(self, action):
        self.state = 0.9 * self.state + 0.3 * np.asarray(action, dtype=np.float64)
        self.steps += 1
        return self.state.copy(), -float(np.abs(self.state).sum()), False, self.steps == 60, {}


@pytest.fixture(scope="module")
def actor() -> snnkern.Actor:
    return make_actor(2, 12, 10, 2, seed=3)


@pytest.fixture(scope="module")
def thresholds(actor) -> list[torch.Tensor]:
    return snnkern.calibrate(actor, make_observations(500, 2))


def test_a_perfect_conversion_loses_nothing(actor, thresholds) -> None:
    """At T = 512 a spiking action is the dense one to about 1 / T, so all that compares the two is near zero."""
    dynamics = snnkern.Dynamics(snnkern.SNM(), 512, alpha=0.5)
    found = analyze(actor, Pushed, dynamics, thresholds=[2 * theta for theta in thresholds], episodes=2)
    assert all(errors.size.value < 0.01 for errors in found.errors)
    for divergence in found.divergences[:2]:
        assert max(divergence.distance.value) < 0.05
        assert divergence.shift.average.value < 0.02
    own = {entry.actions: entry.mean.value for entry in found.returns if entry.states == DENSE}
    assert own[PLAIN] == pytest.approx(own[DENSE], rel=1e-3)
    assert own[RANDOM] != pytest.approx(own[DENSE], rel=1e-2)


def test_what_it_says_is_what_evaluation_says(actor, thresholds) -> None:
    dynamics = snnkern.Dynamics(snnkern.IF(), 3, alpha=0.4, memory=0.5)
    heard: list[tuple[str, int, int]] = []
    found = analyze(
        actor, Pushed, dynamics, thresholds=thresholds, episodes=4, seed=7, progress=lambda *said: heard.append(said)
    )
    settings = {DENSE: None, PLAIN: replace(dynamics, alpha=0.0, memory=0.0), CRPI: dynamics}
    for name, setting in settings.items():
        policy = snnkern.SpikingActor(actor, thresholds, setting) if setting else actor
        wanted = snnkern.evaluate(policy, Pushed, episodes=4, seed=7)
        (entry,) = (entry for entry in found.returns if entry.states == entry.actions == name)
        assert entry.returns == pytest.approx(wanted.returns, rel=1e-5)
    (other,) = (entry for entry in found.returns if entry.states == OTHER)
    assert other.returns == pytest.approx(snnkern.evaluate(actor, Pushed, episodes=4, seed=11).returns, rel=1e-5)
    pairs = {(errors.states, errors.actions) for errors in found.errors}
    assert pairs == {(DENSE, PLAIN), (DENSE, CRPI), (PLAIN, PLAIN), (CRPI, CRPI)}
    for divergence in found.divergences:
        started = divergence.distance.value[0]
        assert started == 0 if divergence.states != OTHER else started > 0.1
    described = found.to_dict()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert heard[-1] == ("inside the layers", 2, 2)
    assert heard[0] == ("dense drives", 0, 4)


def test_a_corrected_actor_spikes_with_its_corrections(actor) -> None:
    snn = snnkern.convert(actor, make_observations(500, 2), neuron="if", timesteps=2, alpha=0.0)
    corrected = corrected_actor(snn)
    found = analyze(actor, Pushed, snn.dynamics, thresholds=snn.thresholds, corrected=corrected, episodes=3)
    returns = {entry.states: entry.returns for entry in found.returns if entry.states == entry.actions}
    assert returns[PLAIN] == pytest.approx(snnkern.evaluate(snn, Pushed, episodes=3).returns, rel=1e-5)
    assert returns[DENSE] == pytest.approx(snnkern.evaluate(actor, Pushed, episodes=3).returns, rel=1e-5)


def test_noise_is_as_large_as_the_errors(actor, thresholds) -> None:
    found = analyze(actor, Pushed, snnkern.Dynamics(snnkern.IF(), 2), thresholds=thresholds, episodes=2)
    open_loop = next(errors for errors in found.errors if errors.states == DENSE)
    assert np.sqrt(np.mean(np.square(found.noise["deviation"]))) == pytest.approx(open_loop.size.value, rel=0.02)
    assert found.noise["kept"] == pytest.approx(min(1.0, open_loop.autocorrelation.value[1]))
    assert {entry.states for entry in found.returns} >= {WHITE, PLAIN}
    assert CRPI not in found.residuals  # there is no carry to compare with


def test_errors_of_an_actor_without_tanh_are_fractions_of_the_environments_range() -> None:
    class Wide(Pushed):
        action_space = gymnasium.spaces.Box(-1.0, 4.0, (2,), np.float32)

    actor = make_actor(2, 12, 2, squash=False)  # an action_scale of 1 says nothing of a range
    thresholds = snnkern.calibrate(actor, make_observations(500, 2))
    found = analyze(actor, Wide, snnkern.Dynamics(snnkern.IF(), 2), thresholds=thresholds, episodes=2)
    open_loop = next(errors for errors in found.errors if errors.states == DENSE)
    deviation = np.sqrt(np.mean(np.square(found.noise["deviation"])))
    assert deviation == pytest.approx(2.5 * open_loop.size.value, rel=0.3)


@pytest.mark.parametrize("neuron", NEURONS)
def test_residuals_and_the_clamp_by_hand(neuron) -> None:
    """One neuron with θ = 1, T = 1 and a current of 0.31, so that r and the carry are easily followed."""
    layer = (torch.ones(1, 1), torch.zeros(1))
    actor = snnkern.Actor([layer], layer)
    snn = snnkern.convert(actor, thresholds=[torch.ones(1)], neuron=neuron, timesteps=1, alpha=0.5, clip=0.1)
    observations = np.full((1, 2, 1), 0.31)
    (found,) = residuals(snn, observations, np.array([[True, True]]))
    sent = 0.25 if neuron in ("mt", "dc") else 0.0
    assert found.owing == 1.0
    assert found.mean == pytest.approx(0.31 - sent, abs=1e-6)
    assert (found.large, found.one_too_many) == (0, 0)
    assert found.clamped == (1.0 if sent == 0 else 0.0)
    assert found.carry == pytest.approx(min(0.5 * (0.31 - sent), 0.1), abs=1e-6)
    assert sum(found.share) == pytest.approx(1)
    (bin_,) = np.flatnonzero(found.share)
    assert found.edges[bin_] <= 0.31 - sent <= found.edges[bin_ + 1]
    (idle,) = residuals(snn, -observations, np.array([[True, True]]))
    assert (idle.owing, idle.clamped, idle.carry) == (0, 0, 0)


def test_a_spike_too_many_is_a_residual_of_one_threshold() -> None:
    """The first layer sends 1 at the first step and −1 through another neuron at the second: the second layer, which
    receives nothing on average, has sent one spike by then."""
    first = (torch.tensor([[0.6], [0.5]]), torch.zeros(2))
    second = (torch.tensor([[2.0, -3.0]]), torch.zeros(1))
    actor = snnkern.Actor([first, second], (torch.ones(1, 1), torch.zeros(1)))
    snn = snnkern.convert(actor, thresholds=[torch.ones(2), torch.ones(1)], neuron="if", timesteps=2)
    _, found = residuals(snn, np.ones((3, 1, 1)), np.ones((3, 1), dtype=bool))
    assert (found.owing, found.one_too_many, found.large, found.mean) == (1, 1, 0, -1)


@pytest.mark.parametrize("neuron", NEURONS)
def test_a_raster_continues_from_decision_to_decision(actor, thresholds, neuron) -> None:
    snn = snnkern.convert(actor, thresholds=thresholds, neuron=neuron, timesteps=3, alpha=1.0)
    observations = make_observations(30, 2, seed=4)
    found = raster(snn, observations, first=10, decisions=4, neurons=5)
    assert (found.first, found.decisions, found.timesteps) == (10, 4, 3)
    beta = snn.dynamics.neuron.initial_fraction
    snn.reset()
    for step in range(10):
        snn.act(observations[step : step + 1])
    for layer, spiking in zip(found.layers, snn.hidden, strict=True):
        assert np.shape(layer.spikes) == np.shape(layer.potentials) == (12, 5)
        carried = spiking.carry.value[0, layer.neurons] / spiking.threshold[layer.neurons]
        assert layer.carries[0] == pytest.approx(carried.tolist(), abs=1e-5)
        last, ends = np.array(layer.potentials)[2], np.array(layer.carries)
        sent = np.array(layer.spikes)[:3].sum(axis=0)
        if neuron != "dc":  # r = u_T − u_0 wherever something was sent, and α = 1 carries all of it
            gained = np.clip(last - beta - ends[0], np.minimum(-sent, 0), None)
            assert ends[1] == pytest.approx(np.clip(gained, -0.5, 0.5), abs=1e-5)
    counts = [(np.array(layer.spikes) != 0).sum() for layer in found.layers]
    assert min(counts) > 0


def test_a_short_episode_is_shown_whole(actor, thresholds) -> None:
    snn = snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=2)
    found = raster(snn, make_observations(3, 2))
    assert (found.first, found.decisions) == (0, 3)


def test_mistakes_are_named(actor, thresholds) -> None:
    dynamics = snnkern.Dynamics(snnkern.IF(), 2)
    with pytest.raises(snnkern.InputError, match="episodes must be a whole number of at least 1, got 0"):
        analyze(actor, Pushed, dynamics, thresholds=thresholds, episodes=0)
    with pytest.raises(snnkern.InputError, match="actor must be an Actor"):
        analyze("td3-hopper", Pushed, dynamics, thresholds=thresholds)
    with pytest.raises(snnkern.InputError, match="observation space"):
        analyze(make_actor(3, 4, 2), Pushed, dynamics, thresholds=[torch.ones(4)])
