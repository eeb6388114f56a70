"""`snnkern sweep` and `snnkern report` as a user meets them."""

from __future__ import annotations

import json

import pytest
from support.builders import make_actor
from support.command_line import run, run_json

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

import snnkern
from snnkern.cli import options
from snnkern.studies import study

GRID = {"neurons": ["if", "dc"], "timesteps": [2, 4], "alphas": [0, 0.2], "episodes": 2, "calibration_steps": 50}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a small actor for Hopper and a grid; the working directory."""
    snnkern.save(make_actor(11, 12, 9, 3, metadata={"environment": "Hopper-v5"}), tmp_path / "tiny.safetensors")
    (tmp_path / "grid.json").write_text(json.dumps({"actors": ["tiny.safetensors"], **GRID}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.thorough
def test_a_dry_run_only_says_what_there_is_to_do(capsys, folder) -> None:
    code, out, _ = run(capsys, "sweep", "grid.json", "--seeds", "0,2", "--dry-run")
    assert code == 0
    assert "18 tasks (1 actor, the dense one and 8 settings each, 2 seeds, 2 episodes): 0 in sweep, 18 to run" in out
    assert not (folder / "sweep").exists()
    assert run_json(capsys, "sweep", "grid.json", "--dry-run")["estimated_seconds"] > 0


def test_sweep_then_report(capsys, folder) -> None:
    options = ["--workers", 1, "--store", "kept"]
    summary = run_json(capsys, "sweep", "grid.json", *options, "-o", "all.jsonl")
    assert (summary["tasks"], summary["found"], summary["ran"], summary["failed"]) == (9, 0, 9, 0)
    assert len(summary["results"]) == 8
    code, out, err = run(capsys, "sweep", "grid.json", *options, "--alpha", "0.2,0.7")
    assert code == 0
    assert "5 in kept, 4 to run" in err
    assert "Averages over actors" in out
    assert "snnkern report kept" in out
    records = (folder / "all.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(records[:2]))  # which are soon drawn
    code, out, _ = run(capsys, "report", "few.jsonl", "-o", "page")
    assert code == 0
    assert "Wrote page/report.html" in out
    assert "Not on this page" in (folder / "page" / "report.html").read_text()


@pytest.mark.thorough
def test_what_other_commands_wrote_is_on_the_page(capsys, folder) -> None:
    run_json(capsys, "sweep", "grid.json", "--workers", 1, "--store", "kept")
    run(capsys, "analyze", "tiny.safetensors", "--steps", 50, "--episodes", 1, "-o", "analysis")
    run(capsys, "energy", "tiny.safetensors", "--steps", 50, "-T", 2, "-o", "energy.json")
    bench = ["--steps", 50, "--seconds", 0.1, "--batch", 1, "--threads", 1, "--neuron", "if", "-T", 2]
    run(capsys, "bench", "tiny.safetensors", *bench, "-o", "bench.json")
    given = ["--analysis", "analysis/analysis.json", "--energy", "energy.json", "--bench", "bench.json"]
    described = run_json(capsys, "report", "kept", *given, "-o", "page")
    text = (folder / described["page"]).read_text()
    for words in ("Where the return goes: tiny.safetensors, IF", "Action errors and their autocorrelation"):
        assert words in text
    assert "Not on this page" not in text
    for name in ("analysis-1-raster", "analysis-1-errors", "energy-1", "latency-1"):
        assert f"page/figures/{name}.pdf" in described["figures"]


def test_a_failed_task_is_an_error_at_the_end(capsys, folder, monkeypatch) -> None:
    real = study.evaluation_record

    def fails(policy, *arguments):
        if isinstance(policy, snnkern.SpikingActor) and policy.dynamics.timesteps == 4:
            raise ValueError("too hot")
        return real(policy, *arguments)

    monkeypatch.setattr(study, "evaluation_record", fails)
    code, out, err = run(capsys, "sweep", "grid.json", "--workers", 1, "--neuron", "if")
    assert code == 2
    assert "2 of 5 tasks failed, the first of them tiny.safetensors, IF, T = 4, seed 1000: too hot" in err
    assert "Averages over actors" in out


@pytest.mark.thorough
def test_an_interrupted_sweep_keeps_what_it_has(capsys, folder, monkeypatch) -> None:
    done = []

    def interrupted(policy, *arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(policy)
        return real(policy, *arguments)

    real = study.evaluation_record
    monkeypatch.setattr(study, "evaluation_record", interrupted)
    code, _, err = run(capsys, "sweep", "grid.json", "--workers", 1)
    assert code == 130
    assert "interrupted" in err
    monkeypatch.setattr(study, "evaluation_record", real)
    assert run_json(capsys, "sweep", "grid.json", "--workers", 1)["found"] == 3


MISTAKES = {
    "two things": (["sweep", "grid.json", "td3-hopper"], "give one grid file or actors"),
    "no actor": (["sweep", "nobody"], "no actor 'nobody'"),
    "alpha": (["sweep", "tiny.safetensors", "--alpha", "2"], "alpha (α) must be a number from 0 to 1"),
    "numbers": (["sweep", "tiny.safetensors", "-T", "two"], "--timesteps takes one value or several"),
    "output": (["sweep", "tiny.safetensors", "-o", "no/where.jsonl"], "cannot write no/where.jsonl"),
    "executor": (["sweep", "tiny.safetensors", "--executor", "dask"], "--executor is local or ray, got 'dask'"),
    "address": (["sweep", "tiny.safetensors", "--address", "head:6379"], "--executor ray is not given"),
    "no results": (["report", "nothing"], "cannot read nothing"),
    "no analysis": (["report", "nothing", "--analysis", "grid.json"], "grid.json is not what snnkern analyze writes"),
    "no grid": (["report", "grid.json"], "grid.json holds no results"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_line(capsys, folder, arguments, message) -> None:
    before = set(folder.iterdir())
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("snnkern: ")]
    assert (code, out) == (2, "")
    assert len(lines) == 1
    assert message in lines[0]
    assert set(folder.iterdir()) == before


def test_names_of_rules_pass_through() -> None:
    assert options.parse_number("0.2") == 0.2
    assert options.parse_number("auto") == "auto"
