"""Triton's own launches and repeated ones, side by side, on a device that only remembers what it is given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from snnkern.kernels.backends.triton import repeated


class Factors(NamedTuple):
    """Numbers that a kernel takes at run time."""

    first: float
    second: float


@triton.jit
def scaled(x, weights, y, count, factors, SHAPE: tl.constexpr, K: tl.constexpr):
    places = tl.arange(0, K)
    inside = places < count
    value = tl.load(x + places, inside) * factors.first + tl.load(weights[0] + places, inside) * factors.second
    tl.store(y + places, value + tl.load(weights[1] + places, inside) * SHAPE[1], inside)


class _Device:
    """As much of a driver as compiling and launching take; launches are remembered."""

    def __init__(self, stream: int) -> None:
        self.launches: list[tuple[Any, ...]] = []
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: stream
        self.get_current_target = lambda: GPUTarget("cuda", 90, 32)
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (1, 2, 0, 0, 1024),
            unload_module=lambda module: None,
            get_device_properties=lambda device: {"max_shared_mem": 1 << 17},
        )

    def launcher_cls(self, source: object, metadata: object) -> Any:
        return lambda *arguments: self.launches.append(arguments)


def _plain(value: object) -> object:
    """With addresses for tensors, and no record of who else is told of a launch."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value


def launched_twice(stream: int) -> tuple[list[Any], list[Any], int]:
    """What reaches the driver by Triton's own launches and by repeated ones; and how many of those were Triton's."""
    device = _Device(stream)
    driver.set_active(device)
    weights = torch.zeros(16), torch.ones(16)
    tensors = [torch.zeros(16) for _ in range(4)]
    options = {"SHAPE": (3, 4), "K": 16, "num_warps": 1, "enable_fp_fusion": False}
    launch = repeated.RepeatedLaunch(scaled, (2,), ("x", weights, "y", 9, Factors(0.5, 2.0)), options)
    asked = []
    try:
        for x, y in (tensors[:2], tensors[2:]):
            scaled[(2,)](x, weights, y, 9, Factors(0.5, 2.0), **options)
        own, device.launches[:] = list(device.launches), []
        scaled.add_pre_run_hook(lambda *_, **__: asked.append(1))
        for x, y in (tensors[:2], tensors[2:]):
            launch(x, y)
    finally:
        scaled.pre_run_hooks.clear()
        driver.set_active(None)
    watchers = slice(6, 9)  # what is told of the launch, and who: nobody in either case
    ways = [[_plain((*one[: watchers.start], *one[watchers.stop :])) for one in way] for way in (own, device.launches)]
    return ways[0], ways[1], len(asked)
