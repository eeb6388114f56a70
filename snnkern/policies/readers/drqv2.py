"""DrQ-v2's `snapshot.pt`: the network of the agent that it holds, read without running anything of it.

A snapshot is what `torch.save` makes of the agent object itself. Two kinds are known: the original, whose trunk is
Linear, LayerNorm and Tanh, and that of the CRPI paper, whose trunk is Linear and ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnkern.errors import CheckpointError, InputError, brief
from snnkern.policies.readers.torch_objects import StoredTensor, TorchFile
from snnkern.policies.readers.unpickle import Record

_AGENT = "DrQV2Agent"
_TORCH = "torch.nn.modules."
# What an agent holds that acts, and what of that is a chain of modules, in the order of the computation.
_CHAINS = {"encoder": ("convnet",), "actor": ("trunk", "policy")}
_MOST_PROBLEMS = 8  # that an error names
_PARTS = [f"{owner}.{chain}" for owner, chains in _CHAINS.items() for chain in chains]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The network of an agent.

    Attributes:
        kind: the full name of the agent's class.
        modules: of torch, by the names that they have in the agent, in the order of the computation.
    """

    kind: str
    modules: list[tuple[str, nn.Module]]


def read_snapshot(content: bytes, name: str) -> Snapshot | None:
    """Reads a file that `torch.save` wrote of objects; None where these are no DrQ-v2 agent.

    Args:
        content: the file's.
        name: what errors call it.

    Raises:
        CheckpointError: it holds an agent, but is damaged, or its network has parts that are not known; all are named.
            Or it holds an object of another class with an encoder and an actor.
    """
    try:
        file = TorchFile(content, name)
    except CheckpointError:
        return None
    agent = file.objects.get("agent") if isinstance(file.objects, dict) else file.objects
    if not isinstance(agent, Record):
        return None
    if agent.name != _AGENT:
        if not all(_entries(_entries(agent.state).get(part), "_modules") for part in _CHAINS):
            return None
        raise CheckpointError(
            f"{name} holds an object, {brief(agent.kind)}, which is refused: of DrQ-v2, {_AGENT} alone is read. Save "
            "both parts of what acts instead: torch.save({'encoder': agent.encoder.state_dict(), 'actor': "
            "agent.actor.state_dict()}, path)"
        )
    try:
        return Snapshot(agent.kind, _network(file, agent))
    except InputError as error:
        raise CheckpointError(f"{name}: {error}") from error


def _network(file: TorchFile, agent: Record) -> list[tuple[str, nn.Module]]:
    problems: list[str] = []
    found: dict[str, Any] = {}
    for owner, chains in _CHAINS.items():
        whole = _entries(agent.state).get(owner)
        parts = _entries(whole, "_modules")
        problems += _hooks(owner, whole)
        problems += [f"{owner}.{_named(part)} is not known" for part in parts if part not in chains]
        found |= {f"{owner}.{chain}": parts.get(chain) for chain in chains}
    records: list[tuple[str, Any]] = []
    for part in _PARTS:
        children = _entries(found[part], "_modules")
        problems += _hooks(part, found[part])
        if _class(found[part]) != "container.Sequential":
            problems.append(f"{part} is {_class(found[part])}, not a Sequential")
        elif not children:
            problems.append(f"{part} is empty")
        records += [(f"{part}.{_named(child)}", record) for child, record in children.items()]
    modules = []
    for name, record in records:
        kind, state = _class(record), _entries(getattr(record, "state", None))
        build = _BUILDERS.get(kind)
        problems += _hooks(name, record)
        if build is None:
            problems.append(f"{name} is {kind.rpartition('.')[2]}")
        else:
            try:
                modules.append((name, build(file, state)))
            except InputError as error:
                problems.append(f"{name}: {error}")
    if problems:
        rest = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise CheckpointError(f"its {_AGENT} cannot be read: {'; '.join(problems[:_MOST_PROBLEMS])}{rest}")
    return modules


def _class(record: Any) -> str:
    """The name of a class of torch's modules, such as "conv.Conv2d"; the full name of another one."""
    return record.kind.removeprefix(_TORCH) if isinstance(record, Record) else "missing"


def _hooks(name: str, record: Any) -> list[str]:
    """What is wrong with a module to which code was added."""
    found = (_entries(record, attribute) for attribute in ("_forward_hooks", "_forward_pre_hooks"))
    return [f"{name} has hooks, which are code"] if any(found) else []


