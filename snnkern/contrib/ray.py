"""Runs the tasks of a sweep on a Ray cluster: on many machines, or on this one."""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from functools import cache
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import torch

from snnkern.control import environments
from snnkern.errors import Error, InputError, check_whole, require
from snnkern.limits import MOST_WORKERS
from snnkern.studies.executors import ATTEMPTS, Failure, attempt, pickled

# What must be the same on every machine: results name these versions, and pickle goes from one to the other.
_PACKAGES = ("snnkern", "torch", "numpy", "gymnasium", "mujoco")
_CONNECT_SECONDS, _JOIN_SECONDS, _LOOK_SECONDS = 5, 20, 10
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
# Ray itself tries for two minutes to join a cluster that does not answer, and then ends the process that asked.
_JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    print(*str(error).split())
    sys.exit(1)
"""


class RayExecutor:
    """A Ray cluster, many machines or one. `with` disconnects from it at the end.

    Every machine needs snnkern and what it runs with, in the same versions as here; actors and observations travel with
    the tasks. A program that has called `ray.init` itself gives no address, and stays connected.

    Args:
        address: the cluster's head, "host:port", or "auto": the cluster of this machine, which must be part of it in
            either case. None starts Ray on this machine alone, until the executor is closed.
        workers: the most tasks at a time; unless given, one for every CPU that the cluster says it has.

    Raises:
        MissingDependencyError: Ray is not installed.
        InputError: the address is none.
        Error: no cluster answers there, it has no CPUs, or its machines have other versions than this one.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        if workers is not None:
            check_whole("workers", workers, least=1, most=MOST_WORKERS)
        self._ray: Any = require("ray", "ray", "running tasks on Ray")
        self._most = workers
        self._cpus, self._looked = 0, -math.inf
        self._connected = not self._ray.is_initialized()
        if self._connected:
            self._connect(address)
        elif address is not None:
            raise InputError(f"this process is connected to a Ray cluster already: leave out the address {address}")
        try:
            if not self.workers:
                raise Error("the Ray cluster has no CPUs to run tasks on: start workers with ray start --address …")
            self._check_machines()
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """How many tasks run at a time; changes as machines join and leave."""
        if time.monotonic() - self._looked > 1:
            self._cpus, self._looked = int(self._ray.cluster_resources().get("CPU", 0)), time.monotonic()
        return min(self._cpus, self._most or self._cpus)

    def run(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any]
    ) -> Generator[tuple[int, Any | Failure], None, None]:
        """See `Executor.run`. A machine may join while tasks run, and may leave: its tasks are run again on others."""
        ray, errors = self._ray, self._ray.exceptions
        # No attempts by Ray itself: how many it makes depends on how a worker died.
        call = ray.remote(num_cpus=1, max_retries=0)(_call)
        job = ray.put(ray.cloudpickle.dumps((function, shared)))
        waiting = deque(range(len(tasks)))
        deaths: Counter[int] = Counter()
        running: dict[int, Any] = {}
        # Not ray.wait, which looks at all that is running for every one that is done.
        done: SimpleQueue[tuple[int, Future[bytes]]] = SimpleQueue()
        try:
            while waiting or running:
                # Twice as many as run at a time, so that no worker waits for this process to hear of what it has done.
                while waiting and len(running) < (self._most or 2 * self.workers):
                    index = waiting.popleft()
                    running[index] = call.remote([job], job.hex(), _versions(), ray.cloudpickle.dumps(tasks[index]))
                    running[index].future().add_done_callback(lambda result, index=index: done.put((index, result)))
                try:
                    index, result = done.get(timeout=_LOOK_SECONDS)
                except Empty:
                    if not self.workers:
                        raise Error("the Ray cluster has lost all its machines; what is finished is not lost") from None
                    continue
                del running[index]
                try:
                    outcome = pickle.loads(result.result())
                except errors.RayTaskError as error:  # not what the task raised: that is an outcome
                    raise Error(f"a worker of the Ray cluster takes no tasks: {_reason(error)}") from error
                except errors.RayError:  # it died, or its machine
                    deaths[index] += 1
                    if deaths[index] < ATTEMPTS:
                        waiting.appendleft(index)
                        continue
                    outcome = Failure(Error(f"its worker died {ATTEMPTS} times (out of memory?)"))
                yield index, outcome
        finally:
            for reference in running.values():  # nobody waits for what they are at
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Disconnects; a Ray that was started here ends."""
        if self._connected:
            self._ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        if address is not None:
            _check_reachable(address)
        own = {"num_cpus": self._most, "include_dashboard": False} if address is None else {}
        try:
            self._ray.init(address=address or "local", **own, **_QUIET)
        except (RuntimeError, ValueError, OSError) as error:
            what = "start Ray" if address is None else f"join the Ray cluster {address}"
            raise Error(f"cannot {what}: {_reason(error)}") from error

    def _check_machines(self) -> None:
        """Refuses machines whose results would not be this one's."""
        ray = self._ray
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        probe = ray.remote(num_cpus=0, max_retries=ATTEMPTS)(_prober())
        machines = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        found = [probe.options(scheduling_strategy=strategy(node["NodeID"], soft=True)).remote() for node in machines]
        for node, versions in zip(machines, ray.get(found), strict=True):
            if difference := _difference(versions):
                raise Error(f"the machine {node['NodeManagerAddress']} of the Ray cluster has {difference}")


