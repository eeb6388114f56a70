"""Makes text for figures, pages and terminals: of names from elsewhere, and of numbers."""

from __future__ import annotations

import codecs
import re

_REPLACEMENT = "\ufffd"  # the character that Unicode has for what cannot be shown
# Control characters (a terminal obeys them) but line breaks, surrogates, marks that turn the direction of what follows,
# other line breaks, and what XML forbids.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_MARKS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(f"({_MARKS}{{3}}){_MARKS}+")  # on one letter, higher than a line


def printable(text: str, longest: int | None = None) -> str:
    """Replaces characters that cannot be shown or that change the order of others; line breaks stay.

    Args:
        text: from anywhere.
        longest: characters of a line; of a longer one the middle is left out.
    """
    shown = _STACKED.sub(r"\1", _UNFIT.sub(_REPLACEMENT, text.replace("\t", " ")))
    return shown if longest is None else "\n".join(_shortened(line, longest) for line in shown.split("\n"))


def _shortened(line: str, longest: int) -> str:
    if len(line) <= longest:
        return line
    tail = (longest - 1) // 2
    return f"{line[: longest - 1 - tail]}…{line[len(line) - tail :]}"


def count(number: int, what: str) -> str:
    """Writes a number of things: "1 episode", "2,000 episodes"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shorten(value: float) -> str:
    """Writes a positive number with about three significant digits, or with all digits before the point."""
    if value < 0.095:
        return f"{value:.1g}"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Writes a time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# What stands for our own symbols where an encoding lacks them: one character each, so that columns stay columns.
_SUBSTITUTES = str.maketrans(
    {"α": "a", "β": "b", "η": "n", "θ": "t", "κ": "k", "λ": "l", "μ": "m", "µ": "u"}
    | {"×": "x", "±": "+", "·": ",", "…": "~", "–": "-", "—": "-", "−": "-", "’": "'", "“": '"', "”": '"', "→": ">"}
)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].translate(_SUBSTITUTES)
    return "".join(character if character.isascii() else "?" for character in found), error.end


SUBSTITUTE = "snnkern.substitute"  # an error handler for streams: what cannot be encoded is written otherwise
codecs.register_error(SUBSTITUTE, _substitute)
