"""Environments that raise, or whose rewards are not numbers: what was measured elsewhere is kept."""

from __future__ import annotations

import json
import math

import pytest
from support.builders import make_actor

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import gymnasium
from support.command_line import run
from support.environments_for_tests import ACTION_DIM, OBSERVATION_DIM, Scripted

import snnkern
from snnkern.studies.executors import LocalExecutor
from snnkern.studies.grids import read_study
from snnkern.studies.store import Store, read_records
from snnkern.studies.study import Task, run_study

SETTING = {"neurons": ["if"], "timesteps": [2], "alphas": [0.2], "calibrations": ["max"], "calibration_steps": 20}


class Broken(Scripted):
    """Eight steps; where the seed is 13, the fourth's reward is `reward`, or it raises where that is None."""

    def __init__(self, reward: float | None = 1.0) -> None:
        super().__init__(identity=0)
        self.reward = reward

    def step(self, action):
        observation, reward, *_ = super().step(action)
        broken = self.step_in_episode == 4 and self.seeds[-1] == 13
        if broken and self.reward is None:
            raise ZeroDivisionError("the simulator has exploded")
        return observation, self.reward if broken else reward, self.step_in_episode == 8, False, {}


class Refusing(Broken):
    """It never gets beyond its first step."""

    def step(self, action):
        raise ZeroDivisionError("the simulator has exploded")


@pytest.fixture(autouse=True, scope="module")
def registered():
    names = {
        "Sound-v0": lambda: Broken(),
        "NaN-v0": lambda: Broken(math.nan),
        "Infinite-v0": lambda: Broken(math.inf),
        "Raising-v0": lambda: Broken(None),
        "Refusing-v0": Refusing,
    }
    for name, make in names.items():
        gymnasium.register(name, make, disable_env_checker=True)
    yield
    for name in names:
        del gymnasium.registry[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("NaN", "Sound", "Refusing"):
        actor = make_actor(OBSERVATION_DIM, 4, ACTION_DIM, metadata={"environment": f"{name}-v0"})
        snnkern.save(actor, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("env", ["NaN-v0", "Infinite-v0", "Raising-v0"])
def test_a_task_without_a_result_fails_alone(folder, env) -> None:
    """At every start: what is kept is not run again, and what has failed is."""
    given = {**SETTING, "actors": ["Sound.safetensors"], "environments": [env], "seeds": [1, 12, 20], "episodes": 2}
    study, store = read_study(None, given, folder=folder), Store(folder / "store")
    for start in range(2):
        ran: list[Task] = []
        records, failed = run_study(study, store, LocalExecutor(), finished=lambda task, _, ran=ran: ran.append(task))
        assert {task.seed for task in failed} == {12}
        assert len(failed) == 2
        assert len(records) == 4
        assert len(ran) == (4, 0)[start]
    wanted = "cannot be stored" if env != "Raising-v0" else "exploded"
    assert all(wanted in str(error) for error in failed.values())
    assert len(read_records(store.folder)) == 4


def test_an_environment_that_only_raises_ends_neither_trial_nor_sweep(capsys, folder) -> None:
    """The driver tries every actor out, and collects its observations, before its tasks are run."""
    (folder / "grid.json").write_text(json.dumps({**SETTING, "actors": ["Refusing.safetensors", "Sound.safetensors"]}))
    code, out, err = run(capsys, "sweep", "grid.json", "--workers", 1, "--store", "store")
    assert code == 2
    assert "2 of 4 tasks failed, the first of them Refusing.safetensors, " in err
    assert "exploded" in err
    assert "Averages over actors" in out
    assert [record["actor"] for record in read_records(folder / "store")] == ["Sound.safetensors"] * 2


def strictly(text: str) -> dict:
    """JSON as its standard has it: Python would take NaN as well."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of sums with NaN in them
@pytest.mark.parametrize(
    "setting", [[], ["--neuron", "if", "-T", 2, "--steps", 20, "--workers", 1]], ids=["one", "several"]
)
def test_evaluate_prints_json_whatever_it_measures(capsys, folder, setting) -> None:
    arguments = ["evaluate", "NaN.safetensors", "--episodes", 3, "--episode-seed", 12, *setting]
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    found = strictly(out)
    dense = found.get("dense", found)
    assert [value is None for value in dense["returns"]] == [False, True, False]
    assert dense["return_mean"] is None
    assert run(capsys, *arguments)[0] == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # nor have states a distance here
def test_an_analysis_is_kept_whatever_it_finds(capsys, folder) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code, out, _ = run(
        capsys, "analyze", "NaN.safetensors", "--steps", 20, "--episodes", 3, "--episode-seed", 12, "-o", "analysis"
    )
    assert code == 0
    assert "figures beside it" in out
    found = strictly((folder / "analysis" / "analysis.json").read_text())
    assert [value is None for value in found["returns"][0]["returns"]] == [False, True, False]
