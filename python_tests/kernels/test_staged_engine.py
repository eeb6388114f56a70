"""The CPU engine of actors with convolutions and bridges, against the reference.

Weights, thresholds and pixels are chosen so that no sum is rounded, in whatever order: then the engine must give what
the reference gives, bit for bit, also where a potential stands exactly on a threshold.
"""

import contextlib
import threading

import numpy as np
import pytest
import torch
from support.cases import each
from support.engine_cases import ISAS
from support.exact_actors import assert_decides, exact_actor, wanted_decisions
from support.visual import DRQV2, FORMS, Form, frames, visual_actor, visual_thresholds

import snnkern
from snnkern import InputError, InUseError, SpikingActor
from snnkern.kernels.backends import cpu
from snnkern.policies.spiking import dense_actor

pytestmark = [
    pytest.mark.skipif(cpu._cpu is None, reason="the native CPU kernels were not built"),
    pytest.mark.usefixtures("_each_isa"),
]

MORE_FORMS = {
    "a-channel": Form((1, 6, 7), [(1, 2, 1, 1)], (3,)),
    "many-channels": Form((3, 10, 11), [(33, 3, 2, 1), (48, 3, 1, 1), (20, 3, 2, 0)], (18,)),
    "whole-vectors": Form((3, 13, 13), [(32, 3, 2, 0), (64, 3, 1, 1), (16, 2, 1, 0)], (64, 16)),
    "strides-beyond-kernels": Form((2, 17, 19), [(5, 2, 1, 0), (6, 2, 3, 1), (7, (1, 2), (2, 3), 0)], (9,)),
    "long-kernels": Form((2, 16, 15), [(8, 8, 4, 3), (17, (2, 4), 1, (1, 3))], (5,)),
    "wide-kernels": Form((1, 9, 24), [(4, 3, 1, 1), (18, (1, 5), 1, 0), (33, (2, 7), (1, 2), (1, 4))], (6,)),
    "columns-of-four": Form((3, 12, 12), [(6, 3, 1, 0), (34, 4, 1, 2), (5, (3, 8), (1, 2), 1)], ()),
    "no-layer-behind": Form((3, 9, 9), [(4, 3, 2, 1), (20, 2, 1, 0)], (), bridge=2),
    "nature": Form((3, 36, 36), [(32, 8, 4, 0), (64, 4, 2, 0), (64, 3, 1, 0)], (512, 8)),
}
ALL_FORMS = FORMS | MORE_FORMS


@pytest.fixture(params=ISAS, scope="module")
def _each_isa(request):
    """Every test on every build of the kernels that this machine runs."""
    before = cpu._cpu.isa()
    assert cpu._cpu.use_isa(request.param)
    yield
    cpu._cpu.use_isa(before)


# What a decision computes

WITHOUT_BRIDGE = {name: form for name, form in ALL_FORMS.items() if form.bridge is None}


@pytest.mark.parametrize("size", [1.0, 0.02], ids=["sparse", "dense"])
@pytest.mark.parametrize("per_neuron", [False, True], ids=["per-channel", "per-neuron"])
@each("form", WITHOUT_BRIDGE)
@pytest.mark.parametrize("neuron", ["if", "snm", "mt"])
def test_exact_numbers_give_the_reference_bit_for_bit(neuron, form, per_neuron, size):
    assert_decides(exact_actor(form, neuron, size=size, per_neuron=per_neuron), form, 3, 2)


@pytest.mark.parametrize("per_neuron", [False, True], ids=["per-channel", "per-neuron"])
@each("form", WITHOUT_BRIDGE)
def test_so_does_differential_coding_where_steps_divide_exactly(form, per_neuron):
    assert_decides(exact_actor(form, "dc", per_neuron=per_neuron, timesteps=2), form, 2, 2)


@each("form", WITHOUT_BRIDGE)
def test_so_does_a_leak_of_a_half(form):
    snn = exact_actor(form, snnkern.LIF(leak=0.5), timesteps=3)
    assert_decides(snn, form, 2, 2)


