"""What all figures share: a look for every neuron, and the one way in which a figure becomes a file.

Lines and bars that belong together differ in dashes, markers or hatching as well as in colour, so that they can be told
apart in black and white.
"""

from __future__ import annotations

import io
import os
import textwrap
import unicodedata
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from snnkern.errors import InputError, require
from snnkern.files import write_atomically
from snnkern.text import printable


class NeuronStyle(NamedTuple):
    """How a neuron is drawn in every figure, by the names that matplotlib has for it."""

    color: str
    linestyle: str
    marker: str


# Okabe and Ito: colours that people with colour-blindness can tell apart.
NEURON_STYLES = {
    "if": NeuronStyle("#D55E00", "--", "s"),
    "snm": NeuronStyle("#E69F00", ":", "^"),
    "mt": NeuronStyle("#009E73", "-.", "v"),
    "dc": NeuronStyle("#0072B2", "-", "o"),
    "lif": NeuronStyle("#CC79A7", "--", "D"),
}
GREY, DARK = "#767676", "0.25"  # what no neuron's colour stands for: the plain conversion; the dense actor
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
    """A figure as the content of a file. The same data give the same bytes.

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
    """Every text of a figure without what cannot be shown, no longer than there is room, and no formula."""
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
    """What labels ticks, where the texts are given fitted to the room, and numbers instead of formulas like 10^2."""
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
    """A title in lines that fit; of what is longer than three of them, the middle is left out."""
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in text)
    room = max(room // 2 if wide else room, 8)
    return "\n".join(
        part for line in _fitting(text, 3 * room).split("\n") for part in textwrap.wrap(line, room) or [""]
    )


def neuron_bar(name: str) -> dict[str, Any]:
    """How a bar of a neuron is drawn."""
    return {"facecolor": NEURON_STYLES[name].color, "edgecolor": "white"}


def tidy(panels: Any) -> None:
    """Puts grids behind what is drawn, and takes away the frame's upper and right line."""
    for panel in panels:
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
