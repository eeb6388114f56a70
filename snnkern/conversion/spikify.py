"""Converts any feed-forward PyTorch module: every ReLU in its graph becomes a `SpikingActivation`.

The graph is traced with torch.fx. Up to the last ReLUs it runs time-first, with the T steps side by side in the batch,
so that every layer stays as it is. The part before the first ReLU is computed once, and the part after the last ReLUs
is computed from the mean over the T steps.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import fusion

from snnkern.conversion.activations import Statistics, as_tensor, batches, check_numeric
from snnkern.conversion.rules import Calibration, Max, Percentile, parse_of_activations
from snnkern.errors import InputError
from snnkern.kernels.neurons import Dynamics, Neuron, parse_neuron
from snnkern.kernels.nn import SpikingActivation
from snnkern.policies.actor import Policy

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # in evaluation
_LINEAR_MODULES = (*_WEIGHTED, *_POOLS, *_ADAPTIVE, *_NOTHING, nn.Flatten)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_POOLING = (
    functional.avg_pool1d,
    functional.avg_pool2d,
    functional.avg_pool3d,
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
)
_RELUS = (torch.relu, torch.relu_, functional.relu, functional.relu_)
_RESHAPES = ("view", "reshape", torch.reshape)
_CONVERTED = (
    "Linear, convolutions, BatchNorm right behind them, pooling by average, flatten from dimension 1, additions"
)


class SpikingNetwork(nn.Module):
    """The spiking version of a feed-forward module, made by `snnkern.spikify`; one call is one decision step.

    The activations keep the carry of each row until `reset`. With α = 0 there is no carry, and calls may differ in B.

    Attributes:
        body: the network that runs, a `torch.fx.GraphModule`.
        dynamics: neuron, T, α, μ, κ; the same for all activations.
        why_it_does_not_act: says what makes a policy of it.
    """

    why_it_does_not_act = (
        "a policy needs act(observations), which a SpikingNetwork has not: wrap it in an object whose act "
        "calls it with a tensor, with α = 0, or convert its module as nn.Sequential"
    )

    def __init__(self, body: fx.GraphModule, dynamics: Dynamics) -> None:
        super().__init__()
        self.body = body
        self.dynamics = dynamics

    @property
    def activations(self) -> dict[str, SpikingActivation]:
        """The activation that replaces each ReLU, by its name in the graph."""
        return {name: child for name, child in self.body.named_children() if isinstance(child, SpikingActivation)}

    @property
    def spikes(self) -> Tensor:
        """Spikes sent in the last decision, per activation and row, int64 `[activations, B]`."""
        return torch.stack([activation.spikes for activation in self.activations.values()])

    def forward(self, input: Tensor) -> Any:
        """Returns the module's output for an input `[B, …]`, computed with T steps of spikes.

        Raises:
            InputError: the carry belongs to another number of rows; the input requires grad while grad is on.
        """
        if not isinstance(input, Tensor):
            raise InputError(f"input must be a tensor [B, …], got {type(input).__name__}")
        if self.dynamics.alpha == 0 and not torch.compiler.is_exporting():
            self.reset()
        return self.body(input)

    def reset(self, mask: Tensor | NDArray[np.bool_] | None = None) -> None:
        """Starts a new episode: in all rows, or in those where `mask` `[B]` is True."""
        for activation in self.activations.values():
            activation.reset(mask)


@torch.no_grad()
def spikify(
    module: nn.Module,
    sample_batches: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor],
    *,
    neuron: str | Neuron = "mt",
    timesteps: int = 4,
    alpha: float = 0.0,
    memory: float = 0.0,
    clip: float = 0.5,
    calibration: str | Calibration = "max",
    backend: str = "auto",
) -> SpikingNetwork:
    """Converts a feed-forward module into a spiking one, without training. The module itself does not change.

    Its ReLUs, modules or functions, become `SpikingActivation`s, with a threshold for every channel of a convolution
    and every neuron of a Linear. Between the input and the last ReLUs it may have Linear, convolutions, BatchNorm
    (folded into the layer before it), average pooling, flatten, additions and dropout, which does nothing here. After
    the last ReLUs it may have anything, which works on means.

    Args:
        module: takes one tensor `[B, …]`.
        sample_batches: inputs that the thresholds are calibrated on, `[B, …]` or an iterable of such batches.
        neuron: as for `convert`.
        timesteps: T.
        alpha: α. For inputs that do not follow each other in time, leave it 0.
        memory: μ.
        clip: κ.
        calibration: "max", "percentile" or "percentile:P" as for `convert`, over all positions of a channel.
        backend: a name from `snnkern.backends()`, or "auto".

    Raises:
        InputError: a parameter is out of range; there are no samples, or the module does not take them; or it has parts
            that cannot be converted, each of which is named.
    """
    dynamics = Dynamics(parse_neuron(neuron), timesteps, alpha, memory, clip)
    rule = parse_of_activations(calibration)
    if isinstance(module, Policy):
        raise InputError(f"module is an {type(module).__name__}: snnkern.convert converts actors")
    if not isinstance(module, nn.Module):
        sb3 = any(base.__module__.startswith(("stable_baselines3.", "sbx.")) for base in type(module).__mro__)
        advice = ": snnkern.from_sb3 converts a model of Stable-Baselines3" if sb3 else ""
        raise InputError(f"module must be a torch.nn.Module, got {type(module).__name__}{advice}")
    graph = _fold(_trace(copy.deepcopy(module).eval().requires_grad_(False)))
    region = _Region(graph)
    thresholds, example = _calibrate(graph, region, sample_batches, rule)
    offsets: dict[fx.Node, Tensor] = {}
    if dynamics.neuron.differential:
        offsets = _Silence(graph, region).offsets(example)
        _drop_biases(graph, region)
    _make_spiking(graph, region, thresholds, offsets, dynamics, backend)
    return SpikingNetwork(graph, dynamics)


def _trace(module: nn.Module) -> fx.GraphModule:
    try:
        graph = fx.symbolic_trace(module)
    except Exception as error:  # whatever forward does that a proxy cannot
        raise InputError(f"torch.fx cannot trace this {type(module).__name__}'s forward: {error}") from error
    inputs = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise InputError(
            f"the module must take one tensor, got one that takes {', '.join(inputs) or 'none'}: join several to one "
            "[B, …], with one first layer for all of it"
        )
    return graph


def _fold(graph: fx.GraphModule) -> fx.GraphModule:
    """Folds every BatchNorm that stands right behind a layer of weights, which nothing else uses, into that layer."""
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    for node in list(graph.graph.nodes):
        before: Any = node.args[0] if node.args else None
        norm = _module(graph, node)
        layer = _module(graph, before)
        if not isinstance(norm, _NORMS) or norm.running_mean is None or not isinstance(layer, _WEIGHTED):
            continue
        if len(before.users) > 1 or calls.count(before.target) > 1:
            continue
        fuse: Any = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
        graph.set_submodule(before.target, fuse(layer, norm))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


class _Region:
    """Which nodes of a graph run time-first.

    Attributes:
        relus: the nodes that are to spike.
        nodes: they, and all that leads to them.
        spiking: those of `nodes` that depend on a relu; the others are constant over the T steps.

    Raises:
        InputError: there is no ReLU, or something that leads to one cannot be converted.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.relus = [node for node in graph.graph.nodes if _is_relu(graph, node)]
        if not self.relus:
            raise InputError("the module has no ReLU: nothing would spike")
        self.nodes: set[fx.Node] = set()
        waiting = list(self.relus)
        while waiting:
            node = waiting.pop()
            if node not in self.nodes:
                self.nodes.add(node)
                sources = node.all_input_nodes
                waiting += sources[:1] if _is_reshape(node) else sources  # the others are sizes, nothing to name
        self.spiking: set[fx.Node] = set()
        problems = [f"{relu.name}, which works in place" for relu in self.relus if _changes_another(graph, relu)]
        for node in graph.graph.nodes:
            if node in self.nodes:
                if node in self.relus or self.spiking.intersection(node.all_input_nodes):
                    self.spiking.add(node)
                if node not in self.relus and node.op != "placeholder" and (why := _not_linear(graph, node)):
                    problems.append(f"{_name(node)}, {why}")
        _refuse(problems)


