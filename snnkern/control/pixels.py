"""Environments as an actor that sees pixels meets them: rendered, resized, stacked, with repeated actions.

The default for the DeepMind Control Suite is the protocol of DrQ-v2, which the CRPI paper evaluates in.

Seeds are Gymnasium's: `reset(seed=s)` begins the first episode that the suite draws with the seed s, the one after the
first `reset()` of what `dm_control.suite.load(…, task_kwargs={"random": s})` gives; a `reset()` goes on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from snnkern.control.environments import SUITE
from snnkern.errors import InputError, brief, check_whole, require
from snnkern.version import installed

SUITE_STEPS = 1_000  # of an episode of the suite's tasks
_NO_RENDERER = (
    "no renderer draws here: EGL needs the Debian packages libegl1 and libgl1-mesa-dri, OSMesa needs libosmesa6 "
    "(MUJOCO_GL=egl or MUJOCO_GL=osmesa chooses between them)"
)
_TRIAL = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"
_MOST_SEED = 2**32 - 1  # of numpy.random.RandomState, which the suite draws from


@dataclass(frozen=True)
class View:
    """What an actor sees of an environment, and how often it decides.

    Attributes:
        shape: of an observation, `[channels, height, width]`: three channels for each frame, the oldest first.
        action_repeat: steps of the environment that one decision lasts; their rewards are summed.
        camera: number or name of the camera that draws; None for the environment's own.
        blind: nothing is drawn, and every observation is black: for policies that do not look.

    Source: Yarats et al., "Mastering Visual Continuous Control: Improved Data-Augmented Reinforcement Learning",
    ICLR 2022 (DrQ-v2); Xu et al., ICML 2026 (CRPI).
    """

    shape: tuple[int, int, int] = (9, 84, 84)
    action_repeat: int = 1
    camera: int | str | None = None
    blind: bool = False

    @property
    def frames(self) -> int:
        """Frames in an observation.

        Raises:
            InputError: the channels are not three for each frame.
        """
        if self.shape[0] % 3:
            raise InputError(
                f"the actor's observations have {self.shape[0]} channels, but an environment that is drawn gives 3 for "
                "each frame: give a function that makes an environment with the actor's observations"
            )
        return self.shape[0] // 3


def view_of(policy: object, env: str) -> View | None:
    """How a policy sees a registered environment; None if it sees no pixels.

    Where the policy's metadata say nothing else ("action_repeat", "camera"), the suite's environments have the
    published protocol: every action twice, camera 0, and 2 for quadruped. Others have an action repeat of 1.

    Args:
        policy: one with an `interface` that says what an observation is, or with an `observation_shape` or a `view` of
            its own. In the suite, whose observations are no arrays otherwise, any other sees pixels, too.
        env: a registered name.

    Raises:
        InputError: the metadata have a number that is none, or a "frame_stack" of other channels than the actor's.
    """
    own = getattr(policy, "view", None)
    if isinstance(own, View):
        return own
    interface, metadata = getattr(policy, "interface", None), getattr(policy, "metadata", None) or {}
    suite = env.startswith(SUITE)
    unknown: tuple[int, ...] = View.shape if suite else ()
    shape = getattr(policy if interface is None else interface, "observation_shape", unknown)
    if len(shape) != 3:
        return None
    named = metadata.get("camera")
    number = None if named is None else _whole(named)
    camera: int | str | None = named if number is None else number
    if camera is None and suite:
        camera = 2 if env.startswith(f"{SUITE}quadruped-") else 0
    stack = _number(metadata, "frame_stack")
    if stack is not None and 3 * stack != shape[0]:
        raise InputError(
            f"the actor's metadata have a frame_stack of {stack}, which is {3 * stack} channels, but its observations "
            f"have {shape[0]}"
        )
    return View(tuple(shape), _number(metadata, "action_repeat") or (2 if suite else 1), camera)


def _number(metadata: Mapping[str, str], key: str) -> int | None:
    text = metadata.get(key)
    if text is None:
        return None
    number = _whole(text)
    if number is None:
        raise InputError(f"the actor's metadata have {key} {brief(text)}, which is no whole number of up to 9 digits")
    return check_whole(f"{key} of the actor's metadata", number, least=1, most=1_000)


def _whole(text: str) -> int | None:
    """A whole number that a file writes; None for other texts, and for more digits than any number here has."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def prepare(env: str | EnvSpec, view: View | None) -> None:
    """Makes a name of the suite known to Gymnasium, and finds what draws for MuJoCo where something is to be drawn.

    Raises:
        MissingDependencyError: Shimmy or dm_control is not installed.
        InputError: nothing draws.
    """
    suite = isinstance(env, str) and env.startswith(SUITE)
    spec = gymnasium.registry.get(env.rpartition(":")[2]) if isinstance(env, str) else env
    drawn = view is not None and not view.blind
    if suite or (drawn and "mujoco" in str(spec and spec.entry_point)):
        _load_triton()
        try:
            find_renderer()  # before dm_control is imported, which settles it for whatever is drawn later
        except InputError:
            if drawn:
                raise
    if not suite:
        return
    require("dm_control", "pixels", "the DeepMind Control Suite")
    try:
        require("shimmy", "pixels", "the DeepMind Control Suite in Gymnasium")
    except ImportError:
        raise
    except Exception as error:  # what a renderer raises that MUJOCO_GL names and that is not there
        raise InputError(f"the DeepMind Control Suite cannot be imported: {_said(error)}; {_NO_RENDERER}") from error


