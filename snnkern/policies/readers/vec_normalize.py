"""Stable-Baselines3's VecNormalize: what it does to observations, from the wrapper itself or from the file it saves.

The file is a pickle, and is read without running anything of it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snnkern.errors import CheckpointError, InputError, InputWarning
from snnkern.files import read_bytes
from snnkern.policies.actor import Actor, Interface, Policy
from snnkern.policies.readers.sb3 import Model
from snnkern.policies.readers.unpickle import MOST_BYTES, Record, read_objects

KEY = "vec_normalize"  # of an actor's metadata: what its normalisation was read from, or
OUTSIDE = "outside"  # that it takes observations that were normalised before
_SLACK = 1e-3  # of a bound, as an environment's own rounding needs
_ENOUGH = 1_000
_COMMON = ("vecnormalize.pkl", "vec_normalize.pkl")


@dataclass(frozen=True, eq=False)
class Normalization:
    """clip((observation − mean) / std, ±clip); an observation as it is where the mean is None (norm_obs=False).

    Attributes:
        source: where it comes from, for people.
    """

    source: str
    mean: NDArray[np.float64] | None
    std: NDArray[np.float64] | None
    clip: float

    def __call__(self, observations: NDArray[np.floating]) -> NDArray[np.float64]:
        wide = np.asarray(observations, np.float64)
        if self.mean is None or self.std is None:
            return wide
        return np.clip((wide - self.mean) / self.std, -self.clip, self.clip)


def apply(actor: Actor, given: Any, model: Model | None = None, path: Path | None = None) -> Actor:
    """The actor with the normalisation that it was trained with inside, and its source in its metadata.

    Args:
        actor: as its tensors say.
        given: a `VecNormalize` or the path of its file; None looks beside the zip; False leaves the actor as it is.
        model: what else is known of it, where it is Stable-Baselines3's.
        path: of the zip that it was read from.

    Raises:
        InputError: the file or the wrapper cannot be read, or does not fit the actor.

    Warns:
        InputWarning: the model was trained in a `VecNormalize` and there is no file of it, or the one that was given
            is not the model's.
    """
    if given is False:
        return actor
    used = None if model is None else was_used(model)
    if given is not None:
        file = Path(given) if isinstance(given, str | os.PathLike) else None
        found = from_wrapper(given) if file is None else read(file, file.name)
        inside = put_inside(actor, found)
        if model and found.mean is not None and (used is False or _explains(found, model) is False):
            _warn(
                f"{found.source} does not make what this model received last in training of what its environment said: "
                "is it the model's? vec_normalize=False takes none"
            )
        return inside
    if model is None or used is False:
        return actor
    if path is not None and (beside_it := beside(path, model)):
        return put_inside(actor, beside_it)
    if used:
        _warn(
            f"this model was trained on observations that VecNormalize had normalised, and {path or 'it'} does not say "
            "how. As it is, the actor takes normalised observations and acts wrongly on the environment's own: give "
            "vec_normalize=FILE (snnkern convert: --vec-normalize FILE), the file that VecNormalize.save wrote, or "
            "False (none) if your observations are normalised already"
        )
        return outside(actor)
    if model.received is not None:
        actor.received = model.received.seen
    return actor


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=5)


def from_wrapper(wrapper: Any) -> Normalization:
    """What a `VecNormalize` does.

    Raises:
        InputError: it is something else, or normalises a Dict of observations.
    """
    if not _is_kind(type(wrapper), "VecNormalize"):
        raise InputError(f"vec_normalize must be a VecNormalize or the path of its file, got {type(wrapper).__name__}")
    if not wrapper.norm_obs:
        return Normalization("VecNormalize", None, None, np.inf)
    return _normalization("VecNormalize", wrapper.obs_rms, wrapper.epsilon, wrapper.clip_obs, getattr)


def read(path: Path, name: str = "") -> Normalization:
    """What the file of a `VecNormalize` says, of which nothing is run.

    Args:
        path: the file, as `VecNormalize.save` writes it.
        name: what the result calls its source; the path unless given.

    Raises:
        InputError: there is no such file.
        CheckpointError: it is damaged or too large, or not such a file's.
    """
    content = read_bytes(path, MOST_BYTES)
    try:
        found = read_objects(content)
        if not isinstance(found, Record) or found.name != "VecNormalize":
            what = found.kind if isinstance(found, Record) else f"a {type(found).__name__}"
            raise CheckpointError(f"it holds {what}, not a VecNormalize")
        if not found.attribute("norm_obs"):
            return Normalization(name or str(path), None, None, np.inf)
        parts = (found.attribute("obs_rms"), found.attribute("epsilon"), found.attribute("clip_obs"))
        return _normalization(name or str(path), *parts, Record.attribute)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _normalization(source: str, statistics: Any, epsilon: Any, clip: Any, attribute: Any) -> Normalization:
    if isinstance(statistics, dict):
        raise InputError("VecNormalize normalises a Dict of observations, but an actor takes one array [N]")
    try:
        mean, variance = (np.asarray(attribute(statistics, part), np.float64) for part in ("mean", "var"))
        bound = float(np.asarray(clip, np.float64))
        with np.errstate(invalid="ignore"):  # of negative variances, refused below
            std = np.sqrt(variance + float(np.asarray(epsilon, np.float64)))
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"its statistics of observations are not numbers: {error}") from error
    if mean.ndim != 1 or mean.shape != std.shape or not (np.isfinite(mean).all() and (std > 0).all() and bound > 0):
        raise InputError("its statistics of observations must be a finite mean [N], a variance [N] and a positive clip")
    return Normalization(source, mean, std, bound)


def _is_kind(kind: type, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.startswith("stable_baselines3") for base in kind.__mro__)


def beside(path: Path, model: Model) -> Normalization | None:
    """The normalisation in the first file beside a model's zip that is the model's, by the names in use.

    `NAME_vecnormalize.pkl` for NAME.zip; PREFIX_vecnormalize_N_steps.pkl for PREFIX_N_steps.zip, as SB3's
    `CheckpointCallback` writes them; vecnormalize.pkl in the same folder, in the folder NAME, or in the only other one
    that has it, as RL Baselines3 Zoo writes them; in each name vec_normalize will do. A file is the model's where it
    makes of the environment's last observation what the model last received. Where the zip does not hold these, every
    file that fits in its width is taken.
    """
    for file in _candidates(path):
        try:
            found = read(file, file.relative_to(path.parent).as_posix())
        except InputError:  # somebody else's file, by that name
            continue
        if found.mean is None or (
            (len(found.mean),) == model.observation_shape and _explains(found, model) is not False
        ):
            return found
    return None


def _candidates(path: Path) -> Iterator[Path]:
    stem = path.stem
    prefix, _, number = stem.removesuffix("_steps").rpartition("_")
    names = [f"{stem}_{common}" for common in _COMMON]
    if stem.endswith("_steps") and number.isdecimal():
        names += [f"{prefix}_{common[:-4]}_{number}_steps.pkl" for common in _COMMON]
    folders = [path.parent, path.parent / stem]
    files = [*(path.parent / name for name in names), *(folder / name for folder in folders for name in _COMMON)]
    yield from (file for file in files if file.is_file())
    others = [file for name in _COMMON for file in path.parent.glob(f"*/{name}") if file not in files]
    if len(others) == 1:
        yield from others


def _explains(found: Normalization, model: Model) -> bool | None:
    """Whether the model was trained with it; None where its last observations do not tell.

    What the model received last is what VecNormalize made of the environment's last observation. Without VecNormalize
    it is the observation that comes after that one, which is close to it, or begins an episode.
    """
    received = model.received
    if received is None or received.original is None or found.std is None:
        return None
    if found.std.shape != received.seen.shape[1:]:
        return None
    predicted = found(received.original)
    error = np.abs(predicted - received.seen).max()
    change = np.abs((received.seen - received.original) / found.std).max()
    scale = max(1.0, np.abs(predicted).max())
    if error <= 1e-3 * scale:
        return True
    return None if error < min(change, 0.5 * scale) else False  # saved at another time, its statistics differ somewhat


def was_used(model: Model) -> bool | None:
    """Whether a model was trained in VecNormalize, by what it received last; None where that does not tell.

    VecNormalize makes float32 of float64, and leaves the bounds that the observation space has. PPO and A2C keep
    something of it where they were trained in it; with norm_obs=False this tells too much.
    """
    if model.received is None:
        return None
    seen, original = model.received.seen, model.received.original
    if model.received.wrapped is False:
        return False
    if model.received.dtype == np.float64:
        return seen.dtype == np.float32
    if original is None:
        return model.received.wrapped
    if np.array_equal(seen, original):  # norm_obs=False
        return False
    least, most = model.received.least - _SLACK, model.received.most + _SLACK
    beyond = (seen < least) | (seen > most)
    allowed = (original >= least) & (original <= most)
    return True if (beyond & allowed).any() else None


def warn_of_other_observations(actor: Actor, observations: object) -> None:
    """Warns of observations that cannot be of the kind that an actor received in training: normalised, for instance.

    That lies far outside of their range then. Few observations do not tell, and nor do actors of other files than
    Stable-Baselines3's.
    """
    received = actor.received
    if received is None or not isinstance(observations, np.ndarray | Tensor) or len(observations) < _ENOUGH:
        return
    given = np.asarray(observations.numpy(force=True) if isinstance(observations, Tensor) else observations)
    if given.shape[1:] != received.shape[1:]:
        return  # which is an error, raised elsewhere
    low, high = given.min(axis=0), given.max(axis=0)
    margin = 0.25 * (high - low) + _SLACK * np.maximum(1.0, np.abs(high))
    if ((received < low - margin) | (received > high + margin)).any():
        _warn(
            "these observations are not of the kind that the model received in training, whose last ones are outside "
            "of their range. If it was trained in VecNormalize, give its file (vec_normalize=FILE for load_actor and "
            "from_sb3, --vec-normalize FILE for snnkern convert)"
        )


def warn_of_normalized(policy: object) -> None:
    """Warns where a policy that takes normalised observations is to run in an environment that does not normalise."""
    if isinstance(policy, Policy) and policy.metadata.get(KEY) == OUTSIDE:
        _warn(
            "this policy takes observations that VecNormalize has normalised, and acts wrongly on the environment's "
            "own: move the normalisation inside (vec_normalize=FILE for load_actor and from_sb3, or True for a model "
            "that has its wrapper), or say that your environment normalises (vec_normalize=False)"
        )


def put_inside(actor: Actor, normalization: Normalization) -> Actor:
    """The actor with the normalisation of observations in its interface.

    Raises:
        InputError: it is for observations of another width.
    """
    interface = actor.interface
    if normalization.mean is None or normalization.std is None:
        return _with_metadata(actor, normalization.source)
    if interface.observation_mean is not None:
        raise InputError("the actor normalises its observations already: it takes no second normalisation")
    if len(normalization.mean) != interface.observation_dim:
        raise InputError(
            f"{normalization.source} normalises {len(normalization.mean)} numbers, "
            f"but the actor's observations are [{interface.observation_dim}]"
        )
    inside = interface.with_normalization(normalization.mean, normalization.std, normalization.clip)
    return _with_metadata(actor, normalization.source, inside)


def outside(actor: Actor) -> Actor:
    """The actor, whose metadata say that it takes observations that were normalised before."""
    return _with_metadata(actor, OUTSIDE)


def _with_metadata(actor: Actor, normalization: str, interface: Interface | None = None) -> Actor:
    """A copy whose metadata say how observations are normalised, by another interface where one is given."""
    return actor.replaced(interface=interface, metadata={**actor.metadata, KEY: normalization})
