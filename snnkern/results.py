"""What a sweep's records say: performance ratios and spikes by setting, over the actors that were measured."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from snnkern.errors import InputError
from snnkern.evaluation import RANDOM, Evaluation, Record, Result, average_performance_ratio
from snnkern.files import from_json, read_bytes
from snnkern.intervals import Interval
from snnkern.neurons import Dynamics, Kind, NeuronDescription, neuron_from, parse_neuron
from snnkern.store import Episodes, read_records


class Place(NamedTuple):
    """An actor in an environment; two actors of one name differ in their fingerprints."""

    actor: str
    environment: str
    fingerprint: str

    @property
    def label(self) -> str:
        """For people; published files name the environment themselves."""
        short = self.actor.removesuffix("_actor").replace("_", " ")
        return short if self.environment in short else f"{short} in {self.environment}"


class Variant(NamedTuple):
    """A setting as figures tell it apart: what it is converted to, but for T and α.

    Attributes:
        neuron: "IF", "MT", "MT, levels = 6": a neuron with other than usual parameters says so.
        memory: μ.
        calibration: where the thresholds come from.
    """

    neuron: str
    memory: float
    calibration: str


class Setting(NamedTuple):
    """All that a policy is converted to."""

    variant: Variant
    timesteps: int
    alpha: float | str


@dataclass(frozen=True)
class Point:
    """What one setting achieved.

    Attributes:
        setting: which.
        evaluations: its episodes by place.
        ratios: performance ratio by place, where it means something (`Evaluation.ratio`).
        average: of the ratios over all places of the collection; None where one is missing.
        spikes: per decision, all hidden layers, mean over places.
    """

    setting: Setting
    evaluations: dict[Place, Evaluation]
    ratios: dict[Place, Interval]
    average: Interval | None
    spikes: float


@dataclass(frozen=True)
class Collection:
    """The results of one sweep.

    Attributes:
        name: of its folder or file.
        dense: the dense actors' episodes.
        points: what each setting achieved, in order of neuron, calibration, T and α.
        records: what it was made of, but for random policies.
        notes: what was left out and why, in whole sentences.
    """

    name: str
    dense: dict[Place, Evaluation]
    points: list[Point]
    records: list[Record] = field(repr=False)
    notes: list[str] = field(default_factory=list)


def read_collection(path: Path) -> Collection:
    """Reads a store's folder, the file that `snnkern sweep --output` wrote, or what `snnkern evaluate --json` printed.

    Raises:
        InputError: it is none of these.
    """
    records = _from_summary(path) if path.suffix == ".json" and not os.path.isdir(path) else read_records(path)
    return collect_results(path.resolve().name.removesuffix(path.suffix), records)


def collect_results(name: str, records: Sequence[Record]) -> Collection:
    """Sorts records by actor and setting and takes seeds together.

    Where records share episodes (another version of a package, another number of episodes), the one with the most
    episodes counts, and of equals the last that was made.

    Raises:
        InputError: a neuron is unknown, or results of one setting disagree in the number of hidden layers.
    """
    random = _of_random_policies(records)
    records = [record for record in records if record["task"]["actor"] != RANDOM]
    chosen = {key: _disjoint(found) for key, found in _groups(records).items()}
    pooled = {key: _pool(found) for key, found in chosen.items()}
    dense = {place: evaluation for (place, setting), evaluation in pooled.items() if setting is None}
    places = sorted({place for place, _ in pooled})
    formulas = {place: dense[place].ratio_formula(random.get(place.environment)) for place in dense}
    comparable = [place for place in places if formulas.get(place)]
    points = []
    for setting in sorted({setting for _, setting in pooled if setting is not None}, key=_order):
        evaluations = {place: pooled[place, setting] for place in places if (place, setting) in pooled}
        groups_of = {
            place: (evaluations[place], dense[place], random.get(place.environment))
            for place in comparable
            if place in evaluations
        }
        ratios = {place: average_performance_ratio([group]) for place, group in groups_of.items()}
        average = None
        if ratios and len(ratios) == len(comparable):
            average = average_performance_ratio(list(groups_of.values()))
        spikes = sum(sum(evaluation.spikes) for evaluation in evaluations.values()) / len(evaluations)
        points.append(Point(setting, evaluations, ratios, average, spikes))

    notes = []
    if left_out := len(records) - sum(len(found) for found in chosen.values()):
        notes.append(f"Left out, since they share episodes with newer or larger results: {left_out}.")
    for place in places:
        if place not in comparable:
            why = "mean return is not positive" if place in dense else "return was not measured"
            if place.environment in random:
                why += ", nor better than a random policy's"
            notes.append(f"{place.label}: the dense actor's {why}, so there are no ratios.")
        elif dense[place].mean <= 0:
            notes.append(f"{place.label}: the dense actor's mean return is not positive; ratios are {formulas[place]}.")
    if partial := sum(point.average is None for point in points if comparable):
        notes.append(f"Settings that are not measured for all actors yet and have no average: {partial}.")
    return Collection(name, dense, points, list(records), notes)


def _of_random_policies(records: Sequence[Record]) -> dict[str, Evaluation]:
    """What random policies achieved, by environment."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["task"]["actor"] == RANDOM:
            found.setdefault(record["task"]["environment"], []).append(record)
    return {environment: _pool(_disjoint(of_it)) for environment, of_it in found.items()}


