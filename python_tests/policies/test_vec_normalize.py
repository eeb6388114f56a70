"""VecNormalize: it moves into the actor, from the wrapper or from its file, and where it is missing that is noticed.

The suite makes errors of warnings: what warns of nothing is tested by not expecting it.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from support.builders import make_actor

import snnkern
from snnkern.policies.readers import vec_normalize
from snnkern.policies.readers.sb3 import read as read_model
from snnkern.policies.spiking import dense_actor

sb3 = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed: pip install 'snnkern[sb3]'")

from stable_baselines3.common.running_mean_std import RunningMeanStd  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

ALGORITHMS = {"td3": sb3.TD3, "ddpg": sb3.DDPG, "sac": sb3.SAC, "ppo": sb3.PPO, "a2c": sb3.A2C}
ON_POLICY = ("ppo", "a2c")
BOUNDS = np.array([1.0, 1.0, 8.0])


class Drifting(gym.Env):
    """Observations that change slowly around (4, 0, 20), in a box as wide as the test wants."""

    action_space = gym.spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self, dtype, bound: float) -> None:
        self.observation_space = gym.spaces.Box(-bound, bound, (3,), dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.now = 0, np.array([4.0, 0.0, 20.0]) + self.np_random.normal(size=3)
        return self.now.astype(self.observation_space.dtype), {}

    def step(self, action):
        self.steps += 1
        self.now = self.now + 0.1 * self.np_random.normal(size=3)
        return self.now.astype(self.observation_space.dtype), 1.0, False, self.steps == 30, {}


ENVIRONMENTS = {
    "pendulum": lambda: gym.make("Pendulum-v1"),  # float32 between bounds
    "float64": lambda: Drifting(np.float64, np.inf),  # as MuJoCo's
    "float32": lambda: Drifting(np.float32, np.inf),
}


def train(env, folder: Path, algorithm: str = "td3", wrap: bool = True, steps: int = 77, rows: int = 1, **options):
    """A model that has seen a few steps, in files as people have them; returns it and its environment."""
    venv = DummyVecEnv([ENVIRONMENTS[env]] * rows)
    venv.seed(3)
    venv = VecNormalize(venv, **options) if wrap else venv
    kind = {"n_steps": 8} if algorithm in ON_POLICY else {"learning_starts": 1000, "buffer_size": 500}
    kind |= {"batch_size": 8, "n_epochs": 1} if algorithm == "ppo" else {}
    model = ALGORITHMS[algorithm]("MlpPolicy", venv, policy_kwargs={"net_arch": [9]}, seed=0, device="cpu", **kind)
    model.learn(steps)
    model.save(folder / "model.zip")
    if wrap:
        venv.save(folder / "statistics")
    return model, venv


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("given", ["path", "wrapper", "beside", "model"])
def test_the_actor_acts_on_the_environments_own_observations_as_the_model_on_normalised_ones(
    given, algorithm, tmp_path
):
    model, env = train("pendulum", tmp_path, algorithm, clip_obs=1.2, epsilon=1e-3, rows=2)
    raw = np.random.default_rng(0).uniform(-BOUNDS, BOUNDS, (50, 3)).astype(np.float32)
    seen = env.normalize_obs(raw)
    assert (np.abs(seen) == np.float32(1.2)).any()  # the clip counts
    wanted, _ = model.predict(seen, deterministic=True)
    zip_file, file = tmp_path / "model.zip", tmp_path / "statistics"
    if given == "model":
        actor = dense_actor(snnkern.from_sb3(model, raw, vec_normalize=True).actor)
    elif given == "beside":
        file.rename(tmp_path / "vecnormalize.pkl")
        actor = snnkern.load_actor(zip_file)
    else:
        actor = snnkern.load_actor(zip_file, vec_normalize=str(file) if given == "path" else env)
    np.testing.assert_allclose(actor.act(raw), wanted, rtol=0, atol=1e-5)
    names = {"path": "statistics", "beside": "vecnormalize.pkl"}
    assert actor.metadata["vec_normalize"] == names.get(given, "VecNormalize")

    snn = snnkern.from_sb3(zip_file, raw, vec_normalize=env, neuron="dc", timesteps=8).actor
    snnkern.save(snn, tmp_path / "snn.safetensors")  # the file remembers it
    again = snnkern.load(tmp_path / "snn.safetensors")
    assert again.metadata["vec_normalize"] == "VecNormalize"
    np.testing.assert_array_equal(again.act(raw), snn.act(raw))


@pytest.mark.parametrize("steps", [77, 60], ids=["inside an episode", "at its end"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("env", ENVIRONMENTS)
@pytest.mark.parametrize("wrap", [True, False], ids=["normalised", "raw"])
def test_a_zip_without_a_file_is_warned_about_where_it_was_normalised_and_nowhere_else(
    wrap, env, rows, steps, tmp_path
):
    train(env, tmp_path, wrap=wrap, rows=rows, steps=steps * rows)
    path = tmp_path / "model.zip"
    if wrap and env != "float32":  # of float32 without bounds nothing tells
        with pytest.warns(snnkern.InputWarning, match=r"had normalised.*give vec_normalize=FILE.*--vec-normalize FILE"):
            assert snnkern.load_actor(path).metadata["vec_normalize"] == "outside"
    else:
        assert "vec_normalize" not in snnkern.load_actor(path).metadata
    assert "vec_normalize" not in snnkern.load_actor(path, vec_normalize=False).metadata


@pytest.mark.parametrize("algorithm", ON_POLICY)
@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_zip_of_ppo_says_whether_it_was_normalised_but_not_how(env, algorithm, tmp_path):
    """It holds the first of the environment's observations in place of the last, and only if it was in the wrapper."""
    path, other = tmp_path / "model.zip", tmp_path / "other"
    train(env, tmp_path, algorithm, wrap=False)
    other.mkdir()
    train(env, other, algorithm)
    shutil.copy(other / "statistics", tmp_path / "vec_normalize.pkl")
    assert "vec_normalize" not in snnkern.load_actor(path).metadata
    with pytest.warns(snnkern.InputWarning, match="is it the model's"):
        snnkern.load_actor(path, vec_normalize=other / "statistics")

    shutil.copy(other / "model.zip", path)
    assert snnkern.load_actor(path).metadata["vec_normalize"] == "vec_normalize.pkl"
    (tmp_path / "vec_normalize.pkl").unlink()
    (other / "statistics").rename(tmp_path / "statistics")
    with pytest.warns(snnkern.InputWarning, match=r"had normalised.*give vec_normalize=FILE"):
        assert snnkern.load_actor(path).metadata["vec_normalize"] == "outside"
    assert "vec_normalize" not in snnkern.load_actor(path, vec_normalize=False).metadata
    assert snnkern.load_actor(path, vec_normalize=tmp_path / "statistics").interface.observation_mean is not None


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_norm_obs_false_normalises_nothing(env, tmp_path):
    _, wrapper = train(env, tmp_path, norm_obs=False)
    path = tmp_path / "model.zip"
    assert "vec_normalize" not in snnkern.load_actor(path).metadata
    for given in (tmp_path / "statistics", wrapper):
        actor = snnkern.load_actor(path, vec_normalize=given)
        assert actor.interface.observation_mean is None


