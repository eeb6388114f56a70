"""Runs the CUDA kernels on the host: builds `csrc/cuda` with a runtime of its own, `cuda_runtime.h`.

The module that comes out takes the place of `snnkern._cuda`, and takes tensors of the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from support import ROOT

HERE = Path(__file__).resolve().parent
SOURCES = ROOT / "csrc" / "cuda"
COMPILER = os.environ.get("CXX", "g++")
# As `nvcc` is called for the kernels: no fused multiply-add that the source does not name. Alignment as a GPU wants it.
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
CHECKS = ["-fsanitize=alignment"]  # host_runtime.cpp holds what they call

# Numbers of `Order` in host_runtime.cpp; the last one is a seed.
ORDERS = {"forward": 0, "backward": 1, "first": 2, "last": 3, "random": 5}


def missing() -> str:
    """Why the kernels cannot be built here; empty where they can."""
    return "" if shutil.which(COMPILER) else f"no C++ compiler: {COMPILER}"


def build(folder: Path) -> Path:
    """Compiles the module into a folder, once for all processes; further flags come from SNNKERN_HOST_FLAGS.

    What is there already is used again, unless a source is newer, or it was compiled otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    with FileLock(folder / "lock"):
        _compile(module)
    return module


def _compile(module: Path) -> None:
    import pybind11

    flags = [
        *FLAGS,
        *CHECKS,
        *shlex.split(os.environ.get("SNNKERN_HOST_FLAGS", "")),
        "-Wno-unknown-pragmas",  # `#pragma unroll` is nvcc's
        *(f"-I{include}" for include in (HERE, pybind11.get_include(), sysconfig.get_path("include"))),
    ]
    said, command = module.parent / "command", shlex.join([COMPILER, *flags])
    alike = said.exists() and said.read_text() == command
    headers = [*SOURCES.parent.rglob("*.h"), *HERE.glob("*.h")]

    def is_current(result: Path, *sources: Path) -> bool:
        newest = max(file.stat().st_mtime for file in (*sources, *headers))
        return alike and result.exists() and result.stat().st_mtime >= newest

    def compile_one(source: Path) -> str:
        result = module.parent / f"{source.stem}.o"
        if not is_current(result, source):
            subprocess.run([COMPILER, *flags, "-x", "c++", "-c", str(source), "-o", str(result)], check=True)
        return str(result)

    sources = [*SOURCES.glob("*.cu"), *SOURCES.glob("*.cpp"), *HERE.glob("*.cpp")]
    if is_current(module, *sources):
        return
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    linked = [flag for flag in flags if flag not in CHECKS]
    subprocess.run([COMPILER, *linked, "-shared", *objects, "-o", str(module)], check=True)
    said.write_text(command)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def use(module: ModuleType, setattr: Callable[[object, str, object], None] = setattr) -> None:
    """Makes the module what the backend "cuda" computes with, on tensors of the CPU."""
    from snnkern.kernels.backends import cuda

    setattr(cuda, "_cuda", module)
    setattr(cuda, "unavailable", lambda: "")
    setattr(cuda, "detail", lambda: "the host")
    setattr(cuda, "serves", lambda device, dtype: dtype in cuda._DTYPES)
    setattr(cuda, "_device_of", lambda tensor: 0)
    setattr(cuda, "stream_on", {0: 0}.__getitem__)
    for cached in (cuda._torch, cuda._layer_call):  # they belong to a module
        cached.cache_clear()


def take_turns(module: ModuleType, order: str, seed: int = 0) -> None:
    """In which order threads run from now on: a name from `ORDERS`; "random" with another seed gives another order."""
    ctypes.CDLL(module.__file__).snnkern_host_order(ORDERS[order] + seed)


def leave_out(module: ModuleType, *places: tuple[str, int]) -> None:
    """From now on nobody waits at a barrier, or for copies, in these places, each a source's name and a line.

    Where there are none, everybody waits again.
    """
    library = ctypes.CDLL(module.__file__)
    library.snnkern_host_leave_out(None, 0)
    for name, line in places:
        library.snnkern_host_leave_out(name.encode(), line)


def come_late(module: ModuleType, *tensors: Tensor) -> None:
    """In the next launch these are garbage, until a thread waits for the launch before."""
    for tensor in tensors:
        size = ctypes.c_int64(tensor.nbytes)
        ctypes.CDLL(module.__file__).snnkern_host_late(ctypes.c_void_p(tensor.data_ptr()), size)


def barriers(module: ModuleType) -> int:
    """Barriers that a block came to in the last launch."""
    return ctypes.CDLL(module.__file__).snnkern_host_barriers()


