"""The CUDA actor: its hidden layers bit for bit as the CPU's engine, on the host from the same source and on a GPU."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
from support.cases import (
    ACTOR_WIDTHS,
    CARRYING,
    DEFAULT_NEURONS,
    NORMALISING,
    assert_same_bits,
    each,
    needs_cpu,
    random_actor,
    random_observations,
)
from support.cuda_actors import assert_twins, decide, on_cuda, twins
from support.cuda_on_host import ORDERS, take_turns
from support.engine_cases import carries, reference_decisions
from support.random_actors import random_episode, random_spiking_actor
from torch import Tensor

import snnkern
from snnkern import IF, LIF
from snnkern.kernels.backends import ActorParts, choice, integers
from snnkern.kernels.neurons import Kind
from snnkern.policies.capture import CapturedDecision

pytestmark = needs_cpu


@each("widths", ACTOR_WIDTHS)
@each("neuron", DEFAULT_NEURONS)
def test_agrees_with_the_reference(cuda_device, neuron, widths) -> None:
    ours, on_cpu = twins(widths, neuron, cuda_device, alpha=0.6, memory=0.4)
    observations = random_observations(3, 32, widths[0])
    actions, counts, _, margins = reference_decisions(on_cpu, observations, {})
    sure = torch.ones(32, dtype=torch.bool)
    for step, observation in enumerate(observations):
        action = decide(ours, observation)
        sure &= margins[step] >= 1e-5
        torch.testing.assert_close(action[sure].double(), actions[step][sure], rtol=0, atol=1e-4)
        assert torch.equal(ours.spikes.cpu()[:, sure], counts[step][:, sure])
    assert sure.double().mean() > (0.0 if neuron.kind is Kind.DC else 0.7)


# Narrower than a warp, wider than a block, lists longer than a warp's, more steps than a tile.
SHAPES = {
    "one": ((1, 1, 1), 1),
    "walker": ((17, 256, 256, 6), 8),
    "humanoid": ((376, 256, 256, 17), 3),
    "wide": ((30, 600, 1100, 2), 3),
    "wide-then-narrow": ((5, 530, 31, 33), 17),
    "long": ((5, 64, 65, 2), 70),
    "deep": ((3, *range(9, 25), 2), 2),
}


@each("shape", SHAPES)
@each("neuron", DEFAULT_NEURONS)
def test_hidden_layers_are_bit_identical_to_the_cpu_engine(cuda_device, neuron, shape) -> None:
    widths, timesteps = shape
    pair = twins(widths, neuron, cuda_device, timesteps, alpha=0.6, memory=0.4)
    assert_twins(*pair, random_observations(2, 2, widths[0]))


@pytest.mark.parametrize("seed", range(40))
def test_random_actors_are_bit_identical_to_the_cpu_engine(cuda_device, seed) -> None:
    """Architectures, widths, neurons, T, α (of rows, too), μ, κ, silent neurons, interfaces, batches, resets."""
    choose = random.Random(seed)
    wanted = random_spiking_actor(list(Kind)[seed % len(Kind)], seed, choose)
    episode = random_episode(wanted.interface.observation_dim, seed, choose)
    resets = {step: rows[:5] for step, rows in episode.resets.items()}
    ours = on_cuda(wanted, cuda_device)
    ours.alpha = wanted.alpha = episode.alpha[:5] if isinstance(episode.alpha, list) else episode.alpha
    assert_twins(ours, wanted, episode.observations[:, :5], resets)


def test_a_leak_of_nothing_is_if(cuda_device) -> None:
    actors = [twins((11, 33, 17, 3), neuron, cuda_device, **CARRYING)[0] for neuron in (LIF(leak=0), IF())]
    for observation in random_observations(3, 5, 11):
        mine, other = (decide(actor, observation) for actor in actors)
        assert_same_bits(mine, other)
        assert torch.equal(actors[0].spikes, actors[1].spikes)
        for one, another in zip(*(carries(actor) for actor in actors), strict=True):
            assert_same_bits(one, another)


@each("order", {name: name for name in ORDERS})
@each("neuron", DEFAULT_NEURONS)
def test_the_order_of_threads_does_not_matter(cuda_on_host, cuda_device, neuron, order) -> None:
    """On the host, where it can be chosen."""
    if cuda_device.type != "cpu":
        pytest.skip("a GPU chooses for itself")
    take_turns(cuda_on_host, order)
    try:
        for widths, timesteps in (((11, 133, 170, 3), 5), ((3, 40, 600, 2), 17), ((2, 300, 20, 20, 2), 18)):
            assert_twins(
                *twins(widths, neuron, cuda_device, timesteps, alpha=1.0), random_observations(2, 1, widths[0])
            )
    finally:
        take_turns(cuda_on_host, "forward")


@each("neuron", DEFAULT_NEURONS)
def test_a_row_depends_on_that_row_alone(cuda_device, neuron) -> None:
    """However many others there are: blocks are smaller where there are many."""
    observations = random_observations(2, 5, 11)
    together, _ = twins((11, 200, 150, 3), neuron, cuda_device, alpha=1.0)
    wanted = torch.stack([decide(together, observation) for observation in observations])
    parts = []
    for rows in (slice(0, 1), slice(1, 3), slice(3, 5)):
        alone, _ = twins((11, 200, 150, 3), neuron, cuda_device, alpha=1.0)
        parts.append(torch.stack([decide(alone, observation[rows]) for observation in observations]))
    assert torch.equal(torch.cat(parts, dim=1), wanted)


def test_normalised_observations_and_plain_outputs(cuda_device) -> None:
    actor, thresholds = random_actor((5, 16, 3), **NORMALISING)
    ours, wanted = (
        snnkern.convert(actor, thresholds=thresholds, neuron="dc", timesteps=3, backend=backend)
        for backend in ("cuda", "cpu")
    )
    assert_twins(ours.to(cuda_device), wanted, 3 * random_observations(1, 20, 5))


def test_arrays_and_empty_batches(cuda_device) -> None:
    ours, wanted = twins((11, 33, 17, 3), "mt", cuda_device)
    x = random_observations(2, 1, 11)[:, 0].numpy()
    for observation in x:
        np.testing.assert_allclose(ours.act(observation), wanted.act(observation), rtol=1e-5, atol=1e-5)
    ours.reset()
    assert ours(torch.zeros(0, 11, device=cuda_device)).shape == (0, 3)


def test_a_refused_observation_leaves_everything_as_it_was(cuda_device) -> None:
    ours, wanted = twins((11, 33, 17, 3), "if", cuda_device, alpha=1.0)
    x = random_observations(1, 2, 11)[0]
    bad = x.clone()
    bad[1, 3] = torch.nan
    decide(ours, x)
    before = [layer.carry.value.clone() for layer in ours.hidden]
    with pytest.raises(snnkern.InputError, match=r"NaN or infinity in 1 of 2 rows \(first: row 1\)"):
        ours(bad.to(cuda_device))
    assert all(torch.equal(layer.carry.value, carry) for layer, carry in zip(ours.hidden, before, strict=True))
    for actor in (ours, wanted):
        actor.reset()
        actor.check_finite = False
    ours(bad.to(cuda_device))
    wanted(bad)
    for mine, other in zip(ours.hidden, wanted.hidden, strict=True):
        torch.testing.assert_close(mine.carry.value.cpu(), other.carry.value, rtol=0, atol=0, equal_nan=True)
    assert bool(ours.hidden[0].carry.value[1].isnan().any())


@each("clusters", {"rows": "0", "clusters": "1"})
@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_written_outside_of_carries_and_counts(cuda_device, monkeypatch, neuron, clusters) -> None:
    monkeypatch.setenv("SNNKERN_CUDA_CLUSTERS", clusters)
    ours, wanted = twins((11, 133, 65, 3), neuron, cuda_device, alpha=1.0)
    engine = ours._pack(4)
    guards = [torch.full((4 * width + 64,), 1e30, device=cuda_device) for width in (133, 65)]
    guards.append(torch.full((2 * 4 + 64,), -1, dtype=torch.int64, device=cuda_device))
    inner = [guard[32:-32] for guard in guards]
    carries = [one.view(4, -1).zero_() for one in inner[:2]]
    observation = random_observations(1, 4, 11)[0]
    engine.bind(carries, inner[2].view(2, 4), None)
    engine.decide(observation.to(cuda_device), True, 1)
    wanted(observation)
    for mine, layer in zip(carries, wanted.hidden, strict=True):
        assert torch.equal(mine.cpu(), layer.carry.value)
    for guard in guards:
        outside = torch.cat([guard[:32], guard[-32:]])
        assert bool((outside == outside[0]).all())


TOO_LARGE = {
    "layers": ((3, *[5] * 17, 2), 2),
    "shared-memory": ((3, 500, 500, 2), 210),
    "width": ((2, 65536, 2), 2),
}


@each("shape", TOO_LARGE)
def test_what_is_too_large_for_one_launch_runs_by_layers(cuda_device, shape) -> None:
    widths, timesteps = shape
    actor, thresholds = random_actor(widths)
    snn = snnkern.convert(actor, thresholds=thresholds, neuron="mt", timesteps=timesteps, backend="cuda")
    x = random_observations(1, 2, widths[0])[0]
    action = snn.to(cuda_device)(x.to(cuda_device)).cpu()
    assert snn._engine is None
    if timesteps > 100:
        torch.testing.assert_close(action, actor(x), rtol=0, atol=0.05)


def test_auto_prefers_triton_for_large_batches_on_a_gpu(monkeypatch) -> None:
    device = torch.device("cuda")
    assert not choice.is_large(device, 1024)
    assert choice.is_large(device, 1025)
    assert not choice.is_large(torch.device("cpu"), 10**6)
    choice.small_batch.cache_clear()
    monkeypatch.setenv("SNNKERN_SMALL_BATCH", "64")
    assert choice.is_large(device, 65)
    monkeypatch.setenv("SNNKERN_SMALL_BATCH", "many")  # which is asked once per process
    assert "up to 64 rows" in choice.rule()
    choice.small_batch.cache_clear()
    with pytest.raises(snnkern.InputError, match="SNNKERN_SMALL_BATCH must be a whole number of rows, got 'many'"):
        choice.is_large(device, 65)
    monkeypatch.undo()
    assert choice.small_batch() == 1024


def test_the_rule_decides_which_engine_is_packed(monkeypatch) -> None:
    """With modules that only say who they are."""

    class Fake:
        def __init__(self, name: str, made: object) -> None:
            self.NAME, self.made = name, made

        def unavailable(self) -> str:
            return ""

        def serves(self, device: torch.device, dtype: torch.dtype) -> bool:
            return True

        def engine(self, parts: object) -> object:
            return self.made

    weight = torch.zeros(1, device="meta")
    parts = ActorParts([], (weight, weight), snnkern.Interface(1, 1).parts(), snnkern.Dynamics(snnkern.IF(), 1))
    monkeypatch.setattr(choice, "is_large", lambda device, rows: rows > 10)

    def packed(*modules: Fake, rows: int, name: str = "auto") -> object:
        monkeypatch.setattr(choice, "_BACKENDS", modules)
        return choice.engine(name, parts, rows)

    cuda_one, triton_one = Fake("cuda", "cuda's"), Fake("triton", "triton's")
    assert packed(cuda_one, triton_one, rows=10) == "cuda's"
    assert packed(cuda_one, triton_one, rows=11) == "triton's"
    assert packed(cuda_one, triton_one, rows=11, name="cuda") == "cuda's"
    assert packed(cuda_one, rows=11) == "cuda's"
    assert packed(triton_one, rows=1) == "triton's"
    assert packed(Fake("cuda", None), triton_one, rows=1) == "triton's"
    assert packed(Fake("cuda", None), rows=1) is None


@pytest.mark.parametrize(("usual", "many"), [(False, "triton"), (True, "cuda")], ids=["another", "hopper"])
def test_what_auto_takes_is_explained(monkeypatch, usual, many) -> None:
    """As on a machine with a GPU and all backends; then with CUDA's kernels missing."""

    class Fake:
        missing = ""

        def __init__(self, name: str, device: str, *dtypes: torch.dtype) -> None:
            self.NAME, self.device, self.dtypes = name, device, dtypes

        def unavailable(self) -> str:
            return self.missing

        def serves(self, device: torch.device, dtype: torch.dtype) -> bool:
            return device.type in self.device and dtype in self.dtypes

    single, double, half = torch.float32, torch.float64, torch.bfloat16
    modules = (
        Fake("cpu", "cpu", single, double),
        Fake("cuda", "cuda", single, double),
        Fake("triton", "cuda", single, half),
        Fake("reference", "cpu cuda", single, double, half),
    )
    monkeypatch.setattr(choice, "_BACKENDS", modules)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(integers, "are_usual", lambda device: usual and device.type == "cuda")
    taken = {one.what: one.backend for one in choice.choices()}
    assert taken == {
        "float32, float64 on the CPU": "cpu",
        "bfloat16, float16 on the CPU": "reference",
        "a layer in float32 on a GPU": "cuda",
        "a layer in float64 on a GPU": "cuda",
        "a layer in bfloat16, float16 on a GPU": "triton",
        "an actor on a GPU, up to 1,024 rows": "cuda",
        "an actor on a GPU, more than 1,024 rows": many,
    }
    modules[1].missing = "not built"
    double_on_gpu = next(one for one in choice.choices() if one.what == "a layer in float64 on a GPU")
    assert double_on_gpu.backend == "reference"
    assert double_on_gpu.passed_over == {
        "cpu": "does not compute float64 on cuda",
        "cuda": "not built",
        "triton": "does not compute float64 on cuda",
    }


