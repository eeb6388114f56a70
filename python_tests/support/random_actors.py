"""Spiking actors and episodes of every kind, chosen by a seeded generator."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

import snnkern
from snnkern import Actor, Interface, Neuron, SpikingActor
from snnkern.kernels.neurons import Kind, neuron_from
from support.cases import random_actor, random_observations
from support.engine_cases import FORMS

# Around the widths of vectors and blocks. The wide ones are most of the time, so they are a third of the layers.
NARROW, WIDE = [1, 2, 3, 8, 15, 16, 17, 31, 33, 63], [64, 65, 127, 129, 255, 257, 1000]


class Episode(NamedTuple):
    """Observations `[D, B, I]`, rows to reset before a decision, and how each decision is asked for.

    `alpha` is one number, or one for every row.
    """

    alpha: float | list[float]

    observations: Tensor
    resets: dict[int, Tensor]
    forms: list[str]


def random_neuron(kind: Kind, choose: random.Random) -> Neuron:
    parameters = {"initial_fraction": choose.choice([0.0, 0.5, 1.0, choose.random()])}
    parameters["negative_fraction"] = choose.choice([-1.0, -0.3, 0.0, 0.4])
    parameters["leak"] = choose.choice([0.0, 0.1, 0.5, 0.99])
    parameters["levels"] = choose.choice([1, 2, 3, 4, 5, 8, 24])
    return neuron_from(kind, parameters if choose.random() < 0.7 else {})


def random_interface(inputs: int, outputs: int, choose: random.Random) -> Interface:
    def vector(width: int, low: float, high: float) -> list[float]:
        return [choose.uniform(low, high) for _ in range(width)]

    normalisation = {}
    if choose.random() < 0.5:
        normalisation = {
            "observation_mean": vector(inputs, -1, 1),
            "observation_std": vector(inputs, 0.5, 2),
            "observation_clip": choose.choice([0.5, 2.0, 10.0, float("inf")]),
        }
    return Interface(
        inputs,
        outputs,
        action_scale=vector(outputs, 0.1, 3),
        action_bias=vector(outputs, -1, 1),
        squash=choose.random() < 0.5,
        **normalisation,
    )


def random_spiking_actor(kind: Kind, seed: int, choose: random.Random, backend: str = "auto") -> SpikingActor:
    depth = choose.choice([1, 1, 1, 2, 3, 6])
    widths = [choose.choice(choose.choice([NARROW, NARROW, WIDE])) for _ in range(depth + 2)]
    actor, thresholds = random_actor(tuple(widths), seed=seed)
    layers = [(layer.weight, layer.bias) for layer in [*actor.hidden, actor.output]]
    for threshold in thresholds:
        threshold *= choose.choice([1.0, 1.0, 1.0, 4.0])  # some that are hardly reached
        if choose.random() < 0.5:
            threshold[:: choose.choice([1, 2, 3, 9])] = 0.0
    return snnkern.convert(
        Actor(layers[:-1], layers[-1], random_interface(widths[0], widths[-1], choose)),
        thresholds=thresholds,
        neuron=random_neuron(kind, choose),
        timesteps=choose.choice([1, 2, 3, 4, 8, 16, 33]),
        memory=choose.choice([0.0, 0.5, 1.0, choose.random()]),
        clip=choose.choice([0.0, 0.5, 2.0, 100.0]),
        check_finite=choose.random() < 0.5,
        backend=backend,
    )


def random_alpha(choose: random.Random) -> float:
    return choose.choice([0.0, 0.2, 1.0, choose.random()])


def random_episode(inputs: int, seed: int, choose: random.Random) -> Episode:
    batch = choose.choice([1, 1, 2, 3, 4, 7, 8, 15, 16, 17, 40])
    observations = random_observations(3, batch, inputs, seed=seed) * choose.choice([0.0, 0.1, 1.0, 1.0, 1.0])
    rows = torch.tensor([choose.random() < 0.5 for _ in range(batch)])
    alpha = random_alpha(choose) if choose.random() < 0.7 else [random_alpha(choose) for _ in range(batch)]
    return Episode(alpha, observations, {choose.choice([1, 2]): rows}, choose.choices(list(FORMS), k=3))
