"""Trained dense actors: `Actor` has hidden Linear or Conv2d + activation layers, an output layer, and an `Interface`.

The interface connects the network with its environment: what an observation is, its normalisation, tanh, action scale
and bias.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from snnkern.errors import InputError, brief, check_number
from snnkern.kernels import ops
from snnkern.kernels.backends import ActorInterface, divide
from snnkern.kernels.layers import Convolution, by_shape, check_size, whole_numbers
from snnkern.kernels.tensors import CheckedState, check_memory, check_numbers, check_tensor
from snnkern.policies.activations import ACTIVATIONS, RELU, parse_activation


class Interface(CheckedState):
    """Connects a network with its environment; a dense actor and its spiking version have the same interface.

        action = action_scale · tanh(z) + action_bias        (tanh only if `squash`)
        x = observation / observation_scale + observation_offset
        network input = clamp((x − mean) / std, ±clip)        (only if a normalisation is given)

    Args:
        observation_dim: width of an observation; or its shape, such as `(9, 84, 84)`, channels first.
        action_dim: width of an action.
        action_scale: a number or `[action_dim]`; TD3's and DDPG's max_action.
        action_bias: a number or `[action_dim]`.
        squash: whether tanh is applied to the output layer.
        observation_mean: `[observation_dim]`, or None for no normalisation.
        observation_std: `[observation_dim]`, positive; given if `observation_mean` is.
        observation_clip: bound on the normalised observation.
        dtype: of the network.
        observation_dtype: of an observation: `torch.uint8`, or None for that of the network.
        observation_scale: what an observation is divided by, above 0; 255 for pixels.
        observation_offset: what is added then.

    Raises:
        InputError: a shape does not fit, a value is not finite, or a normalisation is given for an image.
    """

    action_scale: Tensor
    action_bias: Tensor
    observation_mean: Tensor | None
    observation_std: Tensor | None

    def __init__(
        self,
        observation_dim: int | Sequence[int],
        action_dim: int,
        *,
        action_scale: ArrayLike | Tensor = 1.0,
        action_bias: ArrayLike | Tensor = 0.0,
        squash: bool = True,
        observation_mean: ArrayLike | Tensor | None = None,
        observation_std: ArrayLike | Tensor | None = None,
        observation_clip: float = math.inf,
        dtype: torch.dtype = torch.float32,
        observation_dtype: torch.dtype | None = None,
        observation_scale: float = 1.0,
        observation_offset: float = 0.0,
    ) -> None:
        super().__init__()
        if not dtype.is_floating_point:
            raise InputError(f"an interface holds floating-point numbers, got {dtype}")
        if observation_dtype not in (None, dtype, torch.uint8):
            raise InputError(f"observations are of the network's {dtype} or torch.uint8, got {observation_dtype}")
        numbers = torch.finfo(dtype)
        for name, number in (("observation_scale", observation_scale), ("observation_offset", observation_offset)):
            if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= numbers.max:
                raise InputError(f"{name} must be a finite number of {dtype}, got {brief(number)}")
        if not observation_scale >= numbers.tiny:  # what is less is divided by as if it were 0
            raise InputError(
                f"observation_scale must be positive and no less than {numbers.tiny:g}, got {observation_scale!r}"
            )
        shape = (observation_dim,) if isinstance(observation_dim, int) else _image_shape(observation_dim)
        if len(shape) > 1 and observation_mean is not None:
            raise InputError("an image is normalised by observation_scale and observation_offset, not by mean and std")
        if observation_clip > torch.finfo(dtype).max:  # it bounds nothing
            observation_clip = math.inf
        if (observation_mean is None) != (observation_std is None):
            raise InputError("observation_mean and observation_std go together: got only one of them")
        if not observation_clip > 0:
            raise InputError(f"observation_clip must be positive, got {observation_clip!r}")
        self._shape = shape
        self._action_dim = action_dim
        self._observation_dtype = torch.uint8 if observation_dtype == torch.uint8 else None
        self._scale, self._offset = float(observation_scale), float(observation_offset)
        self._squash = squash
        self._clip = float(observation_clip)
        for name, value, width in (
            ("action_scale", action_scale, action_dim),
            ("action_bias", action_bias, action_dim),
            ("observation_mean", observation_mean, shape[0]),
            ("observation_std", observation_std, shape[0]),
        ):
            self.register_buffer(name, None if value is None else as_vector(name, value, width, dtype))
        if self.observation_std is not None and not bool((self.observation_std > 0).all()):
            raise InputError("observation_std must be positive everywhere")

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of an observation. It cannot be set, like all of the properties, because an engine has packed it."""
        return self._shape

    @property
    def observation_dim(self) -> int:
        """Width of an observation; of an image, how many numbers it has."""
        return math.prod(self._shape)

    @property
    def observation_dtype(self) -> torch.dtype:
        """What an observation is of: `torch.uint8`, or the dtype of the network."""
        return self._observation_dtype or self.action_scale.dtype

    @property
    def observation_scale(self) -> float:
        """What an observation is divided by."""
        return self._scale

    @property
    def observation_offset(self) -> float:
        """What is added to the divided observation."""
        return self._offset

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        return self._action_dim

    @property
    def squash(self) -> bool:
        """Whether tanh is applied to the output layer."""
        return self._squash

    @property
    def observation_clip(self) -> float:
        """Bound on the normalised observation."""
        return self._clip

    def check(self, observation: Tensor, check_finite: bool) -> Tensor:
        """Checks observations `[B, *observation_shape]` in the wanted dtype and on the actor's device; returns them.

        Raises:
            InputError: wrong shape, dtype or device, or (if `check_finite`) a NaN or infinity.
        """
        shape, own, dtype = self._shape, self.action_scale, self.observation_dtype
        if not isinstance(observation, Tensor):
            raise InputError(f"observation must be a tensor, got {type(observation).__name__}: act() takes arrays")
        if observation.dim() != 1 + len(shape) or observation.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise InputError(f"observation must be [B, {wanted}], {self.misshapen(tuple(observation.shape))}")
        if observation.dtype != dtype:
            if dtype == torch.uint8:
                raise InputError(f"observation must be torch.uint8, got {observation.dtype}: {self._own_scaling()}")
            raise InputError(
                f"observation is {observation.dtype}, but the actor is {own.dtype}: convert one with .to(dtype)"
            )
        if observation.device != own.device:
            raise InputError(f"observation is on {observation.device}, but the actor is on {own.device}")
        if observation.layout is not torch.strided:
            raise InputError(f"observation must be dense, got layout {observation.layout}")
        check_memory("observation", observation)
        if not check_finite or not dtype.is_floating_point:
            return observation
        if torch.compiler.is_compiling():  # a graph cannot branch on what a tensor holds
            return ops.finite(observation)
        ops.refuse_non_finite(observation)
        return observation

    def check_array(self, array: NDArray[Any]) -> None:
        """Checks a NumPy observation, of the shape of one or `[B, *observation_shape]`.

        Raises:
            InputError: another shape, no floating-point numbers, or something else than uint8 where that is wanted.
        """
        shape = self._shape
        if self._observation_dtype is not None and array.dtype != np.uint8:
            raise InputError(f"observation must be a uint8 array, got {array.dtype}: {self._own_scaling()}")
        if self._observation_dtype is None and array.dtype.kind != "f":
            raise InputError(f"observation must be a floating-point array, got {array.dtype}")
        if array.ndim not in (len(shape), 1 + len(shape)) or array.shape[-len(shape) :] != shape:
            wanted = ", ".join(map(str, shape))
            raise InputError(f"observation must be [{wanted}] or [B, {wanted}], {self.misshapen(array.shape)}")

    def misshapen(self, given: tuple[int, ...], verb: str = "got") -> str:
        """What an error says of observations whose shape does not fit."""
        shape = self._shape
        text = f"{verb} shape {list(given)}"
        if len(shape) == 3 and given[-3:] == (*shape[1:], shape[0]):
            text += ": channels come first (np.moveaxis(observation, -1, -3))"
        elif len(shape) == 3 and given[-2:] == shape[1:] and len(given) in (3, 4) and given[-3] != shape[0]:
            text += f": {given[-3]} channels where {shape[0]} are wanted, which the frames of a stack share"
        return text

    def _own_scaling(self) -> str:
        """What an error says to who has divided pixels already."""
        return f"the actor computes observation / {self._scale:g} {self._offset:+g} itself"

    def normalize(self, observation: Tensor) -> Tensor:
        """What the first layer receives for checked observations `[B, *observation_shape]`, in the network's dtype."""
        signal = observation if self._observation_dtype is None else observation.to(self.action_scale.dtype)
        if self._scale != 1:
            signal = divide(signal, self._scale)
        if self._offset != 0:
            signal = signal + self._offset
        if self.observation_mean is None or self.observation_std is None:
            return signal
        normalized = (signal - self.observation_mean) / self.observation_std
        return normalized.clamp(-self.observation_clip, self.observation_clip)

    def action(self, z: Tensor) -> Tensor:
        """Turns the output layer's result z `[B, action_dim]` into an action `[B, action_dim]`."""
        squashed = torch.tanh(z) if self.squash else z
        return self.action_scale * squashed + self.action_bias

    def parts(self) -> ActorInterface:
        """As backends take it. A buffer that is no longer there is None."""
        tensors: dict[str, Any] = self._buffers
        scale = tensors.get("action_scale")
        return ActorInterface(
            observation_shape=self.observation_shape,
            action_dim=self.action_dim,
            action_scale=scale,  # type: ignore[arg-type]
            action_bias=tensors.get("action_bias"),  # type: ignore[arg-type]
            squash=self.squash,
            observation_mean=tensors.get("observation_mean"),
            observation_std=tensors.get("observation_std"),
            observation_clip=self.observation_clip,
            observation_dtype=self._observation_dtype or (scale.dtype if isinstance(scale, Tensor) else torch.float32),
            observation_scale=self.observation_scale,
            observation_offset=self.observation_offset,
        )

    def with_normalization(self, mean: ArrayLike, std: ArrayLike, clip: float) -> Interface:
        """The same with another normalisation of observations: the arguments are those of an `Interface`.

        Raises:
            InputError: as an `Interface`.
        """
        parts = self.parts()._asdict() | {"observation_mean": mean, "observation_std": std, "observation_clip": clip}
        shape = parts.pop("observation_shape")
        return Interface(shape[0] if len(shape) == 1 else shape, **parts, dtype=self.action_scale.dtype)

    def description(self) -> dict[str, object]:
        """What a file stores of this interface in addition to its buffers, ready for JSON."""
        seen: dict[str, object] = {}
        if len(self._shape) > 1:
            seen["observation_shape"] = list(self._shape)
        if self._observation_dtype is not None:
            seen["observation_dtype"] = "uint8"
        if self._scale != 1:
            seen["observation_scale"] = self._scale
        if self._offset != 0:
            seen["observation_offset"] = self._offset
        return {
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "squash": self.squash,
            "normalized": self.observation_mean is not None,
            "observation_clip": None if math.isinf(self.observation_clip) else self.observation_clip,
            **seen,
        }

    def extra_repr(self) -> str:
        normalized = ", normalised" if self.observation_mean is not None else ""
        kind = "" if self._observation_dtype is None else " uint8"
        return f"{by_shape(self._shape)}{kind} -> {self.action_dim}, squash={self.squash}{normalized}"


