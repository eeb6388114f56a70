"""Tensors in memory of their own: more of it than there is, or before what nobody may read."""

from __future__ import annotations

import ctypes
import math
import mmap

import pytest
import torch
from torch import Tensor


def sparse(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros, of which only what is read or written takes memory."""
    size = math.prod(shape) * dtype.itemsize
    no_reserve = 0x4000  # MAP_NORESERVE of Linux, which mmap has from Python 3.13 on
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    except OSError as error:
        pytest.skip(f"no {size >> 30} GiB of addresses to be had: {error}")
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def before_a_guard(tensor: Tensor) -> Tensor:
    """The same values, at the end of memory behind which nothing may be read."""
    page = mmap.PAGESIZE
    size = -(-tensor.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    no_access = 0  # PROT_NONE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), no_access) == 0
    guarded = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=size - tensor.nbytes)
    return guarded.view(tensor.shape).copy_(tensor)
