"""CUDA's kernel that sums integers: what it must give in every bit, on the host from the same source and on a GPU; how
its weights are rounded; and when it is taken."""

from __future__ import annotations

import random

import pytest
import torch
from support.cases import DEFAULT_NEURONS, NORMALISING, each, needs_cpu, random_actor, random_observations
from support.cuda_actors import twins
from support.cuda_on_host import ORDERS, current_device, from_block, meanwhile, multiprocessors, recorded, take_turns
from support.engine_cases import assert_agrees
from support.guarded import before_a_guard, sparse
from support.integer_actors import assert_exact, made, packed
from support.random_actors import random_neuron
from torch import Tensor

import snnkern
from snnkern import DC, MT
from snnkern.kernels.backends import ActorParts, choice, cuda, integers, native
from snnkern.kernels.backends.tuning import Choices
from snnkern.kernels.neurons import Kind

pytestmark = needs_cpu
HOST = torch.device("cpu")


@pytest.fixture
def asked_for(monkeypatch) -> None:
    monkeypatch.setenv("SNNKERN_INTEGERS", "1")


# Widths that are no whole tiles, rows that are not, one and several tiles of steps, weights that fit shared memory and
# some that do not.
SHAPES = {
    "odd": ((5, 7, 3, 2), 20, 9),
    "walker": ((17, 256, 256, 6), 8, 3),
    "humanoid": ((376, 400, 300, 17), 3, 2),
    "deep": ((3, 20, 40, 33, 36, 4), 17, 25),
    "one-step": ((4, 33, 64, 1), 1, 17),
    "four-steps": ((1, 96, 31, 65), 4, 30),
}


@each("shape", SHAPES)
@each("neuron", DEFAULT_NEURONS)
def test_hidden_layers_are_exact(cuda_device, neuron, shape) -> None:
    widths, timesteps, rows = shape
    parts = packed(widths, neuron, cuda_device, timesteps, alpha=0.6, memory=0.4)
    counts = assert_exact(parts, random_observations(2, rows, widths[0]))
    assert all(bool(one.sum(dim=1).all()) for one in counts)


@pytest.mark.gpu
@each("timesteps", {"T8": 8, "T20": 20})
@each("neuron", DEFAULT_NEURONS)
def test_many_rows_on_a_gpu(gpu, neuron, timesteps) -> None:
    """So many that each multiprocessor has three groups of warps, with several tiles each."""
    parts = packed((17, 256, 256, 6), neuron, gpu, timesteps, alpha=0.6)
    assert_exact(parts, random_observations(2, 13_001, 17))  # and the first layer's weights stay


@pytest.mark.parametrize("seed", range(20))
def test_random_actors_are_exact(cuda_device, seed) -> None:
    """Widths, neurons, T from 1 to 20, α of rows, μ, κ, silent neurons, interfaces, rows, groups of warps."""
    choose = random.Random(seed)
    neuron = random_neuron(list(Kind)[seed % len(Kind)], choose)
    if neuron.levels > integers.MOST_LEVELS:
        neuron = type(neuron)(levels=choose.choice([5, 6, 7]))
    widths = [choose.choice([1, 2, 5, 15, 31, 32, 33, 65, 100]) for _ in range(choose.choice([4, 4, 5]))]
    parts = packed(
        widths,
        neuron,
        cuda_device,
        choose.randint(1, 20),
        seed=seed,
        alpha=choose.random(),
        memory=choose.choice([0.0, 0.5, 1.0]),
        clip=choose.choice([0.0, 0.5, 100.0]),
        squash=choose.random() < 0.5,
    )
    for layer in parts.hidden:
        layer.threshold[:: choose.choice([2, 3, 9])] = 0.0
    rows = choose.choice([1, 7, 8, 9, 25, 55])
    alpha = torch.rand(rows, device=cuda_device) if choose.random() < 0.5 else None
    assert_exact(parts, random_observations(3, rows, widths[0], seed=seed), choose.randint(0, 3), alpha)


