"""The report: one HTML page that needs no network, and its figures as PNG and PDF beside it.

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
from snnkern.errors import InputError
from snnkern.figures import check_drawing, encode
from snnkern.files import write_atomically
from snnkern.markup import Markup, element, join
from snnkern.report_drawings import analysis_drawings, energy_drawing, latency_drawing
from snnkern.report_figures import Drawing, collection_drawings
from snnkern.report_style import STYLE
from snnkern.report_tables import (
    actors_table,
    averages_table,
    chosen_table,
    findings,
    machine_table,
    returns_table,
    settings_table,
)
from snnkern.results import Collection
from snnkern.summaries import AnalysisSummary, BenchSummary, EnergySummary
from snnkern.text import count

Progress = Callable[[int, int], None]

_INTERVALS = (
    "Intervals are 95 % percentile bootstrap intervals. Episodes are resampled, spiking and dense ones, within "
    "each actor "
    "and environment (stratified), and the ratio and its mean over actors computed anew from every resample."
)
# What may be missing, and how it comes here.
_PARTS = {
    "analysis": (
        "Where the return goes: action errors, states, residuals, a spike raster",
        "snnkern analyze ACTOR --output analysis",
        "--analysis analysis/analysis.json",
    ),
    "energy": ("What a decision costs", "snnkern energy ACTOR --output energy.json", "--energy energy.json"),
    "bench": ("How long a decision takes", "snnkern bench ACTOR --output bench.json", "--bench bench.json"),
}


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
        MissingDependencyError: matplotlib is not installed.
    """
    check_drawing()
    names = _file_names([collection.name for collection in collections])
    sections = [
        _Section(_heading(collection, collections), *_results(collection, name))
        for collection, name in zip(collections, names, strict=True)
    ]
    for number, analysis in enumerate(analyses, 1):
        source = f"the analysis of {analysis.actor}"
        title = f"Where the return goes: {analysis.actor}, {analysis.dynamics['neuron']['name'].upper()}"
        with _fitting(source):
            drawings = analysis_drawings(analysis, f"analysis-{number}")
        sections.append(_Section(title, _ANALYSIS, drawings, source=source))
    for number, energy in enumerate(energies, 1):
        title, source = f"What a decision costs: {energy.actor}", f"the costs of {energy.actor}"
        sections.append(_Section(title, _ENERGY, [energy_drawing(energy, number)], source=source))
    for number, bench in enumerate(benches, 1):
        title, source = f"How long a decision takes: {bench['actor']}", f"the latency of {bench['actor']}"
        sections.append(_Section(title, _LATENCY, [latency_drawing(bench, number)], source=source))
    given = {"analysis": analyses, "energy": energies, "bench": benches}
    if missing := [part for name, part in _PARTS.items() if not given[name]]:
        sections.append(_Section("Not on this page", _missing(missing)))
    sections.append(_Section("Settings and versions", _provenance(collections, analyses, energies, benches)))
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder / 'figures'}: {error.strerror}") from error
    number = sum(len(section.drawings) for section in sections)
    figures: dict[str, Markup] = {}
    contents: dict[Path, bytes] = {}
    for section in sections:
        for drawing in section.drawings:
            with _fitting(section.source):
                figures[drawing.name], files = _figure(drawing)
            contents |= {folder / "figures" / name: content for name, content in files.items()}
            if progress:
                progress(len(figures), number)
    page = folder / "report.html"
    contents = {page: _page(collections, sections, figures).encode(), **contents}
    for file, content in contents.items():  # all of them, or none
        write_atomically(file, content)
    return list(contents)


@contextlib.contextmanager
def _fitting(source: str) -> Iterator[None]:
    """Says whose numbers they are that cannot be drawn: lists of different lengths, unknown names."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if not source or isinstance(error, InputError):
            raise
        raise InputError(f"{source} cannot be drawn, since its numbers do not fit together: {error!r}") from error


class _Section(NamedTuple):
    """A heading, what stands before the figures, the figures, what stands after them, and the file they are from."""

    title: str
    before: Markup
    drawings: Sequence[Drawing] = ()
    after: Markup = Markup()
    source: str = ""


def _file_names(names: Sequence[str]) -> list[str]:
    """Names that serve in files and in links, all different."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w-]+", "-", name)[:40]  # four bytes each at most, in a file's name of 255
        found.append(plain if plain not in found else f"{plain}-{len(found) + 1}")
    return found


def _heading(collection: Collection, every: Sequence[Collection]) -> str:
    return "Control performance" + (f": {collection.name}" if len(every) > 1 else "")


