"""Arrays, tensors and modules as they should not be: the answer is right, or one `InputError`, and memory stays whole.

`python_tests/sanitize.sh` runs this file under AddressSanitizer too.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
import torch.multiprocessing  # its ForkingPickler moves the memory of tensors
from numpy.typing import NDArray
from support.builders import make_actor, make_observations
from support.cases import (
    DEFAULT_NEURONS,
    LAYER_BACKENDS,
    Size,
    assert_same_bits,
    each,
    needs_cpu,
    random_actor,
    random_layer,
)
from support.engine_cases import engine_actor, runs_on_engine
from torch import Tensor, nn

import snnkern
from snnkern import Actor, InputError, Interface, SpikingActor
from snnkern.kernels import ops
from snnkern.kernels.backends import cpu, watch

WIDTHS = (5, 9, 13, 3)
ROWS = 6
# As the engine copies a float64 one, this array has no room behind it: what reads too far is seen.
OBSERVATION = make_observations(ROWS, WIDTHS[0])

Form = Callable[[NDArray[np.floating]], object]


def spiking_actor(**options) -> SpikingActor:
    actor, thresholds = random_actor(WIDTHS)
    return snnkern.convert(actor, thresholds=thresholds, alpha=0.5, **options)


def in_use(**options) -> SpikingActor:
    """An actor whose engine is bound, so that the next call goes the shortest way."""
    actor = spiking_actor(**options)
    actor.act(OBSERVATION)
    actor.act(OBSERVATION)
    return actor


def misaligned(array: NDArray[np.floating]) -> NDArray[np.floating]:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    moved = memory[1:].view(array.dtype).reshape(array.shape)
    moved[:] = array
    assert not moved.flags.aligned
    return moved


def read_only(array: NDArray[np.floating]) -> NDArray[np.floating]:
    copied = array.copy()
    copied.flags.writeable = False
    return copied


class Subclass(np.ndarray):
    """An array that is an array and something more."""


def mapped(array: NDArray[np.floating], tmp_path_factory: pytest.TempPathFactory) -> np.memmap:
    path = tmp_path_factory.mktemp("mapped") / "observation"
    array.tofile(path)
    return np.memmap(path, array.dtype, "r", shape=array.shape)


RIGHT: dict[str, Form] = {
    "plain": lambda array: array,
    "float64": lambda array: array.astype(np.float64),
    "big-endian": lambda array: array.astype(">f4"),
    "big-endian float64": lambda array: array.astype(">f8"),
    "longdouble": lambda array: array.astype(np.longdouble),
    "read-only": read_only,
    "column-major": np.asfortranarray,
    "rows reversed twice": lambda array: array[::-1].copy()[::-1],
    "columns reversed twice": lambda array: array[:, ::-1].copy()[:, ::-1],
    "strided": lambda array: np.repeat(array, 2, axis=1)[:, ::2],
    "misaligned": misaligned,
    "misaligned float64": lambda array: misaligned(array.astype(np.float64)),
    "subclass": lambda array: array.view(Subclass),
    "nothing masked": lambda array: np.ma.masked_array(array),
    "nested list": lambda array: array.tolist(),
    "tensor": torch.from_numpy,
    "tensor with gradient": lambda array: torch.from_numpy(array).requires_grad_(),
    "view of wider memory": lambda array: np.concatenate([array, array])[:ROWS],
}

WRONG: dict[str, tuple[Form, str]] = {
    "masked": (lambda array: np.ma.masked_greater(array, 0), "masked values"),
    "object": (lambda array: array.astype(object), "floating-point array, got object"),
    "structured": (lambda array: array.view([("x", "<f4")]), "floating-point array, got"),
    "void": (lambda array: array.view("V4"), "floating-point array, got"),
    "int": (lambda array: array.astype(np.int32), "floating-point array, got int32"),
    "date": (lambda array: array.astype("M8[s]"), "floating-point array, got datetime64"),
    "text": (lambda array: array.astype(str), "floating-point array, got <U"),
    "complex": (lambda array: array.astype(complex), "floating-point array, got complex128"),
    "number": (lambda array: np.float32(1), r"got shape \[\]"),
    "nothing": (lambda array: None, "floating-point array, got object"),
    "ragged": (lambda array: [[0.0] * 5, [0.0] * 4], "floating-point array, got list"),
    "on meta": (lambda array: torch.from_numpy(array).to("meta"), "floating-point array, got Tensor"),
    "one column less": (lambda array: array[:, 1:], r"got shape \[6, 4\]"),
    "one row less": (lambda array: array[1:], "carry belongs to a batch"),
    "no rows": (lambda array: array[:0], "carry belongs to a batch"),
    "three-dimensional": (lambda array: array[None], r"got shape \[1, 6, 5\]"),
    "zero-strided NaN": (lambda array: np.broadcast_to(np.float32(math.nan), array.shape), "NaN or infinity"),
}


@needs_cpu
@each("form", RIGHT)
def test_arrays_of_every_kind_are_read_as_numpy_reads_them(form: Form) -> None:
    actor, other = in_use(), in_use()
    for _ in range(3):  # the first call of a kind may go another way than the second
        np.testing.assert_array_equal(actor.act(form(OBSERVATION)), other.act(OBSERVATION))
    assert runs_on_engine(actor)


@needs_cpu
def test_mapped_and_zero_strided_arrays_are_read_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    actor, other = in_use(), in_use()
    for _ in range(3):
        np.testing.assert_array_equal(actor.act(mapped(OBSERVATION, tmp_path_factory)), other.act(OBSERVATION))
    repeated = np.broadcast_to(OBSERVATION[:1], OBSERVATION.shape)
    np.testing.assert_array_equal(actor.act(repeated), other.act(repeated.copy()))


@needs_cpu
@pytest.mark.parametrize(("form", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_observation_is_refused_and_changes_nothing(form: Form, message: str) -> None:
    actor, other = in_use(), in_use()
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            actor.act(form(OBSERVATION))
    np.testing.assert_array_equal(actor.act(OBSERVATION), other.act(OBSERVATION))


class TensorSubclass(Tensor):
    """A tensor that is a tensor and something more."""


class Wrapped(Tensor):
    """A tensor without memory: what it does would be up to `__torch_dispatch__`."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"{func} of a tensor without memory")


