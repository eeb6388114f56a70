"""Runs the tasks of a sweep in this process, or in several on this machine; `contrib/ray.py` uses other machines."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from snnkern.errors import Error, check_whole
from snnkern.limits import MOST_WORKERS

# A task whose worker died so often is given up: it may be what kills them. So are workers that do not even start.
ATTEMPTS = 3


@dataclass(frozen=True)
class Failure:
    """The result of a task that failed: the function raised, or the task's workers died."""

    error: Exception


class Executor(Protocol):
    """Runs one function on many tasks: in this process, in several, on many machines.

    Attributes:
        workers: how many tasks run at a time.
    """

    @property
    def workers(self) -> int: ...

    def run(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any]
    ) -> Generator[tuple[int, Any | Failure], None, None]:
        """Calls `function(shared, task)` for every task, and yields each task's number and result when it is finished.

        The caller keeps results; an executor keeps nothing. Closing the generator drops the running tasks. A task whose
        worker dies is run again on another worker; a task that raises an exception is not.

        Args:
            function: a function at the top level of a module, where a worker finds it.
            shared: data that all tasks need; sent once to every worker.
            tasks: small objects. pickle must be able to write them, `shared` and the results.

        Raises:
            Error: no worker starts.
        """
        ...


class LocalExecutor:
    """Runs tasks in this process, or in several on this machine. Workers end when this process does, even by `kill -9`.

    Args:
        workers: number of processes. With more than one, a script needs `if __name__ == "__main__":`.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = check_whole("workers", workers, least=1, most=MOST_WORKERS)

    def run(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any]
    ) -> Generator[tuple[int, Any | Failure], None, None]:
        """See `Executor.run`; tasks are begun in their order."""
        if min(self.workers, len(tasks)) <= 1:
            for index, task in enumerate(tasks):
                yield index, attempt(function, shared, task)
            return
        waiting = deque(range(len(tasks)))
        deaths: Counter[int] = Counter()
        failed_starts = 0
        job = pickle.dumps((function, shared))  # plainly: torch's own way leaves tensors behind in this process
        pool: dict[Connection, _Worker] = {}
        try:
            while waiting or any(worker.task is not None for worker in pool.values()):
                for worker in pool.values():
                    if waiting and worker.ready and worker.task is None:
                        worker.begin(waiting.popleft(), tasks)
                busy = sum(worker.task is not None for worker in pool.values())
                while len(pool) < min(self.workers, len(waiting) + busy):
                    worker = _Worker(job)
                    pool[worker.connection] = worker
                for connection in wait(list(pool)):
                    assert isinstance(connection, Connection)
                    worker = pool[connection]
                    task, worker.task = worker.task, None
                    try:
                        message = pickle.loads(connection.recv_bytes())
                    except (EOFError, OSError):  # it died, perhaps in the middle of a message
                        pool.pop(connection).stop()
                        if task is None:
                            failed_starts += not worker.ready
                            continue
                        deaths[task] += 1
                        if deaths[task] < ATTEMPTS:
                            waiting.appendleft(task)
                            continue
                        message = Failure(Error(f"its worker died {ATTEMPTS} times (out of memory?)"))
                    else:
                        worker.ready, failed_starts = True, 0
                        if waiting:  # before the caller takes its time over the result
                            worker.begin(waiting.popleft(), tasks)
                    if task is not None:
                        yield task, message
                if failed_starts >= ATTEMPTS:
                    raise Error(
                        'worker processes do not start; a script that asks for several needs if __name__ == "__main__":'
                    )
        finally:
            for worker in pool.values():  # nobody waits for what they are at
                worker.stop()


class _Worker:
    """A process that runs one task after the other, and this process's end of the connection to it."""

    def __init__(self, job: bytes) -> None:
        # A fresh process: a fork of one that has run torch may hang.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that its death closes the connection
        self.task: int | None = None
        self.ready = False
        # It takes seconds until it reads; meanwhile the next one can start.
        self._sender = threading.Thread(target=self._send, args=(job,), daemon=True)
        self._sender.start()

    def begin(self, index: int, tasks: Sequence[Any]) -> None:
        """Gives it a task."""
        self.task = index
        self._send(pickle.dumps(tasks[index]))

    def stop(self) -> None:
        """Ends it, whatever it is at."""
        self.process.terminate()
        self.process.join()
        self._sender.join()
        self.connection.close()

    def _send(self, content: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died, as the next look at the connection says
            self.connection.send_bytes(content)


def _work(connection: Connection) -> None:
    """A worker's life: says that it is ready, then takes a task and gives its result until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        function, shared = pickle.loads(connection.recv_bytes())
        connection.send_bytes(pickle.dumps(None))
        while True:
            task = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickled(attempt(function, shared, task)))
    except (EOFError, OSError):
        return


def _end_with_parent() -> None:
    """Ends this worker at once when its parent is gone: the next sweep may begin the same task."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def attempt(function: Callable[[Any, Any], Any], shared: Any, task: Any) -> Any | Failure:
    try:
        return function(shared, task)
    except Exception as error:
        return Failure(error)


def pickled(result: Any) -> bytes:
    try:
        content = pickle.dumps(result)
        pickle.loads(content)  # some exceptions can be written and not read
    except Exception:
        error = result.error if isinstance(result, Failure) else result
        content = pickle.dumps(Failure(Error(f"{type(error).__name__}: {error}")))
    return content
