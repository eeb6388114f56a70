"""Environments for actors that see pixels: what is drawn, how frames are stacked, and processes that draw."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")

import gymnasium
import torch
from support import ROOT, painted

import snnkern
from snnkern import InputError, MissingDependencyError
from snnkern.control import environments, pixels
from snnkern.control.evaluation import RandomPolicy, evaluate
from snnkern.control.follow import follow
from snnkern.control.processes import ProcessVector
from snnkern.control.rollout import rollout
from snnkern.policies.actor import Conv
from snnkern.studies.grids import read_study

SUITE = "dm_control/cartpole-swingup-v0"
FRAME = (painted.SIDE, painted.SIDE)


@dataclass
class Sees:
    """A policy that sees pixels; its action depends on all that it sees."""

    shape: tuple[int, int, int] = (9, *FRAME)
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.interface = snnkern.Interface(self.shape, 1, observation_dtype=torch.uint8, observation_scale=255)

    def act(self, observation: np.ndarray) -> np.ndarray:
        assert observation.dtype == np.uint8
        mean = observation.reshape(-1, int(np.prod(self.shape))).mean(axis=1, dtype=np.float64)
        return np.sin(mean * 3)[:, None].astype(np.float32)


@pytest.fixture
def registered():
    """Registers the painted environment under other names, which are gone afterwards."""
    before = dict(gymnasium.registry)
    yield painted.register
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


@pytest.fixture(scope="module")
def suite():
    """The DeepMind Control Suite, where there is something that draws it."""
    try:
        pixels.prepare(SUITE, pixels.View())  # before dm_control is imported, which settles what draws
    except (InputError, MissingDependencyError) as error:
        pytest.skip(str(error))
    loaded = pytest.importorskip("dm_control.suite", reason="dm_control is not installed")
    pytest.importorskip("shimmy", reason="Shimmy is not installed")
    try:
        loaded.load("cartpole", "swingup").physics.render(8, 8)
    except Exception as error:
        pytest.skip(f"nothing draws here: {error}")
    return loaded


@pytest.mark.parametrize(
    ("name", "shape", "metadata", "view"),
    [
        pytest.param(SUITE, (9, 84, 84), {}, pixels.View((9, 84, 84), 2, 0), id="protocol"),
        pytest.param("dm_control/quadruped-walk-v0", (9, 84, 84), {}, pixels.View((9, 84, 84), 2, 2), id="quadruped"),
        pytest.param(
            SUITE,
            (12, 64, 48),
            {"action_repeat": "4", "frame_stack": "4", "camera": "1"},
            pixels.View((12, 64, 48), 4, 1),
            id="metadata",
        ),
        pytest.param(SUITE, (9, 84, 84), {"camera": "side"}, pixels.View((9, 84, 84), 2, "side"), id="a camera's name"),
        pytest.param("HalfCheetah-v5", (3, 84, 84), {}, pixels.View((3, 84, 84), 1, None), id="another"),
    ],
)
def test_what_an_actor_sees_is_the_protocol_or_what_its_metadata_say(name, shape, metadata, view):
    assert pixels.view_of(Sees(shape, metadata), name) == view


def test_who_sees_no_pixels_has_no_view():
    class Acts:
        def act(self, observation):
            return observation

    class Vector:
        interface = snnkern.Interface(5, 1)

    assert pixels.view_of(Vector(), SUITE) is None
    assert pixels.view_of(Acts(), "HalfCheetah-v5") is None
    assert pixels.view_of(Acts(), SUITE) == pixels.View((9, 84, 84), 2, 0)  # whose observations are no arrays otherwise
    Acts.observation_shape = 3, 64, 64
    assert pixels.view_of(Acts(), "HalfCheetah-v5") == pixels.View((3, 64, 64), 1)


@pytest.mark.parametrize(
    ("shape", "metadata", "message"),
    [
        ((9, *FRAME), {"frame_stack": "4"}, "frame_stack of 4, which is 12 channels, but its observations have 9"),
        ((9, *FRAME), {"action_repeat": "two"}, "metadata have action_repeat 'two', which is no whole number"),
        (
            (9, *FRAME),
            {"action_repeat": "\u0662"},
            "action_repeat '\u0662', which is no whole number of up to 9 digits",
        ),
        (
            (9, *FRAME),
            {"action_repeat": "9" * 5000},
            "action_repeat '999.*…, which is no whole number of up to 9 digits",
        ),
        ((9, *FRAME), {"frame_stack": "9" * 5000}, "frame_stack '999.*…, which is no whole number of up to 9 digits"),
        ((9, *FRAME), {"camera": "9" * 5000}, "metadata name the camera '999.*…, and not every environment lets one"),
        ((9, *FRAME), {"action_repeat": "0"}, "action_repeat of the actor's metadata must be .* at least 1, got 0"),
        ((4, *FRAME), {}, "have 4 channels, but an environment that is drawn gives 3 for each frame"),
    ],
    ids=["stack", "no number", "Arabic", "many digits", "many frames", "many cameras", "zero", "channels"],
)
def test_what_does_not_fit_the_actor_is_refused(registered, shape, metadata, message):
    with pytest.raises(InputError, match=message):
        environments.make(registered(), Sees(shape, metadata))


def test_frames_are_stacked_oldest_first_and_the_first_fills_the_stack(registered):
    env = environments.make(registered(), Sees())
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (9, *FRAME), np.uint8)
    observation, _ = env.reset(seed=40)
    below = observation[:, -1, -1].reshape(3, 3)  # frames, each with seed, step, sum of actions
    np.testing.assert_array_equal(below, [[40, 0, 128]] * 3)
    np.testing.assert_array_equal(observation[:, 0, 0], observation[:, -1, -1] // 2)  # no row is upside down
    for _ in range(4):
        observation, *_ = env.step(np.array([0.5], np.float32))
    np.testing.assert_array_equal(observation[:, -1, -1].reshape(3, 3), [[40, 2, 144], [40, 3, 152], [40, 4, 160]])
    assert observation.dtype == np.uint8
    assert observation.flags.c_contiguous
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation[:, -1, -1].reshape(3, 3), [[41, 0, 128]] * 3)
    env.close()


def test_an_action_is_repeated_and_its_rewards_are_summed_until_the_episode_ends(registered):
    env = environments.make(registered(steps=5), Sees(metadata={"action_repeat": "2"}))
    env.reset(seed=0)
    rewards, drawn, ended = [], [], False
    while not ended:
        observation, reward, ended, _, _ = env.step(np.array([0.0], np.float32))
        rewards.append(reward)
        drawn.append(observation[-2, -1, -1])
    env.close()
    assert rewards == [1 + 2, 3 + 4, 5]
    assert drawn == [2, 4, 5]


def test_frames_are_resized_to_what_the_actor_takes(registered):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    env = environments.make(registered(), Sees((3, 4, 2)))
    observation, _ = env.reset(seed=40)
    env.close()
    np.testing.assert_array_equal(observation[:, -1, -1], [40, 0, 128])
    np.testing.assert_array_equal(observation[:, 0, 0], [20, 0, 64])


@pytest.mark.parametrize(("kind", "seen"), [(painted.Images, 7), (painted.Stacks, 8)], ids=["images", "the actor's"])
def test_images_that_an_environment_gives_are_taken(registered, kind, seen):
    gymnasium.register("snnkern-tests/Images-v0", kind)
    env = environments.make("snnkern-tests/Images-v0", Sees())
    observation, _ = env.reset(seed=1)
    assert (observation == seen).all()
    assert observation.shape == (9, *FRAME)


def test_what_a_function_makes_is_taken_as_it_is(registered):
    given = painted.Stacks("rgb_array")
    assert environments.make(lambda: given, Sees(metadata={"action_repeat": "2"})) is given
    with pytest.raises(
        InputError,
        match=r"observation space is Box.*float32\), but the actor's .* uint8 \[9, 8, 8\]: give the env.* is drawn$",
    ):
        snnkern.collect(visual_actor(), lambda: painted.Painted("rgb_array"), 3)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (painted.Dark, "'snnkern-tests/Bad-v0' cannot be drawn: it has no render mode rgb_array"),
        (painted.Hidden, "'snnkern-tests/Bad-v0' cannot be drawn: RuntimeError: no screen"),
        (painted.Bright, "'snnkern-tests/Bad-v0' draws images of float32, but uint8 from 0 to 255 is wanted"),
        (painted.Flat, r"'snnkern-tests/Bad-v0' gives images \[8, 8\], but \[height, width, 3\] are needed"),
    ],
)
@pytest.mark.parametrize("rows", [1, 2], ids=["here", "in a process"])
def test_an_environment_that_cannot_be_drawn_is_refused(registered, monkeypatch, kind, message, rows):
    gymnasium.register("snnkern-tests/Bad-v0", kind)
    monkeypatch.setattr(environments, "cores", lambda: 2)
    with pytest.raises(InputError, match=message):
        environments.make_vector("snnkern-tests/Bad-v0", rows, Sees())


def test_a_frame_without_pixels_is_refused(registered):
    gymnasium.register("snnkern-tests/Bad-v0", painted.Empty)
    with pytest.raises(InputError, match=r"'snnkern-tests/Bad-v0' gives images \[0, 0, 3\], but \[height, width, 3\]"):
        environments.make("snnkern-tests/Bad-v0", Sees())


def test_a_camera_that_cannot_be_chosen_is_named(registered):
    with pytest.raises(InputError, match=r"TypeError: .*: the actor's metadata name the camera 1"):
        environments.make(registered(), Sees(metadata={"camera": "1"}))


BOX = gymnasium.spaces.Box


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (BOX(0, 255, (*FRAME, 9), np.uint8), r"uint8 \[9, 8, 8\]: channels stand first in them, and last in the env"),
        (BOX(0, 255, (3, 3, *FRAME), np.uint8), r"uint8 \[9, 8, 8\]: its frames are stacked in the channels"),
        (BOX(0, 1, (9, *FRAME), np.float32), r"space is Box.*float32\), but the actor's observations are uint8"),
        (BOX(0, 255, (12, *FRAME), np.uint8), r"space is Box.*\(12, 8, 8\), uint8\), .* uint8 \[9, 8, 8\]$"),
        (gymnasium.spaces.Dict({}), r"space is Dict\(\), but .* \[9, 8, 8\]: give the environment's registered name"),
    ],
    ids=["order", "frames", "dtype", "stack", "dict"],
)
def test_spaces_of_images_are_checked(space, message):
    with pytest.raises(InputError, match=message):
        environments.check_spaces(Sees().interface, space, BOX(-1, 1, (1,), np.float32))


def test_a_space_that_fits_passes():
    environments.check_spaces(Sees().interface, BOX(0, 255, (9, *FRAME), np.uint8), BOX(-1, 1, (1,), np.float32))


# The suite


def drawn(physics) -> np.ndarray:
    return physics.render(84, 84, camera_id=0).transpose(2, 0, 1)


def test_the_suite_is_seen_as_published(suite):
    """Beside the suite itself, whose own buffer draws the frames: the same pixels and rewards."""
    own = suite.load("cartpole", "swingup", task_kwargs={"random": 1000})
    own.reset()
    env = environments.make(SUITE, Sees((9, 84, 84)))
    assert env.observation_space == BOX(0, 255, (9, 84, 84), np.uint8)
    assert (env.action_space.low, env.action_space.high) == (-1, 1)
    observation, _ = env.reset(seed=1000)
    frames = [drawn(own.physics)] * 3
    np.testing.assert_array_equal(observation, np.concatenate(frames))
    for action in ([0.25], [-1.0]):
        observation, reward, terminated, truncated, _ = env.step(np.array(action, np.float32))
        assert reward == sum(own.step(action).reward for _ in range(2))
        frames = [*frames[1:], drawn(own.physics)]
        np.testing.assert_array_equal(observation, np.concatenate(frames))
        assert (terminated, truncated) == (False, False)
    assert len(np.unique(observation)) > 10  # a picture
    # A seed has the first episode of its generator, and the next reset goes on with it.
    own.reset()
    np.testing.assert_array_equal(env.reset()[0][:3], drawn(own.physics))
    env.close()


def test_an_episode_of_the_suite_has_500_decisions_and_draws_nothing_for_who_does_not_look(suite, monkeypatch):
    monkeypatch.setattr("dm_control.mujoco.Physics.render", None)
    policy = RandomPolicy(SUITE, 0, Sees((9, 84, 84)))
    result = evaluate(policy, SUITE, episodes=2)
    assert result.lengths == (500, 500)
    assert all(0 < value < 1000 for value in result.returns)
    assert environments.limit(SUITE, Sees((9, 84, 84))) == 500


@pytest.mark.parametrize(
    ("env", "camera", "known"),
    [(SUITE, "side", "0 'fixed', 1 'lookatcart'"), (SUITE, "2", "0 'fixed'"), ("HalfCheetah-v5", "side", "0 'track'")],
)
def test_a_camera_that_is_not_there_is_refused_before_anything_is_drawn(suite, env, camera, known):
    """MuJoCo's renderers raise errors that seem to be their own, or draw with another one."""
    with pytest.raises(InputError, match=rf"'{env}' has no camera '?{camera}'?: its model has {known}"):
        environments.make(env, Sees((9, 84, 84), {"camera": camera}))


