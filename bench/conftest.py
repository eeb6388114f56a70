"""Runs the microbenchmarks (`bench_*.py`) with a fixed number of threads, and prints a table per suite at the end.

python -m pytest bench --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from suite import Info, Suite

import snnkern

FOUND = pytest.StashKey[dict[Suite, list[Info]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("snnkern")
    group.addoption("--threads", type=int, default=1, help="Threads that decisions may use. Default: 1")
    group.addoption("--case-seconds", type=float, default=0.2, help="How long a case is timed. Default: 0.2")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FOUND] = {}


@pytest.fixture(scope="session", autouse=True)
def threads(pytestconfig: pytest.Config) -> Iterator[int]:
    """How many threads the engine may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(pytestconfig.getoption("threads"))
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def case_seconds(pytestconfig: pytest.Config) -> float:
    return pytestconfig.getoption("case_seconds")


@pytest.fixture
def report(pytestconfig: pytest.Config, benchmark: Any) -> Callable[[Suite, Info], None]:
    """Takes what a case found into the JSON file, as `extra_info`, and into the suite's table."""

    def take(suite: Suite, info: Info) -> None:
        benchmark.extra_info.update(info)
        pytestconfig.stash[FOUND].setdefault(suite, []).append(info)

    return take


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's own tables
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for suite, found in config.stash[FOUND].items():
        terminalreporter.write_line(f"\n{suite.table(found)}")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["snnkern"] = {
        "version": snnkern.__version__,
        "backends": {status.name: status.detail for status in snnkern.backends()},
        "torch": torch.__version__,
        "threads": config.getoption("threads"),
    }
