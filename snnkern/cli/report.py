"""`snnkern report`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snnkern.cli import options
from snnkern.errors import require
from snnkern.text import count

if TYPE_CHECKING:
    from snnkern.studies.results import Collection


def report_command(
    results: Annotated[
        list[Path],
        typer.Argument(help="A sweep's --store or --output, or what evaluate --neuron --json printed; a section each."),
    ],
    analysis: Annotated[
        list[Path] | None, typer.Option("--analysis", help="analysis.json of snnkern analyze; may be given again.")
    ] = None,
    energy: Annotated[
        list[Path] | None, typer.Option("--energy", help="What snnkern energy --output wrote; may be given again.")
    ] = None,
    bench: Annotated[
        list[Path] | None, typer.Option("--bench", help="What snnkern bench --output wrote; may be given again.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for report.html and its figures; made where missing.")
    ] = Path("report"),
    as_json: options.Json = False,
) -> None:
    """Draw the results of sweeps and analyses as one HTML page that needs no network.

    Performance against T, α and spikes with 95 % intervals, each actor by itself, error autocorrelation, states,
    residuals, a spike raster, energy, latency, and the exact settings and versions. The same figures are written as PNG
    and PDF. What was not measured is left out, and the page says which command measures it.

    Example: snnkern report results --analysis cheetah/analysis.json --output report
    """
    from snnkern.analysis.summaries import AnalysisSummary, BenchSummary, EnergySummary, read_summaries
    from snnkern.report.page import write_report
    from snnkern.report.style import check_drawing
    from snnkern.report.terminal import say
    from snnkern.studies.results import read_collection

    check_drawing()
    require("scipy", "rl", "a confidence interval")
    require("jinja2", "report", "the report's page")
    analyses = read_summaries(analysis or [], AnalysisSummary, "analyze")
    energies = read_summaries(energy or [], EnergySummary, "energy")
    benches = read_summaries(bench or [], BenchSummary, "bench")
    with options.progress_bars() as show:
        collections: list[Collection] = []
        for path in results:
            show("results", len(collections), len(results))
            collections.append(read_collection(path))
        show("results", len(results), len(results))
        files = write_report(
            collections,
            output,
            analyses=analyses,
            energies=energies,
            benches=benches,
            progress=partial(show, "figures"),
        )
    page, *figures = (str(file) for file in files)
    if as_json:
        options.print_json({"page": page, "figures": figures})
        return
    say(f"Wrote {page} and its {count(len(figures) // 2, 'figure')} in {output / 'figures'}.")
