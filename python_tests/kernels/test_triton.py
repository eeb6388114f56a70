"""The Triton backend: its kernels in the interpreter and (with `-m gpu`) on a GPU, and how exact its weights are."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support.builders import run_cases
from support.cases import actor_parts, each

from snnkern import MT, Dynamics

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


FILES = {
    "neurons": "kernels/triton_cases.py",
    "gradients": "kernels/triton_gradient_cases.py",
    "actors": "kernels/triton_actor_cases.py",
    "visual": "kernels/triton_visual_cases.py",
}


@pytest.mark.early
@each("file", FILES)
def test_kernels_in_the_interpreter(file) -> None:
    run_cases([file], "not long", {"TRITON_INTERPRET": "1"})


@pytest.mark.long
@each("file", FILES)
def test_more_kernels_in_the_interpreter(file) -> None:
    run_cases([file], "long", {"TRITON_INTERPRET": "1"})


@pytest.mark.gpu
@pytest.mark.parametrize("marked", ["not long", pytest.param("long", marks=pytest.mark.long)])
@each("file", FILES)
def test_kernels_on_a_gpu(triton_gpu, file, marked) -> None:
    """The same cases."""
    run_cases([file], marked, {"TRITON_INTERPRET": "0"})


@pytest.mark.parametrize("fastest", range(3))
def test_warmup_times_every_tile_on_the_actors_device(fastest, monkeypatch, tmp_path) -> None:
    from snnkern.kernels.backends import tuning
    from snnkern.kernels.backends.triton import engine as triton_engine
    from snnkern.kernels.backends.triton.engine import TILES
    from snnkern.kernels.backends.triton.tuning import choices
    from snnkern.policies.choices import ChoiceFiles

    engine = triton_engine.Engine(actor_parts((3, 7, 2), Dynamics(MT(), 8)), "float32")
    engine.bind([torch.zeros(5, 7)], torch.zeros(1, 5, dtype=torch.int64), None)
    calls = []

    def milliseconds(run, device):
        run()
        calls.append(("timed", engine._tile, device))
        return 1.0 if engine._tile == TILES[fastest] else 2.0

    monkeypatch.setattr(triton_engine, "milliseconds", milliseconds)
    monkeypatch.setattr(
        engine, "_launch", lambda observation, _: calls.append(("launch", engine._tile, observation.device))
    )
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "shelf", ChoiceFiles())
    monkeypatch.setattr(triton_engine, "_tuned", choices(triton_engine.actor_kernel, TILES))
    assert engine.warmup() == engine._tile == TILES[fastest]
    for tile in TILES:
        assert {call[0] for call in calls if call[1] == tile} == {"timed", "launch"}
    assert {device for *_, device in calls} == {torch.device("cpu")}
    # Another process, and another batch up to the same power of two.
    calls.clear()
    monkeypatch.setattr(triton_engine, "_tuned", choices(triton_engine.actor_kernel, TILES))
    engine.bind([torch.zeros(8, 7)], torch.zeros(1, 8, dtype=torch.int64), None)
    assert engine._tile == TILES[fastest]
    assert engine.warmup() == TILES[fastest]
    assert {tile for _, tile, _ in calls} == {TILES[fastest]}
    engine.bind([torch.zeros(9, 7)], torch.zeros(1, 9, dtype=torch.int64), None)
    assert engine._tile == TILES[2]  # 16 rows by default: nothing is known of nine


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("float32", 0.0, 2.0**-24), ("tf32", 2.0**-14, 2.0**-11), ("bf16", 2.0**-11, 2.0**-8)],
)
def test_three_passes_have_the_weights_of_float32_and_one_has_not(precision, least, most) -> None:
    """Of a current's terms: three parts hold 24 bits, TF32 and bfloat16 round to 11 and 8."""
    from precision import packed

    parts = actor_parts((5, 200, 150, 3), Dynamics(MT(), 8))
    (weight,) = packed(parts, precision)
    before, layer = parts.hidden
    sender, exact = before.threshold, layer.weight
    folded = (exact * sender[:, None]).double() / sender.double()[:, None]  # float32, as any kernel has them
    error = ((weight - folded).abs() / exact.double().abs()).max().item()
    assert least <= error <= most
    assert precision != "float32" or torch.equal(weight, folded)
