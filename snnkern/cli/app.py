"""The command line: every verb is one call into the library, its result as a table or as JSON."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

import snnkern
from snnkern.cli.analyze import analyze_command
from snnkern.cli.bench import bench_command
from snnkern.cli.convert import convert_command
from snnkern.cli.demo import demo_command
from snnkern.cli.energy import energy_command
from snnkern.cli.evaluate import evaluate_command
from snnkern.cli.info import info_command
from snnkern.cli.refine import refine_command
from snnkern.cli.report import report_command
from snnkern.cli.sweep import sweep_command
from snnkern.errors import Error, InputWarning
from snnkern.text import printable

# The base of every complaint about a command line, whether Typer brings its own Click or uses the real one.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]
_INTERRUPTED = 130  # what a shell gives for a program that Ctrl-C has ended
_UNREAD = 1  # as Click has it
_LONGEST = 500  # characters of a complaint, which may quote what was given
app = typer.Typer(
    name="snnkern",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    epilog="Start with: snnkern demo",
)


def run(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        its exit code: 0; 2 for a user's mistake, or where output cannot be written; 130 after an interruption; 1 where
        nobody reads the output any more, as behind `| head`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = _shown(warnings.showwarning)
        return _run(arguments)


def _shown(otherwise: Callable[..., None]) -> Callable[..., None]:
    """How warnings are shown: those about what was given as one line, the others as before."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, InputWarning):
            print(f"Warning: {message}.", file=sys.stderr)
        else:
            otherwise(message, category, *where, **more)

    return show


def _run(arguments: list[str] | None) -> int:
    from snnkern.report.terminal import accept_all_text, silence

    accept_all_text()
    try:
        code = app(arguments, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        if code == _INTERRUPTED:  # Typer may turn an interruption into this code by itself
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (Error, _CommandLineError) as error:
        return _complain(error.format_message() if hasattr(error, "format_message") else str(error))
    except MemoryError as error:
        return _complain(f"there is not enough memory for this: {error}")
    except (BrokenPipeError, SystemExit):  # the latter is how Click ends where nobody reads
        silence()
        return _UNREAD
    except OSError as error:
        if error.filename is not None:
            return _complain(f"cannot use {error.filename}: {error.strerror}")
        silence()  # it is standard output
        return _complain(f"cannot write the output: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        print(
            "snnkern: interrupted; what the demo, refine, bench, sweep or a --store has finished is kept",
            file=sys.stderr,
        )
        return _INTERRUPTED


def _complain(message: str) -> int:
    """One line on standard error, and the exit code."""
    if message:
        print(f"snnkern: {printable(' '.join(message.split()), _LONGEST)}", file=sys.stderr)
    return 2


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"snnkern {snnkern.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_print_version)] = False,
) -> None:
    """Turn a trained continuous-control policy into a spiking network, without training, and run it."""


def _in_one_thread(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose products are computed in one thread: they are small, and threads of several processes collide."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        import torch

        torch.set_num_threads(1)
        verb(*arguments, **options)

    return run


_VERBS: dict[str, Callable[..., None]] = {
    "demo": demo_command,
    "convert": convert_command,
    "refine": refine_command,
    "evaluate": evaluate_command,
    "bench": bench_command,
    "sweep": sweep_command,
    "analyze": analyze_command,
    "energy": energy_command,
    "report": report_command,
    "info": info_command,
}

for _name, _verb in _VERBS.items():
    app.command(name=_name)(_in_one_thread(_verb))
