"""What the CUDA module asks of the runtime: device, stream, shared memory; and addresses beyond 32 bits.

On the host, whose runtime records it (`cuda_on_host`).
"""

from __future__ import annotations

import pytest
import torch
from support.cases import (
    CARRYING,
    DEFAULT_NEURONS,
    Size,
    assert_is_reference,
    assert_same_bits,
    each,
    needs_cpu,
    random_layer,
    random_observations,
)
from support.cuda_actors import assert_twins, decide, on_cuda, twins
from support.cuda_on_host import ORDERS, current_device, from_block, recorded, take_turns, use
from support.gradients import random_gradient
from support.guarded import before_a_guard, sparse

import snnkern
from snnkern import Dynamics
from snnkern.kernels import ops, reference
from snnkern.kernels.backends import Gradients, Problem, Result, cuda
from snnkern.kernels.backends.native import run_gradients, run_neuron
from snnkern.kernels.surrogates import Surrogate

pytestmark = needs_cpu
HOST = torch.device("cpu")
USUAL_LIMIT = 48 * 1024  # of shared memory, for a kernel that asks for no more


@pytest.fixture
def module(cuda_on_host, monkeypatch):
    """The backend "cuda" on the host."""
    use(cuda_on_host, monkeypatch.setattr)
    return cuda_on_host


@pytest.fixture(params=["rows", "clusters"])
def kernel(request, monkeypatch):
    """Which of the two kernels of whole actors decides, where both can: their setting is read when rows are bound."""
    monkeypatch.setenv("SNNKERN_CUDA_CLUSTERS", str(int(request.param == "clusters")))
    return request.param


@pytest.fixture
def second_device(module, monkeypatch):
    """Tensors are on device 1, whose current stream is 1234, while device 0 is the current one."""
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: 1)
    monkeypatch.setattr(cuda, "stream_on", {1: 1234}.__getitem__)
    return module


def assert_in_its_place(calls) -> None:
    assert {call.device for call in calls} == {1}
    assert {call.stream for call in calls if call.what in ("launch", "memset", "wait")} == {1234}


@each("dtype", {"float32": torch.float32, "float64": torch.float64})
def test_a_layer_runs_on_its_device_and_stream(second_device, dtype) -> None:
    layer = random_layer(Dynamics(DEFAULT_NEURONS["if"], 3), Size(2, 300), dtype)
    with recorded(second_device) as calls:
        ops.neuron_spikes(layer.current, layer.threshold, layer.carry, layer.dynamics, backend="cuda")
    assert [call.what for call in calls] == ["memset", "launch"]
    assert calls[0].bytes == 2 * 8
    assert_in_its_place(calls)
    assert current_device(second_device) == 0


@each("dtype", {"float32": torch.float32, "float64": torch.float64})
@each("timesteps", {"one-segment": 5, "several-segments": 40})
def test_gradients_run_on_their_device_and_stream(second_device, dtype, timesteps) -> None:
    """One launch, of no more shared memory than kernels usually have: nothing is set for it before."""
    layer = random_layer(Dynamics(DEFAULT_NEURONS["dc"], timesteps), Size(2, 300), dtype)
    gradient = random_gradient(layer, False)
    problem = Problem(layer.current, layer.threshold, layer.carry, layer.dynamics, layer.bias, None, True)
    with recorded(second_device) as calls:
        cuda.neuron_gradients(problem, gradient, Surrogate.TRIANGLE)
    assert [call.what for call in calls] == ["launch"]
    kept = 2 * min(timesteps, 14) * 8 * 128  # of two numbers, two float32 neurons or one of float64 per thread
    assert calls[0].bytes == kept <= USUAL_LIMIT
    assert_in_its_place(calls)
    assert current_device(second_device) == 0


