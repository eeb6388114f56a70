"""Triton's kernels of visual actors, against the reference in float64; run as `triton_cases.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.cases import DEFAULT_NEURONS, assert_same_bits, each
from support.recording import RecordedGraph, no_cuda
from support.triton_device import DEVICE, LastProgram, guarded, interpreted, untouched
from support.visual import FORMS, Form, visual_actor
from support.visual_engines import assert_agrees, assert_replays, episode, seeing

import snnkern
from snnkern import Dynamics, SpikingActor
from snnkern.kernels.backends import layered
from snnkern.kernels.backends.triton import engine as whole
from snnkern.kernels.backends.triton import launch, visual
from snnkern.kernels.neurons import Kind
from snnkern.policies.capture import CapturedDecision

pytest_plugins = ["support.triton_device"]  # for its fixtures

# What the kernels have to tell apart, in as few positions as can be.
SHAPES = {
    "odd-sizes": Form((3, 7, 6), [(5, 3, (2, 1), 1), (20, (3, 2), (1, 2), (1, 0)), (6, (2, 3), 1, (0, 1))], (7, 5)),
    "several-blocks": Form((2, 4, 5), [(40, 2, 1, 0), (33, 2, 1, 1)], (35,)),
    "several-tiles": Form((1, 9, 9), [(4, 2, 1, 0), (3, 2, 1, 0)], (3,)),
}


def sees(form: Form, neuron="if", timesteps: int = 4, **options) -> SpikingActor:
    return seeing(form, neuron, timesteps, backend="triton", **options).to(DEVICE)


def on_a_grid(form: Form, neuron, timesteps: int, backend: str) -> SpikingActor:
    """An actor whose numbers are multiples of powers of two, so few of them that every sum is exact in any order.

    Potentials land on the thresholds again and again.
    """
    actor = visual_actor(form, observation_scale=256)
    with torch.no_grad():
        for layer in actor.hidden:
            layer.weight.copy_((4 * layer.weight).round() / 4)
            layer.bias.copy_((16 * layer.bias).round() / 16)
    thresholds = [
        torch.tensor([0.5, 1.0, 0.25, 0.0])[torch.arange(len(layer.bias)) % 4 % (4 - (len(layer.bias) < 8))]
        for layer in actor.hidden
    ]
    dynamics = Dynamics(neuron, timesteps, alpha=0.5, memory=0.5)
    return SpikingActor(actor, thresholds, dynamics, backend=backend).to(DEVICE)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("neuron", "form"),
    [
        *((neuron, "several-tiles") for neuron in DEFAULT_NEURONS),
        *((neuron, "odd-sizes") for neuron in ("if", "mt", "dc")),
        *((neuron, "several-blocks") for neuron in ("snm", "mt")),
    ],
)
def test_what_sums_cannot_round_is_that_of_the_reference(neuron, form) -> None:
    """Every spike and carry of every row; with so many steps that DC's division is exact, and such a leak."""
    model = snnkern.LIF(leak=0.5) if neuron == "lif" else DEFAULT_NEURONS[neuron]
    timesteps = 2 if model.kind is Kind.DC else 5
    ours, reference = (on_a_grid(SHAPES[form], model, timesteps, backend) for backend in ("triton", "reference"))
    for step, pixels in enumerate(episode(ours, 2, 3).to(DEVICE)):
        if step:
            for actor in (ours, reference):
                actor.reset(torch.tensor([True, False, False]))
        torch.testing.assert_close(ours(pixels), reference(pixels), rtol=0, atol=1e-5)
        assert torch.equal(ours.spikes, reference.spikes)
        assert bool((ours.spikes[:2] > 0).all())
        for mine, layer in zip(ours.hidden, reference.hidden, strict=True):
            assert torch.equal(mine.carry.value, layer.carry.value)
    assert isinstance(ours._engine, visual.Engine)
    assert reference._bound is None


@pytest.mark.costly
@each("neuron", {name: DEFAULT_NEURONS[name] for name in ("if", "lif", "snm", "mt")})
def test_convolutions_agree_with_the_reference(neuron) -> None:
    actor = sees(SHAPES["odd-sizes"], neuron, 5, alpha=0.6, memory=0.4)
    assert assert_agrees(actor, episode(actor, 2, 3), {1: torch.tensor([True, False, False])}) > 0.3


@pytest.mark.costly
@each("form", FORMS)
def test_every_form_of_an_actor_agrees_with_the_reference(form) -> None:
    """Bridges and Linear layers run layer by layer behind the kernels; where no convolution comes first, all do."""
    actor = sees(form, "mt", 3, alpha=0.5)
    assert assert_agrees(actor, episode(actor, 2, 3)) > 0.3
    first = bool(form.convolutions)
    assert isinstance(actor._engine, visual.Engine if first else layered.Engine)


