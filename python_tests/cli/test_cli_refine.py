"""`snnkern refine`, from a converted actor to a refined one."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
pytest.importorskip("typer", reason="typer is not installed: pip install 'snnkern[rl]'")

from support.builders import make_actor
from support.command_line import run, run_json

import snnkern
from snnkern.cli import options
from snnkern.policies.spiking import dense_actor
from snnkern.training.run import Run


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    quick = snnkern.Recipe(states=300, updates=60, batch=32)
    monkeypatch.setattr(snnkern.Recipe, "recommended", lambda snn: quick)


@pytest.fixture
def converted(tmp_path):
    actor = make_actor(3, 16, 1, action_scale=2.0, metadata={"environment": "Pendulum-v1"})
    snn = snnkern.convert(actor, np.random.default_rng(0).normal(size=(500, 3)), neuron="if", timesteps=2)
    snnkern.save(snn, tmp_path / "snn.safetensors")
    return tmp_path / "snn.safetensors"


def test_an_actor_is_refined_and_evaluated(capsys, tmp_path, converted) -> None:
    output = tmp_path / "refined.safetensors"
    found = run_json(capsys, "refine", converted, output, "--rounds", 1, "--minutes", 1000, "--steps", 300)
    assert found["rounds"] == 1
    assert 0 < found["error"] <= found["given"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refined.safetensors", "snn.safetensors"]
    refined = snnkern.load(output)
    observations = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(
        dense_actor(refined).act(observations), dense_actor(snnkern.load(converted)).act(observations)
    )
    assert run_json(capsys, "evaluate", output, "--episodes", 1)["environment"] == "Pendulum-v1"


def test_observations_alone_need_no_environment(capsys, tmp_path, converted) -> None:
    np.save(tmp_path / "seen.npy", np.random.default_rng(1).normal(size=(200, 3)))
    arguments = ("--observations", tmp_path / "seen.npy", "--rounds", 1, "--minutes", 1000)
    code, out, _ = run(capsys, "refine", converted, tmp_path / "refined.safetensors", *arguments)
    assert code == 0
    assert "refined.safetensors: action error 0." in out


def test_control_c_keeps_finished_rounds(capsys, tmp_path, converted, monkeypatch) -> None:
    output, learn = tmp_path / "refined.safetensors", Run.learn
    arguments = ("refine", converted, output, "--rounds", 2, "--minutes", 1000, "--steps", 300)

    def interrupted(run) -> bool:
        if run.rounds == 1:
            raise KeyboardInterrupt
        return learn(run)

    monkeypatch.setattr(Run, "learn", interrupted)
    code, _, errors = run(capsys, *arguments)
    assert code == 130
    assert "is kept" in errors
    assert not output.exists()
    monkeypatch.setattr(Run, "learn", learn)
    first = []
    monkeypatch.setattr(Run, "measure", _noting(Run.measure, first))
    assert run_json(capsys, *arguments)["rounds"] == 2
    assert first[0] == 1
    assert not (tmp_path / "refined.safetensors.partial").exists()


def _noting(measure, rounds):
    def noting(run) -> bool:
        rounds.append(run.rounds)
        return measure(run)

    return noting


def test_what_cannot_be_is_refused_before_anything_is_collected(capsys, tmp_path, converted, monkeypatch) -> None:
    monkeypatch.setattr(options, "collect_observations", lambda *_: pytest.fail("it collects"))
    for wrong in (("--minutes", "nan"), ("--minutes", -1), ("--minutes", 0.0001), ("--alpha", 2)):
        code, _, errors = run(capsys, "refine", converted, tmp_path / "refined.safetensors", *wrong)
        assert code == 2
        assert wrong[0].strip("-") in errors


def test_what_else_is_in_the_partial_folder_stays(capsys, tmp_path, converted) -> None:
    store = tmp_path / "refined.safetensors.partial"
    store.mkdir()
    (store / "notes.txt").write_text("mine")
    arguments = ("--rounds", 1, "--minutes", 1000, "--steps", 300)
    assert run(capsys, "refine", converted, tmp_path / "refined.safetensors", *arguments)[0] == 0
    assert [file.name for file in store.iterdir()] == ["notes.txt"]


def test_a_zoo_actor_is_converted_first(capsys, tmp_path) -> None:
    code, _, errors = run(capsys, "refine", "td3-hopper", tmp_path / "refined.safetensors")
    assert code == 2
    assert "td3-hopper is a dense actor: snnkern convert makes a spiking one" in errors


def test_a_dense_actor_is_refused(capsys, tmp_path) -> None:
    snnkern.save(make_actor(3, 8, 1), tmp_path / "actor.safetensors")
    code, _, errors = run(capsys, "refine", tmp_path / "actor.safetensors", tmp_path / "refined.safetensors")
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert "spiking" in errors