def test_an_actor_is_packed_and_runs_on_its_device_and_stream(second_device, kernel) -> None:
    with recorded(second_device) as calls:
        actor, _ = twins((11, 33, 17, 3), "mt", HOST)
        decide(actor, torch.zeros(2, 11))
        decide(actor, torch.zeros(2, 11))
    assert {call.what for call in calls} == {"attribute", "limit", "launch", "wait"}
    assert_in_its_place(calls)
    assert current_device(second_device) == 0


def test_an_error_names_the_call_and_leaves_the_device(module, monkeypatch) -> None:
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: 2)
    monkeypatch.setattr(cuda, "stream_on", lambda device: 0)
    layer = random_layer(Dynamics(DEFAULT_NEURONS["if"], 3), Size(2, 3))
    with pytest.raises(RuntimeError, match=r"^cudaSetDevice\(2\) failed: .*\(cudaErrorInvalidDevice\)$"):
        ops.neuron_spikes(layer.current, layer.threshold, layer.carry, layer.dynamics, backend="cuda")
    assert current_device(module) == 0


def test_the_device_of_the_actor_says_what_fits(second_device, monkeypatch) -> None:
    """Device 0 has more shared memory than device 1."""
    engines = []
    for device in (0, 1):
        monkeypatch.setattr(cuda, "_device_of", lambda tensor, device=device: device)
        monkeypatch.setattr(cuda, "stream_on", lambda device: 0)
        actor, _ = twins((3, 500, 500, 2), "mt", HOST, 100)
        actor(torch.zeros(1, 3))
        engines.append(actor._engine)
    assert isinstance(engines[0], cuda.Engine)
    assert engines[1] is None


def shared_bytes(module, actor, rows: int) -> int:
    """What the launch of a decision asks for."""
    with recorded(module) as calls:
        actor(torch.zeros(rows, actor.interface.observation_dim))
    *_, decision = (call for call in calls if call.what == "launch")
    return decision.bytes


LIVE = {  # two actors, each as timesteps and rows
    "fewer-timesteps": ((30, 1), (8, 1)),
    "more-rows": ((30, 1), (30, 4)),  # the host has 3 multiprocessors
}


@each("pair", LIVE)
@each("neuron", DEFAULT_NEURONS)
def test_actors_leave_each_other_their_shared_memory(module, neuron, pair) -> None:
    """The first decides again after the second, which needs less, was packed and bound."""
    (timesteps, rows), (other_timesteps, other_rows) = pair
    first, wanted = twins((17, 512, 512, 6), neuron, HOST, timesteps)
    second, _ = twins((17, 512, 512, 6), neuron, HOST, other_timesteps)
    observations = random_observations(2, rows, 17)
    assert_twins(first, wanted, observations[:1])
    assert shared_bytes(module, second, other_rows) < shared_bytes(module, first, rows)
    first.reset()
    wanted.reset()
    assert_twins(first, wanted, observations)


@each("neuron", DEFAULT_NEURONS)
def test_an_actor_may_take_more_shared_memory_than_kernels_usually_have(module, neuron) -> None:
    ours, wanted = twins((17, 512, 512, 6), neuron, HOST, 40)
    assert shared_bytes(module, ours, 1) > USUAL_LIMIT
    ours.reset()
    assert_twins(ours, wanted, random_observations(2, 1, 17))


@each("order", {name: name for name in ORDERS})
def test_a_list_that_begins_with_one_left_over_is_full(module, kernel, order) -> None:
    """Every neuron but one of the first 256 fires: 255 of them, two at a time, leave one for the 256 that follow."""
    timesteps = 3
    interface = snnkern.Interface(3, 2)
    generator = torch.Generator().manual_seed(0)
    bias = torch.full((900,), 1.5)
    bias[100] = -1.0
    receiver = torch.randn(64, 900, generator=generator) / 30, torch.zeros(64)
    output = torch.randn(2, 64, generator=generator), torch.zeros(2)
    actor = snnkern.Actor([(torch.zeros(900, 3), bias), receiver], output, interface)
    thresholds = [torch.ones(900), torch.full((64,), 0.3)]
    wanted = snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=timesteps, backend="cpu")
    take_turns(module, order)
    try:
        assert_twins(on_cuda(wanted, HOST), wanted, torch.zeros(1, 2, 3))
        assert wanted.spikes[0].tolist() == [899 * timesteps] * 2
    finally:
        take_turns(module, "forward")