def test_a_seed_that_the_suite_cannot_take_is_refused(suite):
    env = environments.make(SUITE, RandomPolicy(SUITE, 0, Sees((9, 84, 84))))
    with pytest.raises(InputError, match=r"seed of a dm_control environment must be .* at most 4,294,967,295"):
        env.reset(seed=2**32)


HEADLESS = f"""
from types import SimpleNamespace
from snnkern.control import environments, pixels
blind = SimpleNamespace(view=pixels.View(blind=True))
environments.make({SUITE!r}, blind).close()  # which imports dm_control
environments.make({SUITE!r}, SimpleNamespace(observation_shape=(9, 84, 84))).close()
print("drawn")
"""


@pytest.mark.usefixtures("suite")
def test_a_renderer_is_found_before_dm_control_is_imported_for_anything():
    env = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", HEADLESS], capture_output=True, text=True, env=env)
    assert done.stdout == "drawn\n", done.stderr


TRITON_AFTERWARDS = f"""
import torch
from types import SimpleNamespace
from snnkern.control import environments
environments.make({SUITE!r}, SimpleNamespace(observation_shape=(9, 84, 84))).close()
torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])  # which imports Triton where it is installed
print("trains")
"""


@pytest.mark.usefixtures("suite")
def test_a_process_that_has_drawn_can_train():
    done = subprocess.run([sys.executable, "-c", TRITON_AFTERWARDS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "trains\n"), done.stderr


DRAWN_BEFORE = """
import types, torch
from dm_control import suite
suite.load("cartpole", "swingup").physics.render(8, 8)
from snnkern.control import environments, pixels
policy = types.SimpleNamespace(view=pixels.View((9, 84, 84), 2, 0))
environments.make("dm_control/cartpole-swingup-v0", policy).reset(seed=0)
print("sees")
"""


@pytest.mark.usefixtures("suite")
@pytest.mark.thorough
def test_a_process_in_which_others_have_drawn_makes_environments():
    """In which Triton, if it were loaded now, would end the process."""
    done = subprocess.run([sys.executable, "-c", DRAWN_BEFORE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "sees\n"), done.stderr


@pytest.mark.usefixtures("suite")
def test_a_renderer_that_is_none_is_one_clear_error():
    env = os.environ | {"MUJOCO_GL": "nonsense"}
    done = subprocess.run([sys.executable, "-c", HEADLESS], capture_output=True, text=True, env=env)
    assert "InputError: the DeepMind Control Suite cannot be imported: RuntimeError: " in done.stderr
    assert "libegl1 and libgl1-mesa-dri" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("package", "named"), [("dm_control", "dm_control"), ("shimmy", "shimmy")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, package, named):
    monkeypatch.setattr(pixels, "find_renderer", lambda: None)
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    absent = Absent(package)
    monkeypatch.setattr(sys, "meta_path", [absent, *sys.meta_path])
    if package == "shimmy":
        monkeypatch.setitem(sys.modules, "dm_control", sys)
    with pytest.raises(snnkern.MissingDependencyError, match=rf"needs {named}, .*pip install 'snnkern\[pixels\]'"):
        environments.make(SUITE, Sees((9, 84, 84)))


class Absent:
    """Finds no module of this package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def test_a_release_of_mujoco_that_the_suite_does_not_run_beside_is_named(monkeypatch):
    def make(*arguments, **options):
        raise AttributeError("'MjModel' object has no attribute 'flex_vertedge'")

    monkeypatch.setattr(pixels, "prepare", lambda env, view: None)
    monkeypatch.setattr(pixels, "installed", {"mujoco": "4.0.0", "dm_control": "1.0.50"}.get)
    monkeypatch.setattr("gymnasium.make", make)
    message = "'flex_vertedge': dm_control 1.0.50 may not run beside mujoco 4.0.0: pip install 'mujoco<4'"
    with pytest.raises(InputError, match=message):
        environments.make(SUITE, Sees((9, 84, 84)))
    monkeypatch.setattr(pixels, "installed", {"mujoco": "3.17.0", "dm_control": "1.0.50"}.get)
    with pytest.raises(InputError, match=r"'flex_vertedge'$"):
        environments.make(SUITE, Sees((9, 84, 84)))


@pytest.fixture
def no_choice(monkeypatch):
    """As on a machine without a display, where nobody has chosen a renderer yet; gives what has been tried."""
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    pixels.find_renderer.cache_clear()
    tried = []

    def run(works, arguments, env, **options):
        tried.append(env["MUJOCO_GL"])
        return subprocess.CompletedProcess(arguments, 0 if env["MUJOCO_GL"] in works else 1)

    yield lambda *works: monkeypatch.setattr(subprocess, "run", functools.partial(run, works)) or tried
    pixels.find_renderer.cache_clear()


def test_the_renderer_that_draws_is_chosen(no_choice, monkeypatch):
    tried = no_choice("osmesa")
    monkeypatch.setenv("MUJOCO_GL", "")  # so that the choice is undone after the test
    pixels.find_renderer()
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert tried == ["egl", "osmesa"]


@pytest.mark.parametrize("name", ["MUJOCO_GL", "DISPLAY"])
def test_who_has_chosen_or_has_a_display_is_left_alone(no_choice, monkeypatch, name):
    tried = no_choice()
    monkeypatch.setenv(name, "glfw")
    pixels.find_renderer()
    assert not tried


def test_without_a_renderer_the_packages_are_named(no_choice):
    no_choice()
    with pytest.raises(InputError, match=r"libegl1 and libgl1-mesa-dri, OSMesa needs libosmesa6 \(MUJOCO_GL=egl or"):
        environments.make(SUITE, Sees((9, 84, 84)))


# Processes


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(environments, "cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_episodes_are_the_same_in_processes_and_in_this_one(registered, monkeypatch):
    name = registered()
    envs = environments.make_vector(name, 3, Sees())
    assert isinstance(envs, ProcessVector)
    assert len(envs.processes) == 2
    assert envs.single_observation_space == BOX(0, 255, (9, *FRAME), np.uint8)
    with_processes = rollout(Sees(), envs, episodes=3, seed=90)
    envs.close()
    monkeypatch.setattr(environments, "cores", lambda: 1)
    envs = environments.make_vector(name, 3, Sees())
    assert isinstance(envs, gymnasium.vector.SyncVectorEnv)
    without = rollout(Sees(), envs, episodes=3, seed=90)
    np.testing.assert_array_equal(with_processes.returns, without.returns)
    np.testing.assert_array_equal(with_processes.lengths, without.lengths)


def test_a_worker_of_several_draws_by_itself(registered, monkeypatch):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(environments.cores) == 1
    monkeypatch.setattr(environments, "_alone", False)
    assert environments.cores() == len(os.sched_getaffinity(0))
    environments.draw_alone()
    assert isinstance(environments.make_vector(registered(), 2, Sees()), gymnasium.vector.SyncVectorEnv)


@pytest.mark.usefixtures("two_cores")
def test_only_rows_of_the_mask_are_reset_in_processes(registered):
    envs = environments.make_vector(registered(), 3, Sees())
    first, _ = envs.reset(seed=5)
    assert first[:, 0, -1, -1].tolist() == [5, 6, 7]
    kept = first.copy()
    stepped, reward, terminated, truncated, _ = envs.step(np.full((3, 1), 0.5, np.float32))
    np.testing.assert_array_equal(first, kept)  # what was given is not written over
    assert reward.tolist() == [1, 1, 1]
    assert not (terminated | truncated).any()
    again, _ = envs.reset(seed=[1, 2, 3], options={"reset_mask": np.array([False, False, True])})
    envs.close()
    np.testing.assert_array_equal(again[:2], stepped[:2])
    assert again[2, :, -1, -1].reshape(3, 3).tolist() == [[3, 0, 128]] * 3


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        ("raises", OverflowError, "out of paint"),
        ("dies", snnkern.Error, r"process that draws environments 0 … 1 has died \(signal SIGKILL; out of memory\?\)"),
    ],
)
def test_a_process_that_fails_is_one_error_and_no_process_is_left(registered, broken, error, message):
    envs = environments.make_vector(registered(broken=broken), 3, Sees())
    processes = envs.processes
    with pytest.raises(error, match=message):
        rollout(Sees(), envs)
    envs.close()
    assert not running(processes)


SCRIPT = """
import numpy as np
from support import painted
from snnkern.control import environments
class Interface: observation_shape = 9, painted.SIDE, painted.SIDE
class Sees: interface = Interface()
environments.cores = lambda: 2
envs = environments.make_vector(painted.register(), 2, Sees())
print(*envs.processes, flush=True)
while True:
    envs.reset(seed=0)
    envs.step(np.zeros((2, 1), np.float32))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_program(tmp_path: Path, sent):
    """Nor does a program need `if __name__ == "__main__":`."""
    file = tmp_path / "program.py"
    file.write_text(SCRIPT)
    program = subprocess.Popen(
        [sys.executable, file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'python_tests'}{os.pathsep}{ROOT}"},
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )
    processes = [int(text) for text in program.stdout.readline().split()]
    assert len(processes) == 2
    if sent == signal.SIGINT:
        os.killpg(program.pid, sent)  # as a terminal does
    else:
        program.kill()
    _, errors = program.communicate()
    assert program.returncode == -sent
    assert errors.count("Traceback") == (sent == signal.SIGINT)  # the program's own
    deadline = time.monotonic() + 60
    while running(processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(processes)


def running(processes) -> list[int]:
    found = []
    for process in processes:
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat")
            if not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(process)
        except (ProcessLookupError, FileNotFoundError):  # noqa: PERF203
            continue
    return found


# Policies


def visual_actor() -> snnkern.Actor:
    generator = torch.Generator().manual_seed(0)
    convolution = torch.randn(4, 9, 3, 3, generator=generator) / 9, torch.zeros(4)
    width = 4 * 3 * 3
    output = torch.randn(1, width, generator=generator) / width**0.5, torch.zeros(1)
    interface = snnkern.Interface(
        (9, *FRAME), 1, observation_dtype=torch.uint8, observation_scale=255, observation_offset=-0.5
    )
    return snnkern.Actor([Conv(*convolution, (2, 2), (0, 0))], output, interface)


def test_collect_gives_the_frames_that_the_actor_sees(registered):
    actor, heard = visual_actor(), []
    observations = snnkern.collect(actor, registered(), 120, seed=3, progress=heard.append)
    assert observations.shape == (120, 9, *FRAME)
    assert observations.dtype == np.uint8
    assert heard == [50, 100, 120]
    env = environments.make(painted.NAME, actor)
    expected, (observation, _) = [], env.reset(seed=3)
    while len(expected) < 120:
        expected.append(observation)
        observation, _, terminated, truncated, _ = env.step(actor.act(observation))
        if terminated or truncated:
            observation, _ = env.reset()
    np.testing.assert_array_equal(observations, expected)


def test_as_many_images_are_collected_as_published():
    from snnkern.control.collect import calibration_steps

    assert calibration_steps(visual_actor()) == 5_000
    with pytest.raises(InputError, match="steps must be a whole number of at most 6,944,444"):
        snnkern.collect(visual_actor(), "Pendulum-v1", 10**8)


@pytest.mark.usefixtures("two_cores")
def test_a_spiking_actor_sees_and_is_evaluated(registered):
    name, actor = registered(), visual_actor()
    snn = snnkern.convert(actor, thresholds=[torch.full((4,), 0.2)], neuron="if", timesteps=4)
    found = evaluate(snn, name, episodes=4)
    assert found.lengths == (7,) * 4
    assert found.spikes[0] > 0
    one_by_one = evaluate(snn, name, episodes=4, rows=1)
    assert found == one_by_one


@pytest.mark.usefixtures("two_cores")
def test_an_actor_that_sees_is_swept(registered):
    name, actor = registered(), visual_actor()
    found = snnkern.sweep(
        actor, name, snnkern.grid(["dc"], [4], [0]), observations=snnkern.collect(actor, name, 20), episodes=2
    )
    assert found.dense.lengths == (7, 7)
    assert [spiking.lengths for _, spiking in found.results] == [(7, 7)]


def test_all_that_spikes_is_reset_and_counted():
    """Anything with `act`, `reset` and `spikes`."""

    class Counts:
        def __init__(self):
            self.resets, self.decisions = [], 0
            self.spikes = np.zeros((2, 3), np.int64)

        def reset(self, mask=None):
            self.resets.append(None if mask is None else mask.tolist())

        def act(self, observation):
            self.decisions += 1
            self.spikes = np.arange(6).reshape(2, 3)
            return np.zeros((3, 1), np.float32)

    envs = gymnasium.vector.SyncVectorEnv(
        [functools.partial(painted.Painted, steps=steps) for steps in (2, 3, 3)],
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,
    )
    policy = Counts()
    result = rollout(policy, envs)
    assert policy.resets == [None, [True, False, False], [False, True, True]]
    assert policy.decisions == 3
    np.testing.assert_allclose(result.spikes, [(2 * 0 + 3 * 1 + 3 * 2) / 8, (2 * 3 + 3 * 4 + 3 * 5) / 8])


def test_a_random_policy_does_not_look_and_takes_images(registered):
    policy = RandomPolicy(registered(), 0, Sees())
    assert policy.act(np.zeros((3, 9, *FRAME), np.uint8)).shape == (3, 1)
    assert policy.act(np.zeros((9, *FRAME), np.uint8)).shape == (1,)
    assert evaluate(policy, painted.NAME, episodes=2).lengths == (7, 7)


def test_what_others_would_do_is_recorded_with_images(registered):
    name = registered()
    policy = Sees(metadata={"action_repeat": "2"})
    found = follow("a", {"a": policy, "random": RandomPolicy(name, 0, policy)}, name, episodes=2, seed=90)
    assert found.observations.shape == (4, 2, 9, *FRAME)
    assert found.observations.dtype == np.uint8
    assert found.lengths.tolist() == [4, 4]
    for rewards in found.rewards.values():
        np.testing.assert_array_equal(rewards[:, 0], [1 + 2, 3 + 4, 5 + 6, 7])
    assert found.observations[-1, :, -3:-1, -1, -1].tolist() == [[90, 6], [91, 6]]


def test_a_study_collects_as_many_as_an_actor_takes(registered, tmp_path):
    actor = visual_actor()
    snnkern.save(actor, tmp_path / "actor.safetensors")
    (tmp_path / "grid.json").write_text(
        json.dumps({"actors": [{"name": "actor.safetensors", "environment": registered()}, "td3-hopper"]})
    )
    assert read_study(tmp_path / "grid.json").steps == [5_000, 30_000]
