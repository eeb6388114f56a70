"""Trained dense actors: `Actor` has hidden Linear + ReLU layers, an output layer, and an `Interface`.

The interface connects the network with its environment: normalisation of observations, tanh, action scale and bias.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from snnkern.errors import InputError
from snnkern.kernels import ops
from snnkern.kernels.backends import ActorInterface
from snnkern.kernels.tensors import CheckedState, check_memory, check_numbers, check_tensor


class Interface(CheckedState):
    """Connects a network with its environment; a dense actor and its spiking version have the same interface.

        action = action_scale · tanh(z) + action_bias        (tanh only if `squash`)
        network input = clamp((observation − mean) / std, ±clip)        (only if a normalisation is given)

    Args:
        observation_dim: width of an observation.
        action_dim: width of an action.
        action_scale: a number or `[action_dim]`; TD3's and DDPG's max_action.
        action_bias: a number or `[action_dim]`.
        squash: whether tanh is applied to the output layer.
        observation_mean: `[observation_dim]`, or None for no normalisation.
        observation_std: `[observation_dim]`, positive; given if `observation_mean` is.
        observation_clip: bound on the normalised observation.

    Raises:
        InputError: a shape does not fit, or a value is not finite.
    """

    action_scale: Tensor
    action_bias: Tensor
    observation_mean: Tensor | None
    observation_std: Tensor | None

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        action_scale: ArrayLike | Tensor = 1.0,
        action_bias: ArrayLike | Tensor = 0.0,
        squash: bool = True,
        observation_mean: ArrayLike | Tensor | None = None,
        observation_std: ArrayLike | Tensor | None = None,
        observation_clip: float = math.inf,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not dtype.is_floating_point:
            raise InputError(f"an interface holds floating-point numbers, got {dtype}")
        if observation_clip > torch.finfo(dtype).max:  # it bounds nothing
            observation_clip = math.inf
        if (observation_mean is None) != (observation_std is None):
            raise InputError("observation_mean and observation_std go together: got only one of them")
        if not observation_clip > 0:
            raise InputError(f"observation_clip must be positive, got {observation_clip!r}")
        self._widths = observation_dim, action_dim
        self._squash = squash
        self._clip = float(observation_clip)
        for name, value, width in (
            ("action_scale", action_scale, action_dim),
            ("action_bias", action_bias, action_dim),
            ("observation_mean", observation_mean, observation_dim),
            ("observation_std", observation_std, observation_dim),
        ):
            self.register_buffer(name, None if value is None else as_vector(name, value, width, dtype))
        if self.observation_std is not None and not bool((self.observation_std > 0).all()):
            raise InputError("observation_std must be positive everywhere")

    @property
    def observation_dim(self) -> int:
        """Width of an observation. It cannot be set, like the three below, because an engine has packed it."""
        return self._widths[0]

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        return self._widths[1]

    @property
    def squash(self) -> bool:
        """Whether tanh is applied to the output layer."""
        return self._squash

    @property
    def observation_clip(self) -> float:
        """Bound on the normalised observation."""
        return self._clip

    def check(self, observation: Tensor, check_finite: bool) -> Tensor:
        """Checks an observation `[B, observation_dim]` in the actor's dtype and on its device, and returns it.

        Raises:
            InputError: wrong width, dtype or device, or (if `check_finite`) a NaN or infinity.
        """
        width, own = self.observation_dim, self.action_scale
        if not isinstance(observation, Tensor):
            raise InputError(f"observation must be a tensor, got {type(observation).__name__}: act() takes arrays")
        if observation.dim() != 2 or observation.shape[1] != width:
            raise InputError(f"observation must be [B, {width}], got shape {list(observation.shape)}")
        if observation.dtype != own.dtype:
            raise InputError(
                f"observation is {observation.dtype}, but the actor is {own.dtype}: convert one with .to(dtype)"
            )
        if observation.device != own.device:
            raise InputError(f"observation is on {observation.device}, but the actor is on {own.device}")
        if observation.layout is not torch.strided:
            raise InputError(f"observation must be dense, got layout {observation.layout}")
        check_memory("observation", observation)
        if check_finite and torch.compiler.is_compiling():  # a graph cannot branch on what a tensor holds
            return ops.finite(observation)
        if check_finite:
            ops.refuse_non_finite(observation)
        return observation

    def normalize(self, observation: Tensor) -> Tensor:
        """Normalises an observation `[B, observation_dim]` for the first layer."""
        if self.observation_mean is None or self.observation_std is None:
            return observation
        normalized = (observation - self.observation_mean) / self.observation_std
        return normalized.clamp(-self.observation_clip, self.observation_clip)

    def action(self, z: Tensor) -> Tensor:
        """Turns the output layer's result z `[B, action_dim]` into an action `[B, action_dim]`."""
        squashed = torch.tanh(z) if self.squash else z
        return self.action_scale * squashed + self.action_bias

    def parts(self) -> ActorInterface:
        """As backends take it. A buffer that is no longer there is None."""
        tensors: dict[str, Any] = self._buffers
        return ActorInterface(
            observation_dim=self.observation_dim,
            action_dim=self.action_dim,
            action_scale=tensors.get("action_scale"),  # type: ignore[arg-type]
            action_bias=tensors.get("action_bias"),  # type: ignore[arg-type]
            squash=self.squash,
            observation_mean=tensors.get("observation_mean"),
            observation_std=tensors.get("observation_std"),
            observation_clip=self.observation_clip,
        )

    def with_normalization(self, mean: ArrayLike, std: ArrayLike, clip: float) -> Interface:
        """The same with another normalisation of observations: the arguments are those of an `Interface`.

        Raises:
            InputError: as an `Interface`.
        """
        parts = self.parts()._asdict() | {"observation_mean": mean, "observation_std": std, "observation_clip": clip}
        return Interface(**parts, dtype=self.action_scale.dtype)

    def description(self) -> dict[str, object]:
        """What a file stores of this interface in addition to its buffers, ready for JSON."""
        return {
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "squash": self.squash,
            "normalized": self.observation_mean is not None,
            "observation_clip": None if math.isinf(self.observation_clip) else self.observation_clip,
        }

    def extra_repr(self) -> str:
        normalized = ", normalised" if self.observation_mean is not None else ""
        return f"{self.observation_dim} -> {self.action_dim}, squash={self.squash}{normalized}"


