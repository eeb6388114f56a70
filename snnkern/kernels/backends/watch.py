"""Whether what an engine was packed from is as it was, in less time than a decision would notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

try:
    from snnkern._cpu import watch as _native
except ImportError:
    _native = None


def watch(tables: Sequence[tuple[dict[str, Any], dict[str, Any]]], tensors: Sequence[Tensor]) -> Callable[[], bool]:
    """A function that says whether dictionaries are as expected and tensors as they are now.

    It knows values by identity, and tensors by torch's counter of changes in place. It does not see what is
    written through `tensor.data` or a NumPy array of that memory, nor changes of tensors that were made under
    `torch.inference_mode()`: those have no counter.

    Args:
        tables: dictionaries to watch, each with the entries that it should have.
        tensors: to watch.
    """
    counted = [tensor for tensor in tensors if not tensor.is_inference()]
    if _native is not None:
        return _native(tables, counted, torch._C.TensorBase._version)
    versions = [tensor._version for tensor in counted]
    return lambda: (
        all(
            len(table) == len(entries) and all(table.get(name) is value for name, value in entries.items())
            for table, entries in tables
        )
        and [tensor._version for tensor in counted] == versions
    )
