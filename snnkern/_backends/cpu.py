"""Native CPU kernels (`csrc/cpu`): layers in float32 and float64, whole actors in float32."""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from snnkern._backends import ActorParts, Problem, Result
from snnkern.tensors import check_memory

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
    carry = problem.carry
    shape = (problem.dynamics.timesteps, *carry.shape) if problem.wants_spikes else carry.shape
    counts = carry.new_empty(len(carry), dtype=torch.int64)
    result = Result(carry.new_empty(shape), carry.new_empty(carry.shape), counts)
    neuron_into(problem, result)
    return result


def neuron_into(problem: Problem, result: Result) -> None:
    """Computes into contiguous tensors."""
    current = problem.current
    if current.stride(-1) != 1 and current.shape[-1] > 1:  # rows must be contiguous; T and B may be strided
        current = current.contiguous()
    if not current.is_contiguous():
        check_memory("current", current)
    threshold, carry = problem.threshold.contiguous(), problem.carry.contiguous()
    bias = None if problem.bias is None else problem.bias.contiguous()
    row_alpha = None if problem.row_alpha is None else problem.row_alpha.contiguous()
    batch, neurons = carry.shape
    timesteps = problem.dynamics.timesteps
    constant = current.dim() == 2

    spec = problem.dynamics.neuron
    run = _cpu.neuron_float32 if carry.dtype == torch.float32 else _cpu.neuron_float64
    run(
        kind=int(spec.kind),
        levels=spec.levels,
        initial_fraction=spec.initial_fraction,
        negative_fraction=spec.negative_fraction,
        alpha=problem.dynamics.alpha,
        memory=problem.dynamics.memory,
        clip=problem.dynamics.clip,
        timesteps=timesteps,
        batch=batch,
        neurons=neurons,
        current=_address(current) if current.is_contiguous() else current.data_ptr(),
        constant=constant,
        current_stride_t=0 if constant else current.stride(0),
        current_stride_b=current.stride(-2),
        threshold=_address(threshold),
        bias=_address(bias),
        carry=_address(carry),
        row_alpha=_address(row_alpha),
        spikes=result.output.data_ptr() if problem.wants_spikes else 0,
        mean=0 if problem.wants_spikes else result.output.data_ptr(),
        next_carry=result.carry.data_ptr(),
        counts=result.counts.data_ptr(),
    )


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
    widest = max(size for weight, *_ in [*actor.hidden, actor.output] for size in weight.shape)
    fits = actor.output[0].dtype == torch.float32 and widest <= _cpu.most_neurons
    return Engine(actor) if fits else None


class Engine:
    """A whole actor in one native call (`csrc/cpu/engine.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        layers = [(*layer[0].shape, *map(_address, layer)) for layer in [*actor.hidden, (*actor.output, None)]]
        spec, dynamics, interface = actor.dynamics.neuron, actor.dynamics, actor.interface
        self._bound: list[Tensor] = []  # keeps alive what the engine has the addresses of
        clip = interface["observation_clip"]
        self._native = _cpu.Engine(
            kind=int(spec.kind),
            levels=spec.levels,
            initial_fraction=spec.initial_fraction,
            negative_fraction=spec.negative_fraction,
            alpha=dynamics.alpha,
            memory=dynamics.memory,
            clip=dynamics.clip,
            timesteps=dynamics.timesteps,
            layers=layers,
            observation_mean=_address(interface.get("observation_mean")),
            observation_std=_address(interface.get("observation_std")),
            observation_clip=math.inf if clip is None else clip,
            action_scale=_address(interface["action_scale"]),
            action_bias=_address(interface["action_bias"]),
            squash=interface["squash"],
        )
        self.act = self._native.act
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
    """Where a contiguous tensor's memory is, which must be all there: native code does not ask again."""
    if tensor is None:
        return 0
    offset = tensor.storage_offset()
    if tensor.untyped_storage().nbytes() < tensor.nbytes + (offset and offset * tensor.itemsize):
        check_memory("a tensor", tensor)
    return tensor.data_ptr()
