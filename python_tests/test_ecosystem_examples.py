"""The short programs of `examples/` that show `snnkern` with other libraries run, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 40
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stable_baselines3_evaluates_the_spiking_actor_as_it_does_the_model(capsys):
    pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed: pip install 'snnkern[sb3]'")
    dense, spiking = load("convert_sb3").main(steps=1_000)
    assert spiking == pytest.approx(dense, rel=0.05)
    assert f"spiking  {spiking:8.1f}" in capsys.readouterr().out
