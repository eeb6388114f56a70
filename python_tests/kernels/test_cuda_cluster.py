"""The cluster kernel: a row in the hands of eight blocks, bit for bit as with one block, on the host and on a GPU."""

from __future__ import annotations

import random

import pytest
import torch
from support.cases import DEFAULT_NEURONS, assert_same_bits, each, needs_cpu, random_actor, random_observations
from support.cuda_actors import assert_twins, decide, on_cuda, twins
from support.cuda_on_host import ORDERS, come_late, compiled_for, recorded, take_turns
from support.random_actors import random_episode, random_spiking_actor

import snnkern
from snnkern import SpikingActor
from snnkern.kernels.backends import clusters, cuda
from snnkern.kernels.backends.tuning import Choices
from snnkern.kernels.neurons import Kind

pytestmark = needs_cpu
HOST = torch.device("cpu")
MOST_ROWS = 4  # clusters that the host's device runs at the same time


@pytest.fixture
def always(monkeypatch):
    """Clusters decide wherever they can."""
    monkeypatch.setenv("SNNKERN_CUDA_CLUSTERS", "1")


@pytest.fixture
def module(cuda_on_host, monkeypatch):
    """The backend "cuda" on the host."""
    from support.cuda_on_host import use

    use(cuda_on_host, monkeypatch.setattr)
    return cuda_on_host


@pytest.fixture
def unknown(monkeypatch):
    """As in a new process, nothing has been measured."""
    monkeypatch.setenv("SNNKERN_INTEGERS", "0")  # which warmup would time as well
    monkeypatch.delenv("SNNKERN_CUDA_CLUSTERS", raising=False)
    monkeypatch.setattr(clusters, "_found", Choices(clusters.NAMES, lambda: None))


def ran_in_clusters(module, actor: SpikingActor, rows: int) -> bool:
    """Whether clusters make a decision, from which the actor's carry is as it was."""
    before = actor.carry
    with recorded(module) as calls:
        actor(torch.zeros(rows, actor.interface.observation_dim))
    actor.carry = before
    return "cluster" in {call.what for call in calls}


# Fewer columns than a block has lanes, and blocks without any; more layers than places for spikes; first layers wider
# than a block, and parts of layers wider than a block; lists in several pieces; steps beyond 16.
SHAPES = {
    "one": ((1, 1, 1, 1), 1),
    "walker": ((17, 256, 256, 6), 8),
    "humanoid": ((376, 256, 256, 17), 3),
    "long": ((5, 33, 65, 2), 18),
    "deep": ((7, 96, 20, 20, 300, 33, 260, 9), 3),
    "wide-then-narrow": ((5, 530, 31, 33), 3),
    "wide-parts": ((2, 3, 4200, 2), 1),
}


@each("shape", SHAPES)
@each("neuron", DEFAULT_NEURONS)
def test_hidden_layers_are_bit_identical_to_the_cpu_engine(always, cuda_device, neuron, shape) -> None:
    widths, timesteps = shape
    pair = twins(widths, neuron, cuda_device, timesteps, alpha=0.6, memory=0.4)
    assert_twins(*pair, random_observations(2, 1 if widths[0] == 17 else 2, widths[0]))


@each("shape", SHAPES)
def test_these_shapes_run_in_clusters(always, module, shape) -> None:
    widths, timesteps = shape
    assert ran_in_clusters(module, twins(widths, "mt", HOST, timesteps)[0], 2)


@pytest.mark.parametrize("seed", range(10))
def test_random_actors_are_bit_identical_to_the_cpu_engine(always, cuda_device, seed) -> None:
    """Architectures, neurons, T, α (of rows, too), μ, κ, silent neurons, interfaces, resets."""
    choose = random.Random(seed + 1000)
    wanted = random_spiking_actor(list(Kind)[seed % len(Kind)], seed, choose)
    episode = random_episode(wanted.interface.observation_dim, seed, choose)
    resets = {step: rows[:3] for step, rows in episode.resets.items()}
    ours = on_cuda(wanted, cuda_device)
    ours.alpha = wanted.alpha = episode.alpha[:3] if isinstance(episode.alpha, list) else episode.alpha
    assert_twins(ours, wanted, episode.observations[:, :3], resets)


@each("order", {name: (name, 0) for name in ORDERS} | {f"random-{seed}": ("random", seed) for seed in range(1, 4)})
@each("neuron", DEFAULT_NEURONS)
def test_the_order_of_threads_and_copies_does_not_matter(always, module, neuron, order) -> None:
    take_turns(module, *order)
    try:
        for widths, timesteps in (((11, 133, 70, 3), 5), ((3, 20, 40, 20, 12), 2)):
            assert_twins(*twins(widths, neuron, HOST, timesteps, alpha=1.0), random_observations(2, 1, widths[0]))
    finally:
        take_turns(module, "forward")


