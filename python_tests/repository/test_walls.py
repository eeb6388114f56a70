"""The walls between the floors, and the kernels by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import snnkern
from snnkern import former

ROOT = Path(__file__).parents[2]
WHEEL_PARTS = ("snnkern", "csrc", "setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "MANIFEST.in")
# What somebody lacks who has installed torch and NumPy and nothing else.
ABSENT = ("gymnasium", "mujoco", "typer", "rich", "matplotlib", "scipy", "safetensors", "msgspec")
PLUGIN = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
import snnkern
assert snnkern.__file__.startswith(__file__.rpartition("/")[0]), snnkern.__file__
"""

EVERY_MODULE = """
import absent, importlib, pkgutil, torch
from snnkern import kernels
from snnkern.kernels.backends.choice import choose
for module in pkgutil.walk_packages(kernels.__path__, "snnkern.kernels."):
    if ".triton." not in module.name:  # which import triton
        importlib.import_module(module.name)
print(choose("auto", torch.device("cpu"), torch.float32).NAME)
"""


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", *arguments], capture_output=True, text=True, check=False, **options)


def copy(folder: Path, *parts: str) -> None:
    for part in parts:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / part, folder)


@pytest.mark.parametrize(
    ("file", "line", "wall"),
    [
        ("kernels/ops.py", "from snnkern.policies.actor import Actor", "floors"),
        ("kernels/nn.py", "import msgspec", "kernels can be used alone"),
        ("control/rollout.py", "from snnkern.conversion.convert import convert", "floors"),
        ("interop/nir.py", "from snnkern.control.rollout import rollout", "interop"),
    ],
    ids=["kernels-policies", "kernels-msgspec", "control-conversion", "interop-control"],
)
def test_a_broken_wall_is_named(tmp_path, file, line, wall) -> None:
    copy(tmp_path, "snnkern", "pyproject.toml")
    with (tmp_path / "snnkern" / file).open("a") as module:
        module.write(f"\n{line}\n")
    command = "from importlinter.cli import lint_imports_command as lint; lint()"
    ran = run("-c", command, "--no-cache", "--no-logo", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert ran.returncode == 1, ran.stdout + ran.stderr
    broken = [text for text in ran.stdout.splitlines() if text.endswith("BROKEN")]
    assert len(broken) == 1, ran.stdout + ran.stderr
    assert broken[0].startswith(wall)


@pytest.mark.early
@pytest.mark.thorough
def test_kernels_work_beside_torch_alone(tmp_path) -> None:
    """The wheel, and the tests of the kernels, where all other packages that snnkern may use cannot be imported."""
    sources = tmp_path / "sources"
    sources.mkdir()
    copy(sources, *WHEEL_PARTS)
    built = run(
        *("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(sources)),
        env={**os.environ, "SNNKERN_CUDA": "0", "SNNKERN_BASELINE_ONLY": "ON"},
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    (site / "absent.py").write_text(PLUGIN)
    tests = [str(ROOT / "python_tests" / "kernels" / f"test_{name}.py") for name in ("neurons", "reference", "ops")]
    env = {name: value for name, value in os.environ.items() if name != "SNNKERN_ALL_CASES"}
    env["PYTHONPATH"] = str(site)
    imported = run("-c", EVERY_MODULE, env=env)
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.split() == ["cpu"]
    tested = run("-m", "pytest", "-q", "-p", "absent", "-p", "no:cacheprovider", "-p", "no:benchmark", *tests, env=env)
    assert tested.returncode == 0, tested.stdout[-3000:]


def test_import_loads_nothing_that_takes_long() -> None:
    ran = run("-c", "import snnkern, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))")
    assert not {"torch", "numpy", "msgspec", "safetensors", "typer"} & set(ran.stdout.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["convert", "--nueron", "if"], ["sweep", "--help"]])
def test_the_command_line_answers_without_torch(arguments) -> None:
    code = "import sys; from snnkern.__main__ import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    assert run("-c", code, *arguments).stdout.splitlines()[-1] == "False"


def test_all_public_names_are_there() -> None:
    assert set(snnkern._HOME_OF) <= {*snnkern.__all__, "__version__"}
    for name in snnkern.__all__:
        assert getattr(snnkern, name) is not None
    assert set(snnkern.__all__) <= set(dir(snnkern))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = snnkern.nothing


@pytest.mark.parametrize("name", [*former.MODULES, *former.PACKAGES])
def test_modules_are_found_by_their_former_names(name) -> None:
    homes = {**former.MODULES, **former.PACKAGES}[name]
    module = __import__(f"snnkern.{name}", fromlist=["nothing"])
    for home in homes:
        found = vars(__import__(f"snnkern.{home}", fromlist=["nothing"]))
        public = [key for key, value in found.items() if getattr(value, "__module__", None) == f"snnkern.{home}"]
        assert public
        assert all(hasattr(module, key) for key in public)
