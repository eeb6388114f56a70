"""What the time of a decision is compared with: the same actor as a published loop, and dense in other runtimes.

Everyone is given a NumPy observation and returns a NumPy action. The dense actor is run without the checks of `Actor`.
Only the published loop does as the published code does; where else there is a choice, the faster form is taken.
"""

from __future__ import annotations

import functools
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
from snnkern.policies.activations import ACTIVATIONS, RELU
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
        thresholds: θ of every hidden layer, `[N]` each; of a convolution `[C]` or `[C, H, W]`.
        timesteps: T.
        alpha: α.

    Raises:
        Missing: the actor has a bridge, which the published code knows nothing of.

    Source: Xu et al., "Error Amplification Limits ANN-to-SNN Conversion in Continuous Control", ICML 2026.
    """

    def __init__(self, actor: Actor, thresholds: Sequence[Tensor], timesteps: int, alpha: float) -> None:
        if actor.bridges:
            raise Missing("the published loop has no bridges between layers")
        self.interface = actor.interface
        self.dynamics = Dynamics(IF(), timesteps, alpha)
        self.neurons = [
            _PublishedNeuron(threshold[:, None, None] if geometry and threshold.dim() == 1 else threshold, alpha)
            for threshold, geometry in zip(thresholds, actor.convolutions, strict=True)
        ]
        self.network = nn.Sequential(*_chain(actor, self.neurons))

    def contender(self, threads: int = 1) -> Contender:
        """The loop as a contender; it has one state, whoever calls it."""
        return Contender(self.act, self.reset, setting=self.dynamics, threads=threads)

    def reset(self) -> None:
        """Starts a new episode."""
        for neuron in self.neurons:
            neuron.potential = None

    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The action for an observation, `[*observation_shape]` or `[B, *observation_shape]`."""
        dims = len(self.interface.observation_shape)
        action: NDArray[Any] = self.decide(torch.as_tensor(in_rows(observation, dims))).numpy()
        return action[0] if observation.ndim == dims else action

    def decide(self, observation: Tensor) -> Tensor:
        """The action `[B, action_dim]` for an observation `[B, *observation_shape]`."""
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


def in_rows(observation: NDArray[Any], dims: int) -> NDArray[Any]:
    """One observation, which has so many dimensions, as a batch of one; a batch as it is."""
    return observation[None] if observation.ndim == dims else observation


