"""Triton's kernel of whole actors, against the reference in float64; run as `triton_cases.py`."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support.cases import (
    ACTOR_WIDTHS,
    DEFAULT_NEURONS,
    NORMALISING,
    actor_parts,
    assert_same_bits,
    each,
    random_actor,
    random_observations,
)
from support.engine_cases import assert_agrees, carries, engine_actor
from support.random_actors import random_episode, random_spiking_actor
from support.triton_device import DEVICE, LastProgram, guarded, interpreted, untouched
from torch import Tensor

import snnkern
from snnkern import IF, LIF, Dynamics, SpikingActor
from snnkern.kernels.backends.triton import engine as triton_engine
from snnkern.kernels.neurons import Kind

pytest_plugins = ["support.triton_device"]  # for its fixtures


def decide(actor: SpikingActor, observation: Tensor) -> Tensor:
    return actor(observation.to(DEVICE)).cpu()


def triton_actor(widths: tuple[int, ...], neuron="if", timesteps: int = 4, **options) -> SpikingActor:
    return engine_actor(widths, neuron, timesteps, backend="triton", **options).to(DEVICE)


def assert_actor_is_reference(neuron, widths: tuple[int, ...], timesteps: int, batch: int) -> None:
    actor = triton_actor(widths, neuron, timesteps, alpha=0.6, memory=0.4)
    resets = {2: torch.arange(batch) % 3 == 0}
    share = assert_agrees(actor, random_observations(3, batch, widths[0]), resets)
    assert share > (0.02 if neuron.kind is Kind.DC else 0.7)


@pytest.mark.costly
@each("widths", {name: ACTOR_WIDTHS[name] for name in ("one-layer", "two-layers")})
@each("neuron", DEFAULT_NEURONS)
def test_actors_agree_with_the_reference(neuron, widths) -> None:
    assert_actor_is_reference(neuron, widths, 5, 20 if len(widths) == 3 else 13)


def test_a_leak_of_nothing_is_if() -> None:
    actors = [triton_actor((11, 33, 17, 3), neuron, 5, alpha=0.6, memory=0.4) for neuron in (LIF(leak=0), IF())]
    for observation in random_observations(3, 10, 11):
        mine, other = (decide(actor, observation) for actor in actors)
        assert_same_bits(mine, other)
        assert torch.equal(actors[0].spikes, actors[1].spikes)
        for one, another in zip(*(carries(actor) for actor in actors), strict=True):
            assert_same_bits(one.cpu(), another.cpu())


def test_a_deep_actor_agrees_with_the_reference() -> None:
    """The planes of the third layer take the place of the first one's."""
    assert assert_agrees(triton_actor((5, 9, 8, 7, 4), "mt", 3), random_observations(1, 10, 5)) > 0.7


@pytest.mark.long
@each("widths", ACTOR_WIDTHS)
@each("neuron", DEFAULT_NEURONS)
def test_larger_batches_agree_with_the_reference(neuron, widths) -> None:
    assert_actor_is_reference(neuron, widths, 5, 70)


def test_rows_of_an_actor_may_have_an_alpha_each() -> None:
    actor = triton_actor((11, 33, 3), "if", 5)
    actor.alpha = torch.linspace(0, 1, 10)
    assert assert_agrees(actor, random_observations(3, 10, 11)) > 0.02


def test_weights_beyond_what_bfloat16_holds_scaled_run_by_layers() -> None:
    plain, thresholds = random_actor((3, 7, 5, 2))
    with torch.no_grad():
        plain.hidden[1].weight[0, 0] = 1e12
    actor = snnkern.convert(plain, thresholds=thresholds, neuron="mt", backend="triton").to(DEVICE)
    decide(actor, torch.ones(2, 3))
    assert actor._bound is None


def test_currents_are_as_exact_as_float32() -> None:
    """The carry of a neuron that does not fire is its current, where that is positive: one product and the bias."""
    plain, thresholds = random_actor((1, 40, 2))
    never = [torch.full_like(threshold, 1000.0) for threshold in thresholds]
    neuron = snnkern.IF(initial_fraction=0.0)
    actor = snnkern.convert(plain, thresholds=never, neuron=neuron, timesteps=1, alpha=1.0, backend="triton").to(DEVICE)
    x = random_observations(1, 40, 1)[0]
    decide(actor, x)
    product, bias = x.double() @ plain.hidden[0].weight.double().T, plain.hidden[0].bias.double()
    error = actor.hidden[0].carry.value.cpu().double() - (product + bias).clamp(min=0.0)
    assert bool((error.abs() <= 2.0**-21 * (product.abs() + bias.abs())).all())


