"""The graph of a feed-forward module, as torch.fx traces it: which parts of it spike, and which work on values."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import fusion

from snnkern.errors import InputError
from snnkern.policies.readers.modules import DROPOUTS, added

_FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (*_FOLDABLE, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WEIGHTED_FUNCTIONS = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
CASTS = ("float", "double", "half", "bfloat16", "to", "type", "contiguous")

_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_POOLING = (
    functional.avg_pool1d,
    functional.avg_pool2d,
    functional.avg_pool3d,
    functional.adaptive_avg_pool1d,
    functional.adaptive_avg_pool2d,
    functional.adaptive_avg_pool3d,
)
_NOTHING = (nn.Identity, *DROPOUTS)
_DROPOUTS = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
)
_RELUS = (torch.relu, torch.relu_, functional.relu, functional.relu_, "relu", "relu_")
_ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
_SUBTRACT = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
_MULTIPLY = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_DIVIDE = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
_NEGATE = (operator.neg, torch.neg, "neg", "neg_")
_JOIN = (torch.cat, torch.concat, torch.concatenate)
_REDUCE = (torch.mean, torch.sum, "mean", "sum")
_RESHAPE = (torch.reshape, torch.flatten, "view", "reshape", "flatten")
_IN_PLACE = (
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    operator.ipow,
    operator.iand,
    operator.ior,
    operator.ifloordiv,
    operator.imod,
    operator.imatmul,
    operator.setitem,
)


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module in evaluation and without gradients, which is all of it: a graph knows no hooks.

    Raises:
        InputError: a part of it has hooks or no weights yet, or it cannot be copied.
    """
    problems = [f"{name or 'the module'}, {why}" for name, part in module.named_modules() if (why := added(part))]
    if problems:
        raise InputError(f"cannot convert {'; '.join(problems)}")
    try:
        return copy.deepcopy(module).eval().requires_grad_(False)
    except Exception as error:  # of many kinds: a module may hold anything
        raise InputError(f"this {type(module).__name__} cannot be copied: {error}") from error


def trace(module: nn.Module) -> fx.GraphModule:
    """The graph of a module in evaluation, of which nothing does nothing, and with BatchNorm folded where it can be.

    Raises:
        InputError: torch.fx cannot trace the module, or it does not take one tensor.
    """
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
    _drop_what_does_nothing(graph)
    _fold(graph)
    graph.recompile()
    return graph


def _drop_what_does_nothing(graph: fx.GraphModule) -> None:
    for node in list(graph.graph.nodes):
        idle = function_of(node) in _DROPOUTS and not argument(node, 2, "training", True)
        if idle or isinstance(module_of(graph, node), _NOTHING):
            node.replace_all_uses_with(argument(node, 0, "input"))
            graph.graph.erase_node(node)


def _fold(graph: fx.GraphModule) -> None:
    """Folds every BatchNorm that stands right behind a layer of weights, which nothing else uses, into that layer."""
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    for node in list(graph.graph.nodes):
        before: Any = node.args[0] if node.args else None
        norm = module_of(graph, node)
        layer = module_of(graph, before)
        if not isinstance(norm, NORMS) or norm.running_mean is None or not isinstance(layer, _FOLDABLE):
            continue
        if len(before.users) > 1 or calls.count(before.target) > 1:
            continue
        fuse: Any = fusion.fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fusion.fuse_conv_bn_eval
        graph.set_submodule(before.target, fuse(layer, norm))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)


