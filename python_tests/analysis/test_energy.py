"""Costs counted by hand on a network whose spikes are known, and by formula on dense ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.builders import NEURONS, make_actor, make_observations

import snnkern
from snnkern.analysis.energy import Energies, Operations, dense_cost, spiking_cost


def tiny(neuron, timesteps: int, alpha: float = 0.0) -> snnkern.SpikingActor:
    """1 -> 2 -> 3 -> 1; with the observation 1 every hidden neuron receives θ / 2 = 0.5 on average."""
    layers = [
        (torch.tensor([[0.5], [0.5]]), torch.zeros(2)),
        (torch.full((3, 2), 0.5), torch.zeros(3)),
        (torch.ones(1, 3), torch.zeros(1)),
    ]
    actor = snnkern.Actor(layers[:-1], layers[-1])
    thresholds = [torch.ones(2), torch.ones(3)]
    return snnkern.convert(actor, thresholds=thresholds, neuron=neuron, timesteps=timesteps, alpha=alpha)


def test_if_counted_by_hand() -> None:
    """β = 0.5 and a current of 0.5: u = 1.0 (no spike: strict), 1.5 → 0.5, 1.0, 1.5 → 0.5: two spikes in four steps."""
    cost = spiking_cost(tiny("if", 4), np.ones((5, 1)))
    first, second, output = cost.layers
    assert first.spikes == 2 * 2
    assert first.synaptic_operations == 0
    assert first.synapses == Operations(additions=2, multiplications=2, reads=2 + 2)
    assert first.neurons == Operations(additions=2 * 4 + 4)
    # The second layer receives 1 at steps 2 and 4: u = 0.5, 1.5 → 0.5, 0.5, 1.5 → 0.5.
    assert second.spikes == 2 * 3
    assert second.synaptic_operations == 4 * 3
    assert second.synapses == Operations(additions=12, reads=12 + 3)
    assert second.neurons == Operations(additions=3 * 4 + 6)
    assert output.synapses == Operations(additions=3, multiplications=3, reads=3 + 1)
    additions, multiplications = 2 + 12 + 12 + 18 + 3, 2 + 3
    assert cost.operations.additions == additions
    assert cost.nanojoules() == pytest.approx(1e-3 * (0.9 * additions + 3.7 * multiplications))
    assert cost.nanojoules(Energies(multiplication=0, addition=0, read=1)) == pytest.approx(1e-3 * (4 + 15 + 4))


def test_the_scaling_of_mt_counted_by_hand() -> None:
    """A current of 0.5 with θ = 1: the level 0.5 at each step, whose sum every receiving neuron halves."""
    cost = spiking_cost(tiny("mt", 2), np.ones((3, 1)))
    first, second, _ = cost.layers
    assert first.spikes == 2 * 2
    assert second.synaptic_operations == 4 * 3
    assert second.synapses == Operations(additions=4 * 3, scalings=2 * 3, reads=4 * 3 + 3)
    # The largest level is not scaled: with a threshold of half the size, 0.5 is it.
    snn = tiny("mt", 2)
    snn.hidden[0].threshold.fill_(0.5)
    cost = spiking_cost(snn, np.ones((3, 1)))
    assert cost.layers[1].synaptic_operations == 4 * 3
    assert cost.layers[1].synapses.scalings == 0


def test_the_decoding_of_dc_counted_by_hand() -> None:
    """The value 0.5 is sent once, at the first step, and stands until it changes."""
    first, second, _ = spiking_cost(tiny("dc", 4), np.ones((3, 1))).layers
    assert (first.spikes, second.spikes) == (2, 3)
    assert first.synapses == Operations(additions=2, multiplications=2, reads=4)
    # u += e^x − e at 4 steps, u += x and e^x += x once, u −= s and e += s once; Q = t·e at 4 steps, s / t once.
    assert first.neurons == Operations(additions=2 * (2 * 4 + 2 + 2), multiplications=2 * (4 + 1))
    assert second.synapses == Operations(additions=2 * 3, scalings=3, reads=2 * 3 + 3)
    assert second.neurons == Operations(additions=3 * (4 * 4 + 2), multiplications=3 * (4 + 4 + 1))


def test_the_carry_has_its_price() -> None:
    without, with_carry = (spiking_cost(tiny("if", 4, alpha), np.ones((1, 1))) for alpha in (0.0, 0.5))
    extra = [with_carry.layers[index].neurons for index in (0, 1)]
    base = [without.layers[index].neurons for index in (0, 1)]
    for width, more, less in zip((2, 3), extra, base, strict=True):
        assert more.additions - less.additions == 2 * width
        assert more.multiplications - less.multiplications == 2 * width


def test_a_dense_actor_costs_a_multiply_accumulate_per_weight() -> None:
    actor = make_actor(3, 5, 7, 2)
    weights = 3 * 5 + 5 * 7 + 7 * 2
    cost = dense_cost(actor)
    assert cost.operations == Operations(weights, weights, 0, weights + 5 + 7 + 2)
    assert cost.nanojoules() == pytest.approx(4.6e-3 * weights)
    assert (cost.spikes, cost.synaptic_operations) == (0, 0)
    observations = make_observations(50, 3)
    active = [(a > 0).sum(dim=1).double().mean().item() for a in actor.hidden_activations(torch.tensor(observations))]
    skipping = dense_cost(actor, observations)
    assert skipping.operations.additions == pytest.approx(3 * 5 + active[0] * 7 + active[1] * 2)


@pytest.mark.parametrize("neuron", NEURONS)
def test_spikes_are_those_that_the_actor_counts(neuron) -> None:
    snn = snnkern.convert(make_actor(3, 9, 8, 2), make_observations(60, 3), neuron=neuron, timesteps=3, alpha=0.4)
    observations = make_observations(12, 3, seed=5).reshape(6, 2, 3)
    running = np.arange(6)[:, None] < np.array([6, 4])
    counted = np.zeros(2)
    for observation, rows in zip(observations, running, strict=True):
        snn.act(observation)
        counted += snn.spikes[:, rows].sum(dim=1).numpy()
    cost = spiking_cost(snn, observations, running)
    assert [layer.spikes for layer in cost.layers[:-1]] == pytest.approx(counted / 10)
    summary = cost.to_dict()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert sum(layer["nanojoules"] for layer in summary["layers"]) == pytest.approx(summary["nanojoules"])


def test_mistakes_are_named() -> None:
    with pytest.raises(snnkern.InputError, match=r"the pJ of one addition must be a number from 0 to 1e\+09, got -1"):
        Energies(addition=-1)
    with pytest.raises(snnkern.InputError, match="with a decision that counts"):
        spiking_cost(tiny("if", 2), np.ones((3, 1)), np.zeros((3, 1), dtype=bool))
    with pytest.raises(snnkern.InputError, match=r"must be \[decisions, B, 1\]"):
        spiking_cost(tiny("if", 2), np.ones((3, 2)))
