"""The neuron operators by themselves, from sizes that fit the first-level cache to ones that fit none, beside a copy.

python -m pytest bench/bench_neurons.py --benchmark-only
"""

from __future__ import annotations

import functools
import resource
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from suite import Call, Suite, time_in_rounds
from support.cases import DEFAULT_NEURONS, SIZES, Layer, Size, assert_same_bits, needs_cpu, random_layer, run_layer

from snnkern import Dynamics
from snnkern.kernels import ops

pytestmark = [needs_cpu, pytest.mark.benchmark(disable_gc=True)]

T, ALPHA = 8, 0.2
OPERATORS = {"neuron_mean": ops.neuron_mean, "neuron_spikes": ops.neuron_spikes}
# B1-N1 is what a call costs. Next to it, in MiB of float32 currents over all steps: 1/128, 1/2, 8, 64.
WIDTH = 256
BENCHED = {name: SIZES[name] for name in ("B1-N1", f"B1-N{WIDTH}")} | {
    f"B{batch}-N{WIDTH}": Size(batch, WIDTH) for batch in (64, 1024, 8192)
}

TABLE = Suite(
    title=f"Neuron operators, float32, T = {T}. µs: median time of a call. G/s: 10⁹ updates of a neuron per second. "
    "% of copy: bandwidth,\nin parts of that of a copy that reads and writes as many bytes, timed in the same rounds.",
    setting=("size", "current", "operator"),
    figures={
        "µs": lambda info: f"{info['seconds'] * 1e6:,.1f}",
        "G/s": lambda info: f"{info['elements_per_second'] / 1e9:.3f}",
        "% of copy": lambda info: f"{info['share_of_copy'][1]:.0%}",
    },
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread(threads: int) -> Iterator[None]:
    """Whatever `--threads` is: the operators have one, so the copy gets one too."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)  # the innermost parameters need the same one
def layer_of(neuron: str, size: str) -> Layer:
    return random_layer(Dynamics(DEFAULT_NEURONS[neuron], T, ALPHA), BENCHED[size])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("current", ["sequence", "constant"])
@pytest.mark.parametrize("neuron", DEFAULT_NEURONS)
@pytest.mark.parametrize("size", BENCHED)
def test_neurons(benchmark, report, case_seconds, size, neuron, current, operator):
    layer = layer_of(neuron, size)
    layer = layer.constant() if current == "constant" else layer
    run = functools.partial(
        OPERATORS[operator], threshold=layer.threshold, carry=layer.carry, dynamics=layer.dynamics, bias=layer.bias
    )
    output, carry, counts = run(layer.current)
    first = run_layer(layer.rows(slice(3)), "reference")  # a row's result depends on that row alone
    assert_same_bits(output[..., :3, :], first.mean if operator == "neuron_mean" else first.spikes)
    assert_same_bits(carry[:3], first.carry)
    assert_same_bits(counts[:3], first.counts)

    moved = sum(
        tensor.nbytes
        for tensor in (layer.current, layer.threshold, layer.carry, layer.bias, output, carry, counts)
        if tensor is not None
    )
    source, target = torch.ones(moved // 8), torch.ones(moved // 8)
    benchmark.group = f"neurons {size}"
    call = Call(run, layer.current)
    timed = time_in_rounds(benchmark, call, case_seconds, rival=Call(target.copy_, source))
    if timed is None:
        return
    seconds, elements = float(np.median(timed.call)), T * carry.numel()
    report(
        TABLE,
        {
            "operator": operator,
            "neuron": neuron,
            "current": current,
            "size": size,
            "timesteps": T,
            "threads": torch.get_num_threads(),
            "seconds": seconds,
            "elements_per_second": elements / seconds,
            "bytes": moved,
            "bytes_per_second": moved / seconds,
            "copy_bytes_per_second": moved / float(np.median(timed.rival)),
            "share_of_copy": np.quantile(timed.rival / timed.call, [0.25, 0.5, 0.75]).tolist(),
            "page_faults": page_faults(call),
        },
    )


def page_faults(call: Call, calls: int = 4) -> float:
    """Pages that the system hands out in a call: what PyTorch gave back for outputs, the allocator may have too."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        call.function(call.given)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls
