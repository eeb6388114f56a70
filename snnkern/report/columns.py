"""The columns of a sweep's results: tables in a terminal, tables of the report's page and JSON are made from them.

To add a column, add it to `POINT_COLUMNS` (a grid, averaged over actors) or to `SWEEP_COLUMNS` (one actor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from snnkern.control.evaluation import Evaluation
from snnkern.control.intervals import Interval
from snnkern.control.records import EpisodeRecord
from snnkern.kernels.neurons import Dynamics
from snnkern.studies.results import Point
from snnkern.studies.settings import plain
from snnkern.studies.study import Sweep

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column.

    Attributes:
        key: in JSON; empty where only tables have it.
        heading: in tables, with its unit; empty where only JSON has it.
        value: what a row has there; None where it has nothing.
        text: a value as tables show it.
        note: what the heading means, for below a table.
        optional: whether it is left out where rows have nothing, or zero.
    """

    key: str
    heading: str
    value: Callable[[Row], Any]
    text: Callable[[Any], str] = str
    note: str = ""
    optional: bool = False


class Cells(NamedTuple):
    """A table as text."""

    headings: list[str]
    rows: list[list[str]]
    notes: list[str]


def tabulate(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> Cells:
    """Makes the text of a table."""
    shown = [
        column
        for column in columns
        if column.heading and not (column.optional and not any(column.value(row) for row in rows))
    ]
    values = [[(column, column.value(row)) for column in shown] for row in rows]
    return Cells(
        [column.heading for column in shown],
        [["" if value is None else column.text(value) for column, value in row] for row in values],
        [column.note for column in shown if column.note],
    )


def to_entry(columns: Sequence[Column[Row]], row: Row) -> dict[str, Any]:
    """Makes the JSON of a row. An interval has two keys; an evaluation has those of `summarize_evaluation`."""
    entry: dict[str, Any] = {}
    for column in columns:
        value = column.value(row)
        if isinstance(value, Evaluation):
            entry |= {**summarize_evaluation(value)}
        elif isinstance(value, Interval):
            entry[column.key] = None if math.isnan(value.value) else value.value
            entry[f"{column.key}_interval"] = _ends(value)
        elif column.key and not (column.optional and value is None):
            entry[column.key] = value
    return entry


def percent(ratio: Interval, sign: str = "") -> str:
    """Writes a ratio and its interval in percent."""
    if math.isnan(ratio.value):
        return "–"
    between = "" if math.isnan(ratio.low) else f" [{100 * ratio.low:.1f} … {100 * ratio.high:.1f}]"
    return f"{100 * ratio.value:.1f}{sign}{between}"


def mean_return(evaluation: Evaluation) -> str:
    """Writes the mean return and its standard deviation over episodes."""
    return f"{evaluation.mean:,.0f} ± {evaluation.std:,.0f}"


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _ends(interval: Interval) -> list[float] | None:
    """The ends for JSON, which has no NaN: None where there were too few episodes."""
    return None if math.isnan(interval.low) else [interval.low, interval.high]


# Of rows with a setting, or with None for it.
_TIMESTEPS: Column[Any] = Column("timesteps", "T", lambda row: row.setting and row.setting.timesteps)
_ALPHA: Column[Any] = Column("alpha", "α", lambda row: row.setting and row.setting.alpha, plain)
_MEMORY: Column[Any] = Column("memory", "μ", lambda row: row.setting and row.setting.memory, plain)

POINT_COLUMNS: tuple[Column[Point], ...] = (
    Column("neuron", "neuron", lambda point: point.setting.label),
    _TIMESTEPS,
    _ALPHA,
    _MEMORY,
    Column("calibration", "thresholds", lambda point: point.setting.calibration),
    Column("actors", "", lambda point: len(point.evaluations)),
    Column(
        "average_performance_ratio",
        "ratio, %",
        lambda point: point.average or Interval(),
        percent,
        "ratio: return / dense return (or as said below),\nmean over actors, [95 % interval]",
    ),
    Column("spikes_per_decision", "spikes", lambda point: point.spikes, _whole, "spikes: per decision, all layers"),
)


class SweepRow(NamedTuple):
    """The dense actor, a random policy or a spiking version in the results of one actor.

    Attributes:
        name: "dense", "random" or the neuron's.
        evaluation: its episodes.
        ratio: performance ratio; NaN where it means nothing.
        setting: of a spiking version.
        seconds: per decision at batch 1, where they were measured.
    """

    name: str
    evaluation: Evaluation
    ratio: Interval
    setting: Dynamics | None = None
    seconds: float | None = None


_RETURN: Column[SweepRow] = Column(
    "return",
    "return",
    lambda row: row.evaluation,
    mean_return,
    "return: mean ± standard deviation over episodes",
)
_TIME: Column[SweepRow] = Column(
    "microseconds_per_decision",
    "µs",
    lambda row: None if row.seconds is None else 1e6 * row.seconds,
    "{:.1f}".format,
    "µs: one decision at batch 1, from Python, one thread",
    optional=True,
)
SWEEP_COLUMNS: tuple[Column[SweepRow], ...] = (
    Column("", "neuron", lambda row: row.name),
    Column("neuron", "", lambda row: row.setting and row.setting.to_dict()["neuron"]),
    _TIMESTEPS,
    _ALPHA,
    replace(_MEMORY, optional=True),
    Column("clip", "", lambda row: row.setting and row.setting.clip),
    _RETURN,
    Column("performance_ratio", "ratio, %", lambda row: row.ratio, percent, "ratio: {ratio}"),
    Column(
        "spikes_per_decision",
        "spikes",
        lambda row: sum(row.evaluation.spikes) if row.setting else None,
        _whole,
        "spikes: per decision, all hidden layers",
    ),
    Column("spikes_per_decision_per_layer", "", lambda row: list(row.evaluation.spikes)),
    _TIME,
)


def sweep_rows(sweep: Sweep, seconds: Mapping[tuple[str, int] | None, float] | None = None) -> list[SweepRow]:
    """Lists the dense actor, the random policy if there is one, and the spiking versions.

    Args:
        sweep: what was measured.
        seconds: seconds per decision at batch 1, by (neuron name, T); the dense actor's under None.
    """
    times = seconds or {}
    dense, random = sweep.dense, sweep.random
    comparable = bool(dense.ratio_formula(random))
    rows = [SweepRow("dense", dense, Interval(1.0) if comparable else Interval(), None, times.get(None))]
    if random:
        rows.append(SweepRow("random", random, Interval(0.0) if comparable else Interval()))
    return rows + [
        SweepRow(
            setting.neuron.label,
            evaluation,
            evaluation.ratio(dense, random),
            setting,
            times.get((setting.neuron.name, setting.timesteps)),
        )
        for setting, evaluation in sweep.results
    ]


class EvaluationSummary(EpisodeRecord):
    """Episodes as JSON, with their mean return, its standard deviation over episodes and its 95 % interval."""

    return_mean: float
    return_std: float
    return_interval: list[float] | None


def summarize_evaluation(evaluation: Evaluation) -> EvaluationSummary:
    """Summarises an evaluation: mean return, spread, 95 % interval, and all episodes; ready for JSON."""
    return {
        "return_mean": evaluation.mean,
        "return_std": evaluation.std,
        "return_interval": _ends(evaluation.interval()),
        "returns": list(evaluation.returns),
        "lengths": list(evaluation.lengths),
    }


def summarize_sweep(sweep: Sweep, seconds: Mapping[tuple[str, int] | None, float] | None = None) -> dict[str, Any]:
    """Summarises the dense actor and every setting; a performance ratio that means nothing is None; ready for JSON.

    Args:
        sweep: what was measured.
        seconds: as for `sweep_rows`.
    """
    rows = sweep_rows(sweep, seconds)
    without = {row.name: to_entry((_RETURN, _TIME), row) for row in rows if row.setting is None}
    results = [to_entry(SWEEP_COLUMNS, row) for row in rows if row.setting is not None]
    return {"ratio": sweep.dense.ratio_formula(sweep.random) or None, **without, "results": results}