@pytest.mark.parametrize("timesteps", [1, 3, 8, 17])
def test_any_number_of_steps(timesteps):
    form = MORE_FORMS["whole-vectors"]
    assert_decides(exact_actor(form, "mt", timesteps=timesteps), form, 1, 2)


@pytest.mark.parametrize("neuron", ["if", "snm", "mt", "dc"])
@pytest.mark.parametrize("name", ["trunk", "no-layer-behind", "bridge-in-front"])
def test_a_bridge_works_on_the_mean(name, neuron):
    form = ALL_FORMS[name]
    snn = exact_actor(form, neuron, timesteps=2)
    place = form.bridge
    for decision, (action, carries, counts) in enumerate(wanted_decisions(snn, form, 5, 2)):
        found = torch.from_numpy(snn.act(frames(5, form.image, seed=decision)))
        assert type(snn._engine) is cpu.StagedEngine
        # What stands in front of the bridge is exact; what it says is rounded, and so may be what follows.
        assert torch.equal(snn.spikes[:place], torch.stack(counts)[:place])
        for layer, carry in zip(snn.hidden[:place], carries[:place], strict=True):
            assert torch.equal(layer.carry.value.double(), carry)
        near = torch.isclose(found.double(), action, rtol=1e-4, atol=1e-4).all(dim=1)
        assert float(near.double().mean()) >= 0.6, (found, action)
        snn.carry = [carry.float() for carry in carries]


def test_the_network_of_drq_v2():
    snn = exact_actor(DRQV2, "if", timesteps=8)
    assert_decides(snn, DRQV2, 1, 1)


def test_rows_with_an_alpha_each_and_rows_that_start_anew():
    form = MORE_FORMS["whole-vectors"]
    snn = exact_actor(form, "snm")
    snn.alpha = [0.0, 0.5, 1.0]
    alone = [exact_actor(form, "snm", alpha=alpha) for alpha in (0.0, 0.5, 1.0)]
    for decision in range(4):
        images = frames(3, form.image, seed=decision)
        if decision == 2:
            snn.reset(np.array([False, True, False]))
            alone[1].reset()
        actions = snn.act(images)
        for row, one in enumerate(alone):
            assert np.array_equal(one.act(images[row]), actions[row])
            assert all(map(torch.equal, (c[0] for c in one.carry), (c[row] for c in snn.carry)))


