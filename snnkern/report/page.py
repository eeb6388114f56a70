"""Writes the report: one HTML page that needs no network, and its figures as PNG and PDF.

Drawn from data alone: what `snnkern sweep`, `analyze`, `energy` and `bench` have written.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import snnkern
from snnkern.analysis.summaries import AnalysisSummary, BenchSummary, EnergySummary
from snnkern.errors import InputError, require
from snnkern.files import make_folder, write_atomically
from snnkern.report.drawings import analysis_drawings, energy_drawing, latency_drawing
from snnkern.report.html import (
    Table,
    actors_table,
    analysis_table,
    averages_table,
    bench_table,
    chosen_table,
    energy_table,
    findings_table,
    returns_table,
    settings_table,
)
from snnkern.report.style import check_drawing, encode
from snnkern.report.sweep_figures import Drawing, collection_drawings
from snnkern.studies.results import Collection
from snnkern.text import count, printable

Progress = Callable[[int, int], None]


class _Part(NamedTuple):
    """A part that may be missing on the page: which command measures it, and which option adds it."""

    what: str
    command: str
    option: str


_PARTS = {
    "analysis": _Part(
        "Where the return goes: action errors, states, residuals, a spike raster",
        "snnkern analyze ACTOR --output analysis",
        "--analysis analysis/analysis.json",
    ),
    "energy": _Part("What a decision costs", "snnkern energy ACTOR --output energy.json", "--energy energy.json"),
    "bench": _Part("How long a decision takes", "snnkern bench ACTOR --output bench.json", "--bench bench.json"),
}


class _Section(NamedTuple):
    """A section of the page.

    Attributes:
        title: its heading.
        kind: "results", "analysis", "energy", "bench", "missing" or "provenance".
        drawings: its figures.
        source: what they are drawn from, for errors.
        collection: a sweep's results, of which it has tables.
        parts: what is missing.
        tables: how everything was made.
    """

    title: str
    kind: str
    drawings: Sequence[Drawing] = ()
    source: str = ""
    collection: Collection | None = None
    parts: Sequence[_Part] = ()
    tables: Sequence[Table] = ()


def write_report(
    collections: Sequence[Collection],
    folder: Path,
    *,
    analyses: Sequence[AnalysisSummary] = (),
    energies: Sequence[EnergySummary] = (),
    benches: Sequence[BenchSummary] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """Writes `report.html`, and every figure as PNG and PDF into `figures` beside it.

    Args:
        collections: results of sweeps; see `read_collection`.
        folder: where the page goes; it and `figures` are made where they are missing.
        analyses: what `snnkern analyze` wrote.
        energies: what `snnkern energy --output` wrote.
        benches: what `snnkern bench --output` wrote.
        progress: called with how many figures are drawn, and how many there are.

    Returns:
        the page, and its figures' files.

    Raises:
        InputError: a file cannot be written.
        MissingDependencyError: matplotlib or Jinja2 is not installed.
    """
    check_drawing()
    template = page_environment().get_template("report.html.j2")
    names = _file_names([collection.name for collection in collections])
    sections = [
        _Section(_heading(collection, collections), "results", collection_drawings(collection, name), "", collection)
        for collection, name in zip(collections, names, strict=True)
    ]
    for number, analysis in enumerate(analyses, 1):
        source = f"the analysis of {analysis.actor}"
        title = f"Where the return goes: {analysis.actor}, {analysis.dynamics['neuron']['name'].upper()}"
        with _fitting(source):
            drawings = analysis_drawings(analysis, f"analysis-{number}")
        sections.append(_Section(title, "analysis", drawings, source))
    for number, energy in enumerate(energies, 1):
        title, source = f"What a decision costs: {energy.actor}", f"the costs of {energy.actor}"
        sections.append(_Section(title, "energy", [energy_drawing(energy, number)], source))
    for number, bench in enumerate(benches, 1):
        title, source = f"How long a decision takes: {bench['actor']}", f"the latency of {bench['actor']}"
        sections.append(_Section(title, "bench", [latency_drawing(bench, number)], source))
    if missing := [part for kind, part in _PARTS.items() if not any(section.kind == kind for section in sections)]:
        sections.append(_Section("Not on this page", "missing", parts=missing))
    tables = _provenance(collections, analyses, energies, benches)
    sections.append(_Section("Settings and versions", "provenance", tables=tables))
    make_folder(folder / "figures")
    number = sum(len(section.drawings) for section in sections)
    figures: dict[str, tuple[str, str]] = {}
    contents: dict[Path, bytes] = {}
    for section in sections:
        for drawing in section.drawings:
            with _fitting(section.source):
                figures[drawing.name], files = _layouts(drawing)
            contents |= {folder / "figures" / name: content for name, content in files.items()}
            if progress:
                progress(len(figures), number)
    page = folder / "report.html"
    given = {"sections": sections, "figures": figures, "version": snnkern.__version__}
    contents = {page: template.render(lead=_lead(collections), **given).encode(), **contents}
    for file, content in contents.items():  # all of them, or none
        write_atomically(file, content)
    return list(contents)


def page_environment() -> Any:
    """Makes the Jinja2 environment of the page: it escapes every text, and replaces characters that cannot be shown.

    Raises:
        MissingDependencyError: Jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report", "the report's page")

    def fit(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=fit,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tables = {function.__name__: function for function in (averages_table, findings_table, returns_table)}
    environment.globals |= tables
    return environment


@contextlib.contextmanager
def _fitting(source: str) -> Iterator[None]:
    """Names the source of numbers that cannot be drawn: lists of different lengths, unknown names."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if not source or isinstance(error, InputError):
            raise
        raise InputError(f"{source} cannot be drawn, since its numbers do not fit together: {error!r}") from error


def _file_names(names: Sequence[str]) -> list[str]:
    """Makes different names that can be used in files and in links."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w-]+", "-", name)[:40]  # four bytes each at most, in a file's name of 255
        found.append(plain if plain not in found else f"{plain}-{len(found) + 1}")
    return found