def _refuse(problems: list[str]) -> None:
    """Raises an InputError where there are problems."""
    if problems:
        raise InputError(f"cannot convert {'; '.join(problems)}. Before a ReLU there may stand {_CONVERTED}")


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _module(graph: nn.Module, node: Any) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return isinstance(_module(graph, node), nn.ReLU) or (node.op == "call_function" and node.target in _RELUS)


def _changes_another(graph: fx.GraphModule, relu: fx.Node) -> bool:
    """Whether a ReLU works in place on what others use, which the graph does not show."""
    module = _module(graph, relu)
    in_place = module.inplace if isinstance(module, nn.ReLU) else str(relu.target).endswith("relu_")
    in_place = in_place or relu.target is torch.relu_ or bool(relu.kwargs.get("inplace"))
    return not relu.users or (in_place and len(relu.all_input_nodes[0].users) > 1)


def _not_linear(graph: fx.GraphModule, node: fx.Node) -> str:
    """Why a node cannot work on spikes; empty where it can: it is linear, but for a bias, and keeps rows apart."""
    module, function = _module(graph, node), node.target
    if isinstance(module, _NORMS):
        return f"a {module} that is not right behind a layer"
    if (start := _flattens_from(graph, node)) is not None:  # below 0, calibration tells where that is
        return "" if isinstance(start, int) and start != 0 else f"a flatten from dimension {start}"
    if module is not None:
        return "" if isinstance(module, _LINEAR_MODULES) else f"a {module}"
    if function in _ADDITIONS:
        others = [*node.args[1:], *node.kwargs.values()]
        return (
            "" if all(isinstance(other, fx.Node) for other in others) else "an addition of something that is no layer's"
        )
    if function in _POOLING or (function is functional.dropout and not node.kwargs.get("training", True)):
        return ""
    hint = " (to flatten each row, write flatten(1))" if _is_reshape(node) else ""
    return f"a {node.op.removeprefix('call_')} {getattr(function, '__name__', function)}{hint}"


