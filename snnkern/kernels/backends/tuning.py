"""What `warmup()` found fastest: known in this process and, where there is a shelf, in later ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import torch

Choice = TypeVar("Choice")
Key = tuple[object, ...]


class Shelf(Protocol):
    """Keeps choices longer than a process."""

    def read(self, of: str) -> str | None:
        """The choice that was kept under this text, whoever kept it; None where there is none."""

    def write(self, of: str, choice: str) -> None:
        """Keeps a choice under a text, if it can."""


_TIMED = 20  # times
shelf: Shelf | None = None  # `snnkern.policies.choices` has one: kernels alone write no files


class Choices(Generic[Choice]):
    """What was chosen for one kernel.

    Args:
        named: what there is to choose from, each with the name that it has on the shelf, where others are ignored.
        stamp: says what a choice depends on beside its key, such as the kernel's source; None where no choice is to
            last longer than the process.
    """

    def __init__(self, named: Mapping[str, Choice], stamp: Callable[[], str | None]) -> None:
        self._named, self._stamp = named, stamp
        self._known: dict[Key, Choice | None] = {}

    def find(self, key: Key) -> Choice | None:
        """What was found fastest for this key, in this process or an earlier one; None where nothing was."""
        if key not in self._known:
            of = self._of(key)
            kept = shelf.read(of) if shelf is not None and of is not None else None
            self._known[key] = None if kept is None else self._named.get(kept)
        return self._known[key]

    def keep(self, key: Key, choice: Choice) -> None:
        """Keeps one of what there is to choose from for this key."""
        self._known[key] = choice
        name = next(name for name, one in self._named.items() if one == choice)
        if shelf is not None and (of := self._of(key)) is not None:
            shelf.write(of, name)

    def _of(self, key: Key) -> str | None:
        stamp = self._stamp()
        return None if stamp is None else f"{stamp}: {key!r}"


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """The median time that a GPU takes for something, the first time left out: it compiles, or fills caches.

    On the CPU, where interpreters run kernels for tests, it is done once and counts as 0.
    """
    if device.type != "cuda":
        run()
        return 0.0
    times = []
    with torch.cuda.device(device):  # where events are recorded
        run()
        for _ in range(_TIMED):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def bucket(batch: int) -> int:
    """Batches that share a choice: those up to the same power of two. Its exponent; −1 for no rows."""
    return (batch - 1).bit_length() if batch else -1
