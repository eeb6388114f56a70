"""Finished tasks of sweeps, kept as files: what is there is not run again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from snnkern.errors import InputError
from snnkern.executors import Executor, Failure
from snnkern.files import write_atomically

Record = dict[str, Any]


class Store:
    """A folder with one JSON file for each finished task, named by a hash of all that its result depends on.

    A record has a "task" (that description), a "result", and a "run" (when it ended and how many seconds it took);
    whoever writes it may add to it.

    Args:
        folder: made where it is missing.

    Raises:
        InputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write to the folder {folder}")
        self.folder = folder

    def path(self, task: Mapping[str, Any]) -> Path:
        """The file of a task, by its description."""
        text = json.dumps(task, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def read(self, task: Mapping[str, Any]) -> Record | None:
        """The record of a task; None where it is not finished.

        Raises:
            InputError: its file is damaged.
        """
        path = self.path(task)
        return _read(path) if path.exists() else None

    def write(self, record: Record) -> None:
        """Keeps a record; a reader sees all of it or nothing."""
        write_atomically(self.path(record["task"]), json.dumps(record, indent=1, allow_nan=False).encode())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Sees to it that no second sweep works on this store meanwhile, which would run the same tasks.

        The system takes the lock away when this process ends, however it ends.

        Raises:
            InputError: another sweep does.
        """
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another sweep is at work on {self.folder}: wait for it, or give another store"
            ) from error
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            os.close(folder)


def read_records(path: Path) -> list[Record]:
    """The records of a store's folder, or of a file that `write_records` wrote, in a fixed order.

    Raises:
        InputError: there is nothing there, or a file is damaged.
    """
    if path.is_dir():
        records = [_read(file) for file in path.glob("*.json")]
    else:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        records = [_parse(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]
    if not records:
        raise InputError(f"{path} holds no results of a sweep")
    return sorted(records, key=lambda record: json.dumps(record["task"], sort_keys=True))


def write_records(records: Sequence[Record], path: Path) -> None:
    """Writes records as JSON, a line each."""
    write_atomically(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())


def _read(path: Path) -> Record:
    try:
        return _parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _parse(text: str, where: str) -> Record:
    try:
        record: Record = json.loads(text)
        result = record["result"]
        for name in ("returns", "lengths", "spikes"):
            if not all(isinstance(value, int | float) for value in result[name]):
                raise TypeError(f"{name} are no numbers")
        if not isinstance(record["task"], dict):
            raise TypeError("its task is no table")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where} is not a stored result ({error!r}): delete it to run its setting again") from error
    return record


Task = TypeVar("Task", bound=Hashable)


def complete(
    tasks: Sequence[Task],
    function: Callable[[Any, Task], Record],
    shared: Any,
    *,
    describe: Callable[[Task], dict[str, Any]],
    store: Store | None,
    executor: Executor,
    finished: Callable[[Task, Record], None],
) -> dict[Task, Exception]:
    """Runs tasks and keeps each one's record in the store as soon as there is one.

    Args:
        tasks: those that are not in the store.
        function: makes a record of `shared` and a task, but for its "task".
        shared: what all tasks need.
        describe: all that a task's result depends on, ready for JSON.
        store: where records are kept; None keeps nothing.
        executor: where tasks run.
        finished: called with every task and its record.

    Returns:
        the tasks that failed, and why.
    """
    failed: dict[Task, Exception] = {}
    with closing(executor.run(function, shared, tasks)) as outcomes:
        for index, outcome in outcomes:
            task = tasks[index]
            if isinstance(outcome, Failure):
                failed[task] = outcome.error
                continue
            outcome["run"]["finished"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
            record = {"task": describe(task), **outcome}
            if store:
                store.write(record)
            finished(task, record)
    return failed
