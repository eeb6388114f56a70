"""What a model of Stable-Baselines3, sb3-contrib or SBX is made of, from its file or from the model itself.

A model's file holds pickles beside its tensors. Nothing of them is run: `policy.pth` holds tensors and nothing else,
the JSON beside it spells out what else an actor depends on, and two arrays are read by `unpickle`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.errors import CheckpointError, InputError
from snnkern.files import from_json, read_state_dict, unzipped
from snnkern.policies.activations import ACTIVATIONS, RELU, activation_of, parse_activation
from snnkern.policies.readers.modules import changed
from snnkern.policies.readers.unpickle import Record, read_objects

_TENSORS, _DATA = "policy.pth", "data"
_POLICY = re.compile(r"(?:stable_baselines3|sbx|sb3_contrib)\.(td3|sac|ddpg|tqc|ppo|a2c)\.policies")
_ACTOR_CRITIC = "stable_baselines3.common.policies"  # where the policy of PPO, TRPO and A2C is
_LEARNERS = {"clip_range": "PPO", "cg_max_steps": "TRPO"}  # by a setting that no other one has; A2C has none
ON_POLICY = ("PPO", "TRPO", "A2C")
SAMPLING = ("SAC", "TQC", *ON_POLICY)  # whose actions are drawn, unless the mean alone is wanted
_READ = f"TD3, DDPG, {', '.join(SAMPLING[:-1])} or {SAMPLING[-1]}"
RANGE = "action_range"  # of an actor's metadata: least and largest actions, as JSON, where it has no tanh
_FLATTEN, NATURE_CNN = "FlattenExtractor", "NatureCNN"
_SPACES = {  # of observations, by what they pass through first
    _FLATTEN: (re.compile(r"Box of float\d+ \[\d+\]"), "a Box of floats [N]"),
    NATURE_CNN: (re.compile(r"Box of (?:uint8|float\d+) \[\d+, \d+, \d+\]"), "a Box of images [C, H, W]"),
}
_SBX_ACTORS = ("sbx.td3.policies.Actor", "sbx.common.policies.SquashedGaussianActor", "sbx.ppo.policies.Actor")
# RSL-RL's policies have actor.0, actor.2, …, which keep their names.
_OF_THE_ACTOR = re.compile(r"actor\.(?![0-9])")
_CNN_POLICIES = ("CnnPolicy", "ActorCriticCnnPolicy")


@dataclass(frozen=True, eq=False)
class Received:
    """What a model's policy received last in training.

    Attributes:
        seen: the observations, `[environments, observation_dim]`.
        original: what the environments said last, as far as a model keeps it: in `VecNormalize` what it made `seen` of,
            without it the observations before; None of PPO, TRPO and A2C, which do not keep it.
        wrapped: whether the environments were in `VecNormalize`; None where that is not known.
        dtype: of the environments' own observations.
        least: lower bounds of the observation space, `[observation_dim]`; infinite where they are not known.
        most: upper bounds.
    """

    seen: NDArray[np.floating]
    original: NDArray[np.floating] | None
    wrapped: bool | None
    dtype: np.dtype[Any]
    least: NDArray[np.float64]
    most: NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """The actor's tensors, and what else decides whether it can be converted.

    Attributes:
        tensors: the actor's, by the names that Stable-Baselines3 or Flax gives them.
        policy: the Python module that defines the policy's class.
        learner: the algorithm, where that module has the policy of several.
        activation: that of the layers, by its name in `ACTIVATIONS`, or what else is there.
        extractor: class of what turns an observation into the first layer's input.
        use_sde: whether state-dependent exploration (gSDE) is on, which changes the output layer.
        observation: the observation space: class, dtype and shape.
        action: class of the action space.
        low: least action, `[action_dim]`.
        high: largest action.
        received: what it received last in training; None where that is not known.
        normalize_images: whether pixels are divided by 255, where they are whole numbers from 0 to 255.
        pixels: the least and the largest number of an observation; None where that is not known.
    """

    tensors: Mapping[str, Tensor | NDArray[Any]]
    policy: str
    learner: str
    activation: str
    extractor: str
    use_sde: bool
    observation: str
    action: str
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    received: Received | None = None
    normalize_images: bool = True
    pixels: tuple[float, float] | None = None

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of an observation, where `check` has passed. Of images, channels come first: so the actor sees."""
        return tuple(map(int, self.observation.rpartition("[")[2].removesuffix("]").split(", ")))

    @property
    def sees_bytes(self) -> bool:
        """Whether observations are images of bytes."""
        return self.extractor == NATURE_CNN and self.observation.startswith("Box of uint8")

    @property
    def algorithm(self) -> str:
        """The algorithm that it was trained by; TD3 of DDPG, whose policy that is; empty of an unknown policy."""
        return _algorithm(self.policy, self.learner)

    @property
    def clips(self) -> bool:
        """Whether actions are clipped to their range, and not squashed into it by a tanh."""
        return self.algorithm in ON_POLICY

    def check(self) -> Model:
        """The model itself, where it is one that can be converted.

        Raises:
            InputError: names everything about the model that cannot be converted.
        """
        problems = []
        if not self.algorithm:
            problems.append(f"its policy is {self.policy}'s, not that of {_READ}")
        if self.activation not in ACTIVATIONS:
            problems.append(f"its activations are {self.activation}, not one of {', '.join(ACTIVATIONS)}")
        if self.extractor not in _SPACES:
            problems.append(f"its observations pass through {self.extractor}, not {' or '.join(_SPACES)}")
        if self.use_sde:
            problems.append("it explores by gSDE (use_sde=True), which bounds the mean action")
        space, wanted = _SPACES.get(self.extractor, _SPACES[_FLATTEN])
        if not space.fullmatch(self.observation):
            problems.append(f"its observation space is {self.observation}, not {wanted}")
        elif self.sees_bytes and self.normalize_images and self.pixels not in (None, (0.0, 255.0)):
            problems.append(f"its pixels range from {self.pixels[0]:g} to {self.pixels[1]:g}, not from 0 to 255")
        if self.action != "Box":
            problems.append(f"its action space is {self.action}, not a Box [N]")
        elif self.low.ndim != 1 or not np.isfinite([self.low, self.high]).all():
            problems.append(f"its actions range from {self.low} to {self.high}, which are not finite bounds [N]")
        if problems:
            raise InputError(f"this model cannot be converted: {'; '.join(problems)}")
        return self


