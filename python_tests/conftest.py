"""What all tests share."""

import os
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

# Where tests marked gpu stand. A run for a GPU imports no others: the machine may lack what they need.
GPU_FILES = re.compile(r"test_(cuda|triton)\w*\.py")


def _selects(config: pytest.Config, *marks: str) -> bool:
    """Whether `-m` selects a test with these marks alone."""
    expression = config.option.markexpr
    try:
        return not expression or bool(eval(expression, {}, defaultdict(bool, dict.fromkeys(marks, True))))
    except (SyntaxError, TypeError):  # pytest says what is wrong, or knows more than this
        return True


def _is_for_a_gpu(config: pytest.Config) -> bool:
    return _selects(config, "gpu", "long") and not _selects(config) and not _selects(config, "long")


def pytest_configure(config: pytest.Config) -> None:
    """On a GPU's machine, whose drivers and releases we do not choose, the warnings of others are only shown."""
    if _is_for_a_gpu(config) or os.environ.get("TRITON_INTERPRET") == "0":  # which test_triton.py sets for a GPU
        config.addinivalue_line("filterwarnings", "default")
        config.addinivalue_line("filterwarnings", "error:::snnkern")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    other = collection_path.is_file() and not GPU_FILES.fullmatch(collection_path.name)
    return True if other and _is_for_a_gpu(config) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A `-m` that does not speak of long tests, as `-m gpu`, means the others."""
    for item in items:
        if item.get_closest_marker("gpu") and not GPU_FILES.fullmatch(item.path.name):
            raise pytest.UsageError(f"{item.nodeid} is marked gpu, but `-m gpu` looks into {GPU_FILES.pattern} only")
    if config.option.markexpr and "long" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tensors are small here: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cuda_on_host(tmp_path_factory):
    """The module of the CUDA kernels, built to run on the host; once per session, or in a folder that is named."""
    import cuda_on_host

    if why := cuda_on_host.missing():
        pytest.skip(why)
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared  # that of all workers
    folder = os.environ.get("SNNKERN_CUDA_ON_HOST", shared / "cuda_on_host")
    return cuda_on_host.load(cuda_on_host.build(Path(folder)))


@pytest.fixture
def gpu():
    """The CUDA device, with the kernels built."""
    from snnkern._backends import cuda

    if why := cuda.unavailable():
        pytest.skip(why)
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def triton_gpu():
    """The CUDA device, for Triton's kernels."""
    from snnkern._backends import triton

    why = triton.unavailable()
    if why or triton.INTERPRETED:
        pytest.skip(why or "TRITON_INTERPRET is set")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda_device(request, monkeypatch):
    """Where the backend "cuda" computes: a GPU, or the host, from the same source and on tensors of the CPU."""
    if request.param == "gpu":
        return request.getfixturevalue("gpu")
    import cuda_on_host

    cuda_on_host.use(request.getfixturevalue("cuda_on_host"), monkeypatch.setattr)
    return torch.device("cpu")
