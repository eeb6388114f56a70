"""The benchmark of a user's own actor: who takes part, how they decide, how long it takes, what is kept."""

from __future__ import annotations

import gc
import itertools
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.builders import make_actor, make_observations

import snnkern
from snnkern.analysis import latency, rivals
from snnkern.analysis.latency import ACT, DENSE, LOOP, NUMPY, ONNX, PYTORCH, TENSOR, Benchmark, Case
from snnkern.analysis.latency_summary import summarize_benchmark
from snnkern.control import timing
from snnkern.policies.activations import ACTIVATIONS, RELU
from snnkern.policies.spiking import dense_actor
from snnkern.report import style
from snnkern.report.latency_figures import latency_figure

OBSERVATIONS = make_observations(200, 5)
SETTINGS = snnkern.grid(["if", "dc"], [2, 3], [0.2])


def stop_after(calls: int):
    """A progress that interrupts, as Ctrl-C does, when it is called so often: results do not depend on the machine."""
    heard = []

    def progress(passed: float) -> None:
        heard.append(passed)
        if len(heard) == calls:
            raise KeyboardInterrupt

    return progress


def run(policy=None, settings=SETTINGS, **options) -> Benchmark:
    actor = make_actor(5, 17, 8, 3) if policy is None else policy
    given = {"batches": (1, 3), "threads": (1, 2), "seconds": 1e6, "progress": stop_after(120)}
    return latency.run(actor, OBSERVATIONS, settings, **given | options)


@pytest.fixture(scope="module")
def measured() -> Benchmark:
    return run()


def test_everyone_takes_part_and_decides_as_the_reference(measured) -> None:
    one = {(case.name, case.dynamics) for case in measured.rounds if (case.batch, case.threads) == (1, 1)}
    spiking = {(name, setting) for setting in SETTINGS for name in (ACT, TENSOR)}
    loops = {(LOOP, setting) for setting in SETTINGS if setting.neuron == snnkern.IF()}
    assert one == spiking | loops | {(name, None) for name in DENSE if name not in measured.missing}
    assert {(case.batch, case.threads) for case in measured.rounds} == {(1, 1), (3, 1), (3, 2)}
    assert Case(NUMPY, None, 3, 2) not in measured.rounds
    assert {found.wrong for found in measured.agreements.values()} == {0}
    assert min(found.agreeing for found in measured.agreements.values()) == 1.0
    assert measured.unreached == ()
    assert set(measured.spikes) == set(SETTINGS)
    assert measured.widths == (5, 17, 8, 3)


@pytest.mark.parametrize("converted", [False, True], ids=["dense", "spiking"])
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {RELU}))
def test_actors_of_other_activations_are_timed(activation, converted) -> None:
    policy = make_actor(5, 17, 8, 3).replaced(activation=activation)
    if converted:
        policy = snnkern.convert(policy, OBSERVATIONS, neuron="if", timesteps=2)
    found = run(policy, () if converted else SETTINGS, batches=(1, 3), threads=(1,), progress=stop_after(60))
    lacking = {NUMPY} - ({NUMPY} if activation == "tanh" else set()) | ({ONNX} if activation == "gelu" else set())
    assert {name for name in DENSE if name in found.missing} >= lacking
    assert {case.name for case in found.rounds} == {ACT, TENSOR, LOOP, *DENSE} - set(found.missing)
    assert {agreement.wrong for agreement in found.agreements.values()} == {0}
    assert found.widths == (5, 17, 8, 3)


def test_ratios_are_of_the_same_round() -> None:
    fast, slow = Case(ACT, SETTINGS[0], 1, 1), Case(NUMPY, None, 1, 1)
    rounds = {fast: np.array([1.0, 2.0, 4.0, 8.0]), slow: np.array([3.0, 6.0, 12.0])}
    found = Benchmark(rounds, (), {}, {}, {}, (), {}, 1.0, False)
    assert found.ratio(fast, slow) == [3.0, 3.0, 3.0]
    assert found.ratio(fast, fast._replace(name=TENSOR)) is None
    assert found.ratios(fast) == {NUMPY: [3.0, 3.0, 3.0]}
    assert found.fastest_dense(1, 1) == slow
    assert found.fastest_dense(16, 1) is None