def _results(collection: Collection, name: str) -> tuple[Markup, list[Drawing], Markup]:
    """What a sweep found, its figures, its tables."""
    drawings = collection_drawings(collection, name)
    before = [findings(collection)]
    if not any(point.average for point in collection.points):
        text = "No performance ratio can be drawn: every actor needs its dense version's return, which "
        before.append(element("p", text, element("code", "snnkern sweep"), " measures along with the others."))
    elif len({point.setting.timesteps for point in collection.points}) == 1:
        text = "Only one T was measured; a line against T needs several: "
        before.append(element("p", text, element("code", "snnkern sweep … --timesteps 2,4,8"), "."))
    if len({point.setting.alpha for point in collection.points}) == 1:
        text = "Only one α was measured; a line against α needs several: "
        before.append(element("p", text, element("code", "snnkern sweep … --alpha 0,0.2,0.5"), "."))
    tables = [
        element("details", element("summary", "All settings, averaged over actors"), averages_table(collection)),
        element("details", element("summary", "All settings, actor by actor"), returns_table(collection)),
    ]
    return join(*before), drawings, join(element("p", _INTERVALS, class_="note"), *tables)


_ANALYSIS = element(
    "p",
    "Whether the loss is in the actions or in the states that they lead to, what the action errors look like in time, "
    "and what happens inside the layers. Policies: the dense actor, its spiking version without and with the residual "
    "carry (CRPI), the dense actor with noise as large as the spiking one’s errors, random actions.",
)
_ENERGY = element(
    "p",
    "Spikes and energy per decision by the usual figures for 45 nm and 32-bit floating point, counted as "
    "docs/energy.md says: the first layer’s real input, MT’s and DC’s scalings and the output layer included.",
)
_LATENCY = element("p", "One decision, called from Python, spiking and dense, timed in turns in one process.")


def _missing(parts: Sequence[tuple[str, str, str]]) -> Markup:
    """Which commands make what is not here."""
    items = [
        element(
            "li",
            f"{what}. It is measured by ",
            element("code", command),
            " and added by ",
            element("code", f"snnkern report … {option}"),
            ".",
        )
        for what, command, option in parts
    ]
    return element("ul", *items)


def _provenance(
    collections: Sequence[Collection],
    analyses: Sequence[AnalysisSummary],
    energies: Sequence[EnergySummary],
    benches: Sequence[BenchSummary],
) -> Markup:
    """Actors, exact settings and versions of everything on the page."""
    parts = []
    for collection in collections:
        parts += [settings_table(collection), actors_table(collection), chosen_table(collection)]
    made: list[tuple[str, dict[str, Any]]] = [("analysis", vars(summary)) for summary in analyses]
    made += [*(("costs", vars(summary)) for summary in energies), *(("latency", {**summary}) for summary in benches)]
    parts += [machine_table(f"How the {what} of {summary['actor']} was made", summary) for what, summary in made]
    return join(*parts)


def _figure(drawing: Drawing) -> tuple[Markup, dict[str, bytes]]:
    """The figure as SVG inside the page, and the content of files beside it by their names."""
    wide = drawing.draw(False)
    files = {f"{drawing.name}.{suffix}": encode(wide, suffix) for suffix in ("png", "pdf")}
    image = element("img", src=_svg(wide), alt=drawing.alternative)
    if drawing.narrows:
        narrow = element("source", media="(max-width: 40rem)", srcset=_svg(drawing.draw(True)))
        picture = element("picture", narrow, image)
    else:
        label = f"{drawing.title}: scrolls sideways"
        picture = element("div", image, class_="scroll wide", role="region", tabindex="0", aria_label=label)
    caption = element("figcaption", element("strong", f"{drawing.title}. "), drawing.caption)
    return element("figure", picture, caption, id=drawing.name), files


def _svg(figure: Any) -> str:
    """A figure as a data URI: inside an image, its names cannot clash with another figure's."""
    return f"data:image/svg+xml;base64,{base64.b64encode(encode(figure, 'svg')).decode()}"


def _page(collections: Sequence[Collection], sections: Sequence[_Section], figures: dict[str, Markup]) -> str:
    """The whole page."""
    actors = {place for collection in collections for place in collection.dense}
    settings = {point.setting for collection in collections for point in collection.points}
    episodes = sum(len(record["result"]["returns"]) for collection in collections for record in collection.records)
    lead = (
        f"{count(len(actors), 'trained actor')}, converted without training to "
        f"{count(len(settings), 'setting')} of spiking neurons, and run for {count(episodes, 'episode')}."
    )
    links = [element("li", element("a", section.title, href=f"#s{n}")) for n, section in enumerate(sections)]
    body = [
        element(
            "section",
            element("h2", section.title, id=f"s{number}"),
            section.before,
            *(figures[drawing.name] for drawing in section.drawings),
            section.after,
            aria_labelledby=f"s{number}",
        )
        for number, section in enumerate(sections)
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", "snnkern: report"),
        element("style", Markup(STYLE)),
    )
    title = element("header", element("h1", "Spiking policies, measured"), element("p", lead, class_="lead"))
    contents = element("nav", element("ol", *links), aria_label="Contents")
    end = element("footer", element("p", f"Written by snnkern {snnkern.__version__}, snnkern report."))
    whole = element("html", head, element("body", title, contents, element("main", *body), end), lang="en")
    return f"<!doctype html>\n{whole}\n"
