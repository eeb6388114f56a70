"""Draws the figures of a sweep, each in a wide and in a narrow layout, with a caption and an alternative text.

Neurons differ in markers and dashes as well as in colour, so that they can be told apart in black and white.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from snnkern.control.intervals import Interval
from snnkern.report.style import DENSE_LINE, GRID, NEURON_STYLES, RULE, handles_of, legend_below, tidy
from snnkern.studies.results import Collection, Point, TrainedActor, frontier
from snnkern.studies.settings import Setting, describe_setting, differing, plain
from snnkern.text import count

_PANELS_IN_A_ROW = 4
_FEW = 4  # values of α, or of T, that get a panel of their own


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        name: of its files, without a suffix.
        title: its heading.
        caption: what it shows and how to read it.
        alternative: what it shows, for who cannot see it.
        draw: makes the matplotlib figure, wide or (True) narrow.
        narrows: whether it has a narrow layout.
    """

    name: str
    title: str
    caption: str
    alternative: str
    draw: Callable[[bool], Any]
    narrows: bool = True


class _Line(NamedTuple):
    """The settings of one neuron: its label and kind; what is on the horizontal axis, and the ratio there."""

    label: str
    neuron: str
    points: list[tuple[float | str, Interval]]


class _Panel(NamedTuple):
    title: str
    lines: list[_Line]


def collection_drawings(collection: Collection, name: str) -> list[Drawing]:
    """Lists the figures that the results of a sweep allow. The names of their files begin with `name`."""
    points = [point for point in collection.points if point.average]
    if not points:
        return []
    drawings = []
    timesteps = sorted({point.setting.timesteps for point in points})
    alphas = list(dict.fromkeys(point.setting.alpha for point in points))
    alphas.sort(key=lambda alpha: (isinstance(alpha, str), alpha))
    actors = sorted(points[0].ratios)  # of all points: each has an average, and so all actors
    whole = count(len(actors), "actor") if len(actors) > 1 else actors[0].label
    if len(timesteps) > 1:
        drawings.append(_against_timesteps(name, points, _few(alphas, 0.2), whole))
        if len(actors) > 1:
            drawings.append(_by_actor(name, actors, points, _usual(alphas)))
    if len(alphas) > 1:
        drawings.append(_against_alpha(name, points, _few(timesteps, 8), whole))
    drawings.append(_against_spikes(name, points, whole))
    return drawings


def _against_timesteps(name: str, points: Sequence[Point], alphas: Sequence[float | str], whole: str) -> Drawing:
    panels = _panels(points, "α", alphas, lambda setting: setting.alpha, lambda setting: setting.timesteps)
    return Drawing(
        f"{name}-timesteps",
        "Performance against T",
        f"Average performance ratio (spiking return / dense return) over {whole}, against the simulation steps T of a "
        "decision. Whiskers are 95 % intervals; lines are set apart a little so that they do not hide each other.",
        _describe_panels(panels, "T"),
        lambda narrow: _draw_panels(panels, "simulation steps T", narrow, doubling=True),
    )


def _against_alpha(name: str, points: Sequence[Point], timesteps: Sequence[int], whole: str) -> Drawing:
    panels = _panels(points, "T", timesteps, lambda setting: setting.timesteps, lambda setting: setting.alpha)
    return Drawing(
        f"{name}-alpha",
        "Performance against α",
        f"Average performance ratio over {whole} against α, the part of the residual that is carried into the next "
        "decision; α = 0 is plain conversion. Whiskers are 95 % intervals.",
        _describe_panels(panels, "α"),
        lambda narrow: _draw_panels(panels, "α", narrow),
    )


def _by_actor(name: str, actors: Sequence[TrainedActor], points: Sequence[Point], alpha: float | str) -> Drawing:
    chosen = [point for point in points if point.setting.alpha == alpha]
    panels = [
        _Panel("\n".join([actor.label, *words]), _lines(some, lambda setting: setting.timesteps, actor))
        for actor in actors
        for words, some in _carries(chosen)
    ]
    return Drawing(
        f"{name}-actors",
        "Each actor by itself",
        f"Performance ratio against T at α = {plain(alpha)}. Whiskers are 95 % intervals.",
        _describe_panels(panels, "T"),
        lambda narrow: _draw_panels(panels, "simulation steps T", narrow, doubling=True),
    )


def _against_spikes(name: str, points: Sequence[Point], whole: str) -> Drawing:
    best = frontier(points)
    every = [point.setting for point in points]
    steps = "; ".join(
        f"{describe_setting(point.setting, every)}: {_percent(point.average)} at {point.spikes:,.0f} spikes"
        for point in best
    )
    return Drawing(
        f"{name}-spikes",
        "Performance against spikes",
        f"Every setting by its spikes per decision (all hidden layers, mean over {whole}) and its average performance "
        "ratio. The stepped line is the frontier: no other setting has more return for as many spikes. Its settings "
        "bear their names and 95 % intervals. A frontier is drawn through the luckiest of many: mind its intervals.",
        f"The frontier from few spikes to many: {steps}.",
        lambda narrow: _draw_frontier(points, best, narrow),
    )