@pytest.mark.parametrize("levels", [1, 2, 5, 7])
@pytest.mark.parametrize("neuron", [MT, DC])
def test_spikes_of_every_size(cuda_device, neuron, levels) -> None:
    parts = packed((6, 40, 24, 3), neuron(levels=levels), cuda_device, 8, alpha=1.0)
    assert_exact(parts, random_observations(2, 9, 6))


def test_normalised_observations_and_plain_outputs(cuda_device) -> None:
    parts = packed((5, 16, 9, 3), "dc", cuda_device, 3, **NORMALISING)
    assert_exact(parts, 3 * random_observations(1, 20, 5))


def test_an_empty_batch(cuda_device) -> None:
    assert_exact(packed((5, 16, 9, 3), "dc", cuda_device), torch.zeros(1, 0, 5))


@each("order", {name: name for name in ORDERS})
@each("neuron", DEFAULT_NEURONS)
def test_the_order_of_threads_does_not_matter(cuda_on_host, cuda_device, neuron, order) -> None:
    """On the host, where it can be chosen: of several groups in a block, with several tiles each, and of one alone."""
    if cuda_device.type != "cpu":
        pytest.skip("a GPU chooses for itself")
    take_turns(cuda_on_host, order)
    try:
        parts = packed((3, 40, 33, 20, 2), neuron, cuda_device, 9, alpha=1.0)
        assert_exact(parts, random_observations(1, 80, 3))
        assert_exact(parts, random_observations(1, 20, 3))
    finally:
        take_turns(cuda_on_host, "forward")


@each("neuron", DEFAULT_NEURONS)
def test_a_row_depends_on_that_row_alone(cuda_device, neuron) -> None:
    """However many others there are, and whatever the groups are; the last layer has more tasks than a warp parts."""
    observation = random_observations(1, 60, 11).to(cuda_device)
    parts = packed((11, 40, 200, 3), neuron, cuda_device, alpha=1.0)

    def decide(rows: slice, groups: int = 0) -> Tensor:
        engine, given = made(parts), observation[0, rows]
        counts = torch.zeros(2, len(given), dtype=torch.int64, device=cuda_device)
        engine._bind([given.new_zeros(len(given), width) for width in (40, 200)], counts, None, groups)
        action = engine.decide(given, True, 1)
        assert action is not None
        return action

    wanted = decide(slice(0, 60))
    assert torch.equal(torch.cat([decide(slice(0, 3)), decide(slice(3, 40)), decide(slice(40, 60))]), wanted)
    for groups in (1, 2):
        assert torch.equal(decide(slice(0, 60), groups), wanted)


@each("neuron", DEFAULT_NEURONS)
def test_agrees_with_the_reference_where_rounding_cannot_decide(cuda_device, asked_for, neuron) -> None:
    """In float64, over an episode with resets; and the first hidden layer is the CPU engine's in every bit."""
    ours, on_cpu = twins((11, 64, 40, 3), neuron, cuda_device, alpha=0.6, memory=0.4)
    observations = random_observations(3, 40, 11)
    resets = {2: torch.arange(40) % 3 == 0}
    share = assert_agrees(ours, observations, resets)
    assert isinstance(ours._engine, integers.Engine)
    assert share > (0.0 if neuron.kind is Kind.DC else 0.5)
    for step, observation in enumerate(observations):
        if step in resets:
            on_cpu.reset(resets[step])
        on_cpu(observation)
    assert torch.equal(ours.spikes[0].cpu(), on_cpu.spikes[0])
    assert torch.equal(ours.hidden[0].carry.value.cpu(), on_cpu.hidden[0].carry.value)


