"""Studies: grids from files, what a store keeps, and a sweep that is killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from pathlib import Path

import filelock
import msgspec
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

from support import ROOT
from support.builders import make_actor
from support.sweep_processes import kill_worker_then_sweep, stored, sweeping

import snnkern
from snnkern.control import evaluation
from snnkern.control.evaluation import Evaluation
from snnkern.errors import InputError
from snnkern.report.html import chosen_table
from snnkern.studies import grids
from snnkern.studies.estimate import RemainingTime
from snnkern.studies.executors import LocalExecutor
from snnkern.studies.grids import read_study
from snnkern.studies.results import collect_results
from snnkern.studies.settings import Setting
from snnkern.studies.store import Store, read_records, write_records
from snnkern.studies.study import found_in, run_study

SMALL = {
    "actors": ["tiny.safetensors"],
    "neurons": ["if"],
    "timesteps": [2],
    "alphas": [0.2],
    "calibrations": ["max"],
    "calibration_steps": 50,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """With a small actor for Hopper, which falls soon."""
    snnkern.save(make_actor(11, 12, 9, 3, metadata={"environment": "Hopper-v5"}), tmp_path / "tiny.safetensors")
    return tmp_path


def study(folder: Path, **given):
    return read_study(None, {**SMALL, **given}, folder=folder)


MISTAKES = {
    "unknown key": ({"neuron": ["if"]}, r"the grid .*grid\.json: Object contains unknown field `neuron`"),
    "unknown key of a part": ({"grids": [{"seeds": [1]}]}, "one of the grids of .*contains unknown field `seeds`"),
    "parts": ({"grids": []}, "grids must be a list of tables"),
    "no list": ({"alphas": 0.2}, r"Expected `array`, got `float` - at `\$\.alphas`"),
    "an empty list": ({"seeds": []}, r"Expected `array` of length >= 1 - at `\$\.seeds`"),
    "no actors": ({"actors": []}, r"Expected `array` of length >= 1 - at `\$\.actors`"),
    "no such actor": ({"actors": ["nobody"]}, "no actor"),
    "unknown neuron": ({"neurons": ["izhikevich"]}, "unknown neuron 'izhikevich'"),
    "alpha": ({"alphas": [2]}, r"alpha \(α\) must be a number from 0 to 1, got 2.0"),
    "a list of alphas": ({"alphas": [[0.2]]}, r"Expected `float \| str`, got `array` - at `\$\.alphas\[0\]`"),
    "a list of seeds": ({"seeds": [[1]]}, r"Expected `int`, got `array` - at `\$\.seeds\[0\]`"),
    "a negative seed": ({"seeds": [-1]}, r"Expected `int` >= 0 - at `\$\.seeds\[0\]`"),
    "episodes": ({"episodes": "ten"}, r"Expected `int`, got `str` - at `\$\.episodes`"),
    "alpha by a name": ({"alphas": ["best"]}, "'best'"),
    "calibration": ({"calibrations": ["mean"]}, "unknown calibration 'mean'"),
    "timesteps": ({"timesteps": [0]}, r"timesteps \(T\) must be a whole number of at least 1, got 0"),
    "too many timesteps": ({"timesteps": [2**31]}, r"timesteps \(T\) must be a whole number of at most 100,000"),
    "a number of 400 digits": ({"alphas": [10**400]}, r"Number out of range - at `\$\.alphas\[0\]`"),
    "too many settings": ({"alphas": [0.5] * 1000, "timesteps": [2] * 1000}, "at most 100,000 settings, got 1,000,000"),
    "shared episodes": ({"seeds": [0, 5]}, "seeds 0 and 5 share episodes: 10 episodes"),
    "environment": ({"environments": ["HalfCheetah-v5"]}, "the actor's observations are"),
    "an actor twice": ({"environments": ["Hopper-v4", "Hopper-v4"]}, "in Hopper-v4 is in the grid twice"),
    "key of an actor": (
        {"actors": [{"name": "tiny.safetensors", "env": "Hopper-v5"}]},
        "contains unknown field `env`",
    ),
}


class TestGrid:
    def test_a_file_holds_all_of_it(self, folder) -> None:
        content = {
            "actors": [{"name": "tiny.safetensors", "environment": "Hopper-v4"}, "tiny.safetensors"],
            "neurons": ["if", "mt"],
            "timesteps": [2, 4],
            "alphas": [0, 0.5],
            "memories": [1],
            "calibrations": ["percentile:99"],
            "levels": 3,
            "seeds": [0, 20],
            "episodes": 3,
            "dense_episodes": 5,
            "calibration_steps": 70,
            "calibration_seed": 4,
        }
        (folder / "grid.json").write_text(json.dumps(content))
        found = read_study(folder / "grid.json")
        assert [subject.environment for subject in found.subjects] == ["Hopper-v4", "Hopper-v5"]
        assert len(found.settings) == 8
        assert found.settings[-1] == Setting(snnkern.MT(levels=3), 4, 0.5, 1.0, "percentile:99")
        assert (found.seeds, found.episodes, found.dense_episodes) == ((0, 20), 3, 5)
        assert len(found.tasks) == 2 * (1 + 8) * 2
        assert [task.episodes for task in found.tasks[:3]] == [5, 5, 3]
        description = found.describe(found.tasks[-1])
        assert description["calibration"] == {"rule": "percentile:99", "steps": 70, "seed": 4}
        assert description["setting"]["neuron"]["levels"] == 3
        assert (description["environment"], description["seed"], description["episodes"]) == ("Hopper-v5", 20, 3)

    def test_toml_and_options_that_go_before_it(self, folder) -> None:
        pytest.importorskip("tomllib", reason="this Python reads no TOML")
        (folder / "grid.toml").write_text(
            'actors = ["tiny.safetensors"]\nneurons = ["dc"]\nepisodes = 7\nalphas = [0]\n'
            "[[grids]]\ntimesteps = [2, 4]\n[[grids]]\ntimesteps = [4]\nalphas = [0, 1]\n"
        )
        found = read_study(folder / "grid.toml")
        assert [(setting.timesteps, setting.alpha) for setting in found.settings] == [(2, 0.0), (4, 0.0), (4, 1.0)]
        changed = read_study(folder / "grid.toml", {"alphas": [0.3], "episodes": 1, "neurons": None})
        assert [(setting.timesteps, setting.alpha) for setting in changed.settings] == [(2, 0.3), (4, 0.3)]
        assert (changed.episodes, changed.settings[0].neuron.name) == (1, "dc")

    def test_committed_grids_can_be_read(self) -> None:
        pytest.importorskip("tomllib", reason="this Python reads no TOML")
        found = read_study(ROOT / "bench" / "grids" / "zoo.toml")
        actors = map(snnkern.load_actor, snnkern.zoo.names())
        assert len(found.subjects) == sum(len(actor.interface.observation_shape) == 1 for actor in actors)

    def test_the_docs_have_every_key_and_its_default(self) -> None:
        toml = pytest.importorskip("tomllib", reason="this Python reads no TOML")
        page = (ROOT / "docs" / "report.md").read_text()
        (block,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
        shown = toml.loads(re.sub("^# (levels|dense_episodes|calibration_steps)", r"\1", block, flags=re.MULTILINE))
        assert tuple(sorted(shown)) == tuple(sorted(grids.Grid.__struct_fields__))
        default = msgspec.to_builtins(grids.Grid(actors=("any",)), builtin_types=())
        usual = {key: value for key, value in json.loads(json.dumps(default)).items() if value and key != "actors"}
        assert usual.items() <= shown.items()

    def test_environments_are_for_actors_without_their_own(self, folder) -> None:
        found = study(folder, environments=["Hopper-v4", "Hopper-v5"])
        assert [subject.environment for subject in found.subjects] == ["Hopper-v4", "Hopper-v5"]

    @pytest.mark.parametrize(("changed", "message"), MISTAKES.values(), ids=MISTAKES)
    def test_a_mistake_is_named_before_anything_runs(self, folder, changed, message) -> None:
        (folder / "grid.json").write_text(json.dumps({**SMALL, **changed}))
        with pytest.raises(InputError, match=message):
            read_study(folder / "grid.json")

    def test_a_file_that_is_no_grid_is_named(self, folder) -> None:
        (folder / "grid.json").write_text("{")
        with pytest.raises(InputError, match=r"the grid .*grid\.json is not JSON"):
            read_study(folder / "grid.json")
        with pytest.raises(InputError, match=r"cannot read .*none\.toml: No such file"):
            read_study(folder / "none.toml")

    def test_toml_that_no_reader_bears_is_named(self, folder) -> None:
        pytest.importorskip("tomllib", reason="this Python reads no TOML")
        for text in ("a = " + 10_000 * "[", f"seeds = [{5000 * '9'}]", "\udcff"):
            (folder / "grid.toml").write_bytes(text.encode(errors="surrogateescape"))
            with pytest.raises(InputError, match=r"the grid .*grid\.toml is not TOML"):
                read_study(folder / "grid.toml")


class TestRuns:
    """With `evaluate` replaced by a count."""

    @pytest.fixture(autouse=True)
    def count(self, monkeypatch) -> None:
        self.ran: list[tuple[str, int, int]] = []

        def fake(policy, env, *, episodes, seed):
            name = policy.dynamics.neuron.name if isinstance(policy, snnkern.SpikingActor) else "dense"
            if name == getattr(self, "fails_at", None):
                raise ValueError("something is wrong")
            self.ran.append((name, episodes, seed))
            return Evaluation((1.0,) * episodes, (5,) * episodes, () if name == "dense" else (3.0, 2.0))

        monkeypatch.setattr(evaluation, "evaluate", fake)

    def test_every_task_runs_once_and_is_kept_with_all_there_is_to_say(self, folder) -> None:
        grid = study(folder, neurons=["if", "dc"], seeds=[0, 10], dense_episodes=4)
        store = Store(folder / "store")
        records, failed = run_study(grid, store, LocalExecutor())
        assert failed == {}
        numbers = {"dense": 4, "if": 10, "dc": 10}
        assert self.ran == [(name, episodes, seed) for name, episodes in numbers.items() for seed in (0, 10)]
        assert list(records) == grid.tasks
        record = records[grid.tasks[-1]]
        assert record["actor"] == "tiny.safetensors"
        assert record["result"]["spikes"] == (3.0, 2.0)
        assert record["result"]["dynamics"]["alpha"] == 0.2
        assert record["result"]["calibration"] == "max"
        assert set(record["run"]) == {"seconds", "finished"}
        assert record["task"]["versions"]["mujoco"]
        again, _ = run_study(grid, store, LocalExecutor())
        assert len(self.ran) == 6
        assert json.dumps([*again.values()]) == json.dumps([*records.values()])

    def test_a_larger_grid_runs_only_what_is_new(self, folder) -> None:
        store = Store(folder / "store")
        run_study(study(folder), store, LocalExecutor())
        self.ran.clear()
        heard = []
        larger = study(folder, alphas=[0, 0.2])
        run_study(larger, store, LocalExecutor(), finished=lambda task, record: heard.append(task.setting.alpha))
        assert heard == [0.0]
        assert len(self.ran) == 1

    def test_calibration_data_are_collected_once(self, folder, monkeypatch) -> None:
        store = Store(folder / "store")
        run_study(study(folder), store, LocalExecutor())
        monkeypatch.setattr("snnkern.studies.study.collect", lambda *arguments: pytest.fail("collected again"))
        run_study(study(folder, alphas=[0.7]), store, LocalExecutor())
        (file,) = store.folder.glob("*.npy")
        assert np.load(file).shape == (50, 11)

    def test_a_task_that_fails_leaves_the_others(self, folder) -> None:
        grid, store = study(folder, neurons=["if", "dc"]), Store(folder / "store")
        self.fails_at = "if"
        records, failed = run_study(grid, store, LocalExecutor())
        (task,) = failed
        assert (task.setting.neuron.name, str(failed[task])) == ("if", "something is wrong")
        assert len(records) == 2
        self.fails_at = None
        records, failed = run_study(grid, store, LocalExecutor())
        assert (len(records), failed, len(self.ran)) == (3, {}, 3)

    def test_names_of_rules_reach_convert_and_what_they_chose_is_kept(self, folder, monkeypatch) -> None:
        def convert(actor, observations, *, alpha, calibration, **others):
            assert (alpha, calibration) == ("auto", "percentile:99")
            return real(actor, observations, alpha=0.3, calibration="max", **others)

        real = snnkern.convert
        for module in ("grids", "study"):
            monkeypatch.setattr(f"snnkern.studies.{module}.convert", convert)
        grid = study(folder, alphas=["auto"], memories=[0.5], calibrations=["percentile:99"])
        records, _ = run_study(grid, Store(folder / "store"), LocalExecutor())
        record = records[grid.tasks[-1]]
        assert (record["task"]["setting"]["alpha"], record["task"]["calibration"]["rule"]) == ("auto", "percentile:99")
        assert (record["result"]["dynamics"]["alpha"], record["result"]["dynamics"]["memory"]) == (0.3, 0.5)
        (point,) = collect_results("rules", [*records.values()]).points
        assert (point.setting.alpha, point.setting.memory) == ("auto", 0.5)
        shown = chosen_table(collect_results("rules", [*records.values()]))
        assert [row[3:] for row in shown.rows] == [("percentile:99 (50 steps, seed 0)", "0.3")]

    def test_every_worker_computes_by_the_backend_that_was_chosen_here(self, folder, monkeypatch) -> None:
        """And not by another one that "auto" may mean there: records name it."""
        asked = []

        def convert(*arguments, backend, **others):
            asked.append(backend)
            return real(*arguments, backend=backend, **others)

        real = snnkern.convert
        monkeypatch.setattr("snnkern.studies.study.convert", convert)
        grid = study(folder)
        run_study(grid, Store(folder / "store"), LocalExecutor())
        assert asked == [grid.describe(grid.tasks[-1])["backend"]]
        assert asked != ["auto"]

    def test_observations_of_several_actors_are_collected_as_tasks(self, folder) -> None:
        """By two workers here, with the same outcome as by one process."""
        snnkern.save(make_actor(11, 8, 3, metadata={"environment": "Hopper-v5"}), folder / "other.safetensors")
        grid = study(folder, actors=["tiny.safetensors", "other.safetensors"])
        heard: list[tuple[int, int]] = []
        for name, workers in (("one", 1), ("two", 2)):
            store = Store(folder / name)
            run_study(grid, store, LocalExecutor(workers), collected=lambda *counts: heard.append(counts))
        assert heard == 2 * [(0, 2), (1, 2), (2, 2)]
        files = [{file.name: file.read_bytes() for file in (folder / name).glob("*.npy")} for name in ("one", "two")]
        assert files[0] == files[1]
        assert len(files[0]) == 2

    def test_a_second_sweep_on_the_same_store_is_refused(self, folder) -> None:
        grid, store = study(folder), Store(folder / "store")
        with store.alone(), pytest.raises(InputError, match="another sweep is at work on"):
            run_study(grid, store, LocalExecutor())
        run_study(grid, store, LocalExecutor())

    @pytest.mark.parametrize(
        ("number", "refused"), [(errno.ENOSYS, False), (errno.ENOTSUP, False), (errno.EACCES, True)]
    )
    def test_a_file_system_without_locks_keeps_nobody_out(self, folder, monkeypatch, number, refused) -> None:
        def acquire(lock, **options) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
        store = Store(folder / "store")
        with pytest.raises(InputError, match=r"cannot lock .*store: ") if refused else contextlib.nullcontext():
            records, _ = run_study(study(folder), store, LocalExecutor())
            assert len(records) == 2

    def test_a_record_under_another_name_is_refused(self, folder) -> None:
        """A copy of one task's file does not stand for another task, nor does it count in a report."""
        grid, store = study(folder, neurons=["if", "dc"]), Store(folder / "store")
        records, _ = run_study(grid, store, LocalExecutor())
        first, second = (store.path(records[task]["task"]) for task in grid.tasks[-2:])
        second.write_bytes(first.read_bytes())
        for read in (lambda: run_study(grid, store, LocalExecutor()), lambda: read_records(store.folder)):
            with pytest.raises(InputError, match=f"{second.name} holds another task's result than its name says"):
                read()
        second.unlink()
        self.ran.clear()
        run_study(grid, store, LocalExecutor())
        assert len(self.ran) == 1

    @pytest.mark.parametrize("content", [np.zeros((50, 12), np.float32), np.full((50, 11), np.nan), np.arange(3), None])
    def test_observations_of_another_actor_are_refused(self, folder, content) -> None:
        store = Store(folder / "store")
        run_study(study(folder), store, LocalExecutor())
        (file,) = store.folder.glob("*.npy")
        file.write_bytes(b"") if content is None else np.save(file, content)
        with pytest.raises(InputError, match=rf"{file.name} holds no observations \(.*delete it to collect them again"):
            run_study(study(folder, alphas=[0.7]), store, LocalExecutor())

    def test_a_file_of_any_name_is_an_actor(self, folder) -> None:
        """Records are UTF-8, and names of files are bytes."""
        name = os.fsdecode(b"\xffactor.safetensors")
        try:
            (folder / "tiny.safetensors").rename(folder / name)
        except OSError:
            pytest.skip("this file system has UTF-8 alone")
        records, failed = run_study(study(folder, actors=[name]), Store(folder / "store"), LocalExecutor())
        assert failed == {}
        assert {record["actor"] for record in records.values()} == {"\ufffdactor.safetensors"}

    def test_records_go_to_one_file_and_come_back(self, folder) -> None:
        store = Store(folder / "store")
        records, _ = run_study(study(folder, alphas=[0, 0.2]), store, LocalExecutor())
        write_records([*records.values()], folder / "all.jsonl")
        assert read_records(folder / "all.jsonl") == read_records(store.folder)
        (folder / "all.jsonl").write_text('{"task": {}}\n')
        with pytest.raises(InputError, match=r"line 1 of .*all\.jsonl is not a stored result"):
            read_records(folder / "all.jsonl")

    def test_an_estimate_learns_from_what_has_finished(self, folder, monkeypatch) -> None:
        grid = study(folder, alphas=[0, 0.2])  # three tasks: the dense actor's, and two
        assert RemainingTime(grid, grid.tasks, {}).remaining(1) > 0

        def trial(estimate, index, kinds):
            estimate._limit[index] = 100
            estimate._step |= {(index, kind): 1.0 if kind is None else 2.0 for kind in kinds}

        monkeypatch.setattr(RemainingTime, "_try", trial)
        estimate = RemainingTime(grid, grid.tasks, {})
        whole = 10 * 100 * (1.0 + 2.0 + 2.0)
        assert [estimate.remaining(workers) for workers in (1, 2, 8)] == [whole, whole / 2, whole / 3]
        estimate.finished(grid.tasks[1], {"run": {"seconds": 500.0}})  # a quarter of the 2,000 that were predicted
        assert estimate.remaining(1) == 250.0 + 500.0
        estimate.finished(grid.tasks[0], {"run": {"seconds": 2500.0}})  # now 3,000 for what was to take 3,000
        assert estimate.remaining(8) == 2000.0
        estimate.finished(grid.tasks[2], {"run": {"seconds": 1.0}})
        assert estimate.remaining(8) == 0
        known = {task: {"run": {"seconds": 500.0}} for task in grid.tasks[1:2]}
        assert RemainingTime(grid, [grid.tasks[2]], known).remaining(2) == 500.0


