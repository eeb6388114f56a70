"""Tasks for tests of executors, at the top level of a module that a worker can import."""

import os
import signal
import time
from pathlib import Path


def note(folder: Path, task: int) -> int:
    """Leaves a file for every time that the task was finished; task 3's first worker dies in the middle of it."""
    if task == 3 and not (folder / "died").exists():
        (folder / "died").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    (folder / f"{task}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return task * task


def slow(folder: Path, task: int) -> None:
    """Task 0 ends at once, the others, which leave a file named by their process, after a minute."""
    if task:
        (folder / str(os.getpid())).touch()
        time.sleep(60)


def deadly(shared: None, task: int) -> int:
    """Task 1 kills every worker that begins it."""
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


class Unreadable(Exception):
    """An exception that pickle can write and not read."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def failing(shared: str, task: int) -> int:
    """Odd tasks raise."""
    if task == 5:
        raise Unreadable(5, 6)
    if task % 2:
        raise ValueError(f"{shared} {task}")
    return task
