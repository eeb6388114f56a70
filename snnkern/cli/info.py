"""`snnkern info`."""

from __future__ import annotations

import platform

import snnkern
from snnkern.cli import options


def info_command(as_json: options.Json = False) -> None:
    """Show versions, backends and why one is missing, and the actors that ship with the package."""
    import torch
    from rich.text import Text

    from snnkern.kernels.backends.choice import choices, rule
    from snnkern.policies import zoo
    from snnkern.policies.loading import load_actor
    from snnkern.report.terminal import make_table, say, show

    shipped = {name: load_actor(name).metadata for name in zoo.names()}

    statuses = snnkern.backends()
    facts = {
        "snnkern": snnkern.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "backends": [{"name": s.name, "available": s.available, "detail": s.detail} for s in statuses],
        "auto": [choice._asdict() for choice in choices()],
        "rule": rule(),
        "zoo": shipped,
    }
    if as_json:
        options.print_json(facts)
        return
    say(f"snnkern {facts['snnkern']}, Python {facts['python']}, torch {facts['torch']}\n")
    backends = make_table("What computes, in order of preference", "backend", "available", "", words=3, framed=True)
    for status in statuses:
        backends.add_row(status.name, "yes" if status.available else Text("no", style="red"), status.detail)
    show(backends)
    title = '\nWhat backend="auto" takes here'
    taken = make_table(title, "what", "computed by", "passed over", words=3, framed=True)
    for choice in choices():
        passed_over = "; ".join(f"{name}: {why}" for name, why in choice.passed_over.items())
        taken.add_row(choice.what, choice.backend, passed_over)
    show(taken)
    say(rule(), wrapped=True)
    title = "\nActors in the zoo"
    actors = make_table(title, "actor", "algorithm", "environment", "return", words=4, framed=True)
    for name, metadata in shipped.items():
        spread = f"{float(metadata['return_mean']):,.0f} ± {float(metadata['return_std']):,.0f}"
        actors.add_row(name, metadata["algorithm"], metadata["environment"], spread)
    show(actors)
