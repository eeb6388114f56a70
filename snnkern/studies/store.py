"""Keeps finished tasks of sweeps as files, so that they are not run again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import filelock
import msgspec

from snnkern.control.records import EpisodeRecord, Outcome, Record, TaskDescription
from snnkern.errors import InputError
from snnkern.files import from_json, make_folder, read_bytes, reason, write_atomically
from snnkern.studies.executors import Executor, Failure

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Store:
    """A folder with one JSON file for each finished task, named by a hash of everything that its result depends on.

    A record has a "task" (that description), a "result", and a "run" (when it ended and how many seconds it took); the
    writer may add more.

    Args:
        folder: the folder; made if it is missing.

    Raises:
        InputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self.folder = folder

    def path(self, task: Mapping[str, Any]) -> Path:
        """The file of a task, given its description."""
        return self.folder / f"{task_name(task)}.json"

    def read(self, task: Mapping[str, Any]) -> Record | None:
        """Reads the record of a task; None if it is not finished.

        Raises:
            InputError: its file is damaged, or another task's.
        """
        path = self.path(task)
        return _read(path) if path.exists() else None

    def write(self, task: Mapping[str, Any], content: bytes) -> None:
        """Writes a task's record, which `encode` has made; a reader sees all of it or nothing."""
        write_atomically(self.path(task), content)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Locks the store, so that no second sweep runs the same tasks meanwhile.

        The system releases the lock when this process ends, however it ends. On a file system without locks, a second
        sweep is not refused.

        Raises:
            InputError: another sweep works on it.
        """
        lock = filelock.FileLock(self.folder / ".lock", mode=0o666)  # less the umask: a store may be a group's
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise InputError(
                f"another sweep is at work on {self.folder}: wait for it, or give another store"
            ) from error
        except NotImplementedError:
            pass  # a file system without locks, to filelock before its version 4
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise InputError(f"cannot lock {self.folder}: {reason(error)}") from error
        try:
            yield
        finally:
            lock.release()


def task_name(task: Mapping[str, Any]) -> str:
    """The name of a task's file: a hash of its description."""
    text = json.dumps(task, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_records(path: Path) -> list[Record]:
    """The records of a store's folder, or of a file that `write_records` wrote, in a fixed order.

    Raises:
        InputError: there is nothing there, or a file is damaged, or another task's.
    """
    if os.path.isdir(path):
        records = [_read(file) for file in path.glob("*.json")]
    else:
        lines = read_bytes(path).splitlines()
        records = [_parse(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]
    if not records:
        raise InputError(f"{path} holds no results of a sweep")
    return sorted(records, key=lambda record: json.dumps(record["task"], sort_keys=True))


def write_records(records: Sequence[Record], path: Path) -> None:
    """Writes records as JSON, a line each."""
    write_atomically(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())


def encode(record: Record) -> bytes:
    """A record as a store keeps it.

    Raises:
        InputError: it could not be read back: a return is not finite, or something in it is not data.
    """
    try:
        content = json.dumps(record, indent=1, allow_nan=False).encode()
        _checked(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"this result cannot be stored: {error}") from error
    return content


def _read(path: Path) -> Record:
    record = _parse(read_bytes(path), str(path))
    if path.stem != task_name(record["task"]):
        raise InputError(f"{path} holds another task's result than its name says: delete it, or rename it")
    return record


def _parse(content: bytes, where: str) -> Record:
    try:
        return _checked(content)
    except InputError as error:
        raise InputError(f"{where} is not a stored result ({error}): delete it to run its setting again") from error


def _checked(content: bytes) -> Record:
    """Reads a record and checks its types. What it has besides stays in it: a task's name depends on all of it."""
    found: Any = from_json(content, dict[str, Any], "it")
    try:
        msgspec.convert(found, Record)
        task_name(found["task"])
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(str(error)) from error
    record: Record = found
    if (record["task"]["setting"] is None) != (record["task"]["calibration"] is None):
        raise InputError("setting and calibration go together")
    check_lengths(record["result"])
    return record


def check_lengths(episodes: EpisodeRecord) -> None:
    """Refuses episodes of which some have no length, or no return.

    Raises:
        InputError: says how many there are of each.
    """
    returns, lengths = len(episodes["returns"]), len(episodes["lengths"])
    if returns != lengths:
        raise InputError(f"{returns} returns have {lengths} lengths")


Task = TypeVar("Task", bound=Hashable)


def complete(
    tasks: Sequence[Task],
    function: Callable[[Any, Task], Outcome],
    shared: Any,
    *,
    describe: Callable[[Task], TaskDescription],
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
            try:
                outcome["run"]["finished"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
                actor, result, run = outcome["actor"], outcome["result"], outcome["run"]
                record: Record = {"task": describe(task), "actor": actor, "result": result, "run": run}
                content = encode(record) if store else b""
            except Exception as error:  # what came back is no record
                failed[task] = error
                continue
            if store:
                store.write(record["task"], content)
            finished(task, record)
    return failed