def test_the_summary_is_json_and_says_what_is_not_beaten(measured) -> None:
    summary = summarize_benchmark(measured)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert len(summary["results"]) == len(measured.rounds)
    for entry in summary["results"]:
        low, median, high = entry["microseconds"]
        assert 0 < low <= median <= high
        if entry["name"] in (ACT, TENSOR):
            assert entry["spikes_per_decision"] == pytest.approx(sum(entry["spikes_per_decision_per_layer"]))
            assert set(entry["times_as_fast_as"]) >= {PYTORCH, LOOP}
    not_faster = [
        (entry["name"], runtime, ratio)
        for entry in summary["results"]
        if entry["name"] in (ACT, TENSOR)
        for runtime, ratio in entry["times_as_fast_as"].items()
        if runtime in DENSE and ratio[0] <= 1
    ]
    assert not_faster == [(row["name"], row["runtime"], row["times_as_fast"]) for row in summary["not_beaten"]]


def test_what_is_not_installed_is_reported(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = run(settings=SETTINGS[:1], progress=stop_after(40))
    assert "onnxruntime" in found.missing[ONNX]
    assert {case.name for case in found.rounds if case.dynamics is None} == {PYTORCH, NUMPY}
    assert found.unreached == ()


def test_the_time_is_respected(monkeypatch) -> None:
    """By a clock that goes on by a second whenever it is looked at: half of the time makes contenders ready."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr(latency, "time", clock)
    heard: list[float] = []
    found = run(batches=(1, 4096), seconds=10, progress=heard.append)
    assert heard == [float(second) for second in range(1, 12)]  # the last turn ends the time
    assert len(found.rounds) == 5
    assert {case.batch for case in found.rounds} == {1}
    assert 4096 in {case.batch for case in found.unreached}
    assert not found.interrupted


def test_an_interruption_keeps_what_is_measured() -> None:
    found = run(progress=stop_after(len(latency._cases(SETTINGS, (1, 3), (1, 2))) + 5))
    assert found.interrupted
    assert sum(len(seconds) for seconds in found.rounds.values()) == 5
    assert json.dumps(summarize_benchmark(found), allow_nan=False)
    with pytest.raises(KeyboardInterrupt):  # nothing is measured yet
        run(progress=stop_after(3))


def test_a_spiking_actor_is_measured_as_it_is() -> None:
    actor = make_actor(5, 17, 8, 3)
    snn = snnkern.convert(actor, OBSERVATIONS, neuron=snnkern.MT(levels=3), timesteps=5, alpha=0.4, memory=0.5)
    assert dense_actor(snn).fingerprint() == actor.fingerprint()
    found = run(snn, (), batches=(1,), progress=stop_after(40))
    assert {case.dynamics for case in found.rounds if case.name in (ACT, TENSOR)} == {snn.dynamics}
    assert {case.dynamics for case in found.rounds if case.name == LOOP} == {snnkern.Dynamics(snnkern.IF(), 5, 0.4)}
    assert {found.wrong for found in found.agreements.values()} == {0}
    # The conversion has corrected its weights, and those are what decides.
    (sent,) = found.spikes.values()
    assert sent == latency.spikes_per_decision(snn, timing.rows(OBSERVATIONS, *latency._COUNTED))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": ()}, "a dense actor needs settings"),
        ({"batches": (1, 0)}, "batch must be a whole number of at least 1, got 0"),
        ({"batches": ()}, "batch must be"),
        ({"threads": (1.5,)}, "threads must be a whole number of at least 1, got 1.5"),
        ({"seconds": 0}, r"seconds must be a number from 0.001 to 1e\+06, got 0"),
        ({"policy": make_actor(4, 6, 2)}, r"observations must be floating-point \[N, 4\]"),
        ({"policy": make_actor(5, 6, 2, dtype=torch.bfloat16)}, "only float32 and float64 actors"),
        ({"policy": "td3-hopper"}, "policy must be an Actor or a SpikingActor, got str"),
    ],
)
def test_bad_input_is_refused(changed, message) -> None:
    with pytest.raises(snnkern.InputError, match=message):
        run(**changed)


INTERFACES = {
    "plain": {},
    "scaled": {"action_scale": [2.0, 0.5, 1.0], "action_bias": [0.0, 1.0, -1.0]},
    "without-tanh": {"squash": False},
    "normalised": {
        "observation_mean": [0.5] * 5,
        "observation_std": [0.1, 1.0, 2.0, 3.0, 0.5],
        "observation_clip": 2.0,
    },
    "normalised-without-clip": {"observation_mean": [0.5] * 5, "observation_std": [2.0] * 5, "action_scale": 3.0},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("interface", INTERFACES.values(), ids=INTERFACES)
@pytest.mark.parametrize("make", [rivals.eager, rivals.numpy, rivals.onnx_runtime])
def test_dense_runtimes_decide_as_the_actor(make, interface, dtype) -> None:
    actor = make_actor(5, 17, 8, 3, dtype=dtype, **interface)
    try:
        contender = make(actor)
    except rivals.Missing as error:
        pytest.skip(str(error))
    observations = timing.rows(OBSERVATIONS.astype(str(dtype).removeprefix("torch.")), 4, 3)
    wanted = latency.expected(actor, [], None, observations)
    with torch.no_grad():
        assert np.allclose(wanted[0][0], actor.act(observations[0]), atol=1e-5)
        for by_row in (False, True):
            assert latency.agreement(contender, observations, wanted, by_row).wrong == 0


def test_a_contender_with_other_dynamics_is_found_out() -> None:
    actor = make_actor(5, 17, 8, 3)
    thresholds = snnkern.calibrate(actor, OBSERVATIONS)
    loop = rivals.PublishedLoop(actor, thresholds, 4, alpha=0.2).contender()
    observations = timing.rows(OBSERVATIONS, 8, 4)
    wanted = latency.expected(actor, thresholds, snnkern.Dynamics(snnkern.IF(), 3, 0.2), observations)
    assert latency.agreement(loop, observations, wanted, by_row=False).wrong > 0


def test_in_a_round_everyone_is_timed_once() -> None:
    heard: list[str] = []
    parties = {name: timing.Contender(lambda _, name=name: heard.append(name), threads=2) for name in "abc"}
    threads = torch.get_num_threads()
    stream = timing.rounds([(parties, OBSERVATIONS), ({"d": timing.Contender(id)}, OBSERVATIONS)], seconds=1e-5)
    rounds = [[next(stream)[0] for _ in range(4)] for _ in range(8)]
    assert not gc.isenabled()
    stream.close()
    assert gc.isenabled()
    assert torch.get_num_threads() == threads
    assert {tuple(sorted(names)) for names in rounds} == {tuple("abcd")}
    assert {names[-1] for names in rounds} == {"d"}
    assert len({tuple(names) for names in rounds}) > 1
    assert set(heard) == set("abc")


def test_decision_times_are_positive_and_named() -> None:
    policies = make_actor(5, 8, 3), snnkern.convert(make_actor(5, 8, 3), make_observations(20, 5))
    heard: list[tuple[int, int]] = []
    contenders = {str(index): timing.Contender(policy.act) for index, policy in enumerate(policies)}
    seconds = timing.measure(contenders, make_observations(4, 5), 2, 1e-5, lambda *counts: heard.append(counts))
    assert set(seconds) == {"0", "1"}
    assert all(len(rounds) == 2 and (rounds > 0).all() and (rounds < 1).all() for rounds in seconds.values())
    assert heard == [(1, 2), (2, 2)]


def test_rows_are_consecutive_and_far_apart() -> None:
    observations = np.arange(20.0)[:, None]
    assert timing.rows(observations, 2, 3)[..., 0].tolist() == [[0, 8], [1, 9], [2, 10]]
    assert timing.rows(observations[:2], 1, 3)[..., 0].tolist() == [0, 1, 0]
    assert timing.rows(observations[:1], 4, 2).tolist() == [[[0.0]] * 4] * 2


def test_a_busy_machine_is_noticed() -> None:
    assert "load average 3.0 on 2 cores" in timing.busy({"load": 3.0, "cores": 2})
    assert timing.busy({"load": 0.1, "cores": 2}) == ""
    assert timing.busy({"load": None, "cores": 2}) == ""


def test_all_or_what_there_is_can_be_drawn_and_printed(measured, tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    latency_tables = pytest.importorskip("snnkern.report.latency_tables", reason="Rich is not installed")
    keep = {
        "all": lambda case: True,
        "one batch": lambda case: case.batch == 3,
        "no dense": lambda case: case.dynamics,
        "dense alone": lambda case: not case.dynamics,
        "tensors alone": lambda case: case.name == TENSOR,
    }
    for name, kept in keep.items():
        found = replace(measured, rounds={case: seconds for case, seconds in measured.rounds.items() if kept(case)})
        style.write_figure(latency_figure(summarize_benchmark(found), name), tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        latency_tables.print_benchmark({"actor": name, **summarize_benchmark(found)})
        assert f"{name} (5-17-8-3)" in capsys.readouterr().out
