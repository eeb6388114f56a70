"""What the scripts share that draw tables into the pages of docs/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from snnkern.control.intervals import Interval
from snnkern.files import write_atomically

ROOT = Path(__file__).parents[1]


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table as Markdown."""
    first, *rest = (f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows))
    return "\n".join([first, "|" + "---|" * len(head), *rest])


def percent(ratio: Interval | None) -> str:
    """A ratio in percent with its interval; nothing where there is none."""
    return "" if ratio is None else f"{100 * ratio.value:.1f} [{100 * ratio.low:.0f} … {100 * ratio.high:.0f}]"


def fill(page: Path, name: str, text: str) -> None:
    """Puts a table between a page's `<!-- name -->` and `<!-- /name -->`."""
    head, rest = page.read_text().split(f"<!-- {name} -->")
    _, tail = rest.split(f"<!-- /{name} -->")
    write_atomically(page, f"{head}<!-- {name} -->\n{text}\n<!-- /{name} -->{tail}".encode())