def _heading(collection: Collection, every: Sequence[Collection]) -> str:
    return "Control performance" + (f": {collection.name}" if len(every) > 1 else "")


def _provenance(
    collections: Sequence[Collection],
    analyses: Sequence[AnalysisSummary],
    energies: Sequence[EnergySummary],
    benches: Sequence[BenchSummary],
) -> list[Table]:
    """Lists actors, exact settings and versions of everything on the page."""
    tables = []
    for collection in collections:
        tables += [settings_table(collection), actors_table(collection), chosen_table(collection)]
    tables += [analysis_table(summary) for summary in analyses]
    tables += [energy_table(summary) for summary in energies]
    tables += [bench_table(summary) for summary in benches]
    return [table for table in tables if table.rows]


def _layouts(drawing: Drawing) -> tuple[tuple[str, str], dict[str, bytes]]:
    """Draws a figure: its wide and its narrow layout (empty if it has none), and the content of its files by name."""
    wide = drawing.draw(False)
    files = {f"{drawing.name}.{suffix}": encode(wide, suffix) for suffix in ("png", "pdf")}
    return (_svg(wide), _svg(drawing.draw(True)) if drawing.narrows else ""), files


def _svg(figure: Any) -> str:
    """Writes a figure as a data URI. Inside an image, its names cannot clash with another figure's."""
    return f"data:image/svg+xml;base64,{base64.b64encode(encode(figure, 'svg')).decode()}"


def _lead(collections: Sequence[Collection]) -> str:
    """Says how much was measured."""
    actors = {actor for collection in collections for actor in collection.dense}
    settings = {point.setting for collection in collections for point in collection.points}
    episodes = sum(len(record["result"]["returns"]) for collection in collections for record in collection.records)
    return (
        f"{count(len(actors), 'trained actor')}, converted without training to "
        f"{count(len(settings), 'setting')} of spiking neurons, and run for {count(episodes, 'episode')}."
    )
