"""Grids: what a study varies, from a file that can be committed or from the command line."""

from __future__ import annotations

import importlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from snnkern import environments, zoo
from snnkern.actors import Actor
from snnkern.calibration import CALIBRATION_STEPS
from snnkern.checkpoints import load_actor
from snnkern.conversion import convert
from snnkern.errors import InputError, check_whole
from snnkern.limits import MOST_EPISODES, MOST_SEED, MOST_STEPS, MOST_TIMESTEPS
from snnkern.neurons import parse_neuron
from snnkern.study import Setting, Study, Subject

# What a grid file may say, and what holds where it does not.
_DEFAULTS: dict[str, Any] = {
    "actors": [],
    "environments": [],
    "neurons": ["if", "snm", "mt", "dc"],
    "timesteps": [2, 4, 8],
    "alphas": ["auto"],
    "memories": [0.0],
    "calibrations": ["auto"],
    "levels": None,
    "seeds": [1000],
    "episodes": 10,
    "dense_episodes": None,
    "calibration_steps": CALIBRATION_STEPS,
    "calibration_seed": 0,
}
_OF_SETTINGS = ("neurons", "timesteps", "alphas", "memories", "calibrations", "levels")


def read_study(
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    backend: str = "auto",
) -> Study:
    """Reads a grid and loads its actors.

    A grid file is TOML (Python 3.11) or JSON with the keys `actors`, `environments`, `neurons`, `timesteps`, `alphas`,
    `memories`, `calibrations`, `levels`, `seeds`, `episodes`, `dense_episodes`, `calibration_steps` and
    `calibration_seed`. An actor is a zoo name, a file's name, or a table with `name` and `environment`; one without
    runs in all `environments`, or where there are none, in the one that its file names. A list of tables `grids` gives
    several grids of settings, each with what differs from the rest of the file; together they are all settings.

    Args:
        file: the grid file; without one, what is given and defaults.
        given: what goes before the file, by the same keys.
        folder: where files of actors are; the grid file's folder unless given.
        backend: a name from `snnkern.backends()`, or "auto".

    Raises:
        InputError: the file cannot be read, a key is unknown, a value is out of range, an actor or an environment does
            not exist or they do not fit each other.
    """
    content = {} if file is None else _read_grid(file)
    grids = content.pop("grids", [{}])
    if not isinstance(grids, list) or not all(isinstance(part, dict) for part in grids) or not grids:
        raise InputError("grids must be a list of tables")
    _check_keys(content, _DEFAULTS, "the grid")
    for part in grids:
        _check_keys(part, _OF_SETTINGS, "one of the grids")
    given = {key: value for key, value in (given or {}).items() if value is not None}
    whole = {**_DEFAULTS, **content, **given}
    settings: dict[Setting, None] = {}
    for part in grids:
        settings |= dict.fromkeys(_settings({**_DEFAULTS, **content, **part, **given}))
    for setting in settings:
        _try(setting)
    dense_episodes = whole["episodes"] if whole["dense_episodes"] is None else whole["dense_episodes"]
    numbers = {key: whole[key] for key in ("episodes", "calibration_steps", "calibration_seed")}
    numbers["dense_episodes"] = dense_episodes
    for key, number in numbers.items():
        least, most = (
            (0, MOST_SEED) if key == "calibration_seed" else (1, MOST_STEPS if "steps" in key else MOST_EPISODES)
        )
        check_whole(key, number, least, most)
    seeds = _seeds(_list(whole, "seeds"), max(whole["episodes"], dense_episodes))
    names = _list(whole, "environments") if whole["environments"] else []
    subjects = [
        subject
        for actor in _list(whole, "actors")
        for subject in _subjects(actor, names, folder or (file.parent if file else Path()))
    ]
    seen = Counter((subject.actor.fingerprint(), subject.environment) for subject in subjects)
    for subject in subjects:
        if seen[subject.actor.fingerprint(), subject.environment] > 1:
            raise InputError(f"{subject.name} in {subject.environment} is in the grid twice, perhaps by another name")
    return Study(tuple(subjects), tuple(settings), seeds, **numbers, backend=backend)


def _seeds(seeds: Sequence[Any], apart: int) -> tuple[int, ...]:
    """Seeds, each of which has so many episodes to itself."""
    for seed in seeds:
        check_whole("a seed", seed, least=0, most=MOST_SEED)
    found = tuple(dict.fromkeys(seeds))
    for first, second in itertools.pairwise(sorted(found)):
        if second - first < apart:
            raise InputError(
                f"seeds {first} and {second} share episodes: {apart} episodes need as many seeds of their own"
            )
    return found


def _read_grid(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
        content = _toml().loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the grid {file}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, dict):
        raise InputError(f"the grid {file} is not a table of keys and values")
    return content


def _toml() -> ModuleType:
    """Python's reader of TOML.

    Raises:
        InputError: this Python has none.
    """
    try:
        return importlib.import_module("tomllib")
    except ModuleNotFoundError as error:
        raise InputError("a grid in TOML needs Python 3.11: give it as JSON, with the same keys") from error


def _check_keys(found: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    for key in found:
        if key not in known:
            raise InputError(f"{what} has an unknown key {key!r}: choose from {', '.join(known)}")


def _list(whole: Mapping[str, Any], key: str) -> list[Any]:
    values = whole[key]
    if not isinstance(values, list) or not values:
        raise InputError(f"{key} must be a list with at least one entry, got {values!r}")
    return values


def _settings(part: Mapping[str, Any]) -> Iterator[Setting]:
    keys = ("neurons", "timesteps", "alphas", "memories", "calibrations")
    levels = part["levels"]
    for neuron, timesteps, alpha, memory, calibration in itertools.product(*(_list(part, key) for key in keys)):
        check_whole("timesteps (T)", timesteps, least=1, most=MOST_TIMESTEPS)
        if not isinstance(calibration, str):
            raise InputError(f"a calibration is a name such as 'auto', got {calibration!r}")
        numbers = _number("alpha (α)", alpha), _number("memory (μ)", memory)
        yield Setting(parse_neuron(neuron, levels), timesteps, *numbers, calibration)


def _number(name: str, value: Any) -> float | str:
    """A number or a rule's name; 0 and 0.0 are one setting."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{name} is a number or the name of a rule, got {value!r}")
    return value if isinstance(value, str) else float(value)


def _try(setting: Setting) -> None:
    """Refuses what `convert` would refuse, before anything runs."""
    layers = [(torch.eye(2), torch.zeros(2)), (torch.ones(1, 2), torch.zeros(1))]
    observations = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    convert(Actor(layers[:1], layers[1]), observations, **setting.arguments())


def _subjects(entry: Any, environments_given: Sequence[str], folder: Path) -> Iterator[Subject]:
    """An actor in each of its environments."""
    table = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise InputError(f"an actor is a name, or a table with name and environment, got {entry!r}")
    _check_keys(table, ("name", "environment"), "an actor")
    name = table["name"]
    actor = load_actor(name if name in zoo.names() else folder / name)
    own = [table["environment"]] if "environment" in table else list(environments_given)
    for env in own or [environments.named_by(actor)]:
        if not env:
            raise InputError(f"{name} does not say which environment it is for: give it one in the grid, or --env")
        environment = environments.make(env)
        environments.check_spaces(actor.interface, environment.observation_space, environment.action_space)
        environment.close()
        yield Subject(Path(name).name, actor, env)
