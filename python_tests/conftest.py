"""What all tests share."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

# Where tests marked gpu stand. A run for a GPU imports no others: the machine may lack what they need.
GPU_FILES = re.compile(r"test_(cuda|triton)\w*\.py")

_MORE = pytest.StashKey[bool]()  # of cases that are run with --all-cases alone

pytest.register_assert_rewrite("support")  # what its comparisons find is shown as it is in tests


def _selects(config: pytest.Config, *marks: str) -> bool:
    """Whether `-m` selects a test with these marks alone."""
    expression = config.option.markexpr
    try:
        return not expression or bool(eval(expression, {}, defaultdict(bool, dict.fromkeys(marks, True))))
    except (SyntaxError, TypeError):  # pytest says what is wrong, or knows more than this
        return True


def _is_for_a_gpu(config: pytest.Config) -> bool:
    return _selects(config, "gpu", "long") and not _selects(config) and not _selects(config, "long")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-cases",
        action="store_true",
        default=bool(os.environ.get("SNNKERN_ALL_CASES")),
        help="run every case of every test; without it, a few that give each parameter each of its values once",
    )


def pytest_report_header(config: pytest.Config) -> str:
    whole = config.getoption("all_cases")
    return "cases: " + ("all" if whole else "each value of each parameter (--all-cases runs all combinations)")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    other = collection_path.is_file() and not GPU_FILES.fullmatch(collection_path.name)
    return True if other and _is_for_a_gpu(config) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out long tests, unless `-m` names them, and cases that cover nothing more, unless all are wanted.

    Those come last, and are skipped where `SNNKERN_UNTIL`, a time in seconds, is over: so that on a slow machine what
    matters most is run.
    """
    for item in items:
        if item.get_closest_marker("gpu") and not GPU_FILES.fullmatch(item.path.name):
            raise pytest.UsageError(f"{item.nodeid} is marked gpu, but `-m gpu` looks into {GPU_FILES.pattern} only")
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    chosen = set(items)
    if config.option.markexpr and "long" not in config.option.markexpr:
        chosen = {item for item in chosen if not item.get_closest_marker("long")}
    if not any("::" in argument for argument in config.args):
        tests = defaultdict(list)
        for item in chosen:
            if item.get_closest_marker("thorough"):
                continue
            tests[item.nodeid.partition("[")[0]].append(item)
        few = {item for cases in tests.values() for item in _few(cases)}
        for item in chosen - few:
            item.stash[_MORE] = True
        if not config.getoption("all_cases"):
            chosen = few
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = sorted((item for item in items if item in chosen), key=lambda item: _MORE in item.stash)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _MORE in item.stash and time.time() > float(os.environ.get("SNNKERN_UNTIL", "inf")):
        pytest.skip("another case of what was run, and the time that SNNKERN_UNTIL gives is over")


def _few(cases: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Of a costly test one case, of others as many as `covering` needs."""
    costly = [case for case in cases if case.get_closest_marker("costly")]
    yield from itertools.islice(covering(costly), 1)
    yield from covering([case for case in cases if case not in costly])


def covering(cases: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """A few cases of one test that together give each of its parameters each of its values.

    The next one is always that which gives most that are missing. Of several, their names alone decide, so that every
    run and every process chooses the same.
    """

    def values(case: pytest.Item) -> set[tuple[int, str]]:
        callspec = getattr(case, "callspec", None)
        return set(enumerate(callspec._idlist)) if callspec else {(0, "")}  # an id for each `parametrize`

    in_order = sorted(cases, key=lambda case: hashlib.sha256(case.nodeid.encode()).digest())
    missing = {case: values(case) for case in in_order}
    while missing:
        chosen = max(missing, key=lambda case: len(missing[case]))
        given = missing[chosen]
        missing = {case: rest for case, left in missing.items() if (rest := left - given)}
        yield chosen


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """torch.compile as it is in a new process."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if _is_for_a_gpu(config):
        config.option.all_cases = True
    if config.getoption("all_cases"):
        os.environ["SNNKERN_ALL_CASES"] = "1"  # for test runs that tests start
    # On a GPU's machine, whose drivers and releases we do not choose, the warnings of others are only shown.
    if _is_for_a_gpu(config) or os.environ.get("TRITON_INTERPRET") == "0":  # which test_triton.py sets for a GPU
        config.addinivalue_line("filterwarnings", "default")
        config.addinivalue_line("filterwarnings", "error:::snnkern")
    if not hasattr(config, "workerinput"):  # workers report to the process that started them
        config.pluginmanager.register(Reruns(config))


class Reruns:
    """Says at once, not at the end, which test failed and what runs it again."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            seed = getattr(self.config.option, "randomly_seed", None)
            order = f" --randomly-seed={seed}" if isinstance(seed, int) else ""
            reason = str(getattr(report.longrepr, "reprcrash", None) or report.longrepr).strip().splitlines()[-1][:200]
            terminal.ensure_newline()
            terminal.write_line(f"FAILED ({report.when}) {reason}", red=True)
            terminal.write_line(f"  again: {sys.executable} -m pytest{order} '{report.nodeid}'")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tensors are small here: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _logs(tmp_path_factory):
    """Where Stable-Baselines3 makes a folder for every training; it stays, and would lie in the system's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("logs")))
        yield


@pytest.fixture(scope="session")
def cuda_on_host():
    """The module of the CUDA kernels, built to run on the host, in build/ or a folder that is named."""
    from support import ROOT, cuda_on_host

    if why := cuda_on_host.missing():
        pytest.skip(why)
    folder = os.environ.get("SNNKERN_CUDA_ON_HOST", ROOT / "build" / "cuda_on_host")
    return cuda_on_host.load(cuda_on_host.build(Path(folder)))


@pytest.fixture
def gpu():
    """The CUDA device, with the kernels built."""
    from snnkern.kernels.backends import cuda

    if why := cuda.unavailable():
        pytest.skip(why)
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def triton_gpu():
    """The CUDA device, for Triton's kernels."""
    from snnkern.kernels.backends.triton import environment, launch

    why = launch.unavailable()
    if why or environment.INTERPRETED:
        pytest.skip(why or "TRITON_INTERPRET is set")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda_device(request, monkeypatch):
    """Where the backend "cuda" computes: a GPU, or the host, from the same source and on tensors of the CPU."""
    if request.param == "gpu":
        return request.getfixturevalue("gpu")
    from support import cuda_on_host

    cuda_on_host.use(request.getfixturevalue("cuda_on_host"), monkeypatch.setattr)
    return torch.device("cpu")