def _named(key: Any) -> str:
    """The name of a module inside another, as an error says it; a file may have anything in its place."""
    return key if isinstance(key, str) and len(key) < 50 else "…"


def _entries(value: Any, attribute: str | None = None) -> Mapping[Any, Any]:
    """What a dict holds, or one that is the attribute of an object; nothing where it is something else."""
    if attribute is not None:
        value = _entries(getattr(value, "state", None)).get(attribute)
    if isinstance(value, Record):
        value = value.items
    return value if isinstance(value, Mapping) else {}


def _parameters(file: TorchFile, state: Mapping[Any, Any], dims: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a module, as the float tensors that actors have; the weight has so many dimensions."""
    stored = _entries(state.get("_parameters"))
    weight, bias = (stored.get(name) for name in ("weight", "bias"))
    if not isinstance(weight, StoredTensor) or not isinstance(bias, StoredTensor | None):
        raise InputError("it has no weight, or a bias that is no tensor")
    read = file.tensor(weight)
    if read.dim() != dims:
        raise InputError(f"its weight has shape {list(read.shape)}")
    return as_float(read), None if bias is None else as_float(file.tensor(bias))


def as_float(tensor: Tensor) -> Tensor:
    """float64 stays, other floats become float32, the precision that actors run in."""
    return tensor.float() if tensor.dtype.is_floating_point and tensor.dtype != torch.float64 else tensor


def _conv2d(file: TorchFile, state: Mapping[Any, Any]) -> nn.Module:
    usual = {"dilation": (1, 1), "groups": 1, "padding_mode": "zeros", "transposed": False}
    found = {name: state.get(name, value) for name, value in usual.items()}
    unknown = [name for name, value in usual.items() if not (_is_plain(found[name]) and found[name] == value)]
    pairs = {name: state.get(name) for name in ("stride", "padding")}
    unknown += [name for name, pair in pairs.items() if not (_is_plain(pair) and isinstance(pair, tuple))]
    if unknown:
        shown = [f"{name} = {_shown((found | pairs)[name])}" for name in unknown]
        raise InputError(f"a convolution with {', '.join(shown)} is not converted")
    return conv2d(*_parameters(file, state, 4), **pairs)  # type: ignore[arg-type]


def _is_plain(value: Any) -> bool:
    """Whether something is a number, a text or a pair of small whole numbers, which can be compared and shown."""
    if isinstance(value, tuple):
        return len(value) == 2 and all(type(number) is int and 0 <= number < 2**31 for number in value)
    return isinstance(value, int | str)


def _shown(value: Any) -> str:
    return brief(value) if _is_plain(value) else type(value).__name__


def _layer_norm(file: TorchFile, state: Mapping[Any, Any]) -> nn.Module:
    eps = state.get("eps")
    if not isinstance(eps, float):
        raise InputError("it has no eps")
    return layer_norm(*_parameters(file, state, 1), eps)


_BUILDERS: dict[str, Callable[[TorchFile, Mapping[Any, Any]], nn.Module]] = {
    "conv.Conv2d": _conv2d,
    "linear.Linear": lambda file, state: linear(*_parameters(file, state, 2)),
    "normalization.LayerNorm": _layer_norm,
    "activation.ReLU": lambda *_: nn.ReLU(),
    "activation.Tanh": lambda *_: nn.Tanh(),
}


def linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A Linear that has these tensors, `[out, in]` and `[out]`, and no others."""
    return _with(nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight, bias)


def conv2d(weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]) -> nn.Module:
    """A Conv2d that has these tensors, `[out, in, ky, kx]` and `[out]`, and no others."""
    channels, inputs, *kernel = weight.shape
    return _with(nn.Conv2d(inputs, channels, kernel, stride, padding, device="meta"), weight, bias)  # type: ignore[arg-type]


def layer_norm(weight: Tensor, bias: Tensor | None, eps: float) -> nn.Module:
    """A LayerNorm that has these tensors, `[N]` each, and no others."""
    return _with(nn.LayerNorm(list(weight.shape), eps, device="meta"), weight, bias)


def _with(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    for name, tensor in (("weight", weight), ("bias", bias)):
        module.register_parameter(name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
    return module
