"""bench/gpu.py, which is for machines with a GPU, runs to its end on one without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support import ROOT

PROGRAM = ROOT / "bench" / "gpu.py"


def test_without_a_gpu_a_small_run_checks_and_times_what_the_cpu_has(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(PROGRAM), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "There is no GPU" in done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert found["gpu"] is None
    assert found["failed"] == {}
    assert {entry["neuron"] for entry in found["neurons"]} == {"if", "snm", "mt", "dc"}
    assert found["decisions"]
    assert {entry["path"] for entry in found["visual"]} >= {"triton", "dense"}
