"""Every neuron looks the same in every figure, and every entry of a legend is a line with points."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import peers_page
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from snnkern.analysis.amplification import CRPI
from snnkern.analysis.energy import CostSummary
from snnkern.analysis.latency import ACT, LOOP, NUMPY
from snnkern.analysis.summaries import EnergySummary, SettingCost
from snnkern.control.evaluation import Evaluation
from snnkern.control.intervals import Interval
from snnkern.kernels.neurons import NEURON_NAMES, parse_neuron
from snnkern.report import analysis_figures, performance_figures, sweep_figures
from snnkern.report import style as figures
from snnkern.report.analysis_figures import energy_figure
from snnkern.report.latency_figures import latency_figure
from snnkern.report.performance_figures import performance_figure
from snnkern.report.style import NEURON_STYLES
from snnkern.studies.results import Point
from snnkern.studies.settings import Setting, grid
from snnkern.studies.study import Sweep

SETTINGS = grid(NEURON_NAMES, [2, 4], [0.2])


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are made to be written, instead of files."""
    found: list[Figure] = []
    for module in (performance_figures, peers_page):
        monkeypatch.setattr(module, "write_figure", lambda figure, path: found.append(figure))
    return found


def point(setting, spikes: float, ratio: float) -> Point:
    interval = Interval(ratio, ratio - 0.1, ratio + 0.1)
    return Point(Setting(**vars(setting), calibration="auto"), {}, {}, interval, spikes)


def performance(drawn):
    one = Evaluation((1.0, 2.0), (1, 1), ())
    performance_figure(Sweep(one, tuple((setting, one) for setting in SETTINGS)), "x.png", "title")
    return drawn[-1]


def costs_of(settings) -> EnergySummary:
    results = [SettingCost(**setting.to_dict(), spikes=10.0, nanojoules=3.0) for setting in settings]
    dense = CostSummary(spikes=0.0, nanojoules=2.0)
    return EnergySummary(actor="a", along="b", dense=dense, dense_without_zeros=dense, results=results)


def energy(drawn=None):
    return energy_figure(costs_of(SETTINGS))


def latency(drawn=None):
    common = {"threads": 1, "microseconds": [1.0, 2.0, 3.0], "times_as_fast_as": {NUMPY: [1.0, 2.0, 3.0]}}
    names = [(ACT, setting.to_dict()) for setting in SETTINGS] + [(LOOP, SETTINGS[0].to_dict()), (NUMPY, {})]
    results = [{"name": name, "batch": batch, **common, **what} for batch in (1, 16) for name, what in names]
    fastest = [{"batch": batch, "threads": 1, "runtime": NUMPY} for batch in (1, 16)]
    return latency_figure({"results": results, "fastest_dense": fastest, "machine": {"cpu": "c"}}, "title")


def frontier(drawn=None):
    points = [point(setting, 10.0 + index, 0.5 + 0.1 * index) for index, setting in enumerate(SETTINGS)]
    return sweep_figures._draw_frontier(points, points, narrow=False)


def timesteps(drawn=None):
    points = [point(setting, 10.0, 0.5) for setting in SETTINGS]
    panels = sweep_figures._panels(points, "α", [0.2], lambda setting: setting.alpha, lambda setting: setting.timesteps)
    return sweep_figures._draw_panels(panels, "T", narrow=False)


def peers(drawn):
    peers_page.draw(json.loads((Path(peers_page.__file__).parent / "results" / "peers.json").read_text()), Path("x"))
    return drawn[-1]


GREYS = re.compile(r"^#(..)\1\1$")
FIGURES = {each.__name__: each for each in (performance, energy, latency, frontier, timesteps, peers)}


