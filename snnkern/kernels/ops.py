"""The kernels as `torch.library` operators, each with its fake kernel; a backend computes them.

`neuron_spikes`, `neuron_mean` and `linear` are pure functions: carry in, carry out. They are for inference: a tensor
that requires grad is refused unless grad is off, or a gradient is asked for (`surrogate`, `trainable`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from snnkern.errors import InputError, brief
from snnkern.kernels.backends import Problem
from snnkern.kernels.backends.choice import at_once, choose
from snnkern.kernels.neurons import Dynamics, Numbers
from snnkern.kernels.surrogates import SURROGATES, Surrogate, parse_surrogate
from snnkern.kernels.tensors import check_dtype

# `Dynamics` crosses as its numbers, which have the types of operator schemas.
_KINDS = tuple(get_type_hints(Numbers).values())
_NUMBERS = ", ".join(f"{kind.__name__} {name}" for name, kind in get_type_hints(Numbers).items())
_SCHEMA = (
    "(Tensor current, Tensor threshold, Tensor carry, Tensor? bias, Tensor? row_alpha, "
    f"{_NUMBERS}, str backend) -> (Tensor, Tensor, Tensor)"
)
_SURROGATES = tuple(map(int, Surrogate))
_dynamics = functools.lru_cache(maxsize=1024)(Dynamics.from_numbers)


def neuron_spikes(
    current: Tensor,
    threshold: Tensor,
    carry: Tensor,
    dynamics: Dynamics,
    *,
    bias: Tensor | None = None,
    row_alpha: Tensor | None = None,
    backend: str = "auto",
    surrogate: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs all T steps of one layer of neurons, and returns the spikes of every step, the next carry, and spike counts.

    Args:
        current: x_t in activation units, `[T, B, N]`, or `[B, N]` where it is constant over the decision step.
            For DC the current is W·s_t, without the bias.
        threshold: θ ≥ 0, `[N]`. A neuron with θ = 0 never fires.
        carry: what the last decision step left, `[B, N]`; zeros after a reset.
        dynamics: neuron, T, α, μ, κ.
        bias: e^x_0 of a DC layer, `[N]`; None for the other kinds.
        row_alpha: α of every row, `[B]`, each 0 … 1, in place of `dynamics.alpha`.
        backend: a name from `snnkern.backends()`, or "auto".
        surrogate: "triangle", "sigmoid" or "atan": what stands for the derivative of a spike. Then spikes have
            gradients with respect to current, threshold, carry and bias; the carry that comes out has none. None for
            inference. Half precision under autocast is computed in float32.

    Returns:
        spikes `[T, B, N]` in activation units, carry `[B, N]`, counts int64 `[B]`.

    Raises:
        InputError: a shape, dtype or device does not fit, or a tensor requires grad while grad is on.

    Source: `docs/semantics.md`, "One decision step of one neuron", "Residual carry" and "Gradients".
    """
    return _layer(True, current, threshold, carry, bias, row_alpha, dynamics, backend, surrogate)


