"""Decisions and layers on CUDA in one call (`csrc/cuda/call.h`): what they notice, leave to Python, and may take.

On the host, whose runtime records what is launched (`cuda_on_host`).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from support.cases import (
    CARRYING,
    DEFAULT_NEURONS,
    Layer,
    Size,
    assert_same_bits,
    each,
    needs_cpu,
    random_layer,
    random_observations,
)
from support.cuda_actors import twins
from support.cuda_on_host import from_block, meanwhile, recorded, use
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

import snnkern
from snnkern import IF, Dynamics, SpikingActor
from snnkern.kernels import ops
from snnkern.kernels.backends import cuda

pytestmark = [
    needs_cpu,
    pytest.mark.skipif(
        not hasattr(Tensor, "__dlpack_c_exchange_api__"), reason="this torch does not say natively what a tensor is"
    ),
]
WIDTHS = (11, 33, 17, 3)
ROWS = 4
MOST_CALLS = 4  # of functions, native ones among them, beside those that any module makes


@pytest.fixture
def module(cuda_on_host, monkeypatch):
    """The backend "cuda" on the host."""
    use(cuda_on_host, monkeypatch.setattr)
    return cuda_on_host


def pair(**options: Any) -> tuple[SpikingActor, SpikingActor]:
    """The same actor on CUDA and on the CPU's engine, after a first decision."""
    actors = twins(WIDTHS, "mt", torch.device("cpu"), alpha=1.0, **options)
    for actor in actors:
        actor(observation())
    return actors


def observation(seed: int = 1) -> Tensor:
    return random_observations(1, ROWS, WIDTHS[0], seed=seed)[0]


