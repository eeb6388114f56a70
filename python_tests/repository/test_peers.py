"""The latency comparison: everyone who is installed decides as the reference does, and the page can be drawn."""

from __future__ import annotations

import json

import comparison
import contenders
import peers
import peers_page
import pytest
import torch
from support import ROOT
from support.cases import needs_cpu

import snnkern
from snnkern.analysis import rivals
from snnkern.control import timing

pytestmark = needs_cpu

MAKERS = [name for name, _ in contenders.at_batch_one(None) if name not in ("compiled loop", "dense torch.compile")]
T = comparison.T


@pytest.fixture(scope="module")
def task() -> comparison.Task:
    """The comparison's actor and thresholds, on fewer observations."""
    try:
        return comparison.record(steps=400)
    except snnkern.errors.Error as error:
        pytest.skip(f"no HalfCheetah to record: {error}")


def make(task: comparison.Task, name: str, makers=contenders.at_batch_one) -> timing.Contender:
    try:
        return dict(makers(task))[name]()
    except rivals.Missing as error:
        pytest.skip(f"{name} is missing: {error}")


@pytest.mark.parametrize("name", MAKERS)
@torch.no_grad()
def test_one_observation_at_a_time_decides_as_the_reference(task, name):
    party = make(task, name)
    comparison.check(task, name, party, timing.rows(task.observations, 4, 3), by_row=True)


@pytest.mark.parametrize("name", [name for name, _ in contenders.at_batch_many(None)])
@torch.no_grad()
def test_a_batch_decides_as_the_reference(task, name):
    party = make(task, name, contenders.at_batch_many)
    comparison.check(task, name, party, timing.rows(task.observations, 32, 3), by_row=False)


@torch.no_grad()
def test_the_check_refuses_a_contender_with_other_dynamics(task):
    party = timing.Contender(contenders.engine(task, "if", 4).act, setting=comparison.setting())
    with pytest.raises(AssertionError, match="actions differ"):
        comparison.check(task, "T = 4", party, timing.rows(task.observations, 4, 3), by_row=True)


@torch.no_grad()
def test_turns_are_measured_and_give_ratios(task):
    names = [f"act if {T}", f"tensor if {T}", "act if 32", "published loop"]
    parties = {name: make(task, name) for name in names}
    times = timing.measure(parties, task.observations[:20], 3, seconds=1e-4)
    assert all((times[name] > 0).all() for name in names)
    found = peers.targets({"one": times, "batch": {}, "kernel": {}}, memory=None)
    assert [row["what"].split(",")[0] for row in found] == [
        "`snn.act`",
        "`snn(tensor)` against `snn.act`",
        "T = 32 against T = 8",
    ]
    lower, median, upper = found[0]["measured"]
    assert 0 < lower <= median <= upper


def test_a_package_that_is_not_installed_is_missing():
    with pytest.raises(rivals.Missing, match="ModuleNotFoundError"):
        rivals.optional("no_such_package")


def test_the_page_is_drawn_from_the_data_alone(tmp_path):
    results = json.loads((ROOT / "bench" / "results" / "peers.json").read_text())
    page = (ROOT / "docs" / "performance.md").read_text()
    for name, table in peers_page.TABLES.items():
        assert f"<!-- {name} -->\n{table(results)}\n<!-- /{name} -->" in page
    pytest.importorskip("matplotlib")
    peers_page.draw(results, tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_says_who_is_missing():
    results = json.loads((ROOT / "bench" / "results" / "peers.json").read_text())
    results["one"] = {name: value for name, value in results["one"].items() if name != "sinabs"}
    results["missing"] = {"sinabs": "ModuleNotFoundError"}
    table = peers_page.latency_table(results)
    assert "| sinabs, IF without carry | missing |" in table
    assert "Missing: sinabs (ModuleNotFoundError)" in table
