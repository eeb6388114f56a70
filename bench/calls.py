"""What a call takes of the CPU before a GPU gets its kernel, by path; no kernel runs, and no GPU is needed.

    python bench/calls.py            # builds the CUDA module for the host, compiles one Triton kernel: two minutes

CUDA's calls go to the runtime of the tests (`python_tests/support/cuda_on_host`), Triton's to a driver that does
nothing (`host_driver.c`). So what a real driver takes for a launch is missing, and so is what it takes to wait for
the device. A time is the smallest of a thousand turns, of a hundred calls each.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "python_tests")]
os.environ.setdefault("SNNKERN_HOST_FLAGS", "-O2")

import torch  # noqa: E402
from support import cuda_on_host  # noqa: E402
from support.cases import DEFAULT_NEURONS, Size, random_layer  # noqa: E402
from support.cuda_actors import twins  # noqa: E402

from snnkern import Dynamics, SpikingActor  # noqa: E402
from snnkern.kernels import ops  # noqa: E402

WIDTHS, TIMESTEPS = (17, 256, 256, 6), 8  # td3-halfcheetah's
CALLS, TURNS = 100, 1000


def microseconds(call: Callable[[], object]) -> float:
    """Of one call."""
    call()
    return min(timeit.repeat(call, number=CALLS, repeat=TURNS)) / CALLS * 1e6


def report(what: str, call: Callable[[], object], allocated: float) -> None:
    print(f"| {what} | {microseconds(call) - allocated:.1f} | {allocated:.1f} |", flush=True)


def allocation(*shapes: tuple[int, ...]) -> float:
    """Microseconds that torch takes for new tensors of these shapes."""
    new_empty = torch.zeros(1).new_empty
    return sum(microseconds(lambda shape=shape: new_empty(shape)) for shape in shapes)


def decisions(name: str, actor: SpikingActor, rows: int, checks: Sequence[bool]) -> None:
    observation = torch.zeros(rows, WIDTHS[0])
    allocated = allocation((rows, WIDTHS[-1]))
    for check in checks:
        actor.check_finite = check
        actor(observation)
        report(f"snn(tensor), {name}, check_finite = {check}", lambda: actor(observation), allocated)


def layers(name: str, backend: str) -> None:
    layer = random_layer(Dynamics(DEFAULT_NEURONS["if"], TIMESTEPS), Size(1, 256))
    arguments = (layer.current, layer.threshold, layer.carry, layer.dynamics)
    for call, output in ((ops.neuron_spikes, (TIMESTEPS, 1, 256)), (ops.neuron_mean, (1, 256))):
        allocated = allocation(output, (1, 256), (1,))
        report(f"ops.{call.__name__}, {name}", lambda call=call: call(*arguments, backend=backend), allocated)


@contextmanager
def triton_on_host(folder: Path) -> Iterator[None]:
    """Triton compiles for an H100 and launches into a driver that does nothing."""
    library = folder / "libcuda.so.1"
    build = [
        "gcc",
        "-O2",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        str(HERE / "host_driver.c"),
        "-o",
        str(library),
    ]
    subprocess.run(build, check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver

    from snnkern.kernels.backends.triton import launch

    device = CudaDriver()
    device.get_current_device = lambda: 0
    device.get_current_stream = lambda device: 0
    device.get_current_target = lambda: GPUTarget("cuda", 90, 32)
    driver.set_active(device)
    here: dict[str, Any] = {"unavailable": lambda: "", "serves": lambda device, dtype: dtype in launch._DTYPES}
    with mock.patch.multiple(launch, **here):
        yield


def main() -> None:
    torch.set_num_threads(1)
    print("| µs of the CPU | the call | torch's allocation of what it returns |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        module = cuda_on_host.load(cuda_on_host.build(Path(os.environ.get("SNNKERN_CUDA_ON_HOST", f"{folder}/module"))))
        cuda_on_host.use(module)
        with cuda_on_host.from_block(module, 2**40):  # no block runs
            decisions("CUDA", twins(WIDTHS, "if", torch.device("cpu"), TIMESTEPS)[0], 1, (True, False))
            layers("CUDA", "cuda")
        with triton_on_host(Path(folder)):
            ours, _ = twins(WIDTHS, "if", torch.device("cpu"), TIMESTEPS)
            ours._backend = "triton"
            decisions("Triton", ours, 1, [False])  # torch looks for NaN, which is another matter on a GPU
            layers("Triton", "triton")


if __name__ == "__main__":
    main()
