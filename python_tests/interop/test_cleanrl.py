"""CleanRL's scripts and actors: `cleanrl_cases.py`, in a process of its own."""

import importlib.util

import pytest
from support.builders import QUICK_JAX, run_cases

NEEDED = ("cleanrl_utils", "stable_baselines3", "tensorboard", "flax", "mujoco")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.thorough
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; `make` installs all that tests need")
def test_scripts_and_actors() -> None:
    run_cases(["interop/cleanrl_cases.py"], "not long", QUICK_JAX)
