"""What the time of a decision is compared with: the same actor as a published loop, and dense in other runtimes.

Everyone is given a NumPy observation and returns a NumPy action. The dense actor is run without the checks of `Actor`.
Only the published loop does as the published code does; where else there is a choice, the faster form is taken.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.control.timing import Contender
from snnkern.kernels.neurons import IF, Dynamics
from snnkern.policies.actor import Actor, Interface


class Missing(Exception):
    """A contender that cannot take part, and why."""


def optional(name: str) -> ModuleType:
    """Imports an optional package.

    Raises:
        Missing: it is not installed, or does not import.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception as error:  # an incompatible package fails in its own way
            raise Missing(f"{type(error).__name__}: {error}") from error


# ---- the published loop


class _PublishedNeuron(nn.Module):
    """IF with the carry, a step at a time, written as the CRPI authors' code does: state in attributes, eager."""

    threshold: Tensor
    initial: Tensor
    count: Tensor

    def __init__(self, threshold: Tensor, alpha: float) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)
        self.alpha = alpha
        self.potential: Tensor | None = None

    def start(self) -> None:
        """Ends a decision: what it owes, times α and clipped, starts the next one."""
        if self.potential is None:
            return
        residual = torch.clamp(self.potential - self.initial, min=-self.threshold * self.count)
        bound = 0.5 * self.threshold
        self.potential = torch.clamp(residual * self.alpha, -bound, bound)
        self.first = True

    def forward(self, current: Tensor) -> Tensor:
        if self.potential is None:
            self.potential, self.first = torch.zeros_like(current), True
        if self.first:
            self.initial = self.potential + 0.5 * self.threshold
            self.potential = self.initial
            self.count = torch.zeros_like(current)
            self.first = False
        self.potential = self.potential + current
        self.count += (self.potential - self.threshold) > 0
        spike = ((self.potential - self.threshold) > 0) * self.threshold
        self.potential = self.potential - spike
        return spike


class PublishedLoop:
    """IF as the CRPI paper published it: eager PyTorch, all layers at each of T steps, outputs summed; mean and tanh.

    Args:
        actor: the dense actor.
        thresholds: θ of every hidden layer, `[N]` each.
        timesteps: T.
        alpha: α.

    Source: Xu et al., "Error Amplification Limits ANN-to-SNN Conversion in Continuous Control", ICML 2026.
    """

    def __init__(self, actor: Actor, thresholds: Sequence[Tensor], timesteps: int, alpha: float) -> None:
        self.interface = actor.interface
        self.dynamics = Dynamics(IF(), timesteps, alpha)
        self.neurons = [_PublishedNeuron(threshold, alpha) for threshold in thresholds]
        pairs = zip(actor.hidden, self.neurons, strict=True)
        self.network = nn.Sequential(*(module for pair in pairs for module in pair), actor.output)

    def contender(self, threads: int = 1) -> Contender:
        """The loop as a contender; it has one state, whoever calls it."""
        return Contender(self.act, self.reset, setting=self.dynamics, threads=threads)

    def reset(self) -> None:
        """Starts a new episode."""
        for neuron in self.neurons:
            neuron.potential = None

    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The action for an observation, `[observation_dim]` or `[B, observation_dim]`."""
        action: NDArray[Any] = self.decide(torch.as_tensor(np.atleast_2d(observation))).numpy()
        return action[0] if observation.ndim == 1 else action

    def decide(self, observation: Tensor) -> Tensor:
        """The action `[B, action_dim]` for an observation `[B, observation_dim]`."""
        x = self.interface.normalize(observation)
        for neuron in self.neurons:
            neuron.start()
        total: Any = 0.0
        for _ in range(self.dynamics.timesteps):
            total = total + self.network(x)
        return self.interface.action(total / self.dynamics.timesteps)


# ---- the dense actor


class _Function(nn.Module):
    """A function as a module of a Sequential."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def dense_network(actor: Actor) -> nn.Sequential:
    """Linear, ReLU, tanh and what else the actor's interface asks for, without the checks of `Actor`."""
    interface = actor.interface
    modules: list[nn.Module] = [module for layer in actor.hidden for module in (layer, nn.ReLU())]
    modules.append(actor.output)
    if interface.observation_mean is not None:
        modules.insert(0, _Function(interface.normalize))
    if _scales(interface):
        modules.append(_Function(interface.action))
    elif interface.squash:
        modules.append(nn.Tanh())
    return nn.Sequential(*modules)


