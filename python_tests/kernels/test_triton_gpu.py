"""What only a GPU shows of the Triton backend: graphs, streams, devices, sizes beyond 2^32, tuning."""

from __future__ import annotations

import pytest
import torch
from support.cases import DEFAULT_NEURONS, Size, assert_same_bits, each, random_layer, random_observations, run_layer
from support.engine_cases import assert_agrees, engine_actor

import snnkern
from snnkern import DC, IF, Dynamics
from snnkern.kernels import ops, reference
from snnkern.kernels.backends import choice
from snnkern.kernels.backends.triton import launch

pytestmark = pytest.mark.gpu
WIDTHS = (17, 256, 256, 6)


def actor_on(device, neuron="if", **options):
    return engine_actor(WIDTHS, neuron, 8, backend="triton", **options).to(device)


@each("neuron", DEFAULT_NEURONS)
def test_a_captured_decision_replays(triton_gpu, neuron) -> None:
    ours, plain = (actor_on(triton_gpu, neuron, alpha=0.7, memory=0.3) for _ in range(2))
    captured = ours.capture(70)
    for step, observation in enumerate(random_observations(6, 70, 17).to(triton_gpu)):
        if step == 4:
            mask = torch.arange(70, device=triton_gpu) % 3 == 0
            captured.reset(mask)
            plain.reset(mask)
        captured.observation.copy_(observation)
        assert_same_bits(captured.replay(), plain(observation))
        assert torch.equal(captured.spikes, plain.spikes)
        for mine, layer in zip(captured.carries, plain.hidden, strict=True):
            assert_same_bits(mine, layer.carry.value)


def test_the_current_stream_is_respected(triton_gpu) -> None:
    """The observation and the current are written late, in the same stream; another stream would read too early."""
    ours, plain = (actor_on(triton_gpu) for _ in range(2))
    ours.check_finite = False  # which would wait
    ready = random_observations(1, 4, 17)[0].to(triton_gpu)
    ours(ready)
    ours.reset()
    layer = random_layer(Dynamics(IF(), 5), Size(64, 256))
    late = torch.zeros_like(ready)
    late_layer, ready_layer = (layer.map(lambda one: one.to(triton_gpu, copy=True)) for _ in range(2))
    late_layer.current.zero_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.copy_(ready)
        late_layer.current.copy_(ready_layer.current)
        action = ours(late)
        found = ops.neuron_spikes(
            late_layer.current, late_layer.threshold, late_layer.carry, layer.dynamics, backend="triton"
        )
    stream.synchronize()
    assert_same_bits(action, plain(ready))
    expected = run_layer(layer, "reference")
    for result, wanted in zip(found, (expected.spikes, expected.carry, expected.counts), strict=True):
        assert_same_bits(result.cpu(), wanted)


def test_every_device_computes_and_the_current_one_stays(triton_gpu) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        assert assert_agrees(actor_on(device, "mt", alpha=1.0), random_observations(2, 70, 17)) > 0.5
        layer = random_layer(Dynamics(DC(), 5), Size(3, 17))
        for result, expected in zip(run_layer(layer, "triton", device), run_layer(layer, "reference"), strict=True):
            assert_same_bits(result, expected)
        assert torch.cuda.current_device() == triton_gpu.index


