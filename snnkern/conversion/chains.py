"""Recognises a plain actor in the graph of a module, which then runs as a `SpikingActor`."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from snnkern.conversion.graphs import CASTS, Plan, affine, function_of, is_reshape, is_tanh, module_of
from snnkern.kernels.tensors import DTYPES
from snnkern.policies.actor import Actor, Interface, Layer
from snnkern.policies.readers.visual import as_layer, unfit


class _Affine(NamedTuple):
    """x / divisor + summand, float64 each: one for all features `[]`, or one for each `[N]`."""

    divisor: Tensor = torch.ones((), dtype=torch.float64)
    summand: Tensor = torch.zeros((), dtype=torch.float64)

    def then(self, step: _Affine) -> _Affine:
        """Both steps, this one first."""
        return _Affine(self.divisor * step.divisor, self.summand / step.divisor + step.summand)


class _Layer(NamedTuple):
    """A layer as an `Actor` takes it, and the bridge before it."""

    layer: Layer
    bridge: Sequence[nn.Module]


_Step = nn.Module | _Affine


def actor_of(plan: Plan, shape: tuple[int, ...], fed: torch.dtype) -> Actor | None:
    """The actor that a module is: layers in a chain, affine steps at its input, a tanh between such at its output.

    Args:
        plan: of the module's graph.
        shape: of an observation.
        fed: the dtype of an observation.

    Returns:
        The actor; None where the module is something else, or an `Actor` cannot say it.
    """
    own = plan.dtypes[plan.relus[0]]
    segments = _segments(plan, own)
    if segments is None or len(shape) not in (1, 3) or fed not in (own, torch.uint8) or own not in DTYPES:
        return None
    entry = list(itertools.takewhile(lambda step: isinstance(step, _Affine), segments[0]))
    segments[0] = segments[0][len(entry) :]
    last = max((index for index, step in enumerate(segments[-1], 1) if isinstance(step, nn.Linear)), default=0)
    segments[-1], leaving = segments[-1][:last], segments[-1][last:]
    squash = next((index for index, step in enumerate(leaving) if isinstance(step, nn.Tanh)), None)
    scaled, leaving = ([], leaving) if squash is None else (leaving[:squash], leaving[squash + 1 :])
    ends = (0, len(segments) - 1)
    layers = [_layer(segment, index not in ends) for index, segment in enumerate(segments)]
    received, logits, actions = (_joined(steps) for steps in (entry, scaled, leaving))
    known = [layer for layer in layers if layer is not None]
    if received is None or logits is None or actions is None or len(known) < len(layers):
        return None
    *hidden, (output, _) = known
    weight, bias = (part.double().cpu() for part in output[:2])
    weight, bias = weight / logits.divisor.reshape(-1, 1), bias / logits.divisor + logits.summand
    scaling = _observations(received, shape, fed)
    if scaling is None:
        return None
    interface = Interface(
        shape[0] if len(shape) == 1 else shape,
        len(bias),
        action_scale=1 / actions.divisor,
        action_bias=actions.summand,
        squash=squash is not None,
        dtype=own,
        observation_dtype=fed if fed == torch.uint8 else None,
        **scaling,
    )
    bridges = {index: layer.bridge for index, layer in enumerate(known) if layer.bridge}
    actor = Actor([layer.layer for layer in hidden], (weight.to(own), bias.to(own)), interface, bridges=bridges)
    return actor.to(output[0].device)


def _segments(plan: Plan, own: torch.dtype) -> list[list[_Step]] | None:
    """The steps from input to output, parted where ReLUs are; None where they are not a chain of known steps."""
    chain = _chain(plan)
    if chain is None:
        return None
    segments: list[list[_Step]] = [[]]
    for source, node in itertools.pairwise(chain):
        if node in plan.relus:
            segments.append([])
        elif is_reshape(plan.graph, node):  # an actor makes vectors of images by itself, and knows no other reshape
            if plan.tails[node] != (math.prod(plan.tails[source]),):
                return None
        elif function_of(node) not in CASTS or plan.dtypes[source] != plan.dtypes[node]:
            step = _step(plan, source, node, own)
            if step is None:
                return None
            segments[-1].append(step)
    return segments


def _chain(plan: Plan) -> list[fx.Node] | None:
    """The nodes from the input to the output, each of which works on the one before it alone; None where not so."""
    (result,) = (node for node in plan.graph.graph.nodes if node.op == "output")
    user, node = result, result.args[0]
    chain: list[fx.Node] = []
    while isinstance(node, fx.Node) and node in plan.tails:
        if [other for other in node.users if other in plan.dtypes or other is result] != [user]:
            return None
        chain.insert(0, node)
        if node.op == "placeholder":
            return chain
        sources = [source for source in node.all_input_nodes if source in plan.tails]
        user, node = node, sources[0] if len(sources) == 1 else None
    return None


def _step(plan: Plan, source: fx.Node, node: fx.Node, own: torch.dtype) -> _Step | None:
    """A node as a step of an actor; None where an actor has no such step."""
    module, tail = module_of(plan.graph, node), plan.tails[source]
    if isinstance(module, nn.Linear):
        return module if len(tail) == 1 else None
    if isinstance(module, nn.Conv2d):
        return module if len(tail) == 3 else None
    if isinstance(module, nn.LayerNorm):
        return module if tuple(module.normalized_shape) == tail else None
    if is_tanh(plan.graph, node):
        return nn.Tanh()
    if plan.dtypes[node] != own or plan.tails[node] != tail:
        return None
    if function_of(node) in CASTS:
        return _Affine()
    found = affine(plan, node, source)
    factor, divisor, summand = (_numbers(part, tail) for part in found or (None,) * 3)
    if factor is None or divisor is None or summand is None:
        return None
    return _Affine(divisor / factor, summand)


def _numbers(value: Any, tail: tuple[int, ...]) -> Tensor | None:
    """A constant that meets rows of this shape, as one number `[]` or one per feature `[N]`; None where neither."""
    numbers = torch.as_tensor([] if value is None else value, dtype=torch.float64, device="cpu").detach()
    if not numbers.numel():
        return None
    if bool((numbers == numbers.flatten()[0]).all()):
        return numbers.flatten()[0]
    is_vector = len(tail) == 1 and numbers.shape[-1:] == tail and numbers.numel() == tail[0]
    return numbers.flatten() if is_vector else None


def _layer(steps: list[_Step], between: bool) -> _Layer | None:
    """What stands before a ReLU, or the output: a layer, and before it, where there is more, a bridge.

    `between` says that it stands between ReLUs, where spikes pass through what is linear and a bridge stops them.
    """
    *bridge, layer = steps or [nn.Identity()]
    modules = [step for step in bridge if isinstance(step, nn.Linear | nn.LayerNorm | nn.Tanh)]
    passed = between and bool(bridge) and all(isinstance(step, nn.Linear) for step in bridge)
    if len(modules) < len(bridge) or passed:
        return None
    if isinstance(layer, nn.Linear):
        return _Layer(as_layer(layer), modules)
    if not isinstance(layer, nn.Conv2d) or modules or unfit(layer):
        return None
    return _Layer(as_layer(layer), [])


def _joined(steps: Sequence[_Step]) -> _Affine | None:
    """Affine steps as one; None where others are among them, or numbers that are not finite."""
    known = [step for step in steps if isinstance(step, _Affine)]
    joined = functools.reduce(_Affine.then, known, _Affine())
    finite = all(bool(torch.isfinite(part).all()) for part in (*joined, 1 / joined.divisor))
    return joined if finite and len(known) == len(steps) else None


def _observations(step: _Affine, shape: tuple[int, ...], fed: torch.dtype) -> dict[str, Any] | None:
    """What an interface says of an affine step at the input; None where it cannot.

    Vectors of floating-point numbers are normalised, which every engine does; others have a scale and an offset.
    """
    divisor, summand = step
    if not bool((divisor > 0).all()):
        return None
    if not divisor.dim() and not summand.dim() and (len(shape) == 3 or fed == torch.uint8):
        return {"observation_scale": divisor.item(), "observation_offset": summand.item()}
    if len(shape) == 3:
        return None
    if bool((divisor == 1).all() and (summand == 0).all()):
        return {}
    std = divisor.expand(shape)
    return {"observation_mean": -summand * std, "observation_std": std}
