"""Native CPU kernels (`csrc/cpu`): layers in float32 and float64, whole actors in float32."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnkern.kernels import backends
from snnkern.kernels.backends import ActorParts, BridgeStep, Gradients, LinearStep, NormStep, Problem, Result
from snnkern.kernels.backends.native import interface_arguments, run_gradients, run_neuron
from snnkern.kernels.surrogates import Surrogate
from snnkern.kernels.tensors import check_memory

_reason = ""
try:
    import snnkern._cpu as _cpu

    if (_isa := os.environ.get("SNNKERN_ISA", "")) and not _cpu.use_isa(_isa):
        _reason = f"SNNKERN_ISA is {_isa!r}, but this machine runs {', '.join(_cpu.isas())}"
        _cpu = None
except ImportError as error:
    _cpu = None
    _reason = f"the native kernels were not built: reinstall where there is a C++ compiler ({error})"

NAME = "cpu"

_DTYPES = (torch.float32, torch.float64)

# Where adding rows and a dense product take the same time, on the processors that were tried.
_MOST_SPARSE_PART = 0.5
_LEAST_SPARSE_WIDTH = 32


def detail() -> str:
    return f"native kernels for {_cpu.isa()}, float32 and float64"


def unavailable() -> str:
    return "" if _cpu is not None else _reason


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype in _DTYPES


def neuron(problem: Problem) -> Result:
    result = problem.new_result()
    neuron_into(problem, result)
    return result


def neuron_into(problem: Problem, result: Result) -> None:
    """Computes into contiguous tensors."""
    kernel = _cpu.neuron_float32 if problem.carry.dtype == torch.float32 else _cpu.neuron_float64
    run_neuron(kernel, problem, result, _address)


def neuron_gradients(problem: Problem, gradient: Tensor, surrogate: Surrogate) -> Gradients:
    carry, threshold = problem.carry, problem.threshold
    found = Gradients(
        carry.new_empty(problem.current.shape),
        torch.zeros_like(threshold, memory_format=torch.contiguous_format),
        carry.new_empty(carry.shape),
        torch.zeros_like(threshold, memory_format=torch.contiguous_format),
    )
    kernel = _cpu.neuron_gradients_float32 if carry.dtype == torch.float32 else _cpu.neuron_gradients_float64
    threads = torch.get_num_threads()
    scratch = carry.new_empty(threads * _cpu.gradient_scratch() * problem.dynamics.timesteps)
    run_gradients(kernel, problem, gradient, surrogate, found, scratch, _address, threads=threads)
    return found


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    input, weight = input.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    inputs, outputs = weight.shape
    output = input.new_empty((*input.shape[:-1], outputs))
    run = _cpu.linear_float32 if input.dtype == torch.float32 else _cpu.linear_float64
    run(
        rows=output.numel() // outputs if outputs else 0,
        inputs=inputs,
        outputs=outputs,
        input=_address(input),
        weight=_address(weight),
        bias=_address(bias),
        output=output.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return output


def linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """Where few numbers of the spikes or of the gradient are not 0, rows are added; else it is torch's product."""
    gradient, input = gradient.contiguous().flatten(0, -2), input.contiguous().flatten(0, -2)
    nothing = gradient.new_empty(0)
    return (
        _back(gradient, weight) if of_input else nothing,
        _columns(input, gradient) if of_weight else nothing,
    )


def _back(gradient: Tensor, weight: Tensor) -> Tensor:
    """gradient·weightᵀ."""
    return linear(gradient, weight.T, None) if _is_sparse(gradient, len(weight)) else gradient @ weight.T