def test_images_in_floating_point():
    form = FORMS["two-convolutions"]
    snn = exact_actor(form, "if")
    actor = visual_actor(form, torch.float64, observation_dtype=None, observation_scale=256.0)
    with torch.no_grad():
        for own, other in zip(actor.parameters(), dense_actor(snn).parameters(), strict=True):
            own.copy_(other)
    same = snnkern.convert(actor.float(), thresholds=snn.thresholds, neuron="if", timesteps=4, alpha=0.5, memory=0.5)
    images = frames(3, form.image)
    assert np.array_equal(same.act(images.astype(np.float32)), snn.act(images))
    assert type(same._engine) is cpu.StagedEngine
    wide = snn.act(frames(3, form.image, seed=4)), same.act(frames(3, form.image, seed=4).astype(np.float64))
    assert np.array_equal(*wide)
    images = images.astype(np.float32)
    images[1, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinity in 1 of 3 rows \(first: row 1\)"):
        same.act(images)
    same.check_finite = False
    same.act(images)
    assert not torch.isnan(same.carry[0][[0, 2]]).any()
    assert torch.isnan(same.carry[0][1]).any()


# Threads and memory


@pytest.mark.parametrize("neuron", ["if", "dc"])
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("name", ["many-channels", "whole-vectors", "trunk", "convolutions-alone", "bridge-in-front"])
def test_the_number_of_threads_changes_nothing(name, rows, neuron):
    form = ALL_FORMS[name]
    made = visual_actor(form, torch.float64)
    thresholds = visual_thresholds(made)
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            snn = snnkern.convert(made.float(), thresholds=thresholds, neuron=neuron, timesteps=5, alpha=0.5)
            made.double()
            actions = [snn.act(frames(rows, form.image, seed=seed)) for seed in range(3)]
            found[threads] = [np.stack(actions), snn.spikes.numpy(), *(carry.numpy() for carry in snn.carry)]
    finally:
        torch.set_num_threads(before)
    for others in list(found.values())[1:]:
        assert all(map(np.array_equal, found[1], others))


def test_a_batch_changes_nothing():
    form = MORE_FORMS["many-channels"]
    made, images = visual_actor(form), frames(4, form.image)
    thresholds = visual_thresholds(made)

    def make() -> SpikingActor:
        return snnkern.convert(made, thresholds=thresholds, neuron="mt", timesteps=3)

    together = make().act(images)
    assert all(np.array_equal(make().act(image), action) for image, action in zip(images, together, strict=True))


def test_two_threads_may_not_use_one_actor_at_once():
    form = DRQV2
    snn = exact_actor(form, "if", timesteps=16)
    image = frames(1, form.image)[0]
    snn.act(image)
    start = threading.Barrier(4)

    def decide() -> None:
        start.wait()
        for _ in range(5):
            with contextlib.suppress(InUseError):
                snn.act(image)

    threads = [threading.Thread(target=decide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snn.reset()
    fresh = exact_actor(form, "if", timesteps=16)
    assert np.array_equal(snn.act(image), fresh.act(image))


def test_decisions_take_no_more_memory_than_the_first():
    snn = exact_actor(DRQV2, "if", timesteps=8)
    image = frames(1, DRQV2.image)[0]
    snn.act(image)
    taken = snn._engine.scratch_bytes()
    assert 0 < taken < 4 * 2**20
    for _ in range(2):
        snn.act(image)
    assert snn._engine.scratch_bytes() == taken


def test_an_image_of_one_row_is_no_vector():
    form = Form((1, 1, 9), [(3, (1, 3), 1, 0)], (4,))
    snn, image = exact_actor(form, "if"), frames(1, form.image)[0]
    snn.act(image)
    assert type(snn._engine) is cpu.StagedEngine
    for spoilt in (image[0, 0], image[0]):
        with pytest.raises(InputError, match="observation must be"):
            snn.act(spoilt)


# What it leaves to others


def test_layers_that_are_too_wide_run_one_by_one():
    wide = Form((1, 4, 3), [(2**15, 1, 1, 0), (2, 1, 1, 0)], (3,))
    actor = visual_actor(wide)
    snn = snnkern.convert(actor, thresholds=visual_thresholds(actor), neuron="if", timesteps=2)
    snn.act(frames(1, wide.image)[0])
    assert snn._engine is None


def test_bridges_elsewhere_run_one_by_one():
    form = FORMS["bridge-at-the-output"]
    actor = visual_actor(form)
    snn = snnkern.convert(actor, thresholds=visual_thresholds(actor), neuron="if", timesteps=2)
    snn.act(frames(1, form.image)[0])
    assert snn._engine is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: image.astype(np.float32),
        lambda image: image.transpose(1, 2, 0),
        lambda image: image[:2],
        lambda image: image[None, None],
        lambda image: image.astype(np.int8),
    ],
)
def test_what_is_no_observation_is_refused_and_nothing_changes(spoil):
    form = FORMS["two-convolutions"]
    snn, image = exact_actor(form, "if"), frames(1, form.image)[0]
    snn.act(image)
    before = [carry.clone() for carry in snn.carry]
    with pytest.raises(InputError, match="observation must be"):
        snn.act(spoil(image))
    assert all(map(torch.equal, before, snn.carry))


@pytest.mark.parametrize(
    "form",
    [
        lambda image: np.repeat(image, 2, axis=2)[:, :, ::2],
        lambda image: np.asfortranarray(image),
        lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
        lambda image: image[::-1].copy()[::-1],
    ],
)
def test_however_an_image_lies_in_memory(form):
    shape = FORMS["two-convolutions"]
    image = frames(1, shape.image)[0]
    first, second = exact_actor(shape, "if"), exact_actor(shape, "if")
    first.act(image)
    second.act(image)
    assert np.array_equal(first.act(image), second.act(form(image)))
