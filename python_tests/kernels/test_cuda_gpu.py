"""What only a GPU shows of the CUDA backend: graphs, streams, devices, errors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from support.cases import (
    DEFAULT_NEURONS,
    Size,
    assert_same_bits,
    each,
    needs_cpu,
    random_layer,
    random_observations,
    run_layer,
)
from support.cuda_actors import assert_twins, decide, twins
from support.gradients import random_gradient

import snnkern
from snnkern import Dynamics
from snnkern.kernels import ops
from snnkern.kernels.backends import cuda, native
from snnkern.kernels.surrogates import Surrogate

pytestmark = needs_cpu
needs_module = pytest.mark.skipif(cuda._cuda is None, reason=cuda._reason or "")
WIDTHS = (17, 256, 256, 6)


def assert_same_state(captured, wanted) -> None:
    assert torch.equal(captured.spikes.cpu(), wanted.spikes)
    for mine, layer in zip(captured.carries, wanted.hidden, strict=True):
        assert torch.equal(mine.cpu(), layer.carry.value)


@pytest.mark.gpu
@each("neuron", DEFAULT_NEURONS)
def test_a_captured_decision_replays(gpu, neuron) -> None:
    ours, wanted = twins(WIDTHS, neuron, gpu, 8, alpha=0.7, memory=0.3)
    captured = ours.capture(3)
    for step, observation in enumerate(random_observations(6, 3, 17)):
        if step == 4:
            mask = torch.tensor([True, False, True])
            captured.reset(mask.to(gpu))
            wanted.reset(mask)
        captured.observation.copy_(observation)
        torch.testing.assert_close(captured.replay().cpu(), wanted(observation), rtol=1e-5, atol=1e-5)
        assert_same_state(captured, wanted)
    captured.reset()
    assert not any(bool(carry.any()) for carry in captured.carries)


@pytest.mark.gpu
def test_a_captured_decision_goes_on_from_the_actor_and_leaves_it_alone(gpu) -> None:
    ours, wanted = twins(WIDTHS, "mt", gpu, 8, alpha=1.0)
    observations = random_observations(4, 1, 17)
    decide(ours, observations[0])
    wanted(observations[0])
    captured = ours.capture()
    before = [layer.carry.value.clone() for layer in ours.hidden]
    for observation in observations[1:3]:
        captured.observation.copy_(observation)
        captured.replay()
        wanted(observation)
    assert_same_state(captured, wanted)
    assert all(torch.equal(layer.carry.value, carry) for layer, carry in zip(ours.hidden, before, strict=True))
    ours.reset()
    captured.observation.copy_(observations[3])
    torch.testing.assert_close(captured.replay().cpu(), wanted(observations[3]), rtol=1e-5, atol=1e-5)
    decide(ours, observations[0])
    with pytest.raises(snnkern.InputError, match="the carry belongs to a batch"):
        ours.capture(2)


@pytest.mark.gpu
def test_live_actors_leave_each_other_their_shared_memory(gpu) -> None:
    """The limit is the kernel's: a smaller actor, bound later, must not lower what a larger one needs."""
    (large, wanted), (small, _) = [twins(WIDTHS, "mt", gpu, timesteps) for timesteps in (100, 8)]
    first, second, third = random_observations(3, 1, 17)
    assert_twins(large, wanted, first[None])
    decide(small, second)
    assert_twins(large, wanted, third[None])


@pytest.mark.gpu
def test_the_current_stream_is_respected(gpu) -> None:
    """The observation and the current are written late, in the same stream; another stream would read too early."""
    ours, wanted = twins(WIDTHS, "if", gpu, 8)
    ours.check_finite = False  # which would wait
    x = random_observations(1, 4, 17)[0]
    decide(ours, x)
    ours.reset()
    layer = random_layer(Dynamics(DEFAULT_NEURONS["if"], 5), Size(64, 256))
    late, ready = torch.zeros(4, 17, device=gpu), x.to(gpu)
    late_layer, ready_layer = (
        layer.map(lambda one: torch.zeros_like(one, device=gpu)),
        layer.map(lambda one: one.to(gpu)),
    )
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.copy_(ready)
        late_layer.current.copy_(ready_layer.current)
        late_layer.threshold.copy_(ready_layer.threshold)
        late_layer.carry.copy_(ready_layer.carry)
        action = ours(late)
        results = run_layer_without_waiting(late_layer)
    stream.synchronize()
    torch.testing.assert_close(action.cpu(), wanted(x), rtol=1e-5, atol=1e-5)
    for result, expected in zip(results, run_layer(layer, "reference"), strict=True):
        assert_same_bits(result.cpu(), expected)


@pytest.mark.gpu
def test_decisions_and_layers_are_one_native_call(gpu, monkeypatch) -> None:
    ours, wanted = twins(WIDTHS, "mt", gpu, 8, alpha=1.0)
    observations = random_observations(3, 2, 17)
    for x in observations[:2]:
        decide(ours, x)
        wanted(x)
    action = ours._bound.usual(observations[2].to(gpu), True)
    torch.testing.assert_close(action.cpu(), wanted(observations[2]), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.spikes.cpu(), wanted.spikes)
    layer = random_layer(Dynamics(DEFAULT_NEURONS["if"], 5), Size(64, 256))
    expected = run_layer(layer, "reference")
    monkeypatch.setattr(ops, "_check_neuron", None)  # what the dispatcher's way asks first
    for found, one in zip(run_layer(layer, "cuda", gpu), expected, strict=True):
        assert_same_bits(found, one)


