"""Converts dense actors to spiking ones, and saves and loads spiking actors."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern import checkpoints
from snnkern._backends.choice import check_name
from snnkern.actors import Actor, Interface, check_actor
from snnkern.calibration import Auto, Calibration, Fitted, calibrate, chosen_alpha, parse_calibration, recommended
from snnkern.errors import CheckpointError, InputError
from snnkern.files import StrPath, write_tensors
from snnkern.fitting import fit
from snnkern.layers import Readout, SpikingLayer
from snnkern.neurons import Dynamics, Neuron, parse_neuron
from snnkern.nn import SpikingActor
from snnkern.vec_normalize import warn_of_other_observations


class SpikingDescription(checkpoints.PolicyDescription, tag_field="format", tag="spiking-actor"):
    """The metadata of a spiking actor's file, in addition to its tensors.

    Attributes:
        dynamics: neuron, T, α, μ and κ, as `Dynamics.to_dict` has them.
        check_finite: whether observations with a NaN or an infinity are refused.
        carry: whether the carry is among the tensors.
        corrected: whether the dense layers are, since the spiking ones have been corrected; version 0.1 did neither.
    """

    dynamics: dict[str, Any]
    check_finite: bool
    carry: bool
    corrected: bool = False


def convert(
    actor: Actor | nn.Sequential,
    observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor] | None = None,
    *,
    neuron: str | Neuron = "mt",
    timesteps: int = 4,
    alpha: float | Literal["auto"] = "auto",
    memory: float = 0.0,
    clip: float = 0.5,
    calibration: str | Calibration = "auto",
    thresholds: Sequence[Tensor] | None = None,
    backend: str = "auto",
    check_finite: bool = True,
) -> SpikingActor:
    """Converts a trained actor into a spiking one, without training.

    Args:
        actor: from `load_actor`, or a plain `nn.Sequential` of Linear and ReLU with or without a Tanh at its end.
        observations: those that the thresholds are calibrated on, `[N, observation_dim]` or an iterable of such
            batches; see `snnkern.collect`.
        neuron: "if", "snm", "mt", "dc", or a neuron with parameters of your own, such as `snnkern.MT(levels=6)`.
        timesteps: T, simulation steps per decision.
        alpha: α, the part of the residual that is carried into the next decision (CRPI); 0 is plain conversion. "auto"
            is the recommended α of the neuron (`snnkern.calibration.recommended`).
        memory: μ, the part of the old carry that stays in the new one; 0 is the published CRPI.
        clip: κ, bound on the carry as a fraction of the threshold.
        calibration: "auto", the recommended one of the neuron; "max", as in the papers; "percentile", "percentile:P",
            "mse", "gaussian"; or one with parameters of your own: `Percentile(p)`, `Fitted(…)`. If it corrects
            weights or biases, `SpikingActor.original` keeps the dense ones.
        thresholds: θ of every hidden layer, `[N]` each, instead of observations.
        backend: a name from `snnkern.backends()`, or "auto".
        check_finite: whether the spiking actor refuses observations with a NaN or an infinity.

    Raises:
        InputError: a parameter is out of range, observations are missing, empty or do not fit, a threshold is negative
            or NaN.

    Warns:
        InputWarning: observations are not of the kind that the actor received in training, as far as its file shows.

    Source: Xu et al., "Error Amplification Limits ANN-to-SNN Conversion in Continuous Control", ICML 2026.
    """
    kind = parse_neuron(neuron)
    dynamics = Dynamics(kind, timesteps, chosen_alpha(alpha, kind), memory, clip)
    if isinstance(actor, nn.Sequential):
        actor = checkpoints.actor_from_module(actor)
    check_actor(actor)
    if (observations is None) == (thresholds is None):
        raise InputError("give either observations to calibrate on or thresholds, and not both")
    rule = parse_calibration(calibration)
    origin = "given thresholds"
    fitted, original = actor, None
    if observations is not None:
        warn_of_other_observations(actor, observations)
        origin = f"{rule}"
        if isinstance(rule, Auto):
            rule, _ = recommended(kind)
            origin += f" ({rule})"
        if isinstance(rule, Fitted):
            found = fit(actor, observations, neuron=kind, timesteps=timesteps, **asdict(rule))
            fitted, thresholds = found.actor, found.thresholds
            original = actor if rule.correction != "none" else None
        else:
            thresholds = calibrate(actor, observations, rule)
    assert thresholds is not None
    snn = SpikingActor(fitted, thresholds, dynamics, original=original, backend=backend, check_finite=check_finite)
    # What was measured with the dense actor is not true of the spiking one.
    measured = ("eval_return", "return_mean", "return_std", "return_measured")
    snn.metadata = {f"dense_{key}" if key in measured else key: value for key, value in actor.metadata.items()}
    snn.metadata["calibration"] = origin
    return snn


def dense_actor(policy: Actor | SpikingActor) -> Actor:
    """The dense actor that a spiking actor was converted from, as it was trained; a dense actor is returned as it is.

    Raises:
        InputError: the policy is neither.
    """
    if isinstance(policy, Actor):
        return policy
    if not isinstance(policy, SpikingActor):
        raise InputError(f"policy must be an Actor or a SpikingActor, got {type(policy).__name__}")
    return _actor_of(policy.original or (*policy.hidden, policy.output), policy)


def corrected_actor(snn: SpikingActor) -> Actor:
    """A dense actor with the weights and biases that the spiking actor runs on, corrected or not."""
    return _actor_of((*snn.hidden, snn.output), snn)


def _actor_of(layers: Sequence[SpikingLayer | Readout], policy: SpikingActor) -> Actor:
    pairs = [(layer.weight.mT, layer.bias) for layer in layers]
    actor = Actor(pairs[:-1], pairs[-1], copy.deepcopy(policy.interface), policy.metadata)
    return actor.to(policy.output.weight.device)


def save(policy: Actor | SpikingActor, path: StrPath, *, include_carry: bool = False) -> None:
    """Saves an actor or a spiking actor as safetensors; a file at `path` is replaced only when the new one is whole.

    Args:
        policy: the actor or spiking actor.
        path: the file.
        include_carry: whether a spiking actor's carry is saved too, to resume in the middle of an episode.

    Raises:
        InputError: the file cannot be written.
    """
    if isinstance(policy, Actor):
        checkpoints.save_actor(policy, path)
        return
    if not isinstance(policy, SpikingActor):
        inside = ": save its .actor" if isinstance(getattr(policy, "actor", None), SpikingActor) else ""
        raise InputError(f"only an Actor or a SpikingActor can be saved, got {type(policy).__name__}{inside}")
    if isinstance(policy.alpha, Tensor):
        raise InputError("alpha (α) is set for every row: set it to one number before the actor is saved")
    tensors = dict(policy.state_dict())
    carries = [layer.carry.value for layer in policy.hidden]
    has_carry = include_carry and carries[0] is not None
    if has_carry:
        tensors |= {f"hidden.{index}.carry": carry for index, carry in enumerate(carries)}
    description = {
        "format": SpikingDescription.__struct_config__.tag,
        **checkpoints.describe_policy(policy, len(policy.hidden)),
        "dynamics": policy.dynamics.to_dict(),
        "corrected": bool(policy.original),
        "check_finite": policy.check_finite,
        "carry": has_carry,
    }
    write_tensors(path, tensors, description)


def load(path: StrPath, *, backend: str = "auto") -> SpikingActor:
    """Loads a spiking actor that `save` wrote, equal bit for bit.

    Args:
        path: the file.
        backend: a name from `snnkern.backends()`, or "auto".

    Raises:
        InputError: the file does not exist.
        CheckpointError: it is truncated, or not a spiking actor's.
    """
    check_name(backend)
    return _restore(checkpoints.read_file(path), backend)


def load_policy(source: StrPath, *, backend: str = "auto", **reading: Any) -> Actor | SpikingActor:
    """Loads the policy of a zoo name or a file: a spiking actor that `save` wrote, or a dense actor.

    Args:
        source: a name in `snnkern.zoo.names()`, or a path.
        backend: what computes a spiking actor.
        reading: action_scale, activation, vec_normalize: as for `load_actor`; not for a spiking actor, whose file holds
            its own.

    Raises:
        InputError: as `load_actor` and `load`.
    """
    check_name(backend)
    saved = checkpoints.read(source)
    if not saved.holds(SpikingDescription):
        return checkpoints.actor_of(saved, **reading)
    for name, value in reading.items():
        if value is not None:
            raise InputError(f"{saved.name} is a spiking actor and holds its own {name}; got another one")
    return _restore(saved, backend)


def _restore(saved: checkpoints.Saved, backend: str) -> SpikingActor:
    """The spiking actor that a file holds, every complaint naming the file."""
    try:
        return _assemble(saved, backend)
    except InputError as error:
        raise CheckpointError(f"{saved.name}: {error}") from error


def _assemble(saved: checkpoints.Saved, backend: str) -> SpikingActor:
    tensors = saved.tensors
    found = checkpoints.read_description(saved.description, SpikingDescription)
    hidden = [f"hidden.{index}" for index in range(found.hidden_layers)]
    parts = ["weight", "bias", "threshold", *(["carry"] if found.carry else [])]
    wanted = [f"{layer}.{part}" for layer in hidden for part in parts]
    wanted += ["output.weight", "output.bias", *checkpoints.interface_names(found)]
    dense = [f"original.{index}" for index in range(len(hidden) + 1)] if found.corrected else []
    wanted += [f"{layer}.{part}" for layer in dense for part in ("weight", "bias")]
    checkpoints.check_names("a spiking actor", tensors, wanted)
    interface = checkpoints.interface_from(tensors, found)
    policy = SpikingActor(
        _actor([*hidden, "output"], tensors, interface, found.metadata),
        [tensors[f"{layer}.threshold"] for layer in hidden],
        Dynamics.from_dict(found.dynamics),
        original=_actor(dense, tensors, interface, found.metadata) if found.corrected else None,
        backend=backend,
        check_finite=found.check_finite,
    )
    if found.carry:
        for layer, name in zip(policy.hidden, hidden, strict=True):
            carry = tensors[f"{name}.carry"]
            rows = tensors["hidden.0.carry"].shape[:1]
            if carry.dtype != layer.threshold.dtype:
                raise InputError(f"{name}.carry is {carry.dtype}, but its threshold is {layer.threshold.dtype}")
            if carry.shape != (*rows, len(layer.threshold)):
                raise InputError(f"{name}.carry must be [B, {len(layer.threshold)}], got {list(carry.shape)}")
            layer.carry.value = carry
    return policy


def _actor(layers: Sequence[str], tensors: dict[str, Tensor], interface: Interface, metadata: dict[str, str]) -> Actor:
    weights = [tensors[f"{layer}.weight"] for layer in layers]
    turned = [weight.mT if weight.dim() == 2 else weight for weight in weights]  # what is no matrix, `Actor` refuses
    pairs = [(weight, tensors[f"{layer}.bias"]) for weight, layer in zip(turned, layers, strict=True)]
    return Actor(pairs[:-1], pairs[-1], interface, metadata)
