"""Prints tables and lines of text to terminals, pipes and files."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from snnkern.text import SUBSTITUTE, printable

_PIPE = 120  # columns where there is no terminal to ask
_PROSE = 80  # columns of text that is wrapped
_WORDS = 16  # columns of a table's column that is wrapped, at least


class _Console(Console):
    """A console that prints every text literally: no name can change colours or move the cursor."""

    def render_str(self, text: str, *arguments: Any, **options: Any) -> Text:
        return super().render_str(printable(text), *arguments, **options)

    def on_broken_pipe(self) -> None:
        raise  # the error itself: the command line handles it, whoever prints


def console(*, stderr: bool = False) -> Console:
    """Opens standard output or standard error."""
    plainly: Any = {"stderr": stderr, "markup": False, "emoji": False, "highlight": False}
    terminal = _Console(**plainly)
    return terminal if terminal.is_terminal else _Console(**plainly, width=_PIPE)


def make_table(title: str, *headings: str, words: int = 1, framed: bool = False) -> Table:
    """Makes an empty table.

    Args:
        title: above it.
        headings: of the columns.
        words: how many columns, from the left, hold words, which may be wrapped; the others hold numbers.
        framed: whether it has lines all around, as one does that has few numbers.
    """
    look: Any = {"box": HEAVY_HEAD} if framed else {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    table = Table(title=title, title_justify="left", caption_justify="left", **look)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < words else "right", no_wrap=index >= words)
    return table


def show(table: Table) -> None:
    """Prints a table. It is wider than the terminal if the terminal is too narrow for its numbers."""
    output = console()
    needed = 1
    for column in table.columns:
        widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        column.min_width = widest if column.no_wrap else min(widest, _WORDS)
        needed += column.min_width + 3
    output.width = max(output.width, needed)
    output.print(table)


def say(text: str, *, wrapped: bool = False) -> None:
    """Prints a text, wrapped at 80 columns or unchanged."""
    output = console()
    if wrapped:
        output.print(text, width=min(output.width, _PROSE))
    else:
        output.print(text, soft_wrap=True)


def accept_all_text() -> None:
    """Makes standard output and standard error replace characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SUBSTITUTE)


def silence() -> None:
    """Discards standard output from now on, since nobody reads it; otherwise Python complains when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
