"""What `warmup()` finds on a GPU and keeps: of the kernels of CUDA; `test_triton_calls.py` has Triton's."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from support.cases import each

from snnkern.kernels.backends import clusters, integers, native, tuning
from snnkern.kernels.backends.tuning import Choices
from snnkern.policies.choices import ChoiceFiles

KEY = ("NVIDIA H100", 0, 17, 256, 6)
NAMES = {"clusters": clusters.NAMES, "integers": integers.NAMES}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where choices are kept."""
    monkeypatch.setattr(tuning, "shelf", ChoiceFiles())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return tmp_path


@each("names", NAMES)
def test_every_choice_is_found_by_later_processes(names, cache) -> None:
    for choice in names.values():
        Choices(names, lambda: "a build").keep(KEY, choice)
        assert Choices(names, lambda: "a build").find(KEY) == choice
        assert Choices(names, lambda: "another build").find(KEY) is None
    assert len(list(cache.iterdir())) == 1


def test_where_no_gpu_is_nothing_is_kept(cache) -> None:
    Choices(clusters.NAMES, lambda: None).keep(KEY, True)
    assert Choices(clusters.NAMES, lambda: None).find(KEY) is None
    assert not list(cache.iterdir())


def test_what_an_earlier_process_found_is_not_measured_again(monkeypatch) -> None:
    monkeypatch.delenv("SNNKERN_CUDA_CLUSTERS", raising=False)
    result = [torch.ones(2)]
    for _ in range(2):
        monkeypatch.setattr(clusters, "_found", Choices(clusters.NAMES, lambda: "a build"))
        if not clusters.are_known(KEY):
            clusters.keep(KEY, clusters.Measured(result, 2.0), clusters.Measured(result, 1.0))
        assert clusters.are_wanted(KEY)
    monkeypatch.setattr(clusters, "_found", Choices(clusters.NAMES, lambda: "a build"))
    assert clusters.are_known(KEY)


def test_another_build_of_the_kernels_has_another_stamp(tmp_path, monkeypatch) -> None:
    assert torch.cuda.is_available() or native.cuda_build() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    file = tmp_path / "module.so"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(file)))
    stamps = set()
    for content in (b"one", b"other"):
        file.write_bytes(content)
        native._cuda_build.cache_clear()
        stamps.add(native.cuda_build())
    native._cuda_build.cache_clear()
    assert len(stamps) == 2


def test_without_triton_choices_are_kept_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    Choices(clusters.NAMES, lambda: "a build").keep(KEY, True)
    assert [file.parent for file in tmp_path.iterdir()] == [tmp_path]
    assert Choices(clusters.NAMES, lambda: "a build").find(KEY) is True


def test_a_time_is_measured_on_its_device(monkeypatch) -> None:
    """An event that is recorded on another device tells nothing of a launch on this one. The first time is left out."""
    current, calls = [], []

    @contextmanager
    def on(device):
        current.append(device)
        yield
        current.pop()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            calls.append(("record", tuple(current)))

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return float(len(calls))

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    device = torch.device("cuda", 1)
    time = tuning.milliseconds(lambda: calls.append(("run", tuple(current))), device)
    run, record = ("run", (device,)), ("record", (device,))
    times = (len(calls) - 1) // 3
    assert calls == [run, *[record, run, record] * times]
    assert time == 4.0 + 3 * (times // 2)  # the median of 4, 7, …


def test_nothing_is_timed_where_there_is_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", None)
    calls = []
    assert tuning.milliseconds(lambda: calls.append(1), torch.device("cpu")) == 0.0
    assert calls == [1]
