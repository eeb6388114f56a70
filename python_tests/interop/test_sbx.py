"""SBX and what is trained by it: `sbx_cases.py`, in a process of its own."""

import importlib.util

import pytest
from support.builders import QUICK_JAX, run_cases


@pytest.mark.early
@pytest.mark.skipif(
    importlib.util.find_spec("sbx") is None, reason="sbx is not installed: pip install 'snnkern[train]'"
)
@pytest.mark.thorough
def test_models_and_examples() -> None:
    run_cases(["interop/sbx_cases.py"], "not long", QUICK_JAX)