def needs_memory(size: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < size:
        pytest.skip(f"this takes {size >> 30} GiB of the GPU's memory, {free >> 30} are free")


# T, B and N of launches in one piece. Spikes out: more than 2^32 spikes; mean out: as many neurons.
BEYOND_32_BITS = {"spikes": (3, 2**31 // 8192 + 8, 8192), "neurons": (1, 2**32 // 8192 + 8, 8192)}


@each("shape", BEYOND_32_BITS)
def test_layers_of_more_than_two_to_the_32_numbers(triton_gpu, shape) -> None:
    """The last rows, which an index of 32 bits does not reach, are those of a small layer."""
    timesteps, batch, neurons = shape
    spikes = timesteps > 1
    assert timesteps * batch * neurons > 2**32
    needs_memory(2 * batch * neurons * (timesteps + 2 + (timesteps if spikes else 1)) + 2**30)
    dynamics = Dynamics(IF(), timesteps, 0.5)
    current = torch.zeros(timesteps, batch, neurons, dtype=torch.bfloat16, device=triton_gpu)
    current[:, -4:] = torch.rand(timesteps, 4, neurons, device=triton_gpu) - 0.2
    threshold = torch.ones(neurons, dtype=torch.bfloat16, device=triton_gpu)
    carry = torch.zeros(batch, neurons, dtype=torch.bfloat16, device=triton_gpu)
    run = ops.neuron_spikes if spikes else ops.neuron_mean
    output, after, counts = run(current, threshold, carry, dynamics, backend="triton")
    last = current[:, -4:].float().cpu()
    wanted = reference.neuron(last, threshold.float().cpu(), torch.zeros(4, neurons), dynamics)
    assert_same_bits(output[..., -4:, :].cpu(), (wanted.spikes if spikes else wanted.mean).bfloat16())
    assert_same_bits(after[-4:].cpu(), wanted.carry.bfloat16())
    assert torch.equal(counts[-4:].cpu(), wanted.counts)
    assert not bool(counts[:-4].any())


def test_actors_of_large_batches_agree_in_every_row(triton_gpu) -> None:
    """As many tiles as make a program work off several, and carries of more than 2^31 bytes."""
    batch = 1_200_000
    needs_memory(batch * 3_000)
    actor = actor_on(triton_gpu, "snm", alpha=1.0)
    few = random_observations(1, 1000, 17)[0].to(triton_gpu)
    action = actor(few.repeat(batch // 1000, 1)).view(-1, 1000, 6)
    assert bool((action == action[:1]).all())
    actor.reset()
    assert assert_agrees(actor, few.cpu()[None]) > 0.7


def test_warmup_keeps_the_fastest_tile_for_actors_like_this_one(triton_gpu) -> None:
    from snnkern.kernels.backends.triton import engine

    actors = [actor_on(triton_gpu, "dc") for _ in range(2)]
    actors[0].warmup(4096)
    actors[1](torch.zeros(4096, 17, device=triton_gpu))
    assert actors[1]._engine._tile == actors[0]._engine._tile
    assert engine._tuned.find(actors[0]._engine._key()) == actors[0]._engine._tile


def test_launches_are_repeated_where_observations_begin_on_a_boundary(triton_gpu) -> None:
    ours, plain = (actor_on(triton_gpu, "mt", alpha=1.0) for _ in range(2))
    rows = random_observations(4, 71, 17).to(triton_gpu)
    for step, whole in enumerate(rows):
        observation = whole[step % 2 :][:70]  # a row is 68 bytes: every other one begins elsewhere
        plain._unpack()  # so that each launch is a first one
        assert_same_bits(ours(observation), plain(observation))
        assert ours._engine._kernel._compiled is not None


def test_auto_takes_triton_for_large_batches(triton_gpu, monkeypatch) -> None:
    from snnkern.kernels.backends.triton import engine

    monkeypatch.setenv("SNNKERN_INTEGERS", "0")  # which Hopper would take
    plain = snnkern.nn.SpikingActor(snnkern.load_actor("td3-hopper"), [torch.ones(256)] * 2, Dynamics(IF(), 4))
    auto = plain.to(triton_gpu)
    auto(torch.zeros(choice.small_batch() + 1, 11, device=triton_gpu))
    assert isinstance(auto._engine, engine.Engine)


def test_the_device_is_served_from_bfloat16_tensor_cores_on(triton_gpu) -> None:
    assert launch.serves(triton_gpu, torch.float32) == (torch.cuda.get_device_capability(triton_gpu) >= (8, 0))


def test_refinement_learns(triton_gpu) -> None:
    dense = snnkern.load_actor("td3-hopper")
    observations = random_observations(1, 2_000, 11)[0].numpy()
    snn = snnkern.convert(dense, observations, neuron="if", timesteps=2).to(triton_gpu)
    told = []
    recipe = snnkern.Recipe(updates=400)
    refined = snnkern.refine(snn, observations, minutes=1e4, rounds=2, recipe=recipe, progress=told.append)
    assert refined.output.weight.device == triton_gpu
    assert told[-1].error < 0.95 * told[-1].given