def _image_shape(given: Sequence[int]) -> tuple[int, ...]:
    """A shape of an observation: of a vector, or of an image, channels first."""
    if not isinstance(given, Sequence) or len(given) not in (1, 3):
        raise InputError(f"an observation is a vector or an image [C, H, W], got a shape of {given!r}")
    shape = whole_numbers("the shape of an observation", tuple(given), len(given), 1)
    check_size(shape)
    return shape


class Policy(CheckedState):
    """A network that maps observations `[B, *observation_shape]` to actions `[B, action_dim]` through an `Interface`.

    Attributes:
        interface: normalisation, tanh, action scale and bias.
        check_finite: whether an observation with a NaN or an infinity is refused.
        metadata: where the actor comes from: "algorithm", "environment", …; all strings.
    """

    def __init__(self, interface: Interface, metadata: Mapping[str, str] | None, check_finite: bool) -> None:
        super().__init__()
        self.interface = interface
        self.check_finite = check_finite
        if not isinstance(metadata, Mapping | None):
            raise InputError(f"metadata must be a mapping of strings, got {metadata!r}")
        self.metadata = {str(key): str(value) for key, value in (metadata or {}).items()}

    @torch.no_grad()
    def act(self, observation: NDArray[Any]) -> NDArray[np.floating]:
        """The action for a NumPy observation, `[*observation_shape]` or with rows `[B, …]`, in the policy's dtype.

        Raises:
            InputError: wrong shape; not a floating-point array, or not uint8 where that is wanted; (where
                `check_finite`) a NaN or infinity.
        """
        if isinstance(observation, np.ma.MaskedArray) and np.ma.is_masked(observation):
            raise InputError("observation is an array with masked values, which have no number: fill them")
        try:
            array = np.asarray(observation)
        except (
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # NumPy's and torch's for what has no numbers, or many forms
            raise InputError(f"observation must be a floating-point array, got {type(observation).__name__}") from error
        self.interface.check_array(array)
        one = array.ndim == len(self.interface.observation_shape)
        own = self.interface.action_scale
        rows = array[None] if one else array
        if array.dtype.kind == "f":
            plain = np.float64 if array.dtype.itemsize > 4 else np.float32
            copied = np.array(rows, dtype=plain)  # the array may be read-only, or of another byte order
            result = self(torch.from_numpy(copied).to(own)).cpu()
        else:
            result = self(torch.from_numpy(np.array(rows)).to(own.device)).cpu()
        action: NDArray[np.floating] = (result.float() if result.dtype == torch.bfloat16 else result).numpy()
        return action[0] if one else action


class Conv(NamedTuple):
    """A hidden layer of an `Actor` that is a convolution: weight `[out, in, ky, kx]`, bias `[out]`, and its geometry.

    Stride and padding are one number, or one each along y and x; padding is with zeros.
    """

    weight: Tensor
    bias: Tensor
    stride: int | Sequence[int] = 1
    padding: int | Sequence[int] = 0


Layer = tuple[Tensor, Tensor] | Conv


class Actor(Policy):
    """A trained dense actor: hidden Linear or Conv2d layers, each with its activation, and a linear output layer.

    An image becomes a vector in front of the first Linear layer, in the order channels, height, width.

    Args:
        hidden: weight `[out, in]` and bias `[out]` of every hidden layer, or a `Conv`; input side first; at least one.
        output: weight and bias of the output layer.
        interface: observations, tanh, action scale and bias; by default vectors, tanh with scale 1 and bias 0. A
            convolution needs one, which says how large an image is.
        metadata: where the actor comes from: "algorithm", "environment", …
        bridges: what stands in front of a layer and is neither Linear + ReLU nor Conv2d + ReLU: by the layer's index
            (the output layer's is the number of hidden layers) a chain of `nn.Linear`, `nn.LayerNorm` over all numbers
            and `nn.Tanh`, whose tensors are copied.
        activation: of every hidden layer: "relu", or another of `snnkern.policies.activations.ACTIVATIONS`, which
            `convert` rewrites as several ReLUs for each neuron; bridges stand between ReLUs alone.

    Attributes:
        convolutions: of every hidden layer, None for a Linear one.
        received: the last observations of its training, `[N, *observation_shape]`, if its file holds them; not saved.
        ramps: how many neurons stand for one of the actor that it was rewritten from; 1 where it was not.

    Raises:
        InputError: layers do not fit each other, or a value is not finite.
    """

    hidden: Sequence[nn.Linear | Conv2d]
    bridges: Mapping[str, nn.Sequential]
    output: nn.Linear
    received: NDArray[np.floating] | None = None
    ramps = 1

    def __init__(
        self,
        hidden: Sequence[Layer],
        output: tuple[Tensor, Tensor],
        interface: Interface | None = None,
        metadata: Mapping[str, str] | None = None,
        bridges: Mapping[int, Sequence[nn.Module]] | None = None,
        activation: str = RELU,
    ) -> None:
        if not hidden:
            raise InputError("an actor needs at least one hidden layer: nothing would spike")
        bridges = {place: list(steps) for place, steps in (bridges or {}).items() if len(steps)}
        if unknown := [place for place in bridges if not isinstance(place, int) or not 0 <= place <= len(hidden)]:
            raise InputError(f"a bridge stands before a layer from 0 to {len(hidden)}, got {unknown[0]!r}")
        activation = parse_activation(activation)
        if bridges and activation != RELU:
            raise InputError(f"a bridge, such as a LayerNorm, needs ReLUs, but the activation is {activation}")
        shape = None if interface is None else interface.observation_shape
        convolutions: list[Convolution | None] = []
        for index, layer in enumerate([*hidden, output]):
            name = f"layer {index + 1}"
            if index in bridges:
                shape = _check_bridge(name, bridges[index], shape, hidden[0][0].dtype)
            if isinstance(layer, Conv) and index < len(hidden):
                convolution = _check_convolution(name, layer, shape)
                convolutions.append(convolution)
                shape = convolution.output_shape
            else:
                weight, bias = layer[:2]
                # The first layer's width is compared with the interface below.
                known = index > 0 or index in bridges
                check_layer(name, weight, bias, math.prod(shape) if known and shape else None)
                convolutions.append(None)
                shape = (weight.shape[0],)
            if layer[0].dtype != hidden[0][0].dtype:
                raise InputError(f"{name} is {layer[0].dtype}, but layer 1 is {hidden[0][0].dtype}")
        if interface is None:
            interface = Interface(hidden[0][0].shape[1], output[0].shape[0], dtype=output[0].dtype)
        super().__init__(interface, metadata, check_finite=True)
        begins_flat = convolutions[0] is None and 0 not in bridges
        inputs = hidden[0][0].shape[1] if begins_flat else interface.observation_dim
        if interface.observation_dim != inputs or interface.action_dim != output[0].shape[0]:
            raise InputError(
                f"the interface is {interface.observation_dim} -> {interface.action_dim}, "
                f"but the layers are {inputs} -> {output[0].shape[0]}"
            )
        for name, buffer in interface.named_buffers():
            if buffer.dtype != output[0].dtype:
                raise InputError(f"the interface's {name} is {buffer.dtype}, but the layers are {output[0].dtype}")
        self.convolutions = tuple(convolutions[:-1])
        self._activation = activation
        made = [
            linear(*layer[:2]) if convolution is None else _conv2d(convolution, *layer[:2])
            for layer, convolution in zip(hidden, self.convolutions, strict=True)
        ]
        self.hidden = cast("Sequence[nn.Linear | Conv2d]", nn.ModuleList(made))
        self.output = linear(*output)
        chains = {str(place): nn.Sequential(*map(_step, bridges[place])) for place in sorted(bridges)}
        self.bridges = cast("Mapping[str, nn.Sequential]", nn.ModuleDict(chains))
        self.eval()  # it is trained, which exporters ask about

    def forward(self, observation: Tensor) -> Tensor:
        """The action `[B, action_dim]` for an observation `[B, *observation_shape]`."""
        signal = self.hidden_activations(observation)[-1]
        return self.interface.action(self.output(self.arriving(len(self.hidden), signal)))

    def hidden_activations(self, observation: Tensor) -> list[Tensor]:
        """The activations of every hidden layer, `[B, N]` or `[B, C, H, W]`, for `[B, *observation_shape]`."""
        # An exported program knows no errors, whichever of torch's exporters makes it.
        exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        checked = observation if exported else self.interface.check(observation, self.check_finite)
        signal = self.interface.normalize(checked)
        activations = []
        for index, layer in enumerate(self.hidden):
            signal = self.activate(index, layer(self.arriving(index, signal)))
            activations.append(signal)
        return activations

    def activate(self, index: int, drive: Tensor) -> Tensor:
        """What a hidden layer sends, given its weights' sum with the bias, `[…, N]` or `[B, C, H, W]`."""
        return ACTIVATIONS[self._activation][0](drive)

    def passes(self, index: int, activation: Tensor) -> Tensor:
        """Where a small change of a ReLU's drive changes its activation: bool, of the shape of the activation."""
        return activation > 0

    @property
    def activation(self) -> str:
        """Of every hidden layer, by its name in `ACTIVATIONS`."""
        return self._activation

    def arriving(self, index: int, signal: Tensor) -> Tensor:
        """What a layer makes of what the one before it sends: through the bridge, where there is one; or flat."""
        if index == len(self.hidden) or self.convolutions[index] is None:
            signal = signal if signal.dim() == 2 else signal.flatten(1)
        if str(index) in self.bridges:
            signal = self.bridges[str(index)](signal)
        return signal

    @property
    def layers(self) -> list[Layer]:
        """The hidden layers as the constructor takes them."""
        return [
            (layer.weight, layer.bias)
            if convolution is None
            else Conv(layer.weight, layer.bias, convolution.stride, convolution.padding)
            for layer, convolution in zip(self.hidden, self.convolutions, strict=True)
        ]

    def replaced(
        self,
        *,
        pairs: Sequence[tuple[Tensor, Tensor]] | None = None,
        interface: Interface | None = None,
        metadata: Mapping[str, str] | None = None,
        activation: str | None = None,
    ) -> Actor:
        """An actor of the same architecture with other numbers, or with another interface or other metadata.

        Args:
            pairs: weight and bias of every layer, those of the output layer the last; by default the actor's own.
            interface: by default the actor's own.
            metadata: likewise; of an activation that they state, they say the new one.
            activation: by default the actor's own.

        Raises:
            InputError: something does not fit.
        """
        layers = self.layers
        output: tuple[Tensor, Tensor] = self.output.weight, self.output.bias
        if pairs is not None:
            layers = [
                Conv(*pair, *layer[2:]) if isinstance(layer, Conv) else pair
                for layer, pair in zip(layers, pairs[:-1], strict=True)
            ]
            output = pairs[-1]
        own = self.metadata
        if activation is not None and "activation" in own:
            own = {**own, "activation": parse_activation(activation)}
        return Actor(
            layers,
            output,
            self.interface if interface is None else interface,
            own if metadata is None else metadata,
            {int(place): list(chain) for place, chain in self.bridges.items()},
            self.activation if activation is None else activation,
        )

    @property
    def is_plain(self) -> bool:
        """Whether it takes vectors and has Linear layers alone: no image, no convolution, no bridge."""
        return self.interface.parts().takes_vectors and not any(self.convolutions) and not self.bridges

    def architecture(self) -> dict[str, object]:
        """What a file stores of the layers in addition to their tensors, ready for JSON; nothing of Linear ones."""
        return describe_layers(
            self.convolutions,
            {place: [describe_step(step) for step in chain] for place, chain in self.bridges.items()},
            self.activation,
        )

    def fingerprint(self) -> str:
        """A hash of everything that determines the actions; equal actors have equal hashes."""
        described = self.interface.description() | self.architecture()
        digest = hashlib.sha256(repr(sorted(described.items())).encode())
        update_with_tensors(digest, self)
        return digest.hexdigest()

    def extra_repr(self) -> str:
        convolutions = [str(convolution) for convolution in self.convolutions if convolution is not None]
        return "; ".join([*convolutions, *([] if self.activation == RELU else [self.activation])])


def why_not_plain(policy: Policy) -> str:
    """What a policy that is not plain (`Actor.is_plain`) does otherwise, as an error says it."""
    shape = policy.interface.observation_shape
    if len(shape) > 1:
        return "this one sees images"
    if getattr(policy, "bridges", None):
        return "this one has layers without ReLUs behind them, such as LayerNorm and Tanh (a bridge)"
    return "this one scales its observations, or takes integers"


def update_with_tensors(digest: hashlib._Hash, module: nn.Module) -> None:
    """Takes all of a module's tensors, with their names, into a hash."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())


def describe_layers(
    convolutions: Sequence[Convolution | None],
    bridges: Mapping[str, Sequence[Mapping[str, object]]],
    activation: str,
) -> dict[str, object]:
    """Strides and paddings of convolutions, steps of bridges by the layer's index, and another activation than ReLU."""
    described: dict[str, object] = {} if activation == RELU else {"activation": activation}
    if found := {str(index): one for index, one in enumerate(convolutions) if one is not None}:
        described["convolutions"] = {
            index: {"stride": list(one.stride), "padding": list(one.padding)} for index, one in found.items()
        }
    if bridges:
        described["bridges"] = {index: [dict(step) for step in steps] for index, steps in bridges.items()}
    return described


def check_actor(value: object) -> Actor:
    """Refuses what is not a dense actor, and says what makes one of it.

    Raises:
        InputError: names what was given.
    """
    if isinstance(value, Actor):
        return value
    kind = type(value).__name__
    if isinstance(value, str | PurePath):
        advice = f"load it first: snnkern.load_actor({str(value)!r})"
    elif isinstance(getattr(value, "actor", None), Policy):
        advice = "its .actor is a spiking one"
    elif hasattr(value, "spiking"):
        advice = "it is being trained: its .spiking() gives a spiking actor"
    elif isinstance(value, Policy):
        advice = "it spikes already: snnkern.policies.spiking.dense_actor gives the actor that it was converted from"
    elif any(base.__module__.startswith(("stable_baselines3.", "sbx.")) for base in type(value).__mro__):
        advice = "snnkern.from_sb3 converts a model of Stable-Baselines3, and load_actor reads its zip"
    elif isinstance(value, nn.Sequential):
        advice = "snnkern.actor_from_module makes an Actor of it"
    elif isinstance(value, nn.Module):
        advice = (
            "snnkern.spikify converts any feed-forward module of ReLUs; an actor of Linear and ReLU alone is converted "
            "best as nn.Sequential, or by its state dict (actor_from_state_dict)"
        )
    elif isinstance(value, Mapping):
        advice = "snnkern.actor_from_state_dict makes an Actor of named tensors"
    else:
        advice = "see snnkern.load_actor"
    raise InputError(f"actor must be an Actor, got {kind}: {advice}")


def check_layer(
    name: str, weight: Tensor, bias: Tensor, inputs: int | None, *, kernel: bool = False, convolution: bool = False
) -> None:
    """Refuses a layer that does not fit the one before, whose width (or number of channels) is `inputs`.

    `kernel` says that the file holds the transposed weight under that name, which an error then speaks of;
    `convolution`, that the weight is `[out, in, ky, kx]`.

    Raises:
        InputError: names the layer, and what is wrong with it.
    """
    for part, tensor in (("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name}'s {part} must be a tensor, got {type(tensor).__name__}")
        check_tensor(f"{name}'s {part}", tensor, tensor.shape, tensor.dtype, tensor.device)
    if bias.dtype != weight.dtype:
        raise InputError(f"{name}'s bias is {bias.dtype}, but its weight is {weight.dtype}")
    empty = convolution and not weight.numel()  # of Linear layers there may be such, of images not
    if weight.dim() != (4 if convolution else 2) or (inputs is not None and weight.shape[1] != inputs) or empty:
        if convolution:
            wanted, shape = f"weight must be [out, {inputs or 'in'}, ky, kx]", list(weight.shape)
        elif kernel:
            wanted, shape = f"kernel must be [{inputs or 'in'}, out]", list(weight.shape)[::-1]
        else:
            wanted, shape = f"weight must be [out, {inputs or 'in'}]", list(weight.shape)
        raise InputError(f"{name}'s {wanted}, got shape {shape}")
    if tuple(bias.shape) != (weight.shape[0],):
        raise InputError(f"{name}'s bias must be [{weight.shape[0]}], got shape {list(bias.shape)}")
    for part, tensor in (("weight", weight), ("bias", bias)):
        check_numbers(f"{name}'s {part}", tensor)


def _check_convolution(name: str, layer: Conv, shape: tuple[int, ...] | None) -> Convolution:
    """The geometry of a convolution that receives an image of this shape, where everything fits."""
    if shape is None:
        raise InputError("an actor that begins with a convolution needs an interface, which says how large an image is")
    check_layer(name, layer.weight, layer.bias, shape[0] if len(shape) == 3 else None, convolution=True)
    if len(shape) != 3:
        raise InputError(f"{name} is a convolution, but what it receives is no image: it has shape {list(shape)}")
    pairs = [
        (value, value) if isinstance(value, int) else cast("tuple[int, int]", tuple(value))
        for value in (layer.stride, layer.padding)
    ]
    out, _, height, width = layer.weight.shape
    try:
        return Convolution(shape, out, (height, width), *pairs)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_bridge(
    name: str, steps: Sequence[nn.Module], shape: tuple[int, ...] | None, dtype: torch.dtype
) -> tuple[int, ...]:
    """The shape that a bridge hands on, where its steps fit what comes in."""
    if shape is None:
        raise InputError(f"an actor with a bridge before {name} needs an interface, which says what it receives")
    width = math.prod(shape)
    for number, step in enumerate(steps, 1):
        which = f"step {number} of the bridge before {name}"
        if isinstance(step, nn.Linear):
            check_layer(which, step.weight, _bias(step), width)
            width = step.out_features
        elif isinstance(step, nn.LayerNorm):
            if tuple(step.normalized_shape) != (width,):
                raise InputError(f"{which} normalises {list(step.normalized_shape)} numbers, but receives [{width}]")
            for part in step.parameters():
                check_numbers(f"{which}'s numbers", part)
            check_number(f"{which}'s eps", step.eps, 0, 1)
        elif not isinstance(step, nn.Tanh):
            raise InputError(f"{which} must be nn.Linear, nn.LayerNorm or nn.Tanh, got {type(step).__name__}")
        if any(parameter.dtype != dtype for parameter in step.parameters()):
            raise InputError(f"{which} is not {dtype}, which layer 1 is")
    return (width,)


def _step(step: nn.Module) -> nn.Module:
    """A copy of a checked step of a bridge."""
    if isinstance(step, nn.Linear):
        return linear(step.weight, _bias(step))
    if isinstance(step, nn.LayerNorm):
        return layer_norm(step.normalized_shape[0], step.weight, step.bias, step.eps)
    return nn.Tanh()


def describe_step(step: nn.Module) -> dict[str, object]:
    """A step of a bridge as a file says it."""
    if isinstance(step, nn.LayerNorm):
        return {"kind": "norm", "eps": step.eps}
    return {"kind": "linear" if isinstance(step, nn.Linear) else "tanh"}


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear layer with copies of a weight `[out, in]` and a bias, without gradients."""
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=weight.dtype)
    return _filled(layer, weight, bias)


def layer_norm(width: int, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> nn.LayerNorm:
    """A layer normalisation over `width` numbers with copies of a weight and a bias `[width]`; by default 1 and 0."""
    like = next((tensor for tensor in (weight, bias) if tensor is not None), torch.ones(()))
    layer = nn.LayerNorm(width, eps, dtype=like.dtype)
    return _filled(
        layer,
        torch.ones_like(layer.weight) if weight is None else weight,
        torch.zeros_like(layer.bias) if bias is None else bias,
    )


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with a bias, which its type says."""

    bias: Tensor


def _conv2d(convolution: Convolution, weight: Tensor, bias: Tensor) -> Conv2d:
    out, inputs, *kernel = convolution.weight_shape
    geometry = {"stride": convolution.stride, "padding": convolution.padding}
    layer: Conv2d = nn.utils.skip_init(Conv2d, inputs, out, tuple(kernel), **geometry, dtype=weight.dtype)
    return _filled(layer, weight, bias)


T = TypeVar("T", nn.Linear, Conv2d, nn.LayerNorm)


def _filled(layer: T, weight: Tensor, bias: Tensor) -> T:
    layer.weight.data.copy_(weight.detach())
    layer.bias.data.copy_(bias.detach())
    return layer.requires_grad_(False)


def as_vector(name: str, value: ArrayLike | Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """A number or `width` numbers as a tensor `[width]`.

    Raises:
        InputError: it is neither, or not finite.
    """
    try:
        if value.is_complex() if isinstance(value, Tensor) else np.iscomplexobj(value):  # which knows no bfloat16
            raise TypeError("complex")
        vector = torch.as_tensor(value, dtype=dtype).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be a number or [{width}] numbers, got {value!r}") from error
    if tuple(vector.shape) not in ((), (1,), (width,)):
        raise InputError(f"{name} must be a number or [{width}], got shape {list(vector.shape)}")
    if not bool(torch.isfinite(vector).all()):
        raise InputError(f"{name} holds NaN or infinity")
    return vector.expand(width).clone(memory_format=torch.contiguous_format)
