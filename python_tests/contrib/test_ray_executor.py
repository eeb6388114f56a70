"""Sweeps on a real Ray cluster: two machines, each a set of processes on this one; and a Ray that a sweep starts."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from support import ROOT, sweep_tasks
from support.builders import make_actor

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import ray
from ray.cluster_utils import Cluster
from support.command_line import run, run_json
from support.sweep_processes import kill_worker_then_sweep, stored, sweeping, wait_for

import snnkern
from snnkern.contrib import ray as ray_executor
from snnkern.contrib.ray import RayExecutor
from snnkern.errors import Error, InputError
from snnkern.studies.executors import Failure


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The head and another machine, with a CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # where Ray keeps the token of one that it starts
        patch.setenv("PYTHONPATH", str(ROOT / "python_tests"), prepend=os.pathsep)  # where workers find sweep_tasks
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def executor(cluster):
    with RayExecutor(cluster.address) as executor:
        yield executor


def results(executor: RayExecutor, function, shared, tasks) -> dict[int, object]:
    found = list(executor.run(function, shared, tasks))
    assert sorted(index for index, _ in found) == list(range(len(tasks)))
    return dict(found)


@pytest.mark.thorough
def test_a_killed_worker_loses_nothing(executor, tmp_path) -> None:
    """Its task is run again on another one, the others' are not."""
    assert executor.workers == 2
    found = results(executor, sweep_tasks.note, tmp_path, list(range(8)))
    assert found == {task: task * task for task in range(8)}
    assert sorted(int(file.name.split("-")[0]) for file in tmp_path.glob("*-*")) == list(range(8))
    (finished,) = tmp_path.glob("3-*")
    assert (tmp_path / "died").read_text() != finished.name.split("-")[1]


@pytest.mark.thorough
def test_a_task_that_kills_its_workers_is_given_up(executor) -> None:
    found = results(executor, sweep_tasks.deadly, None, [0, 1, 2])
    assert (found[0], found[2]) == (0, 2)
    assert isinstance(found[1], Failure)
    assert "its worker died 3 times" in str(found[1].error)


@pytest.mark.thorough
def test_an_exception_belongs_to_its_task(executor) -> None:
    found = results(executor, sweep_tasks.failing, "task", list(range(6)))
    assert [found[task] for task in (0, 2, 4)] == [0, 2, 4]
    errors = [found[task].error for task in (1, 3, 5)]
    assert [str(error) for error in errors[:2]] == ["task 1", "task 3"]
    assert all(type(error) is ValueError for error in errors[:2])
    assert "5 and 6" in str(errors[2])


def test_what_is_under_way_is_dropped_when_nobody_listens(executor, tmp_path) -> None:
    outcomes = executor.run(sweep_tasks.slow, tmp_path, [0, 1, 1, 1])
    next(outcomes)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    outcomes.close()
    processes = [int(file.name) for file in tmp_path.iterdir()]
    wait_for(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.thorough
def test_no_tasks_are_no_work(executor) -> None:
    assert list(executor.run(sweep_tasks.failing, None, [])) == []


@pytest.mark.thorough
def test_a_function_of_a_script_travels(executor) -> None:
    """One that no worker could import: a script needs no guard."""
    space: dict[str, object] = {"__name__": "__main__"}
    exec("def double(shared, task):\n    import torch\n    return task * shared, torch.get_num_threads()", space)
    assert results(executor, space["double"], 2, [3, 4]) == {0: (6, 1), 1: (8, 1)}


@pytest.mark.thorough
def test_machines_with_other_versions_are_refused(executor, monkeypatch) -> None:
    """When an executor is made, and when one joins later."""
    ours = {**ray_executor._versions(), "torch": "1.0", "nothing": "2.0"}
    monkeypatch.setattr(ray_executor, "_PACKAGES", (*ray_executor._PACKAGES, "nothing"))
    monkeypatch.setattr(ray_executor, "_versions", lambda: ours)
    with pytest.raises(Error, match=r"the machine .* has torch 2\S* \(here: 1\.0\), no nothing \(here: 2\.0\)"):
        RayExecutor()
    del ours["nothing"]
    with pytest.raises(
        Error, match=r"takes no tasks: .*the machine .* has torch 2\S* \(here: 1\.0\): install the same"
    ):
        list(executor.run(sweep_tasks.failing, None, [0]))
    assert ray.is_initialized()  # it was not theirs to end


@pytest.mark.thorough
def test_an_address_where_no_cluster_is(executor, capsys, monkeypatch) -> None:
    code, _, error = run(capsys, "sweep", "td3-hopper", "--executor", "ray", "--address", "head:6379")
    assert code == 2
    assert "this process is connected to a Ray cluster already: leave out the address head:6379" in error
    for address in ("head", "ray://head:10001", "head:port"):
        with pytest.raises(InputError, match="the address of a Ray cluster is host:port of its head, or auto, got"):
            ray_executor._check_reachable(address)
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(ray_executor, "_JOIN_SECONDS", 2)
        with pytest.raises(Error, match=f"no Ray cluster that this machine is part of at {silent}"):
            ray_executor._check_reachable(silent)
    with pytest.raises(Error, match=f"no Ray cluster at {silent}: Connection refused"):
        ray_executor._check_reachable(silent)


@pytest.mark.thorough
@pytest.mark.early
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_sweep_whose_machines_die_goes_on_elsewhere(cluster, executor, capsys, tmp_path, monkeypatch) -> None:
    """kill -9 of a worker, then of the sweep, under its own Ray; then the same on a cluster that loses a machine."""
    snnkern.save(make_actor(11, 12, 3), tmp_path / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "python_tests"), prepend=os.pathsep)  # where `support.waiting` is
    monkeypatch.setenv("WAITING_FOR", str(tmp_path / "store"))
    monkeypatch.setenv("WAITING_UNTIL", "6")
    options = "--env support.waiting:Waiting-v0 --neuron if,dc -T 2,3,4 --alpha 0,0.2,0.5 --episodes 2 --steps 50"
    options += " --store store"
    arguments, total, store = ["tiny.safetensors", *options.split()], 19, tmp_path / "store"

    monkeypatch.delenv("RAY_AUTH_MODE")
    with sweeping([*arguments, "--executor", "ray", "--workers", "2"], tmp_path) as process:
        kill_worker_then_sweep(process, store, 6, busy_workers)
    before = {file.name: file.read_bytes() for file in stored(store)}
    assert 6 <= len(before) < total

    monkeypatch.delenv("WAITING_FOR")

    def lose_a_machine() -> None:
        wait_for(lambda: len(stored(store)) >= len(before) + 2)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    thread = threading.Thread(target=lose_a_machine)
    thread.start()
    summary = run_json(capsys, "sweep", *arguments, "--executor", "ray")
    thread.join()
    assert (summary["tasks"], summary["found"], summary["failed"]) == (total, len(before), 0)
    after = {file.name: file.read_bytes() for file in stored(store)}
    assert len(after) == total
    assert before.items() <= after.items()
    assert run_json(capsys, "sweep", *arguments)["ran"] == 0  # the local executor finds it all


def busy_workers(sweep: int) -> list[int]:
    """As `workers`, when there are any: between two tasks a worker is at none."""
    found: list[int] = []
    wait_for(lambda: bool(found.extend(workers(sweep)) or found))
    return found


def workers(sweep: int) -> list[int]:
    """The processes at a task of the Ray that this sweep has started."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
    return [
        process
        for process, title in titles.items()
        if title.startswith(b"ray::_call") and parents.get(parents[process]) == sweep  # with its raylet between
    ]
