"""Makes Gymnasium environments, silences their warnings, and checks that a policy fits them.

Processes that draw environments import this module: it does without torch.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from snnkern.errors import InputError, check_whole, require
from snnkern.limits import MOST_SIDE_BY_SIDE

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from snnkern.control.pixels import View
    from snnkern.policies.actor import Interface, Policy

SUITE = "dm_control/"  # Shimmy's names begin so
# By its registered name, or by what makes it.
Environment = str | Callable[[], "gymnasium.Env[Any, Any]"]


def make(
    env: str | Callable[..., gymnasium.Env[Any, Any]], policy: object = None, **options: Any
) -> gymnasium.Env[Any, Any]:
    """Makes one environment, like `gymnasium.make`, without the warnings about old model files.

    For a name "module:name" Gymnasium would import that module. Names come from files that somebody else wrote (an
    actor's, a grid's, a record's), and no file may choose what is imported. So the module must be imported already, or
    the name must be `trusted`.

    Args:
        env: a registered name such as "HalfCheetah-v5", or a function that returns an environment, which is taken as it
            is. Names that begin with "dm_control/" are the DeepMind Control Suite's.
        policy: whom it is for. If that one sees pixels, a named environment is drawn and its frames are stacked:
            `snnkern.control.pixels.view_of` says how.
        options: further options of `gymnasium.make`, or of the function: `render_mode` for instance.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed; for the suite, Shimmy or dm_control.
        InputError: no environment has that name, it cannot be made or drawn, or its name would import a module.
    """
    gym = require("gymnasium", "rl", "running environments")
    if isinstance(env, str):
        _check_name(env)
        return _named(env, env, view(env, policy), **options)
    if not callable(env):
        raise InputError(
            f"an environment is a registered name or a function that makes one, got {type(env).__name__}{_advice(env)}"
        )
    made = env(**options)
    if not isinstance(made, gym.Env):
        raise InputError(f"the function that makes the environment returned {type(made).__name__}{_advice(made)}")
    return made


def _named(spec: str | EnvSpec, name: str, seen: View | None, **options: Any) -> gymnasium.Env[Any, Any]:
    """An environment that is registered, here or in the process that has this specification of it."""
    gym = require("gymnasium", "rl", "running environments")
    from snnkern.control import pixels

    pixels.prepare(spec, seen)
    if seen:
        options = pixels.options_of(name, seen) | options
    with _quiet():
        try:
            made = gym.make(spec, **options)
        except gym.error.DependencyNotInstalled as error:
            raise InputError(f"environment {name!r} needs another package: {' '.join(str(error).split())}") from error
        except gym.error.Error as error:
            raise InputError(f"no environment {name!r}: {' '.join(str(error).split())}") from error
        except ImportError as error:  # old MuJoCo versions of environments are no longer part of Gymnasium
            raise InputError(f"cannot make environment {name!r}: {' '.join(str(error).split())}") from error
        except (Exception, SystemExit) as error:  # whatever an environment's own code raises
            why = " ".join(f"{type(error).__name__}: {error}".split()) + pixels.advice(name, seen)
            raise InputError(f"cannot make environment {name!r}: {why}") from error
        if seen is None:
            return made
        try:
            return pixels.drawn(made, seen, name)
        except BaseException:
            made.close()
            raise


def view(env: object, policy: object) -> View | None:
    """How a policy sees an environment; None if it sees no pixels, or the environment is not one by name."""
    if policy is None or not isinstance(env, str):
        return None
    require("gymnasium", "rl", "running environments")
    from snnkern.control import pixels

    return pixels.view_of(policy, env)


def limit(env: str, policy: object = None) -> int | None:
    """Decisions that an episode of a registered environment lasts at most; None where nobody says."""
    gym = require("gymnasium", "rl", "running environments")
    from snnkern.control import pixels

    spec = gym.registry.get(env.rpartition(":")[2])
    steps = pixels.SUITE_STEPS if env.startswith(SUITE) else spec and spec.max_episode_steps
    seen = view(env, policy)
    return -(-steps // seen.action_repeat) if seen and steps else steps


def _check_name(env: str) -> None:
    module, colon, _ = env.partition(":")
    if colon and not isinstance(env, _Trusted) and module not in sys.modules:
        raise InputError(
            f"environment {env!r} would import a module: if you trust it, name it yourself with --env, "
            "or import the module first"
        )


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
    env: Environment | gymnasium.Env[Any, Any],
    policy: object = None,
) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment for a policy, closed in the end where it was made here; one that is given is left open.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: no environment has that name.
    """
    if isinstance(env, require("gymnasium", "rl", "running environments").Env):
        yield env
        return
    made = make(cast("str", env), policy)
    try:
        yield made
    finally:
        made.close()


def side_by_side(episodes: int) -> int:
    """How many of so many episodes run side by side unless told otherwise: the largest divisor up to 32."""
    return max(divisor for divisor in range(1, 33) if episodes % divisor == 0)


@contextlib.contextmanager
def vector_of(
    env: Environment | gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any],
    rows: int | None,
    episodes: int,
    policy: object = None,
) -> Iterator[gymnasium.vector.VectorEnv[Any, Any, Any]]:
    """A vector environment for so many episodes, closed in the end where it was made here.

    Args:
        env: a registered name, a function that makes the environment, an environment, or a vector of them.
        rows: how many run side by side, which must divide `episodes`; None for the largest divisor up to 32, or as many
            as the environment that is given has.
        episodes: how many there will be.
        policy: whom it is for, as `make` takes it.

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
        rows = side_by_side(episodes)
    rows = check_whole("rows", rows, least=1, most=MOST_SIDE_BY_SIDE)
    if episodes % rows:
        raise InputError(f"rows must divide the number of episodes ({episodes}), got {rows}")
    if isinstance(env, gym.vector.VectorEnv):
        yield env
        return
    maker = cast("Callable[[], gymnasium.Env[Any, Any]]", lambda: env)
    envs = _vector([maker]) if given else make_vector(cast("str", env), rows, policy)
    try:
        yield envs
    finally:
        if not given:
            envs.close()


def make_vector(
    env: Environment,
    rows: int,
    policy: object = None,
    wrap: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]] | None = None,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Makes a vector of environments that the caller resets (autoreset disabled), so that every episode has its seed.

    For a policy that sees pixels, drawing takes most of the time. So named environments are shared out among as many
    processes as there are cores, or rows if these are fewer. One row, and what a sweep's worker needs, is drawn in its
    own process, and so is what a function makes, which another process may not know.

    Args:
        env: a registered name, or a function that makes the environment.
        rows: how many.
        policy: whom they are for, as `make` takes it.
        wrap: what is put around each of them, a class that a module has; None for nothing.

    Raises:
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
        InputError: no environment has that name, or it cannot be made.
    """
    processes = min(rows, cores())
    if processes > 1 and (maker := _portable(env, policy)):
        from snnkern.control.processes import ProcessVector

        return ProcessVector([functools.partial(_wrapped, maker, wrap)] * rows, processes)
    made = make_several(env, rows, policy)
    return _vector([functools.partial(_wrapped, lambda one=one: one, wrap) for one in made])  # type: ignore[misc]


