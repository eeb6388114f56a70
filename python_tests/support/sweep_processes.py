"""Sweeps in processes of their own, for tests that kill them."""

from __future__ import annotations

import contextlib
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


def wait_for(condition) -> None:
    """Fails where the condition does not come true in time."""
    end = time.monotonic() + 600  # so that a bug ends the tests; nothing depends on how long it takes
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