@each("neurons", {"four-per-thread": 2**16, "one-per-thread": 2**16 + 1})
@each("spikes", {"spikes-out": True, "mean-out": False})
def test_a_layer_beyond_two_to_the_32_numbers(module, neurons, spikes) -> None:
    """Its last rows, and of them the last neurons: the only block that is run."""
    timesteps, batch, rows = 2, 2**17, 8
    last = 128 if neurons % 4 == 0 else 1
    dynamics = Dynamics(DEFAULT_NEURONS["if"], timesteps, **CARRYING)
    small = random_layer(dynamics, Size(rows, last))
    current, threshold = sparse(timesteps, batch, neurons), sparse(neurons)
    carry, next_carry = sparse(batch, neurons), sparse(batch, neurons)
    output = sparse(timesteps, batch, neurons) if spikes else sparse(batch, neurons)
    counts = torch.zeros(batch, dtype=torch.int64)
    assert batch * neurons > 2**32
    current[:, -rows:, -last:], threshold[-last:], carry[-rows:, -last:] = small.current, small.threshold, small.carry
    per_block = 32 * (4 if neurons % 4 == 0 else 1)
    blocks = batch // rows * -(-neurons // per_block)
    problem = Problem(current, threshold, carry, dynamics, None, None, spikes)
    with from_block(module, blocks - 1):
        run_neuron(
            module.neuron_float32, problem, Result(output, next_carry, counts), cuda._address, **cuda._place(current)
        )
    wanted = reference.neuron(small.current, small.threshold, small.carry, dynamics)
    assert_same_bits(output[..., -rows:, -last:], wanted.spikes if spikes else wanted.mean)
    assert_same_bits(next_carry[-rows:, -last:], wanted.carry)
    assert torch.equal(counts[-rows:], wanted.counts)