def neuron_mean(
    current: Tensor,
    threshold: Tensor,
    carry: Tensor,
    dynamics: Dynamics,
    *,
    bias: Tensor | None = None,
    row_alpha: Tensor | None = None,
    backend: str = "auto",
    surrogate: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs all T steps of one layer like `neuron_spikes`, but returns the mean over the T steps in place of the spikes.

    Returns:
        mean output Q_T / T (e_T for DC) `[B, N]`, carry `[B, N]`, counts int64 `[B]`.
    """
    return _layer(False, current, threshold, carry, bias, row_alpha, dynamics, backend, surrogate)


def _layer(
    wants_spikes: bool,
    current: Tensor,
    threshold: Tensor,
    carry: Tensor,
    bias: Tensor | None,
    row_alpha: Tensor | None,
    dynamics: Dynamics,
    backend: str,
    surrogate: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`neuron_spikes` or `neuron_mean`.

    A layer of plain tensors goes without torch's dispatcher, which takes longer than a kernel of theirs on a GPU. The
    dispatcher is asked where a backend has no such call, a tensor is not plain or does not fit, or somebody traces,
    compiles or watches operators.
    """
    tensors = (current, threshold, carry, bias, row_alpha)
    if surrogate is not None:
        _refuse_others(current=current, threshold=threshold, carry=carry)
        if bias is not None:
            _refuse_others(bias=bias)
        refuse_grad(row_alpha=row_alpha)
        options = (parse_surrogate(surrogate), wants_spikes, backend)
        return torch.ops.snnkern.neuron_for_training(*tensors, dynamics.numbers, *options)
    if not torch.compiler.is_compiling() and type(current) is Tensor:
        call = at_once(backend, current)
        if call is not None and not _is_watched():
            found = call(*tensors, dynamics, wants_spikes)
            if found is not None:
                return found
    refuse_grad(current=current, threshold=threshold, carry=carry, bias=bias, row_alpha=row_alpha)
    operator = torch.ops.snnkern.neuron_spikes if wants_spikes else torch.ops.snnkern.neuron_mean
    return operator(*tensors, *dynamics.numbers, backend)


def _is_watched() -> bool:
    """Whether something of torch's looks at operators as they are called."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
    )


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto", trainable: bool = False
) -> Tensor:
    """Computes x·W + b for rows of spikes or observations. On the CPU backend a row's result depends on that row alone.

    Args:
        input: `[…, in]`.
        weight: `[in, out]`: the transpose of `torch.nn.Linear`'s, so that a spike adds a contiguous row.
        bias: `[out]`, or None.
        backend: a name from `snnkern.backends()`, or "auto".
        trainable: whether the product has gradients with respect to all three.

    Raises:
        InputError: a shape, dtype or device does not fit, or a tensor requires grad while grad is on.
    """
    if trainable:
        _refuse_others(input=input, weight=weight)
        if bias is not None:
            _refuse_others(bias=bias)
        return torch.ops.snnkern.linear_for_training(input, weight, bias, backend)
    refuse_grad(input=input, weight=weight, bias=bias)
    return torch.ops.snnkern.linear(input, weight, bias, backend)


def finite(observation: Tensor) -> Tensor:
    """A copy of an observation `[B, …]` that was looked at: the check, where it must be part of a graph.

    Raises:
        InputError: a NaN or infinity.
    """
    return torch.ops.snnkern.finite(observation)


def refuse_non_finite(observation: Tensor) -> None:
    """Refuses an observation `[B, …]` with a NaN or infinity, naming its first row."""
    if not bool(torch.isfinite(observation).all()):
        rows = (~torch.isfinite(observation).flatten(1).all(dim=1)).nonzero().flatten().tolist()
        raise InputError(
            f"observation holds NaN or infinity in {len(rows)} of {len(observation)} rows (first: row {rows[0]}); "
            "set check_finite = False to let such values through"
        )


def _finite(observation: Tensor) -> Tensor:
    refuse_non_finite(observation)
    return observation.clone()


def _neuron(wants_spikes: bool, current, threshold, carry, bias, row_alpha, *rest) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    *numbers, backend = rest
    dynamics = _dynamics(*numbers)
    _check_neuron(current, threshold, carry, bias, row_alpha, dynamics)
    chosen = choose(backend, current.device, current.dtype)
    return chosen.neuron(Problem(current, threshold, carry, dynamics, bias, row_alpha, wants_spikes))


def _neuron_fake(wants_spikes: bool, current, threshold, carry, bias, row_alpha, *rest) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    *numbers, _ = rest
    dynamics = _dynamics(*numbers)
    _check_neuron(current, threshold, carry, bias, row_alpha, dynamics)
    shape = (dynamics.timesteps, *carry.shape) if wants_spikes else carry.shape
    counts = carry.new_empty(carry.shape[0], dtype=torch.int64)
    return carry.new_empty(shape), carry.new_empty(carry.shape), counts


def _neuron_for_training(current, threshold, carry, bias, row_alpha, numbers, _, *rest) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    wants_spikes, backend = rest
    return _neuron(wants_spikes, current, threshold, carry, bias, row_alpha, *_typed(numbers), backend)


def _neuron_for_training_fake(current, threshold, carry, bias, row_alpha, numbers, _, *rest) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    wants_spikes, backend = rest
    return _neuron_fake(wants_spikes, current, threshold, carry, bias, row_alpha, *_typed(numbers), backend)


def _typed(numbers: Sequence[float]) -> Numbers:
    """`Dynamics.numbers` from a list, which has floats alone: operators with few arguments are called in less time."""
    try:
        return Numbers._make([kind(number) for kind, number in zip(_KINDS, numbers, strict=True)])
    except (ValueError, OverflowError) as error:  # another length; no whole number where one is wanted
        raise InputError(f"dynamics must be the numbers of Dynamics.numbers, got {brief(list(numbers))}") from error


def _neuron_gradients(gradient, current, threshold, carry, bias, numbers, *rest) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    surrogate, backend = rest
    dynamics = _dynamics(*_typed(numbers))
    _check_gradient(gradient, current, threshold, carry, bias, dynamics)
    if surrogate not in _SURROGATES:
        raise InputError(f"surrogate must be one of {_SURROGATES}, the numbers of {SURROGATES}, got {surrogate}")
    problem = Problem(current, threshold, carry, dynamics, bias, None, wants_spikes=gradient.dim() == 3)
    chosen = choose(backend, current.device, current.dtype, gradients=True)
    return chosen.neuron_gradients(problem, gradient, Surrogate(surrogate))


def _neuron_gradients_fake(gradient, current, threshold, carry, bias, numbers, *_) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    _check_gradient(gradient, current, threshold, carry, bias, _dynamics(*_typed(numbers)))
    return tuple(tensor.new_empty(tensor.shape) for tensor in (current, threshold, carry, threshold))


def _check_gradient(gradient, current, threshold, carry, bias, dynamics) -> None:  # type: ignore[no-untyped-def]
    _check_neuron(current, threshold, carry, bias, None, dynamics)
    if gradient.dim() == 2:
        _check_shape("gradient", gradient, tuple(carry.shape), "[B, N]")
    else:
        _check_shape("gradient", gradient, (dynamics.timesteps, *carry.shape), "[T, B, N]")
    _check_alike(current=current, gradient=gradient)


class _Neurons(_SingleLevelFunction):
    """Below autograd, `neuron_for_training`; its way back is `neuron_gradients`.

    Of a single level, for it is called below torch's dispatcher, which comes by once for each level of torch.func.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        current, threshold, carry, bias, _, numbers, surrogate, _, backend = inputs
        ctx.save_for_backward(current, threshold, carry, bias)
        ctx.settings = numbers, surrogate, backend
        output, *rest = _below(torch.ops.snnkern.neuron_for_training, *inputs)
        ctx.mark_non_differentiable(*rest)
        ctx.set_materialize_grads(False)
        return output, *rest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradients[0] is None:
            return (None,) * 9
        *found, of_bias = _back(torch.ops.snnkern.neuron_gradients, gradients[0], *ctx.saved_tensors, *ctx.settings)
        return *found, of_bias if ctx.needs_input_grad[3] else None, *[None] * 5

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        _refuse_forward_mode()


class _LastGradients(_SingleLevelFunction):
    """Below autograd, `neuron_gradients`, from which there is no way back.

    torch.func and `create_graph` ask for a graph of every gradient, and mostly use none.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        return _below(torch.ops.snnkern.neuron_gradients, *inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        raise InputError("the gradients of spikes cannot be differentiated again: a surrogate has no derivative")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        _refuse_forward_mode()


class _Product(_SingleLevelFunction):
    """Below autograd, `linear_for_training`; its way back is `linear_gradients`."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.backend = backend
        return _below(torch.ops.snnkern.linear_for_training, input, weight, bias, backend)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (input, weight), (gradient,) = ctx.saved_tensors, gradients
        of_input, of_weight, of_bias, _ = ctx.needs_input_grad
        rows = _rows(gradient)
        if torch.is_grad_enabled():  # torch's own products, which can be differentiated again
            inputs, weights = rows @ weight.T, _rows(input).T @ rows
        else:
            wanted = of_input, of_weight, ctx.backend
            inputs, weights = _back(torch.ops.snnkern.linear_gradients, gradient, input, weight, *wanted)
        return (
            inputs.reshape(input.shape) if of_input else None,
            weights if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        _refuse_forward_mode()


def _apply(function: Any, *inputs: Any) -> Any:
    """Calls a function of autograd, once for each level of torch.func that asks for gradients."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return function.apply(*inputs)
    with enable_single_level_autograd_function():
        return function.apply(*inputs)


def _below(operator: Any, *inputs: Any) -> Any:
    """Calls an operator below autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        if torch._C._functorch.peek_interpreter_stack() is None:
            return operator(*inputs)
        with torch.enable_grad():  # which is off in `forward`: the next level of torch.func has gradients of its own
            return operator(*inputs)


def _back(operator: Any, *inputs: Any) -> Any:
    """Calls an operator of the way back; without autograd, where nobody asks for a graph of it."""
    if torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack() is not None:
        return operator(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*inputs)


def _rows(tensor: Tensor) -> Tensor:
    """All dimensions but the last as one. Not by -1, which torch refuses where the last one is 0."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])


def _refuse_forward_mode() -> None:
    raise InputError(
        "spikes have gradients backward alone, and no forward-mode derivative: use torch.func.vjp, grad or jacrev"
    )


def _linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool, backend: str
) -> tuple[Tensor, Tensor]:
    _check_linear_gradient(gradient, input, weight)
    chosen = choose(backend, input.device, input.dtype)
    return chosen.linear_gradients(_rows(gradient), _rows(input), weight, of_input, of_weight)


def _linear_gradients_fake(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool, backend: str
) -> tuple[Tensor, Tensor]:
    _check_linear_gradient(gradient, input, weight)
    rows = _rows(input)
    return (
        rows.new_empty(rows.shape if of_input else 0),
        weight.new_empty(weight.shape if of_weight else 0),
    )


def _check_linear_gradient(gradient: Tensor, input: Tensor, weight: Tensor) -> None:
    _check_linear(input, weight, None)
    _check_shape("gradient", gradient, (*input.shape[:-1], weight.shape[1]), "[…, out]")
    _check_alike(input=input, gradient=gradient)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    _check_linear(input, weight, bias)
    return choose(backend, input.device, input.dtype).linear(input, weight, bias)


def _linear_fake(input: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    _check_linear(input, weight, bias)
    return input.new_empty((*input.shape[:-1], weight.shape[1]))


def refuse_grad(**tensors: Tensor | None) -> None:
    """Refuses tensors that require grad while grad is on: there is no gradient. And what is no tensor.

    Raises:
        InputError: names the tensor.
    """
    for name, tensor in tensors.items():
        try:
            refused = tensor is not None and tensor.requires_grad and torch.is_grad_enabled()
        except AttributeError:
            raise InputError(f"{name} must be a tensor, got {type(tensor).__name__}") from None
        if refused:
            raise InputError(
                f"{name} requires grad, but spiking kernels are for inference and have no gradient: "
                "call them under torch.no_grad(), or detach the tensor"
            )


def _refuse_others(**values: object) -> None:
    """Refuses what is no tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} must be a tensor, got {type(value).__name__}")


def _check_neuron(
    current: Tensor,
    threshold: Tensor,
    carry: Tensor,
    bias: Tensor | None,
    row_alpha: Tensor | None,
    dynamics: Dynamics,
) -> None:
    if carry.dim() != 2:
        raise InputError(f"carry must be [B, N], got shape {list(carry.shape)}")
    batch, neurons = carry.shape
    if current.dim() == 2:
        _check_shape("current", current, (batch, neurons), "[B, N]")
    else:
        _check_shape("current", current, (dynamics.timesteps, batch, neurons), "[T, B, N]")
    _check_shape("threshold", threshold, (neurons,), "[N]")
    if bias is not None:
        if not dynamics.neuron.differential:
            raise InputError(f"bias is for DC neurons; the current of {dynamics.neuron.label} neurons contains it")
        _check_shape("bias", bias, (neurons,), "[N]")
    if row_alpha is not None:
        _check_shape("row_alpha", row_alpha, (batch,), "[B]")
    _check_alike(current=current, threshold=threshold, carry=carry, bias=bias, row_alpha=row_alpha)


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.dim() != 2:
        raise InputError(f"weight must be [in, out], got shape {list(weight.shape)}")
    if input.dim() < 1 or input.shape[-1] != weight.shape[0]:
        raise InputError(
            f"input must be [..., {weight.shape[0]}] to fit weight {list(weight.shape)}, got shape {list(input.shape)}"
        )
    if bias is not None:
        _check_shape("bias", bias, (weight.shape[1],), "[out]")
    _check_alike(input=input, weight=weight, bias=bias)


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], symbols: str) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name} must be {symbols} = {list(shape)}, got shape {list(tensor.shape)}")