def decide_alike(ours: SpikingActor, wanted: SpikingActor, x: Tensor) -> None:
    torch.testing.assert_close(ours(x), wanted(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.spikes, wanted.spikes)
    for mine, other in zip(ours.hidden, wanted.hidden, strict=True):
        assert torch.equal(mine.carry.value, other.carry.value)


def in_one_call(actor: SpikingActor, x: Tensor) -> bool:
    """Whether a decision takes no way but the short one."""
    slow = []
    patch = pytest.MonkeyPatch()
    patch.setattr(SpikingActor, "_notice_changes", lambda self: slow.append(1) or original(self))
    try:
        actor(x)
    finally:
        patch.undo()
    return not slow


original = SpikingActor._notice_changes


def calls_of(run: Callable[[], object]) -> list[str]:
    """The functions that are called, Python's and native ones."""
    calls: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            calls.append(frame.f_code.co_name if event == "call" else argument.__name__)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    calls.remove("setprofile")
    return calls


def test_a_decision_takes_few_calls(module) -> None:
    """Counted, not timed: one more layer of Python is one more call."""
    actor, _ = pair()
    x = observation()
    nothing = torch.nn.Identity()
    calls = calls_of(lambda: actor(x))
    assert "decide" in calls
    assert len(calls) <= len(calls_of(lambda: nothing(x))) + MOST_CALLS, calls


@each("finite", {"looks": True, "does-not-look": False})
def test_a_decision_launches_what_it_needs_and_no_more(module, finite) -> None:
    actor, _ = pair()
    actor.check_finite = finite
    with recorded(module) as calls:
        assert in_one_call(actor, observation())
    assert [call.what for call in calls] == [*["launch", "wait"] * finite, "launch"]


def test_decisions_in_one_call_are_those_of_the_cpu(module) -> None:
    ours, wanted = pair()
    for seed in range(3):
        decide_alike(ours, wanted, observation(seed))
    assert in_one_call(ours, observation())
    first = ours(observation())
    kept = first.clone()
    ours(observation(2))
    assert torch.equal(first, kept)  # each action is a tensor of its own


CHANGES: dict[str, Callable[[SpikingActor], object]] = {
    "a weight, in place": lambda actor: actor.hidden[1].weight.mul_(1.5),
    "a bias, in place": lambda actor: actor.hidden[0].bias.add_(0.25),
    "a threshold, replaced": lambda actor: setattr(actor.hidden[0], "threshold", actor.hidden[0].threshold * 2),
    "the output's bias": lambda actor: actor.output.bias.add_(1.0),
    "the interface": lambda actor: actor.interface.action_scale.mul_(0.5),
    "a layer, replaced": lambda actor: setattr(
        actor, "output", type(actor.output)(actor.output.weight * 2, actor.output.bias)
    ),
    "alpha": lambda actor: setattr(actor, "alpha", 0.25),
    "alpha, of every row": lambda actor: setattr(actor, "alpha", torch.linspace(0, 1, ROWS)),
    "a carry, in place": lambda actor: actor.hidden[0].carry.value.mul_(0.5),
    "a carry, replaced": lambda actor: setattr(
        actor.hidden[0].carry, "value", torch.full_like(actor.hidden[0].carry.value, 0.01)
    ),
    "the carry": lambda actor: setattr(actor, "carry", [one * 0.5 for one in actor.carry]),
    "a reset": lambda actor: actor.reset(),
    "a reset of rows": lambda actor: actor.reset(torch.tensor([True, False, True, False])),
    "a state dict": lambda actor: actor.load_state_dict(
        {name: value * 1.25 for name, value in actor.state_dict().items()}
    ),
}


@each("change", CHANGES)
def test_changes_after_the_first_decision_are_noticed(module, change) -> None:
    ours, wanted = pair()
    x = observation(2)
    decide_alike(ours, wanted, x)
    for actor in (ours, wanted):
        change(actor)
    decide_alike(ours, wanted, x)
    decide_alike(ours, wanted, x)
    assert in_one_call(ours, x)


class Labelled(Tensor):
    """A tensor of another class."""


class Dispatching(Tensor):
    """With memory of its own, and yet what is computed of it is its own affair."""

    seen: ClassVar[list[object]] = []

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        cls.seen.append(function)
        with no_dispatch():
            return function(*arguments, **(options or {}))


def test_a_class_that_computes_by_itself_is_left_to_it(module) -> None:
    ours, _ = pair()
    altered = Tensor._make_subclass(Dispatching, observation(2))
    Dispatching.seen.clear()
    ours(altered)
    assert torch.ops.snnkern.linear.default in Dispatching.seen


def needing_grad(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def negative(x: Tensor) -> Tensor:
    """The same numbers; the memory holds them with the other sign."""
    turned = torch._neg_view(-x)
    assert turned.is_neg()
    assert turned.is_contiguous()
    return turned


UNUSUAL: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    "transposed": lambda x: x.T.contiguous().T,
    "a parameter": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "of another class": lambda x: x.as_subclass(Labelled),
    "needing a gradient that is off": needing_grad,
    "with signs to be turned": negative,
}


@each("alter", UNUSUAL)
def test_what_is_unusual_is_decided_as_it_was(module, alter) -> None:
    ours, wanted = pair()
    x = observation(2)
    with torch.no_grad():
        altered = alter(x)
        torch.testing.assert_close(altered.detach().as_subclass(Tensor), x, rtol=0, atol=0)
        torch.testing.assert_close(ours(altered), wanted(x), rtol=1e-5, atol=1e-5)
    decide_alike(ours, wanted, observation(3))
    assert in_one_call(ours, x)


@each("alter", {"behind-another-row": lambda x: torch.cat([x[:1], x])[1:], "of-odd-address": lambda x: off_by_one(x)})
def test_where_an_observation_lies_does_not_matter(module, alter) -> None:
    ours, wanted = pair()
    x = observation(2)
    altered = alter(x)
    assert in_one_call(ours, altered)
    wanted(x)
    decide_alike(ours, wanted, altered)


def off_by_one(x: Tensor) -> Tensor:
    """On no boundary of 16 bytes."""
    return torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape)


