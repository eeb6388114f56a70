"""The Triton backend: its kernels in the interpreter and (with `-m gpu`) on a GPU, and how exact its weights are."""

from __future__ import annotations

import importlib.util

import pytest
from builders import run_cases

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run_triton(marked: str, interpret: str) -> None:
    run_cases("triton_cases.py", marked, {"TRITON_INTERPRET": interpret})


def test_kernels_in_the_interpreter() -> None:
    run_triton("not long", "1")


@pytest.mark.long
def test_more_kernels_in_the_interpreter() -> None:
    run_triton("long", "1")


@pytest.mark.gpu
@pytest.mark.parametrize("marked", ["not long", pytest.param("long", marks=pytest.mark.long)])
def test_kernels_on_a_gpu(triton_gpu, marked) -> None:
    """The same cases."""
    run_triton(marked, "0")


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("float32", 0.0, 2.0**-24), ("tf32", 2.0**-14, 2.0**-11), ("bf16", 2.0**-11, 2.0**-8)],
)
def test_three_passes_are_as_exact_as_float32_and_one_is_not(precision, least, most) -> None:
    """Of a current's terms: three parts hold 24 bits, TF32 and bfloat16 round to 11 and 8."""
    import torch
    from cases import random_actor
    from precision import packed

    from snnkern import MT, Dynamics
    from snnkern._backends import ActorParts

    actor, thresholds = random_actor((5, 200, 150, 3))
    layers = [(layer.weight.T.contiguous(), layer.bias) for layer in [*actor.hidden, actor.output]]
    hidden = [(*layer, threshold) for layer, threshold in zip(layers[:-1], thresholds, strict=True)]
    interface = dict(actor.interface.named_buffers()) | actor.interface.description()
    (weight,) = packed(ActorParts(hidden, layers[-1], interface, Dynamics(MT(), 8)), precision)
    exact, sender = hidden[1][0].double(), thresholds[0]
    folded = (hidden[1][0] * sender[:, None]).double() / sender.double()[:, None]  # float32, as any kernel has them
    error = ((weight - folded).abs() / exact.abs()).max().item()
    assert least <= error <= most
    assert precision != "float32" or torch.equal(weight, folded)