class Policy(CheckedState):
    """A network that maps observations `[B, observation_dim]` to actions `[B, action_dim]` through an `Interface`.

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
    def act(self, observation: NDArray[np.floating]) -> NDArray[np.floating]:
        """The action for a NumPy observation, `[observation_dim]` or `[B, observation_dim]`, in the policy's dtype.

        Raises:
            InputError: wrong shape, not a floating-point array, or (where `check_finite`) a NaN or infinity.
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
        if array.dtype.kind != "f":
            raise InputError(f"observation must be a floating-point array, got {array.dtype}")
        if array.ndim not in (1, 2) or array.shape[-1] != self.interface.observation_dim:
            width = self.interface.observation_dim
            raise InputError(f"observation must be [{width}] or [B, {width}], got shape {list(array.shape)}")
        own = self.interface.action_scale
        plain = np.float64 if array.dtype.itemsize > 4 else np.float32
        copied = np.array(np.atleast_2d(array), dtype=plain)  # the array may be read-only, or of another byte order
        result = self(torch.from_numpy(copied).to(own)).cpu()
        action: NDArray[np.floating] = (result.float() if result.dtype == torch.bfloat16 else result).numpy()
        return action[0] if array.ndim == 1 else action


class Actor(Policy):
    """A trained dense actor: hidden Linear + ReLU layers and a linear output layer.

    Args:
        hidden: weight `[out, in]` and bias `[out]` of every hidden layer, input side first; at least one.
        output: weight and bias of the output layer.
        interface: normalisation, tanh, action scale and bias; by default tanh with scale 1 and bias 0.
        metadata: where the actor comes from: "algorithm", "environment", …

    Attributes:
        received: the last observations of its training, `[N, observation_dim]`, if its file holds them; not saved.

    Raises:
        InputError: layers do not fit each other, or a value is not finite.
    """

    hidden: Sequence[nn.Linear]
    output: nn.Linear
    received: NDArray[np.floating] | None = None

    def __init__(
        self,
        hidden: Sequence[tuple[Tensor, Tensor]],
        output: tuple[Tensor, Tensor],
        interface: Interface | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if not hidden:
            raise InputError("an actor needs at least one hidden layer: nothing would spike")
        layers = [*hidden, output]
        for index, (weight, bias) in enumerate(layers):
            inputs = layers[index - 1][0].shape[0] if index else None
            check_layer(f"layer {index + 1}", weight, bias, inputs)
            if weight.dtype != layers[0][0].dtype:
                raise InputError(f"layer {index + 1} is {weight.dtype}, but layer 1 is {layers[0][0].dtype}")
        if interface is None:
            interface = Interface(hidden[0][0].shape[1], output[0].shape[0], dtype=output[0].dtype)
        super().__init__(interface, metadata, check_finite=True)
        if interface.observation_dim != hidden[0][0].shape[1] or interface.action_dim != output[0].shape[0]:
            raise InputError(
                f"the interface is {interface.observation_dim} -> {interface.action_dim}, "
                f"but the layers are {hidden[0][0].shape[1]} -> {output[0].shape[0]}"
            )
        for name, buffer in interface.named_buffers():
            if buffer.dtype != output[0].dtype:
                raise InputError(f"the interface's {name} is {buffer.dtype}, but the layers are {output[0].dtype}")
        self.hidden = cast("Sequence[nn.Linear]", nn.ModuleList(_linear(*layer) for layer in hidden))
        self.output = _linear(*output)
        self.eval()  # it is trained, which exporters ask about

    def forward(self, observation: Tensor) -> Tensor:
        """The action `[B, action_dim]` for an observation `[B, observation_dim]`."""
        return self.interface.action(self.output(self.hidden_activations(observation)[-1]))

    def hidden_activations(self, observation: Tensor) -> list[Tensor]:
        """The ReLU activations of every hidden layer, `[B, N]` each, for an observation `[B, observation_dim]`."""
        # An exported program knows no errors, whichever of torch's exporters makes it.
        exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
        checked = observation if exported else self.interface.check(observation, self.check_finite)
        signal = self.interface.normalize(checked)
        activations = []
        for layer in self.hidden:
            signal = torch.relu(layer(signal))
            activations.append(signal)
        return activations

    def fingerprint(self) -> str:
        """A hash of everything that determines the actions; equal actors have equal hashes."""
        digest = hashlib.sha256(repr(sorted(self.interface.description().items())).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


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


def check_layer(name: str, weight: Tensor, bias: Tensor, inputs: int | None, kernel: bool = False) -> None:
    """Refuses a layer that does not fit the one before, whose width is `inputs`.

    `kernel` says that the file holds the transposed weight under that name, which an error then speaks of.
    """
    for part, tensor in (("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name}'s {part} must be a tensor, got {type(tensor).__name__}")
        check_tensor(f"{name}'s {part}", tensor, tensor.shape, tensor.dtype, tensor.device)
    if bias.dtype != weight.dtype:
        raise InputError(f"{name}'s bias is {bias.dtype}, but its weight is {weight.dtype}")
    if weight.dim() != 2 or (inputs is not None and weight.shape[1] != inputs):
        if kernel:
            wanted, shape = f"kernel must be [{inputs or 'in'}, out]", list(weight.shape)[::-1]
        else:
            wanted, shape = f"weight must be [out, {inputs or 'in'}]", list(weight.shape)
        raise InputError(f"{name}'s {wanted}, got shape {shape}")
    if tuple(bias.shape) != (weight.shape[0],):
        raise InputError(f"{name}'s bias must be [{weight.shape[0]}], got shape {list(bias.shape)}")
    for part, tensor in (("weight", weight), ("bias", bias)):
        check_numbers(f"{name}'s {part}", tensor)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data.copy_(weight.detach())
    layer.bias.data.copy_(bias.detach())
    return layer.requires_grad_(False)


def as_vector(name: str, value: ArrayLike | Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """A number or `width` numbers as a tensor `[width]`.

    Raises:
        InputError: it is neither, or not finite.
    """
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex")
        vector = torch.as_tensor(value, dtype=dtype).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name} must be a number or [{width}] numbers, got {value!r}") from error
    if tuple(vector.shape) not in ((), (1,), (width,)):
        raise InputError(f"{name} must be a number or [{width}], got shape {list(vector.shape)}")
    if not bool(torch.isfinite(vector).all()):
        raise InputError(f"{name} holds NaN or infinity")
    return vector.expand(width).clone(memory_format=torch.contiguous_format)
