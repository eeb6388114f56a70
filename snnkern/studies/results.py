"""Computes performance ratios and spikes by setting from the records of a sweep."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from snnkern.control.evaluation import RANDOM, Evaluation, average_performance_ratio
from snnkern.control.intervals import Interval
from snnkern.control.records import CalibrationDescription, EpisodeRecord, Record, SettingDescription
from snnkern.errors import InputError
from snnkern.files import from_json, read_bytes
from snnkern.kernels.neurons import DynamicsDescription
from snnkern.studies.settings import Setting
from snnkern.studies.store import check_lengths, read_records


class TrainedActor(NamedTuple):
    """A dense actor in an environment; two of one name differ in their fingerprints."""

    name: str
    environment: str
    fingerprint: str

    @property
    def label(self) -> str:
        """The name for tables and figures. The names of published files contain the environment."""
        short = self.name.removesuffix("_actor").replace("_", " ")
        return short if self.environment in short else f"{short} in {self.environment}"


@dataclass(frozen=True)
class Point:
    """The results of one setting.

    Attributes:
        setting: which.
        evaluations: its episodes by actor.
        ratios: performance ratio by actor, where it means something (`Evaluation.ratio`).
        average: of the ratios over all actors of the collection; None where one is missing.
        spikes: per decision, all hidden layers, mean over actors.
    """

    setting: Setting
    evaluations: dict[TrainedActor, Evaluation]
    ratios: dict[TrainedActor, Interval]
    average: Interval | None
    spikes: float

    @property
    def ratio(self) -> float:
        """The value of `average`; NaN if there is none."""
        return math.nan if self.average is None else self.average.value


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
    dense: dict[TrainedActor, Evaluation]
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
    """Groups records by actor and setting, and pools the episodes of all seeds.

    Where records share episodes (another version of a package, another number of episodes), the one with the most
    episodes counts, and of equals the last that was made.

    Raises:
        InputError: a neuron is unknown, or results of one setting disagree in the number of hidden layers.
    """
    random = _of_random_policies(records)
    records = [record for record in records if record["task"]["actor"] != RANDOM]
    chosen = {key: _disjoint(found) for key, found in _groups(records).items()}
    pooled = {key: _pool(found) for key, found in chosen.items()}
    dense = {actor: evaluation for (actor, setting), evaluation in pooled.items() if setting is None}
    actors = sorted({actor for actor, _ in pooled})
    formulas = {actor: dense[actor].ratio_formula(random.get(actor.environment)) for actor in dense}
    comparable = [actor for actor in actors if formulas.get(actor)]
    points = []
    for setting in sorted({setting for _, setting in pooled if setting is not None}, key=lambda setting: setting.order):
        evaluations = {actor: pooled[actor, setting] for actor in actors if (actor, setting) in pooled}
        groups_of = {
            actor: (evaluations[actor], dense[actor], random.get(actor.environment))
            for actor in comparable
            if actor in evaluations
        }
        ratios = {actor: average_performance_ratio([group]) for actor, group in groups_of.items()}
        average = None
        if ratios and len(ratios) == len(comparable):
            average = average_performance_ratio(list(groups_of.values()))
        spikes = sum(sum(evaluation.spikes) for evaluation in evaluations.values()) / len(evaluations)
        points.append(Point(setting, evaluations, ratios, average, spikes))

    notes = []
    if left_out := len(records) - sum(len(found) for found in chosen.values()):
        notes.append(f"Left out, since they share episodes with newer or larger results: {left_out}.")
    for actor in actors:
        if actor not in comparable:
            why = "mean return is not positive" if actor in dense else "return was not measured"
            if actor.environment in random:
                why += ", nor better than a random policy's"
            notes.append(f"{actor.label}: the dense actor's {why}, so there are no ratios.")
        elif dense[actor].mean <= 0:
            notes.append(f"{actor.label}: the dense actor's mean return is not positive; ratios are {formulas[actor]}.")
    if partial := sum(point.average is None for point in points if comparable):
        notes.append(f"Settings that are not measured for all actors yet and have no average: {partial}.")
    return Collection(name, dense, points, list(records), notes)


def _of_random_policies(records: Sequence[Record]) -> dict[str, Evaluation]:
    """The episodes of random policies, by environment."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["task"]["actor"] == RANDOM:
            found.setdefault(record["task"]["environment"], []).append(record)
    return {environment: _pool(_disjoint(of_it)) for environment, of_it in found.items()}