def _panels(
    points: Sequence[Point],
    symbol: str,
    values: Sequence[float | str],
    which: Callable[[Setting], float | str],
    where: Callable[[Setting], float | str],
) -> list[_Panel]:
    """Makes a panel for each value, μ and calibration, with a line for each neuron."""
    panels = [
        _Panel(
            "\n".join([f"{symbol} = {plain(value)}", *words]),
            _lines([point for point in chosen if which(point.setting) == value], where),
        )
        for words, chosen in _carries(points)
        for value in values
    ]
    return [panel for panel in panels if panel.lines]


def _carries(points: Sequence[Point]) -> list[tuple[list[str], list[Point]]]:
    """Groups points by μ and calibration; each group comes with the words that distinguish it."""
    groups: dict[tuple[float, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.setting.memory, point.setting.calibration), []).append(point)
    every = [point.setting for point in points]
    return [(differing(some[0].setting, every), some) for some in groups.values()]


def _lines(
    points: Sequence[Point], where: Callable[[Setting], float | str], actor: TrainedActor | None = None
) -> list[_Line]:
    """Makes a line for each neuron, of averages or of one actor's ratios."""
    lines: dict[str, _Line] = {}
    for point in points:
        ratio = point.average if actor is None else point.ratios.get(actor)
        if ratio is not None:
            setting = point.setting
            line = lines.setdefault(setting.label, _Line(setting.label, setting.neuron.name, []))
            line.points.append((where(setting), ratio))
    return list(lines.values())


def _few(values: Sequence[Any], published: Any) -> list[Any]:
    """Chooses at most four values: the first, the last, the published one, and others spread evenly."""
    if len(values) <= _FEW:
        return list(values)
    chosen = [round(index * (len(values) - 1) / (_FEW - 1)) for index in range(_FEW)]
    if published in values and (place := values.index(published)) not in chosen:
        chosen[min(range(1, _FEW - 1), key=lambda index: abs(chosen[index] - place))] = place
    return [values[index] for index in chosen]


def _usual(alphas: Sequence[float | str]) -> float | str:
    """The rule's α where there is a rule, else the published 0.2, else the smallest above 0."""
    names = [alpha for alpha in alphas if isinstance(alpha, str)]
    if names:
        return names[0]
    return 0.2 if 0.2 in alphas else next((alpha for alpha in alphas if alpha), alphas[0])


