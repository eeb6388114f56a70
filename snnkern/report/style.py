"""Styles that all figures share: colours, lines, bars and legends. `encode` makes files of figures.

Lines and bars that belong together differ in dashes, markers or hatching as well as in colour, so that they can be told
apart in black and white.
"""

from __future__ import annotations

import io
import os
import textwrap
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from snnkern.errors import InputError, require
from snnkern.files import write_atomically
from snnkern.kernels.neurons import NEURONS
from snnkern.text import printable


class NeuronStyle(NamedTuple):
    """How a neuron is drawn in every figure, by the names that matplotlib has for it."""

    color: str
    linestyle: Any
    marker: str


# Okabe and Ito's colours, which people with colour-blindness can tell apart, and one more: a new neuron takes the next.
_STYLES = (
    NeuronStyle("#D55E00", "--", "s"),
    NeuronStyle("#E69F00", ":", "^"),
    NeuronStyle("#009E73", "-.", "v"),
    NeuronStyle("#0072B2", "-", "o"),
    NeuronStyle("#8C564B", (0, (5, 1, 1, 1)), "D"),
)
NEURON_STYLES = dict(zip((kind.name.lower() for kind in NEURONS), _STYLES, strict=True))
# What no neuron's colour stands for: the plain conversion, the dense actor, random actions; noise of two kinds.
GREY, DARK, LIGHT = "#767676", "0.25", "0.6"
SKY, PINK = "#56B4E9", "#CC79A7"
TAKEN_BACK = "#A50026"  # a spike that is sent to undo another
GRID, RULE = "0.9", "0.5"  # lines of a grid; zero, a bound, a frontier
DENSE_LINE: dict[str, Any] = {"color": DARK, "linewidth": 0.8, "linestyle": ":"}  # what the dense actor reaches
ZERO_LINE: dict[str, Any] = {"color": RULE, "linewidth": 0.6}
BOUND_LINE: dict[str, Any] = {"color": RULE, "linewidth": 0.8, "linestyle": ":"}
PLAIN_LINE: dict[str, Any] = {"color": GREY, "linestyle": "--"}  # the plain conversion
# What tells lines of one neuron apart: a dash for each, or how its markers are filled.
DASHES: tuple[Any, ...] = ("-", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)))
FILLS = ("full", "none", "left", "bottom", "right", "top")
# Bars of what is no neuron of ours: another spiking implementation, the dense actor.
OTHER_BAR: dict[str, Any] = {"facecolor": GREY, "hatch": "////", "edgecolor": "white"}
DENSE_BAR: dict[str, Any] = {"facecolor": "0.8", "hatch": "....", "edgecolor": "white"}

_SUFFIXES = ("png", "pdf", "svg")
_CHARACTERS = 10  # in an inch of text


def check_drawing(path: str | os.PathLike[str] | None = None) -> None:
    """Refuses to begin work that ends in a figure that cannot be drawn.

    Args:
        path: the figure's file, where there is one yet.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        InputError: the file's name does not end in a format of figures.
    """
    require("matplotlib", "report", "drawing a figure")
    if path is not None:
        _suffix(Path(path))


def _suffix(path: Path) -> str:
    suffix = path.suffix[1:].lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"a figure's file ends in {', '.join('.' + each for each in _SUFFIXES)}, got {str(path)!r}")
    return suffix