def _check_alike(**tensors: Tensor | None) -> None:
    """Refuses tensors that are not floating-point, or not all of the first one's dtype and device."""
    first_name, first = next((name, tensor) for name, tensor in tensors.items() if tensor is not None)
    check_dtype(first_name, first.dtype)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.layout is not torch.strided:
            raise InputError(f"{name} must be dense, got layout {tensor.layout}")
        if tensor.dtype != first.dtype:
            raise InputError(f"{name} is {tensor.dtype}, but {first_name} is {first.dtype}")
        if tensor.device != first.device:
            raise InputError(f"{name} is on {tensor.device}, but {first_name} is on {first.device}")


def _one_by_one(  # type: ignore[no-untyped-def]
    operator: Callable[..., Any], info, in_dims: tuple[Any, ...], *arguments
) -> tuple[Any, Any]:
    """What torch.func.vmap makes of an operator: the members of the mapped dimension, one after the other."""
    number = info.batch_size
    members = [
        operator(*(_member(value, dim, index, number) for value, dim in zip(arguments, in_dims, strict=True)))
        for index in range(max(number, 1))  # of none, the result has a shape nevertheless
    ]
    if isinstance(members[0], Tensor):
        return torch.stack(members)[:number], 0
    return tuple(torch.stack(parts)[:number] for parts in zip(*members, strict=True)), (0,) * len(members[0])


