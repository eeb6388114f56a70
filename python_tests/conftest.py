"""What all tests share."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tensors are small here: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cuda_on_host(tmp_path_factory):
    """The module of the CUDA kernels, built to run on the host; once per session."""
    import cuda_on_host

    if why := cuda_on_host.missing():
        pytest.skip(why)
    return cuda_on_host.load(cuda_on_host.build(tmp_path_factory.mktemp("cuda_on_host")))


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
