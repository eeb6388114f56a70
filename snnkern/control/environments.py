"""Makes Gymnasium environments, silences their warnings, and checks that a policy fits them."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from snnkern.errors import InputError, check_whole, require
from snnkern.limits import MOST_SIDE_BY_SIDE
from snnkern.policies.actor import Interface, Policy

if TYPE_CHECKING:
    import gymnasium


def make(env: str | Callable[..., gymnasium.Env[Any, Any]], **options: Any) -> gymnasium.Env[Any, Any]:
    """Makes one environment, like `gymnasium.make`, without the warnings about old model files.

    For a name "module:name" Gymnasium would import that module. Names come from files that somebody else wrote (an
    actor's, a grid's, a record's), and no file may choose what is imported. So the module must be imported already, or
    the name must be `trusted`.

    Args:
        env: a registered name such as "HalfCheetah-v5", or a function that returns an environment.
        options: further options of `gymnasium.make`, or of the function: `render_mode` for instance.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: no environment has that name, it cannot be made, or its name would import a module.
    """
    gym = require("gymnasium", "rl", "running environments")
    if not isinstance(env, str):
        if not callable(env):
            raise InputError(
                "an environment is a registered name or a function that makes one, "
                f"got {type(env).__name__}{_advice(env)}"
            )
        made = env(**options)
        if not isinstance(made, gym.Env):
            raise InputError(f"the function that makes the environment returned {type(made).__name__}{_advice(made)}")
        return made
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
    """Marks an environment's name as given by the user and not by a file: its module may be imported."""
    return _Trusted(env)


def _advice(value: object) -> str:
    """What to do instead with something that is no environment."""
    gym = require("gymnasium", "rl", "running environments")
    if any(base.__module__.startswith("stable_baselines3.") for base in type(value).__mro__):
        return ": Stable-Baselines3's environments are for its own evaluate_policy, which takes from_sb3's result"
    if isinstance(value, gym.Env | gym.vector.VectorEnv):
        return ": here several are made, so give its name, or a function such as lambda: gymnasium.make(…)"
    return ""


def named_by(policy: Policy) -> str:
    """The environment that a policy's metadata name; empty if they name none."""
    return policy.metadata.get("environment", "")


@contextlib.contextmanager
def one_of(
    env: str | Callable[[], gymnasium.Env[Any, Any]] | gymnasium.Env[Any, Any],
) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment, closed in the end where it was made here; one that is given is left open.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: no environment has that name.
    """
    if isinstance(env, require("gymnasium", "rl", "running environments").Env):
        yield env
        return
    made = make(cast("str", env))
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def vector_of(
    env: str
    | Callable[[], gymnasium.Env[Any, Any]]
    | gymnasium.Env[Any, Any]
    | gymnasium.vector.VectorEnv[Any, Any, Any],
    rows: int | None,
    episodes: int,
) -> Iterator[gymnasium.vector.VectorEnv[Any, Any, Any]]:
    """A vector environment for so many episodes, closed in the end where it was made here.

    Args:
        env: a registered name, a function that makes the environment, an environment, or a vector of them.
        rows: how many run side by side, which must divide `episodes`; None for the largest divisor up to 32, or as many
            as the environment that is given has.
        episodes: how many there will be.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: it is none of these, no environment has that name, or rows do not divide the episodes.
    """
    gym = require("gymnasium", "rl", "running environments")
    given = isinstance(env, gym.Env | gym.vector.VectorEnv)
    if given:
        has = env.num_envs if isinstance(env, gym.vector.VectorEnv) else 1
        if rows not in (None, has):
            raise InputError(f"rows is {rows}, but the environment that is given has {has}: give a name or a function")
        rows = has
    elif rows is None:
        rows = max(divisor for divisor in range(1, 33) if episodes % divisor == 0)
    rows = check_whole("rows", rows, least=1, most=MOST_SIDE_BY_SIDE)
    if episodes % rows:
        raise InputError(f"rows must divide the number of episodes ({episodes}), got {rows}")
    if isinstance(env, gym.vector.VectorEnv):
        yield env
        return
    maker = cast("Callable[[], gymnasium.Env[Any, Any]]", lambda: env)
    envs = _vector([maker]) if given else make_vector(cast("str", env), rows)
    try:
        yield envs
    finally:
        if not given:
            envs.close()


def make_vector(
    env: str | Callable[[], gymnasium.Env[Any, Any]], rows: int
) -> gymnasium.vector.SyncVectorEnv[Any, Any]:
    """Makes a vector of environments that the caller resets (autoreset disabled), so that every episode has its seed.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: no environment has that name.
    """
    make(env).close()  # a clear error before anything else
    return _vector([lambda: make(env)] * rows)


def _vector(makers: list[Callable[[], gymnasium.Env[Any, Any]]]) -> gymnasium.vector.SyncVectorEnv[Any, Any]:
    vector = require("gymnasium", "rl", "running environments").vector
    envs: gymnasium.vector.SyncVectorEnv[Any, Any] = vector.SyncVectorEnv(
        makers, autoreset_mode=vector.AutoresetMode.DISABLED
    )
    return envs


def check_spaces(
    interface: Interface, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
) -> None:
    """Checks that a policy fits an environment.

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
