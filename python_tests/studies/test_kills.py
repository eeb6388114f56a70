"""Sweeps that are killed at random moments, again and again: nothing is lost, and nothing that is kept runs again.

What a whole `snnkern sweep` with workers does then, test_study.py says.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

from support.builders import make_actor

import snnkern
from snnkern.control import evaluation
from snnkern.control.evaluation import Evaluation
from snnkern.studies.executors import LocalExecutor
from snnkern.studies.grids import read_study
from snnkern.studies.store import Store, read_records
from snnkern.studies.study import found_in, run_study

GRID = {
    "actors": ["tiny.safetensors"],
    "neurons": ["if", "dc"],
    "timesteps": [1, 2, 3, 4],
    "alphas": [0.0, 0.2],
    "calibrations": ["max"],
    "calibration_steps": 20,
    "episodes": 1,
}


def quick(policy, env, *, episodes, seed) -> Evaluation:
    """An evaluation that takes no time, with as many numbers as a long one, so that its record takes a while."""
    return Evaluation((1.0,) * 500, (5,) * 500, (3.0, 2.0) if isinstance(policy, snnkern.SpikingActor) else ())


def work(folder: Path, seeds: list[int], kept: list[str]) -> None:
    """A sweep, in a process of its own; it refuses to run a task that is among those that were kept before."""
    evaluation.evaluate = quick
    study = read_study(None, {**GRID, "seeds": seeds}, folder=folder)
    store = Store(folder / "store")

    def finished(task, record) -> None:
        if store.path(record["task"]).name in kept:
            os._exit(3)

    run_study(study, store, LocalExecutor(), finished=finished)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.long)])
def test_nothing_is_lost_and_nothing_runs_twice(tmp_path, monkeypatch, kills) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # for the preloaded modules
    snnkern.save(make_actor(11, 8, 3, metadata={"environment": "Hopper-v5"}), tmp_path / "tiny.safetensors")
    seeds = list(range(20 + 5 * kills))
    folder = tmp_path / "store"
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")  # one import of torch for all of them
    context.set_forkserver_preload(["snnkern", "test_kills"])
    choose = random.Random(kills)
    kept: dict[str, bytes] = {}
    codes = []
    while 0 not in codes:
        process = context.Process(target=work, args=(tmp_path, seeds, list(kept)))
        process.start()
        if len(codes) < kills:
            more = len(kept) + choose.randrange(10)
            while len(os.listdir(folder)) < more and process.is_alive():
                process.join(0.001)
            process.kill()
        process.join(300)
        codes.append(process.exitcode)
        now = {file.name: file.read_bytes() for file in folder.glob("*.json")}
        assert kept.items() <= now.items()
        kept = now
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1) != []
    study, store = read_study(None, {**GRID, "seeds": seeds}, folder=tmp_path), Store(folder)
    assert found_in(store, study)[1] == []
    assert len(read_records(folder)) == len(kept) == len(study.tasks)
    assert {file.suffix for file in folder.iterdir() if file.name != ".lock"} == {".json", ".npy"}  # nothing half done
    with store.alone():
        pass
