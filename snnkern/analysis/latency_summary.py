"""Makes the JSON of `snnkern bench`."""

from __future__ import annotations

from snnkern.analysis.latency import ACT, DENSE, TENSOR, Benchmark
from snnkern.analysis.summaries import Latencies, NotBeaten, Timed
from snnkern.control.timing import busy, quartiles


def summarize_benchmark(benchmark: Benchmark) -> Latencies:
    """Summarises every case: its times, and ratios to the dense actor; ready for JSON.

    Times are the quartiles of microseconds per decision of the whole batch, ratios the quartiles of ratios within a
    round. A spiking actor does not beat a dense runtime where the lower quartile is not above 1.
    """
    results: list[Timed] = []
    not_beaten: list[NotBeaten] = []
    for case, seconds in benchmark.rounds.items():
        entry: Timed = {
            "name": case.name,
            "batch": case.batch,
            "threads": case.threads,
            "microseconds": quartiles(1e6 * seconds),
            "rounds": len(seconds),
            "times_as_fast_as": benchmark.ratios(case),
            "agreeing_with_reference": benchmark.agreements[case].agreeing,
            "wrong": benchmark.agreements[case].wrong,
        }
        if (dynamics := case.dynamics) is not None:
            entry = {**entry, **dynamics.to_dict()}
            if case.name in (ACT, TENSOR):
                spikes = benchmark.spikes[dynamics]
                entry["spikes_per_decision"] = sum(spikes)
                entry["spikes_per_decision_per_layer"] = list(spikes)
                not_beaten += [
                    {
                        "name": case.name,
                        "neuron": entry["neuron"],
                        "timesteps": dynamics.timesteps,
                        "batch": case.batch,
                        "threads": case.threads,
                        "runtime": runtime,
                        "times_as_fast": ratio,
                    }
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
