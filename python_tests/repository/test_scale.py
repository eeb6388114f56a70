"""The page about many machines."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("typer", reason="Typer is not installed")

import scale


def test_tasks_go_to_the_worker_that_is_free_first() -> None:
    assert scale._schedule(np.array([3.0, 1.0, 1.0, 1.0, 5.0]), 2) == 8.0
    assert scale._schedule(np.array([3.0, 1.0]), 8) == 3.0


def test_the_page_shows_what_was_measured() -> None:
    results, page = json.loads(scale.RESULTS.read_text()), scale.PAGE.read_text()
    for name, table in scale.TABLES.items():
        assert f"<!-- {name} -->\n{table(results)}\n<!-- /{name} -->" in page
