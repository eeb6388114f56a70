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

    Objects that are there already are used again, where no source is newer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = folder / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    with FileLock(folder / "lock"):
        if not module.exists():
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

    headers = [*SOURCES.parent.rglob("*.h"), *HERE.glob("*.h")]

    def compile_one(source: Path) -> str:
        result = module.parent / f"{source.stem}.o"
        newest = max(file.stat().st_mtime for file in (source, *headers))
        if not result.exists() or result.stat().st_mtime < newest:
            subprocess.run([COMPILER, *flags, "-x", "c++", "-c", str(source), "-o", str(result)], check=True)
        return str(result)

    sources = [*SOURCES.glob("*.cu"), *SOURCES.glob("*.cpp"), *HERE.glob("*.cpp")]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    linked = [flag for flag in flags if flag not in CHECKS]
    subprocess.run([COMPILER, *linked, "-shared", *objects, "-o", str(module)], check=True)


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
    setattr(cuda, "_place", lambda tensor: {"device": 0, "stream": 0})


def take_turns(module: ModuleType, order: str) -> None:
    """In which order a block's threads run from now on: a name from `ORDERS`."""
    ctypes.CDLL(module.__file__).snnkern_host_order(ORDERS[order])


def leave_out(module: ModuleType, line: int) -> None:
    """From now on nobody waits at a barrier, or for copies, in this line of a source; 0 for everybody again."""
    ctypes.CDLL(module.__file__).snnkern_host_leave_out(line)


def barriers(module: ModuleType) -> int:
    """Barriers that a block came to in the last launch."""
    return ctypes.CDLL(module.__file__).snnkern_host_barriers()


class Call(NamedTuple):
    """A call of the runtime: "launch", "memset", "limit" (of shared memory) or "attribute"; and the current device."""

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


def current_device(module: ModuleType) -> int:
    return ctypes.CDLL(module.__file__).snnkern_host_device()


@contextmanager
def from_block(module: ModuleType, number: int) -> Iterator[None]:
    """Within it a launch runs no block before this one."""
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


def run_fault(module: ModuleType, fault: str) -> tuple[int, str]:
    """Runs the kernel of `faults.cpp` with a fault from `FAULTS`: its sum, and the message where the fault is found."""
    message = ctypes.create_string_buffer(200)
    total = ctypes.CDLL(module.__file__).snnkern_host_fault(FAULTS.index(fault), message, len(message))
    return total, message.value.decode()
