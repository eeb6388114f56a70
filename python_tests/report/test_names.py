"""Names from elsewhere (actors, environments, processors) pass through figures, pages, tables, JSON as plain text."""

from __future__ import annotations

import io
import json
import os
import warnings

import msgspec
import numpy as np
import pytest
from support.builders import make_actor, make_observations

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("rich", reason="rich is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.cells import cell_len
from rich.table import Table

import snnkern
from snnkern.analysis.energy import Energies, dense_cost, spiking_cost
from snnkern.analysis.summaries import EnergySummary, SettingCost
from snnkern.control.evaluation import Evaluation
from snnkern.control.intervals import Interval
from snnkern.files import to_json
from snnkern.report import analysis_tables, style, tables, terminal
from snnkern.report.analysis_figures import energy_figure
from snnkern.report.columns import SweepRow
from snnkern.report.page import page_environment, write_report
from snnkern.studies.results import collect_results
from snnkern.text import SUBSTITUTE, printable

NAMES = {
    "formula": "cost $x_1^2$ and $y",
    "two dollars": "$HOME/$USER",
    "broken formula": "$\\frac{$",
    "escaped dollars": "\\$a\\$ \\\\$b",
    "underscores": "a_b^c\\alpha{}",
    "lone surrogate": "caf\udce9",
    "escape sequences": "\x1b[2J\x1b]0;title\x07\x9b31m",
    "null and delete": "a\x00b\x7f",
    "line breaks": "one\ntwo\r\nthree\u2028four\x85five",
    "tab": "a\tb",
    "turns the line round": "abc\u202edef\u2066",
    "Hebrew": "שחקן",
    "wide": "演員" * 30,
    "emoji": "🤖👩‍🔬",
    "combining": "e" + "\u0301" * 500,
    "very long": "long-name-" * 500,
    "very long word": "x" * 5000,
    "many lines": "\n" * 1000,
    "rich markup": "[/red][bold]x[/bold] [link=file:///]",
    "emoji code": ":smile: :warning:",
    "HTML": "</title><script>alert(1)</script>&amp;\"'",
    "format": "{0} %s {actor}",
    "XML": "a\ufffeb]]>--x",
    "empty": "",
    "spaces": "   ",
}
every_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@pytest.fixture(scope="module")
def energy() -> EnergySummary:
    """What `snnkern energy` writes, for a tiny actor."""
    actor, observations = make_actor(3, 7, 2), make_observations(20, 3)
    energies = Energies()
    settings = snnkern.grid(["if", "dc"], [2, 4])
    costs = [
        SettingCost(
            **setting.to_dict(),
            **vars(spiking_cost(snnkern.convert(actor, observations, **vars(setting)), observations).summary()),
        )
        for setting in settings
    ]
    dense = dense_cost(actor).summary(energies)
    return EnergySummary(
        actor="NAME",
        environment="NAME",
        along="1 own episode in NAME",
        seed=1000,
        calibration="auto",
        machine={"cpu": "NAME", "engine": "NAME", "versions": {"torch": "NAME"}},
        picojoules=energies,
        dense=dense,
        dense_without_zeros=dense,
        results=costs,
    )


def renamed(content, name: str):
    """The same data with another name in every text."""
    if isinstance(content, EnergySummary):
        return msgspec.convert(renamed(msgspec.to_builtins(content), name), EnergySummary)
    if isinstance(content, dict):
        return {key: renamed(value, name) for key, value in content.items()}
    if isinstance(content, list):
        return [renamed(value, name) for value in content]
    return content.replace("NAME", name) if isinstance(content, str) else content


@pytest.mark.costly
@every_name
def test_a_figure_shows_names_as_they_are(energy, name) -> None:
    figure = energy_figure(renamed(energy, name))
    panel = figure.axes[0]
    panel.set_yticks([30, 40], [name, f"another {name}"])
    panel.set_title(name)
    style.encode(figure, "svg")
    image = style.encode(figure, "png")
    assert image.startswith(b"\x89PNG")
    width, height = np.frombuffer(image[16:24], ">u4")
    assert (width, height) == (9.5 * 150, 4 * 150)
    assert min(axes.get_position().height for axes in figure.axes) > 0.3  # no title has pushed them away
    assert min(axes.get_position().width for axes in figure.axes) > 0.1
    title, *_ = figure.texts
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        box = title.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.width
    assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_short_names_are_drawn_letter_by_letter() -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="$a$ and $b$")
    axes.set_xticks([1, 2], ["$c$", "d_e"])
    axes.legend()
    style.encode(figure, "svg")
    assert axes.get_legend().get_texts()[0].get_text() == "$a$ and $b$"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["$c$", "d_e"]


