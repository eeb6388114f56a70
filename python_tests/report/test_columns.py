"""Columns of a sweep's results: what is in tables, and what in JSON."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("scipy", reason="SciPy is not installed")

import snnkern
from snnkern.control.evaluation import Evaluation
from snnkern.control.intervals import Interval
from snnkern.report import columns, html, tables
from snnkern.report.columns import Column, SweepRow, tabulate, to_entry
from snnkern.studies.results import Collection, Point
from snnkern.studies.settings import Setting

EVALUATION = Evaluation((1.0, 3.0), (1, 1), (2.0, 5.0))
POINT = Point(Setting(snnkern.MT(levels=6), 4, "auto", 0.0, "max"), {}, {}, Interval(0.5, 0.4, 0.6), 7.0)


def test_a_new_column_is_in_the_terminal_on_the_page_and_in_json(monkeypatch, capsys) -> None:
    new: Column[Point] = Column(
        "kappa", "κ", lambda point: point.setting.clip, "{:.2f}".format, "κ: bound of the carry"
    )
    monkeypatch.setattr(columns, "POINT_COLUMNS", (*columns.POINT_COLUMNS, new))
    for module in (tables, html):
        monkeypatch.setattr(module, "POINT_COLUMNS", columns.POINT_COLUMNS)
    collection = Collection("test", {}, [POINT], [])
    tables.print_collection(collection)
    out = capsys.readouterr().out
    assert "0.50" in out
    assert "κ: bound of the carry" in out
    page = html.averages_table(collection)
    assert (page.headings[-1], page.rows[0][-1]) == ("κ", "0.50")
    assert to_entry(columns.POINT_COLUMNS, POINT)["kappa"] == 0.5


def test_what_json_and_tables_have_of_a_point() -> None:
    assert to_entry(columns.POINT_COLUMNS, POINT) == {
        "neuron": "MT, levels = 6",
        "timesteps": 4,
        "alpha": "auto",
        "memory": 0.0,
        "calibration": "max",
        "actors": 0,
        "average_performance_ratio": 0.5,
        "average_performance_ratio_interval": [0.4, 0.6],
        "spikes_per_decision": 7.0,
    }
    assert tabulate(columns.POINT_COLUMNS, [POINT]).rows == [
        ["MT, levels = 6", "4", "auto", "0", "max", "50.0 [40.0 … 60.0]", "7"]
    ]
    alone = Point(POINT.setting, {}, {}, None, 7.0)
    assert to_entry(columns.POINT_COLUMNS, alone)["average_performance_ratio_interval"] is None
    assert tabulate(columns.POINT_COLUMNS, [alone]).rows[0][-2] == "–"


def test_what_nobody_has_is_left_out() -> None:
    """μ where no setting remembers, and times where none were measured."""
    setting = snnkern.Dynamics(snnkern.IF(), 4, 0.2)
    row = SweepRow("IF", EVALUATION, Interval(math.nan), setting)
    assert tabulate(columns.SWEEP_COLUMNS, [row]).headings == ["neuron", "T", "α", "return", "ratio, %", "spikes"]
    entry = to_entry(columns.SWEEP_COLUMNS, row)
    assert (entry["memory"], entry["performance_ratio"], entry["performance_ratio_interval"]) == (0.0, None, None)
    assert "microseconds_per_decision" not in entry
    timed = row._replace(seconds=3e-6, setting=snnkern.Dynamics(snnkern.IF(), 4, 0.2, 1.0))
    assert tabulate(columns.SWEEP_COLUMNS, [timed]).headings[3] == "μ"
    assert tabulate(columns.SWEEP_COLUMNS, [timed]).rows[0][-1] == "3.0"