def _load_triton() -> None:
    """Loads Triton before Mesa, where something may want it later: `torch.optim` does.

    Each brings an LLVM. Mesa's shows its symbols to all that is loaded after it, and Triton, which then runs them in
    the place of its own, ends the process. Loaded first, each keeps to its own. Where something else has drawn in this
    process, it is too late, and Triton is left alone.
    """
    if "torch" not in sys.modules:  # the processes that only draw do without both
        return
    with contextlib.suppress(OSError):  # no Linux
        if "libLLVM" in Path("/proc/self/maps").read_text(errors="replace"):
            return
    with contextlib.suppress(ImportError):
        importlib.import_module("triton._C.libtriton")


@functools.cache
def find_renderer() -> None:
    """Chooses MuJoCo's renderer where nobody has and no display is there: EGL if it draws, else OSMesa.

    It sets the environment variable MUJOCO_GL, for this process and those that it starts. MuJoCo and dm_control read
    it when they are imported, so each is tried in a process of its own.

    Raises:
        InputError: neither draws; names the packages that they need.
    """
    display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform != "linux" or display or os.environ.get("MUJOCO_GL"):
        return
    for renderer in ("egl", "osmesa"):
        trial = [sys.executable, "-c", _TRIAL]
        done = subprocess.run(trial, env=os.environ | {"MUJOCO_GL": renderer}, capture_output=True, check=False)
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = renderer
            return
    raise InputError(_NO_RENDERER)


def options_of(env: str, view: View) -> dict[str, Any]:
    """What `gymnasium.make` is given, beside the name, for an environment that is seen so."""
    # The checker would warn of observations that nobody looks at.
    options: dict[str, Any] = {"render_mode": "rgb_array", "disable_env_checker": True}
    if env.startswith(SUITE):
        _, height, width = view.shape
        return options | {"render_kwargs": {"height": height, "width": width, "camera_id": view.camera}}
    if view.camera is None:
        return options
    return options | {"camera_name" if isinstance(view.camera, str) else "camera_id": view.camera}


def advice(env: str, view: View | None) -> str:
    """What to do where an environment cannot be made; empty if nobody knows."""
    if view is not None and view.camera is not None and not env.startswith(SUITE):
        return f": the actor's metadata name the camera {brief(view.camera)}, and not every environment lets one choose"
    mujoco, suite = (installed(package) or "0" for package in ("mujoco", "dm_control"))
    if env.startswith(SUITE) and int(mujoco.partition(".")[0]) > 3:
        return f": dm_control {suite} may not run beside mujoco {mujoco}: pip install 'mujoco<4'"
    return ""


