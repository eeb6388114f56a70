"""Spiking actors that see: decisions are the reference's, the carry is a row's; copies, files, what is noticed."""

import copy
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.builders import NEURONS, assert_same_tensors
from support.cases import ALL_DTYPES, DEFAULT_NEURONS, each, needs_compiler
from support.random_actors import random_neuron
from support.visual import (
    DRQV2,
    DRQV2_ORIGINAL,
    FORMS,
    frames,
    random_form,
    reference_layers,
    visual_actor,
    visual_thresholds,
)

import snnkern
from snnkern import Dynamics, InputError, SpikingActor
from snnkern.kernels import reference
from snnkern.kernels.neurons import Kind
from snnkern.policies.spiking import corrected_actor, dense_actor

TRUNK = FORMS["trunk"]
BACKENDS = [status.name for status in snnkern.backends() if status.available]


def make(form=TRUNK, neuron="if", dtype=torch.float32, per_neuron=False, backend="auto", **parameters) -> SpikingActor:
    actor = visual_actor(form, torch.float64)
    thresholds = visual_thresholds(actor, per_neuron=per_neuron)
    dynamics = {"timesteps": 4, "alpha": 0.5, "memory": 0.5} | parameters
    return snnkern.convert(actor.to(dtype), thresholds=thresholds, neuron=neuron, backend=backend, **dynamics)