@pytest.mark.gpu
def test_a_nan_that_comes_late_is_found(gpu) -> None:
    """It is written in the current stream behind something long; another stream would look too early."""
    ours, wanted = twins(WIDTHS, "if", gpu, 8, alpha=1.0)
    x = random_observations(1, 4, 17)[0]
    decide(ours, x)
    wanted(x)
    late, bad = x.to(gpu), x.to(gpu)
    bad[3, 5] = torch.nan
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)
        late.copy_(bad)
        with pytest.raises(snnkern.InputError, match=r"NaN or infinity in 1 of 4 rows \(first: row 3\)"):
            ours(late)
    torch.cuda.synchronize()
    assert_twins(ours, wanted, x[None])


def gradients_without_waiting(layer, gradient):
    arguments = (layer.current, layer.threshold, layer.carry, layer.bias, layer.dynamics.numbers)
    return torch.ops.snnkern.neuron_gradients(gradient, *arguments, int(Surrogate.TRIANGLE), "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("timesteps", [5, 40])
@each("neuron", DEFAULT_NEURONS)
def test_captured_gradients_replay(gpu, neuron, timesteps) -> None:
    layer = random_layer(Dynamics(neuron, timesteps), Size(64, 258)).map(lambda one: one.to(gpu))
    other = random_layer(Dynamics(neuron, timesteps), Size(64, 258), seed=1)
    gradient = random_gradient(other, False).to(gpu)
    gradients_without_waiting(layer, gradient)  # memory that a graph cannot ask for
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradients_without_waiting(layer, gradient)
    layer.current.copy_(other.current)
    layer.carry.copy_(other.carry)
    graph.replay()
    for mine, wanted in zip(found, gradients_without_waiting(layer, gradient), strict=True):
        assert_same_bits(mine.cpu(), wanted.cpu())
    assert found[0].any()


@pytest.mark.gpu
def test_gradients_respect_the_current_stream(gpu) -> None:
    """Their inputs are written late, in the same stream; another stream would read too early."""
    layer = random_layer(Dynamics(DEFAULT_NEURONS["mt"], 20), Size(64, 258))
    gradient = random_gradient(layer, False)
    ready, late = (layer.map(lambda tensor: tensor.to(gpu, copy=True)) for _ in range(2))
    late.current.zero_()
    given, late_gradient = gradient.to(gpu), torch.zeros_like(gradient, device=gpu)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.current.copy_(ready.current)
        late_gradient.copy_(given)
        found = gradients_without_waiting(late, late_gradient)
    stream.synchronize()
    for mine, wanted in zip(found, gradients_without_waiting(ready, given), strict=True):
        assert_same_bits(mine.cpu(), wanted.cpu())


@pytest.mark.gpu
def test_gradients_are_the_same_every_time(gpu) -> None:
    """In strips of several rows, too: no sum depends on which block comes first."""
    layer = random_layer(Dynamics(DEFAULT_NEURONS["dc"], 5), Size(9000, 258)).map(lambda one: one.to(gpu))
    gradient = torch.randn(5, 9000, 258, generator=torch.Generator().manual_seed(0)).to(gpu)
    assert cuda.strip_length(9000, 258) > 1
    first = gradients_without_waiting(layer, gradient)
    for _ in range(3):
        for mine, wanted in zip(gradients_without_waiting(layer, gradient), first, strict=True):
            assert_same_bits(mine, wanted)


def run_layer_without_waiting(layer):
    arguments = (layer.current, layer.threshold, layer.carry, layer.dynamics)
    spikes, carry, counts = snnkern.ops.neuron_spikes(*arguments, bias=layer.bias, backend="cuda")
    mean, *_ = snnkern.ops.neuron_mean(*arguments, bias=layer.bias, backend="cuda")
    return spikes, mean, carry, counts


@pytest.mark.gpu
def test_every_device_computes_and_the_current_one_stays(gpu) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        assert_twins(*twins((11, 33, 17, 3), "mt", device, alpha=1.0), random_observations(2, 5, 11))
        layer = random_layer(Dynamics(DEFAULT_NEURONS["dc"], 5), Size(3, 17))
        for result, expected in zip(run_layer(layer, "cuda", device), run_layer(layer, "reference"), strict=True):
            assert_same_bits(result, expected)
        assert torch.cuda.current_device() == gpu.index


@pytest.mark.gpu
def test_auto_takes_cuda_for_tensors_on_a_gpu(gpu) -> None:
    ours, wanted = twins((11, 33, 17, 3), "snm", gpu, alpha=1.0)
    auto = snnkern.nn.SpikingActor(snnkern.load_actor("td3-hopper"), [torch.ones(256)] * 2, ours.dynamics).to(gpu)
    auto(torch.zeros(1, 11, device=gpu))
    assert isinstance(auto._engine, cuda.Engine)
    assert_twins(ours, wanted, random_observations(1, 2, 11))


@needs_module
def test_an_error_names_the_call_that_failed() -> None:
    """There is no device 4096; where there is no driver, asking for the current device fails already."""
    layer = native.LayerArguments(1, 1, *[0] * 12)
    with pytest.raises(RuntimeError, match=r"^cuda(SetDevice\(4096\)|GetDevice) failed: .* \(cudaError\w+\)$"):
        cuda._cuda.neuron_float32(snnkern.Dynamics(snnkern.IF(), 1).numbers, layer, device=4096, stream=0)


@needs_module
def test_importing_the_package_starts_no_driver() -> None:
    """Nor does converting an actor, or asking what there is."""
    program = "import snnkern._cuda, torch; snnkern.backends(); assert not torch.cuda.is_initialized(); print('fine')"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fine"