def drawn(env: gymnasium.Env[Any, Any], view: View, name: str) -> gymnasium.Env[Any, Any]:
    """An environment whose observations are uint8 `[channels, height, width]`, as the view says.

    Frames are drawn after the last of the repeated steps; at a reset, the first one fills the stack. An environment
    whose own observations have the view's shape is taken as it is, and one whose own are images is not drawn. Actions
    are from −1 to 1, whatever the suite's task takes.

    Args:
        env: made with the options that `options_of` gives.
        view: how it is seen.
        name: the environment's, for errors.

    Raises:
        InputError: it cannot be drawn, or not so; or its stack of frames would not fit the actor.
    """
    suite = name.startswith(SUITE)
    own = env.observation_space
    image = isinstance(own, gymnasium.spaces.Box) and own.dtype == np.uint8 and len(own.shape) == 3
    if view.action_repeat > 1:
        env = wrappers.RepeatAction(env, view.action_repeat)
    if suite:
        one = np.ones(env.action_space.shape or (), env.action_space.dtype)
        env = _SuiteSeeds(wrappers.RescaleAction(env, -one, one))
        _shrink_buffer(env, *view.shape[1:])
    if view.blind:
        return _Blind(env, view.shape)
    if image and own.shape == view.shape:
        return env
    frames = view.frames
    _check_camera(env.unwrapped, view.camera, name)
    if not image:
        env = _frames(env, name)
    given = env.observation_space.shape or ()
    if given[2:] != (3,) or 0 in given:
        raise InputError(f"environment {name!r} gives images {list(given)}, but [height, width, 3] are needed")
    if given[:2] != view.shape[1:]:
        require("cv2", "pixels", f"resizing images of environment {name!r}")
        env = wrappers.ResizeObservation(env, view.shape[1:])
    env = wrappers.FrameStackObservation(env, frames)
    space = gymnasium.spaces.Box(0, 255, view.shape, np.uint8)
    return wrappers.TransformObservation(env, functools.partial(_channels_first, shape=view.shape), space)


def _check_camera(env: Any, camera: int | str | None, name: str) -> None:
    """Refuses a camera that MuJoCo's model lacks: what is raised then is a renderer's, or nothing and it is another."""
    model: Any = env.physics.model.ptr if name.startswith(SUITE) else getattr(env, "model", None)
    if camera is None or not hasattr(model, "ncam"):
        return
    names = [model.camera(number).name for number in range(model.ncam)]
    if camera not in names and camera not in range(-1, len(names)):  # -1 is the one that no model has to name
        known = ", ".join(f"{number} {one!r}" if one else str(number) for number, one in enumerate(names))
        raise InputError(f"environment {name!r} has no camera {brief(camera)}: its model has {known or 'none'}")


def _channels_first(stack: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Frames `[frames, height, width, 3]` as `[3 · frames, height, width]`."""
    return np.ascontiguousarray(stack.transpose(0, 3, 1, 2)).reshape(shape)


def _frames(env: gymnasium.Env[Any, Any], name: str) -> gymnasium.Env[Any, Any]:
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise InputError(f"environment {name!r} cannot be drawn: it has no render mode rgb_array")
    try:
        drawn = wrappers.AddRenderObservation(env)
        frame: Any = drawn.render()
    except Exception as error:  # a renderer's own, of many kinds
        why = _said(error) + _why_not_drawn(env, name)
        raise InputError(f"environment {name!r} cannot be drawn: {why}") from error
    if (dtype := np.asarray(frame).dtype) != np.uint8:
        raise InputError(f"environment {name!r} draws images of {dtype}, but uint8 from 0 to 255 is wanted")
    return drawn


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _why_not_drawn(env: gymnasium.Env[Any, Any], name: str) -> str:
    suite, chosen = name.startswith(SUITE), os.environ.get("MUJOCO_GL")
    own = getattr(sys.modules.get("dm_control._render"), "BACKEND", None)
    if suite and own and chosen and own != chosen:
        return f"; dm_control was imported before MUJOCO_GL={chosen} was found: set it yourself, or import it later"
    return f"; {_NO_RENDERER}" if suite or "mujoco" in type(env.unwrapped).__module__ else ""


def _shrink_buffer(env: gymnasium.Env[Any, Any], height: int, width: int) -> None:
    """Draws into a buffer of the frame's size: the same pixels as with 640 × 480, in four fifths of the time."""
    unwrapped: Any = env.unwrapped
    visual = unwrapped.physics.model.vis.global_
    visual.offheight, visual.offwidth = height, width


class _SuiteSeeds(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Refuses a seed that the suite's generator cannot take."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            check_whole("the seed of a dm_control environment", seed, least=0, most=_MOST_SEED)
        return self.env.reset(seed=seed, options=options)


class _Blind(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Black observations in place of the environment's own, which nobody looks at."""

    def __init__(self, env: gymnasium.Env[Any, Any], shape: tuple[int, int, int]) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self._black = np.zeros(shape, np.uint8)

    def observation(self, observation: Any) -> NDArray[np.uint8]:
        return self._black