def _columns(input: Tensor, gradient: Tensor) -> Tensor:
    """inputᵀ·gradient."""
    (rows, inputs), outputs = input.shape, gradient.shape[1]
    if not _is_sparse(input, outputs):
        return input.T @ gradient
    output = gradient.new_empty(inputs, outputs)
    run = _cpu.weight_gradient_float32 if input.dtype == torch.float32 else _cpu.weight_gradient_float64
    run(
        rows=rows,
        inputs=inputs,
        outputs=outputs,
        input=_address(input),
        gradient=_address(gradient),
        output=output.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return output


def _is_sparse(rows: Tensor, outputs: int) -> bool:
    """Whether the product of these contiguous rows takes less time where it skips zeros."""
    count = _cpu.count_nonzero_float32 if rows.dtype == torch.float32 else _cpu.count_nonzero_float64
    size = rows.numel()
    return outputs >= _LEAST_SPARSE_WIDTH and bool(count(_address(rows), size) < _MOST_SPARSE_PART * size)


def engine(actor: ActorParts) -> backends.Engine | None:
    if actor.output[0].dtype != torch.float32:
        return None
    if actor.is_plain:
        widest = max(size for weight in actor.weights for size in weight.shape)
        return Engine(actor) if widest <= _cpu.most_neurons else None
    return StagedEngine(actor) if _in_stages(actor) else None


class Engine(backends.Engine):
    """A whole actor in one native call (`csrc/cpu/engine.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        self._use(_cpu.Engine(actor.dynamics.numbers, _layers(actor), interface_arguments(actor.interface, _address)))

    def _use(self, native: Any) -> None:
        self._native = native
        self._bound: list[Tensor] = []  # keeps alive what the engine has the addresses of
        self.act = native.act  # type: ignore[method-assign]  # nothing of Python's in between
        self._decide = native.decide

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        addresses = [carry.data_ptr() for carry in carries]
        self._native.bind(counts.shape[1], addresses, counts.data_ptr(), _address(row_alpha))
        # Not before: a thread that is still deciding refuses the others, and needs what it is bound to.
        self._bound = [*carries, counts] if row_alpha is None else [*carries, counts, row_alpha]

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        if not observation.is_contiguous():
            check_memory("observation", observation)
            observation = observation.contiguous()
        action = self._decide(_address(observation), check_finite, threads)
        return None if action is None else torch.from_numpy(action)  # in less time than torch makes a tensor


class StagedEngine(Engine):
    """The same for an actor in three stages: convolutions, a bridge on their mean, Linear layers; some may be missing.

    Source: `csrc/cpu/convolution.h`.
    """

    channels_last = True

    def __init__(self, actor: ActorParts) -> None:
        convolutions = [layer for layer in actor.hidden if layer.convolution is not None]
        linear = actor.hidden[len(convolutions) :]
        bridge, first = (linear[0].bridge, linear[0].weight) if linear else (actor.bridge, actor.output[0])
        if convolutions:
            bridge, first = _by_position(bridge, first, convolutions[-1].neuron_shape)
        rest = actor._replace(hidden=linear, bridge=())
        if linear:
            rest.hidden[0] = linear[0]._replace(weight=first)
        else:
            rest = rest._replace(output=(first, actor.output[1]))
        packed: list[Any] = []  # alive until the engine has copied it
        for layer in convolutions:
            shape, threshold = layer.convolution, layer.threshold
            assert shape is not None
            if threshold.dim() == 3:
                threshold = threshold.permute(1, 2, 0).contiguous()
            packed.append((shape, threshold, layer))
        interface = actor.interface
        image = interface.observation_shape
        native = _cpu.StagedEngine(
            actor.dynamics.numbers,
            (
                image,
                interface.observation_dtype == torch.uint8,
                interface.observation_scale,
                interface.observation_offset,
            ),
            [
                (
                    shape.channels, shape.kernel, shape.stride, shape.padding,
                    _address(layer.weight), _address(layer.bias), _address(threshold), threshold.dim() == 3,
                )
                for shape, threshold, layer in packed
            ],
            _bridge_arguments(bridge, math.prod(convolutions[-1].neuron_shape if convolutions else image)),
            _layers(rest),
            interface_arguments(interface, _address),
        )  # fmt: skip
        self._use(native)

    def scratch_bytes(self) -> int:
        """Bytes that the decisions made so far have worked in, beside weights and carries."""
        return self._native.scratch_bytes()


def _layers(actor: ActorParts) -> list[tuple[int, ...]]:
    """Sizes and addresses of Linear layers, the output layer last."""
    layers = [*(layer[:3] for layer in actor.hidden), (*actor.output, None)]
    return [
        (*weight.shape, _address(weight), _address(bias), _address(threshold)) for weight, bias, threshold in layers
    ]


def _in_stages(actor: ActorParts) -> bool:
    """Whether an actor has the stages of a `StagedEngine`, and each is small enough."""
    convolutions = [layer.convolution for layer in actor.hidden if layer.convolution is not None]
    stage = len(convolutions)  # convolutions stand first: there is no way back from a vector to an image
    bridges = [layer.bridge for layer in actor.hidden] + [actor.bridge]
    if any(bridge for place, bridge in enumerate(bridges) if place != stage):
        return False
    if actor.interface.observation_mean is not None:
        return False
    received = [layer.weight for layer in actor.hidden[stage:]] + [actor.output[0]]
    gathered = stage > 0 and len(received) > 1 and not bridges[stage]  # no list holds what positions send
    widths = [size for weight in received for size in weight.shape]
    return max(widths[gathered:]) <= _cpu.most_neurons and all(
        _cpu.fits(shape.input_shape, shape.channels, shape.kernel, shape.stride, shape.padding)
        for shape in convolutions
    )


def _by_position(
    bridge: Sequence[BridgeStep], first: Tensor, shape: tuple[int, ...]
) -> tuple[tuple[BridgeStep, ...], Tensor]:
    """What receives an image first, a bridge or a weight `[in, out]`, for channels that come last: `[H, W, C]`."""

    def turned(tensor: Tensor) -> Tensor:
        return tensor.reshape(*shape, -1).movedim(0, 2).reshape(tensor.shape).contiguous()

    found = list(bridge)
    for index, step in enumerate(found):
        if isinstance(step, LinearStep):
            found[index] = step._replace(weight=turned(step.weight))
            return tuple(found), first
        if isinstance(step, NormStep):
            found[index] = step._replace(weight=turned(step.weight), bias=turned(step.bias))
    return tuple(found), turned(first)


def _bridge_arguments(bridge: Sequence[BridgeStep], width: int) -> list[tuple[Any, ...]]:
    """What the steps of a bridge are, for so many numbers that come in."""
    found: list[tuple[Any, ...]] = []
    for step in bridge:
        if isinstance(step, LinearStep):
            found.append(("linear", *step.weight.shape, _address(step.weight), _address(step.bias), 0.0))
            width = step.weight.shape[1]
        elif isinstance(step, NormStep):
            found.append(("norm", width, width, _address(step.weight), _address(step.bias), step.eps))
        else:
            found.append(("tanh", width, width, 0, 0, 0.0))
    return found


def _address(tensor: Tensor | None) -> int:
    """Where a tensor's memory is, which must be all there: native code does not ask again."""
    if tensor is None:
        return 0
    if not tensor.is_contiguous():
        check_memory("current", tensor)
        return tensor.data_ptr()
    offset = tensor.storage_offset()
    if tensor.untyped_storage().nbytes() < tensor.nbytes + (offset and offset * tensor.itemsize):
        check_memory("a tensor", tensor)
    return tensor.data_ptr()
