"""bench/gpu.py, which is for machines with a GPU, runs to its end on one without; what takes it there is current."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PROGRAM = ROOT / "bench" / "gpu.py"


@pytest.mark.thorough
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
    assert [(entry["neuron"], entry["batch"]) for entry in found["gradients"]] == [("if", 4)]


SCRIPT = ROOT / "bench" / "on_a_gpu.sh"


def test_the_script_for_a_machine_with_a_gpu_is_whole() -> None:
    """Bash reads it, Python reads what it gives to Python, and the files and parts that it names are there."""
    text = SCRIPT.read_text()
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    programs = re.findall(r"<<'PY'[^\n]*\n(.*?)^PY$", text, re.MULTILINE | re.DOTALL)
    assert len(programs) == text.count("<<'PY'") > 0
    for program in programs:
        compile(program, str(SCRIPT), "exec")
    for file in re.findall(r"(?:python_tests|bench|csrc)/[\w/]+\.\w+", text):
        assert (ROOT / file).exists() or file == "bench/results/gpu.json", file
    parts = set(re.findall(r'bash "\$SELF" (\w+)', text))
    (names,) = re.findall(r"^([\w |]+)\)\n\s+\"\$1\"$", text, re.MULTILINE)
    assert set(names.split(" | ")) == parts
    for part in parts:
        assert re.search(rf"^{part}\(\) {{", text, re.MULTILINE), part