def test_numbers_along_logarithmic_axes_are_no_formulas() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 1000], [1e-3, 1])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    style.encode(figure, "png")
    shown = {label.get_text() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]}
    assert {"0.01", "0.1", "64", "256"} <= shown
    assert not any("$" in text for text in shown)


@pytest.mark.parametrize("path", ["figure", "figure.jpg", "figure.png.gz", ".png"])
def test_a_figure_of_another_format_is_refused(tmp_path, path) -> None:
    with pytest.raises(snnkern.InputError, match=r"a figure's file ends in \.png, \.pdf, \.svg, got"):
        style.write_figure(Figure(), tmp_path / path)
    assert list(tmp_path.iterdir()) == []


@every_name
def test_tables_and_pages_show_names_as_they_are(capsys, energy, name) -> None:
    summary = renamed(energy, name)
    analysis_tables.print_energy(summary)
    tables.print_evaluation(name, name, Evaluation((1.0,), (1,), ()))
    tables.print_sweep(f"{name} in {name}", [SweepRow("dense", Evaluation((1.0,), (1,), ()), Interval())], None)
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x00\x07\x7f\x9b\x85\u202e\u2066\u2028\r\udce9")
    if name.strip() and name.isascii() and name.isprintable() and len(name) < 60:
        assert out.count(name) == 6
    page = page_environment().from_string('<p title="{{ name }}">{{ name }}</p>').render(name=name)
    page.encode()
    assert "<script" not in page
    assert page.count("<") == 2


def test_the_report_takes_every_name(energy, tmp_path) -> None:
    name = " ".join(NAMES.values())
    record = {
        "task": {
            "actor": "0123456789abcdef",
            "environment": name,
            "setting": None,
            "calibration": None,
            "episodes": 2,
            "seed": 0,
            "backend": None,
            "versions": {"torch": name},
        },
        "actor": name,
        "result": {"returns": [2.0, 3.0], "lengths": [1, 1], "spikes": []},
        "run": {"seconds": 1.0},
    }
    spiking = {**record, "task": {**record["task"], "calibration": {"rule": name}, "backend": "cpu"}}
    settings = snnkern.grid(["if"], [2, 4], [0.0, 0.2])
    records = [record] + [
        {
            **spiking,
            "task": {**spiking["task"], "setting": setting.to_dict()},
            "result": {"returns": [1.0, 2.0], "lengths": [1, 1], "spikes": [3.0]},
        }
        for setting in settings
    ]
    page, *drawn = write_report([collect_results(name, records)], tmp_path, energies=[renamed(energy, name)])
    assert len(drawn) == 2 * 4
    text = page.read_text("utf-8")
    assert "1 trained actor, converted" in text
    assert not set(text) & set("\x1b\x00\x07\u202e")


def test_wide_characters_keep_columns_straight(capsys) -> None:
    table = Table("actor", "return")
    for actor in ("演員", "td3", "e\u0301"):
        table.add_row(actor, "1")
    terminal.show(table)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len({cell_len(line) for line in lines}) == 1


@every_name
def test_json_holds_what_every_reader_takes(name) -> None:
    text = to_json({name: [name, float("nan"), {"deep": -float("inf")}], "exact": 0.1})
    assert text.isascii()
    found = json.loads(text, parse_constant=pytest.fail)
    (first, *_) = found.values()
    assert first[1:] == [None, {"deep": None}]
    assert found["exact"] == 0.1
    if name != NAMES["lone surrogate"]:
        assert first[0] == name


def test_long_text_loses_its_middle() -> None:
    assert printable("abcdefghij", 5) == "ab…ij"
    assert printable("abcde\nabcdefghij", 5) == "abcde\nab…ij"
    assert printable("a\tb\x00") == "a b\ufffd"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_can_write_everything(encoding) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=SUBSTITUTE, newline="\n")
    for name in NAMES.values():
        stream.write(name)
    stream.write("T = 4, α = 0.2: 3 ± 1 × … –")
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)
    assert ("T = 4, a = 0.2: 3 + 1 x ~ -" in written) == (encoding == "ascii")


@pytest.mark.parametrize("columns", ["1", "20", "80", "300"])
def test_a_narrow_terminal_cuts_no_number(monkeypatch, columns) -> None:
    stream = io.StringIO()
    for variable, value in {"COLUMNS": columns, "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setitem(os.environ, variable, value)
    monkeypatch.setattr("sys.stdout", stream)
    low = Evaluation((-12345678.0,), (1,), (3.0,))
    row = SweepRow("IF", low, Interval(1.0, 0.5, 2.0), snnkern.Dynamics(snnkern.IF(), 1024, 0.25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.print_sweep("a in b", [SweepRow("dense", low, Interval()), row], None)
    out = stream.getvalue()
    for number in ("-12,345,678 ± 0", "1024", "0.25", "100.0 [50.0 … 200.0]"):
        assert number in out
