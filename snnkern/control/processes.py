"""A vector of environments in processes of their own: for environments that take their time, as those that are drawn.

Gymnasium's `AsyncVectorEnv` has a process for each environment, makes one more in the process that asks, and under
"spawn", the only start that is safe beside torch and OpenGL, runs a program's file again in each. Here a process has
several environments, and a program needs no `if __name__ == "__main__":`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from snnkern.errors import Error

_SECONDS_TO_END = 10  # that a process has for closing its environments


class ProcessVector(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Environments shared out among processes; the caller resets those whose episode ends (autoreset disabled).

    What an environment raises in its process is raised here. `info` is empty: nothing of it is sent.

    Args:
        makers: functions that make an environment, one for each row; cloudpickle must be able to write them.
        processes: how many; at most as many as rows.

    Raises:
        Error: a process has died.
    """

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]], processes: int) -> None:
        self.num_envs = len(makers)
        self._rows = np.array_split(np.arange(self.num_envs), processes)
        self._workers: list[_Worker] = []
        try:
            for rows in self._rows:
                self._workers.append(_Worker(rows))
                self._workers[-1].send(cloudpickle.dumps([makers[row] for row in rows]))
            first, *_ = self._answers(range(processes))
        except BaseException:
            self.close()
            raise
        self.single_observation_space, self.single_action_space, self.render_mode, self.metadata = first
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        space: Any = self.observation_space
        self._observations = np.zeros(space.shape, space.dtype)

    @property
    def processes(self) -> list[int]:
        """The processes' ids."""
        return [worker.process.pid for worker in self._workers]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Resets all rows, or those of the option "reset_mask"; a seed is row 0's, or there is one for each row."""
        rest = dict(options or {})
        mask = np.asarray(rest.pop("reset_mask", np.ones(self.num_envs, dtype=bool)))
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        else:
            seeds = list(range(seed, seed + self.num_envs)) if isinstance(seed, int) else seed
        asked = [index for index, rows in enumerate(self._rows) if mask[rows].any()]
        for index in asked:
            rows = self._rows[index]
            chosen = {"seed": [seeds[row] for row in rows], "options": rest | {"reset_mask": mask[rows]}}
            self._workers[index].ask("reset", chosen)
        for index, (observation,) in zip(asked, self._answers(asked), strict=True):
            self._observations[self._rows[index]] = observation
        return self._observations.copy(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of every row; see `gymnasium.vector.VectorEnv.step`."""
        for worker, rows in zip(self._workers, self._rows, strict=True):
            worker.ask("step", {"actions": np.asarray(actions)[rows]})
        answers = zip(*self._answers(range(len(self._workers))), strict=True)
        self._observations, reward, terminated, truncated = map(np.concatenate, answers)
        return self._observations.copy(), reward, terminated, truncated, {}

    def _answers(self, asked: Iterable[int]) -> list[Any]:
        """The answers of these processes, all of them read before an error is raised."""
        answers = [self._workers[index].receive() for index in asked]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the processes, whatever they are at."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end()
        self._workers = []


class _Worker:
    """A process with some of the environments, and this process's end of the connection to it."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._rows = rows
        ours, theirs = socket.socketpair()
        with theirs:
            # Not multiprocessing's: a program's main module would be run again, and a sweep's workers may start none.
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import work; work({theirs.fileno()})"
            # Each draws on its own core: a software renderer would otherwise start a thread for every core in each.
            env = {"LP_NUM_THREADS": "0"} | os.environ
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=env
            )
        self.connection = Connection(ours.detach())

    def ask(self, method: str, arguments: dict[str, Any]) -> None:
        """Asks for a call of a method of its vector of environments."""
        self.send(pickle.dumps((method, arguments)))

    def send(self, content: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died, as `receive` says
            self.connection.send_bytes(content)

    def receive(self) -> Any:
        """Its answer; an exception is what one of its environments has raised, or that it has died."""
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            status = self.end()
            what = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            rows = f"{self._rows[0]} … {self._rows[-1]}" if len(self._rows) > 1 else f"{self._rows[0]}"
            return Error(f"the process that draws environments {rows} has died ({what}; out of memory?)")

    def end(self) -> int:
        """Its exit status, once it has ended: by itself where it can, by force where that takes too long."""
        self.connection.close()
        try:
            return self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return self._kill()
        except BaseException:  # somebody is in a hurry
            self._kill()
            raise

    def _kill(self) -> int:
        self.process.kill()
        return self.process.wait()


def work(file: int) -> None:
    """A process's life: makes its environments, then answers until the connection, an open file, is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the other side's to handle
    connection = Connection(file)
    with contextlib.suppress(EOFError, OSError):
        try:
            made = [maker() for maker in cloudpickle.loads(connection.recv_bytes())]
        except Exception as error:
            connection.send_bytes(_pickled(error))
            return
        one = made[0]
        envs = gymnasium.vector.SyncVectorEnv(
            [functools.partial(_same, env) for env in made], autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED
        )
        with contextlib.closing(envs):
            about = one.observation_space, one.action_space, one.render_mode, dict(envs.metadata)
            connection.send_bytes(cloudpickle.dumps(about))
            while True:
                method, arguments = pickle.loads(connection.recv_bytes())
                try:
                    *answer, _ = getattr(envs, method)(**arguments)  # but for the info
                except Exception as error:
                    connection.send_bytes(_pickled(error))
                else:
                    connection.send_bytes(pickle.dumps(answer))


def _same(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    return env


def _pickled(error: Exception) -> bytes:
    try:
        content = cloudpickle.dumps(error)
        pickle.loads(content)  # some can be written and not read
    except Exception:
        content = pickle.dumps(Error(f"{type(error).__name__}: {error}"))
    return content