def _flattens_from(graph: nn.Module, node: fx.Node) -> Any:
    """The first dimension that a node flattens; None where it is no flatten."""
    module = _module(graph, node)
    if isinstance(module, nn.Flatten):
        return module.start_dim
    if node.target is torch.flatten or (node.op == "call_method" and node.target == "flatten"):
        return node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    return None


def _is_reshape(node: fx.Node) -> bool:
    return node.op in ("call_method", "call_function") and node.target in _RESHAPES


class _Recording(fx.Interpreter):
    """Runs the dense graph, keeps what its ReLUs return, and refuses flattens of the region that join rows."""

    def __init__(self, graph: fx.GraphModule, region: _Region) -> None:
        super().__init__(graph)
        self.region = region
        self.outputs: dict[fx.Node, Tensor] = {}
        self.extra_traceback = False

    def record(self, batch: Tensor) -> None:
        """Runs it for a batch of samples.

        Raises:
            InputError: the module does not take such a batch; a flatten joins rows.
        """
        try:
            self.run(batch)
        except InputError:
            raise
        except Exception as error:  # whatever a module's parts say of a tensor that does not fit them
            what = str(error).strip().partition("\n")[0]
            raise InputError(f"the module cannot run on samples of shape {list(batch.shape)}: {what}") from error

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.region.relus:
            self.outputs[n] = result.clone()  # what follows may work in place
        start = _flattens_from(self.module, n) if n in self.region.nodes else None
        if start is not None and start + self.env[n.all_input_nodes[0]].dim() <= 0:
            _refuse([f"{_name(n)}, a flatten from dimension {start}"])
        return result


class _Silence(fx.Interpreter):
    """Runs the graph with an input of zeros and ReLUs that send nothing: what remains are biases, as they arrive."""

    def __init__(self, graph: fx.GraphModule, region: _Region) -> None:
        super().__init__(graph)
        self.region = region
        self.found: dict[fx.Node, Tensor] = {}

    def offsets(self, example: Tensor) -> dict[fx.Node, Tensor]:
        """What biases make of every node of the region, `[…]`; for a ReLU, of its input."""
        self.run(torch.zeros_like(example[:1]))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        if n in self.region.relus:
            self.found[n] = self.found[n.all_input_nodes[0]]
            return torch.zeros_like(self.found[n])[None]
        if n not in self.region.nodes:
            return None
        result = super().run_node(n)
        self.found[n] = result[0].clone()
        return result


def _calibrate(
    graph: fx.GraphModule,
    region: _Region,
    samples: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor],
    rule: Max | Percentile,
) -> tuple[dict[fx.Node, Tensor], Tensor]:
    """The threshold of every ReLU, one per channel, and one batch of the samples."""
    example = next(iter([*graph.parameters(), *graph.buffers()]), torch.empty(0))
    statistics = batch = None
    for samples_of_batch in batches(samples):
        if isinstance(samples_of_batch, list | tuple):
            raise InputError(
                f"a batch of samples must be one array or tensor, got {len(samples_of_batch)} in a "
                f"{type(samples_of_batch).__name__}: give the module's input alone, without labels"
            )
        check_numeric(samples_of_batch)
        batch = as_tensor(samples_of_batch).to(example)
        if not len(batch) or not bool(torch.isfinite(batch).all()):
            raise InputError("calibration samples must be finite, and at least one in every batch")
        recording = _Recording(graph, region)
        recording.record(batch)
        activations = [recording.outputs[node].movedim(1, -1).flatten(0, -2) for node in region.relus]
        if statistics is None:
            statistics = Statistics([rows[0] for rows in activations], isinstance(rule, Percentile))
        statistics.record(activations)
    if statistics is None or batch is None:
        raise InputError("calibration data is empty: give at least one sample")
    return dict(zip(region.relus, rule.thresholds(statistics), strict=True)), batch


