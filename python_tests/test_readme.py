"""The README's program runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("mujoco", reason="MuJoCo is not installed")

README = Path(__file__).parents[1] / "README.md"


def test_the_program_in_the_readme_runs(capsys) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    exec(compile(program, str(README), "exec"), {})
    spikes = capsys.readouterr().out
    assert re.fullmatch(r"tensor\(\[\[\d+\],\n\s*\[\d+\]\]\)\n", spikes)


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
