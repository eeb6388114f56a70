"""Native CUDA kernels (`csrc/cuda`): layers in float32 and float64, whole actors in float32."""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern._backends import ActorParts, Problem, Result
from snnkern.neurons import Dynamics

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
    row_alpha = None if problem.row_alpha is None else problem.row_alpha.contiguous()
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
        row_alpha=_address(row_alpha),
        spikes=output.data_ptr() if problem.wants_spikes else 0,
        mean=0 if problem.wants_spikes else output.data_ptr(),
        next_carry=next_carry.data_ptr(),
        counts=counts.data_ptr(),
    )
    return Result(output, next_carry, counts)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's product, in the precision that torch is set to: see docs/gpu.md."""
    return torch.nn.functional.linear(input, weight.T, bias)


def engine(actor: ActorParts) -> Engine | None:
    weights = [weight for weight, *_ in [*actor.hidden, actor.output]]
    widest = max(size for weight in weights for size in weight.shape)
    if weights[0].dtype != torch.float32 or widest > _cuda.most_neurons or len(actor.hidden) > _cuda.most_hidden:
        return None
    made = Engine(actor)
    return made if made.fits() else None


class Engine:
    """A whole actor in one launch (`csrc/cuda/actor.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        spec, dynamics, interface = actor.dynamics.neuron, actor.dynamics, actor.interface
        weight, bias = actor.output
        self._packed: list[Tensor] = []  # keeps alive what the kernel has the addresses of
        self._bound: list[Tensor] = []
        self._outputs = weight.shape[1]
        clip = interface["observation_clip"]
        self._native = _cuda.Engine(
            device=_place(weight)["device"],
            kind=int(spec.kind),
            levels=spec.levels,
            initial_fraction=spec.initial_fraction,
            negative_fraction=spec.negative_fraction,
            alpha=dynamics.alpha,
            memory=dynamics.memory,
            clip=dynamics.clip,
            timesteps=dynamics.timesteps,
            tiny=any(_is_tiny(threshold, dynamics) for *_, threshold in actor.hidden),
            layers=self._layers(actor.hidden),
            actions=self._outputs,
            output_weight=self._keep(weight.T),
            output_bias=self._keep(bias),
            observation_mean=self._keep(interface.get("observation_mean")),
            observation_std=self._keep(interface.get("observation_std")),
            observation_clip=math.inf if clip is None else clip,
            action_scale=self._keep(interface["action_scale"]),
            action_bias=self._keep(interface["action_bias"]),
            squash=interface["squash"],
        )
        self.fits = self._native.fits

    def _layers(self, hidden: list[tuple[Tensor, Tensor, Tensor]]) -> list[tuple[int, ...]]:
        """Sizes and addresses of the layers, whose weights are in units of the sender's threshold."""
        layers = []
        sender = None
        for weight, bias, threshold in hidden:
            inputs, outputs = weight.shape
            padding = -outputs % _cuda.padding
            folded = weight if sender is None else weight * sender[:, None]
            tensors = [torch.nn.functional.pad(tensor, (0, padding)) for tensor in (folded, bias, threshold)]
            layers.append((inputs, outputs, outputs + padding, *map(self._keep, tensors)))
            sender = threshold
        return layers

    def _keep(self, tensor: Tensor | None) -> int:
        """The address of a copy of its own: what it was made from may change or go."""
        if tensor is None:
            return 0
        self._packed.append(tensor.detach().clone(memory_format=torch.contiguous_format))
        return self._packed[-1].data_ptr()

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        self._bound = [*carries, counts] if row_alpha is None else [*carries, counts, row_alpha]
        self._rows = counts.shape[1]
        addresses = [carry.data_ptr() for carry in carries]
        self._native.bind(self._rows, addresses, counts.data_ptr(), _address(row_alpha))

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        if check_finite and not bool(torch.isfinite(observation).all()):  # waits for the device
            return None
        observation = observation.contiguous()
        action = observation.new_empty(self._rows, self._outputs)
        self._native.decide(_place(observation)["stream"], observation.data_ptr(), action.data_ptr())
        return action

    def act(self, observation: NDArray[Any], check_finite: bool, threads: int) -> None:
        """A NumPy observation takes the way over `decide`."""
        return None


def _place(tensor: Tensor) -> dict[str, int]:
    """Where a kernel on this tensor runs: its device, and what is torch's current stream there."""
    device = tensor.device
    return {"device": device.index, "stream": torch.cuda.current_stream(device).cuda_stream}


def _is_tiny(threshold: Tensor, dynamics: Dynamics) -> bool:
    """Whether the levels of some θ are to be searched as `csrc/neuron.h` does for the smallest ones."""
    on_host = threshold.cpu().contiguous()
    return _cuda.has_tiny_threshold(on_host.data_ptr(), len(on_host), dynamics.neuron.levels, dynamics.timesteps)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