class Plan:
    """Tells apart what runs on spikes in a graph and what works on values, which are computed once per decision.

    On spikes run the ReLUs, and what is linear and stands between one and another. All else works on values: what no
    spike reaches is constant over the T steps, and what spikes reach takes their mean.

    Attributes:
        relus: the nodes that are to spike.
        spiking: they, and the nodes between them that run T steps at once.
        tails: the shape of a row of every node's result, for those that are tensors `[B, …]`.
        constants: the results of nodes that depend on no input.
        dtypes: of every node's result that is a tensor.
        means: by name, what lies between ReLUs and works on means; what follows it spikes anew.
        action_dim: how many numbers the module returns for a row; None where it returns no tensor `[B, action_dim]`.

    Args:
        graph: of `trace`.
        example: one sample, `[1, …]`.

    Raises:
        InputError: there is no ReLU, the module cannot run on the sample, or something cannot be converted.
    """

    def __init__(self, graph: fx.GraphModule, example: Tensor) -> None:
        self.graph = graph
        nodes = list(graph.graph.nodes)
        if not any(_is_relu(graph, node) for node in nodes):
            raise InputError(
                "the module has no ReLU: nothing would spike. An nn.Sequential of Linear and another activation is "
                "converted by snnkern.convert"
            )
        two, three = (_Forms(graph).of(repeated(example, rows)) for rows in (2, 3))
        self.tails = {
            node: shape[1:]
            for node, shape in two.shapes.items()
            if shape[:1] == (2,) and three.shapes.get(node) == (3, *shape[1:])
        }
        self.dtypes, self.constants = two.dtypes, two.constants
        self.relus = [
            node
            for node in nodes
            if _is_relu(graph, node) and node not in self.constants and (node.users or _in_place(graph, node))
        ]
        self.spiking: set[fx.Node] = set()
        self.spiking = self._on_the_way(nodes)
        behind, before = set(self.relus), set(self.relus)
        for node in nodes:
            if behind.intersection(node.all_input_nodes):
                behind.add(node)
        for node in reversed(nodes):
            if before.intersection(node.users):
                before.add(node)
        between = behind & before & two.shapes.keys() - self.spiking
        self.means = tuple(dict.fromkeys(name_of(node) for node in nodes if node in between))
        result: Any = nodes[-1].args[0]
        tail = self.tails.get(result, ()) if isinstance(result, fx.Node) else ()
        self.action_dim = tail[0] if len(tail) == 1 else None
        self._refuse(nodes)

    def _on_the_way(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """The ReLUs, and what is linear all the way from one to another."""
        linear = set(self.relus)
        for node in nodes:
            senders = {source for source in node.all_input_nodes if source in linear}
            if node not in linear and senders and self._is_linear(node, senders):
                linear.add(node)
        spiking = set(self.relus)
        for node in reversed(nodes):
            if node in linear and spiking.intersection(node.users):
                spiking.add(node)
        return spiking

    def _is_linear(self, node: fx.Node, senders: set[fx.Node]) -> bool:
        """Whether a node is linear in what sends spikes to it, but for a bias, and keeps rows and steps apart."""
        if node not in self.tails or node.kwargs.get("out") is not None:
            return False
        module, function, first = module_of(self.graph, node), function_of(node), argument(node, 0, "input")
        if module is not None:
            averages = isinstance(module, NORMS) and module.running_mean is not None
            return averages or isinstance(module, (*WEIGHTED, *_POOLS, *_ADAPTIVE, nn.Flatten))
        if function in (*_ADD, *_SUBTRACT):
            others = operands(node)
            factor = argument(node, 2, "alpha", 1)
            return not isinstance(factor, fx.Node) and all(self._adds(other, senders) for other in others)
        if function in (*_MULTIPLY, *_DIVIDE):
            left, right = operands(node)
            if function in _DIVIDE and (right in senders or node.kwargs.get("rounding_mode") is not None):
                return False
            return self._is_constant(right if left in senders else left)
        if function in _JOIN:
            dimension = argument(node, 1, "dim", node.kwargs.get("axis", 0))
            parts = first if isinstance(first, list | tuple) else ()
            return bool(parts) and self._keeps_rows(node, dimension) and all(part in self.tails for part in parts)
        if senders != {first}:
            return False
        if function in _REDUCE:
            dimensions = argument(node, 1, "dim", node.kwargs.get("axis"))
            return all(self._keeps_rows(first, dimension) for dimension in _each(dimensions))
        if function in WEIGHTED_FUNCTIONS:
            return self._is_constant(argument(node, 1, "weight")) and self._is_constant(argument(node, 2, "bias", 0))
        if function in CASTS:
            return self.dtypes[node] == self.dtypes[first]
        return is_reshape(self.graph, node) or function in (*_NEGATE, *_POOLING, "clone")

    def is_affine(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether a node joins a source with a constant alone, and is linear in it but for a bias."""
        others = [other for other in operands(node) if other is not source]
        return len(others) == 1 and self._is_constant(others[0]) and self._is_linear(node, {source})

    def _keeps_rows(self, node: fx.Node, dimension: object) -> bool:
        """Whether a dimension of a node's result is another than that of the rows."""
        return isinstance(dimension, int) and dimension % (len(self.tails[node]) + 1) != 0

    def _adds(self, other: object, senders: set[fx.Node]) -> bool:
        return (isinstance(other, fx.Node) and (other in senders or other in self.tails)) or self._is_constant(other)

    def _is_constant(self, value: object) -> bool:
        """Whether it depends on no input: a number, or a parameter and what is made of it."""
        return (
            value in self.constants if isinstance(value, fx.Node) else value is None or isinstance(value, int | float)
        )

    def _refuse(self, nodes: list[fx.Node]) -> None:
        """Raises an InputError where something cannot be converted, which names all of it."""
        problems = []
        for node in nodes:
            if function_of(node) in _DROPOUTS:
                problems.append(f"{node.name}, which drops at random in evaluation, too")
            target = argument(node, 0, "input")
            if not isinstance(target, fx.Node) or not _in_place(self.graph, node):
                continue
            lost = not node.users or len(target.users) > 1
            if lost and (node in self.spiking or target in self.spiking):
                problems.append(f"{name_of(node)}, which works in place on what others use")
        joined = dict.fromkeys(self._joining(relu) for relu in self.relus if not self.tails.get(relu))
        what = "[B, …] with a row of numbers for every sample"
        problems += [f"{name_of(node)}, whose result is not {what}" for node in joined]
        if problems:
            raise InputError(f"cannot convert {'; '.join(problems)}")

    def _joining(self, node: fx.Node) -> fx.Node:
        """What gives a node no rows: the last node before it, or itself, that gets rows and returns none."""
        sources = node.all_input_nodes
        while sources and not any(self.tails.get(source) for source in sources):
            node = sources[0]
            sources = node.all_input_nodes
        return node


class _Forms(fx.Interpreter):
    """Runs the graph and keeps the form of every result, and all of those that depend on no input."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.dtypes: dict[fx.Node, torch.dtype] = {}
        self.constants: dict[fx.Node, Any] = {}

    def of(self, batch: Tensor) -> _Forms:
        """Runs it on a batch.

        Raises:
            InputError: the module does not take such a batch.
        """
        run(self, batch)
        return self

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "output":
            self.shapes[n], self.dtypes[n] = tuple(result.shape), result.dtype
        if n.op not in ("placeholder", "output") and all(source in self.constants for source in n.all_input_nodes):
            self.constants[n] = result
        return result


def run(interpreter: fx.Interpreter, batch: Tensor) -> Any:
    """Runs an interpreter on a batch.

    Raises:
        InputError: the module cannot run on such a batch.
    """
    try:
        return interpreter.run(batch)
    except InputError:
        raise
    except Exception as error:  # whatever a module's parts say of a tensor that does not fit them
        what = str(error).strip().partition("\n")[0]
        shape = ", ".join(["B", *map(str, batch.shape[1:])])
        raise InputError(f"the module cannot run on samples of shape [{shape}]: {what}") from error


class Silence(fx.Interpreter):
    """Runs the graph with ReLUs that send nothing, and with nothing but biases added: these, as they arrive.

    Args:
        graph: of `trace`.
        plan: of this graph.
    """

    def __init__(self, graph: fx.GraphModule, plan: Plan) -> None:
        super().__init__(graph)
        self.plan = plan
        self.found: dict[fx.Node, Tensor] = {}

    def offsets(self, example: Tensor) -> dict[fx.Node, Tensor]:
        """What biases make of the nodes that run on spikes, `[…]`, where that is not zero; `example` is one sample."""
        self.run(repeated(example, 2))
        return {node: value[0] for node, value in self.found.items() if bool(value.any())}

    def run_node(self, n: fx.Node) -> Any:
        if n in self.plan.spiking and n not in self.plan.relus:
            added = additions(n)

            def silent(source: fx.Node) -> Any:
                if source in self.plan.spiking:
                    return self.found[source].clone()  # what follows may work in place
                value = self.env[source]
                return torch.zeros_like(value) if source in added and source not in self.plan.constants else value

            arguments, keywords = fx.node.map_arg((n.args, n.kwargs), silent)
            self.found[n] = getattr(self, n.op)(n.target, arguments, keywords)
        result = super().run_node(n)
        if n in self.plan.relus:
            self.found[n] = torch.zeros_like(result)
        return result


def repeated(example: Tensor, rows: int) -> Tensor:
    """So many copies of a sample `[1, …]`: with one alone, a module may mistake the rows for something else."""
    return example.expand(rows, *example.shape[1:]).clone()


def name_of(node: fx.Node) -> str:
    """The name of a node for people: of its module, where it is a call of one."""
    return str(node.target) if node.op == "call_module" else node.name


def module_of(graph: nn.Module, node: Any) -> nn.Module | None:
    """The module that a node calls; None where it calls none."""
    return graph.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def function_of(node: fx.Node) -> Any:
    """The function or, by name, the method that a node calls; None where it calls none."""
    return node.target if node.op in ("call_function", "call_method") else None


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """An argument of a node, given by place or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def operands(node: fx.Node) -> tuple[Any, Any]:
    """The two that an addition, a subtraction, a multiplication or a division joins."""
    return argument(node, 0, "input"), argument(node, 1, "other")


def additions(node: fx.Node) -> list[Any]:
    """What a node adds up or joins, each of which is coded; nothing for other nodes."""
    function = function_of(node)
    if function in (*_ADD, *_SUBTRACT):
        return list(operands(node))
    return list(argument(node, 0, "tensors")) if function in _JOIN else []


def is_reshape(graph: nn.Module, node: fx.Node) -> bool:
    """Whether a node keeps all numbers in their order and changes the shape alone."""
    return isinstance(module_of(graph, node), nn.Flatten) or function_of(node) in _RESHAPE


def affine(plan: Plan, node: fx.Node, source: fx.Node) -> tuple[Any, Any, Any] | None:
    """The factor, divisor and summand by which a node makes source · factor / divisor + summand; None where not so."""
    function, value = function_of(node), plan.constants
    if function in _NEGATE:
        return -1.0, 1.0, 0.0
    if function not in (*_ADD, *_SUBTRACT, *_MULTIPLY, *_DIVIDE) or not plan.is_affine(node, source):
        return None
    left, right = operands(node)
    constant = right if left is source else left
    constant = value[constant] if isinstance(constant, fx.Node) else constant
    if function in _MULTIPLY:
        return constant, 1.0, 0.0
    if function in _DIVIDE:
        return 1.0, constant, 0.0
    alpha = argument(node, 2, "alpha", 1)
    if function in _ADD:
        return (1.0, 1.0, alpha * constant) if left is source else (alpha, 1.0, constant)
    return (1.0, 1.0, -alpha * constant) if left is source else (-alpha, 1.0, constant)


def is_tanh(graph: nn.Module, node: fx.Node) -> bool:
    """Whether a node is a tanh."""
    return isinstance(module_of(graph, node), nn.Tanh) or function_of(node) in (torch.tanh, functional.tanh, "tanh")


def _is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(module_of(graph, node), nn.ReLU) or function_of(node) in _RELUS


def _in_place(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node changes its first argument."""
    if node.op == "call_module":
        return bool(getattr(module_of(graph, node), "inplace", False))
    function = function_of(node)
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    named = name.endswith("_") and not name.endswith("__")
    return function in _IN_PLACE or named or bool(node.kwargs.get("inplace"))


def _each(dimensions: object) -> tuple[object, ...]:
    return tuple(dimensions) if isinstance(dimensions, list | tuple) else (dimensions,)