@pytest.mark.costly
@pytest.mark.parametrize("levels", [1, 2, 7, 24])
def test_every_number_of_levels_is_packed_and_unpacked(levels) -> None:
    actor = sees(SHAPES["several-tiles"], snnkern.MT(levels=levels), 3)
    assert assert_agrees(actor, episode(actor, 1, 2)) > 0.4


@pytest.mark.costly
@pytest.mark.parametrize("timesteps", [1, 3, 9])
def test_every_number_of_timesteps_is_packed_and_unpacked(timesteps) -> None:
    """A chunk of steps that is cut short, and a second plane, behind which the next row's words stand."""
    actor = sees(SHAPES["several-tiles"], "if", timesteps, alpha=1.0)
    assert assert_agrees(actor, episode(actor, 2, 2)) > 0.4


@pytest.mark.thorough
def test_rows_may_have_an_alpha_each() -> None:
    actor = sees(SHAPES["odd-sizes"], "snm", 4)
    actor.alpha = torch.linspace(0, 1, 4)
    assert assert_agrees(actor, episode(actor, 3, 4)) > 0.4


def test_both_tiles_and_every_share_of_pieces_give_the_same_actions() -> None:
    """A Linear layer's inputs are summed in pieces: by a program each, or several by one."""
    actor = sees(Form((1, 8, 9), [(20, 3, 1, 0)], (5,)), "mt", 2)
    pixels = episode(actor, 1, 2)[0]
    actions = []
    for tile in visual.TILES:
        for most in (1, 2, 6):
            actor.reset()
            actor._bind(2)
            for kernel in actor._engine.kernels:
                kernel.use(tile)
            projection = actor._engine.kernels[-1]
            assert projection._pieces == 6
            projection.share(most)
            actions.append(actor(pixels.to(DEVICE)).cpu())
    for found in actions[1:]:
        torch.testing.assert_close(found, actions[0], rtol=0, atol=1e-5)


@pytest.mark.costly
@pytest.mark.parametrize("precision", whole.PRECISIONS)
def test_precisions_are_those_of_the_weights_between_layers(precision, monkeypatch) -> None:
    """The reference with its weights rounded as `precision` says decides the same; the first layer's are exact."""
    monkeypatch.setenv("SNNKERN_TRITON_PRECISION", precision)
    rounding = {
        "float32": lambda weight: weight,
        "tf32": whole.rounded_to_tf32,
        "bf16": lambda weight: weight.bfloat16().float(),
    }
    actor = sees(SHAPES["several-tiles"], "mt", 3)
    actor._bind(2)  # packs
    theta = actor.hidden[0].threshold[:, None, None]
    second = actor.hidden[1].weight
    actor.hidden[1].weight = (rounding[precision](second * theta).double() / theta.double()).float()
    theta = actor.hidden[1].threshold.repeat_interleave(49)[:, None]
    third = actor.hidden[2].weight
    actor.hidden[2].weight = (rounding[precision](third * theta).double() / theta.double()).float()
    assert assert_agrees(actor, episode(actor, 1, 2)) > 0.4


def test_frames_of_floats_are_scaled_too() -> None:
    dense = visual_actor(
        Form((2, 6, 5), [(4, 3, 1, 1)], (3,)),
        observation_dtype=None,
        observation_scale=2.0,
        observation_offset=0.25,
    )
    thresholds = [torch.full((size,), 0.5) for size in (4, 3)]
    actors = [
        SpikingActor(dense, thresholds, Dynamics(snnkern.MT(), 3, alpha=1.0), backend=backend).to(DEVICE)
        for backend in ("triton", "reference")
    ]
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        x = torch.randn(3, 2, 6, 5, generator=generator).to(DEVICE)
        torch.testing.assert_close(actors[0](x), actors[1](x), rtol=0, atol=1e-5)
    assert isinstance(actors[0]._engine, visual.Engine)
    with pytest.raises(snnkern.InputError, match="NaN or infinity in 1 of 3 rows"):
        actors[0](x.index_fill(0, torch.tensor([1], device=DEVICE), torch.nan))


def test_thresholds_of_every_neuron_run_by_layers() -> None:
    actor = sees(SHAPES["odd-sizes"], "if", 4, per_neuron=True, alpha=0.5)
    assert assert_agrees(actor, episode(actor, 2, 3)) > 0.4
    assert isinstance(actor._engine, layered.Engine)


def test_weights_beyond_what_bfloat16_holds_scaled_run_by_layers() -> None:
    for index in (1, 3):  # of a convolution, and of the Linear layer behind them
        actor = sees(SHAPES["odd-sizes"], "mt", 2)
        actor.hidden[index].weight.view(-1)[0] = 1e12
        actor._bind(1)
        assert isinstance(actor._engine, layered.Engine)


