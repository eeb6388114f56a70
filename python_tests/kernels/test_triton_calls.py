"""Triton's launches, repeated ones among them, compiled without a GPU; and the tiles that were found fastest."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.cases import each
from torch import Tensor

from snnkern.kernels.backends import tuning
from snnkern.kernels.backends.triton.tuning import choices
from snnkern.policies.choices import ChoiceFiles

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


class Compiled:
    """What a launch of Triton's returns: it remembers what it is run with."""

    def __init__(self, runs: list[tuple[Any, ...]]) -> None:
        self.function, self.packed_metadata, self.run = 77, (4, 1, 0), lambda *arguments: runs.append(arguments)


class Kernel:
    """A kernel (x, weights, y, count, K) that counts Triton's own launches."""

    arg_names = ("x", "weights", "y", "count", "K")

    def __init__(self, compiles: bool = True) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.runs: list[tuple[Any, ...]] = []
        self._compiles = compiles

    def __getitem__(self, programs: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> Any:
            self.launched.append((programs, *arguments, options))
            return Compiled(self.runs) if self._compiles else None

        return launch


WEIGHTS = torch.zeros(3), torch.ones(3)
OPTIONS = {"num_warps": 4, "K": 8}


def launch_of(kernel: Kernel, monkeypatch, stream: int = 5) -> Any:
    from snnkern.kernels.backends.triton import repeated

    monkeypatch.setattr(repeated, "stream_on", lambda device: stream)
    return repeated.RepeatedLaunch(kernel, (2, 3), ("x", WEIGHTS, "y", 7), OPTIONS)


def boundary(at: int) -> Tensor:
    """A tensor so many bytes behind a boundary of 16."""
    memory = torch.zeros(16)
    first = -memory.data_ptr() % 16 // 4 + at // 4
    return memory[first : first + 4]


def test_only_the_first_launch_is_tritons(monkeypatch) -> None:
    kernel = Kernel()
    launch = launch_of(kernel, monkeypatch)
    tensors = [boundary(0) for _ in range(6)]
    for x, y in zip(tensors[::2], tensors[1::2], strict=True):
        launch(x, y)
    ((programs, *arguments, options),) = kernel.launched
    assert (programs, arguments[1], arguments[3], options) == ((2, 3), WEIGHTS, 7, OPTIONS)
    assert arguments[0] is tensors[0]
    assert arguments[2] is tensors[1]
    addresses = tuple(weight.data_ptr() for weight in WEIGHTS)
    assert kernel.runs == [
        (2, 3, 1, 5, 77, (4, 1, 0), None, None, None, x.data_ptr(), addresses, y.data_ptr(), 7, 8)
        for x, y in zip(tensors[2::2], tensors[3::2], strict=True)
    ]


def test_a_tensor_on_another_boundary_is_tritons(monkeypatch) -> None:
    """It compiles another kernel for it, which is not the one to go on with."""
    kernel = Kernel()
    launch = launch_of(kernel, monkeypatch)
    launch(boundary(0), boundary(8))
    launch(boundary(4), boundary(0))
    assert (len(kernel.launched), len(kernel.runs)) == (2, 0)
    launch(boundary(0), boundary(0))
    launch(boundary(0), boundary(0))
    launch(boundary(4), boundary(0))
    assert (len(kernel.launched), len(kernel.runs)) == (4, 1)


def test_a_launch_that_is_watched_is_tritons(monkeypatch) -> None:
    from triton import knobs

    kernel = Kernel()
    launch = launch_of(kernel, monkeypatch)
    for hook in (SimpleNamespace(calls=[]), SimpleNamespace(calls=[print]), print, None):
        monkeypatch.setattr(knobs.runtime, "launch_exit_hook", hook)
        launch(boundary(0), boundary(0))
    assert (len(kernel.launched), len(kernel.runs)) == (3, 1)


def test_the_interpreter_compiles_nothing(monkeypatch) -> None:
    kernel = Kernel(compiles=False)
    launch = launch_of(kernel, monkeypatch)
    for _ in range(3):
        launch(boundary(0), boundary(0))
    assert (len(kernel.launched), len(kernel.runs)) == (3, 0)


class Tiled:
    """As much of a kernel as a choice depends on."""

    def __init__(self, source: str = "source") -> None:
        self.cache_key = source


def tiles(source: str = "source") -> Any:
    from snnkern.kernels.backends.triton.engine import TILES

    return choices(Tiled(source), TILES)


KEY = ("NVIDIA H100", 5, (17, 256, 6))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where Triton keeps what it compiled; not there yet."""
    monkeypatch.setattr(tuning, "shelf", ChoiceFiles())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_choice_outlives_the_process(cache) -> None:
    from snnkern.kernels.backends.triton.engine import TILES

    first = tiles()
    assert first.find(KEY) is None
    first.keep(KEY, TILES[1])
    assert first.find(KEY) == tiles().find(KEY) == TILES[1]
    tiles().keep(KEY, TILES[2])
    assert tiles().find(KEY) == TILES[2]
    assert first.find(KEY) == TILES[1]  # the process goes on with its own
    assert [file.name[:15] for file in cache.iterdir()] == ["snnkern-choice-"]


def test_a_choice_depends_on_device_shape_source_and_release(cache, monkeypatch) -> None:
    import triton

    from snnkern.kernels.backends.triton.engine import TILES

    tiles().keep(KEY, TILES[0])
    assert tiles("other source").find(KEY) is None
    for other in (("NVIDIA H200", *KEY[1:]), (KEY[0], 6, KEY[2]), (*KEY[:2], (17, 256, 7))):
        assert tiles().find(other) is None
    monkeypatch.setattr(triton, "__version__", "9.9.9")
    assert tiles().find(KEY) is None


DAMAGED = {
    "empty": b"",
    "cut": b'{"choice": "64 ro',
    "no-json": b"import os",
    "a-list": b"[64, 4]",
    "another-tile": b'{"choice": "32 rows, 2 warps", "of": "KEY"}',
    "no-rows": b'{"choice": "", "of": "KEY"}',
    "of-another-key": b'{"choice": "64 rows, 4 warps", "of": "something else"}',
    "numbers": b'{"choice": 64, "of": "KEY"}',
    "long": b" " * (1 << 17) + b'{"choice": "64 rows, 4 warps", "of": "KEY"}',
}


@each("content", DAMAGED)
def test_a_damaged_choice_is_ignored_and_written_anew(cache, content) -> None:
    from snnkern.kernels.backends.triton.engine import TILES

    tiles().keep(KEY, TILES[0])
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    of = json.loads(whole)["of"]
    assert repr(KEY) in of
    file.write_bytes(content.replace(b"KEY", json.dumps(of)[1:-1].encode()))
    assert tiles().find(KEY) is None
    tiles().keep(KEY, TILES[0])
    assert file.read_bytes() == whole


def test_without_a_shelf_the_process_keeps_the_choice(cache, monkeypatch) -> None:
    """Kernels can be used without the rest of the package."""
    from snnkern.kernels.backends.triton.engine import TILES

    monkeypatch.setattr(tuning, "shelf", None)
    kept = tiles()
    assert kept.find(KEY) is None
    kept.keep(KEY, TILES[1])
    assert kept.find(KEY) == TILES[1]
    assert not cache.exists()


def test_where_nothing_can_be_written_the_process_keeps_the_choice(cache) -> None:
    from snnkern.kernels.backends.triton.engine import TILES

    cache.write_text("a file where the folder should be")
    kept = tiles()
    kept.keep(KEY, TILES[1])
    assert kept.find(KEY) == TILES[1]
    assert tiles().find(KEY) is None


@pytest.mark.parametrize(("batch", "found"), [(0, -1), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (4096, 12), (4097, 13)])
def test_batches_up_to_a_power_of_two_share_a_choice(batch, found) -> None:
    assert tuning.bucket(batch) == found


def test_a_repeated_launch_gives_the_driver_what_tritons_own_does(monkeypatch) -> None:
    """Compiled for real; `triton_release_cases.py` has the same with the oldest release."""
    from support.triton_launches import launched_twice

    from snnkern.kernels.backends.triton import repeated

    monkeypatch.setattr(repeated, "stream_on", lambda device: 123)
    own, ours, asked = launched_twice(123)
    assert ours == own
    assert len(own) == 2
    assert asked == 1