def with_weight(parts: ActorParts, weight: Tensor) -> ActorParts:
    """The same actor with another weight of the second hidden layer, whose senders' θ is 1."""
    first, second, *rest = parts.hidden
    first = first._replace(threshold=torch.ones_like(first.threshold))
    return parts._replace(hidden=[first, second._replace(weight=weight.to(second.weight)), *rest])


def weights() -> dict[str, Tensor]:
    """Of 40 senders and 24 receivers, hard on purpose."""
    normal = torch.randn(40, 24, generator=torch.Generator().manual_seed(0)) / 4
    outlier = normal.clone()
    outlier[torch.arange(24), torch.arange(24)] = 50.0
    edge = torch.full((40, 24), 0.5) + torch.arange(24) * 2.0**-12  # around the largest integer of three digits
    return {
        "normal": normal,
        "one-large": outlier,
        "equal": torch.full((40, 24), 0.3),
        "zeros": torch.zeros(40, 24),
        "negative": -normal.abs(),
        "largest": torch.full((40, 24), integers.LARGEST * 2.0**-24),
        "smallest": torch.full((40, 24), -integers.LARGEST * 2.0**-24),
        "at-the-edge": torch.cat([edge, -edge])[::2] * (127 / 128) * 2,
        "powers-of-two": torch.exp2(-torch.arange(24.0)).expand(40, -1),
        "far-apart": normal * torch.exp2(torch.arange(24.0) * 3 - 36),
        "denormal": normal * 2.0**-128,
        "digits-of-minus-128": torch.full((40, 24), 0x808080 * 2.0**-24) - 2.0**-16,
    }


@each("weight", weights())
@each("neuron", {name: DEFAULT_NEURONS[name] for name in ("snm", "dc")})
def test_hard_weights(cuda_device, neuron, weight) -> None:
    parts = packed((6, 40, 24, 3), neuron, cuda_device, 4, alpha=1.0)
    assert_exact(with_weight(parts, weight), random_observations(2, 9, 6))


@each("weight", weights())
@pytest.mark.parametrize("levels", [1, 7])
def test_weights_are_rounded_to_half_a_unit(weight, levels) -> None:
    """And a unit is at most 2^-22 of the largest weight, as is said in docs/gpu.md, but for tiny ones.

    Or what a sum of all weights, each times the largest spike, needs to stay below 2^31, with the bias.
    """
    weight, bias = weight.double(), torch.linspace(-1, 1, 24).double() * weight.abs().max()
    digits = integers.split(weight, bias, levels)
    most, spike = weight.abs().amax(dim=0), 2 ** (levels - 1)
    size = weight.abs().sum(dim=0) + bias.abs()
    assert digits.slices.dtype is torch.int8
    assert bool(((digits.value - weight).abs() <= digits.unit / 2).all())
    largest = torch.maximum(most * 2.0**-22 * (128 / 127), size * spike * 2.0**-29.99)
    assert bool((digits.unit <= largest.clamp(min=2.0**-77))[size > 0].all())
    high, middle, low = digits.slices.long()
    integer = (high * integers.BASE + middle) * integers.BASE + low
    assert bool((integer.abs().sum(dim=0) * spike + digits.start.long().abs() < 2**31).all())
    assert torch.equal(digits.scale, digits.unit / spike)
    assert bool(((digits.start * digits.scale - bias).abs() <= digits.scale / 2).all())
    assert torch.equal(torch.frexp(digits.unit).mantissa, torch.full_like(most, 0.5))  # powers of two
    assert bool((digits.slices[0].abs() <= 127).all())
    wrong = (digits.value - weight).abs().sum(dim=0) + (digits.start * digits.scale - bias).abs()
    worst = wrong / size.clamp(min=2.0**-84)
    assert integers.rounding(weight, bias, digits) == worst.max() <= integers.LARGEST_ROUNDING


