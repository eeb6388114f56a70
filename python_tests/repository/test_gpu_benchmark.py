"""bench/gpu.py, which is for machines with a GPU, runs to its end on one without; what takes it there is current."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ROOT
from support import cuda_on_host as host

from snnkern import SpikingActor
from snnkern.analysis.rivals import Missing
from snnkern.kernels.backends import cuda, integers

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


@pytest.mark.parametrize(("kernel", "batch"), [("blocks", 3), ("clusters", 1), ("integers", 300)])
@pytest.mark.thorough
def test_each_of_cudas_kernels_is_timed_by_itself(cuda_on_host, kernel, batch, monkeypatch) -> None:
    """However it is chosen, and only where it serves the actor."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # which the program would set, for all tests
    gpu = importlib.import_module("gpu")
    host.use(cuda_on_host, monkeypatch.setattr)
    taken = []

    def captured(snn: SpikingActor, task: gpu.Task, rows: int) -> None:
        with host.recorded(cuda_on_host) as calls:
            snn(torch.zeros(rows, task.actor.interface.observation_dim))
        launches = [call for call in calls if call.what == "launch"]
        whole = "integers" if isinstance(snn._engine, integers.Engine) else "blocks"
        taken.append("clusters" if any(call.what == "cluster" for call in calls) else whole)
        assert launches

    monkeypatch.setattr(gpu, "captured", captured)
    gpu.on_kernel(kernel, "if", gpu.Task.load(), batch)
    assert taken == [kernel]
    with monkeypatch.context() as patch:
        patch.setattr(integers, "engine", lambda actor: None)
        patch.setattr(cuda.Engine, "_use", lambda *arguments: False)
        if kernel != "blocks":
            with pytest.raises(Missing, match="it does not serve this actor"):
                gpu.on_kernel(kernel, "if", gpu.Task.load(), batch)


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
    by_itself = set(re.findall(r"^(\w+)\)", text, re.MULTILINE))
    parts = set(re.findall(r'bash "\$SELF" (\w+)', text)) - by_itself
    (names,) = re.findall(r"^([\w |]+)\)\n\s+\"\$1\"$", text, re.MULTILINE)
    assert set(names.split(" | ")) == parts
    for part in parts:
        assert re.search(rf"^{part}\(\) {{", text, re.MULTILINE), part
