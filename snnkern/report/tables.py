"""Prints the results of `snnkern evaluate`, `demo` and `sweep`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from snnkern.control.evaluation import Evaluation
from snnkern.report.columns import POINT_COLUMNS, SWEEP_COLUMNS, Cells, SweepRow, tabulate
from snnkern.report.terminal import make_table, say, show
from snnkern.studies.results import Collection
from snnkern.text import count

_MANY = 80  # lines of a table


def print_evaluation(policy: str, environment: str, evaluation: Evaluation) -> None:
    """Prints the return of one policy, and its spikes if it has any."""
    ends = evaluation.interval()
    between = "" if math.isnan(ends.low) else f", 95 % interval {ends.low:,.1f} … {ends.high:,.1f}"
    say(
        f"{policy} in {environment}: return {evaluation.mean:,.1f} ± {evaluation.std:,.1f} "
        f"over {count(len(evaluation.returns), 'episode')}{between}"
    )
    if evaluation.spikes:
        say(f"spikes per decision: {' + '.join(f'{spikes:.1f}' for spikes in evaluation.spikes)}")


def print_sweep(title: str, rows: Sequence[SweepRow], formula: str | None) -> None:
    """Prints the results of the dense actor and of every setting.

    Args:
        title: which actor in which environment.
        rows: what was measured.
        formula: how ratios are computed; None or empty where they mean nothing.
    """
    ratio = f"{formula}, [95 % interval]" if formula else "none, the dense return is not positive"
    cells = tabulate(SWEEP_COLUMNS, rows)
    notes = [note.format(ratio=ratio) for note in cells.notes]
    _show_groups(title, cells, [row.setting and row.setting.neuron for row in rows], notes)


def print_collection(collection: Collection) -> None:
    """Prints the average performance ratio and the spikes of every setting of a sweep."""
    points = collection.points
    if len(points) > _MANY:
        say(f"{len(points):,} settings: too many for a table here, see the report.")
        return
    cells = tabulate(POINT_COLUMNS, points)
    families = [point.setting.family for point in points]
    _show_groups("Averages over actors", cells, families, [*cells.notes, *collection.notes])


def _show_groups(title: str, cells: Cells, groups: Sequence[Any], notes: Sequence[str]) -> None:
    """Prints a table with a line between groups of rows."""
    table = make_table(title, *cells.headings, framed=True)
    for index, row in enumerate(cells.rows):
        if index and groups[index] != groups[index - 1]:
            table.add_section()
        table.add_row(*row)
    table.caption = "\n".join(notes)
    show(table)
