"""Sweeps in processes of their own, for tests that kill them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


@contextlib.contextmanager
def sweeping(arguments: list[str], folder: Path):
    """The command in a process of its own, which is gone afterwards."""
    command = [sys.executable, "-m", "snnkern", "sweep", *arguments]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def stored(store: Path) -> list[Path]:
    """The results that a sweep has kept."""
    return list(store.glob("*.json"))


def wait_for(condition) -> None:
    """Fails where the condition does not come true in time."""
    end = time.monotonic() + 600  # so that a bug ends the tests; nothing depends on how long it takes
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def kill_worker_then_sweep(process: subprocess.Popen[bytes], store: Path, least: int, workers) -> None:
    """kill -9 of a worker once two results are kept, then of the whole sweep once `least` are; all workers go with it.

    Args:
        process: the sweep.
        store: where it keeps its results.
        least: how many results it has when it is killed, at the least.
        workers: a function from the sweep's process to those of its workers, of which there is one at least.
    """
    wait_for(lambda: len(stored(store)) >= 2)
    victim = workers(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(stored(store)) >= least)
    others = workers(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert victim not in others
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in others))