WIDE = {"one-block": (3, 256, 2), "two-blocks": (5, 300, 40, 3), "wide-observation": (130, 20, 65, 17)}


@each("widths", WIDE)
def test_wide_actors_agree_with_the_reference(widths) -> None:
    assert assert_agrees(triton_actor(widths, "mt", 2), random_observations(1, 5, widths[0])) > 0.5


@pytest.mark.parametrize("levels", [1, 2, 7, 24])
def test_every_number_of_levels_is_packed_and_unpacked(levels) -> None:
    actor = triton_actor((5, 20, 12, 3), snnkern.MT(levels=levels), 3)
    assert assert_agrees(actor, random_observations(1, 16, 5)) > 0.5


@pytest.mark.parametrize("timesteps", [1, 9])
def test_every_number_of_timesteps_is_packed_and_unpacked(timesteps) -> None:
    actor = triton_actor((5, 20, 12, 3), snnkern.IF(), timesteps)
    assert assert_agrees(actor, random_observations(1, 16, 5)) > 0.7


def test_every_tile_gives_the_same_actions() -> None:
    observation = random_observations(1, 33, 11)[0]  # three tiles, the last one nearly empty
    actions = []
    for tile in triton_engine.TILES:
        actor = triton_actor((11, 33, 17, 3), "mt", 2)
        actor._bind(33)
        actor._engine._use(tile)
        actions.append(decide(actor, observation))
    for found in actions[1:]:
        torch.testing.assert_close(found, actions[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", triton_engine.PRECISIONS)
def test_precisions_are_those_of_the_weights_between_hidden_layers(precision, monkeypatch) -> None:
    """The reference with its weights rounded as `precision` says decides the same."""
    monkeypatch.setenv("SNNKERN_TRITON_PRECISION", precision)
    rounding = {
        "float32": lambda weight: weight,
        "tf32": triton_engine.rounded_to_tf32,
        "bf16": lambda weight: weight.bfloat16().float(),
    }
    actor = triton_actor((11, 33, 17, 3), "mt", 5)
    actor._bind(16)  # packs
    theta = actor.hidden[0].threshold[:, None]
    actor.hidden[1].weight = (rounding[precision](actor.hidden[1].weight * theta).double() / theta.double()).float()
    assert assert_agrees(actor, random_observations(1, 16, 11)) > 0.7


def test_an_unknown_precision_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("SNNKERN_TRITON_PRECISION", "fp8")
    with pytest.raises(snnkern.InputError, match="must be one of float32, tf32, bf16, got 'fp8'"):
        decide(triton_actor((3, 7, 2)), torch.zeros(1, 3))


def test_parts_of_a_weight_add_up_to_it() -> None:
    weight = random_observations(1, 300, 300)[0] * torch.logspace(-9, 9, 300)
    parts = triton_engine.split(weight)
    assert parts.dtype == torch.bfloat16
    assert torch.equal(parts.double().sum(dim=0), weight.double())
    tf32 = triton_engine.rounded_to_tf32(weight)
    assert bool(((tf32 - weight).abs() <= weight.abs() * 2.0**-11).all())
    assert not bool((tf32.view(torch.int32) & 0x1FFF).any())


def test_normalised_observations_and_plain_outputs() -> None:
    actor, thresholds = random_actor((5, 16, 3), **NORMALISING)
    x = 3 * random_observations(1, 20, 5)[0]
    actors = [
        snnkern.convert(actor, thresholds=thresholds, neuron="dc", timesteps=3, backend=backend)
        for backend in ("triton", "reference")
    ]
    actions = [decide(actor.to(DEVICE), x) for actor in actors]
    torch.testing.assert_close(actions[0], actions[1], rtol=0, atol=1e-5)


def test_empty_batches_arrays_and_refused_observations() -> None:
    actor = triton_actor((11, 33, 17, 3), alpha=1.0)
    assert decide(actor, torch.zeros(0, 11)).shape == (0, 3)
    actor.reset()
    x = random_observations(1, 2, 11)[0]
    action = decide(actor, x)
    before = [layer.carry.value.clone() for layer in actor.hidden]
    with pytest.raises(snnkern.InputError, match="NaN or infinity in 1 of 2 rows"):
        decide(actor, x.index_fill(0, torch.tensor([1]), torch.nan))
    for layer, carry in zip(actor.hidden, before, strict=True):
        assert_same_bits(layer.carry.value, carry)
    actor.check_finite = False
    decide(actor, x.index_fill(0, torch.tensor([1]), torch.nan))
    assert bool(actor.hidden[0].carry.value[1].isnan().any())
    assert bool(actor.hidden[0].carry.value[0].isfinite().all())
    actor.reset()
    np.testing.assert_array_equal(actor.act(x.numpy()), action.numpy())


def test_what_the_kernel_does_not_serve_runs_by_layers() -> None:
    for widths, layers in (((3, 1025, 2), 1), ((3, 7, 65), 1), ((3, *[5] * 7, 2), 7)):
        actor = triton_actor(widths)
        assert decide(actor, torch.ones(2, 3)).shape == (2, widths[-1])
        assert actor._bound is None
        assert actor.spikes.shape == (layers, 2)
    tiny, thresholds = random_actor((3, 7, 2))
    thresholds[0][0] = 1e-38
    actor = snnkern.convert(tiny, thresholds=thresholds, neuron="mt", backend="triton").to(DEVICE)
    assert bool(decide(actor, torch.ones(2, 3)).isfinite().all())
    assert actor._bound is None


@pytest.mark.parametrize(("threshold", "served"), [(2.0**-100, True), (2.0**-100 * (1 - 2.0**-24), False), (0.0, True)])
def test_thresholds_whose_levels_are_not_exact_run_by_layers(threshold, served) -> None:
    plain, thresholds = random_actor((3, 7, 2))
    thresholds[0][0] = threshold
    actor = snnkern.convert(plain, thresholds=thresholds, neuron=snnkern.MT(levels=24), backend="triton").to(DEVICE)
    actor._bind(2)
    assert (actor._bound is not None) == served


@interpreted
def test_nothing_is_read_beyond_an_observation() -> None:
    decide(triton_actor((11, 33, 3)), guarded(random_observations(1, 5, 11)[0]))


@interpreted
def test_rows_beyond_what_32_bits_count(monkeypatch) -> None:
    """The last tile of so many rows; the memory of the others is never touched."""
    rows, width = 16, 40
    batch = (2**31 // (width * rows) + 2) * rows
    parts = actor_parts((3, width, width, 2), Dynamics(DEFAULT_NEURONS["if"], 2, alpha=1.0))
    observation = random_observations(1, rows, 3)[0]

    def decision(batch):
        engine = triton_engine.Engine(parts, "float32")
        carries, counts = [untouched(batch, width) for _ in range(2)], untouched(2, batch, dtype=torch.int64)
        for carry in carries:
            carry[-rows:] = 0.1
        engine.bind(carries, counts, None)
        observations = untouched(batch, 3)
        observations[-rows:] = observation
        return engine.decide(observations, False, 1)[-rows:], *[carry[-rows:] for carry in carries], counts[:, -rows:]

    wanted = decision(rows)
    # As many programs as tiles, so that the last one has a tile and scratch memory of its own.
    monkeypatch.setattr(triton_engine, "gpu", lambda _: triton_engine.Gpu("", (9, 0), batch))
    monkeypatch.setattr(triton_engine, "actor_kernel", LastProgram(triton_engine.actor_kernel, monkeypatch))
    for found, expected in zip(decision(batch), wanted, strict=True):
        assert_same_bits(found, expected)


def test_warmup_leaves_carries_and_counts_as_they_are() -> None:
    actors = [triton_actor((11, 33, 3), "snm", alpha=1.0) for _ in range(2)]
    observations = random_observations(2, 5, 11)
    for actor in actors:
        decide(actor, observations[0])
    spikes = actors[1].spikes
    actors[1].warmup(5)
    assert torch.equal(actors[1].spikes, spikes)
    actors[0]._engine._use(actors[1]._engine._tile)
    assert_same_bits(decide(actors[1], observations[1]), decide(actors[0], observations[1]))


def test_warmup_before_the_first_decision_leaves_no_carry() -> None:
    actor, other = (triton_actor((3, 7, 2), "mt", alpha=1.0) for _ in range(2))
    actor.warmup(2)
    assert actor.carry is None
    other._bind(2)
    other._engine._use(actor._engine._tile)
    assert_same_bits(decide(actor, torch.ones(2, 3)), decide(other, torch.ones(2, 3)))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(60))
def test_random_actors_agree_with_the_reference(seed) -> None:
    choose = random.Random(seed)
    while True:
        actor = random_spiking_actor(list(Kind)[seed % len(Kind)], seed, choose, backend="triton").to(DEVICE)
        if max(len(threshold) for threshold in actor.thresholds) <= 300 and actor.interface.action_dim <= 64:
            break
    for number in range(2):
        actor.alpha, *episode = random_episode(actor.interface.observation_dim, seed + number, choose)
        assert_agrees(actor, *episode)