def see(rows: int, form=TRUNK, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(frames(rows, form.image, seed=seed))


def carries(snn: SpikingActor) -> list[torch.Tensor]:
    return [layer.carry.value.clone() for layer in snn.hidden]


def assert_is_reference(snn: SpikingActor, form, rows: int, decisions: int, sure_enough: float) -> None:
    """Every decision, on the rows that rounding cannot have changed so far."""
    exact = copy.deepcopy(dense_actor(snn)).double()
    parts = reference_layers(exact, [threshold.double() for threshold in snn.thresholds])
    expected = [torch.zeros(rows, *layer.neuron_shape).double() for layer in snn.hidden]
    row_alpha = snn.alpha if isinstance(snn.alpha, torch.Tensor) else None
    double = snn.output.weight.dtype == torch.float64
    margin, tolerance = (1e-9, 1e-9) if double else (1e-4, 1e-4)
    sure = torch.ones(rows, dtype=torch.bool)
    for decision in range(decisions):
        pixels = see(rows, form, seed=decision)
        if decision == 2:
            mask = torch.arange(rows) % 3 == 0
            snn.reset(mask)
            for carry in expected:
                carry[mask] = 0.0
        action = snn(pixels) if decision % 2 else torch.from_numpy(snn.act(pixels.numpy()))
        wanted = reference.actor(
            exact.interface.normalize(pixels), carries=expected, dynamics=snn.dynamics, row_alpha=row_alpha, **parts
        )
        expected = [layer.carry.clone() for layer in wanted.layers]
        sure &= torch.stack([layer.margin > margin for layer in wanted.layers]).all(dim=0)
        torch.testing.assert_close(
            action.double()[sure], exact.interface.action(wanted.output)[sure], rtol=tolerance, atol=tolerance
        )
        assert torch.equal(snn.spikes[:, sure], torch.stack([layer.counts for layer in wanted.layers])[:, sure])
        for layer, carry in zip(snn.hidden, expected, strict=True):
            assert layer.carry.value.shape == carry.shape
            near = tolerance * layer.threshold.double().amax()
            assert bool(((layer.carry.value.double() - carry).abs() <= near)[sure].all())
    assert bool(snn.spikes.any(dim=1).all())
    assert float(sure.double().mean()) >= sure_enough


# What a decision computes


@pytest.mark.parametrize("per_neuron", [False, True], ids=["per-channel", "per-neuron"])
@pytest.mark.parametrize("backend", BACKENDS)
@each("form", FORMS)
@each("neuron", DEFAULT_NEURONS)
def test_decisions_are_those_of_the_reference(neuron, form, backend, per_neuron):
    snn = make(form, neuron, torch.float64, per_neuron, backend)
    # A DC neuron that takes back exactly what it has sent stands on a boundary, Q = λ, without being in doubt.
    assert_is_reference(snn, form, 7, 4, 0.0 if neuron.differential else 0.9)


def hard_frames(rows: int, image, seed: int) -> torch.Tensor:
    """Ordinary frames, and some that are black, white, or of one bright pixel."""
    pixels = frames(rows, image, seed=seed)
    pixels[0], pixels[1], pixels[2] = 0, 255, 0
    pixels[2, -1, -1, -1] = 255
    return torch.from_numpy(pixels)


@pytest.mark.parametrize("seed", range(40))
def test_random_actors_decide_as_the_reference(seed):
    """Any form, any neuron; thresholds of 0, per channel and per neuron; black and white frames."""
    choose = random.Random(seed)
    form = random_form(choose)
    actor = visual_actor(form, torch.float64, seed=seed)
    thresholds = visual_thresholds(actor, per_neuron=choose.random() < 0.5, factor=choose.choice([0.2, 0.7, 1.5]))
    for threshold in thresholds:
        if choose.random() < 0.4:
            threshold.flatten()[:: choose.choice([1, 2, 3])] = 0.0
    kind = choose.choice(list(Kind))
    snn = snnkern.convert(
        actor,
        thresholds=thresholds,
        neuron=random_neuron(kind, choose),
        timesteps=choose.choice([1, 2, 3, 5]),
        alpha=choose.choice([0.0, 0.3, 1.0]),
        memory=choose.choice([0.0, 0.5, 1.0]),
        clip=choose.choice([0.0, 0.5, 2.0]),
    )
    parts = reference_layers(actor, snn.thresholds)
    expected = [torch.zeros(5, *layer.neuron_shape).double() for layer in snn.hidden]
    sure = torch.ones(5, dtype=torch.bool)
    for decision in range(3):
        pixels = hard_frames(5, form.image, seed + decision)
        action = snn(pixels)
        signal = actor.interface.normalize(pixels)
        wanted = reference.actor(signal, carries=expected, dynamics=snn.dynamics, **parts)
        expected = [layer.carry for layer in wanted.layers]
        sure &= torch.stack([layer.margin > 1e-9 for layer in wanted.layers]).all(dim=0)
        torch.testing.assert_close(action[sure], actor.interface.action(wanted.output)[sure], rtol=1e-9, atol=1e-9)
        assert torch.equal(snn.spikes[:, sure], torch.stack([layer.counts for layer in wanted.layers])[:, sure])
        for layer, carry in zip(snn.hidden, expected, strict=True):
            assert bool(((layer.carry.value - carry).abs() <= 1e-9 * (1 + carry.abs().amax()))[sure].all())


@each("neuron", DEFAULT_NEURONS)
def test_so_are_they_in_float32_where_rounding_cannot_decide(neuron):
    form = FORMS["one-by-one"]
    assert_is_reference(make(form, neuron), form, 60, 1, 0.0 if neuron.differential else 0.2)


@pytest.mark.parametrize("neuron", ["if", "snm"])
def test_rows_have_an_alpha_each(neuron):
    snn = make(FORMS["two-convolutions"], neuron, torch.float64)
    snn.alpha = [0.0, 0.2, 0.7, 1.0, 0.5]
    assert_is_reference(snn, FORMS["two-convolutions"], 5, 4, 0.9)
    assert not bool(snn.hidden[0].carry.value[0].any()) or snn.dynamics.memory > 0


@pytest.mark.parametrize("form", [DRQV2, DRQV2_ORIGINAL], ids=["published", "original"])
def test_the_networks_of_drq_v2_spike_as_the_reference_says(form):
    assert_is_reference(make(form, "if", torch.float64, timesteps=2), form, 1, 2, 1.0)


@each("dtype", ALL_DTYPES)
@pytest.mark.parametrize("neuron", NEURONS)
def test_every_dtype_comes_near_the_dense_actor(neuron, dtype):
    form = FORMS["two-convolutions"]
    actor = visual_actor(form, torch.float64)
    thresholds = visual_thresholds(actor, factor=1.2)
    snn = snnkern.convert(actor, thresholds=thresholds, neuron=neuron, timesteps=64, alpha=0.0).to(dtype)
    pixels = see(6, form)
    action = snn(pixels)
    assert action.dtype == dtype
    assert {layer.carry.value.dtype for layer in snn.hidden} == {dtype}
    assert (action.double() - actor(pixels)).abs().max() <= 0.15


def test_one_frame_is_a_batch_of_one():
    one, many = make(), make()
    for seed in range(3):
        pixels = frames(1, TRUNK.image, seed=seed)
        np.testing.assert_array_equal(one.act(pixels[0]), many.act(pixels)[0])
    assert one.act(frames(1, TRUNK.image)[0]).shape == (2,)
    assert make().act(frames(0, TRUNK.image)).shape == (0, 2)


def test_frames_in_any_order_in_memory_are_the_same_frames():
    pixels = frames(2, TRUNK.image)
    wanted = make().act(pixels)
    last = np.ascontiguousarray(np.moveaxis(pixels, 1, -1))
    np.testing.assert_array_equal(make().act(np.moveaxis(last, -1, 1)), wanted)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(make().act(frozen), wanted)


# The carry belongs to a row


def test_the_carry_is_kept_element_by_element_and_reset_by_row():
    snn = make()
    snn(see(4))
    shapes = [(4, 5, 5, 5), (4, 4, 3, 3), (4, 8), (4, 8)]
    assert [tuple(carry.shape) for carry in snn.carry] == shapes
    before = carries(snn)
    assert all(carry.unique().numel() > 4 for carry in before[:2])
    mask = torch.tensor([True, False, False, True])
    snn.reset(mask)
    for carry, old in zip(carries(snn), before, strict=True):
        assert not bool(carry[mask].any())
        assert torch.equal(carry[~mask], old[~mask])
    snn.reset()
    assert snn.carry is None


def test_a_carry_can_be_taken_and_set():
    snn, other = make(), make()
    snn(see(3))
    other.carry = snn.carry
    wanted = snn(see(3, seed=5))
    assert torch.equal(other(see(3, seed=5)), wanted)
    assert not torch.equal(make()(see(3, seed=5)), wanted)
    for bad, message in (
        (
            [carry.flatten(1) for carry in snn.carry],
            r"hidden layer 1 must be torch.float32 \[B, C, H, W\] = \[3, 5, 5, 5\]",
        ),
        (
            [carry[:2] if index else carry for index, carry in enumerate(snn.carry)],
            "the carry of hidden layer 2 must be",
        ),
    ):
        with pytest.raises(InputError, match=message):
            other.carry = bad
    with pytest.raises(InputError, match="call reset"):
        snn(see(4))


def test_without_alpha_batches_may_differ():
    snn = make(alpha=0.0, memory=0.0)
    for rows in (3, 1, 4):
        assert torch.equal(snn(see(rows)), make(alpha=0.0)(see(rows)))


# Copies, files, state dicts


def test_copies_have_a_carry_of_their_own():
    snn = make()
    snn(see(2))
    others = [copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))]
    wanted = [snn(see(2, seed=seed)) for seed in (3, 4)]
    for other in others:
        assert all(torch.equal(other(see(2, seed=seed)), one) for seed, one in zip((3, 4), wanted, strict=True))