def _draw_panels(panels: Sequence[_Panel], label: str, narrow: bool, *, doubling: bool = False) -> Any:
    """Panels with the same axes, in rows; below each other in the narrow layout."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    columns = 1 if narrow else min(len(panels), _PANELS_IN_A_ROW)
    rows = -(-len(panels) // columns)
    height = (2.1 if columns != 2 else 2.8) + 0.2 * max(panel.title.count("\n") + 1 for panel in panels)
    figure = Figure(figsize=(4 if narrow else 10, 0.7 + height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    neurons = {line.label: line.neuron for panel in panels for line in panel.lines}
    ticks = _ticks([where for panel in panels for line in panel.lines for where, _ in line.points])
    for axis, panel in zip(axes, panels, strict=False):
        axis.axhline(1.0, **DENSE_LINE)
        for line in panel.lines:
            _draw_line(axis, line, neurons, ticks, doubling)
        axis.set_title(panel.title, fontsize="medium")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.grid(axis="y", color=GRID)
    axes[0].set_ylim(bottom=min(0.0, axes[0].get_ylim()[0]))
    tidy(axes)
    for index, axis in enumerate(axes):
        axis.set_visible(index < len(panels))
        if index % columns == 0:
            axis.set_ylabel("return / dense return")
        if index + columns >= len(panels):  # nothing below
            axis.set_xlabel(label)
            axis.tick_params(labelbottom=True)
    if doubling:
        axes[0].set_xscale("log", base=2)
        axes[0].minorticks_off()
    shown = (
        ticks
        if len(ticks) < 8
        else {where: at for where, at in ticks.items() if isinstance(where, str) or not round(10 * at) % 2}
    )
    axes[0].set_xticks(list(shown.values()), [plain(where) for where in shown])
    legend_below(figure, handles_of(axes))
    return figure


def _draw_line(
    axis: Any, line: _Line, neurons: dict[str, str], ticks: dict[float | str, float], doubling: bool
) -> None:
    color, dash, marker, fill = _style(line.label, neurons)
    shift = list(neurons).index(line.label) - (len(neurons) - 1) / 2
    reach = max(ticks.values()) - min(ticks.values())
    at = [
        ticks[where] * 2 ** (0.06 * shift) if doubling else ticks[where] + 0.007 * reach * shift
        for where, _ in line.points
    ]
    values = [ratio.value for _, ratio in line.points]
    whiskers = [
        [ratio.value - ratio.low for _, ratio in line.points],
        [ratio.high - ratio.value for _, ratio in line.points],
    ]
    numbers = sum(not isinstance(where, str) for where, _ in line.points)  # no line leads to a rule
    style: Any = {"color": color, "marker": marker, "markersize": 4.5, "fillstyle": fill, "linewidth": 1.3}
    axis.plot(at[:numbers], values[:numbers], linestyle=dash, label=line.label, **style)
    axis.plot(at[numbers:], values[numbers:], linestyle="", **style)
    axis.errorbar(at, values, whiskers, color=color, linestyle="", linewidth=0.9, capsize=2)


def _draw_frontier(points: Sequence[Point], best: Sequence[Point], narrow: bool) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, PercentFormatter

    figure = Figure(figsize=(4, 4.2) if narrow else (9, 4.8), layout="constrained")
    axis = figure.subplots()
    neurons = {point.setting.label: point.setting.neuron.name for point in points}
    axis.axhline(1.0, **DENSE_LINE)
    spikes = [point.spikes for point in best]
    axis.step(
        [*spikes, 1.2 * max(point.spikes for point in points)],
        [*(point.ratio for point in best), best[-1].ratio],
        where="post",
        color=RULE,
        linewidth=1,
        zorder=1,
    )
    for name in neurons:
        color, _, marker, fill = _style(name, neurons)
        some = [point for point in points if point.setting.label == name]
        style: Any = {"color": color, "marker": marker, "linestyle": "", "fillstyle": fill}
        axis.plot([p.spikes for p in some], [p.ratio for p in some], **style, markersize=4, alpha=0.45, label=name)
        chosen = [point for point in best if point.setting.label == name]
        axis.plot([p.spikes for p in chosen], [p.ratio for p in chosen], **style, markersize=8, markeredgecolor="black")
    for point in best:
        assert point.average
        low, high = point.ratio - point.average.low, point.average.high - point.ratio
        axis.errorbar(point.spikes, point.ratio, [[low], [high]], color="black", linewidth=0.9, capsize=2.5)
    plate = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    apart = _apart(best)
    for point, text in zip(apart, _short_names([point.setting for point in apart]), strict=True):
        axis.annotate(text, (point.spikes, point.ratio), (8, -12), textcoords="offset points", fontsize=8, bbox=plate)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_xlabel("spikes per decision")
    axis.set_ylabel("return / dense return")
    axis.grid(color=GRID)
    axis.legend(loc="lower right", frameon=False)
    tidy([axis])
    return figure


def _apart(best: Sequence[Point]) -> list[Point]:
    """Chooses points of the frontier whose names do not overlap."""
    chosen: list[Point] = []
    for point in best:
        if all(point.spikes > 1.12 * other.spikes or abs(point.ratio - other.ratio) > 0.07 for other in chosen):
            chosen.append(point)
    return chosen


def _short_names(settings: Sequence[Setting]) -> list[str]:
    """Names settings by neuron and T; where two have the same name, α and other differences are added."""
    names = [f"{setting.label} {setting.timesteps}" for setting in settings]
    for words in (
        [f"α = {plain(setting.alpha)}" for setting in settings],
        [", ".join(differing(setting, settings)) for setting in settings],
    ):
        names = [
            f"{name}, {word}" if names.count(name) > 1 and word else name
            for name, word in zip(names, words, strict=True)
        ]
    return names


def _style(label: str, neurons: dict[str, str]) -> tuple[str, Any, str, str]:
    """Colour, dash, marker and filling of a line, given all labels and their neurons' kinds.

    Of the lines of one kind, those after the first are hollow.
    """
    kind = neurons[label]
    first = next(other for other in neurons if neurons[other] == kind)
    return (*NEURON_STYLES[kind], "full" if label == first else "none")


def _ticks(values: Sequence[float | str]) -> dict[float | str, float]:
    """Places values on an axis: numbers at their value, names to the right of all numbers."""
    numbers = sorted({value for value in values if not isinstance(value, str)})
    ticks: dict[float | str, float] = {value: float(value) for value in numbers}
    last, reach = (numbers[-1], numbers[-1] - numbers[0]) if numbers else (0.0, 1.0)
    for place, name in enumerate(sorted({value for value in values if isinstance(value, str)}), 1):
        ticks[name] = last + place * (0.2 * reach or 1.0)
    return ticks


def _describe_panels(panels: Sequence[_Panel], axis: str) -> str:
    """Describes the first and the last point of every line, panel by panel."""
    texts = []
    for panel in panels:
        lines = []
        for line in panel.lines:
            (first, low), (last, high) = line.points[0], line.points[-1]
            ends = [f"{_percent(low)} at {axis} = {plain(first)}", f"{_percent(high)} at {plain(last)}"]
            lines.append(f"{line.label} {' and '.join(ends[: len(line.points)])}")
        texts.append(f"{panel.title.replace(chr(10), ', ')}: {', '.join(lines)}")
    return f"Lines by neuron. {'. '.join(texts)}."


def _percent(interval: Interval | None) -> str:
    assert interval is not None
    return f"{100 * interval.value:.0f} %"