def shrunk(tensor: Tensor, size: int) -> Tensor:
    """A tensor whose storage is smaller than its shape says: torch itself reads beyond it."""
    copied = tensor.clone()
    copied.untyped_storage().resize_(size)
    return copied


def shrunk_view(tensor: Tensor, size: int) -> Tensor:
    columns = tensor.T.contiguous()
    view = columns.T
    columns.untyped_storage().resize_(size)
    return view


TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "strided": lambda x: torch.stack([x, x], dim=2)[:, :, 0],
    "negated": lambda x: torch._neg_view(-x),
    "conjugated": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
    "subclass": lambda x: x.as_subclass(TensorSubclass),
    "parameter": lambda x: nn.Parameter(x, requires_grad=False),
    "transposed": lambda x: x.T.contiguous().T,
    "of an array": lambda x: torch.from_numpy(x.numpy().copy()),
}

REFUSED_TENSORS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "sparse": (lambda x: x.to_sparse(), "must be dense"),
    "sparse rows": (lambda x: x.to_sparse_csr(), "must be dense"),
    "memory gone": (lambda x: shrunk(x, 0), "its storage holds 0"),
    "memory cut": (lambda x: shrunk(x, 8), "its storage holds 8"),
    "memory cut, strided": (lambda x: shrunk_view(x, 8), "its storage holds 8"),
    "for one processor": (lambda x: x.to_mkldnn(), "must be dense"),
    "float8": (lambda x: x.to(torch.float8_e5m2), "float8_e5m2, but the actor is torch.float32"),
    "meta": (lambda x: x.to("meta"), "on meta, but the actor is on cpu"),
    "array": (lambda x: x.numpy(), "must be a tensor, got ndarray"),
    "none": (lambda x: None, "must be a tensor, got NoneType"),
}


