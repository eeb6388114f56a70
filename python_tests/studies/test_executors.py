"""Executors: every task once, whatever happens to workers."""

from __future__ import annotations

import multiprocessing
import sys
import types

import pytest
from support import sweep_tasks

from snnkern.errors import Error, InputError
from snnkern.studies.executors import Failure, LocalExecutor


def results(executor: LocalExecutor, function, shared, tasks) -> dict[int, object]:
    found = list(executor.run(function, shared, tasks))
    assert sorted(index for index, _ in found) == list(range(len(tasks)))
    return dict(found)


def test_a_killed_worker_loses_nothing(tmp_path) -> None:
    """Its task is run again on another one, the others' are not."""
    found = results(LocalExecutor(2), sweep_tasks.note, tmp_path, list(range(8)))
    assert found == {task: task * task for task in range(8)}
    assert sorted(int(file.name.split("-")[0]) for file in tmp_path.glob("*-*")) == list(range(8))
    (finished,) = tmp_path.glob("3-*")
    assert (tmp_path / "died").read_text() != finished.name.split("-")[1]


def test_a_task_that_kills_its_workers_is_given_up() -> None:
    found = results(LocalExecutor(2), sweep_tasks.deadly, None, [0, 1, 2])
    assert (found[0], found[2]) == (0, 2)
    failure = found[1]
    assert isinstance(failure, Failure)
    assert "its worker died 3 times" in str(failure.error)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_belongs_to_its_task(workers) -> None:
    found = results(LocalExecutor(workers), sweep_tasks.failing, "task", list(range(6)))
    assert [found[task] for task in (0, 2, 4)] == [0, 2, 4]
    errors = [found[task].error for task in (1, 3, 5)]
    assert [str(error) for error in errors[:2]] == ["task 1", "task 3"]
    assert all(type(error) is ValueError for error in errors[:2])
    assert "5 and 6" in str(errors[2])


def test_what_is_under_way_is_dropped_when_nobody_listens(tmp_path) -> None:
    outcomes = LocalExecutor(2).run(sweep_tasks.note, tmp_path, [0, 1, 2, 4, 5, 6, 7])
    next(outcomes)
    outcomes.close()
    assert multiprocessing.active_children() == []
    assert len(list(tmp_path.iterdir())) < 7


def test_workers_that_do_not_start_are_an_error(monkeypatch, capfd) -> None:
    """A module that this process has and no other can find."""
    module = types.ModuleType("nowhere_to_be_found")
    exec("def function(shared, task):\n    return task", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(Error, match="worker processes do not start"):
        list(LocalExecutor(2).run(module.function, None, [0, 1]))
    assert multiprocessing.active_children() == []
    capfd.readouterr()  # the workers' own complaints


def test_no_tasks_are_no_work() -> None:
    assert list(LocalExecutor(4).run(sweep_tasks.failing, None, [])) == []
    with pytest.raises(InputError, match="workers must be a whole number of at least 1, got 0"):
        LocalExecutor(0)
