"""Reading an actor or a spiking actor from whatever file holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from snnkern.errors import CheckpointError, InputError
from snnkern.files import StrPath
from snnkern.kernels.backends.choice import check_name
from snnkern.policies.activations import assumption
from snnkern.policies.actor import Actor, as_vector
from snnkern.policies.readers.saved import Saved, read
from snnkern.policies.readers.sb3 import RANGE
from snnkern.policies.readers.torch_rl import (
    actor_from_sb3,
    actor_from_state_dict,
    check_activation,
    stated_activation,
)
from snnkern.policies.readers.vec_normalize import apply
from snnkern.policies.readers.visual import actor_from_snapshot
from snnkern.policies.spiking import SpikingActor
from snnkern.policies.storage import SpikingDescription, actor_from_description, restore


def load_actor(
    source: StrPath,
    *,
    action_scale: ArrayLike | None = None,
    action_bias: ArrayLike | None = None,
    activation: str | None = None,
    vec_normalize: Any = None,
) -> Actor:
    """Loads a trained actor: one that ships with the package, or one from a checkpoint file.

    Reads files that `snnkern.save` wrote; models that Stable-Baselines3 saved, of `MlpPolicy` and `CnnPolicy`;
    snapshots of DrQ-v2; checkpoints of RSL-RL; and state dicts, as safetensors or as `torch.save` wrote them, with the
    layer names of TD3 and DDPG (`l1`, `l2`, …), SAC (`fc1`, …, `fc_mu`), DrQ-v2 (`encoder.convnet.0`, …), CleanRL
    (`fc1`, …, `fc_mu` or `fc_mean`, `action_scale`, `action_bias`; of PPO `actor_mean.0`, …), Stable-Baselines3
    (`mlp_extractor.policy_net.0`, …, `action_net`) and Flax (`Dense_0`, …).

    A snapshot holds the agent as an object, which PyTorch's safe loader refuses. Nothing of it is run or imported
    either: its tensors are taken out, and the actor's metadata say the class of the object ("objects").

    Args:
        source: a name in `snnkern.policies.zoo.names()`, or a path.
        action_scale: max_action of the environment, a number or `[action_dim]`; published state dicts do not hold it.
            By default the file's, or 1.
        action_bias: the middle of the action range, a number or `[action_dim]`; by default the file's, or 0.
        activation: of all hidden layers, which tensors alone do not show: "relu", "tanh", "elu", "selu", "leaky_relu",
            "silu" or "gelu". If neither this nor the file states it, what the library uses by default is assumed (ELU
            of RSL-RL, Tanh of PPO and A2C of Stable-Baselines3, otherwise ReLU), and the actor's metadata say so
            ("activation").
        vec_normalize: Stable-Baselines3's `VecNormalize` that the actor was trained in, or the path of its file, of
            which nothing is run: its normalisation of observations moves into the actor. By default, a file beside a
            Stable-Baselines3 zip is used if it belongs to that model (`docs/ecosystem.md` has the names); False uses
            none. The actor's metadata say which file it was ("vec_normalize").

    Raises:
        InputError: there is no such zoo actor or file, or the activation is unknown.
        CheckpointError: the file is truncated, not a checkpoint, holds code, or its tensors are not an actor's.

    Warns:
        InputWarning: a Stable-Baselines3 model was trained in `VecNormalize`, and its file is not given; or the given
            file belongs to another model.
    """
    return actor_of(
        read(source),
        action_scale=action_scale,
        action_bias=action_bias,
        activation=activation,
        vec_normalize=vec_normalize,
    )


def actor_of(
    saved: Saved,
    *,
    action_scale: ArrayLike | None = None,
    action_bias: ArrayLike | None = None,
    activation: str | None = None,
    vec_normalize: Any = None,
) -> Actor:
    """The actor that a file holds; see `load_actor`, which, as its callers do, stands between it and the user."""
    check_activation(activation)
    try:
        if saved.model is not None:
            actor = _with_activation(actor_from_sb3(saved.model), activation)
        elif saved.snapshot is not None:
            actor = _with_activation(actor_from_snapshot(saved.snapshot), activation)
        elif saved.description is not None:
            actor = _with_activation(actor_from_description(saved.tensors, saved.description), activation)
        else:
            actor = actor_from_state_dict(saved.tensors, metadata=saved.metadata, activation=activation)
    except InputError as error:
        raise CheckpointError(f"{saved.name}: {error}") from error
    actor = apply(actor, vec_normalize, saved.model, Path(saved.name))
    interface = actor.interface
    for name, value in (("action_scale", action_scale), ("action_bias", action_bias)):
        if value is not None:
            setattr(interface, name, as_vector(name, value, interface.action_dim, interface.action_scale.dtype))
            actor.metadata.pop(RANGE, None)  # of the actions as they were
    return actor


def _with_activation(actor: Actor, activation: str | None) -> Actor:
    """An actor whose file says its activation; of our own, it may have been made of tensors for which nobody had.

    Raises:
        CheckpointError: it has another activation than the one that is stated.
    """
    unstated = assumption(actor.metadata)
    known = None if unstated else actor.activation
    stated, said = stated_activation(activation, actor.metadata, known, usual=actor.activation)
    if "activation" in actor.metadata or activation:
        actor.metadata["activation"] = said
    if stated == actor.activation:
        return actor
    if not unstated:
        raise CheckpointError(f"its activation is {actor.activation}, but {stated} was stated")
    return actor.replaced(activation=stated)


def load_policy(source: StrPath, *, backend: str = "auto", **reading: Any) -> Actor | SpikingActor:
    """Loads the policy of a zoo name or a file: a spiking actor that `save` wrote, or a dense actor.

    Args:
        source: a name in `snnkern.policies.zoo.names()`, or a path.
        backend: what computes a spiking actor.
        reading: action_scale, activation, vec_normalize: as for `load_actor`; not for a spiking actor, whose file holds
            its own.

    Raises:
        InputError: as `load_actor` and `load`.
    """
    check_name(backend)
    saved = read(source)
    if not saved.holds(SpikingDescription):
        return actor_of(saved, **reading)
    for name, value in reading.items():
        if value is not None:
            raise InputError(f"{saved.name} is a spiking actor and holds its own {name}; got another one")
    return restore(saved, backend)