@needs_cpu
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
@each("form", TENSORS)
def test_tensors_of_every_kind_are_read_as_torch_reads_them(form: Callable[[Tensor], Tensor]) -> None:
    actor, other = in_use(), in_use()
    observation = torch.from_numpy(OBSERVATION)
    for _ in range(3):
        action = actor(form(observation))
        torch.testing.assert_close(action.as_subclass(Tensor), other(observation), rtol=0, atol=1e-5)


@needs_cpu
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
@pytest.mark.parametrize(("form", "message"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS)
def test_a_tensor_that_cannot_be_read_is_refused(form: Callable[[Tensor], object], message: str) -> None:
    actor, other = in_use(), in_use()
    observation = torch.from_numpy(OBSERVATION)
    with pytest.raises(InputError, match=message):
        actor(form(observation))
    with pytest.raises(InputError, match=message):
        spiking_actor()(form(observation))
    assert torch.equal(actor(observation), other(observation))


# Modules that were changed after they were made.


def change_to(name: str, value: Callable[[], object]) -> Callable[[SpikingActor], None]:
    """Sets an attribute by its path."""

    def change(actor: SpikingActor) -> None:
        path, _, last = name.rpartition(".")
        setattr(actor.get_submodule(path) if path else actor, last, value())

    return change


def in_memory_of(name: str, size: int) -> Callable[[SpikingActor], None]:
    def change(actor: SpikingActor) -> None:
        tensor = actor.state_dict()[name]
        tensor.untyped_storage().resize_(size)
        tensor.detach()[:0].zero_()  # the change of the memory itself is not one that torch counts

    return change


BROKEN: dict[str, tuple[Callable[[SpikingActor], object], str]] = {
    "layer-half": (
        lambda actor: actor.hidden[0].half(),
        r"hidden.0.weight must be torch.float32 \[5, 9\] on cpu, got tor",
    ),
    "layer-double": (lambda actor: actor.hidden[1].double(), "hidden.1.weight must be torch.float32"),
    "interface-double": (lambda actor: actor.interface.double(), "interface.action_scale must be torch.float32"),
    "output-meta": (lambda actor: actor.output.to("meta"), "output.weight must be torch.float32 .* on cpu, got"),
    "all-meta": (lambda actor: actor.to("meta"), "on meta, where a tensor has no numbers"),
    "threshold-short": (change_to("hidden.0.threshold", lambda: torch.ones(3)), r"hidden.0.threshold must be .*\[9\]"),
    "threshold-scalar": (
        change_to("hidden.0.threshold", lambda: torch.tensor(1.0)),
        r"hidden.0.threshold must be .*\[9\]",
    ),
    "threshold-nan": (lambda actor: actor.thresholds[0][2:3].fill_(math.nan), "hidden.0.threshold must be finite and"),
    "threshold-negative": (
        lambda actor: actor.thresholds[1].neg_(),
        "hidden.1.threshold must be finite and at least 0",
    ),
    "weight-inf": (
        lambda actor: actor.hidden[1].weight[0, :1].fill_(math.inf),
        "hidden.1.weight holds NaN or infinity",
    ),
    "weight-transposed": (lambda actor: actor.hidden[0].register_buffer("weight", torch.ones(9, 5)), "hidden.0.weight"),
    "weight-sparse": (
        change_to("output.weight", lambda: torch.ones(13, 3).to_sparse()),
        "output.weight must be .*dense",
    ),
    "weight-scalar": (change_to("hidden.1.weight", lambda: torch.tensor(1.0)), r"hidden.1.weight must be .*\[9, 0\]"),
    "weight-int": (change_to("output.weight", lambda: torch.ones(13, 3).int()), "output.weight must be torch.float32"),
    "weight-gone": (in_memory_of("hidden.0.weight", 0), "hidden.0.weight .* its storage holds 0"),
    "weight-cut": (in_memory_of("hidden.1.weight", 40), "hidden.1.weight .* its storage holds 40"),
    "weight-wrapped": (
        change_to("output.weight", lambda: Wrapped._make_wrapper_subclass(Wrapped, (13, 3))),
        "output.weight must be .*with memory of its own, got Wrapped",
    ),
    "bias-none": (change_to("output.bias", lambda: None), "output.bias must be .*got NoneType"),
    "bias-long": (change_to("output.bias", lambda: nn.Parameter(torch.zeros(300))), r"output.bias must be .*\[3\]"),
    "hidden-short": (change_to("hidden", lambda: nn.ModuleList(in_use().hidden[:1])), "output.weight must be"),
    "hidden-long": (lambda actor: actor.hidden.append(in_use().hidden[0]), "hidden.2.weight must be"),
    "hidden-empty": (change_to("hidden", nn.ModuleList), "at least one SpikingLayer"),
    "hidden-other": (change_to("hidden", lambda: nn.Sequential(nn.Linear(5, 9))), "hidden must be a ModuleList"),
    "layer-other": (
        lambda actor: setattr(actor.hidden, "0", nn.Linear(5, 9)),
        "hidden.0 must be of class SpikingLayer",
    ),
    "layer-none": (lambda actor: setattr(actor.hidden, "0", None), "hidden.0 must be of class SpikingLayer"),
    "output-linear": (change_to("output", lambda: nn.Linear(3, 13)), "output must be of class Readout, got Linear"),
    "interface-other": (change_to("interface", nn.Identity), "interface must be of class Interface, got Identity"),
    "interface-narrow": (change_to("interface", lambda: Interface(4, 3)), r"hidden.0.weight must be .*\[4, 9\]"),
    "interface-wide": (change_to("interface", lambda: Interface(5, 300)), r"output.weight must be .*\[13, 300\]"),
    "interface-float16": (
        change_to("interface", lambda: Interface(5, 3, dtype=torch.float16)),
        "interface.action_scale must be torch.float32",
    ),
    "mean-alone": (change_to("interface.observation_mean", lambda: torch.zeros(5)), "go together"),
    "carry-none": (change_to("hidden.0.carry", lambda: None), "hidden.0.carry must be of class Carry"),
    "carry-few": (
        change_to("hidden.0.carry.value", lambda: torch.zeros(2, 9)),
        r"belongs to a batch of shape \[2, 9\]",
    ),
    "carry-narrow": (change_to("hidden.1.carry.value", lambda: torch.zeros(6, 2)), r"a batch of shape \[6, 2\]"),
    "carry-vector": (change_to("hidden.1.carry.value", lambda: torch.zeros(6)), r"a batch of shape \[6\]"),
    "carry-double": (
        change_to("hidden.0.carry.value", lambda: torch.zeros(6, 9).double()),
        "carry must be torch.float32",
    ),
    "carry-meta": (change_to("hidden.0.carry.value", lambda: torch.zeros(6, 9, device="meta")), "carry must be"),
    "carry-sparse": (change_to("hidden.0.carry.value", lambda: torch.zeros(6, 9).to_sparse()), "carry must be .*dense"),
    "carry-few-gone": (change_to("hidden.0.carry.value", lambda: shrunk(torch.zeros(2, 9), 0)), "storage holds 0"),
    "carry-gone": (change_to("hidden.0.carry.value", lambda: shrunk(torch.zeros(6, 9), 4)), "its storage holds 4"),
}


@needs_cpu
@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_an_actor_that_was_broken_is_refused_by_what_does_not_fit(change, message) -> None:
    for decide in (lambda actor: actor.act(OBSERVATION), lambda actor: actor(torch.from_numpy(OBSERVATION))):
        actor = in_use()
        change(actor)
        for _ in range(2):
            with pytest.raises(InputError, match=message):
                decide(actor)


CHANGED: dict[str, Callable[[SpikingActor], object]] = {
    "bias-in-place": lambda actor: actor.output.bias.add_(100),
    "bias-augmented": lambda actor: setattr(actor.output, "bias", actor.output.bias.add_(1)),
    "bias-of-state-dict": lambda actor: actor.state_dict()["output.bias"].sub_(1),
    "bias-detached": lambda actor: actor.output.bias.detach()[1:].mul_(3).sub_(1),
    "bias-in-inference-mode": torch.inference_mode()(lambda actor: actor.output.bias.add_(1)),
    "bias-set": lambda actor: setattr(actor.output, "bias", torch.ones(3)),
    "bias-parameter": lambda actor: setattr(actor.output, "bias", nn.Parameter(torch.ones(3))),
    "bias-in-table": lambda actor: actor.output._buffers.update(bias=torch.ones(3)),
    "threshold-in-place": lambda actor: actor.thresholds[0].mul_(0),
    "threshold-set": lambda actor: setattr(actor.hidden[1], "threshold", torch.full((13,), 0.1)),
    "weight-in-place": lambda actor: actor.hidden[1].weight.neg_(),
    "weight-expanded": lambda actor: setattr(actor.hidden[1], "weight", torch.full((1, 1), 0.1).expand(9, 13)),
    "weight-column-major": lambda actor: setattr(actor.hidden[0], "weight", torch.ones(9, 5).T),
    "weight-negated": lambda actor: setattr(actor.output, "weight", torch._neg_view(torch.ones(13, 3))),
    "weight-at-an-end": lambda actor: setattr(actor.output, "weight", torch.ones(100)[61:].view(13, 3)),
    "scale-in-place": lambda actor: actor.interface.action_scale.mul_(2),
    "interface-set": lambda actor: setattr(actor, "interface", Interface(5, 3, squash=False)),
    "layer-set": lambda actor: setattr(actor.hidden, "0", spiking_actor(neuron="if", timesteps=2).hidden[0]),
    "layer-loaded": lambda actor: actor.hidden[0].load_state_dict(
        actor.hidden[0].state_dict() | {"bias": torch.ones(9)}
    ),
    "output-set": lambda actor: setattr(actor, "output", type(actor.output)(torch.ones(13, 3), torch.ones(3))),
    "layer-removed": lambda actor: (
        setattr(actor, "hidden", nn.ModuleList([actor.hidden[0]])),
        setattr(actor, "output", type(actor.output)(torch.ones(9, 3), torch.ones(3))),
    ),
    "alpha": lambda actor: setattr(actor, "alpha", 1.0),
    "alphas": lambda actor: setattr(actor, "alpha", np.linspace(0, 1, ROWS)),
    "carry-in-place": lambda actor: actor.hidden[0].carry.value.add_(0.3),
    "carry-set": lambda actor: setattr(actor.hidden[0].carry, "value", torch.full((ROWS, 9), 0.3)),
    "carry-expanded": lambda actor: setattr(actor.hidden[0].carry, "value", torch.full((1, 9), 0.3).expand(ROWS, 9)),
    "carry-module": lambda actor: setattr(actor.hidden[0], "carry", type(actor.hidden[0].carry)()),
    "loaded": lambda actor: actor.load_state_dict({k: v / 2 for k, v in actor.state_dict().items()}),
    "loaded-assigned": lambda actor: actor.load_state_dict(
        {name: tensor / 2 for name, tensor in actor.state_dict().items()}, assign=True
    ),
    "there-and-back": lambda actor: (actor.double(), actor.output.bias.add_(1), actor.float()),
}


@needs_cpu
@each("change", CHANGED)
def test_what_changes_between_decisions_is_noticed(change) -> None:
    """Against a copy that has packed nothing yet."""
    for decide in (lambda actor: actor.act(OBSERVATION), lambda actor: actor(torch.from_numpy(OBSERVATION)).numpy()):
        actor, unchanged = in_use(), in_use()
        change(actor)
        fresh = copy.deepcopy(actor)
        actions = [[decide(one) for _ in range(2)] for one in (actor, fresh, unchanged)]
        np.testing.assert_array_equal(actions[0], actions[1])
        assert not np.array_equal(actions[0], actions[2])
        assert runs_on_engine(actor)


@needs_cpu
def test_weights_given_for_one_call_are_used_in_that_call() -> None:
    actor, other = in_use(), in_use()
    observation = torch.from_numpy(OBSERVATION)
    bias = torch.ones(3)
    action = torch.func.functional_call(actor, {"output.bias": bias}, (observation,))
    expected = other(observation)
    assert not torch.equal(action, expected)
    assert torch.equal(actor(observation), other(observation))


@needs_cpu
@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
def test_the_watch_sees_every_tensor_and_table(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(watch, "_native", None)
    names = list(in_use().state_dict())
    assert len(names) == 10
    for name in names:
        actor = in_use()
        unchanged = actor._bound.unchanged
        actor.state_dict()[name].mul_(1)
        assert not unchanged(), name
    for name in ("hidden", "output", "interface", "hidden.0", "hidden.1.carry", "hidden.0.carry.value"):
        actor = in_use()
        unchanged = actor._bound.unchanged
        assert unchanged()
        path, _, last = name.rpartition(".")
        module = actor.get_submodule(path) if path else actor
        setattr(module, last, copy.deepcopy(getattr(module, last)))
        assert not unchanged(), name


def test_the_numbers_of_an_interface_cannot_be_set() -> None:
    actor = spiking_actor()
    for name in ("squash", "observation_clip", "observation_dim", "action_dim"):
        with pytest.raises(AttributeError):
            setattr(actor.interface, name, 1)


@needs_cpu
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_an_actor_made_in_inference_mode_is_like_any_other(inside: bool) -> None:
    with torch.inference_mode(inside):
        actor = in_use().double().float()
        actor.act(OBSERVATION)
    actor.output.bias.add_(1)
    fresh = copy.deepcopy(actor)
    np.testing.assert_array_equal(actor.act(OBSERVATION), fresh.act(OBSERVATION))
    actor.reset(np.arange(ROWS) < 3)
    fresh.reset(np.arange(ROWS) < 3)
    np.testing.assert_array_equal(actor.act(OBSERVATION), fresh.act(OBSERVATION))
    actor.reset()
    assert np.isfinite(actor.act(OBSERVATION)).all()


# The memory of the carry is the engine's, whatever becomes of the tensors that show it.


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda carry: carry.resize_(1, 1), id="made-smaller"),
        pytest.param(lambda carry: carry.resize_(10_000, 100), id="made-larger"),
        pytest.param(lambda carry: carry.untyped_storage().resize_(0), id="memory-gone"),
        pytest.param(lambda carry: carry.share_memory_(), id="shared"),
        pytest.param(lambda carry: ForkingPickler.dumps(carry), id="sent-to-a-process"),
        pytest.param(lambda carry: carry.set_(torch.zeros(1)), id="set"),
        pytest.param(lambda carry: setattr(carry, "data", torch.zeros(1)), id="data"),
    ],
)
@needs_cpu
def test_no_decision_writes_where_the_carry_is_not(spoil) -> None:
    actor = in_use()
    for layer in actor.hidden:
        with contextlib.suppress(RuntimeError):  # torch refuses to resize it
            spoil(layer.carry.value)
    kept = [torch.full((ROWS, 13), 7.0) for _ in range(100)]  # which may take the place of what was freed
    for _ in range(3):
        assert np.isfinite(actor.act(OBSERVATION)).all()
        assert torch.isfinite(actor(torch.from_numpy(OBSERVATION))).all()
    assert all(bool((tensor == 7.0).all()) for tensor in kept)
    actor.reset()
    assert np.array_equal(actor.act(OBSERVATION), spiking_actor().act(OBSERVATION))


