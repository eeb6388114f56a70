"""Gradients of a layer of neurons: by autograd through the reference, and by the operators."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from snnkern.kernels import ops, reference
from support.cases import Layer

CPU = torch.device("cpu")
NAMES = ("current", "threshold", "carry", "bias")
# Of the largest gradient of a layer. Forward, kernels and the reference do the same to the bit, so that they differ by
# rounding alone: by sums over T steps and over the batch, and by the exponential.
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-9}


Choice = TypeVar("Choice")


def one_for(request: pytest.FixtureRequest, choices: Collection[Choice]) -> Choice:
    """One of them for each case, by its name: all of them for every case take minutes."""
    return list(choices)[zlib.crc32(f"{request.fixturename} {request.node.callspec.id}".encode()) % len(choices)]


def random_gradient(layer: Layer, of_mean: bool, seed: int = 7) -> Tensor:
    """∂L/∂ of the spikes `[T, B, N]` or of the mean output `[B, N]`."""
    generator = torch.Generator().manual_seed(seed)
    shape = layer.carry.shape if of_mean else (layer.dynamics.timesteps, *layer.carry.shape)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(layer.carry.dtype)


def by_autograd(layer: Layer, gradient: Tensor, surrogate: str) -> dict[str, Tensor]:
    """Through the loops of the reference."""
    tracked = _tracked(layer)
    decision = reference.neuron(
        tracked.current, tracked.threshold, tracked.carry, layer.dynamics, tracked.bias, surrogate=surrogate
    )
    return _gradients(tracked, decision.spikes if gradient.dim() == 3 else decision.mean, gradient)


def by_operator(
    layer: Layer, gradient: Tensor, surrogate: str, backend: str, device: torch.device = CPU
) -> dict[str, Tensor]:
    """Through `snnkern.ops` on a device; what comes out is on the CPU."""
    tracked, gradient = _tracked(layer.map(lambda tensor: tensor.to(device))), gradient.to(device)
    operator = ops.neuron_spikes if gradient.dim() == 3 else ops.neuron_mean
    output, *_ = operator(
        tracked.current,
        tracked.threshold,
        tracked.carry,
        layer.dynamics,
        bias=tracked.bias,
        surrogate=surrogate,
        backend=backend,
    )
    found = _gradients(tracked, output, gradient)
    return {name: tensor.cpu() for name, tensor in found.items()}


def assert_gradients_are_the_references(layer: Layer, surrogate: str, backend: str, device: torch.device = CPU) -> None:
    """Of spikes and of the mean, for the sequence and for its first current as a constant one."""
    for form in [layer] if layer.current.dim() == 2 else [layer, layer.constant()]:
        for of_mean in (False, True):
            assert_gradient_is_the_references(form, random_gradient(form, of_mean), surrogate, backend, device)


def assert_gradient_is_the_references(
    layer: Layer, gradient: Tensor, surrogate: str, backend: str, device: torch.device = CPU
) -> None:
    """Of one form."""
    actual, wanted = by_operator(layer, gradient, surrogate, backend, device), by_autograd(layer, gradient, surrogate)
    largest = max(_largest(one) for one in wanted.values())
    for name in wanted:
        assert_close(actual[name], wanted[name], name, largest)


def _largest(tensor: Tensor) -> float:
    """The largest absolute value that is finite; 0 where there is none."""
    finite = tensor[tensor.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def assert_close(actual: Tensor, wanted: Tensor, name: str, largest: float | None = None) -> None:
    """The same to within the bound of the dtype, and where it is not finite the same.

    The bound is of the largest number: that of `wanted`, or one that is given.
    """
    assert actual.shape == wanted.shape
    assert actual.dtype == wanted.dtype
    actual, wanted = actual.detach(), wanted.detach()
    tolerance = BOUNDS[wanted.dtype] * (_largest(wanted) if largest is None else largest)
    torch.testing.assert_close(
        actual, wanted, rtol=0, atol=tolerance, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )


def _tracked(layer: Layer) -> Layer:
    return layer.map(lambda tensor: tensor.detach().clone().requires_grad_())


def _gradients(layer: Layer, output: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    tensors = {name: tensor for name in NAMES if (tensor := getattr(layer, name)) is not None}
    found = torch.autograd.grad(output, list(tensors.values()), gradient)
    return dict(zip(tensors, found, strict=True))
