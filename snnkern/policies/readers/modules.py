"""Modules of torch that are read and not called: what of them a reader would miss, and what of them does nothing."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import is_lazy

_COMPUTE = ("__call__", "_call_impl", "forward", "_conv_forward")  # what a module's result comes from
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Older than parametrizations: a hook computes the weight anew at every call.
_NORMS = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def added(module: nn.Module) -> str:
    """What was added to a module at run time that its class does not say, as an error goes on; empty for nothing.

    Parametrizations, such as `torch.nn.utils.parametrizations.weight_norm`, are no additions: the weight that is read
    is the one that acts.
    """
    tensors = [*module._parameters.values(), *module._buffers.values()]
    if any(tensor is not None and is_lazy(tensor) for tensor in tensors):
        return "which has no weights before its first call: call the network once"
    hooks = [hook for name in _HOOKS for hook in getattr(module, name).values()]
    for hook in hooks:
        if norm := _NORMS.get(type(hook).__name__):
            return (
                f"whose weight torch.nn.utils.{norm} makes in a hook: use torch.nn.utils.parametrizations.{norm}, or "
                f"torch.nn.utils.remove_{norm}"
            )
    if hooks:
        return "which has hooks, whose code would be lost: remove them"
    if "forward" in vars(module):
        return "whose forward was replaced, which would be lost"
    return ""


def changed(module: nn.Module) -> str:
    """What a module computes otherwise than torch's class of its name, as an error goes on; empty where nothing."""
    kind = type(module)
    base = next((base for base in kind.__mro__ if base.__module__.startswith("torch.nn.modules.")), kind)
    own = any(getattr(kind, name, None) is not getattr(base, name, None) for name in _COMPUTE)
    return added(module) or (f"whose class {kind.__name__} computes otherwise than {base.__name__}" if own else "")


def opened(module: nn.Sequential, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of a Sequential and of those within, with the names that torch gives them ("1.0").

    One that computes something of its own is not opened.
    """
    for index, child in enumerate(module):  # not children(): one ReLU may stand in several places
        if isinstance(child, nn.Sequential) and not changed(child):
            yield from opened(child, f"{name}{index}.")
        else:
            yield f"{name}{index}", child


def does_nothing(module: nn.Module) -> bool:
    """Whether a module gives back what it gets."""
    idle = isinstance(module, nn.Identity) or (isinstance(module, DROPOUTS) and not module.training)
    return idle and not changed(module)


def drops(module: nn.Module) -> bool:
    """Whether a module sets numbers to 0 at random."""
    return isinstance(module, DROPOUTS) and module.training


def flattens(module: nn.Flatten, dimensions: int) -> bool:
    """Whether it makes vectors `[B, …]` of tensors of so many dimensions."""
    start, end = (place + dimensions if place < 0 else place for place in (module.start_dim, module.end_dim))
    return start == 1 and end == dimensions - 1