@needs_cpu
@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda actor: ForkingPickler.dumps(actor), id="to-a-process"),
        pytest.param(lambda actor: actor.share_memory(), id="shared"),
        pytest.param(lambda actor: pickle.dumps(actor), id="pickled"),
        pytest.param(lambda actor: copy.deepcopy(actor), id="copied"),
    ],
)
def test_an_actor_whose_memory_moves_goes_on_as_before(send) -> None:
    actor, other = in_use(), in_use()
    send(actor)
    mask = np.arange(ROWS) % 2 == 0
    for step in range(3):
        np.testing.assert_array_equal(actor.act(OBSERVATION), other.act(OBSERVATION))
        if step == 1:
            actor.reset(mask)
            other.reset(mask)


# The dense actor, and what an actor is made from.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_an_interface_of_another_dtype_than_the_layers_is_refused(dtype) -> None:
    layers = [(layer.weight, layer.bias) for layer in (*make_actor(*WIDTHS).hidden, make_actor(*WIDTHS).output)]
    message = f"the interface's action_scale is {dtype}, but the layers are torch.float32"
    with pytest.raises(InputError, match=message):
        Actor(layers[:-1], layers[-1], Interface(5, 3, dtype=dtype))
    mixed = Interface(5, 3)
    mixed.action_bias = mixed.action_bias.to(dtype)
    with pytest.raises(InputError, match=f"the interface's action_bias is {dtype}"):
        Actor(layers[:-1], layers[-1], mixed)