@pytest.mark.parametrize("per_neuron", [False, True])
@each("form", FORMS)
def test_a_file_gives_the_same_spiking_actor_back(form, per_neuron, tmp_path):
    snn = make(form, "snm", per_neuron=per_neuron)
    snn(see(3, form))
    snnkern.save(snn, tmp_path / "s.safetensors", include_carry=True)
    again = snnkern.load(tmp_path / "s.safetensors")
    assert_same_tensors(again.state_dict(), snn.state_dict())
    assert all(torch.equal(*pair) for pair in zip(carries(again), carries(snn), strict=True))
    for seed in (2, 3):
        assert torch.equal(again(see(3, form, seed)), snn(see(3, form, seed)))
    assert dense_actor(again).fingerprint() == dense_actor(snn).fingerprint()
    assert corrected_actor(again).fingerprint() == dense_actor(snn).fingerprint()


def test_an_actor_with_corrected_layers_keeps_the_original(tmp_path):
    actor = visual_actor(TRUNK)
    pairs = [(layer.weight * 1.1, layer.bias - 0.01) for layer in (*actor.hidden, actor.output)]
    corrected = actor.replaced(pairs=pairs)
    snn = SpikingActor(corrected, visual_thresholds(actor), Dynamics(snnkern.MT(), 4), original=actor)
    snnkern.save(snn, tmp_path / "s.safetensors")
    again = snnkern.load(tmp_path / "s.safetensors")
    for one in (snn, again):
        assert dense_actor(one).fingerprint() == actor.fingerprint()
        assert corrected_actor(one).fingerprint() == corrected.fingerprint()
    assert torch.equal(again(see(2)), snn(see(2)))


