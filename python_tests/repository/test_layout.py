"""How tests are laid out: what two of them need stands in `support`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from support import ROOT

TESTS = ROOT / "python_tests"
# Files whose tests are run, `…_cases.py` by others in processes of their own.
FILES = [file for name in ("test_*.py", "*_cases.py") for file in TESTS.rglob(name) if file.parent != TESTS / "support"]
SOURCES = [file for part in ("snnkern", "csrc", "bench") for file in (ROOT / part).rglob("*")]
SOURCES = [file for file in SOURCES if file.suffix in (".py", ".cu", ".cpp", ".h")]


def imported(file: Path) -> set[str]:
    """The parts of the names of all modules that a file imports, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(part for name in node.names for part in name.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            found.update((node.module or "").split("."), (name.name for name in node.names))
    return found


def test_no_file_imports_a_file_of_tests() -> None:
    tests = {file.stem for file in FILES} | {"conftest"}
    assert {str(file): tests & imported(file) for file in TESTS.rglob("*.py") if tests & imported(file)} == {}


def test_files_of_tests_have_names_of_their_own() -> None:
    """They stand in no packages, and Python knows a module by its name."""
    assert len({file.stem for file in FILES}) == len(FILES)


def test_files_that_comments_name_are_there() -> None:
    files = [*SOURCES, *TESTS.rglob("*.*"), *ROOT.glob("*.py")]
    there = "".join(f"{file.relative_to(ROOT.parent).as_posix()}\n" for file in files)
    assert "/snnkern/kernels/neurons.py\n" in there
    for file in SOURCES:
        text = re.sub("#include.*", "", file.read_text(encoding="utf-8"))
        named = set(re.findall(r"\w[\w/]*\.(?:py|cu|cpp|h)\b", text))
        assert {name for name in named if f"/{name}\n" not in there} == set(), file