def test_a_file_whose_interface_has_another_dtype_is_refused(tmp_path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "actor.safetensors"
    snnkern.save(spiking_actor(), path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    for name in ("interface.action_scale", "interface.action_bias"):
        tensors[name] = tensors[name].half()
    save_file(tensors, path, metadata)
    with pytest.raises(snnkern.CheckpointError, match=r"action_scale is torch\.float16"):
        snnkern.load(path)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        pytest.param(lambda w: shrunk(w, 0), "its storage holds 0", id="gone"),
        pytest.param(lambda w: shrunk(w, 16), "its storage holds 16", id="cut"),
        pytest.param(lambda w: w.to_sparse(), "dense", id="sparse"),
        pytest.param(lambda w: w.to("meta"), "no numbers", id="meta"),
        pytest.param(lambda w: w.to(torch.float8_e4m3fn), "of 16, 32 or 64 bits", id="float8"),
        pytest.param(lambda w: w.numpy(), "must be a tensor, got ndarray", id="array"),
    ],
)
def test_an_actor_of_such_weights_is_refused(weight, message) -> None:
    actor = make_actor(*WIDTHS)
    layers = [(layer.weight, layer.bias) for layer in (*actor.hidden, actor.output)]
    layers[1] = (weight(layers[1][0].detach()), layers[1][1])
    with pytest.raises(InputError, match=message):
        Actor(layers[:-1], layers[-1])


