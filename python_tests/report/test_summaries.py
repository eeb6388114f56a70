"""What `snnkern report` reads of analyses, costs and latencies: mutations end in a report or in one clear error."""

from __future__ import annotations

import copy
import json
import random

import pytest
from support.builders import make_actor, make_observations

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import gymnasium

import snnkern
from snnkern.analysis import latency
from snnkern.analysis.energy import Energies, dense_cost, spiking_cost
from snnkern.analysis.latency_summary import summarize_benchmark
from snnkern.analysis.summaries import AnalysisSummary, BenchSummary, EnergySummary, read_summaries
from snnkern.files import to_json
from snnkern.report import page
from snnkern.report.page import write_report

ACTOR, OBSERVATIONS = make_actor(3, 6, 5, 1, metadata={"environment": "Pendulum-v1"}), make_observations(30, 3)


KINDS = {
    "analyze": ("analyses", AnalysisSummary),
    "energy": ("energies", EnergySummary),
    "bench": ("benches", BenchSummary),
}


def short_pendulum():
    return gymnasium.wrappers.TimeLimit(gymnasium.make("Pendulum-v1").unwrapped, 20)


@pytest.fixture(scope="module")
def summaries() -> dict[str, dict]:
    """What the three verbs write, made as they make it."""
    setting = snnkern.Dynamics(snnkern.IF(), 2, 0.2)
    thresholds = snnkern.calibrate(ACTOR, OBSERVATIONS)
    analysis = snnkern.analyze(ACTOR, short_pendulum, setting, thresholds=thresholds, episodes=2)
    cost = spiking_cost(snnkern.convert(ACTOR, OBSERVATIONS, **vars(setting)), OBSERVATIONS).to_dict()
    dense = dense_cost(ACTOR).to_dict(Energies())
    timed = latency.run(ACTOR, OBSERVATIONS, [setting], batches=(1, 4), seconds=0.3)
    made = {
        "analyze": {"actor": "a", "environment": "Pendulum-v1", **analysis.to_dict()},
        "energy": {
            "actor": "a",
            "along": "b",
            "dense": dense,
            "dense_without_zeros": dense,
            "results": [{**setting.to_dict(), **cost}],
        },
        "bench": {"actor": "a", **summarize_benchmark(timed)},
    }
    return {verb: json.loads(to_json(summary)) for verb, summary in made.items()}


@pytest.fixture(autouse=True)
def _sketches(monkeypatch):
    """Figures are made and not encoded, which takes a second each; test_names.py and test_cli_sweep.py encode them."""
    monkeypatch.setattr(page, "encode", lambda figure, suffix: b"")


def draw(tmp_path, verb: str, summary: dict) -> None:
    """The report of a file of one verb."""
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary))
    key, kind = KINDS[verb]
    write_report([], tmp_path, **{key: read_summaries([path], kind, verb)})


@pytest.mark.parametrize("verb", ["analyze", "energy", "bench"])
def test_what_a_verb_writes_is_drawn(summaries, tmp_path, verb) -> None:
    draw(tmp_path, verb, summaries[verb])
    assert (tmp_path / "report.html").exists()


OTHER_VALUES = [None, True, 0, -1, 10**18, 1e308, -1e308, "", "x", [], {}, [1], {"a": 1}, [[]], 0.5]


def places(content, path=()):
    """Every place in nested data."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(summary: dict, generator: random.Random) -> dict:
    """The same with another value, or none, in one place."""
    found = copy.deepcopy(summary)
    # Lists of numbers are long: each level of the tree is drawn as often as another.
    by_depth: dict[int, list[tuple]] = {}
    for path in places(found):
        if path:
            by_depth.setdefault(len(path), []).append(path)
    *path, last = generator.choice(by_depth[generator.choice(list(by_depth))])
    parent = found
    for key in path:
        parent = parent[key]
    if generator.random() < 0.2:
        del parent[last]
    elif isinstance(parent, list) and generator.random() < 0.2:
        parent.append(parent[last])
    else:
        parent[last] = generator.choice(OTHER_VALUES)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")  # matplotlib's, about numbers that are far apart
@pytest.mark.parametrize(("verb", "number"), {"analyze": 8, "energy": 60, "bench": 60}.items())
def test_what_else_a_file_holds_is_drawn_or_refused(summaries, tmp_path, verb, number) -> None:
    generator = random.Random(0)
    refused = 0
    for _ in range(number):
        summary = mutated(summaries[verb], generator)
        try:
            draw(tmp_path, verb, summary)
        except snnkern.InputError:
            refused += 1
    assert refused > number / 4


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "1", '{"actor": NaN}', "[" * 100_000, "\x00", '"\\ud800"'])
def test_what_is_no_summary_is_refused(tmp_path, text) -> None:
    path = tmp_path / "summary.json"
    path.write_text(text)
    with pytest.raises(snnkern.InputError, match=r"summary\.json"):
        read_summaries([path], EnergySummary, "energy")
