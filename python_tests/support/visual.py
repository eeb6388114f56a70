"""Actors that see: small ones of every form, their frames, and the reference's decisions for them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from snnkern import Actor, Dynamics, Interface
from snnkern.kernels import reference
from snnkern.kernels.backends import BridgeStep, LinearStep, NormStep, TanhStep
from snnkern.kernels.layers import Convolution
from snnkern.policies.actor import Conv
from support.semantics_loop import LoopLayer, LoopVisualActor


class Form(NamedTuple):
    """The form of an actor: convolutions as (channels, kernel, stride, padding), widths of Linear layers, a bridge.

    `bridge` is the index of the layer that stands behind a Linear, LayerNorm and Tanh of that width; None for none.
    """

    image: tuple[int, int, int]
    convolutions: Sequence[tuple[int, int | tuple[int, int], int | tuple[int, int], int | tuple[int, int]]]
    widths: tuple[int, ...]
    actions: int = 2
    bridge: int | None = None


FORMS = {
    "two-convolutions": Form((3, 12, 12), [(5, 3, 2, 0), (4, 3, 1, 0)], (7,)),
    "odd-sizes": Form((2, 11, 7), [(3, (3, 2), (2, 1), (1, 0)), (5, (2, 3), 1, (0, 2))], (6, 5)),
    "convolutions-alone": Form((3, 8, 9), [(6, 4, 3, 2)], ()),
    "one-by-one": Form((4, 5, 5), [(7, 1, 1, 0), (3, 5, 1, 0)], (4,)),
    "trunk": Form((3, 12, 12), [(5, 3, 2, 0), (4, 3, 1, 0)], (8, 8), bridge=2),
    "bridge-at-the-output": Form((3, 9, 9), [(4, 3, 2, 1)], (8,), bridge=2),
    "bridge-in-front": Form((2, 4, 4), [], (9, 6), bridge=0),
}
# The networks of the public actors, and of the original DrQ-v2.
_DRQ = [(32, 3, 2, 0), (32, 3, 1, 0), (32, 3, 1, 0), (32, 3, 1, 0)]
DRQV2 = Form((9, 84, 84), _DRQ, (50, 256, 256))
DRQV2_ORIGINAL = Form((9, 84, 84), _DRQ, (256, 256), bridge=4)


def visual_actor(form: Form, dtype: torch.dtype = torch.float32, *, seed: int = 0, **interface) -> Actor:
    """An actor with random weights whose activations are of the size of its inputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def linear(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        return normal(outputs, inputs) * (2 / inputs) ** 0.5, 0.1 * normal(outputs)

    hidden: list[Conv | tuple[Tensor, Tensor]] = []
    shape: tuple[int, ...] = form.image
    bridges = {}

    def bridged(place: int) -> None:
        nonlocal shape
        if form.bridge == place:
            width = 10
            steps = nn.Linear(math.prod(shape), width), nn.LayerNorm(width), nn.Tanh()
            with torch.no_grad():
                for tensor, value in zip(steps[0].parameters(), linear(math.prod(shape), width), strict=True):
                    tensor.copy_(value)
                steps[1].weight.copy_(1 + 0.2 * normal(width))
                steps[1].bias.copy_(0.2 * normal(width))
            bridges[place] = [step.double() for step in steps]
            shape = (width,)

    for channels, kernel, stride, padding in form.convolutions:
        ky, kx = (kernel, kernel) if isinstance(kernel, int) else kernel
        fan = shape[0] * ky * kx
        weight = normal(channels, shape[0], ky, kx) * (2 / fan) ** 0.5
        hidden.append(Conv(weight, 0.1 * normal(channels), stride, padding))
        shape = tuple(
            torch.nn.functional.conv2d(torch.zeros(1, *shape), weight.float(), None, stride, padding).shape[1:]
        )
    for width in form.widths:
        bridged(len(hidden))
        hidden.append(linear(math.prod(shape), width))
        shape = (width,)
    bridged(len(hidden))
    given = {"observation_dtype": torch.uint8, "observation_scale": 255, "observation_offset": -0.5} | interface
    between = Interface(form.image, form.actions, action_scale=2.0, action_bias=0.25, dtype=torch.float64, **given)
    return Actor(hidden, linear(math.prod(shape), form.actions), between, {"environment": "dm_control/x"}, bridges).to(
        dtype
    )


def random_form(choose: random.Random, *, channels: int = 7, side: int = 14, kernel: int = 4, stride: int = 3) -> Form:
    """Convolutions that fit their images, Linear layers or none, a bridge or none; the numbers are the largest."""
    image = shape = (choose.randint(1, 4), choose.randint(5, side), choose.randint(5, side))
    convolutions = []
    for _ in range(choose.randint(0, 3)):
        kernels = tuple(choose.randint(1, min(kernel, size)) for size in shape[1:])
        strides = choose.randint(1, stride), choose.randint(1, stride)
        padding = tuple(choose.randint(0, size - 1) for size in kernels)
        convolutions.append((choose.randint(1, channels), kernels, strides, padding))
        shape = Convolution(shape, *convolutions[-1]).output_shape
    widths = tuple(choose.randint(1, 9) for _ in range(choose.randint(0 if convolutions else 1, 2)))
    places = [*range(len(convolutions), len(convolutions) + len(widths) + 1)]
    return Form(image, convolutions, widths, choose.randint(1, 3), choose.choice([None, None, *places]))


def reference_layers(actor: Actor, thresholds: Sequence[Tensor]) -> dict[str, Any]:
    """A dense actor and thresholds as `reference.actor` takes them, but for observations, carries and dynamics."""
    bridges = {place: tuple(map(_reference_step, chain)) for place, chain in actor.bridges.items()}
    hidden = [
        reference.Layer(layer.weight, layer.bias, threshold, convolution, bridges.get(str(index), ()))
        for index, (layer, convolution, threshold) in enumerate(
            zip(actor.hidden, actor.convolutions, thresholds, strict=True)
        )
    ]
    output = actor.output.weight, actor.output.bias
    return {"hidden": hidden, "output": output, "bridge": bridges.get(str(len(hidden)), ())}


def _reference_step(step: nn.Module) -> BridgeStep:
    if isinstance(step, nn.Linear):
        return LinearStep(step.weight.T, step.bias)
    return NormStep(step.weight, step.bias, step.eps) if isinstance(step, nn.LayerNorm) else TanhStep()


def loop_actor(actor: Actor, thresholds: Sequence[Tensor], dynamics: Dynamics) -> LoopVisualActor:
    """The same for the loop that is written from the semantics page alone."""
    layers = []
    for index, layer in enumerate([*actor.hidden, actor.output]):
        steps = []
        for step in dict(actor.bridges.items()).get(str(index), []):
            parts = [tensor.numpy() for tensor in step.parameters()]
            kind = {"Linear": "linear", "LayerNorm": "norm", "Tanh": "tanh"}[type(step).__name__]
            steps.append((kind, *parts, *([step.eps] if kind == "norm" else [])))
        convolution = actor.convolutions[index] if index < len(actor.hidden) else None
        geometry = (convolution.stride, convolution.padding) if convolution else ()
        threshold = thresholds[index].numpy() if index < len(actor.hidden) else None
        one = LoopLayer(layer.weight.numpy(), layer.bias.numpy(), threshold, *geometry)
        one.bridge = steps
        layers.append(one)
    return LoopVisualActor(layers, dynamics)


def visual_thresholds(actor: Actor, *, per_neuron: bool = False, factor: float = 0.7, rows: int = 32) -> list[Tensor]:
    """A part of the largest activations on some frames, for every channel, or for every neuron."""
    pixels = torch.from_numpy(frames(rows, actor.interface.observation_shape, seed=7))
    found = actor.hidden_activations(pixels)
    return [
        activation.amax(dim=0 if per_neuron or activation.dim() == 2 else (0, 2, 3)) * factor for activation in found
    ]


def frames(rows: int, image: Sequence[int], *, seed: int = 1) -> np.ndarray:
    """`[rows, C, H, W]`, uint8: bright and dark areas, as rendered pictures have."""
    generator = np.random.default_rng(seed)
    low = generator.integers(0, 256, (rows, image[0], -(-image[1] // 3), -(-image[2] // 3)))
    smooth = np.repeat(np.repeat(low, 3, axis=2), 3, axis=3)[:, :, : image[1], : image[2]]
    noise = generator.integers(-20, 21, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)