# Operators.


@pytest.mark.parametrize("backend", LAYER_BACKENDS)
@each("neuron", DEFAULT_NEURONS)
def test_operators_read_tensors_of_every_layout(neuron, backend) -> None:
    layer = random_layer(
        snnkern.Dynamics(neuron, 3, alpha=0.7, memory=0.6), Size(3, 17), torch.float32
    ).with_row_alpha()
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "column-major": lambda tensor: tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor,
        "strided": lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 0],
        "negated": lambda tensor: torch._neg_view(-tensor),
        "at an end": lambda tensor: torch.cat([torch.ones(7), tensor.flatten()])[7:].view(tensor.shape),
    }

    def run(layer) -> tuple[Tensor, ...]:
        tensors = {"bias": layer.bias, "row_alpha": layer.row_alpha, "backend": backend}
        return ops.neuron_spikes(layer.current, layer.threshold, layer.carry, layer.dynamics, **tensors)

    wanted = run(layer)
    for form in forms.values():
        for actual, expected in zip(run(layer.map(form)), wanted, strict=True):
            assert_same_bits(actual, expected)
    expanded = layer.current[:1, :1].expand(3, 3, 17)
    wanted = run(replace(layer, current=expanded.contiguous()))
    for actual, expected in zip(run(replace(layer, current=expanded)), wanted, strict=True):
        assert_same_bits(actual, expected)