def _drop_biases(graph: fx.GraphModule, region: _Region) -> None:
    """Gives the region's layers no bias: differential coding adds biases once, where a neuron receives them."""
    for node in region.nodes:
        layer = _module(graph, node)
        if isinstance(layer, _WEIGHTED) and layer.bias is not None:
            bare = copy.copy(layer)  # another use of the layer, behind the last ReLU, keeps the bias
            bare._parameters = dict(layer._parameters)
            bare.bias = None
            node.target = _add_module(graph, f"{node.name}_without_bias", bare)


def _make_spiking(
    graph: fx.GraphModule,
    region: _Region,
    thresholds: dict[fx.Node, Tensor],
    offsets: dict[fx.Node, Tensor],
    dynamics: Dynamics,
    backend: str,
) -> None:
    """Replaces the ReLUs, and translates between values and spikes wherever one meets the other."""
    steps, differential = dynamics.timesteps, bool(offsets)
    for name, translation in (
        ("time_code", _Code(steps, differential)),
        ("time_apart", _Apart(steps)),
        ("time_together", nn.Flatten(0, 1)),
        ("time_decode", _Decode(steps, differential)),
    ):
        _add_module(graph, name, translation)

    def insert(before: fx.Node, source: fx.Node, *names: str) -> fx.Node:
        with graph.graph.inserting_before(before):
            for name in names:
                source = graph.graph.call_module(name, (source,))
        return source

    for node in list(graph.graph.nodes):
        if node in region.relus:
            activation = SpikingActivation(
                dynamics.neuron, thresholds[node], steps, dynamics.alpha, dynamics.memory, dynamics.clip,
                bias=offsets.get(node), backend=backend,
            )  # fmt: skip
            name = _add_module(graph, f"{node.name}_spiking", activation)
            source = node.all_input_nodes[0]
            coding = "time_apart" if source in region.spiking else "time_code"
            spikes = insert(node, source, coding, name, "time_together")
            node.replace_all_uses_with(spikes)
            region.spiking.add(spikes)
            graph.graph.erase_node(node)
            continue
        for source in node.all_input_nodes:
            spiking = source in region.spiking
            if node in region.spiking and not spiking:
                node.replace_input_with(source, insert(node, source, "time_code", "time_together"))
            elif node not in region.nodes and (spiking or source in region.nodes):
                value = insert(node, source, "time_decode") if spiking else source
                node.replace_input_with(source, _offset(graph, node, value, offsets.get(source)))
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()


def _offset(graph: fx.GraphModule, before: fx.Node, value: fx.Node, offset: Tensor | None) -> fx.Node:
    """The value with what biases make of it, which differential coding left out."""
    if offset is None or not bool(offset.any()):
        return value
    name = f"{value.name}_bias"
    graph.register_buffer(name, offset)
    with graph.graph.inserting_before(before):
        return graph.graph.call_function(operator.add, (value, graph.graph.get_attr(name)))


def _add_module(graph: fx.GraphModule, name: str, module: nn.Module) -> str:
    graph.add_module(name, module)
    return name


class _Code(nn.Module):
    """A constant value `[B, …]` as a sequence `[T, B, …]`: itself at every step, or at the first and then no change."""

    def __init__(self, steps: int, differential: bool) -> None:
        super().__init__()
        self.steps, self.differential = steps, differential

    def forward(self, value: Tensor) -> Tensor:
        if not self.differential:
            return value.expand(self.steps, *value.shape)
        return torch.cat([value[None], value.new_zeros(self.steps - 1, *value.shape)])


class _Apart(nn.Module):
    """T steps beside each other in the batch, `[T·B, …]`, as `[T, B, …]`."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, value: Tensor) -> Tensor:
        return value.unflatten(0, (self.steps, value.shape[0] // self.steps))


class _Decode(_Apart):
    """What a sequence `[T·B, …]` stands for, `[B, …]`: its mean, or the mean of the values whose changes it holds."""

    def __init__(self, steps: int, differential: bool) -> None:
        super().__init__(steps)
        self.differential = differential

    def forward(self, value: Tensor) -> Tensor:
        sequence = super().forward(value)
        if not self.differential:
            return sequence.mean(dim=0)
        numbers = torch.arange(1, self.steps + 1, dtype=value.dtype, device=value.device)
        return (sequence / numbers.reshape(-1, *[1] * value.dim())).sum(dim=0)