def neuron_of(text: str) -> str | None:
    """The neuron whose name a label or a panel's title begins with."""
    first = text.partition(",")[0].lower()
    return first if first in NEURON_NAMES else None


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_a_neuron_has_its_colour_and_marker(drawn, draw) -> None:
    figure = draw(drawn)
    seen = set()
    for axes in figure.axes:
        for line in axes.get_lines():
            label = str(line.get_label())
            if name := neuron_of(axes.get_title() if label.startswith("CRPI") else label):
                seen.add(name)
                assert to_hex(line.get_color()).upper() == NEURON_STYLES[name].color
                assert line.get_marker() == NEURON_STYLES[name].marker
        for bar, tick in zip(axes.patches, axes.get_yticklabels(), strict=False):
            label = tick.get_text().removeprefix("snnkern ")
            name = None if "reference" in label else neuron_of(label)
            color = to_hex(bar.get_facecolor()).upper()
            assert color == NEURON_STYLES[name].color if name else GREYS.match(color)
            seen.add(name)
    seen.discard(None)
    assert seen == set(NEURON_NAMES)


@pytest.mark.parametrize("name", NEURON_NAMES)
def test_what_is_no_neuron_has_no_neurons_look(name) -> None:
    looks = analysis_figures._styles(SimpleNamespace(dynamics={"neuron": {"name": name}}))
    assert looks.pop(CRPI)[:3] == NEURON_STYLES[name]
    for color, _, marker, _ in looks.values():
        assert color not in {style.color for style in NEURON_STYLES.values()}
        assert marker not in {style.marker for style in NEURON_STYLES.values()}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_entry_of_a_legend_has_points(drawn, draw) -> None:
    for axes in draw(drawn).axes:
        handles, labels = axes.get_legend_handles_labels()
        assert len(set(labels)) == len(labels)
        for handle in handles:
            if hasattr(handle, "get_xdata"):
                assert len(handle.get_xdata()) > 0


def test_a_line_for_every_carry_that_was_measured() -> None:
    """The recommended α differs from neuron to neuron."""
    figure = energy_figure(costs_of(grid(["snm", "dc"], [4])))
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == ["SNM, α = 0.2", "DC, α = 0"]
    figures.encode(figure, "png")
    assert len([tick for tick in figure.axes[1].get_yticklabels() if tick.get_text()]) > 1


def test_two_alphas_of_a_neuron_differ_in_dashes_and_in_the_legend(drawn) -> None:
    one = Evaluation((1.0, 2.0), (1, 1), ())
    settings = grid(["if", "dc"], [2, 4], [0.0, 0.2, 0.5])
    performance_figure(Sweep(one, tuple((setting, one) for setting in settings)), "x.png", "title")
    (figure,) = drawn
    for axes in figure.axes:
        looks = {(line.get_linestyle(), line.get_marker()) for line in axes.get_lines()}
        assert len(looks) == 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "dense actor",
        "without CRPI",
        "CRPI, α = 0.2",
        "CRPI, α = 0.5",
    ]
    assert {line.get_color() for line in legend.get_lines()} <= {figures.DARK, figures.GREY}


def setting(neuron: str, steps: int, alpha: float | str = 0.2, memory: float = 0.0, rule: str = "auto") -> Setting:
    return Setting(parse_neuron(neuron), steps, alpha, memory, rule)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([setting("DC", 2), setting("DC", 4), setting("IF", 2)], ["DC 2", "DC 4", "IF 2"]),
        ([setting("DC", 2, 0), setting("DC", 2, 0.2), setting("IF", 2)], ["DC 2, α = 0", "DC 2, α = 0.2", "IF 2"]),
        (
            [setting("DC", 2, "auto", 0.0), setting("DC", 2, "auto", 1.0)],
            ["DC 2, α = auto, μ = 0", "DC 2, α = auto, μ = 1"],
        ),
        (
            [setting("IF", 2, rule="max"), setting("IF", 2, rule="mse"), setting("IF", 4, rule="max")],
            ["IF 2, α = 0.2, thresholds: max", "IF 2, α = 0.2, thresholds: mse", "IF 4"],
        ),
    ],
)
def test_points_of_the_frontier_have_names_of_their_own(settings, names) -> None:
    assert sweep_figures._short_names(settings) == names
