"""Gymnasium environments for policies: made by name, made quiet, and checked against the policy's interface."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from snnkern.actors import Interface, Policy
from snnkern.errors import InputError, require

if TYPE_CHECKING:
    import gymnasium


def make(env: str | Callable[..., gymnasium.Env[Any, Any]], **options: Any) -> gymnasium.Env[Any, Any]:
    """Makes one environment.

    For a name "module:name" Gymnasium would import that module, and names come out of files that someone else wrote
    (an actor's, a grid's, a record's), which must not choose what is imported. So the module has to be imported
    already, or the name to be `trusted`.

    Args:
        env: a registered name such as "HalfCheetah-v5", or a function that returns an environment.
        options: what `gymnasium.make`, or the function, takes besides: `render_mode` for instance.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: no environment has that name, it cannot be made, or its name would import a module.
    """
    gym = require("gymnasium", "rl", "running environments")
    if not isinstance(env, str):
        if not callable(env):
            raise InputError(
                f"an environment is a registered name or a function that makes one, got {type(env).__name__}"
            )
        return env(**options)
    module, colon, _ = env.partition(":")
    if colon and not isinstance(env, _Trusted) and module not in sys.modules:
        raise InputError(
            f"environment {env!r} would import a module: if you trust it, name it yourself with --env, "
            "or import the module first"
        )
    with _quiet():
        try:
            return gym.make(env, **options)
        except gym.error.DependencyNotInstalled as error:
            raise InputError(f"environment {env!r} needs another package: {' '.join(str(error).split())}") from error
        except gym.error.Error as error:
            raise InputError(f"no environment {env!r}: {' '.join(str(error).split())}") from error
        except ImportError as error:  # old MuJoCo versions of environments are no longer part of Gymnasium
            raise InputError(f"cannot make environment {env!r}: {' '.join(str(error).split())}") from error
        except (Exception, SystemExit) as error:  # whatever an environment's own code raises
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"cannot make environment {env!r}: {why}") from error


class _Trusted(str):
    """A name that whoever runs the program has given; it stays one on its way to workers."""

    __slots__ = ()


def trusted(env: str) -> str:
    """An environment's name whose module may be imported, since it is no file that names it."""
    return _Trusted(env)


def named_by(policy: Policy) -> str:
    """The environment that a policy's metadata name; empty where they name none."""
    return policy.metadata.get("environment", "")


def make_vector(
    env: str | Callable[[], gymnasium.Env[Any, Any]], rows: int
) -> gymnasium.vector.SyncVectorEnv[Any, Any]:
    """Makes a vector of environments that the caller resets (autoreset disabled), so that every episode has its seed.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: no environment has that name.
    """
    make(env).close()  # a clear error before anything else
    vector = require("gymnasium", "rl", "running environments").vector
    envs: gymnasium.vector.SyncVectorEnv[Any, Any] = vector.SyncVectorEnv(
        [lambda: make(env)] * rows, autoreset_mode=vector.AutoresetMode.DISABLED
    )
    return envs


def check_spaces(
    interface: Interface, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
) -> None:
    """Refuses an environment that the policy does not fit.

    Raises:
        InputError: the spaces are not boxes of the policy's widths, or the policy's actions leave the action space.
    """
    box = require("gymnasium", "rl", "running environments").spaces.Box
    for name, space, width in (
        ("observation", observation_space, interface.observation_dim),
        ("action", action_space, interface.action_dim),
    ):
        if not isinstance(space, box) or space.shape != (width,):
            raise InputError(
                f"the environment's {name} space is {space}, but the actor's {name}s are [{width}] real numbers"
            )
    if not interface.squash:
        return
    scale, bias = interface.action_scale.abs().cpu().numpy(), interface.action_bias.cpu().numpy()
    low, high = vars(action_space)["low"], vars(action_space)["high"]
    slack = 1e-4 * scale
    if (bias - scale < low - slack).any() or (bias + scale > high + slack).any():
        raise InputError(
            f"the actor's actions span {_span(bias - scale, bias + scale)}, but the environment takes "
            f"{_span(low, high)}: give the action_scale (max_action) that the actor was trained with"
        )


def _span(low: ArrayLike, high: ArrayLike) -> str:
    return f"{np.min(low):g} … {np.max(high):g}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Gymnasium's and MuJoCo's remarks about the age of an environment or of its model file out of the way.

    MuJoCo would also write them to a log file in the working directory.
    """
    try:
        import mujoco
    except ImportError:
        mujoco = None
    set_handler = getattr(mujoco, "set_mju_user_warning", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*out of date", category=DeprecationWarning)
        if set_handler is None:
            yield
            return
        before = mujoco.get_mju_user_warning()
        set_handler(_relay_warning)
        try:
            yield
        finally:
            set_handler(before)


def _relay_warning(message: str | bytes) -> None:
    text = message.decode() if isinstance(message, bytes) else message
    if "deprecated" not in text:
        warnings.warn(f"MuJoCo: {text.strip()}", stacklevel=2)
