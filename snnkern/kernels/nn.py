"""A layer of spiking neurons as a module: `SpikingActivation` in place of `nn.ReLU`, and the carry."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.errors import InputError
from snnkern.kernels import ops
from snnkern.kernels.backends import choice
from snnkern.kernels.layers import spread
from snnkern.kernels.neurons import Dynamics, Neuron, parse_neuron
from snnkern.kernels.surrogates import parse_surrogate
from snnkern.kernels.tensors import (
    CheckedState,
    check_numbers,
    check_tensor,
    stands_for_others,
)


class Carry(nn.Module):
    """Holds what each row of a batch carries into the next decision step. It is not part of `state_dict`.

    Attributes:
        value: c, `[B, N]` (of a convolution `[B, C, H, W]`), or None if every row starts an episode.
    """

    value: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", None, persistent=False)

    def start(self, batch: int, like: Tensor, uncarried: bool = False, neurons: tuple[int, ...] = ()) -> Tensor:
        """The carry `[batch, N]` for a decision of this many rows, with N, dtype and device those of `like` `[N]`.

        Args:
            batch: B.
            like: θ.
            neurons: the shape of a row, where it is not that of `like`: `(C, H, W)`.
            uncarried: whether α is 0 for all rows: then a carry of zeros belongs to no row, and B may change.

        Raises:
            InputError: the carry belongs to another number of rows or is of another kind, or torch.export or torch.func
                runs the module.
        """
        if torch.compiler.is_exporting():
            raise InputError("an exported program would forget the carry: export actor.stateless(), or set α = 0")
        refuse_mapping()
        shape = (batch, *(neurons or like.shape))
        if self.value is None or (
            uncarried and torch.compiler.is_compiling()
        ):  # a graph cannot ask what a tensor holds
            return like.new_zeros(shape)
        if not stands_for_others(self.value):
            check_tensor("the carry", self.value, self.value.shape, like.dtype, like.device)
        if self.value.shape != shape:
            if uncarried and not bool(self.value.any()):
                return like.new_zeros(shape)
            raise InputError(
                f"the carry belongs to a batch of shape {list(self.value.shape)}, this call's is {list(shape)}: "
                "call reset() before another batch size"
            )
        if not torch.compiler.is_compiling() and self.value.is_inference() and not torch.is_inference_mode_enabled():
            return self.value.clone()  # a decision under inference_mode left it, and autograd keeps none of those
        return self.value

    def reset(self, mask: Tensor | None = None) -> None:
        """Forgets every row's carry, or that of the rows where `mask` `[B]` is True (in place: engines hold it)."""
        if mask is None:
            self.value = None
        elif self.value is not None:
            with torch.inference_mode():  # where a decision may have made it
                self.value.masked_fill_(as_column(mask.to(self.value.device), self.value), 0.0)


def as_column(rows: Tensor, like: Tensor) -> Tensor:
    """One value per row `[B]` in the form in which it meets `like` `[B, …]`: `[B, 1, …]`."""
    return rows.reshape(-1, *[1] * (like.dim() - 1))


def refuse_mapping() -> None:
    """Refuses torch.func's transforms: the carry of a module would belong to none of those that it maps over."""
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise InputError("the carry of a module cannot be mapped by torch.func: map actor.stateless()")


def check_threshold(threshold: Tensor, name: str = "threshold") -> Tensor:
    """A copy of a threshold. Refuses what is not finite floating-point numbers ≥ 0."""
    if not isinstance(threshold, Tensor):
        raise InputError(f"{name} must be a floating-point tensor, got {type(threshold).__name__}")
    check_tensor(name, threshold, threshold.shape, threshold.dtype, threshold.device)
    check_numbers(name, threshold, least=0)
    return threshold.detach().clone()