@each("neuron", DEFAULT_NEURONS)
def test_actions_are_those_of_the_other_kernel(module, monkeypatch, neuron) -> None:
    """Every bit of them: the sums of the output layer have one order."""
    observations = random_observations(2, 3, 11)
    actions = []
    for setting in ("0", "1"):
        monkeypatch.setenv("SNNKERN_CUDA_CLUSTERS", setting)
        actor, _ = twins((11, 200, 300, 150, 13), neuron, HOST, 3, alpha=1.0)
        actions.append(torch.stack([decide(actor, observation) for observation in observations]))
    assert_same_bits(*actions)


@each("neuron", {name: DEFAULT_NEURONS[name] for name in ("mt", "dc")})
def test_tiny_thresholds_are_searched_level_by_level(always, cuda_device, neuron) -> None:
    actor, thresholds = random_actor((11, 40, 33, 20, 3))
    for threshold in thresholds:
        threshold *= 2.0**-100
    layers = [(layer.weight * 2.0**-100, layer.bias * 2.0**-100) for layer in actor.hidden]
    dense = snnkern.Actor([(layers[0][0], layers[0][1]), *((2.0**100 * w, b) for w, b in layers[1:])], *output(actor))
    wanted = snnkern.convert(dense, thresholds=thresholds, neuron=neuron, timesteps=3, alpha=0.5, backend="cpu")
    assert_twins(on_cuda(wanted, cuda_device), wanted, random_observations(2, 2, 11))
    assert bool(wanted.spikes.any())


def output(actor: snnkern.Actor):
    return (actor.output.weight, actor.output.bias), actor.interface


@each("value", {"nan": torch.nan, "infinity": torch.inf})
def test_what_is_not_finite_goes_where_it_goes_on_the_cpu(always, cuda_device, value) -> None:
    ours, wanted = twins((11, 33, 47, 3), "mt", cuda_device, alpha=1.0)
    x = random_observations(1, 2, 11)[0]
    x[1, 3] = value
    for actor in (ours, wanted):
        actor.check_finite = False
    decide(ours, x)
    wanted(x)
    for mine, other in zip(ours.hidden, wanted.hidden, strict=True):
        torch.testing.assert_close(mine.carry.value.cpu(), other.carry.value, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours.spikes.cpu(), wanted.spikes)


# One hidden layer sends no spikes; weights that do not fit; more rows than clusters.
ELSEWHERE = {
    "one-layer": ((3, 40, 2), 3, 1),
    "weights": ((3, 800, 800, 2), 1, 1),
    "steps": ((3, 40, 3000, 2), 100, 1),
    "rows": ((3, 40, 40, 2), 3, MOST_ROWS + 1),
}


@each("case", ELSEWHERE)
def test_what_clusters_cannot_do_the_other_kernel_does(always, module, case) -> None:
    widths, timesteps, rows = case
    ours, wanted = twins(widths, "mt", HOST, timesteps, alpha=0.5)
    assert not ran_in_clusters(module, ours, rows)
    ours.reset()
    assert_twins(ours, wanted, random_observations(1, rows, widths[0]))


def test_a_device_without_clusters_has_the_other_kernel(always, module, monkeypatch) -> None:
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: 1)
    monkeypatch.setattr(cuda, "stream_on", lambda device: 0)
    ours, wanted = twins((3, 40, 40, 2), "if", HOST)
    assert not ran_in_clusters(module, ours, 1)
    ours.reset()
    assert_twins(ours, wanted, random_observations(1, 1, 3))


def test_a_build_for_older_gpus_has_the_other_kernel(always, module) -> None:
    """Theirs is empty, and runs on a newer GPU as well."""
    with compiled_for(module, 80):
        ours, wanted = twins((3, 40, 40, 2), "if", HOST)
        assert not ran_in_clusters(module, ours, 1)
        ours.reset()
        assert_twins(ours, wanted, random_observations(1, 1, 3))


@each("order", {name: name for name in ORDERS})
def test_a_decision_may_begin_before_the_last_one_has_ended(always, module, order) -> None:
    """All that another launch may have written is read only when that one has ended."""
    ours, wanted = twins((11, 33, 47, 20, 3), "mt", HOST, alpha=1.0, check_finite=False)
    observations = random_observations(3, 2, 11)
    ours.alpha = wanted.alpha = [0.3, 0.9]
    assert_twins(ours, wanted, observations[:1])
    take_turns(module, order)
    try:
        for observation in observations[1:]:
            late = observation.clone()
            with recorded(module) as calls:
                come_late(module, late, ours._row_alpha, *(layer.carry.value for layer in ours.hidden))
                action = ours._bound.engine.decide(late, False, 1)
            assert "overlap" in {call.what for call in calls}
            torch.testing.assert_close(action, wanted(observation), rtol=1e-5, atol=1e-5)
            for mine, other in zip(ours.hidden, wanted.hidden, strict=True):
                assert torch.equal(mine.carry.value, other.carry.value)
    finally:
        take_turns(module, "forward")


def test_the_first_decision_on_a_stream_waits_for_what_packs_the_weights(always, module, monkeypatch) -> None:
    """So does the first one after the rows have changed."""
    current = [0]
    monkeypatch.setattr(cuda, "stream_on", lambda device: current[0])
    actor, _ = twins((11, 33, 17, 3), "if", HOST)
    overlapping = []
    for rows, streams in ((2, (1, 1, 2, 2)), (3, (2, 2, 1))):
        actor.reset()
        for current[0] in streams:
            with recorded(module) as calls:
                actor(torch.zeros(rows, 11))
            launches = [call for call in calls if call.what in ("launch", "cluster", "overlap")]
            assert {call.stream for call in launches} == set(current)
            overlapping.append("overlap" in {call.what for call in calls})
    assert overlapping == [False, True, False, True, False, True, False]


def test_a_launch_says_what_it_takes(always, module) -> None:
    with recorded(module) as calls:
        actor, _ = twins((17, 256, 256, 6), "if", HOST, 8, check_finite=False)
        actor(torch.zeros(2, 17))
    launches = [call for call in calls if call.what in ("launch", "cluster")]
    assert [call.what for call in launches] == ["launch", "cluster"]
    assert 33 * 1024 < launches[0].bytes < 45 * 1024  # 33 KB of weights, biases, thresholds
    assert launches[1].bytes == 8
    assert max(call.bytes for call in calls if call.what == "limit") == 227 * 1024


def test_the_setting_is_checked(module, monkeypatch) -> None:
    monkeypatch.setenv("SNNKERN_CUDA_CLUSTERS", "yes")
    actor, _ = twins((3, 40, 40, 2), "if", HOST)
    with pytest.raises(snnkern.InputError, match="SNNKERN_CUDA_CLUSTERS must be 0 or 1, got 'yes'"):
        actor(torch.zeros(1, 3))


def test_nobody_takes_clusters_that_has_not_measured(unknown, module) -> None:
    actor, _ = twins((3, 40, 40, 2), "if", HOST)
    assert not ran_in_clusters(module, actor, 1)


@each("faster", {"faster": True, "slower": False})
@each("rows", {"one": 1, "three": 3})
def test_warmup_takes_what_is_faster(unknown, module, monkeypatch, faster, rows) -> None:
    ours, wanted = twins((11, 133, 70, 3), "mt", HOST, alpha=1.0)
    times = iter([2.0, 1.0] if faster else [1.0, 2.0])
    monkeypatch.setattr(clusters, "seconds", lambda decide, device: next(times))
    observations = random_observations(3, rows, 11)
    assert_twins(ours, wanted, observations[:1])
    carries, spikes = [carry.clone() for carry in ours.carry], ours.spikes
    ours.warmup(rows)
    assert torch.equal(ours.spikes, spikes)
    for mine, before in zip(ours.carry, carries, strict=True):
        assert torch.equal(mine, before)
    assert ran_in_clusters(module, ours, rows) == faster
    assert_twins(ours, wanted, observations[1:])
    same, _ = twins((11, 133, 70, 3), "mt", HOST, alpha=1.0)
    assert ran_in_clusters(module, same, rows) == faster
    for other in (twins((11, 133, 70, 3), "snm", HOST), twins((11, 133, 99, 3), "mt", HOST, alpha=1.0)):
        assert not ran_in_clusters(module, other[0], rows)
    others = 2 if rows == 1 else 1  # which no power of two has in common with them
    assert not ran_in_clusters(module, twins((11, 133, 70, 3), "mt", HOST, alpha=1.0)[0], others)


def test_warmup_measures_nothing_where_the_choice_is_made(unknown, module, monkeypatch) -> None:
    def seconds(decide: object, device: object) -> float:
        raise AssertionError("it measures")

    monkeypatch.setattr(clusters, "seconds", seconds)
    twins((3, 40, 2), "if", HOST)[0].warmup()  # one hidden layer
    for setting in ("0", "1"):
        monkeypatch.setenv("SNNKERN_CUDA_CLUSTERS", setting)
        actor, _ = twins((3, 40, 40, 2), "if", HOST)
        actor.warmup()
        assert ran_in_clusters(module, actor, 1) == (setting == "1")


@each("wrong", {"a-bit": True, "the-launch": False})
def test_warmup_leaves_clusters_that_go_wrong(unknown, module, monkeypatch, wrong) -> None:
    """Their results differ in a bit, or the device refuses them."""
    packed = clusters.packed
    times = iter([2.0, 1.0])

    def seconds(decide: object, device: torch.device) -> float:
        found = next(times)
        if found == 1.0 and not wrong:
            raise RuntimeError("the launch failed")
        return found

    def almost_packed(weight: torch.Tensor, *sizes: int) -> torch.Tensor:
        return packed(weight * (1 + 2.0**-20), *sizes)

    monkeypatch.setattr(clusters, "seconds", seconds)
    if wrong:
        monkeypatch.setattr(clusters, "packed", almost_packed)
    ours, wanted = twins((11, 133, 70, 3), "if", HOST, alpha=1.0)
    observations = random_observations(2, 1, 11)
    assert_twins(ours, wanted, observations[:1])
    ours.warmup()
    assert next(times, None) is None
    assert not ran_in_clusters(module, ours, 1)
    assert_twins(ours, wanted, observations[1:])
