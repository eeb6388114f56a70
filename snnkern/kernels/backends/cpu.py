"""Native CPU kernels (`csrc/cpu`): layers in float32 and float64, whole actors in float32."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from snnkern.kernels import backends
from snnkern.kernels.backends import ActorParts, Problem, Result
from snnkern.kernels.backends.native import interface_arguments, run_neuron
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
    )
    return output


def engine(actor: ActorParts) -> Engine | None:
    if not actor.is_plain:
        return None
    widest = max(size for weight in actor.weights for size in weight.shape)
    fits = actor.output[0].dtype == torch.float32 and widest <= _cpu.most_neurons
    return Engine(actor) if fits else None


class Engine(backends.Engine):
    """A whole actor in one native call (`csrc/cpu/engine.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        layers = [
            (*weight.shape, _address(weight), _address(bias), _address(threshold))
            for weight, bias, threshold in [*(layer[:3] for layer in actor.hidden), (*actor.output, None)]
        ]
        self._bound: list[Tensor] = []  # keeps alive what the engine has the addresses of
        self._native = _cpu.Engine(actor.dynamics.numbers, layers, interface_arguments(actor.interface, _address))
        self.act = self._native.act  # type: ignore[method-assign]  # nothing of Python's in between
        self._decide = self._native.decide

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