BAD_OPERANDS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "gone": (lambda tensor: shrunk(tensor, 0), "its storage holds 0"),
    "cut": (lambda tensor: shrunk(tensor, 4), "its storage holds 4"),
    "sparse": (lambda tensor: tensor.to_sparse(), "must be dense"),
    "array": (lambda tensor: tensor.numpy(), "must be a tensor, got ndarray"),
    "list": (lambda tensor: tensor.tolist(), "must be a tensor, got list"),
    "double": (lambda tensor: tensor.double(), "float64"),
    "meta": (lambda tensor: tensor.to("meta"), "meta"),
    "float8": (lambda tensor: tensor.to(torch.float8_e5m2), "float8_e5m2"),
}


@needs_cpu
@pytest.mark.parametrize("name", ["current", "threshold", "carry", "bias", "row_alpha"])
@pytest.mark.parametrize(("form", "message"), BAD_OPERANDS.values(), ids=BAD_OPERANDS)
def test_operators_refuse_what_they_cannot_read(form, message, name) -> None:
    layer = random_layer(snnkern.Dynamics(snnkern.DC(), 3, alpha=0.7), Size(3, 17), torch.float32).with_row_alpha()
    tensors = {key: getattr(layer, key) for key in ("current", "threshold", "carry", "bias", "row_alpha")}
    with pytest.raises(InputError, match=message):
        ops.neuron_spikes(dynamics=layer.dynamics, **tensors | {name: form(tensors[name])})
    with torch.no_grad(), pytest.raises(InputError, match=message):
        ops.neuron_mean(dynamics=layer.dynamics, **tensors | {name: form(tensors[name])})