def shrunk(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(x.nbytes - 4)
    return x


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "another dtype": (lambda x: x.double(), "observation is torch.float64, but the actor is torch.float32"),
    "whole numbers": (lambda x: x.int(), "observation is torch.int32"),
    "another width": (lambda x: x[:, :-1].contiguous(), r"observation must be \[B, 11\]"),
    "no rows": (lambda x: x[0], r"observation must be \[B, 11\]"),
    "more rows": (lambda x: torch.cat([x, x]), "the carry belongs to a batch"),
    "another device": (lambda x: x.to("meta"), "observation is on meta"),
    "no memory": (shrunk, "needs 176 bytes, but its storage holds 172"),
    "sparse": (lambda x: x.to_sparse(), "observation must be dense"),
    "an array": (lambda x: x.numpy(), "observation must be a tensor, got ndarray"),
    "nothing": (lambda x: None, "observation must be a tensor, got NoneType"),
    "a gradient": (needing_grad, "observation requires grad"),
    "an infinity": (
        lambda x: x.index_fill(0, torch.tensor([2]), -torch.inf),
        r"infinity in 1 of 4 rows \(first: row 2",
    ),
}


@each("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(module, case) -> None:
    alter, message = case
    ours, wanted = pair()
    with pytest.raises(snnkern.InputError, match=message):
        ours(alter(observation(2)))
    decide_alike(ours, wanted, observation(2))


def test_a_mapped_observation_is_refused(module) -> None:
    ours, wanted = pair()
    for transform in (torch.func.vmap, torch.func.functionalize):
        with pytest.raises(snnkern.InputError, match="cannot be mapped"):
            transform(ours)(torch.stack([observation(2)] * 2) if transform is torch.func.vmap else observation(2))
    decide_alike(ours, wanted, observation(2))


def test_a_decision_under_inference_mode(module) -> None:
    ours, wanted = pair()
    with torch.inference_mode():
        assert in_one_call(ours, observation(2))
        assert ours(observation(3)).is_inference()
    wanted(observation(2))
    wanted(observation(3))
    decide_alike(ours, wanted, observation(4))


def test_a_decision_runs_on_the_current_stream_of_the_actors_device(module, monkeypatch) -> None:
    """The stream is asked for at every call, and the current device is left as it was."""
    streams = {1: 1234}
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: 1)
    monkeypatch.setattr(cuda, "stream_on", lambda device: streams[device])
    ours, _ = pair()
    for stream in (1234, 99):
        streams[1] = stream
        with recorded(module) as calls:
            assert in_one_call(ours, observation())
        assert {(call.device, call.stream) for call in calls} == {(1, stream)}


def test_who_comes_while_another_waits_is_refused(module) -> None:
    """The wait for the device lets other threads run."""
    ours, wanted = pair()
    engine, bound = ours._engine, ours._engine._bound
    x, *state = observation(3), [torch.zeros(ROWS, width) for width in WIDTHS[1:-1]], bound.counts.clone()
    refused = []

    def decide_too() -> None:
        for call in (
            lambda: ours(x),
            lambda: engine.decide(x, False, 1),
            lambda: engine.bind(*state, None),
        ):
            with pytest.raises(snnkern.InUseError, match="give each thread its own"):
                call()
            refused.append(call)

    with meanwhile(module, decide_too):
        action = ours(observation(2))
    assert len(refused) == 3
    torch.testing.assert_close(action, wanted(observation(2)), rtol=1e-5, atol=1e-5)
    decide_alike(ours, wanted, observation(4))


@each("integers", {"a-block-for-each-row": "0", "integers": "1"})
def test_a_call_for_rows_that_are_no_longer_bound_is_refused(module, monkeypatch, integers) -> None:
    """Another thread has bound others meanwhile."""
    monkeypatch.setenv("SNNKERN_INTEGERS", integers)
    ours, _ = pair()
    engine = ours._engine
    usual = engine.usual
    assert usual(observation(2), False) is not None
    engine.bind([torch.zeros(20, width) for width in WIDTHS[1:-1]], torch.zeros(2, 20, dtype=torch.int64), None)
    with pytest.raises(snnkern.InUseError, match="give each thread its own"):
        usual(observation(2), False)


@each("table", {"none": None, "another-capsule": torch.utils.dlpack.to_dlpack(torch.zeros(1))})
def test_a_torch_without_the_table_takes_the_long_way(module, monkeypatch, table) -> None:
    monkeypatch.setattr(Tensor, "__dlpack_c_exchange_api__", table)
    ours, wanted = pair()
    assert ours._engine.usual is None
    decide_alike(ours, wanted, observation(2))
    layer = layer_of()
    for found, expected in zip(call(layer), call(layer, backend="reference"), strict=True):
        assert_same_bits(found, expected)