def test_sums_are_as_large_as_they_can_be(cuda_device) -> None:
    """All senders fire their largest spikes, and all weights are equal: with a bias, a sum is almost 2^31."""
    parts = packed((2, 512, 16, 1), MT(levels=7), cuda_device, 2)
    first, second = parts.hidden
    first = first._replace(
        weight=torch.zeros_like(first.weight),
        bias=torch.ones_like(first.bias),
        threshold=torch.ones_like(first.threshold),
    )
    large = torch.full_like(second.weight, integers.LARGEST * 2.0**-24)
    second = second._replace(weight=large, threshold=torch.full_like(second.threshold, 100.0))
    (counts,) = assert_exact(parts._replace(hidden=[first, second]), torch.zeros(1, 1, 2))
    assert counts[0].tolist() == [512 * 2]


@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_read_or_written_beyond_its_memory(cuda_on_host, cuda_device, monkeypatch, neuron) -> None:
    """On the host, where what is would end the process: of inputs, weights, carries and scratch memory.

    Twelve tiles for three groups, the last one of five rows: so each group asks for what comes, and the first layer's
    weights are copied.
    """
    if cuda_device.type != "cpu":
        pytest.skip("memory is guarded on the host")

    def keep(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        self.append(before_a_guard(tensor))
        return self[-1].data_ptr()

    monkeypatch.setattr(native.Packed, "keep", keep)
    rows = 93
    parts = packed((11, 33, 17, 3), neuron, HOST, 9, alpha=1.0)
    engine = made(parts)
    counts = before_a_guard(torch.zeros(2, rows, dtype=torch.int64))
    carries = [before_a_guard(torch.zeros(rows, width)) for width in (33, 17)]
    with multiprocessors(cuda_on_host, 1):
        scratch = before_a_guard(torch.zeros(engine._native.scratch(rows, 0), dtype=torch.uint8))
        addresses = [carry.data_ptr() for carry in carries]
        engine._native.bind(rows, addresses, counts.data_ptr(), 0, scratch.data_ptr(), 0)
        observation, action = (before_a_guard(torch.zeros(rows, width)) for width in (11, 3))
        observation.copy_(random_observations(1, rows, 11)[0])
        assert engine._native.decide(0, observation.data_ptr(), action.data_ptr(), True)
    wanted = integers.decide_slowly(parts, observation, [torch.zeros(rows, width) for width in (33, 17)])
    assert torch.equal(counts, wanted.counts)
    assert all(torch.equal(mine, other) for mine, other in zip(carries, wanted.carries, strict=True))


@each("aligned", {"aligned": 0, "in-between": 1})
def test_carries_may_stand_anywhere_and_have_neighbours(cuda_device, aligned) -> None:
    """Four of a row are read and written together where they stand on a boundary of 16 bytes."""
    parts = packed((11, 36, 20, 3), "mt", cuda_device, alpha=1.0)
    engine = made(parts)
    guards = [torch.full((9 * width + 64,), 1e30, device=cuda_device) for width in (36, 20)]
    carries = [guard[32 + aligned : aligned - 32].view(9, -1).zero_() for guard in guards]
    counts = torch.zeros(2, 9, dtype=torch.int64, device=cuda_device)
    engine.bind(carries, counts, None)
    observation = random_observations(1, 9, 11)[0].to(cuda_device)
    wanted = integers.decide_slowly(parts, observation, [carry.clone() for carry in carries])
    engine.decide(observation, True, 1)
    assert all(torch.equal(mine, other) for mine, other in zip(carries, wanted.carries, strict=True))
    for guard in guards:
        outside = torch.cat([guard[: 32 + aligned], guard[aligned - 32 :]])
        assert bool((outside == 1e30).all())


def test_rows_beyond_two_to_the_32_numbers(cuda_on_host, cuda_device) -> None:
    """The last tile, beyond 2^32 numbers in its observation, carries, counts and action: a block has it alone."""
    if cuda_device.type != "cpu":
        pytest.skip("on the host, other blocks can be left out")
    batch, width, hidden = 2**29 + 5, 9, 16
    parts = packed((width,) * (hidden + 2), "mt", HOST, alpha=0.6)
    observation, action = sparse(batch, width), sparse(batch, width)
    carries = [sparse(batch, width) for _ in range(hidden)]
    counts, alpha = sparse(hidden, batch, dtype=torch.int64), sparse(batch)
    alpha[-5:] = 0.6
    assert min(batch * width, hidden * batch) > 2**32
    tiles = -(-batch // 8)
    with multiprocessors(cuda_on_host, tiles):
        engine = made(parts)
        scratch = torch.empty(engine._native.scratch(batch, 0), dtype=torch.uint8)  # none for so few steps
        addresses = [carry.data_ptr() for carry in carries]
        engine._native.bind(batch, addresses, counts.data_ptr(), alpha.data_ptr(), scratch.data_ptr(), 0)
        wanted = [torch.zeros(5, width) for _ in carries]
        for x in random_observations(2, 5, width):
            observation[-5:] = x
            with from_block(cuda_on_host, tiles - 1):
                engine._native.decide(0, observation.data_ptr(), action.data_ptr(), False)
            decided = integers.decide_slowly(parts, x, wanted)
            wanted = decided.carries
            torch.testing.assert_close(action[-5:], decided.action, rtol=1e-5, atol=1e-5)
            assert torch.equal(counts[:, -5:], decided.counts)
            assert all(torch.equal(mine[-5:], other) for mine, other in zip(carries, wanted, strict=True))


def test_it_runs_on_its_device_and_stream(cuda_on_host, cuda_device, monkeypatch, asked_for) -> None:
    if cuda_device.type != "cpu":
        pytest.skip("on the host, whose runtime records it")
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: 1)
    monkeypatch.setattr(cuda, "stream_on", {1: 1234}.__getitem__)
    with recorded(cuda_on_host) as calls:
        actor, _ = twins((11, 33, 17, 3), "mt", HOST)
        actor(torch.zeros(2, 11))
        actor(torch.zeros(2, 11))
    assert isinstance(actor._engine, integers.Engine)
    decision = ["launch", "wait", "launch"]  # what looks for NaN, what decides
    assert [call.what for call in calls if call.what != "attribute"] == ["limit", *decision, *decision]
    assert {call.device for call in calls} == {1}
    assert {call.stream for call in calls if call.what in decision} == {1234}
    assert current_device(cuda_on_host) == 0


@each("value", {"nan": torch.nan, "infinity": torch.inf})
def test_what_is_not_finite_is_refused_and_changes_nothing(cuda_device, asked_for, value) -> None:
    ours, wanted = (twins((11, 33, 17, 3), "mt", cuda_device, alpha=1.0)[0] for _ in range(2))
    first, second = random_observations(2, 4, 11).to(cuda_device)
    ours(first)
    bad = second.clone()
    bad[3, 10] = value
    for observation in (bad, bad.repeat(1, 2)[:, :11]):  # one that one call takes, one that Python looks at
        with pytest.raises(snnkern.InputError, match="NaN or infinity in 1 of 4 rows"):
            ours(observation)
    wanted(first)
    assert torch.equal(ours(second), wanted(second))
    for mine, other in zip(ours.hidden, wanted.hidden, strict=True):
        assert torch.equal(mine.carry.value, other.carry.value)


def test_who_comes_while_another_decides_is_refused(cuda_on_host, cuda_device, asked_for) -> None:
    """The wait for the device lets other threads run; what they would have bound is not what is decided on."""
    if cuda_device.type != "cpu":
        pytest.skip("on the host, where another comes at the wait")
    ours, wanted = (twins((11, 33, 17, 3), "mt", HOST, alpha=1.0)[0] for _ in range(2))
    observations = random_observations(3, 4, 11)
    assert torch.equal(ours(observations[0]), wanted(observations[0]))
    engine = ours._engine
    assert isinstance(engine, integers.Engine)
    state = [torch.zeros(20, width) for width in (33, 17)], torch.zeros(2, 20, dtype=torch.int64)
    refused = []

    def decide_too() -> None:
        for call in (
            lambda: ours(observations[1]),
            lambda: engine.decide(observations[1], False, 1),
            lambda: engine.bind(*state, None),
        ):
            with pytest.raises(snnkern.InUseError, match="give each thread its own"):
                call()
            refused.append(call)

    with meanwhile(cuda_on_host, decide_too):
        action = ours(observations[1])
    assert len(refused) == 3
    assert torch.equal(action, wanted(observations[1]))
    decided = engine.decide(observations[2], True, 1)
    assert decided is not None
    assert torch.equal(decided, wanted(observations[2]))


def shared_bytes(module, parts: ActorParts, rows: int, groups: int = 0) -> int:
    """What a launch asks for."""
    with recorded(module) as calls:
        assert_exact(parts, random_observations(1, rows, parts.interface.observation_dim), groups)
    return max(call.bytes for call in calls if call.what == "launch")  # what looks for NaN asks for none


def test_weights_stay_in_shared_memory_as_far_as_they_fit(cuda_on_host, cuda_device) -> None:
    """As on an H100, whose multiprocessors have 227 KB: of 16 tiles with two groups 15, with three 14, with one all.

    Where there are no more tiles of rows than multiprocessors, there is one group, of twice the warps.
    """
    if cuda_device.type != "cpu":
        pytest.skip("on the host, whose runtime records it")
    parts = packed((17, 256, 256, 6), "if", HOST, 1)
    weights, spikes = 256 * 256 * 3, 8 * 8 * 256
    assert 0 < shared_bytes(cuda_on_host, parts, 32, groups=2) - weights * 15 // 16 - 2 * spikes < 4600
    assert 0 < shared_bytes(cuda_on_host, parts, 50) - weights * 14 // 16 - 3 * spikes < 6800
    assert 0 < shared_bytes(cuda_on_host, parts, 8) - weights - spikes < 3100
    with multiprocessors(cuda_on_host, 1000):  # each has a tile then
        assert 0 < shared_bytes(cuda_on_host, parts, 50) - weights - spikes < 3100


def test_the_first_layers_weights_stay_where_groups_have_many_tiles(cuda_on_host, cuda_device) -> None:
    """Four of eight rows for each group: here one of three multiprocessors' blocks."""
    if cuda_device.type != "cpu":
        pytest.skip("on the host, whose runtime records it")
    parts = packed((7, 60, 33, 2), "if", HOST, 3, alpha=1.0)
    few, many = (shared_bytes(cuda_on_host, parts, rows, groups=1) for rows in (88, 89))
    assert many - few == 8 * 64 * 4  # seven inputs and one of padding, 60 neurons and four


NOT_SERVED = {
    "one-layer": ((5, 7, 2), "if"),
    "too-deep": ((3, *[5] * 17, 2), "if"),
    "levels": ((5, 7, 6, 2), MT(levels=8)),
    "sums": ((2, 520, 9, 1), MT(levels=7)),
}


@each("shape", NOT_SERVED)
def test_what_is_not_served_runs_as_it_did(cuda_device, asked_for, shape) -> None:
    actor, _ = twins(*shape, cuda_device, 2)
    actor(torch.zeros(1, shape[0][0], device=cuda_device))
    assert not isinstance(actor._engine, integers.Engine)


def test_what_would_be_rounded_too_much_is_not_served(cuda_device) -> None:
    """One weight beside tiny ones; tiny thresholds; weights that overflow."""
    parts = packed((6, 256, 24, 3), "if", cuda_device)
    assert integers.serves(parts)
    beside = torch.full((256, 24), 2.0**-12)
    assert integers.serves(with_weight(parts, beside * 1.1))
    beside[0] = 1.0
    assert not integers.serves(with_weight(parts, beside * 1.1))
    assert not integers.serves(with_weight(parts, torch.full((256, 24), 1e30)))
    tiny = parts.hidden[1]._replace(threshold=torch.full_like(parts.hidden[1].threshold, 1e-30))
    assert not integers.serves(parts._replace(hidden=[parts.hidden[0], tiny]))
    assert not integers.serves(parts._replace(output=tuple(part.double() for part in parts.output)))


def test_shared_memory_that_is_too_small_is_noticed(cuda_device) -> None:
    """Eight rows of what 3,700 neurons send in eight steps do not fit 227 KB."""
    parts = packed((2, 3700, 9, 1), "if", cuda_device)
    assert integers.serves(parts)
    assert integers.engine(parts) is None


def test_an_environment_that_says_something_else_is_refused(cuda_device, monkeypatch) -> None:
    monkeypatch.setenv("SNNKERN_INTEGERS", "yes")
    actor, _ = twins((5, 7, 6, 2), "if", cuda_device)
    with pytest.raises(snnkern.InputError, match="SNNKERN_INTEGERS must be 0 or 1, got 'yes'"):
        actor(torch.zeros(1, 5, device=cuda_device))


@pytest.fixture
def timed(monkeypatch):
    """Each engine takes the milliseconds that are set for its class and groups of warps; nothing is known before."""
    times: dict[tuple[type, int], float] = {}
    monkeypatch.setattr(integers, "_tuned", Choices(integers.NAMES, lambda: None))
    monkeypatch.setattr(
        integers.Trial,
        "milliseconds",
        lambda trial, engine: times[type(engine), getattr(engine, "_groups", 0)],
    )
    return times


def test_warmup_takes_it_where_it_is_faster(cuda_device, timed) -> None:
    """With the better number of groups, for batches like this, and for actors of this form; its carry stays."""
    timed |= {(cuda.Engine, 0): 3.0, (integers.Engine, 3): 2.0, (integers.Engine, 2): 1.0}
    widths, observations = (11, 33, 17, 3), random_observations(3, 40, 11).to(cuda_device)
    actor, _ = twins(widths, "mt", cuda_device, alpha=1.0)
    other, _ = twins(widths, "mt", cuda_device, alpha=1.0)
    actor(observations[0])
    carry, spikes = [layer.carry.value.clone() for layer in actor.hidden], actor.spikes
    assert type(actor._engine) is cuda.Engine
    actor.warmup(40)
    assert type(actor._engine) is integers.Engine
    assert actor._engine._groups == 2
    assert all(torch.equal(layer.carry.value, kept) for layer, kept in zip(actor.hidden, carry, strict=True))
    assert torch.equal(actor.spikes, spikes)
    wanted = integers.decide_slowly(actor._packed.parts, observations[1], carry)
    actor(observations[1])
    assert all(torch.equal(layer.carry.value, new) for layer, new in zip(actor.hidden, wanted.carries, strict=True))
    other(observations[0])
    assert type(other._engine) is integers.Engine
    assert not choice.takes_integers("auto", other._packed.parts, 400)
    assert choice.takes_integers("auto", other._packed.parts, 33)
    assert not choice.takes_integers("triton", other._packed.parts, 40)


def test_warmup_leaves_it_where_it_is_slower_or_wrong(cuda_device, timed, monkeypatch) -> None:
    timed |= {(cuda.Engine, 0): 3.0, (integers.Engine, 3): 4.0, (integers.Engine, 2): 5.0}
    actor, wanted = twins((11, 33, 17, 3), "mt", cuda_device, alpha=1.0)
    actor.warmup(40)
    assert type(actor._engine) is cuda.Engine
    x = random_observations(1, 40, 11)[0]
    torch.testing.assert_close(actor(x.to(cuda_device)).cpu(), wanted(x), rtol=1e-5, atol=1e-5)
    timed |= {(integers.Engine, 3): 1.0, (integers.Engine, 2): 1.0}
    monkeypatch.setattr(integers, "fragments", lambda slices, *_: slices.flip(0).contiguous())
    wrong, _ = twins((11, 33, 18, 3), "mt", cuda_device, alpha=1.0)
    wrong.warmup(40)
    assert type(wrong._engine) is cuda.Engine


def test_large_batches_take_it_unasked_where_it_was_measured(cuda_device, timed, monkeypatch) -> None:
    monkeypatch.setattr(integers, "are_usual", lambda device: True)
    monkeypatch.setattr(choice, "is_large", lambda device, rows: rows > 30)
    parts = packed((11, 33, 17, 3), "mt", cuda_device)
    assert type(choice.engine("auto", parts, 31)) is integers.Engine
    assert type(choice.engine("auto", parts, 30)) is not integers.Engine
    assert type(choice.engine("cuda", parts, 31)) is cuda.Engine
    assert [choice.takes_integers(name, parts, 31) for name in ("auto", "cuda", "triton")] == [True, False, False]
    integers._tuned.keep(integers._key(parts, 31), integers.Tuned(False))  # what was measured goes before
    assert not choice.takes_integers("auto", parts, 31)
    monkeypatch.setattr(integers, "are_usual", lambda device: False)
    assert not choice.takes_integers("auto", parts, 33)


def test_warmup_compares_it_where_it_is_taken_unasked(cuda_device, timed, monkeypatch) -> None:
    monkeypatch.setattr(integers, "are_usual", lambda device: True)
    monkeypatch.setattr(choice, "is_large", lambda device, rows: rows > 30)
    parts = packed((11, 33, 17, 3), "mt", cuda_device)
    mine, other = choice.engine("auto", parts, 40), choice._usual_engine("auto", parts, 40)
    timed |= {(type(other), 0): 1.0, (integers.Engine, 3): 2.0, (integers.Engine, 2): 3.0}
    assert type(mine) is integers.Engine
    assert choice.takes_integers("auto", parts, 40)
    assert choice.measure_integers("auto", parts, mine, 40, None)
    assert not choice.takes_integers("auto", parts, 40)
    assert not choice.measure_integers("auto", parts, mine, 40, None)  # it is known


def test_it_was_measured_on_hopper(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert integers.are_usual(torch.device("cuda"))
    assert not integers.are_usual(torch.device("cpu"))
    assert integers.are_wanted(torch.device("cuda"))
    for other in ((8, 0), (9, 1), (10, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, other=other: other)
        assert not integers.are_usual(torch.device("cuda"))
    for asked in ("1", "0"):
        monkeypatch.setenv("SNNKERN_INTEGERS", asked)
        assert integers.are_wanted(torch.device("cuda")) == (asked == "1")


@pytest.mark.parametrize("asked", ["0", "1"])
def test_warmup_measures_nothing_where_the_environment_decides(cuda_device, timed, monkeypatch, asked) -> None:
    monkeypatch.setenv("SNNKERN_INTEGERS", asked)
    actor, _ = twins((11, 33, 17, 3), "mt", cuda_device)
    actor.alpha = torch.linspace(0, 1, 40)
    actor.warmup(40)
    assert isinstance(actor._engine, integers.Engine) == (asked == "1")


def test_other_devices_and_dtypes_are_not_asked(monkeypatch) -> None:
    monkeypatch.setenv("SNNKERN_INTEGERS", "1")
    actor, thresholds = random_actor((5, 7, 6, 2), torch.float64)
    for dtype in (torch.float32, torch.float64):
        snn = snnkern.convert(actor.to(dtype), thresholds=thresholds, neuron="if", timesteps=2)
        snn(torch.zeros(1, 5, dtype=dtype))
        assert not isinstance(snn._engine, integers.Engine)