def eager(actor: Actor, threads: int = 1) -> Contender:
    """The dense actor in eager PyTorch."""
    return from_network(dense_network(actor), threads)


def from_network(network: Callable[[Tensor], Tensor], threads: int = 1) -> Contender:
    """A dense network that takes and gives tensors `[B, …]`."""

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        if observation.ndim == 1:
            return network(torch.from_numpy(observation[None])).numpy()[0]
        return network(torch.from_numpy(observation)).numpy()

    return Contender(act, threads=threads)


def numpy(actor: Actor) -> Contender:
    """The dense actor in NumPy; on one thread, since those of its BLAS would spin on while others are timed."""
    layers = [(layer.weight.numpy(), layer.bias.numpy()) for layer in [*actor.hidden, actor.output]]
    hidden, (output, output_bias) = layers[:-1], layers[-1]
    interface = actor.interface
    normalize, squash, scales = interface.observation_mean is not None, interface.squash, _scales(interface)
    mean, std, scale, bias = (
        None if value is None else value.numpy()
        for value in (
            interface.observation_mean,
            interface.observation_std,
            interface.action_scale,
            interface.action_bias,
        )
    )
    clip = interface.observation_clip

    def act(x: NDArray[Any]) -> NDArray[Any]:
        if normalize:
            x = np.clip((x - mean) / std, -clip, clip)
        if x.ndim == 1:
            for weight, offset in hidden:
                x = np.maximum(weight @ x + offset, 0.0)
            x = output @ x + output_bias
        else:
            for weight, offset in hidden:
                x = x @ weight.T
                x += offset
                np.maximum(x, 0.0, out=x)
            x = x @ output.T + output_bias
        if squash:
            x = np.tanh(x)
        return scale * x + bias if scales else x

    return Contender(act)


def onnx_runtime(actor: Actor, threads: int = 1) -> Contender:
    """The dense actor in ONNX Runtime, on the CPU.

    Raises:
        Missing: onnx or onnxruntime is not installed.
    """
    onnxruntime = optional("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if threads > 1:  # which would otherwise go on spinning, on the cores of whoever is timed next
        options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_onnx_model(actor), options, providers=["CPUExecutionProvider"])

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        return cast("NDArray[Any]", session.run(None, {"observation": observation})[0])

    return Contender(act, prepare=np.atleast_2d, threads=threads)


def _onnx_model(actor: Actor) -> bytes:
    """Gemm, Relu and Tanh, and what else the interface asks for; the batch size is left open."""
    onnx = optional("onnx")
    helper, array_of = onnx.helper, onnx.numpy_helper.from_array
    interface = actor.interface
    float_type = helper.np_dtype_to_tensor_dtype(actor.output.weight.numpy().dtype)
    nodes: list[Any] = []
    constants: list[Any] = []
    signal = "observation"

    def apply(operator: str, *operands: Tensor, **attributes: int) -> None:
        nonlocal signal
        names = [f"constant{len(constants) + index}" for index in range(len(operands))]
        constants.extend(array_of(operand.numpy(), name) for operand, name in zip(operands, names, strict=True))
        result = f"signal{len(nodes)}"
        nodes.append(helper.make_node(operator, [signal, *names], [result], **attributes))
        signal = result

    if interface.observation_mean is not None and interface.observation_std is not None:
        apply("Sub", interface.observation_mean)
        apply("Div", interface.observation_std)
        if math.isfinite(interface.observation_clip):
            bound = interface.observation_mean.new_tensor(interface.observation_clip)
            apply("Clip", -bound, bound)
    for layer in actor.hidden:
        apply("Gemm", layer.weight, layer.bias, transB=1)
        apply("Relu")
    apply("Gemm", actor.output.weight, actor.output.bias, transB=1)
    if interface.squash:
        apply("Tanh")
    if _scales(interface):
        apply("Mul", interface.action_scale)
        apply("Add", interface.action_bias)
    graph = helper.make_graph(
        nodes,
        "actor",
        [helper.make_tensor_value_info("observation", float_type, ["batch", interface.observation_dim])],
        [helper.make_tensor_value_info(signal, float_type, ["batch", interface.action_dim])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return cast("bytes", model.SerializeToString())


def _scales(interface: Interface) -> bool:
    """Whether actions are more than the network's output or its tanh."""
    return bool((interface.action_scale != 1).any() or (interface.action_bias != 0).any())