def children(process: int) -> list[int]:
    """Its child processes that run Python's spawned workers."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.thorough
@pytest.mark.early
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for child processes in /proc")
def test_a_sweep_that_is_killed_loses_nothing_and_runs_nothing_twice(tmp_path, monkeypatch) -> None:
    """kill -9 of a worker, then of the whole sweep, each in the middle; then the same command again."""
    snnkern.save(make_actor(11, 12, 3), tmp_path / "tiny.safetensors")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "python_tests"), prepend=os.pathsep)  # where `support.waiting` is
    monkeypatch.setenv("WAITING_FOR", str(tmp_path / "store"))
    monkeypatch.setenv("WAITING_UNTIL", "8")
    options = "--env support.waiting:Waiting-v0 --neuron if,dc -T 2,3,4 --alpha 0,0.2,0.5 --episodes 2 --steps 50"
    options += " --workers 2 --store store"
    arguments = ["tiny.safetensors", *options.split()]
    total = 1 + 2 * 3 * 3
    store = tmp_path / "store"
    with sweeping(arguments, tmp_path) as process:
        kill_worker_then_sweep(process, store, 8, children)
    before = {file.name: file.read_bytes() for file in stored(store)}
    assert 8 <= len(before) < total
    monkeypatch.delenv("WAITING_FOR")
    with sweeping([*arguments, "--json"], tmp_path) as process:
        summary = json.loads(process.stdout.read())
    assert (summary["tasks"], summary["found"], summary["failed"]) == (total, len(before), 0)
    assert summary["ran"] == total - len(before)
    after = {file.name: file.read_bytes() for file in stored(store)}
    assert len(after) == total
    assert before.items() <= after.items()
    assert len(summary["results"]) == 18
    assert all(result["average_performance_ratio"] is None or result["actors"] == 1 for result in summary["results"])


def test_what_is_stored_is_found(folder) -> None:
    grid, store = study(folder), Store(folder / "store")
    assert found_in(store, grid) == ({}, grid.tasks)