@needs_cpu
@pytest.mark.parametrize("name", ["input", "weight", "bias"])
@pytest.mark.parametrize(("form", "message"), BAD_OPERANDS.values(), ids=BAD_OPERANDS)
def test_a_product_refuses_what_it_cannot_read(form, message, name) -> None:
    tensors = {"input": torch.rand(3, 5), "weight": torch.rand(5, 7), "bias": torch.rand(7)}
    with pytest.raises(InputError, match=message):
        ops.linear(**tensors | {name: form(tensors[name])})


# Sizes at the ends.


@needs_cpu
@pytest.mark.parametrize("threads", [1, 2, 10_000])
def test_more_threads_than_there_can_be_change_no_bit(threads: int) -> None:
    observations = torch.from_numpy(make_observations(3000, 11))
    actor = engine_actor((11, 33, 17, 3))
    wanted = engine_actor((11, 33, 17, 3))(observations)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        action = actor(observations)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(action, wanted)


@needs_cpu
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")
@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 0, 2), (0, 4, 2), (3, 4, 0), (3, 5, 0, 4, 2)], ids=str)
def test_layers_of_no_width_are_layers(widths) -> None:
    layers = [(torch.ones(wide, narrow), torch.ones(wide)) for narrow, wide in itertools.pairwise(widths)]
    thresholds = [torch.ones(width) for width in widths[1:-1]]
    actor = Actor(layers[:-1], layers[-1])
    snn = snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=3)
    for _ in range(2):
        action = snn(torch.ones(4, widths[0]))
        assert action.shape == (4, widths[-1])
        assert torch.isfinite(action).all()


@needs_cpu
def test_the_widest_layers_of_the_engine_and_wider_ones() -> None:
    for width, on_engine in ((cpu._cpu.most_neurons, True), (2**16 + 1, False)):
        actor, thresholds = random_actor((2, width, 1))
        snn = snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=2)
        for _ in range(2):
            assert np.isfinite(snn.act(np.ones((1, 2), np.float32))).all()
        assert runs_on_engine(snn) == on_engine
