"""Where tests run Triton's kernels: in its interpreter, on CPU tensors; or, without TRITON_INTERPRET, on a GPU."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
import torch
from torch import Tensor

from snnkern.kernels.backends.triton import environment

DEVICE = torch.device("cpu" if environment.INTERPRETED else "cuda")
interpreted = pytest.mark.skipif(
    not environment.INTERPRETED, reason="is about the interpreter, which TRITON_INTERPRET asks for"
)


@pytest.fixture(scope="session", autouse=True)
def _interpreter_wastes_no_time():
    """It does two things to no effect, which are half of its time.

    At each call of a function in a kernel it changes `triton.language` again: what it changes depends on the function's
    module only. After each launch it copies all tensors of the CPU onto themselves.
    """
    if not environment.INTERPRETED:
        return
    from triton.runtime import interpreter

    changed = set()

    def call(function, *args, **options):
        if function.fn.__module__ not in changed:
            changed.add(function.fn.__module__)
            interpreter._patch_lang(function.fn)
        return function.rewrite()(*args, **options)

    interpreter.InterpretedFunction.__call__ = call
    interpreter.GridExecutor._restore_args_dev = lambda *_: None


@pytest.fixture(autouse=True)
def _numpy_does_not_warn():
    """The interpreter computes with NumPy, which warns of the infinities and NaNs that some cases are about."""
    with np.errstate(all="ignore"):
        yield


def guarded(tensor: Tensor) -> Tensor:
    """A copy behind whose last byte begins a page that must not be read: who does ends the process."""
    page = mmap.PAGESIZE
    inside = -(-tensor.nbytes // page) * page
    memory = mmap.mmap(-1, inside + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address + inside), ctypes.c_size_t(page), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=inside - tensor.nbytes)
    return copy.view(tensor.shape).copy_(tensor)


def untouched(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that takes room only where it is written: more than there is, where the system promises that much."""
    try:
        return torch.empty(shape, dtype=dtype)
    except RuntimeError as error:
        pytest.skip(f"the system promises no such memory: {error}")


class LastProgram:
    """A kernel of whose programs the last one runs alone, whatever the grid."""

    def __init__(self, kernel, monkeypatch) -> None:
        self._kernel, self._monkeypatch = kernel, monkeypatch

    def __getitem__(self, grid):
        from triton.runtime.interpreter import interpreter_builder

        self._monkeypatch.setattr(
            interpreter_builder,
            "set_grid_idx",
            lambda *_: setattr(interpreter_builder, "grid_idx", (grid[0] - 1, 0, 0)),
        )
        return self._kernel[(1,)]