def write_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Writes a figure, whole or not at all, in the format that the file's name ends in: .png, .pdf or .svg.

    Raises:
        InputError: the name ends in something else, or the file cannot be written.
    """
    path = Path(path)
    write_atomically(path, encode(figure, _suffix(path)))
    return path


def encode(figure: Any, suffix: str) -> bytes:
    """Encodes a figure as the content of a file. The same data give the same bytes.

    Every text is shown as it stands: a name with `$`, `_` or `\\` is no formula here.
    """
    import matplotlib

    _fit_texts(figure)
    content = io.BytesIO()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
    plainly: Any = {"text.parse_math": False, "text.usetex": False, "svg.hashsalt": "snnkern"}
    with matplotlib.rc_context(plainly), warnings.catch_warnings():  # labels of ticks are made while it is drawn
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box stands for it
        figure.savefig(content, format=suffix, dpi=150, metadata=undated)
    return content.getvalue()


def _fit_texts(figure: Any) -> None:
    """Changes every text of a figure: it fits the room, can be shown, and is no formula."""
    from matplotlib.text import Text

    room = int(_CHARACTERS * figure.get_figwidth())
    titles = dict.fromkeys(figure.texts, room)
    for axes in figure.axes:
        place = axes.get_subplotspec()
        own = titles[axes.title] = room // place.get_gridspec().ncols if place else room
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_plain_formatter(axis.get_major_formatter(), 2 * own // 3))
            if axis.get_scale() != "linear":
                axis.set_minor_formatter("")
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
        shown = text.get_text()
        text.set_text(_wrapped(shown, titles[text]) if text in titles else _fitting(shown, room))


def _plain_formatter(formatter: Any, room: int) -> Any:
    """Replaces what labels ticks: texts fit the room, and numbers are no formulas like 10^2."""
    from matplotlib.ticker import FixedFormatter, FuncFormatter, LogFormatter

    if isinstance(formatter, LogFormatter):
        return FuncFormatter(lambda value, _: f"{value:,g}")
    if isinstance(formatter, FuncFormatter):
        return FuncFormatter(lambda value, place: _fitting(formatter.func(value, place), room, lines=1))
    if isinstance(formatter, FixedFormatter):
        return FixedFormatter([_fitting(label, room, lines=1) for label in formatter.seq])
    return formatter


def _fitting(text: object, room: int, lines: int = 3) -> str:
    return "\n".join(printable(str(text), room).split("\n")[:lines])


def _wrapped(text: str, room: int) -> str:
    """Breaks a title into lines that fit; a title of more than three lines loses its middle."""
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in text)
    room = max(room // 2 if wide else room, 8)
    return "\n".join(
        part for line in _fitting(text, 3 * room).split("\n") for part in textwrap.wrap(line, room) or [""]
    )


def neuron_bar(name: str) -> dict[str, Any]:
    """Returns how a bar of a neuron is drawn."""
    return {"facecolor": NEURON_STYLES[name].color, "edgecolor": "white"}


def draw_band(panel: Any, where: ArrayLike, values: Sequence[ArrayLike], **style: Any) -> None:
    """Draws a line with its interval as a band.

    Args:
        panel: where to.
        where: places along the horizontal axis.
        values: the values, the lower ends and the upper ends there; gaps where they are NaN.
        style: of the line, by matplotlib's names.
    """
    value, low, high = values
    panel.plot(where, value, **style)
    panel.fill_between(where, low, high, color=style["color"], alpha=0.15, linewidth=0)


def scale_timesteps(panel: Any, timesteps: Sequence[int]) -> None:
    """Makes the horizontal axis that of T, with a tick for every T that was measured."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(timesteps, [str(steps) for steps in timesteps])
    panel.minorticks_off()
    panel.set_xlabel("simulation steps T")


def legend_of_bars(panel: Any, meanings: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Adds a legend for bars. A text may stand for bars of several looks, which are shown side by side."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    handles = [tuple(Patch(**look) for look in looks) for looks in meanings.values()]
    together = {tuple: HandlerTuple(ndivide=None, pad=0)}
    panel.legend(handles, list(meanings), handler_map=together, loc="upper right", frameon=False, fontsize=8)


def handles_of(panels: Any) -> dict[str, Any]:
    """Collects the entries of a legend for several panels, by label; a panel may lack some lines."""
    named: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    return named


def legend_below(figure: Any, handles: Mapping[str, Any]) -> None:
    """Adds a legend below all panels."""
    columns = min(len(handles), 4)
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=columns, frameon=False)


def tidy(panels: Any) -> None:
    """Puts grids behind lines and bars, and removes the upper and the right line of the frame."""
    for panel in panels:
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