def _groups(records: Sequence[Record]) -> dict[tuple[Place, Setting | None], list[Record]]:
    """Records by actor and setting. An actor that has several names goes by the most frequent."""
    names: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        task = record["task"]
        names.setdefault((task["actor"], task["environment"]), Counter())[record["actor"] or task["actor"][:8]] += 1
    groups: dict[tuple[Place, Setting | None], list[Record]] = {}
    for record in records:
        fingerprint, environment = record["task"]["actor"], record["task"]["environment"]
        ((name, _),) = names[fingerprint, environment].most_common(1)
        groups.setdefault((Place(name, environment, fingerprint), _setting(record)), []).append(record)
    return groups


def cheapest(points: Iterable[Point], share: float) -> Point | None:
    """The setting with the fewest spikes whose average ratio is at least `share`."""
    good = [point for point in points if point.average and point.average.value >= share]
    return min(good, key=lambda point: point.spikes, default=None)


def frontier(points: Iterable[Point]) -> list[Point]:
    """Settings that no other one beats in both spikes and average ratio, by spikes."""
    best: list[Point] = []
    for point in sorted((point for point in points if point.average), key=lambda point: (point.spikes, -_value(point))):
        if not best or _value(point) > _value(best[-1]):
            best.append(point)
    return best


def describe_setting(setting: Setting, every: Sequence[Setting]) -> str:
    """A setting in a few words: neuron, T, α, and what else differs among all of them."""
    words = [setting.variant.neuron, f"T = {setting.timesteps}", f"α = {plain(setting.alpha)}"]
    return ", ".join([*words, *differing(setting.variant, [other.variant for other in every])])


def differing(variant: Variant, every: Sequence[Variant]) -> list[str]:
    """What of a variant, besides the neuron, differs among all of them."""
    words = []
    if len({other.memory for other in every}) > 1:
        words.append(f"μ = {variant.memory:g}")
    if len({other.calibration for other in every}) > 1:
        words.append(f"thresholds: {variant.calibration}")
    return words


def plain(value: float | str) -> str:
    """A number or the name of a rule."""
    return value if isinstance(value, str) else f"{value:g}"


def _value(point: Point) -> float:
    assert point.average is not None
    return point.average.value


def _setting(record: Record) -> Setting | None:
    setting, calibration = record["task"]["setting"], record["task"]["calibration"]
    if setting is None:
        return None
    given = setting["neuron"]
    kind = parse_neuron(given["name"]).kind
    usual: dict[str, Any] = dict(Dynamics(neuron_from(kind, {}), 1).to_dict()["neuron"])
    unusual = [f"{key} = {given[key]:g}" for key, value in usual.items() if key != "name" and given[key] != value]
    if setting["clip"] != 0.5:
        unusual.append(f"κ = {setting['clip']:g}")
    origin = calibration.get("rule") or f"given ({calibration.get('thresholds', '')[:6]})"
    variant = Variant(", ".join([kind.name, *unusual]), setting["memory"], origin)
    return Setting(variant, setting["timesteps"], setting["alpha"])


