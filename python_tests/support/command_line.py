"""The command line, called in this process: exit code, output, JSON."""

from __future__ import annotations

import json

from snnkern.cli import app


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = app.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys, *arguments: object) -> dict:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)
