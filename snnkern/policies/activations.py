"""The activations of dense actors: what stands behind every hidden layer.

ReLU is what neurons compute. The others are rewritten by `snnkern.conversion.rewriting`, for which each of them is 0 at
0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from snnkern.errors import InputError, brief

RELU = "relu"
# By name, what computes it and torch's module, whose own numbers (ELU's alpha) are its defaults.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], type[nn.Module]]] = {
    RELU: (torch.relu, nn.ReLU),
    "tanh": (torch.tanh, nn.Tanh),
    "elu": (nn.functional.elu, nn.ELU),
    "selu": (nn.functional.selu, nn.SELU),
    "leaky_relu": (nn.functional.leaky_relu, nn.LeakyReLU),
    "silu": (nn.functional.silu, nn.SiLU),
    "gelu": (nn.functional.gelu, nn.GELU),
}
_ASSUMED = " (assumed)"
_ALSO = {"swish": "silu", "leakyrelu": "leaky_relu", "lrelu": "leaky_relu"}


def parse_activation(name: object) -> str:
    """The name of an activation in `ACTIVATIONS`; of a class or function of torch, Flax or another library, too.

    Raises:
        InputError: it is none of these.
    """
    plain = str(getattr(name, "__name__", name)).removeprefix("<class '").removesuffix("'>").rpartition(".")[2].lower()
    found = _ALSO.get(plain, plain)
    if found not in ACTIVATIONS:
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {brief(name)}")
    return found


def assumed(name: str) -> str:
    """What an actor's metadata say of an activation that nobody has stated."""
    return f"{name}{_ASSUMED}"


def assumption(metadata: Mapping[str, str]) -> str | None:
    """The activation that an actor has because nobody has stated one; None where somebody has, or it is known."""
    said = str(metadata.get("activation", ""))
    return next((name for name in ACTIVATIONS if said == assumed(name)), None)


def activation_of(module: nn.Module) -> str | None:
    """The name of an activation that a module of torch computes with its default numbers; None where it is another."""
    for name, (_, kind) in ACTIVATIONS.items():
        if isinstance(module, kind):
            own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
            usual = {key: value for key, value in vars(kind()).items() if not key.startswith("_")}
            counted = usual.keys() - {"training", "inplace"}
            # A tensor may have several numbers, of which one comparison says nothing.
            unlike = any(isinstance(own.get(key), Tensor) or own.get(key) != usual[key] for key in counted)
            return None if unlike else name
    return None