def test_empty_batches_and_arrays() -> None:
    actor = sees(SHAPES["several-tiles"], "if", 3, alpha=1.0)
    assert actor(torch.zeros(0, 1, 9, 9, dtype=torch.uint8, device=DEVICE)).shape == (0, 2)
    actor.reset()
    pixels = episode(actor, 1, 2)[0]
    action = actor(pixels.to(DEVICE)).cpu().numpy()
    actor.reset()
    np.testing.assert_array_equal(actor.act(pixels.numpy()), action)
    other = sees(SHAPES["several-tiles"], "if", 3, alpha=1.0)
    np.testing.assert_array_equal(other.act(pixels.numpy()[0]), action[0])


@pytest.mark.thorough
def test_a_row_decides_as_it_does_alone() -> None:
    actor = sees(SHAPES["several-tiles"], "dc", 2, alpha=1.0)
    pixels = episode(actor, 2, 2).to(DEVICE)
    together = [actor(one) for one in pixels]
    for row in range(2):
        actor.reset()
        for one, action in zip(pixels, together, strict=True):
            torch.testing.assert_close(actor(one[row : row + 1]), action[row : row + 1], rtol=0, atol=1e-6)


def test_warmup_leaves_carries_and_counts_as_they_are() -> None:
    actors = [sees(SHAPES["several-tiles"], "snm", 3, alpha=1.0) for _ in range(2)]
    first, second = episode(actors[0], 2, 2).to(DEVICE)
    for actor in actors:
        actor(first)
    spikes = actors[1].spikes
    actors[1].warmup(2)
    assert torch.equal(actors[1].spikes, spikes)
    for kernel, warmed in zip(actors[0]._engine.kernels, actors[1]._engine.kernels, strict=True):
        kernel.use(warmed.tile)
    assert_same_bits(actors[1](second), actors[0](second))


@interpreted
def test_nothing_is_read_beyond_pixels_or_spikes() -> None:
    """The fields of the last positions, the words behind a field, and the pieces behind an image."""
    actor = sees(SHAPES["several-tiles"], "if", 3)
    actor._bind(2)
    for kernel in actor._engine._convolutions:
        kernel.sent = guarded(kernel.sent)
    pixels = guarded(episode(actor, 1, 2)[0])
    other = sees(SHAPES["several-tiles"], "if", 3)
    assert_same_bits(actor(pixels), other(pixels))


@interpreted
def test_rows_beyond_what_32_bits_count(monkeypatch) -> None:
    """The last row of so many that a layer's carry and its planes have more than 2^31 numbers; nothing touches the
    memory of the others."""
    actor = sees(Form((1, 5, 5), [(16, 2, 1, 0), (16, 2, 1, 0)], ()), "if", 2, alpha=1.0)
    parts = actor._parts()
    pixels = episode(actor, 1, 1)[0]

    def decision(batch):
        engine = visual.Engine(parts, "float32", launch.neuron)
        engine.bind([torch.zeros(1, *layer.neuron_shape) for layer in parts.hidden], torch.zeros(2, 1).long(), None)
        engine._carries = [untouched(batch, *layer.neuron_shape) for layer in parts.hidden]
        engine._counts = untouched(2, batch, dtype=torch.int64)
        for tensor in (*engine._carries, engine._counts[0], engine._counts[1]):
            tensor[-1] = 0
        observation = untouched(batch, 1, 5, 5, dtype=torch.uint8)
        observation[-1] = pixels[0]
        first, second = engine._convolutions
        for kernel in (first, second):
            kernel.batch = batch
        first.sent, second.sent = untouched(batch * 256, dtype=torch.int8), untouched(batch, 16, 3, 3)
        for index in range(2):
            engine.launch(index, observation)
        return second.sent[-1], *[carry[-1] for carry in engine._carries], engine._counts[:, -1]

    wanted = decision(1)
    monkeypatch.setattr(visual, "convolution_kernel", LastProgram(visual.convolution_kernel, monkeypatch))
    for found, expected in zip(decision(2**31 // 256 + 2), wanted, strict=True):
        assert_same_bits(found, expected)


@interpreted
def test_what_is_captured_asks_nothing_and_works_on_the_same_memory(monkeypatch) -> None:
    from snnkern.kernels.backends.triton import neurons

    ours = sees(SHAPES["several-tiles"], "if", 3, alpha=1.0)
    pixels = episode(ours, 3, 2)
    ours._bind(2)
    engine = visual.Engine(ours._packed.parts, "float32", launch.neuron)
    graph = RecordedGraph()
    no_cuda(monkeypatch, graph)
    for module, name in ((visual, "convolution_kernel"), (visual, "project_kernel"), (neurons, "neuron_kernel")):
        monkeypatch.setattr(module, name, graph.launches(getattr(module, name)))
    carries = [torch.zeros(2, *layer.neuron_shape) for layer in ours.hidden]
    assert_replays(CapturedDecision(engine, carries, None, torch.zeros_like(pixels[0])), ours, pixels)
