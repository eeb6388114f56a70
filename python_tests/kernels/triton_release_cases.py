"""Some kernels of each kind, compiled by whichever release of Triton comes first on Python's path.

`test_triton_compiled.py` runs this file with the oldest release that is promised. Whether something is spilled is
asked of the newest only.
"""

from __future__ import annotations

import os

import pytest
import triton_compiled
from support.triton_launches import launched_twice
from triton_compiled import SHARED, Case

from snnkern.kernels.backends.triton import launch, repeated


def test_the_release_is_promised_and_the_one_asked_for() -> None:
    assert launch.release() == os.environ["SNNKERN_TRITON_RELEASE"]
    assert not launch.too_old()


@pytest.mark.parametrize(
    "case",
    [
        Case("neuron", "MT", "sm_80", "float32", "a sequence in, spikes out"),
        Case("neuron", "DC", "sm_100", "bfloat16", "a sequence in, mean out"),
        Case("gradient", "DC", "sm_90", "float32", "16 steps, a sequence in, of spikes"),
        Case("actor", "SNM", "sm_80", "float32", "16"),
        Case("actor", "DC", "sm_90", "float32", "64"),
        Case("actor", "IF", "sm_100", "float32", "64"),
        Case("first", "DC", "sm_90", "float32", "64"),
        Case("convolution", "IF", "sm_90", "float32", "64"),
        Case("projection", "SNM", "sm_80", "float32", "16"),
    ],
    ids=lambda case: f"{case.kernel}-{case.kind}-{case.target}",
)
def test_compiles(case) -> None:
    kernel = triton_compiled.compile_one(case)
    assert kernel.shared <= SHARED[case.target][1]
    assert bool(sum(kernel.products.values())) == (case.kernel not in ("neuron", "gradient"))


def test_a_repeated_launch_gives_the_driver_what_tritons_own_does(monkeypatch) -> None:
    monkeypatch.setattr(repeated, "stream_on", lambda device: 123)
    own, ours, asked = launched_twice(123)
    assert ours == own
    assert asked == 1
