"""A CUDA graph on the host: what a decision does is written down once, and done again on the same memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A graph has no branches: nothing of it may wait for what the device has computed.
ASKING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "masked_select", "unique"}


class RecordedGraph(TorchDispatchMode):
    """Stands for `torch.cuda.CUDAGraph`: entered, it records; `replay` computes the same again, into the same memory.

    What an operator returned is kept, as a graph's own memory is, and gets the new values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], object]] = []

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ASKING, f"a decision asks the device: {name}"
        found = func(*args, **(kwargs or {}))
        if not name.startswith(("empty", "new_empty")):
            self.steps.append(lambda: self._again(func, args, kwargs or {}, found))
        return found

    def _again(self, func: Any, args: Any, kwargs: Any, found: Any) -> None:
        for old, new in zip(tree_leaves(found), tree_leaves(func(*args, **kwargs)), strict=True):
            if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)

    def launches(self, kernel: Any) -> RecordedKernel:
        """A Triton kernel whose launches are recorded as well."""
        return RecordedKernel(kernel, self)

    def replay(self) -> None:
        for step in self.steps:
            step()


class RecordedKernel:
    """A Triton kernel; a launch while its graph records is launched again at each replay."""

    def __init__(self, kernel: Any, graph: RecordedGraph) -> None:
        self._kernel, self._graph = kernel, graph

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **options: Any) -> None:
            with torch.utils._python_dispatch._disable_current_modes():
                self._kernel[grid](*args, **options)
            if torch.utils._python_dispatch._get_current_dispatch_mode() is self._graph:
                self._graph.steps.append(lambda: self._kernel[grid](*args, **options))

        return launch


def no_cuda(monkeypatch: Any, graph: RecordedGraph) -> None:
    """Lets `CapturedDecision` capture on the host, into this graph."""

    class NoStream:
        def wait_stream(self, other: object) -> None:
            pass

    def nothing(*arguments: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    for name, value in {
        "CUDAGraph": lambda: graph,
        "Stream": NoStream,
        "current_stream": NoStream,
        "device": nothing,
        "stream": nothing,
        "graph": lambda captured: captured,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
