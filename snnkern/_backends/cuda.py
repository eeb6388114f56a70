"""Native CUDA kernels (`csrc/cuda`): layers in float32 and float64, whole actors in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from snnkern._backends import ActorParts, Problem, Result

_reason = ""
try:
    import snnkern._cuda as _cuda
except ImportError as error:
    _cuda = None
    _reason = f"the CUDA kernels were not built: reinstall where there is nvcc ({error})"

NAME = "cuda"

_DTYPES = (torch.float32, torch.float64)


def detail() -> str:
    return f"native kernels on {torch.cuda.get_device_name()}, float32 and float64"


def unavailable() -> str:
    if _cuda is None:
        return _reason
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return ""


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in _DTYPES


def neuron(problem: Problem) -> Result:
    current = problem.current
    if current.stride(-1) != 1 and current.shape[-1] > 1:  # rows must be contiguous; T and B may be strided
        current = current.contiguous()
    threshold, carry = problem.threshold.contiguous(), problem.carry.contiguous()
    bias = None if problem.bias is None else problem.bias.contiguous()
    batch, neurons = carry.shape
    timesteps = problem.dynamics.timesteps
    constant = current.dim() == 2

    next_carry = torch.empty_like(carry)
    output = carry.new_empty((timesteps, batch, neurons) if problem.wants_spikes else (batch, neurons))
    counts = carry.new_empty(batch, dtype=torch.int64)
    spec = problem.dynamics.neuron
    run = _cuda.neuron_float32 if carry.dtype == torch.float32 else _cuda.neuron_float64
    run(
        **_place(carry),
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
        current=current.data_ptr(),
        constant=constant,
        current_stride_t=0 if constant else current.stride(0),
        current_stride_b=current.stride(-2),
        threshold=threshold.data_ptr(),
        bias=_address(bias),
        carry=carry.data_ptr(),
        spikes=output.data_ptr() if problem.wants_spikes else 0,
        mean=0 if problem.wants_spikes else output.data_ptr(),
        next_carry=next_carry.data_ptr(),
        counts=counts.data_ptr(),
    )
    return Result(output, next_carry, counts)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's product, in the precision that torch is set to: see docs/gpu.md."""
    return torch.nn.functional.linear(input, weight.T, bias)


def engine(actor: ActorParts) -> None:
    return None


def _place(tensor: Tensor) -> dict[str, int]:
    """Where a kernel on this tensor runs: its device, and what is torch's current stream there."""
    device = tensor.device
    return {"device": device.index, "stream": torch.cuda.current_stream(device).cuda_stream}


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
