"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A fault in one place of a file, and the tests that must find it.

    Attributes:
        name: of small letters, digits and hyphens; `make mutants ONLY=name` runs it alone.
        file: from the repository's root.
        text: what is replaced; stands in the file exactly once.
        replacement: what stands there instead; it compiles.
        tests: what pytest is given, as on a command line from the repository's root. They pass without the mutant, and
            at least one of them fails with it.
    """

    name: str
    file: str
    text: str
    replacement: str
    tests: str
