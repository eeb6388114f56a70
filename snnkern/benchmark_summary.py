"""What `snnkern bench` has measured, as data."""

from __future__ import annotations

from typing import Any

from snnkern.benchmark import ACT, DENSE, TENSOR, Benchmark
from snnkern.timing import busy, quartiles


def summarize_benchmark(benchmark: Benchmark) -> dict[str, Any]:
    """Every case with its time and how many times as fast as the dense actor it is; ready for JSON.

    Times are the quartiles of microseconds per decision of the whole batch, ratios the quartiles of ratios within a
    round. A spiking actor does not beat a dense runtime where the lower quartile is not above 1.
    """
    results, not_beaten = [], []
    for case, seconds in benchmark.rounds.items():
        entry: dict[str, Any] = {
            "name": case.name,
            **({} if case.dynamics is None else case.dynamics.to_dict()),
            "batch": case.batch,
            "threads": case.threads,
            "microseconds": quartiles(1e6 * seconds),
            "turns": len(seconds),
            "times_as_fast_as": benchmark.ratios(case),
            "agreeing_with_reference": benchmark.agreements[case].agreeing,
            "wrong": benchmark.agreements[case].wrong,
        }
        if case.name in (ACT, TENSOR) and case.dynamics is not None:
            spikes = benchmark.spikes[case.dynamics]
            entry |= {"spikes_per_decision": sum(spikes), "spikes_per_decision_per_layer": list(spikes)}
            beside = {key: entry[key] for key in ("name", "neuron", "timesteps", "batch", "threads")}
            not_beaten += [
                {**beside, "runtime": runtime, "times_as_fast": ratio}
                for runtime, ratio in entry["times_as_fast_as"].items()
                if runtime in DENSE and ratio[0] <= 1
            ]
        results.append(entry)
    shapes = dict.fromkeys((case.batch, case.threads) for case in benchmark.rounds)
    fastest = {shape: benchmark.fastest_dense(*shape) for shape in shapes}
    return {
        "layers": list(benchmark.widths),
        "machine": {**benchmark.machine, "busy": busy(benchmark.machine)},
        "seconds": benchmark.seconds,
        "interrupted": benchmark.interrupted,
        "missing": dict(benchmark.missing),
        "unreached": len(benchmark.unreached),
        "fastest_dense": [
            {"batch": batch, "threads": threads, "runtime": case.name}
            for (batch, threads), case in fastest.items()
            if case is not None
        ],
        "not_beaten": not_beaten,
        "results": results,
    }