def test_capture_needs_a_gpu() -> None:
    actor, thresholds = random_actor((3, 7, 2))
    snn = snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=2)
    with pytest.raises(snnkern.InputError, match=r"capture\(\) makes a CUDA graph, but the actor is on cpu"):
        snn.capture()
    for batch in (0, -1, 2.0, "3"):
        with pytest.raises(snnkern.InputError, match="batch must be a whole number of at least 1"):
            snn.capture(batch)


class RecordedGraph:
    """A CUDA graph on the host: what was captured is done again at a replay."""

    def replay(self) -> None:
        self.again()


def test_a_captured_decision_has_a_carry_of_its_own(cuda_device, monkeypatch) -> None:
    """On the host, with a graph that only remembers; `test_cuda_gpu.py` has the real one."""
    if cuda_device.type != "cpu":
        pytest.skip("a GPU has graphs of its own")
    ours, wanted = twins((11, 33, 17, 3), "mt", cuda_device, alpha=1.0)
    observations = random_observations(4, 3, 11)
    decide(ours, observations[0])
    wanted(observations[0])
    engine = ours._pack(3)

    def nothing(*arguments: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def decide_into(captured: CapturedDecision) -> Tensor:
        action = engine.decide(captured.observation, False, 1)
        captured._graph.again = lambda: action.copy_(engine.decide(captured.observation, False, 1))
        return action

    class NoStream:
        def wait_stream(self, other: object) -> None:
            pass

    for name, value in {
        "CUDAGraph": RecordedGraph,
        "Stream": NoStream,
        "current_stream": NoStream,
        "device": nothing,
        "stream": nothing,
        "graph": nothing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(CapturedDecision, "_decide", decide_into)
    carries = [layer.carry.value.clone() for layer in ours.hidden]
    captured = CapturedDecision(engine, [carry.clone() for carry in carries], None, torch.zeros(len(carries[0]), 11))
    for mine, carry in zip(captured.carries, carries, strict=True):
        assert torch.equal(mine, carry)
    assert not bool(captured.spikes.any())
    for step, observation in enumerate(observations[1:]):
        if step == 1:
            mask = torch.tensor([True, False, True])
            captured.reset(mask)
            wanted.reset(mask)
        captured.observation.copy_(observation)
        torch.testing.assert_close(captured.replay(), wanted(observation), rtol=1e-5, atol=1e-5)
        assert torch.equal(captured.spikes, wanted.spikes)
        for mine, layer in zip(captured.carries, wanted.hidden, strict=True):
            assert torch.equal(mine, layer.carry.value)
    assert all(torch.equal(layer.carry.value, carry) for layer, carry in zip(ours.hidden, carries, strict=True))
    captured.reset()
    assert not any(bool(carry.any()) for carry in captured.carries)
