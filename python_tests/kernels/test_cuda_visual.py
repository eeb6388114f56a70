"""Visual actors on a GPU, layer by layer, with kernels of neurons on the host or on a GPU; Triton's kernels on a GPU.

Triton's kernels in its interpreter: `triton_visual_cases.py`.
"""

from __future__ import annotations

import pytest
import torch
from support.cases import DEFAULT_NEURONS, each
from support.recording import RecordedGraph, no_cuda
from support.visual import DRQV2, DRQV2_ORIGINAL, FORMS
from support.visual_engines import assert_agrees, assert_replays, episode, seeing
from torch import Tensor

import snnkern
from snnkern.kernels.backends import choice, layered, reference
from snnkern.kernels.backends.triton import launch
from snnkern.policies.capture import CapturedDecision


def layered_actor(form, neuron="if", timesteps: int = 4, **options) -> snnkern.SpikingActor:
    """On the engine that works layer by layer, with the reference's neurons."""
    actor = seeing(form, neuron, timesteps, backend="reference", **options)
    actor._notice_changes()
    use_layers(actor)
    return actor


def use_layers(actor: snnkern.SpikingActor) -> None:
    actor._engine = layered.Engine(actor._packed.parts, reference.neuron)
    actor._engine_key = choice.engine_key(actor.backend, actor._packed.parts, rows=1)


@each("form", FORMS)
@each("neuron", DEFAULT_NEURONS)
def test_layer_by_layer_agrees_with_the_reference(neuron, form) -> None:
    actor = layered_actor(form, neuron, 4, alpha=0.6, memory=0.4)
    assert_agrees(actor, episode(actor, 3, 4), {1: torch.tensor([True, False, False, True])})


@each("neuron", DEFAULT_NEURONS)
def test_cuda_neurons_put_carries_and_counts_where_they_belong(cuda_device, neuron) -> None:
    for form in (FORMS["odd-sizes"], FORMS["trunk"]):
        actor = seeing(form, neuron, 5, backend="cuda", alpha=0.6, memory=0.4).to(cuda_device)
        assert_agrees(actor, episode(actor, 3, 4), {1: torch.tensor([True, False, False, True])})
        assert isinstance(actor._engine, layered.Engine)


def test_thresholds_of_every_neuron_and_an_alpha_for_every_row() -> None:
    actor = layered_actor(FORMS["odd-sizes"], "mt", per_neuron=True)
    actor.alpha = torch.linspace(0, 1, 4)
    actor._notice_changes()
    use_layers(actor)
    assert assert_agrees(actor, episode(actor, 3, 4)) > 0.2


def test_a_large_batch_is_decided_in_parts(monkeypatch) -> None:
    whole = layered_actor(FORMS["two-convolutions"], "snm", alpha=1.0)
    pixels = episode(whole, 2, 7)
    wanted = [whole(one) for one in pixels]
    monkeypatch.setattr(layered, "_MOST_NUMBERS", 3 * 4 * 3 * 12 * 12)
    parts = layered_actor(FORMS["two-convolutions"], "snm", alpha=1.0)
    assert parts._engine._layers.rows_at_once == 3
    for one, action in zip(pixels, wanted, strict=True):
        torch.testing.assert_close(parts(one), action, rtol=0, atol=1e-6)
    assert torch.equal(parts.spikes, whole.spikes)
    assert parts(torch.zeros(7, 3, 12, 12, dtype=torch.uint8)).shape == (7, 2)


@each("form", FORMS)
def test_what_is_captured_asks_nothing_and_works_on_the_same_memory(form, monkeypatch) -> None:
    ours = layered_actor(form, "dc", alpha=1.0)
    pixels = episode(ours, 4, 2)
    engine = layered.Engine(ours._packed.parts, reference.neuron)
    no_cuda(monkeypatch, RecordedGraph())
    carries = [torch.zeros(2, *layer.neuron_shape) for layer in ours.hidden]
    assert_replays(CapturedDecision(engine, carries, None, torch.zeros_like(pixels[0])), ours, pixels)


def test_convolutions_are_computed_in_float32(monkeypatch) -> None:
    """cuDNN takes TF32 unless it is told; a user's setting is as before afterwards."""
    seen = []
    plain = torch.nn.functional.conv2d

    def watched(*arguments: Tensor) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return plain(*arguments)

    monkeypatch.setattr(layered.functional, "conv2d", watched)
    before = torch.backends.cudnn.allow_tf32
    actor = layered_actor(FORMS["two-convolutions"])
    seen.clear()  # thresholds come from the dense actor
    actor(episode(actor, 1, 1)[0])
    assert seen == [False, False]
    assert torch.backends.cudnn.allow_tf32 == before


# ---- on a GPU

ON_A_GPU = {"cuda": "gpu", "triton": "triton_gpu"}  # a backend, and the fixture that has a device for it


@pytest.mark.gpu
@each("backend", {name: name for name in ON_A_GPU})
@each("form", {"drq-v2": DRQV2, "original": DRQV2_ORIGINAL})
def test_a_captured_decision_of_drq_v2_replays(request, backend, form) -> None:
    device = request.getfixturevalue(ON_A_GPU[backend])
    ours = seeing(form, "mt", 8, backend=backend, alpha=0.7, memory=0.3).to(device)
    for batch in (1, 5):
        ours.reset()
        assert_replays(ours.capture(batch), ours, episode(ours, 4, batch).to(device))


@pytest.mark.gpu
@each("neuron", DEFAULT_NEURONS)
def test_both_ways_decide_alike_for_drq_v2(triton_gpu, gpu, neuron) -> None:
    """Rounding decides some spikes among so many: actions are close, and so are counts.

    An action of the reference in float32 is up to 0.15 from that in float64.
    """
    actors = [seeing(DRQV2, neuron, 8, backend=name, alpha=0.5).to(gpu) for name in ("triton", "cuda")]
    for actor in actors:
        actor.warmup(3)
    for pixels in episode(actors[0], 3, 3).to(gpu):
        first, second = (actor(pixels) for actor in actors)
        assert (first - second).abs().mean() < 0.1
        counts = [actor.spikes.double() for actor in actors]
        assert (counts[0] - counts[1]).abs().sum() < 0.003 * counts[1].sum()


@pytest.mark.gpu
def test_auto_takes_triton_for_convolutions(triton_gpu) -> None:
    actor = seeing(FORMS["two-convolutions"], backend="auto").to(triton_gpu)
    actor(torch.zeros(1, 3, 12, 12, dtype=torch.uint8, device=triton_gpu))
    assert type(actor._engine).__module__ == "snnkern.kernels.backends.triton.visual"


def test_auto_would_take_triton_for_convolutions(monkeypatch) -> None:
    """Without a GPU: whom it asks first."""
    parts = layered_actor(FORMS["two-convolutions"])._packed.parts
    asked = []
    monkeypatch.setattr(
        choice, "_candidates", lambda name, device, dtype, prefers_triton: asked.append(prefers_triton) or iter(())
    )
    monkeypatch.setattr(choice, "choose", lambda *_: None)
    assert choice.engine("auto", parts, 1) is None
    assert asked == [True]
    assert next(iter(choice._in_order(prefers_triton=True))) is launch