def _wrapped(
    make: Callable[[], gymnasium.Env[Any, Any]],
    wrap: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]] | None,
) -> gymnasium.Env[Any, Any]:
    return make() if wrap is None else wrap(make())


def make_several(env: Environment, count: int, policy: object = None) -> list[gymnasium.Env[Any, Any]]:
    """Makes so many environments, each of which is another one.

    Raises:
        MissingDependencyError: as `make`.
        InputError: as `make`; or a function returns one environment twice, which cannot run two episodes at once.
    """
    found: list[gymnasium.Env[Any, Any]] = []
    for _ in range(count):
        one = make(env, policy)
        if any(one.unwrapped is other.unwrapped for other in found):
            raise InputError(
                "the function that makes the environment returned the same one twice, but episodes run side by side: "
                "make it inside the function, such as lambda: gymnasium.make(…), or run with rows=1"
            )
        found.append(one)
    return found


_alone = multiprocessing.parent_process() is not None


def draw_alone() -> None:
    """Says that this process is one of several that share the cores, as multiprocessing's are: it starts none."""
    global _alone
    _alone = True


def cores() -> int:
    """How many processes share the work: one for each core, and this one alone where others share them."""
    if _alone:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _portable(env: object, policy: object) -> Callable[[], gymnasium.Env[Any, Any]] | None:
    """What makes an environment that is drawn in another process; None where nothing is drawn, or it cannot be sent."""
    seen = view(env, policy)
    if not isinstance(env, str) or seen is None or seen.blind:
        return None
    import cloudpickle

    from snnkern.control import pixels

    _check_name(env)
    _, _, name = env.rpartition(":")
    # What this program has registered, another process may not know. The suite is registered there anew.
    known = require("gymnasium", "rl", "running environments").registry.get(name)
    spec = trusted(env) if known is None or env.startswith(SUITE) else known
    pixels.prepare(spec, seen)
    maker = functools.partial(_named, spec, env, seen)
    try:
        cloudpickle.dumps(maker)
    except Exception:  # of many kinds
        return None
    return maker