def _groups(records: Sequence[Record]) -> dict[tuple[TrainedActor, Setting | None], list[Record]]:
    """Groups records by actor and setting. An actor with several names gets the most frequent one."""
    names: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        task = record["task"]
        names.setdefault((task["actor"], task["environment"]), Counter())[record["actor"] or task["actor"][:8]] += 1
    groups: dict[tuple[TrainedActor, Setting | None], list[Record]] = {}
    for record in records:
        fingerprint, environment = record["task"]["actor"], record["task"]["environment"]
        ((name, _),) = names[fingerprint, environment].most_common(1)
        groups.setdefault((TrainedActor(name, environment, fingerprint), _setting(record)), []).append(record)
    return groups


def cheapest(points: Iterable[Point], share: float) -> Point | None:
    """Finds the setting with the fewest spikes among those whose average ratio is at least `share`."""
    good = [point for point in points if point.ratio >= share]
    return min(good, key=lambda point: point.spikes, default=None)


def frontier(points: Iterable[Point]) -> list[Point]:
    """Finds the settings that no other one beats in both spikes and average ratio; sorted by spikes."""
    best: list[Point] = []
    for point in sorted((point for point in points if point.average), key=lambda point: (point.spikes, -point.ratio)):
        if not best or point.ratio > best[-1].ratio:
            best.append(point)
    return best


def _setting(record: Record) -> Setting | None:
    setting, calibration = record["task"]["setting"], record["task"]["calibration"]
    if setting is None or calibration is None:
        return None
    return Setting.from_dict(setting, calibration.get("rule") or f"given ({calibration.get('thresholds', '')[:6]})")


def _disjoint(records: Sequence[Record]) -> list[Record]:
    """Chooses records that share no episode."""
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
    """Joins the episodes of several seeds; spikes are weighted by decisions."""
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


class _Spiking(EpisodeRecord, DynamicsDescription):
    """A spiking policy in what `snnkern evaluate --neuron … --json` prints."""

    spikes_per_decision_per_layer: list[float]


class _Summary(msgspec.Struct):
    """The JSON that `snnkern evaluate --neuron … --json` prints."""

    actor: str
    environment: str
    calibration: str
    dense: EpisodeRecord
    results: list[_Spiking]
    random: EpisodeRecord | None = None

    def __post_init__(self) -> None:
        for entry in (self.dense, *self.results, *([self.random] if self.random else [])):
            check_lengths(entry)


class _Kind(msgspec.Struct):
    """What all verbs' JSON but that of `evaluate` and `demo` says."""

    kind: str = ""


def _from_summary(path: Path) -> list[Record]:
    """Makes records of the file that `snnkern evaluate --neuron … --json` or `snnkern demo` wrote."""
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
    records = [_record(summary, summary.actor, summary.dense)]
    records += [_record(summary, summary.actor, entry, entry) for entry in summary.results]
    if summary.random is not None:
        records.append(_record(summary, RANDOM, summary.random))
    return records


def _record(summary: _Summary, actor: str, entry: EpisodeRecord, spiking: _Spiking | None = None) -> Record:
    setting: SettingDescription | None = None
    calibration: CalibrationDescription | None = None
    if spiking is not None:
        setting = {
            "neuron": spiking["neuron"],
            "timesteps": spiking["timesteps"],
            "alpha": spiking["alpha"],
            "memory": spiking["memory"],
            "clip": spiking["clip"],
        }
        calibration = {"rule": summary.calibration}
    return {
        "task": {
            "actor": actor,
            "environment": summary.environment,
            "setting": setting,
            "calibration": calibration,
            "episodes": len(entry["returns"]),
            "seed": 0,
            "backend": None,
            "versions": {},
        },
        "actor": actor,
        "result": {
            "returns": entry["returns"],
            "lengths": entry["lengths"],
            "spikes": spiking["spikes_per_decision_per_layer"] if spiking else [],
        },
        "run": {},
    }
