"""The command `snnkern`, and what it says where the command line's own packages are missing."""

from __future__ import annotations

import sys

from snnkern.errors import Error, require


def main() -> None:
    """Runs the command line; a user's mistake ends with one line and exit code 2."""
    try:
        require("typer", "cli", "the command line")
        require("rich", "cli", "the command line")
    except Error as error:
        print(f"snnkern: {error}", file=sys.stderr)
        sys.exit(2)
    from snnkern.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
