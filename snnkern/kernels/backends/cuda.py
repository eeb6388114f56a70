"""Native CUDA kernels (`csrc/cuda`): layers in float32 and float64, whole actors in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnkern.kernels import backends, reference
from snnkern.kernels.backends import ActorParts, Gradients, HiddenPart, Problem, Result, layered
from snnkern.kernels.backends.native import interface_arguments, run_neuron
from snnkern.kernels.backends.triton import launch
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.surrogates import Surrogate

_reason = ""
try:
    import snnkern._cuda as _cuda
except ImportError as error:
    _cuda = None
    _reason = f"the CUDA kernels were not built: reinstall where there is nvcc ({error})"

NAME = "cuda"

_DTYPES = (torch.float32, torch.float64)


def native() -> Any:
    """The module of the kernels."""
    return _cuda


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
    result = problem.new_result()
    kernel = _cuda.neuron_float32 if problem.carry.dtype == torch.float32 else _cuda.neuron_float64
    run_neuron(kernel, problem, result, _address, **_place(problem.carry))
    return result


def neuron_gradients(problem: Problem, gradient: Tensor, surrogate: Surrogate) -> Gradients:
    """By Triton's kernel, where there is Triton, or by the reference: CUDA has no kernel for them."""
    current, threshold, carry, dynamics, bias, *_ = problem
    if launch.serves(carry.device, carry.dtype) and not launch.unavailable():
        return launch.neuron_gradients(problem, gradient, surrogate)
    return reference.neuron_gradients(current, threshold, carry, dynamics, gradient, surrogate, bias)


def linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    return reference.linear_gradients(gradient, input, weight, of_input, of_weight)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's product, in the precision that torch is set to: see docs/gpu.md."""
    return torch.nn.functional.linear(input, weight.T, bias)


def engine(actor: ActorParts) -> backends.Engine | None:
    if not actor.is_plain:
        return layered.Engine(actor, neuron)
    widest = max(size for weight in actor.weights for size in weight.shape)
    if actor.output[0].dtype != torch.float32 or widest > _cuda.most_neurons or len(actor.hidden) > _cuda.most_hidden:
        return None
    made = Engine(actor)
    return made if made.fits() else None


class Engine(backends.Engine):
    """A whole actor in one launch (`csrc/cuda/actor.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        weight, bias = actor.output
        self._packed: list[Tensor] = []  # keeps alive what the kernel has the addresses of
        self._bound: list[Tensor] = []
        self._outputs = weight.shape[1]
        self._native = _cuda.Engine(
            device=_place(weight)["device"],
            dynamics=actor.dynamics.numbers,
            tiny=any(_is_tiny(layer.threshold, actor.dynamics) for layer in actor.hidden),
            layers=self._layers(actor.hidden),
            output=(self._outputs, self._keep(weight.T), self._keep(bias)),
            interface=interface_arguments(actor.interface, self._keep),
        )
        self.fits = self._native.fits

    def _layers(self, hidden: list[HiddenPart]) -> list[tuple[int, ...]]:
        """Sizes and addresses of the layers, whose weights are in units of the sender's threshold."""
        layers = []
        sender = None
        for weight, bias, threshold, *_ in hidden:
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
