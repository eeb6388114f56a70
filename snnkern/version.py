"""The versions of packages that are installed."""

import functools
from importlib.metadata import PackageNotFoundError, version


@functools.cache
def installed(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


__version__ = installed("snnkern") or "0+unknown"  # where it is run from a source tree that was never installed