def _order(setting: Setting) -> tuple[Any, ...]:
    """Neurons in their usual order, numbers before names."""
    variant = setting.variant
    kind = Kind[variant.neuron.partition(",")[0]]
    return (kind, variant.neuron, variant.calibration, variant.memory, setting.timesteps, *_rank(setting.alpha))


def _rank(value: float | str) -> tuple[float, str]:
    return (math.inf, value) if isinstance(value, str) else (value, "")


def _disjoint(records: Sequence[Record]) -> list[Record]:
    """Records that share no episode."""
    chosen: list[Record] = []
    ordered = sorted(records, key=lambda record: record["run"].get("finished", ""), reverse=True)
    for record in sorted(ordered, key=lambda record: -len(record["result"]["returns"])):
        if not any(_episodes(record) & _episodes(other) for other in chosen):
            chosen.append(record)
    return sorted(chosen, key=lambda record: record["task"]["seed"])


def _episodes(record: Record) -> set[int]:
    first = record["task"]["seed"]
    return set(range(first, first + len(record["result"]["returns"])))


def _pool(records: Sequence[Record]) -> Evaluation:
    """The episodes of several seeds as one evaluation; spikes weighed by decisions."""
    evaluations = [Evaluation.from_record(record) for record in records]
    decisions = [sum(evaluation.lengths) for evaluation in evaluations]
    if len({len(evaluation.spikes) for evaluation in evaluations}) > 1:
        raise InputError(f"results of {records[0]['actor']} in one setting disagree in the number of hidden layers")
    layers = zip(*(evaluation.spikes for evaluation in evaluations), strict=True)
    return Evaluation(
        tuple(value for evaluation in evaluations for value in evaluation.returns),
        tuple(value for evaluation in evaluations for value in evaluation.lengths),
        tuple(sum(s * d for s, d in zip(layer, decisions, strict=True)) / sum(decisions) for layer in layers),
    )


class _Spiking(Episodes):
    """A spiking policy in what `snnkern evaluate --neuron … --json` prints."""

    neuron: NeuronDescription
    timesteps: int
    alpha: float
    memory: float
    clip: float
    spikes_per_decision_per_layer: list[float]


class _Summary(msgspec.Struct):
    """All of it."""

    actor: str
    environment: str
    calibration: str
    dense: Episodes
    results: list[_Spiking]
    random: Episodes | None = None


class _Kind(msgspec.Struct):
    """What all verbs' JSON but that of `evaluate` and `demo` says."""

    kind: str = ""


def _from_summary(path: Path) -> list[Record]:
    """Records from what `snnkern evaluate --neuron … --json` or `snnkern demo` wrote."""
    content = read_bytes(path)
    try:
        kind = from_json(content, _Kind, "it").kind
        summary = None if kind else from_json(content, _Summary, "it")
    except InputError as error:
        raise InputError(
            f"{path} holds no results ({error}): give a store's folder, or what snnkern sweep --output or "
            "evaluate --neuron --json wrote"
        ) from error
    if summary is None:
        raise InputError(f"{path} is what snnkern {kind} wrote, not a sweep's results: give it by its own option")
    records = [_record(summary, summary.dense, None), *(_record(summary, entry, entry) for entry in summary.results)]
    if summary.random is not None:
        records.append(_record(msgspec.structs.replace(summary, actor=RANDOM), summary.random, None))
    return records


def _record(summary: _Summary, entry: Episodes, spiking: _Spiking | None) -> Record:
    keys = ("neuron", "timesteps", "alpha", "memory", "clip")
    task = {
        "actor": summary.actor,
        "environment": summary.environment,
        "setting": spiking and {key: getattr(spiking, key) for key in keys},
        "calibration": spiking and {"rule": summary.calibration},
        "episodes": len(entry.returns),
        "seed": 0,
        "backend": None,
        "versions": {},
    }
    spikes = spiking.spikes_per_decision_per_layer if spiking else []
    result: Result = {"returns": entry.returns, "lengths": entry.lengths, "spikes": spikes}
    return {"task": task, "actor": summary.actor, "result": result, "run": {}}