def _check_reachable(address: str) -> None:
    """Refuses an address where no cluster answers soon.

    Raises:
        InputError: it is no address.
        Error: nothing answers there, or no cluster that this machine is part of.
    """
    host, _, port = address.rpartition(":")
    if address != "auto":
        if "/" in address or not host or not port.isdecimal():
            raise InputError(f"the address of a Ray cluster is host:port of its head, or auto, got {address!r}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise Error(f"no Ray cluster at {address}: {getattr(error, 'strerror', None) or error}") from error
    command = [sys.executable, "-c", _JOIN, address]
    try:
        trial = subprocess.run(command, capture_output=True, timeout=_JOIN_SECONDS)
        code, said, log = trial.returncode, trial.stdout, trial.stderr
    except subprocess.TimeoutExpired as error:
        code, said, log = -1, b"", error.stderr or b""
    if code and said:
        raise Error(f"cannot join the Ray cluster {address}: {said.decode().strip()}")
    if code and b"Unauthenticated" in log:
        raise Error(
            f"the Ray cluster {address} wants a token: set RAY_AUTH_MODE=token here and on all its machines, each with "
            f"the same file ~/.ray/auth_token (ray get-auth-token)"
        )
    if code:
        raise Error(
            f"no Ray cluster that this machine is part of at {address}: give what ray start --head has named, and on "
            f"this machine, ray start --address={address} before"
        )


def _prober() -> Callable[[], dict[str, str | None]]:
    """A function that finds versions; within this one, so that it travels whole and needs no snnkern to be read."""

    def probe(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str | None]:
        import importlib.metadata
        import platform

        found: dict[str, str | None] = {"Python": platform.python_version()}
        for package in packages:
            found[package] = next((one.version for one in importlib.metadata.distributions(name=package)), None)
        return found

    return probe


@cache
def _versions() -> dict[str, str | None]:
    return _prober()()


def _difference(theirs: dict[str, str | None], ours: dict[str, str | None] | None = None) -> str:
    """What another machine has instead of what is here, in words; empty where there is no difference."""
    parts = [
        f"{f'{name} {theirs[name]}' if theirs[name] else f'no {name}'} (here: {here or 'none'})"
        for name, here in (ours or _versions()).items()
        if theirs[name] != here
    ]
    return f"{', '.join(parts)}: install the same on all" if parts else ""


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which is the error itself under its traceback."""
    return str(error).strip().rpartition("\n")[2].strip()


_jobs: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {}


def _call(job: list[Any], name: str, wanted: dict[str, str | None], task: bytes) -> bytes:
    """On a worker: runs a task. It keeps the job, the function and what all tasks share, for its next tasks."""
    if name not in _jobs:
        ray: Any = require("ray", "ray", "running tasks on Ray")
        if difference := _difference(_versions(), wanted):  # of a machine that joined later
            raise Error(f"the machine {ray.util.get_node_ip_address()} has {difference}")
        torch.set_num_threads(1)
        environments.draw_alone()
        _jobs.clear()
        _jobs[name] = pickle.loads(ray.get(job[0]))
    return pickled(attempt(*_jobs[name], pickle.loads(task)))