@each("neurons", {"two-per-thread": 2**16, "one-per-thread": 2**16 + 1})
@each("timesteps", {"one-segment": 2, "several-segments": 17})
@each("strip", {"strips-of-a-row": 1, "strips-of-eight": 8})
def test_gradients_of_a_layer_beyond_two_to_the_32_numbers(module, neurons, timesteps, strip) -> None:
    """Its last rows, and of them the last neurons: the only block that is run."""
    batch, rows = 2**17, 4 * strip
    last = 64 if neurons % 2 == 0 else 1
    small = random_layer(Dynamics(DEFAULT_NEURONS["mt"], timesteps), Size(rows, last))
    of_spikes = random_gradient(small, False)
    current, gradient = (sparse(timesteps, batch, neurons) for _ in range(2))
    threshold, carry = sparse(neurons), sparse(batch, neurons)
    assert batch * neurons > 2**32
    current[:, -rows:, -last:], threshold[-last:], carry[-rows:, -last:] = small.current, small.threshold, small.carry
    gradient[:, -rows:, -last:] = of_spikes
    sums = sparse(batch // strip, neurons)
    to = Gradients(sparse(timesteps, batch, neurons), sums, sparse(batch, neurons), sums)
    problem = Problem(current, threshold, carry, small.dynamics, None, None, True)
    scratch = sparse(max(module.gradient_scratch(small.dynamics.numbers), 1), batch, neurons)
    per_block = 32 * (2 if neurons % 2 == 0 else 1)
    blocks = batch // rows * -(-neurons // per_block)
    place = {"strip": strip, **cuda._place(current)}
    with from_block(module, blocks - 1):
        run_gradients(
            module.neuron_gradients_float32, problem, gradient, Surrogate.ATAN, to, scratch, cuda._address, **place
        )
    problem = Problem(small.current, small.threshold, small.carry, small.dynamics, None, None, True)
    wanted = cuda.neuron_gradients(problem, of_spikes, Surrogate.ATAN)
    assert_same_bits(to.current[:, -rows:, -last:], wanted.current)
    assert_same_bits(to.carry[-rows:, -last:], wanted.carry)
    torch.testing.assert_close(sums[-4:, -last:].sum(dim=0), wanted.threshold)
    assert wanted.current.any()


def test_an_actor_of_rows_beyond_two_to_the_32_numbers(module) -> None:
    """The last row: beyond 2^32 numbers in its observation, carries, counts and action."""
    batch, width, hidden = 2**29 + 5, 9, 16
    ours, wanted = twins((width,) * (hidden + 2), "mt", HOST, alpha=0.6)
    observation, action = sparse(batch, width), sparse(batch, width)
    carries = [sparse(batch, width) for _ in range(hidden)]
    counts = sparse(hidden, batch, dtype=torch.int64)
    alpha = sparse(batch)
    alpha[-1] = 0.6
    assert min(batch * width, hidden * batch) > 2**32
    engine = ours._pack(1)
    engine.bind(carries, counts, alpha)
    for x in random_observations(2, 1, width):
        observation[-1] = x
        with from_block(module, batch - 1):
            engine._native.decide(0, observation.data_ptr(), action.data_ptr(), False)
        torch.testing.assert_close(action[-1:], wanted(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(counts[:, -1:], wanted.spikes)
        for mine, layer in zip(carries, wanted.hidden, strict=True):
            assert torch.equal(mine[-1:], layer.carry.value)


@each("neurons", {"four-per-thread": 36, "one-per-thread": 35})
@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_read_beyond_the_inputs_of_a_layer(module, neuron, neurons) -> None:
    """What is would end the process."""
    layer = random_layer(Dynamics(neuron, 3, **CARRYING), Size(3, neurons)).with_row_alpha()
    assert_is_reference(layer.map(before_a_guard), "cuda")


@each("timesteps", {"one-segment": 3, "several-segments": 20})
@each("neurons", {"two-per-thread": 36, "one-per-thread": 35})
@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_read_beyond_what_gradients_are_of(module, neuron, neurons, timesteps) -> None:
    """What is would end the process."""
    layer = random_layer(Dynamics(neuron, timesteps), Size(3, neurons))
    for form in (layer, layer.constant()):
        for of_mean in (False, True):
            gradient = random_gradient(form, of_mean)
            inputs = form.map(before_a_guard)
            tensors = (inputs.current, inputs.threshold, inputs.carry, inputs.dynamics, inputs.bias, None)
            found = cuda.neuron_gradients(Problem(*tensors, not of_mean), before_a_guard(gradient), Surrogate.SIGMOID)
            tensors = (form.current, form.threshold, form.carry, form.dynamics, form.bias, None)
            wanted = cuda.neuron_gradients(Problem(*tensors, not of_mean), gradient, Surrogate.SIGMOID)
            for mine, other in zip(found, wanted, strict=True):
                assert_same_bits(mine, other)


@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_read_beyond_the_inputs_of_an_actor(module, kernel, neuron) -> None:
    ours, wanted = twins((11, 33, 17, 3), neuron, HOST, alpha=1.0)
    engine = ours._pack(2)
    carries = [before_a_guard(torch.zeros(2, width)) for width in (33, 17)]
    engine.bind(carries, torch.zeros(2, 2, dtype=torch.int64), None)
    x = random_observations(1, 2, 11)[0]
    engine.decide(before_a_guard(x), False, 1)
    wanted(x)
    for mine, layer in zip(carries, wanted.hidden, strict=True):
        assert torch.equal(mine, layer.carry.value)
