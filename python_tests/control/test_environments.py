"""Environments by name: what a file names is never imported, what the user names is."""

from __future__ import annotations

import json
import pickle
import sys

import pytest
from support.builders import load_example, make_actor, make_observations

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
pytest.importorskip("typer", reason="Typer is not installed")

import snnkern
from snnkern.cli import app
from snnkern.control import environments, follow
from snnkern.studies.grids import read_study

NAME = "environment_of_a_stranger:Pendulum-v1"
ACTOR, OBSERVATIONS = make_actor(3, 5, 1, metadata={"environment": NAME}), make_observations(9, 3)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that could be imported; it is none of the imported ones afterwards either."""
    name = NAME.partition(":")[0]
    (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop(name, None)
    yield name
    sys.modules.pop(name, None)


def read_grid(folder):
    snnkern.save(ACTOR, folder / "actor.safetensors")
    content = {"actors": [{"name": "actor.safetensors", "environment": NAME}], "calibration_steps": 5}
    (folder / "grid.json").write_text(json.dumps(content))
    return read_study(folder / "grid.json")


def run_example(folder):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    snnkern.save(ACTOR, folder / "actor.safetensors")
    load_example("compare_neurons").main(str(folder / "actor.safetensors"), steps=5, episodes=1)


USERS = {
    "make": lambda folder: environments.make(NAME),
    "make_vector": lambda folder: environments.make_vector(NAME, 2),
    "named by an actor": lambda folder: environments.make(environments.named_by(ACTOR)),
    "metadata": lambda folder: snnkern.evaluate(ACTOR, ACTOR.metadata["environment"]),
    "evaluate": lambda folder: snnkern.evaluate(ACTOR, NAME),
    "collect": lambda folder: snnkern.collect(ACTOR, NAME, 5),
    "follow": lambda folder: follow.follow("a", {"a": ACTOR}, NAME),
    "sweep": lambda folder: snnkern.sweep(ACTOR, NAME, snnkern.grid(["if"], [1]), observations=OBSERVATIONS),
    "grid": read_grid,
    "example": run_example,
    "a trusted name through JSON": lambda folder: environments.make(json.loads(json.dumps(environments.trusted(NAME)))),
    "a trusted name in metadata": lambda folder: environments.make(
        environments.named_by(make_actor(3, 5, 1, metadata={"environment": environments.trusted(NAME)}))
    ),
}


@pytest.mark.parametrize("use", USERS.values(), ids=USERS)
def test_no_name_from_a_file_imports_a_module(module, tmp_path, use) -> None:
    with pytest.raises(snnkern.InputError, match=r"would import a module: if you trust it"):
        use(tmp_path)
    assert module not in sys.modules


@pytest.mark.parametrize("way", ["trusted", "pickled", "imported"])
def test_who_trusts_a_module_names_it(module, way) -> None:
    name = NAME
    if way == "imported":
        __import__(module)
    else:
        name = environments.trusted(NAME)
    if way == "pickled":  # on its way to a worker
        name = pickle.loads(pickle.dumps(name))
    environments.make(name).close()
    assert module in sys.modules


def test_the_command_line_trusts_its_user_alone(module, tmp_path, capsys) -> None:
    snnkern.save(ACTOR, tmp_path / "actor.safetensors")
    assert app.run(["evaluate", "actor.safetensors", "--episodes", "1"]) == 2
    assert "would import a module" in capsys.readouterr().err
    assert module not in sys.modules
    # Its action scale is not Pendulum's, but it is an environment.
    assert app.run(["evaluate", "actor.safetensors", "--episodes", "1", "--env", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["environment"] == NAME


@pytest.mark.parametrize(
    "name", ["", ":", "::", "a:b:c", "..:x", "/", "-v5", "Hopper-v5 ", "Hopper-v99", "\udcff", "a\0"]
)
@pytest.mark.parametrize("named", [str, environments.trusted], ids=["a file", "the user"])
def test_a_bad_name_is_one_clear_error(name, named) -> None:
    with pytest.raises(snnkern.InputError, match="environment"):
        environments.make(named(name))


def test_what_an_environment_raises_while_it_is_made_is_an_error_of_its_name(monkeypatch) -> None:
    def broken(*arguments, **options):
        raise RuntimeError("out of\norder")

    monkeypatch.setattr("gymnasium.make", broken)
    with pytest.raises(snnkern.InputError, match="cannot make environment 'Pendulum-v1': RuntimeError: out of order"):
        environments.make("Pendulum-v1")


def test_an_actor_in_bfloat16_fits_where_its_original_does():
    actor = make_actor(3, 4, 1, action_scale=2.0).bfloat16()
    environments.check("Pendulum-v1", actor)
