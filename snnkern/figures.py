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
    """How a neuron is drawn in every figure: colour, dash and marker, as matplotlib takes them."""

    color: str
    dash: str
    marker: str


# Okabe and Ito: colours that people with colour-blindness can tell apart.
NEURON_STYLES = {
    "if": NeuronStyle("#D55E00", "--", "s"),
    "snm": NeuronStyle("#E69F00", ":", "^"),
    "mt": NeuronStyle("#009E73", "-.", "v"),
    "dc": NeuronStyle("#0072B2", "-", "o"),
}
GREY, DARK = "#767676", "0.25"  # what no neuron's colour stands for: the plain conversion; the dense actor
# Bars of what is no neuron of ours: another spiking implementation, the dense actor.
OTHER_BAR: dict[str, Any] = {"facecolor": GREY, "hatch": "////", "edgecolor": "white"}
DENSE_BAR: dict[str, Any] = {"facecolor": "0.8", "hatch": "....", "edgecolor": "white"}

_SUFFIXES = ("png", "pdf", "svg")
_CHARACTERS = 12  # in an inch of a title
_LINES = 6  # of a text


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
    from matplotlib.axis import Axis
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    room = int(_CHARACTERS * figure.get_figwidth())
    titles = dict.fromkeys(figure.texts, room)
    for axes in figure.axes:
        titles[axes.title] = room // axes.get_subplotspec().get_gridspec().ncols
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
        shown = text.get_text()
        text.set_text(_wrapped(shown, titles[text]) if text in titles else _lines(shown, room))
    for axis in figure.findobj(Axis):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FixedFormatter):
            formatter.seq = [_lines(str(label), room // 2) for label in formatter.seq]


def _lines(text: str, room: int) -> str:
    return "\n".join(printable(text, room).split("\n")[:_LINES])


def _wrapped(text: str, room: int) -> str:
    """A title in lines that fit; of what is longer than three of them, the middle is left out."""
    wide = any(unicodedata.east_asian_width(character) in "WF" for character in text)
    room = max(room // 2 if wide else room, 8)
    lines = [part for line in _lines(text, 3 * room).split("\n") for part in textwrap.wrap(line, room) or [""]]
    return "\n".join(lines[:_LINES])


def neuron_bar(name: str) -> dict[str, Any]:
    """How a bar of a neuron is drawn."""
    return {"facecolor": NEURON_STYLES[name].color, "edgecolor": "white"}


def plain_logarithm(axis: Any) -> None:
    """Numbers along a logarithmic axis as they are written elsewhere: 0.02, 0.1, 5, 1,000."""
    from matplotlib.ticker import NullFormatter

    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(NullFormatter())


def tidy(panels: Any) -> None:
    """Puts grids behind what is drawn, and takes away the frame's upper and right line."""
    for panel in panels:
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