def is_model(content: bytes) -> bool:
    """Whether a file is a model that Stable-Baselines3 or SBX saved."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {_DATA, "_stable_baselines3_version"} <= set(archive.namelist())
    except Exception:  # damaged archives fail in many ways, UnicodeDecodeError among them
        return False


def read(content: bytes, name: str) -> Model:
    """Reads a model's file, without unpickling any of it.

    Args:
        content: the file's.
        name: what errors call it.

    Raises:
        CheckpointError: the file is damaged, is SBX's (whose parameters are a pickle), or cannot be converted.
    """
    try:
        with unzipped(content, name, len(content)) as archive:
            data = from_json(archive.read(_DATA), dict[str, Any], f"its {_DATA}")
            if _TENSORS not in archive.namelist():
                raise CheckpointError(
                    f"{name} holds no {_TENSORS}: SBX saves parameters as a pickle, which can run code and is not "
                    "opened here: if you trust it, load it with SBX, and give the model itself"
                )
            tensors = read_state_dict(archive.read(_TENSORS), f"{name}'s {_TENSORS}", len(content))
        options = data["policy_kwargs"]
        observation, action = data["observation_space"], data["action_space"]
        kind = _unpickled(data["policy_class"])
        usual = NATURE_CNN if isinstance(kind, Record) and kind.name in _CNN_POLICIES else _FLATTEN
        policy = data["policy_class"]["__module__"]
        learner = _learner(data)
        on_policy = _algorithm(policy, learner) in ON_POLICY
        box = _class_name(action[":type:"]) == "Box"
        return Model(
            tensors=of_the_actor(tensors) or tensors,
            policy=policy,
            learner=learner,
            activation=_activation_name(options.get("activation_fn", nn.Tanh if on_policy else nn.ReLU)),
            extractor=_extractor(options.get("features_extractor_class", usual)),
            use_sde=bool(data["use_sde"]),
            observation=_space(_class_name(observation[":type:"]), observation.get("dtype"), observation.get("_shape")),
            action=_class_name(action[":type:"]),
            low=_numbers(action["low"] if box else "[]"),
            high=_numbers(action["high"] if box else "[]"),
            received=_received(
                _unpickled(data.get("_last_obs")),
                data.get("_last_original_obs") if on_policy else _unpickled(data.get("_last_original_obs")),
                *(_bound(observation.get(name)) for name in ("low", "high")),
                dtype=str(observation.get("dtype")),
                on_policy=on_policy,
            ),
            normalize_images=options.get("normalize_images", True) is True,
            pixels=_pixels(observation),
        ).check()
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except Exception as error:  # damaged archives and descriptions fail in many ways
        raise CheckpointError(f"{name} is damaged, or not a model that Stable-Baselines3 saved: {error!r}") from error


def describe(model: Any) -> Model:
    """The same of a model in memory.

    Args:
        model: Stable-Baselines3's TD3, SAC, DDPG, PPO or A2C; sb3-contrib's TQC or TRPO; or one of SBX.

    Raises:
        InputError: it is something else, or cannot be converted.
    """
    policy: Any = getattr(model, "policy", None)
    space: Any = getattr(model, "action_space", None)
    actor: Any = getattr(policy, "actor", None)
    learner = _learner(vars(model)) if hasattr(model, "__dict__") else ""
    on_policy = _algorithm(type(policy).__module__, learner) in ON_POLICY
    if space is None or (actor is None and not hasattr(policy, "mlp_extractor")):
        raise InputError(f"a {_READ} model of Stable-Baselines3 or its file was wanted, got {model!r}")
    extractor = getattr(policy, "features_extractor_class", None)
    if actor is None or isinstance(actor, nn.Module):
        part = policy if actor is None else actor
        tensors = of_the_actor(policy.state_dict()) or policy.state_dict()
        activation = ", ".join(sorted({_described(layer) for layer in _activations(part)})) or RELU
        extractor = type(part.features_extractor)
    else:
        kind = f"{type(actor).__module__}.{type(actor).__name__}"
        if kind not in _SBX_ACTORS:
            raise InputError(
                f"this model cannot be converted: its actor is {kind}, not one of {', '.join(_SBX_ACTORS)}"
            )
        parts = policy.actor_state.params["params"]
        tensors = {name: part for name, part in parts.items() if name != "log_std"}  # PPO's noise
        activation = _activation_name(actor.activation_fn)
    observed = model.observation_space
    return Model(
        tensors=tensors,
        policy=type(policy).__module__,
        learner=learner,
        activation=activation,
        extractor=_extractor(extractor or _FLATTEN),
        use_sde=bool(model.use_sde),
        observation=_space(type(observed).__name__, observed.dtype, observed.shape),
        action=type(space).__name__,
        low=np.asarray(getattr(space, "low", []), dtype=np.float32),
        high=np.asarray(getattr(space, "high", []), dtype=np.float32),
        received=_received(
            *(getattr(model, name, None) for name in ("_last_obs", "_last_original_obs")),
            *(getattr(observed, name, None) for name in ("low", "high")),
            dtype=str(observed.dtype),
            on_policy=on_policy,
        ),
        normalize_images=bool(getattr(policy, "normalize_images", True)),
        pixels=_range(*(getattr(observed, name, None) for name in ("low", "high"))),
    ).check()


def _algorithm(policy: str, learner: str) -> str:
    """The algorithm of a policy by the module that defines it; that of the learner where it is one of several."""
    match = _POLICY.fullmatch(policy)
    return match[1].upper() if match else learner if policy == _ACTOR_CRITIC else ""


def _activations(actor: Any) -> list[nn.Module]:
    """What stands between the linear layers of an actor of Stable-Baselines3, or of a policy of PPO, TRPO or A2C.

    In front of their output layer, an Identity stands for what somebody has taken out.
    """
    hidden = actor.mlp_extractor.policy_net if hasattr(actor, "mlp_extractor") else getattr(actor, "latent_pi", None)
    layers = list(hidden if isinstance(hidden, nn.Sequential) else actor.mu[:-1])
    if isinstance(hidden, nn.Sequential) and layers and isinstance(layers[-1], nn.Linear):
        layers.append(nn.Identity())
    return [layer for layer in layers if not isinstance(layer, nn.Linear)]


def of_the_actor(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A policy's tensors that are its actor's, by the names that they have there."""
    return {name.removeprefix("actor."): tensor for name, tensor in tensors.items() if _OF_THE_ACTOR.match(name)}