NOT_FINITE = {"nan": torch.nan, "infinity": torch.inf, "minus-infinity": -torch.inf}
LARGE = torch.finfo(torch.float32).max


@each("value", NOT_FINITE)
@pytest.mark.parametrize("width", [1, 300, 2100])
def test_a_number_that_is_not_finite_is_found_wherever_it_stands(module, value, width) -> None:
    """First and last, in every block; the largest and the smallest numbers are finite."""
    actor, _ = twins((width, 8, 2), "if", torch.device("cpu"))
    x = torch.full((1, width), LARGE)
    x[0, ::2] = -LARGE
    x[0, ::3] = 2.0**-149
    actor(x)
    for place in {0, width // 2, width - 1}:
        with pytest.raises(snnkern.InputError, match="NaN or infinity in 1 of 1 rows"):
            actor(x.index_fill(1, torch.tensor([place]), value))


def test_a_number_that_is_not_finite_is_found_behind_what_blocks_hold_at_once(module) -> None:
    """Of so many numbers a thread looks at several; the last block runs alone."""
    blocks, threads = 1024, 256
    width = 1024
    actor, _ = twins((width, 8, 2), "if", torch.device("cpu"))
    x = torch.zeros(1030, width)
    actor(x[:0])
    engine = actor._pack(len(x))
    carries, counts = [torch.zeros(len(x), 8)], torch.zeros(1, len(x), dtype=torch.int64)
    with from_block(module, blocks - 1):
        engine.bind(carries, counts, None)
        assert engine.decide(x, True, 1) is not None
        x.view(-1)[4 * blocks * threads - 1] = torch.nan  # the last thread's fourth
        assert engine.decide(x, True, 1) is None


# ---- layers

MOST_LAYER_CALLS = 19  # of which two are the test's


def layer_of(neuron: str = "mt", dtype: torch.dtype = torch.float32) -> Layer:
    layer = random_layer(Dynamics(DEFAULT_NEURONS[neuron], 5, **CARRYING), Size(3, 40), dtype)
    return layer.with_row_alpha()


def call(layer: Layer, function=ops.neuron_spikes, backend: str = "cuda") -> tuple[Tensor, ...]:
    more = {"bias": layer.bias, "row_alpha": layer.row_alpha}
    return function(layer.current, layer.threshold, layer.carry, layer.dynamics, **more, backend=backend)


def dispatched(run: Callable[[], object], monkeypatch) -> bool:
    """Whether a call goes through torch's dispatcher."""
    asked = []
    checked = ops._check_neuron
    monkeypatch.setattr(ops, "_check_neuron", lambda *given: asked.append(1) or checked(*given))
    run()
    monkeypatch.setattr(ops, "_check_neuron", checked)
    return bool(asked)


def test_a_layer_takes_few_calls(module) -> None:
    layer = layer_of()
    call(layer)
    calls = calls_of(lambda: call(layer))
    assert "neuron" in calls
    assert len(calls) <= MOST_LAYER_CALLS, calls


@each("function", {"spikes": ops.neuron_spikes, "mean": ops.neuron_mean})
@each("dtype", {"float32": torch.float32, "float64": torch.float64})
@each("alter", {"sequence": lambda layer: layer, "constant": Layer.constant})
@each("neuron", {"mt": "mt", "dc": "dc"})
def test_layers_at_once_are_those_of_the_reference(module, monkeypatch, neuron, alter, dtype, function) -> None:
    layer = alter(layer_of(neuron, dtype))
    wanted = call(layer, function, "reference")
    assert not dispatched(lambda: call(layer, function), monkeypatch)
    for found, expected in zip(call(layer, function), wanted, strict=True):
        assert_same_bits(found, expected)


@each("name", {name: name for name in ("current", "threshold", "carry", "row_alpha")})
@each("alter", UNUSUAL)
def test_unusual_tensors_of_a_layer_are_computed_as_they_were(module, alter, name) -> None:
    layer = layer_of()
    wanted = call(layer, backend="reference")
    with torch.no_grad():
        given = getattr(layer, name)
        altered = alter(given.reshape(-1, given.shape[-1])).reshape(given.shape)
        changed = replace(layer, **{name: altered})
        for found, expected in zip(call(changed), wanted, strict=True):
            assert_same_bits(found.as_subclass(Tensor), expected)


MISFITS: dict[str, tuple[dict[str, Callable[[Layer], object]], str]] = {
    "threshold": ({"threshold": lambda layer: layer.threshold[1:]}, r"threshold must be \[N\] = \[40\]"),
    "current": ({"current": lambda layer: layer.current[:, 1:]}, r"current must be \[T, B, N\] = \[5, 3, 40\]"),
    "steps": ({"current": lambda layer: layer.current[1:]}, r"current must be \[T, B, N\]"),
    "alpha": ({"row_alpha": lambda layer: layer.row_alpha[1:]}, r"row_alpha must be \[B\] = \[3\]"),
    "bias": ({"bias": lambda layer: layer.threshold}, "bias is for DC neurons"),
    "dtype": ({"threshold": lambda layer: layer.threshold.double()}, "threshold is torch.float64"),
    "dtype of the current": (
        {"current": lambda layer: layer.current.double()},
        "threshold is torch.float32, but current is torch.float64",
    ),
    "carry": ({"carry": lambda layer: layer.carry.flatten()}, r"carry must be \[B, N\]"),
    "whole numbers": ({"carry": lambda layer: layer.carry.int()}, "carry is torch.int32"),
    "device": ({"threshold": lambda layer: layer.threshold.to("meta")}, "threshold is on meta"),
    "gradient": ({"current": lambda layer: layer.current.clone().requires_grad_()}, "current requires grad"),
    "array": ({"current": lambda layer: layer.current.numpy()}, "current must be a tensor, got ndarray"),
}


@each("case", MISFITS)
def test_a_layer_that_does_not_fit_is_refused(module, case) -> None:
    changes, message = case
    layer = layer_of()
    with pytest.raises(snnkern.InputError, match=message):
        call(replace(layer, **{name: change(layer) for name, change in changes.items()}))


def test_who_watches_operators_sees_layers(module, monkeypatch) -> None:
    layer = layer_of()
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            seen.append(str(function))
            return function(*arguments, **(options or {}))

    with Watch():
        call(layer)
    assert "snnkern.neuron_spikes.default" in seen
    with torch.profiler.profile() as profile:
        call(layer)
    assert "snnkern::neuron_spikes" in {event.key for event in profile.key_averages()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is old
        traced = torch.jit.trace(lambda current: call(replace(layer, current=current))[0], layer.current)
    assert "snnkern::neuron_spikes" in str(traced.graph)
    assert not dispatched(lambda: call(layer), monkeypatch)


def test_a_layer_runs_on_the_current_stream_of_its_device(module, monkeypatch) -> None:
    monkeypatch.setattr(cuda, "_device_of", lambda tensor: 1)
    monkeypatch.setattr(cuda, "stream_on", {1: 1234}.__getitem__)
    layer = layer_of()
    with recorded(module) as calls:
        assert not dispatched(lambda: call(layer), monkeypatch)
    assert {(one.device, one.stream) for one in calls} == {(1, 1234)}


def test_dynamics_are_told_apart_by_what_they_are(module, monkeypatch) -> None:
    """However many there are, and although one may get the place of another in memory."""
    monkeypatch.setattr(cuda, "_MOST_KNOWN", 5)
    layer = replace(layer_of("if"), row_alpha=None)

    def carry_of(alpha: float, backend: str) -> Tensor:
        """Its dynamics are gone afterwards, and leave their place to the next ones."""
        return call(replace(layer, dynamics=Dynamics(IF(), 5, alpha, memory=0.5)), backend=backend)[1]

    for alpha in torch.linspace(0, 1, 12).tolist():
        assert_same_bits(carry_of(alpha, "cuda"), carry_of(alpha, "reference"))
    assert len(cuda._known_numbers) <= 5