class Call(NamedTuple):
    """A call of the runtime, and the current device.

    "launch", "memset", "wait" (for a stream), "limit" (of shared memory) or "attribute". Behind a launch stand its
    attributes: "cluster" with its blocks for bytes, and "overlap", where it may begin early.
    """

    what: str
    device: int
    stream: int
    bytes: int


@contextmanager
def recorded(module: ModuleType) -> Iterator[list[Call]]:
    """The runtime's calls within the block; the list is filled at its end."""
    library = ctypes.CDLL(module.__file__)
    library.snnkern_host_recorded.restype = ctypes.c_char_p
    library.snnkern_host_record(True)
    calls: list[Call] = []
    try:
        yield calls
    finally:
        for line in library.snnkern_host_recorded().decode().splitlines():
            what, *numbers = line.split()
            calls.append(Call(what, *map(int, numbers)))
        library.snnkern_host_record(False)


@contextmanager
def meanwhile(module: ModuleType, call: Callable[[], None]) -> Iterator[None]:
    """Within it, this is called whenever a stream is waited for, as if by another thread."""
    function = ctypes.CFUNCTYPE(None)(call)
    library = ctypes.CDLL(module.__file__)
    library.snnkern_host_meanwhile(function)
    try:
        yield
    finally:
        library.snnkern_host_meanwhile(None)


def current_device(module: ModuleType) -> int:
    return ctypes.CDLL(module.__file__).snnkern_host_device()


@contextmanager
def compiled_for(module: ModuleType, architecture: int) -> Iterator[None]:
    """Within it the kernels are said to be for this architecture: 80 for sm_80."""
    say = ctypes.CDLL(module.__file__).snnkern_host_compiled_for
    say(architecture)
    try:
        yield
    finally:
        say(90)


@contextmanager
def from_block(module: ModuleType, number: int) -> Iterator[None]:
    """Within it a launch runs no block before this one, or no cluster."""
    start = ctypes.CDLL(module.__file__).snnkern_host_first_block
    start(ctypes.c_int64(number))
    try:
        yield
    finally:
        start(ctypes.c_int64(0))


@contextmanager
def multiprocessors(module: ModuleType, number: int) -> Iterator[None]:
    """Within it the devices have so many of them."""
    set_number = ctypes.CDLL(module.__file__).snnkern_host_multiprocessors
    set_number(number)
    try:
        yield
    finally:
        set_number(0)


def divide(module: ModuleType, x: Tensor, steps: int, normal: bool = False, off: int = 0) -> Tensor:
    """x / steps by `Divisor` (csrc/cuda/divisor.h).

    `normal` says that nothing is small; the reciprocal is `off` by so many units in its last place.
    """
    result = torch.empty_like(x)
    run = getattr(ctypes.CDLL(module.__file__), f"snnkern_host_divide_{str(x.dtype).removeprefix('torch.')}")
    numbers = ctypes.c_int64(x.numel()), ctypes.c_int(steps), ctypes.c_bool(normal), ctypes.c_int(off)
    run(ctypes.c_void_p(x.data_ptr()), *numbers, ctypes.c_void_p(result.data_ptr()))
    return result


FAULTS = (
    "none",
    "no barrier",
    "a barrier in a branch",
    "a part of a warp",
    "different operations",
    "outside shared memory",
    "more shared memory than allowed",
    "a misaligned address",
    "a copy that nobody waits for",
    "different numbers at a barrier",
)


# Of a kernel of clusters, `cluster_faults.cpp`.
CLUSTER_FAULTS = (
    "none",
    "no wait for copies",
    "no wait for blocks",
    "the wrong parity",
    "a barrier that is not made",
    "a barrier that is not published",
    "fewer bytes announced",
    "more bytes announced",
    "bytes announced twice",
    "a misaligned copy",
    "a copy outside shared memory",
    "sent before all have begun",
    "sent to a block that has ended",
    "an end before the copies come",
    "an arrival without a wait",
    "a wait without an arrival",
    "a grid of no whole clusters",
)


def run_fault(module: ModuleType, fault: str) -> tuple[int, str]:
    """Runs the kernel of a fault from `FAULTS`, of `faults.cpp`: its sum, and the message where the fault is found."""
    return _run_fault(ctypes.CDLL(module.__file__).snnkern_host_fault, FAULTS.index(fault))


def run_cluster_fault(module: ModuleType, fault: str) -> tuple[int, str]:
    """The same for `CLUSTER_FAULTS`."""
    return _run_fault(ctypes.CDLL(module.__file__).snnkern_host_cluster_fault, CLUSTER_FAULTS.index(fault))


def _run_fault(run: Callable[..., int], fault: int) -> tuple[int, str]:
    message = ctypes.create_string_buffer(200)
    total = run(fault, message, len(message))
    return total, message.value.decode()