def _vector(makers: list[Callable[[], gymnasium.Env[Any, Any]]]) -> gymnasium.vector.SyncVectorEnv[Any, Any]:
    vector = require("gymnasium", "rl", "running environments").vector
    envs: gymnasium.vector.SyncVectorEnv[Any, Any] = vector.SyncVectorEnv(
        makers, autoreset_mode=vector.AutoresetMode.DISABLED
    )
    return envs


def check(env: Environment, policy: Policy) -> None:
    """Checks that an environment can be made and that a policy fits it.

    Raises:
        MissingDependencyError: as `make`.
        InputError: as `make`, and as `check_spaces`.
    """
    with one_of(env, policy) as environment:
        check_spaces(policy.interface, environment.observation_space, environment.action_space)


def check_spaces(
    interface: Interface, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
) -> None:
    """Checks that a policy fits an environment.

    Raises:
        InputError: the spaces are not boxes of the policy's shapes, images are not of its dtype, or its actions leave
            the action space.
    """
    dtype = str(interface.observation_dtype).rpartition(".")[2]
    check_shapes(interface.observation_shape, dtype, interface.action_dim, observation_space, action_space)
    if not interface.squash:
        return
    # Of NumPy's numbers, for it has no bfloat16.
    scale, bias = (part.double().cpu().numpy() for part in (interface.action_scale.abs(), interface.action_bias))
    low, high = vars(action_space)["low"], vars(action_space)["high"]
    slack = 1e-4 * scale
    if (bias - scale < low - slack).any() or (bias + scale > high + slack).any():
        raise InputError(
            f"the actor's actions span {_span(bias - scale, bias + scale)}, but the environment takes "
            f"{_span(low, high)}: give the action_scale (max_action) that the actor was trained with"
        )


def check_shapes(
    observation_shape: Sequence[int],
    observation_dtype: str,
    action_dim: int,
    observation_space: gymnasium.Space[Any],
    action_space: gymnasium.Space[Any],
) -> None:
    """Checks that observations and actions of these shapes are those of an environment.

    Raises:
        InputError: the spaces are not boxes of these shapes, or images are not of this dtype.
    """
    box = require("gymnasium", "rl", "running environments").spaces.Box
    shape = tuple(observation_shape)
    real = "float" in observation_dtype
    numbers = f"{list(shape)} real numbers" if real and len(shape) == 1 else f"{observation_dtype} {list(shape)}"
    for name, space, wanted, dtype, what in (
        ("observation", observation_space, shape, observation_dtype, numbers),
        ("action", action_space, (action_dim,), "float", f"[{action_dim}] real numbers"),
    ):
        fits = isinstance(space, box) and space.shape == wanted
        alike = space.dtype is not None and (space.dtype.kind == "f" if "float" in dtype else space.dtype == dtype)
        if not fits or not alike:
            raise InputError(
                f"the environment's {name} space is {_space(space)}, but the actor's {name}s are {what}"
                f"{_order(space.shape, wanted)}"
            )


def _space(space: gymnasium.Space[Any]) -> str:
    """A space in few words, whatever its bounds are."""
    return " ".join(str(space).split())


def _order(given: tuple[int, ...] | None, wanted: tuple[int, ...]) -> str:
    """A hint where an image has its channels last, or its frames apart, or is none."""
    if len(wanted) != 3:
        return ""
    if given is None or len(given) < 2:  # by its name it would have been drawn
        return ": give the environment's registered name, then it is drawn"
    channels, height, width = wanted
    if given == (height, width, channels):
        return ": channels stand first in them, and last in the environment's"
    if len(given) == 4 and np.prod(given) == np.prod(wanted):
        return ": its frames are stacked in the channels"
    return ""


def _span(low: ArrayLike, high: ArrayLike) -> str:
    return f"{np.min(low):g} … {np.max(high):g}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Gymnasium's and MuJoCo's remarks about the age of an environment or of its model file out of the way.

    MuJoCo would also write them to a log file in the working directory.
    """
    try:
        import mujoco
    except Exception:  # it is not installed; or MUJOCO_GL names a renderer that is not, which making it says
        mujoco = None
    set_handler = getattr(mujoco, "set_mju_user_warning", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*out of date", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*not in the possible render_modes")  # which is an error of ours
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
