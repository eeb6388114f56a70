"""Which of CUDA's two kernels of whole actors decides: a block for each row, or a cluster of blocks (docs/gpu.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from snnkern.kernels.backends.native import asked_for, cuda_build
from snnkern.kernels.backends.tuning import Choices, milliseconds

_CHAINED = 32  # decisions that are timed as one
DECISIONS = 3  # whose results are compared
NAMES = {"blocks": False, "clusters": True}
_found = Choices(NAMES, cuda_build)


def setting() -> bool | None:
    """Whether SNNKERN_CUDA_CLUSTERS says that clusters decide wherever they can ("1"), or nowhere ("0"); None: neither.

    Raises:
        InputError: it says something else.
    """
    return asked_for("SNNKERN_CUDA_CLUSTERS")


def are_wanted(key: tuple[object, ...]) -> bool:
    """Whether clusters decide: as the setting says, else where `keep` has found that they are faster."""
    given = setting()
    return bool(_found.find(key)) if given is None else given


def are_known(key: tuple[object, ...]) -> bool:
    """Whether there is nothing to measure: `keep` was called, or the setting decides."""
    return setting() is not None or _found.find(key) is not None


def packed(weight: Tensor, columns: int, blocks: int) -> Tensor:
    """Weights `[inputs, width]` as `csrc/cuda/cluster.h` has them: `[blocks, inputs, columns]`, padded with zeros."""
    inputs, width = weight.shape
    padded = torch.nn.functional.pad(weight, (0, blocks * columns - width))
    return padded.reshape(inputs, blocks, columns).transpose(0, 1).contiguous()


class Measured(NamedTuple):
    """What came of a kernel's decisions: all that they wrote, and the seconds that one takes."""

    results: list[Tensor]
    seconds: float


def measure(decide: Callable[[int], list[Tensor]]) -> Measured:
    """Makes some decisions, one after the other, then times them.

    Args:
        decide: makes the decision of a number, and returns all that it writes.
    """
    results = [result.clone() for number in range(DECISIONS) for result in decide(number)]
    return Measured(results, seconds(lambda: decide(0), results[0].device))


def keep(key: tuple[object, ...], usual: Measured, ours: Measured | None) -> bool:
    """Whether clusters decide from now on what has this key: only if they are faster and every bit is the same.

    Args:
        key: all that the time depends on.
        usual: a block for each row.
        ours: clusters; None where they failed.
    """
    same = ours is not None and all(map(torch.equal, usual.results, ours.results))
    faster = ours is not None and same and ours.seconds < usual.seconds
    _found.keep(key, faster)
    return faster


def seconds(decide: Callable[[], object], device: torch.device) -> float:
    """The median time of a decision on a GPU, of many that stand behind each other in a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        for _ in range(_CHAINED):
            decide()
    return milliseconds(graph.replay, device) * 1e-3 / _CHAINED
