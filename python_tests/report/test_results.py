"""What records of a sweep come to, and the report's page and figures."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

from matplotlib import image

import snnkern
from snnkern.errors import InputError
from snnkern.kernels.neurons import parse_neuron
from snnkern.report.page import page_environment, write_report
from snnkern.studies.results import cheapest, collect_results, frontier, read_collection
from snnkern.studies.store import write_records

ACTORS = {"first": ("Hopper-v5", 100.0), "second <b>&": ("Ant-v5", 1000.0)}


def record(actor, setting, returns, *, seed=0, spikes=(), day=1, lengths=None, rule="max"):
    env, _ = ACTORS[actor]
    task = {
        "actor": f"hash of {actor}",
        "environment": env,
        "setting": setting and setting.to_dict(),
        "calibration": setting and {"rule": "max", "steps": 10, "seed": 0},
        "episodes": len(returns),
        "seed": seed,
        "backend": setting and "cpu",
        "versions": {"snnkern": "1", "torch": "2"},
    }
    result = {"returns": list(returns), "lengths": lengths or [10] * len(returns), "spikes": list(spikes)}
    if setting:
        result |= {"dynamics": setting.to_dict(), "thresholds": "x", "calibration": "max"}
    return {
        "task": task,
        "actor": actor,
        "result": result,
        "run": {"seconds": 2.0, "finished": f"2026-01-0{day}T00:00:00+00:00"},
    }


def dynamics(name, timesteps, alpha=0.0):
    return snnkern.Dynamics(parse_neuron(name), timesteps, alpha)


@pytest.fixture
def records() -> list[dict]:
    """Ratio T / 8 for IF and 2·T / 8 for DC, less α / 10, around which episodes spread a little."""
    found = []
    for actor, (_, whole) in ACTORS.items():
        found.append(record(actor, None, [whole * share for share in (0.9, 1.0, 1.1)]))
        for name, share in (("if", 1), ("dc", 2)):
            for timesteps in (1, 2, 4):
                for alpha in (0.0, 0.2, 1.0):
                    mean = whole * (share * timesteps / 8 - alpha / 10)
                    returns = [mean * spread for spread in (0.95, 1.0, 1.05)]
                    found.append(
                        record(actor, dynamics(name, timesteps, alpha), returns, spikes=(timesteps * 10.0, 5.0))
                    )
    return found


def test_ratios_averages_and_spikes(records) -> None:
    collection = collect_results("test", records)
    assert len(collection.points) == 18
    assert collection.notes == []
    first = collection.points[0]
    assert (first.setting.label, first.setting.timesteps, first.setting.alpha) == ("IF", 1, 0.0)
    assert first.average.value == pytest.approx(1 / 8)
    assert 0.9 / 8 < first.average.low < 1 / 8 < first.average.high < 1.2 / 8
    assert [ratio.value for ratio in first.ratios.values()] == pytest.approx([1 / 8, 1 / 8])
    assert first.spikes == 15
    assert [actor.label for actor in collection.dense] == ["first in Hopper-v5", "second <b>& in Ant-v5"]
    best = cheapest(collection.points, 0.45)
    assert (best.setting.label, best.setting.timesteps) == ("DC", 2)
    assert cheapest(collection.points, 1.5) is None
    assert [(p.setting.label, p.setting.timesteps, p.setting.alpha) for p in frontier(collection.points)] == [
        ("DC", 1, 0.0),
        ("DC", 2, 0.0),
        ("DC", 4, 0.0),
    ]


def test_seeds_are_taken_together_and_spikes_weighed_by_decisions() -> None:
    setting = dynamics("if", 2)
    some = [
        record("first", None, [100.0]),
        record("first", setting, [10.0, 20.0], spikes=(2.0,), lengths=[1, 1]),
        record("first", setting, [30.0], seed=2, spikes=(4.0,), lengths=[6]),
    ]
    (point,) = collect_results("test", some).points
    (evaluation,) = point.evaluations.values()
    assert evaluation.returns == (10.0, 20.0, 30.0)
    assert point.average.value == pytest.approx(0.2)
    assert evaluation.spikes == (pytest.approx((2 * 2 + 6 * 4) / 8),)


def test_a_random_policy_is_the_zero_where_the_dense_return_is_not_positive(tmp_path) -> None:
    random = record("first", None, [-500.0, -300.0])
    random["task"]["actor"] = random["actor"] = "random"
    some = [
        record("first", None, [-100.0]),
        record("first", dynamics("if", 2), [-250.0], spikes=(1.0,)),
        random,
        record("second <b>&", None, [100.0]),
        record("second <b>&", dynamics("if", 2), [50.0], spikes=(1.0,)),
    ]
    collection = collect_results("test", some)
    (point,) = collection.points
    assert [ratio.value for ratio in point.ratios.values()] == [0.5, 0.5]
    assert point.average.value == 0.5
    assert collection.notes == [
        "first in Hopper-v5: the dense actor's mean return is not positive; "
        "ratios are (return − random) / (dense − random)."
    ]
    assert len(collection.records) == 4
    some[2]["result"]["returns"] = [-50.0, -50.0]
    collection = collect_results("test", some)
    assert collection.notes[0].endswith("is not positive, nor better than a random policy's, so there are no ratios.")

    entry = {"returns": [-1.0, -3.0], "lengths": [1, 1]}
    spiking = {**entry, **dynamics("if", 2).to_dict(), "spikes_per_decision_per_layer": [1.0]}
    zero = {"returns": [-5.0, -7.0], "lengths": [1, 1]}
    summary = {"actor": "a", "environment": "E", "calibration": "max", "dense": entry, "random": zero}
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "results": [spiking]}))
    assert read_collection(tmp_path / "summary.json").points[0].average.value == 1.0


def test_no_episode_counts_twice() -> None:
    """The larger task counts, and of equals the newer one."""
    setting = dynamics("if", 2)
    some = [
        record("first", None, [100.0, 100.0]),
        record("first", setting, [1.0, 1.0], day=2),
        record("first", setting, [2.0, 2.0], day=3),
        record("first", setting, [3.0, 3.0], seed=1, day=1),
    ]
    collection = collect_results("test", some)
    assert collection.points[0].average.value == 0.02
    assert collection.notes == ["Left out, since they share episodes with newer or larger results: 2."]


def test_an_actor_with_two_names_is_one() -> None:
    some = [record("first", None, [2.0]), *(record("first", dynamics("if", steps), [1.0]) for steps in (1, 2))]
    some[0]["actor"] = "TD3"
    collection = collect_results("test", some)
    assert [actor.name for actor in collection.dense] == ["first"]
    assert [point.average.value for point in collection.points] == [0.5, 0.5]


def test_what_cannot_be_compared_is_said(records) -> None:
    without = [one for one in records if one["task"]["setting"] or one["actor"] == "first"]
    collection = collect_results("test", without)
    assert collection.notes == [
        "second <b>& in Ant-v5: the dense actor's return was not measured, so there are no ratios."
    ]
    assert all(len(point.ratios) == 1 for point in collection.points)
    lost = copy.deepcopy(records)
    lost[0]["result"]["returns"] = [-1.0, -2.0]
    assert "first in Hopper-v5: the dense actor's mean return is not positive" in collect_results("t", lost).notes[0]
    collection = collect_results("test", records[:-1])
    assert collection.points[-1].average is None
    assert collection.notes == ["Settings that are not measured for all actors yet and have no average: 1."]


def test_rules_unusual_neurons_and_given_thresholds_have_names() -> None:
    setting = dynamics("mt", 2)
    named = record("first", setting, [1.0])
    named["task"]["setting"] = {**setting.to_dict(), "alpha": "auto"}
    named["task"]["setting"]["neuron"]["levels"] = 6
    given = record("first", setting, [1.0])
    given["task"]["calibration"] = {"thresholds": "abcdefghij"}
    points = collect_results("test", [named, given]).points
    assert {(p.setting.label, p.setting.alpha, p.setting.calibration) for p in points} == {
        ("MT, levels = 6", "auto", "max"),
        ("MT", 0.0, "given (abcdef)"),
    }


def test_evaluations_can_be_read_as_well(tmp_path, capsys) -> None:
    entry = {"returns": [1.0, 3.0], "lengths": [5, 5]}
    spiking = {**dynamics("dc", 2).to_dict(), **entry, "spikes_per_decision_per_layer": [7.0, 8.0]}
    summary = {"actor": "a", "environment": "E", "calibration": "max", "dense": entry, "results": [spiking]}
    (tmp_path / "evaluation.json").write_text(json.dumps(summary))
    (point,) = read_collection(tmp_path / "evaluation.json").points
    assert (point.average.value, point.spikes) == (1.0, 15.0)
    for content, message in (
        ('{"kind": "analysis"}', "is what snnkern analysis wrote, not a sweep's results"),
        ("[1", "holds no results"),
        ('{"dense": {}}', "holds no results"),
    ):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(InputError, match=message):
            read_collection(tmp_path / "other.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no results of a sweep"):
        read_collection(tmp_path / "empty")


def test_text_cannot_become_markup() -> None:
    template = page_environment().from_string('<p title="{{ title }}">{{ text }}<b>{{ bold }}</b></p>')
    assert template.render(text='1 < 2 & "3"', bold="<\x1b", title='"<') == (
        '<p title="&#34;&lt;">1 &lt; 2 &amp; &#34;3&#34;<b>&lt;\ufffd</b></p>'
    )


class Page(HTMLParser):
    """A page's elements; refuses those that are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in ("img", "meta", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_stands_alone_and_says_everything(records, tmp_path) -> None:
    collection = collect_results("study", records)
    files = write_report([collection], tmp_path / "report")
    text = files[0].read_text()
    page = Page(text)
    names = {f"study-{name}" for name in ("timesteps", "actors", "alpha", "spikes")}
    assert {figure["id"] for figure in page.all("figure")} == names
    assert {file.name for file in files[1:]} == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    for file in files[1:]:
        if file.suffix == ".png":
            assert np.ptp(image.imread(file)[..., :3]) == 1.0
    for attributes in [*page.all("img"), *page.all("source")]:
        assert (attributes.get("src") or attributes["srcset"]).startswith("data:image/svg+xml;base64,")
    assert all(len(attributes["alt"]) > 40 for attributes in page.all("img"))
    assert re.findall(r"https?://", text) == []
    assert "<b>" not in text
    assert "second <b>& in Ant-v5" in page.text
    for words in ("DC, T = 4, α = 0", "100.0 % [", "torch 2", "max (10 steps, seed 0)", "hash of", "IF (β = 0.5)"):
        assert words in page.text, words
    for command in ("snnkern analyze", "snnkern energy", "snnkern bench"):
        assert command in page.text  # what is missing, and how to make it
    assert len(page.all("h1")) == 1
    assert page.all("html") == [{"lang": "en"}]
    identities = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(identities) == len(set(identities))


