"""Which tests are run: by `pytest -m gpu`, where little more is there than torch, triton and pytest; in little time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.cases import DEFAULT_NEURONS, NATIVE_DTYPES
from support.layouts import CUDA_LAYOUTS

# What the machines with GPUs lack; the package needs none of it to import.
ABSENT = (
    "gymnasium mujoco typer rich matplotlib scipy hypothesis stable_baselines3 ray nir onnx onnxruntime "
    "spikingjelly pytest_benchmark pytest_randomly pybind11"
)

PROGRAM = f"""
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT.split()}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import pytest
# Entry points of plugins are not loaded: they may be of what is absent.
options = [f"-p no:{{name}}" for name in ("randomly", "benchmark", "hypothesispytest", "cacheprovider")]
for expression in sys.argv[1:]:
    print(f"run {{expression}}", flush=True)
    if pytest.main([*options, "-q", "--collect-only", "-m", expression]):
        sys.exit(1)
"""
GPU_TESTS = {  # a file, and one of its tests
    "test_cuda_actor": "test_agrees_with_the_reference[gpu-if-one-layer]",
    "test_cuda_cluster": "test_hidden_layers_are_bit_identical_to_the_cpu_engine[gpu-if-walker]",
    "test_cuda_gpu": "test_a_captured_decision_replays[if]",
    "test_cuda_gradients": "test_currents_may_have_any_strides[gpu-if-unaligned-float32]",
    "test_cuda_integers": "test_hidden_layers_are_exact[gpu-if-walker]",
    "test_cuda_neurons": "test_currents_may_have_any_strides[gpu-if-unaligned-float32]",
    "test_cuda_on_host": "test_two_barriers_per_layer_and_sixteen_steps_do[gpu-if]",
    "test_cuda_visual": "test_a_captured_decision_of_drq_v2_replays[drq-v2-cuda]",
    "test_triton": "test_kernels_on_a_gpu[neurons-not long]",
    "test_triton_gpu": "test_a_captured_decision_replays[if]",
}
LONG = "test_triton.py::test_kernels_on_a_gpu[actors-long]"


def test_a_bare_machine_finds_all_gpu_tests_and_only_these() -> None:
    """Long ones where they are asked for."""
    command = [sys.executable, "-c", PROGRAM, "gpu", "gpu and long"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    usual, long = (part.splitlines() for part in done.stdout.split("run gpu")[1:])
    found = [line for line in usual if "::" in line]
    for file, test in GPU_TESTS.items():
        assert f"python_tests/kernels/{file}.py::{test}" in found
    assert {line.partition("::")[0] for line in found} == {f"python_tests/kernels/{file}.py" for file in GPU_TESTS}
    assert not any("host-" in line for line in found)
    strides = [line for line in found if "neurons.py::test_currents_may_have_any_strides[" in line]
    # All cases, not a part that covers.
    assert len(strides) == len(CUDA_LAYOUTS) * len(DEFAULT_NEURONS) * len(NATIVE_DTYPES)
    assert f"python_tests/kernels/{LONG}" not in found
    assert f"python_tests/kernels/{LONG}" in long
    assert not set(found) & set(long)


@pytest.mark.thorough
def test_warnings_of_others_are_shown_and_ours_are_errors(tmp_path: Path) -> None:
    """Which is by the module that a warning is attributed to."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu: g\n  long: l\nfilterwarnings = error\n")
    (tmp_path / "conftest.py").write_text((ROOT / "python_tests" / "conftest.py").read_text())
    (tmp_path / "test_cuda_one.py").write_text(
        "import warnings\nimport pytest\n"
        "@pytest.mark.gpu\n"
        "@pytest.mark.parametrize('module', ['torch.cuda', 'snnkern.ops'])\n"
        "def test_one(module):\n"
        "    warnings.warn_explicit('beware', UserWarning, 'file.py', 1, module=module)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "test_one[snnkern.ops]" in done.stdout


@pytest.mark.thorough
def test_where_time_is_over_each_test_still_runs() -> None:
    """As CI on a slow machine: of the cases that are run with --all-cases alone, none."""

    def numbers(*options: str, **environment: str) -> dict[str, int]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "python_tests/kernels/test_neurons.py",
        ]
        usual = {name: value for name, value in os.environ.items() if name != "SNNKERN_ALL_CASES"}
        done = subprocess.run(
            [*command, *options], cwd=ROOT, env=usual | environment, capture_output=True, text=True, check=True
        )
        return {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}

    few, late = numbers(), numbers("--all-cases", SNNKERN_UNTIL="1")
    assert late["passed"] == few["passed"]
    assert late["skipped"] == few["deselected"] > 0
    assert "skipped" not in numbers("--all-cases", SNNKERN_UNTIL="9e9")