NAMES = [
    "model_vecnormalize.pkl",
    "model_vec_normalize.pkl",
    "vecnormalize.pkl",
    "vec_normalize.pkl",
    "model/vecnormalize.pkl",
    "Pendulum-v1/vecnormalize.pkl",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_beside_the_zip_is_taken_by_the_names_in_use(name, tmp_path):
    train("pendulum", tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "statistics").rename(tmp_path / name)
    assert snnkern.load_actor(tmp_path / "model.zip").metadata["vec_normalize"] == name


def test_the_file_that_checkpoint_callback_writes_is_taken(tmp_path):
    train("pendulum", tmp_path)
    (tmp_path / "model.zip").rename(tmp_path / "rl_model_500_steps.zip")
    (tmp_path / "statistics").rename(tmp_path / "rl_model_vecnormalize_500_steps.pkl")
    (tmp_path / "rl_model_vecnormalize_900_steps.pkl").write_bytes(b"another")
    found = snnkern.load_actor(tmp_path / "rl_model_500_steps.zip").metadata["vec_normalize"]
    assert found == "rl_model_vecnormalize_500_steps.pkl"


def test_of_several_files_the_one_that_is_the_models_is_taken(tmp_path):
    """Every file is tried on what the model received last; a damaged one and one of another width are passed over."""
    (other := tmp_path / "other").mkdir()
    train("float32", other)
    train("pendulum", tmp_path)
    shutil.copy(other / "statistics", tmp_path / "model_vecnormalize.pkl")  # by its name it would be first
    (tmp_path / "vecnormalize.pkl").write_bytes(b"damaged")
    (tmp_path / "statistics").rename(tmp_path / "vec_normalize.pkl")
    assert snnkern.load_actor(tmp_path / "model.zip").metadata["vec_normalize"] == "vec_normalize.pkl"


@pytest.mark.parametrize("env", ["float64", "float32"])
def test_a_raw_model_takes_no_file_that_happens_to_be_there(env, tmp_path):
    (other := tmp_path / "other").mkdir()
    train(env, other)
    train(env, tmp_path, wrap=False)
    shutil.copy(other / "statistics", tmp_path / "vec_normalize.pkl")
    assert "vec_normalize" not in snnkern.load_actor(tmp_path / "model.zip").metadata
    with pytest.warns(snnkern.InputWarning, match="is it the model's"):
        actor = snnkern.load_actor(tmp_path / "model.zip", vec_normalize=tmp_path / "vec_normalize.pkl")
    assert actor.interface.observation_mean is not None  # who names a file gets it


def test_statistics_of_another_time_in_the_training_are_the_models_too(tmp_path):
    _, env = train("pendulum", tmp_path)
    env.obs_rms.mean, env.obs_rms.var = env.obs_rms.mean + 0.02, env.obs_rms.var * 1.05
    env.save(tmp_path / "vec_normalize.pkl")
    assert snnkern.load_actor(tmp_path / "model.zip").metadata["vec_normalize"] == "vec_normalize.pkl"


def test_observations_of_another_kind_are_warned_about(tmp_path):
    """The last resort, where nothing else tells: what the model received is far outside of what it is given."""
    train("float32", tmp_path)
    actor = snnkern.load_actor(tmp_path / "model.zip")
    raw = np.random.default_rng(0).normal([4, 0, 20], 1, (2_000, 3)).astype(np.float32)
    with pytest.warns(snnkern.InputWarning, match=r"not of the kind.*--vec-normalize FILE"):
        snnkern.convert(actor, raw, calibration="max")
    normalised = ((raw - raw.mean(axis=0)) / raw.std(axis=0)).astype(np.float32)
    snnkern.convert(actor, normalised, calibration="max")
    snnkern.convert(actor, raw[:5], calibration="max")  # few of them do not tell
    train("float32", tmp_path, wrap=False)
    snnkern.convert(snnkern.load_actor(tmp_path / "model.zip"), raw, calibration="max")


def test_a_model_in_memory_takes_what_its_wrapper_makes_unless_told_otherwise(tmp_path):
    model, env = train("pendulum", tmp_path)
    outside = snnkern.from_sb3(model).actor
    assert outside.interface.observation_mean is None
    with pytest.warns(snnkern.InputWarning, match="acts wrongly on the environment's own.*vec_normalize"):
        snnkern.evaluate(outside, "Pendulum-v1", episodes=1)
    snnkern.evaluate(snnkern.from_sb3(model, vec_normalize=False), "Pendulum-v1", episodes=1)
    snnkern.evaluate(snnkern.from_sb3(model, vec_normalize=True), "Pendulum-v1", episodes=1)

    alone = sb3.TD3.load(tmp_path / "model.zip", device="cpu")  # without the wrapper
    with pytest.raises(
        snnkern.InputError, match="vec_normalize=True takes the model's own VecNormalize, but it has none"
    ):
        snnkern.from_sb3(alone, vec_normalize=True)
    alone.replay_buffer = model.replay_buffer
    with (
        pytest.warns(snnkern.InputWarning, match="had normalised"),
        pytest.raises(snnkern.InputError, match="its replay buffer holds the environment's own"),
    ):
        snnkern.from_sb3(alone)
    assert snnkern.from_sb3(alone, vec_normalize=env).actor.interface.observation_mean is not None


class NoNormalize:
    """In a file it looks like something else."""


def _statistics(mean, variance) -> RunningMeanStd:
    statistics = RunningMeanStd(shape=())
    statistics.mean, statistics.var = mean, variance
    return statistics


STATISTICS = {
    "dictionary": ({"a": _statistics(np.zeros(3), np.ones(3))}, "a Dict of observations"),
    "infinite": (_statistics(np.full(3, np.inf), np.ones(3)), r"a finite mean \[N\]"),
    "negative": (_statistics(np.zeros(3), -np.ones(3)), r"a variance \[N\]"),
    "shapes": (_statistics(np.zeros(3), np.ones(2)), r"a finite mean \[N\], a variance \[N\]"),
    "texts": (_statistics("abc", np.ones(3)), "are not numbers"),
    "width": (_statistics(np.zeros(2), np.ones(2)), r"normalises 2 numbers, but the actor's observations are \[3\]"),
    "nothing": (None, "not numbers"),
}


@pytest.mark.parametrize("from_file", [False, True], ids=["wrapper", "file"])
@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_that_normalise_nothing_are_refused(name, from_file, tmp_path):
    train("pendulum", tmp_path, wrap=False)
    env = VecNormalize(DummyVecEnv([ENVIRONMENTS["pendulum"]]))
    env.obs_rms, message = STATISTICS[name]
    env.save(tmp_path / name)
    with pytest.raises(snnkern.InputError, match=message) as caught:
        snnkern.load_actor(tmp_path / "model.zip", vec_normalize=tmp_path / name if from_file else env)
    assert len(str(caught.value)) < 300


FILES = {
    "another": (pickle.dumps(NoNormalize()), "it holds .*NoNormalize, not a VecNormalize"),
    "number": (pickle.dumps(3), "it holds a int, not a VecNormalize"),
    "text": (b"statistics", "damaged, or not a pickle"),
    "empty": (b"", "damaged, or not a pickle"),
    "absent": (None, "cannot read .*absent: No such file"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_normalisation_are_refused(name, tmp_path):
    content, message = FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    snnkern.save(make_actor(3, 4, 1), tmp_path / "actor")
    with pytest.raises(snnkern.InputError, match=message):
        snnkern.load_actor(tmp_path / "actor", vec_normalize=tmp_path / name)


@pytest.mark.parametrize(
    "given", [True, 3, DummyVecEnv([ENVIRONMENTS["pendulum"]])], ids=lambda value: str(type(value))
)
def test_what_is_no_wrapper_is_refused(given, tmp_path):
    snnkern.save(make_actor(3, 4, 1), tmp_path / "actor")
    with pytest.raises(snnkern.InputError, match="must be a VecNormalize or the path of its file, got"):
        snnkern.load_actor(tmp_path / "actor", vec_normalize=given)


def test_an_actor_that_normalises_takes_no_second_normalisation(tmp_path):
    train("pendulum", tmp_path)
    snnkern.save(make_actor(3, 4, 1, observation_mean=0.0, observation_std=1.0), tmp_path / "actor")
    with pytest.raises(snnkern.InputError, match="normalises its observations already"):
        snnkern.load_actor(tmp_path / "actor", vec_normalize=tmp_path / "statistics")
    snnkern.save(make_actor(3, 4, 1), tmp_path / "actor")
    actor = snnkern.load_actor(tmp_path / "actor", vec_normalize=tmp_path / "statistics")
    assert actor.metadata["vec_normalize"] == "statistics"


@pytest.mark.parametrize("field", ["_last_obs", "_last_original_obs"])
def test_damaged_evidence_is_no_evidence(field, tmp_path):
    import json
    import zipfile

    train("pendulum", tmp_path)
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    for entry in (None, 3, {}, {":serialized:": "!"}, {":serialized:": "AAAA"}, {":serialized:": 3}):
        data[field] = entry
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (parts | {"data": json.dumps(data).encode()}).items():
                archive.writestr(name, content)
        assert vec_normalize.was_used(read_model(path.read_bytes(), path.name)) is None