def _member(value: Any, dim: Any, index: int, number: int) -> Any:
    """An argument of one of `number` calls. `dim` is the mapped one; of a list, torch gives a list."""
    if dim is None or not isinstance(value, Tensor):
        return value
    return value.select(dim, index) if number else value.new_zeros([*value.shape[:dim], *value.shape[dim + 1 :]])


_LIBRARY = torch.library.Library("snnkern", "DEF")


def _register() -> None:
    # `Library` rather than `custom_op`: a third of its cost per call, which counts at batch 1.
    operators: dict[str, tuple[str, Callable[..., object], Callable[..., object]]] = {
        "neuron_spikes": (
            _SCHEMA,
            functools.partial(_neuron, True),
            functools.partial(_neuron_fake, True),
        ),
        "neuron_mean": (
            _SCHEMA,
            functools.partial(_neuron, False),
            functools.partial(_neuron_fake, False),
        ),
        "neuron_for_training": (
            "(Tensor current, Tensor threshold, Tensor carry, Tensor? bias, Tensor? row_alpha, "
            "float[] dynamics, int surrogate, bool wants_spikes, str backend) -> (Tensor, Tensor, Tensor)",
            _neuron_for_training,
            _neuron_for_training_fake,
        ),
        "neuron_gradients": (
            "(Tensor gradient, Tensor current, Tensor threshold, Tensor carry, Tensor? bias, "
            "float[] dynamics, int surrogate, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
            _neuron_gradients,
            _neuron_gradients_fake,
        ),
        "linear": (
            "(Tensor input, Tensor weight, Tensor? bias, str backend) -> Tensor",
            _linear,
            _linear_fake,
        ),
        "linear_for_training": (
            "(Tensor input, Tensor weight, Tensor? bias, str backend) -> Tensor",
            _linear,
            _linear_fake,
        ),
        "linear_gradients": (
            "(Tensor gradient, Tensor input, Tensor weight, bool of_input, bool of_weight, str backend) "
            "-> (Tensor, Tensor)",
            _linear_gradients,
            _linear_gradients_fake,
        ),
        "finite": ("(Tensor observation) -> Tensor", _finite, torch.empty_like),
    }
    for name, (schema, implementation, fake) in operators.items():
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"snnkern::{name}", fake, lib=_LIBRARY)
        torch.library.register_vmap(
            f"snnkern::{name}", functools.partial(_one_by_one, getattr(torch.ops.snnkern, name)), lib=_LIBRARY
        )
    torch.library.register_autograd(
        "snnkern::finite", lambda _, gradient: gradient, lib=_LIBRARY
    )  # dense actors have one
    # Not by `register_autograd`, which takes 100 µs a call.
    _LIBRARY.impl("neuron_for_training", functools.partial(_apply, _Neurons), "Autograd")
    _LIBRARY.impl("neuron_gradients", functools.partial(_apply, _LastGradients), "Autograd")
    _LIBRARY.impl("linear_for_training", functools.partial(_apply, _Product), "Autograd")
    for device in ("cpu", "cuda"):
        for name in ("neuron_for_training", "linear_for_training"):
            torch.library.register_autocast(f"snnkern::{name}", device, torch.float32, lib=_LIBRARY)


_register()