@pytest.mark.thorough
def test_the_same_results_give_the_same_page(records, tmp_path) -> None:
    collection = collect_results("study", records)
    first, second = (write_report([collection], tmp_path / name)[0].read_bytes() for name in ("first", "second"))
    assert first == second


def test_little_is_enough_for_a_page(tmp_path) -> None:
    """One episode of one setting: no intervals, no lines; then not even a dense actor."""
    few = [record("first", None, [100.0]), record("first", dynamics("snm", 2), [50.0], spikes=(1.0,))]
    files = write_report([collect_results("one", few)], tmp_path)
    assert [file.name for file in files] == ["report.html", "one-spikes.png", "one-spikes.pdf"]
    assert "needs several" in Page(files[0].read_text()).text
    assert write_report([collect_results("one", few)], tmp_path / "again")[0].read_bytes() == files[0].read_bytes()
    files = write_report([collect_results("none", few[1:])], tmp_path)
    assert len(files) == 1
    assert "No performance ratio" in Page(files[0].read_text()).text


@pytest.mark.thorough
def test_two_sweeps_are_two_sections(records, tmp_path) -> None:
    """Even where their names are the same, and are no names for files."""
    collections = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_records(records, tmp_path / name / "a & b.jsonl")
        collections.append(read_collection(tmp_path / name / "a & b.jsonl"))
    files = write_report(collections, tmp_path)
    page = Page(files[0].read_text())
    assert page.text.count("Control performance: a & b") == 2 * 2  # links and headings
    assert len(set(files)) == 1 + 2 * 2 * 4
    assert {"a-b-spikes", "a-b-2-spikes"} <= {figure["id"] for figure in page.all("figure")}