def range_as_metadata(low: NDArray[np.float32], high: NDArray[np.float32]) -> dict[str, str]:
    """What the metadata of an actor say of the range that its actions are clipped to."""
    return {RANGE: json.dumps([low.tolist(), high.tolist()])}


def range_of(metadata: Mapping[str, str], width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """The least and the largest actions, `[width]` each, that metadata say; None where they say nothing.

    Raises:
        InputError: they are no such numbers.
    """
    if RANGE not in metadata:
        return None
    found = from_json(metadata[RANGE], tuple[list[float], list[float]], f"the metadata's {RANGE}")
    low, high = (np.array(bound, np.float32) for bound in found)
    if low.shape != (width,) or high.shape != (width,) or not (low <= high).all():
        raise InputError(f"the metadata's {RANGE} must have {width} least and as many largest actions, got {found}")
    return low, high


def _learner(data: Mapping[str, Any]) -> str:
    """Which of the algorithms that share a policy has trained a model, by its settings."""
    return next((name for setting, name in _LEARNERS.items() if setting in data), "A2C")


def _described(module: nn.Module) -> str:
    """An activation by its name in `ACTIVATIONS`; what it is where it has none there."""
    return (not changed(module) and activation_of(module)) or str(module)


def _activation_name(kind: Any) -> str:
    """The same of a class of torch, of its name in a file, or of a function of JAX, whose gelu is another than torch's.

    Anything else is itself, by its full name where it has the name of a known one.
    """
    full, name = _full_name(kind), _class_name(kind)
    if full.startswith("jax.") and name == "gelu":
        return f"{full}, an approximation by tanh"
    if full.startswith(("torch.nn.", "jax.")):
        with contextlib.suppress(InputError):
            return parse_activation(name)
    return full if name in ACTIVATIONS else name


def _full_name(kind: Any) -> str:
    """A class's or a function's name and module; of itself, or of what str() makes of a class, as the file has it."""
    text = f"{kind.__module__}.{kind.__name__}" if hasattr(kind, "__name__") else str(kind)
    return text.removeprefix("<class '").removesuffix("'>")


def _class_name(kind: Any) -> str:
    """The same without the module."""
    return _full_name(kind).rpartition(".")[2]


def _space(kind: str, dtype: Any, shape: Any) -> str:
    return f"{kind} of {dtype} {list(shape or [])}"


def _range(low: Any, high: Any) -> tuple[float, float] | None:
    """The least and the largest number of a space with these bounds; None where they are no arrays of numbers."""
    for bound in (low, high):
        if not isinstance(bound, np.ndarray) or bound.dtype.kind not in "fui" or not bound.size:
            return None
    return float(low.min()), float(high.max())


def _pixels(entry: Any) -> tuple[float, float] | None:
    """The same of a space as a model's description has it."""
    box = _unpickled(entry)
    with contextlib.suppress(CheckpointError):
        return _range(box.attribute("low"), box.attribute("high")) if isinstance(box, Record) else None
    return None


def _extractor(kind: Any) -> str:
    """What observations pass through: a class's own name; its full name where another has the name of a known one."""
    full, name = _full_name(kind), _class_name(kind)
    return full if name == NATURE_CNN and not f"{full}.".startswith(("stable_baselines3.", f"{NATURE_CNN}.")) else name


def _numbers(text: Any) -> NDArray[np.float32]:
    """The numbers of an array as NumPy prints it.

    Raises:
        ValueError: the array is so long that NumPy printed only part of it, or has more than one dimension.
    """
    return np.array(text.removeprefix("[").removesuffix("]").split(), dtype=np.float32)


def _received(seen: Any, original: Any, least: Any, most: Any, *, dtype: str, on_policy: bool) -> Received | None:
    """What a model received last; None where its parts do not fit each other, on which its actor does not depend.

    Args:
        seen: as in `Received`.
        original: likewise; in PPO, TRPO and A2C the first that was said in VecNormalize, or None without it.
        least: likewise.
        most: likewise.
        dtype: of the observation space.
        on_policy: whether it is PPO's, TRPO's or A2C's.
    """
    wrapped = None
    if on_policy:
        wrapped, original = original is not None, None
    for array in (seen,) if on_policy else (seen, original):
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
            return None
        if array.shape != seen.shape or not array.size or not np.isfinite(array).all():
            return None
    width = seen.shape[1:]
    bounds = [
        np.asarray(bound, np.float64) if np.shape(bound) == width else np.full(width, unknown)
        for bound, unknown in ((least, -np.inf), (most, np.inf))
    ]
    own = np.dtype(np.float64 if dtype == "float64" else np.float32) if original is None else original.dtype
    return Received(seen, original, wrapped, own, *bounds)


def _unpickled(entry: Any) -> Any:
    """What an entry of a model's description holds as a pickle; None where it holds none that can be read."""
    with contextlib.suppress(CheckpointError, ValueError, KeyError, TypeError):
        return read_objects(base64.b64decode(entry[":serialized:"]))
    return None


def _bound(text: Any) -> NDArray[np.float32] | None:
    """Bounds as NumPy prints them; None where it printed only some."""
    try:
        return _numbers(text)
    except (ValueError, AttributeError):
        return None
