"""What programs of the docs draw, where something can draw."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from snnkern import InputError, MissingDependencyError


@contextlib.contextmanager
def skipped_where_nothing_draws() -> Iterator[None]:
    """Skips the test where the DeepMind Control Suite, or what draws it, is missing, and says which."""
    try:
        yield
    except (InputError, MissingDependencyError) as error:
        if not any(reason in str(error) for reason in ("no renderer draws here", "snnkern[pixels]")):
            raise
        pytest.skip(str(error))