class SpikingActivation(CheckedState):
    """Replaces `nn.ReLU` in a module that runs time-first: current `[T, B, …]` in, spikes `[T, B, …]` out.

    The mean of the spikes over T approximates the ReLU of the mean current. One call is one decision step; the carry of
    each row stays in the module until `reset`.

    Args:
        neuron: a neuron, or its name.
        threshold: θ ≥ 0: a scalar, one per channel `[C]` (the third dimension of the input), or of the shape `[…]`.
        timesteps: T.
        alpha: α, the part of the residual that is carried into the next decision; 0 is plain conversion.
        memory: μ, the part of the old carry that stays in the new one.
        clip: κ, bound on the carry as a fraction of the threshold.
        bias: for DC, the bias of the layer in front, shaped like `threshold`. Differential coding adds a bias once per
            decision, so that layer must not add it itself.
        backend: a name from `snnkern.backends()`, or "auto".
        surrogate: "triangle", "sigmoid" or "atan": then spikes have gradients, with respect to the current and to what
            requires them of `threshold` and `bias`, which may be set to an `nn.Parameter`. None for inference.

    Raises:
        InputError: a parameter is out of range.

    Source: `docs/semantics.md`.
    """

    threshold: Tensor
    bias: Tensor | None

    def __init__(
        self,
        neuron: str | Neuron,
        threshold: Tensor,
        timesteps: int,
        alpha: float = 0.0,
        memory: float = 0.0,
        clip: float = 0.5,
        *,
        bias: Tensor | None = None,
        backend: str = "auto",
        surrogate: str | None = None,
    ) -> None:
        super().__init__()
        choice.check_name(backend)
        if surrogate is not None:
            parse_surrogate(surrogate)
        self.surrogate = surrogate
        self.dynamics = Dynamics(parse_neuron(neuron), timesteps, alpha, memory, clip)
        self.backend = backend
        self.register_buffer("threshold", check_threshold(as_tensor("threshold", threshold)))
        self.register_buffer("bias", None if bias is None else _check_bias(bias, self.dynamics.neuron))
        self.carry = Carry()
        self._spikes: Tensor | None = None

    @property
    def spikes(self) -> Tensor:
        """Spikes that each row sent in the last decision, int64 `[B]`."""
        return last_spikes(self._spikes)

    def forward(self, current: Tensor) -> Tensor:
        """Spikes `[T, B, …]` in activation units for a current `[T, B, …]`.

        Raises:
            InputError: the shape does not fit T, the threshold or the carry; the tensor requires grad while grad is on
                and there is no surrogate.
        """
        if not isinstance(current, Tensor):
            raise InputError(f"current must be a tensor, got {type(current).__name__}")
        if current.dim() < 3 or current.shape[0] != self.dynamics.timesteps:
            raise InputError(
                f"current must be [T, B, ...] with T = {self.dynamics.timesteps}, got shape {list(current.shape)}"
            )
        features = current.shape[2:]
        threshold = _per_neuron("threshold", self.threshold, features)
        bias = None if self.bias is None else _per_neuron("bias", self.bias, features)
        uncarried = self.dynamics.alpha == 0
        stateless = torch.compiler.is_exporting() and uncarried  # an exported program has no state
        if self.surrogate is not None and not uncarried:
            _refuse_second_run()
        batch = current.shape[1]
        carry = (
            threshold.new_zeros(batch, len(threshold)) if stateless else self.carry.start(batch, threshold, uncarried)
        )
        if self.surrogate is not None and not uncarried and torch.compiler.is_compiling():
            carry = carry.clone()  # as in `Carry.start`: a graph cannot ask whether inference_mode made it
        spikes, carry, counts = ops.neuron_spikes(
            current.flatten(2),
            threshold,
            carry,
            self.dynamics,
            bias=bias,
            backend=self.backend,
            surrogate=self.surrogate,
        )
        if not stateless:
            self.carry.value, self._spikes = carry, counts
        return spikes.reshape(current.shape)

    def reset(self, mask: Tensor | NDArray[np.bool_] | None = None) -> None:
        """Starts a new episode: in all rows, or in those where `mask` `[B]` is True."""
        self.carry.reset(None if mask is None else check_mask(mask, self.carry.value))

    def extra_repr(self) -> str:
        return repr(self.dynamics)


def _refuse_second_run() -> None:
    """Refuses a decision on the way back, as activation checkpointing runs it: the carry is the next one's by then."""
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise InputError(
            "activation checkpointing runs a layer twice, the second time from the carry of the next decision, so that "
            "gradients would be wrong: set α = 0, or leave the layer out of it"
        )


def last_spikes(spikes: Tensor | None) -> Tensor:
    if spikes is None:
        raise InputError("no decision has been made yet, so no spikes have been counted")
    return spikes


def as_tensor(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value))
    try:
        return torch.from_numpy(np.array(value))  # a copy: the array may be read-only, which torch warns of
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a tensor, got {value!r}") from error


def _check_bias(bias: Tensor, neuron: Neuron) -> Tensor:
    if not neuron.differential:
        raise InputError(f"bias is for DC neurons; the current of {neuron.label} neurons contains it")
    bias = as_tensor("bias", bias)
    if not bias.dtype.is_floating_point or not bool(torch.isfinite(bias).all()):
        raise InputError(f"bias must be finite floating-point numbers, got {bias}")
    return bias.detach().clone()


def check_mask(mask: Tensor | NDArray[np.bool_], carry: Tensor | None) -> Tensor:
    mask = as_tensor("the reset mask", mask)
    if mask.dtype != torch.bool or mask.dim() != 1:
        raise InputError(f"the reset mask must be a boolean [B], got {mask.dtype} of shape {list(mask.shape)}")
    if carry is not None and len(mask) != len(carry):
        raise InputError(f"the reset mask has {len(mask)} rows, but the carry belongs to {len(carry)}")
    return mask


def _per_neuron(name: str, value: Tensor, features: torch.Size) -> Tensor:
    """Spreads a scalar, one value per channel, or one per neuron over all neurons `[N]` of the features' shape."""
    if value.dim() == 0 or value.shape == features:
        return value.expand(features).reshape(-1)
    if value.dim() == 1 and len(features) and value.shape[0] == features[0]:
        return spread(value, tuple(features))
    raise InputError(
        f"{name} must be a scalar, [{features[0]}] or {list(features)} to fit the input, got shape {list(value.shape)}"
    )