def test_a_carry_that_does_not_fit_its_file_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    snn = make()
    snn(see(2))
    path = tmp_path / "s.safetensors"
    snnkern.save(snn, path, include_carry=True)
    content = path.read_bytes()
    import json

    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    tensors = load_file(path)
    tensors["hidden.1.carry"] = tensors["hidden.1.carry"].flatten(1)
    save_file(tensors, path, metadata)
    with pytest.raises(snnkern.CheckpointError, match=r"hidden.1.carry must be \[B, 4, 3, 3\], got \[2, 36\]"):
        snnkern.load(path)


def test_a_state_dict_moves_numbers_to_another_actor():
    snn, other = make(), make(FORMS["trunk"], per_neuron=False, neuron="if")
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.mul_(0.5)
    assert not torch.equal(other(see(2)), snn(see(2)))
    other.load_state_dict(snn.state_dict())
    snn.reset()
    other.reset()
    assert torch.equal(other(see(2)), snn(see(2)))
    state = snn.state_dict()
    state["bridges.2.0.weight"] = torch.full_like(state["bridges.2.0.weight"], torch.nan)
    with pytest.raises(InputError, match=r"bridges.2.0.weight holds NaN"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match=r"hidden.0.weight must be"):
        other.load_state_dict(snn.state_dict() | {"hidden.0.weight": torch.zeros(5, 3, 3, 2)})


# What is noticed, and what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda snn: setattr(snn.hidden[0], "weight", torch.zeros(5, 3, 3, 2)), r"hidden.0.weight must be"),
        (lambda snn: setattr(snn.hidden[1], "threshold", torch.ones(5)), r"hidden.1.threshold must be"),
        (lambda snn: setattr(snn.hidden[1], "threshold", -torch.ones(4)), r"hidden.1.threshold must be finite and at"),
        (lambda snn: setattr(snn.hidden[2], "weight", torch.zeros(9, 8)), r"hidden.2.weight must be"),
        (lambda snn: setattr(snn.bridges["2"][0], "bias", torch.zeros(3)), r"bridges.2.0.bias must be"),
        (lambda snn: snn.bridges["2"][1].weight.fill_(torch.inf), r"bridges.2.1.weight holds NaN or infinity"),
        (lambda snn: snn.bridges["2"].append(torch.nn.ReLU()), "a step of a bridge must be of class"),
        (lambda snn: setattr(snn, "bridges", torch.nn.ModuleDict()), r"hidden.2.weight must be"),
        (lambda snn: setattr(snn, "bridges", torch.nn.ModuleList()), "bridges must be of class ModuleDict"),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_the_next_decision(change, message):
    snn = make()
    snn(see(2))
    change(snn)
    with pytest.raises(InputError, match=message):
        snn(see(2))


