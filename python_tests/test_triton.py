"""The Triton backend: its kernels in the interpreter, compiled ahead of time, and (with `-m gpu`) on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

HERE = Path(__file__).resolve().parent


def run_in_the_interpreter(marked: str) -> None:
    """Runs `triton_interpreted.py` in a process of its own, so that TRITON_INTERPRET reaches nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, "triton_interpreted.py"],
        cwd=HERE,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_kernels_in_the_interpreter() -> None:
    run_in_the_interpreter("not long")


@pytest.mark.long
def test_more_kernels_in_the_interpreter() -> None:
    run_in_the_interpreter("long")