def _chain(actor: Actor, activations: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers of an actor, an activation behind each hidden one, its bridges, and a Flatten behind convolutions."""
    modules: list[nn.Module] = []
    image = len(actor.interface.observation_shape) > 1
    for index, layer in enumerate([*actor.hidden, actor.output]):
        if image and not isinstance(layer, nn.Conv2d):
            modules.append(nn.Flatten())
            image = False
        modules += dict(actor.bridges.items()).get(str(index), [])
        modules.append(layer)
        modules += activations[index : index + 1]
    return modules


_IN_NUMPY: dict[str, Callable[..., object]] = {RELU: functools.partial(np.maximum, 0.0), "tanh": np.tanh}
_IN_ONNX = {"ReLU": "Relu", "ELU": "Elu", "SELU": "Selu"}  # names that differ from torch's


def _activations(actor: Actor) -> list[nn.Module]:
    return [ACTIVATIONS[actor.activation][1]() for _ in actor.hidden]


def dense_network(actor: Actor) -> nn.Sequential:
    """Layers, activations, tanh and what else the actor's interface asks for, without the checks of `Actor`."""
    interface = actor.interface
    modules = _chain(actor, _activations(actor))
    if interface.observation_mean is not None or not interface.parts().takes_vectors:
        modules.insert(0, _Function(interface.normalize))
    if _scales(interface):
        modules.append(_Function(interface.action))
    elif interface.squash:
        modules.append(nn.Tanh())
    return nn.Sequential(*modules)


def eager(actor: Actor, threads: int = 1) -> Contender:
    """The dense actor in eager PyTorch."""
    return from_network(dense_network(actor), threads, len(actor.interface.observation_shape))


def from_network(network: Callable[[Tensor], Tensor], threads: int = 1, dims: int = 1) -> Contender:
    """A dense network that takes and gives tensors `[B, …]`, and observations of so many dimensions."""

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        if observation.ndim == dims:
            return network(torch.from_numpy(observation[None])).numpy()[0]
        return network(torch.from_numpy(observation)).numpy()

    return Contender(act, threads=threads)


def numpy(actor: Actor) -> Contender:
    """The dense actor in NumPy; on one thread, since those of its BLAS would spin on while others are timed.

    Raises:
        Missing: the actor sees images, has convolutions or bridges, or an activation that NumPy has not.
    """
    if not actor.is_plain:
        raise Missing("NumPy has no convolution: it is timed on Linear layers and vectors alone")
    if actor.activation not in _IN_NUMPY:
        raise Missing(f"NumPy has no {actor.activation}")
    activate = _IN_NUMPY[actor.activation]
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
                x = weight @ x
                x += offset
                activate(x, out=x)
            x = output @ x + output_bias
        else:
            for weight, offset in hidden:
                x = x @ weight.T
                x += offset
                activate(x, out=x)
            x = x @ output.T + output_bias
        if squash:
            x = np.tanh(x)
        return scale * x + bias if scales else x

    return Contender(act)


def onnx_runtime(actor: Actor, threads: int = 1) -> Contender:
    """The dense actor in ONNX Runtime, on the CPU.

    Raises:
        Missing: onnx or onnxruntime is not installed, or the actor has convolutions in float64.
    """
    onnxruntime = optional("onnxruntime")
    if any(actor.convolutions) and actor.output.weight.dtype != torch.float32:
        raise Missing("ONNX Runtime has convolutions in float32 alone")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if threads > 1:  # which would otherwise go on spinning, on the cores of whoever is timed next
        options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(_onnx_model(actor), options, providers=["CPUExecutionProvider"])

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        return cast("NDArray[Any]", session.run(None, {"observation": observation})[0])

    dims = len(actor.interface.observation_shape)
    return Contender(act, prepare=lambda observation: in_rows(observation, dims), threads=threads)


def _onnx_model(actor: Actor) -> bytes:
    """Gemm, Conv, Relu and Tanh, and what else the interface asks for; the batch size is left open."""
    onnx = optional("onnx")
    helper, array_of = onnx.helper, onnx.numpy_helper.from_array
    interface = actor.interface
    float_type = helper.np_dtype_to_tensor_dtype(actor.output.weight.numpy().dtype)
    nodes: list[Any] = []
    constants: list[Any] = []
    signal = "observation"

    def apply(operator: str, *operands: Tensor, **attributes: Any) -> None:
        nonlocal signal
        names = [f"constant{len(constants) + index}" for index in range(len(operands))]
        constants.extend(array_of(operand.numpy(), name) for operand, name in zip(operands, names, strict=True))
        result = f"signal{len(nodes)}"
        nodes.append(helper.make_node(operator, [signal, *names], [result], **attributes))
        signal = result

    observed = float_type
    if interface.observation_dtype == torch.uint8:
        observed = onnx.TensorProto.UINT8
        apply("Cast", to=float_type)
    if interface.observation_scale != 1:
        apply("Div", actor.output.weight.new_tensor(interface.observation_scale))
    if interface.observation_offset != 0:
        apply("Add", actor.output.weight.new_tensor(interface.observation_offset))
    if interface.observation_mean is not None and interface.observation_std is not None:
        apply("Sub", interface.observation_mean)
        apply("Div", interface.observation_std)
        if math.isfinite(interface.observation_clip):
            bound = interface.observation_mean.new_tensor(interface.observation_clip)
            apply("Clip", -bound, bound)
    for module in _chain(actor, _activations(actor)):
        if isinstance(module, nn.Conv2d):
            (top, left), strides = cast("tuple[int, int]", module.padding), list(module.stride)
            apply("Conv", module.weight, cast("Tensor", module.bias), strides=strides, pads=[top, left, top, left])
        elif isinstance(module, nn.Linear):
            apply("Gemm", module.weight, module.bias, transB=1)
        elif isinstance(module, nn.LayerNorm):
            apply("LayerNormalization", module.weight, module.bias, axis=-1, epsilon=module.eps)
        elif isinstance(module, nn.SiLU):  # which this version of ONNX has not
            before = signal
            apply("Sigmoid")
            nodes.append(helper.make_node("Mul", [before, signal], [f"{signal}_silu"]))
            signal = f"{signal}_silu"
        elif isinstance(module, nn.LeakyReLU):
            apply("LeakyRelu", alpha=module.negative_slope)
        elif isinstance(module, nn.GELU):
            raise Missing("ONNX's operators of version 17 have no GELU")
        else:  # Tanh, Flatten and the like have the same names in both, but for capitals
            apply(_IN_ONNX.get(type(module).__name__, type(module).__name__))
    if interface.squash:
        apply("Tanh")
    if _scales(interface):
        apply("Mul", interface.action_scale)
        apply("Add", interface.action_bias)
    graph = helper.make_graph(
        nodes,
        "actor",
        [helper.make_tensor_value_info("observation", observed, ["batch", *interface.observation_shape])],
        [helper.make_tensor_value_info(signal, float_type, ["batch", interface.action_dim])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return cast("bytes", model.SerializeToString())


def _scales(interface: Interface) -> bool:
    """Whether actions are more than the network's output or its tanh."""
    return bool((interface.action_scale != 1).any() or (interface.action_bias != 0).any())