def test_new_numbers_count_from_the_next_decision_on():
    snn = make(alpha=0.0, memory=0.0)
    before = snn(see(2))
    snn.bridges["2"][0].weight.mul_(0.3)
    bridged = snn(see(2))
    assert not torch.equal(bridged, before)
    snn.hidden[0].threshold = snn.hidden[0].threshold.reshape(-1, 1, 1).expand(5, 5, 5).contiguous()
    assert torch.equal(snn(see(2)), bridged)
    snn.hidden[0].weight.zero_()
    assert not torch.equal(snn(see(2)), bridged)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([torch.ones(5), torch.ones(4), torch.ones(8)], "has 4 hidden layers, got 3 thresholds"),
        ([torch.ones(6), torch.ones(4), torch.ones(8), torch.ones(8)], r"layer 1 must be \[5\] or \[5, 5, 5\], got"),
        ([torch.ones(5), torch.ones(36), torch.ones(8), torch.ones(8)], r"layer 2 must be \[4\] or \[4, 3, 3\], got"),
        ([torch.ones(5), torch.ones(4), torch.ones(8, 1), torch.ones(8)], r"layer 3 must be \[8\], got shape \[8, 1\]"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(thresholds, message):
    with pytest.raises(InputError, match=message):
        snnkern.convert(visual_actor(TRUNK), thresholds=thresholds)


def test_a_refused_frame_leaves_the_carry_as_it_was():
    snn = make()
    snn(see(2))
    before = carries(snn)
    for bad in (see(2).float(), see(2).movedim(1, -1), torch.zeros(2, 9, 12, 12, dtype=torch.uint8)):
        with pytest.raises(InputError, match="observation must be"):
            snn(bad)
    with pytest.raises(InputError, match="channels come first"):
        snn.act(frames(2, TRUNK.image).transpose(0, 2, 3, 1))
    assert all(torch.equal(*pair) for pair in zip(carries(snn), before, strict=True))


# The decision as a pure function


@pytest.mark.parametrize("neuron", ["if", "dc"])
def test_the_decision_alone_is_the_same_one(neuron):
    snn = make(neuron=neuron, backend="reference")  # an engine sums in another order
    alone = snn.stateless()
    after = alone.start(3)
    assert [tuple(carry.shape[1:]) for carry in after] == [layer.neuron_shape for layer in snn.hidden]
    for seed in range(3):
        action, *after = alone(see(3, seed=seed), *after)
        assert torch.equal(action, snn(see(3, seed=seed)))
        assert all(torch.equal(*pair) for pair in zip(after, carries(snn), strict=True))


def test_it_can_be_exported():
    snn = make(backend="reference")
    alone = snn.stateless()
    program = torch.export.export(alone, (see(2), *alone.start(2)))
    action, *after = program.module()(see(2), *alone.start(2))
    assert torch.equal(action, snn(see(2)))
    assert all(torch.equal(*pair) for pair in zip(after, carries(snn), strict=True))


@needs_compiler
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_a_spiking_actor_can_be_compiled():
    snn, wanted = make(dtype=torch.float64), make(dtype=torch.float64)
    compiled = torch.compile(snn, fullgraph=True)
    for seed in range(3):
        torch.testing.assert_close(compiled(see(3, seed=seed)), wanted(see(3, seed=seed)), rtol=1e-9, atol=1e-9)
        assert torch.equal(snn.spikes, wanted.spikes)


def test_it_can_be_mapped():
    snn = make()
    alone = snn.stateless()
    pixels = torch.stack([see(2, seed=1), see(2, seed=2)])
    starts = [torch.stack([carry, carry]) for carry in alone.start(2)]
    action, *_ = torch.func.vmap(alone)(pixels, *starts)
    for member in range(2):
        torch.testing.assert_close(action[member], alone(pixels[member], *alone.start(2))[0])


# Memory

_WITHOUT_MEMORY = """
import resource, sys
import numpy as np, torch
import snnkern
from support.visual import Form, frames, visual_actor, visual_thresholds

form = Form((1, 40, 40), [(16, 3, 1, 0), (2, 3, 1, 0)], ())
actor = visual_actor(form)
snn, twin = (
    snnkern.convert(actor, thresholds=visual_thresholds(actor), neuron="if", timesteps=500) for _ in range(2)
)
images = frames(3, form.image)
torch.set_num_threads(1)
for policy in (snn, twin):
    policy.act(images)
torch.set_num_threads(3)  # which takes more memory
limits = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 10 * 2**20, limits[1]))
failed = 0
for _ in range(2):
    try:
        snn.act(images)
    except snnkern.InputError as error:
        failed += "500 timesteps (T) of 3 rows of 25,696 neurons need more memory" in str(error)
resource.setrlimit(resource.RLIMIT_AS, limits)
assert failed == 2
assert np.array_equal(snn.act(images), twin.act(images))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native CPU kernels were not built")
def test_a_decision_that_finds_no_memory_is_made_later():
    """An engine that was left half made would read what is not there."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_MEMORY], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
