"""HTML whose text cannot become markup: whatever is not markup already is escaped."""

from __future__ import annotations

import html

from snnkern.text import printable

_VOID = frozenset({"br", "img", "link", "meta", "source"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, /, *content: str, **attributes: str) -> Markup:
    """An element with its content and attributes, escaped where they are not `Markup`.

    Attributes lose an underscore at their end (`class_`) and have hyphens for others (`aria_label`).
    """
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"' for key, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*content)}</{tag}>")


def join(*content: str, between: str = "") -> Markup:
    """Parts one after another, escaped where they are not `Markup`."""
    return Markup(between.join(part if isinstance(part, Markup) else _escape(part) for part in content))


def _escape(text: str) -> str:
    return html.escape(printable(text))
