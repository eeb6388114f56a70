"""Reads grids, which say what a study varies, from a file that can be committed or from the command line."""

from __future__ import annotations

import importlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import torch

from snnkern.control import environments
from snnkern.conversion.convert import convert
from snnkern.errors import InputError, check_whole
from snnkern.files import from_json, read_bytes
from snnkern.kernels.neurons import NEURON_NAMES, parse_neuron
from snnkern.limits import MOST_EPISODES, MOST_SEED, MOST_STEPS, MOST_TIMESTEPS
from snnkern.policies import zoo
from snnkern.policies.actor import Actor
from snnkern.policies.loading import load_actor
from snnkern.studies.settings import Setting
from snnkern.studies.study import Study, Subject

_MOST_SETTINGS = 100_000  # of a grid; each is tried beforehand

T = TypeVar("T")
_Some = Annotated[tuple[T, ...], msgspec.Meta(min_length=1)]
_Episodes = Annotated[int, msgspec.Meta(ge=1, le=MOST_EPISODES)]
_Seed = Annotated[int, msgspec.Meta(ge=0, le=MOST_SEED)]


class Part(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Values of settings, which are combined in every way. They are checked when settings are made of them."""

    neurons: _Some[str] = NEURON_NAMES
    timesteps: _Some[int] = (2, 4, 8)
    alphas: _Some[float | str] = ("auto",)
    memories: _Some[float] = (0.0,)
    calibrations: _Some[str] = ("auto",)
    levels: int | None = None


class GridActor(msgspec.Struct, forbid_unknown_fields=True):
    """An actor in an environment of its own."""

    name: str
    environment: str | None = None


class Grid(Part, kw_only=True, forbid_unknown_fields=True):
    """The keys of a grid file and their defaults; see `read_study`."""

    actors: _Some[str | GridActor]
    environments: tuple[str, ...] = ()
    seeds: _Some[_Seed] = (1000,)
    episodes: _Episodes = 10
    dense_episodes: _Episodes | None = None
    calibration_steps: Annotated[int, msgspec.Meta(ge=1, le=MOST_STEPS)] | None = None
    calibration_seed: _Seed = 0


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
    `calibration_seed`. An actor is a zoo name, a file's name, or a table with `name` and `environment`. An actor
    without an environment runs in all `environments`; if there are none, in the one that its file names. A list of
    tables `grids` gives several grids of settings: each states what differs from the rest of the file, and the study
    has the settings of all.

    Args:
        file: the grid file; without one, what is given and defaults.
        given: what goes before the file, by the same keys.
        folder: where files of actors are; the grid file's folder unless given.
        backend: a name from `snnkern.backends()`, or "auto".

    Raises:
        InputError: the file cannot be read, a key is unknown, a value is out of range, an actor or an environment does
            not exist or they do not fit each other.
    """
    where = "the grid" if file is None else f"the grid {file}"
    content = {} if file is None else _read_grid(file, where)
    given = {key: value for key, value in (given or {}).items() if value is not None}
    parts = content.pop("grids", [{}])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts) or not parts:
        raise InputError(f"{where}: grids must be a list of tables")
    grid = _typed({**content, **given}, Grid, where)
    fields = Part.__struct_fields__
    ours, theirs = ({key: of[key] for key in fields if key in of} for of in (given, content))
    settings: dict[Setting, None] = {}
    for part in parts:
        settings |= dict.fromkeys(_settings(_typed({**theirs, **part, **ours}, Part, f"one of the grids of {where}")))
    for setting in settings:
        _try(setting)
    dense_episodes = grid.dense_episodes or grid.episodes
    seeds = _seeds(grid.seeds, max(grid.episodes, dense_episodes))
    folder = folder or (file.parent if file else Path())
    subjects = [subject for actor in grid.actors for subject in _subjects(actor, grid.environments, folder)]
    seen = Counter((subject.actor.fingerprint(), subject.environment) for subject in subjects)
    for subject in subjects:
        if seen[subject.actor.fingerprint(), subject.environment] > 1:
            raise InputError(f"{subject.name} in {subject.environment} is in the grid twice, perhaps by another name")
    return Study(
        tuple(subjects),
        tuple(settings),
        seeds,
        episodes=grid.episodes,
        dense_episodes=dense_episodes,
        calibration_steps=grid.calibration_steps,
        calibration_seed=grid.calibration_seed,
        backend=backend,
    )


def _seeds(seeds: Sequence[int], apart: int) -> tuple[int, ...]:
    """Seeds, each of which has so many episodes to itself."""
    found = tuple(dict.fromkeys(seeds))
    for first, second in itertools.pairwise(sorted(found)):
        if second - first < apart:
            raise InputError(
                f"seeds {first} and {second} share episodes: {apart} episodes need as many seeds of their own"
            )
    return found


def _read_grid(file: Path, where: str) -> dict[str, Any]:
    content = read_bytes(file)
    if file.suffix != ".toml":
        return from_json(content, dict[str, Any], where)
    toml = _toml()
    try:
        found: dict[str, Any] = toml.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not TOML: {error}") from error
    return found


def _toml() -> ModuleType:
    """Python's reader of TOML.

    Raises:
        InputError: this Python has none.
    """
    try:
        return importlib.import_module("tomllib")
    except ModuleNotFoundError as error:
        raise InputError("a grid in TOML needs Python 3.11: give it as JSON, with the same keys") from error


def _typed(content: Mapping[str, Any], kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"{where}: {error}") from error


def _settings(part: Part) -> Iterator[Setting]:
    lists: list[Sequence[Any]] = [part.neurons, part.timesteps, part.alphas, part.memories, part.calibrations]
    if (number := math.prod(map(len, lists))) > _MOST_SETTINGS:
        raise InputError(f"a grid has at most {_MOST_SETTINGS:,} settings, got {number:,}")
    for neuron, timesteps, alpha, memory, calibration in itertools.product(*lists):
        check_whole("timesteps (T)", timesteps, least=1, most=MOST_TIMESTEPS)
        yield Setting(parse_neuron(neuron, part.levels), timesteps, alpha, memory, calibration)


def _try(setting: Setting) -> None:
    """Refuses what `convert` would refuse, before anything runs; few steps are enough for that."""
    setting.to_dict()
    layers = [(torch.eye(2), torch.zeros(2)), (torch.ones(1, 2), torch.zeros(1))]
    observations = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    few = replace(setting, timesteps=min(setting.timesteps, 8))
    convert(Actor(layers[:1], layers[1]), observations, **few.arguments())


def _subjects(entry: str | GridActor, environments_given: Sequence[str], folder: Path) -> Iterator[Subject]:
    """An actor in each of its environments."""
    actor_entry = GridActor(entry) if isinstance(entry, str) else entry
    name, own = actor_entry.name, actor_entry.environment
    actor = load_actor(name if name in zoo.names() else folder / name)
    for env in [own] if own is not None else environments_given or [environments.named_by(actor)]:
        if not env:
            raise InputError(f"{name} does not say which environment it is for: give it one in the grid, or --env")
        try:
            environments.check(env, actor)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        # A file's name may be any bytes; a record's is text.
        yield Subject(os.fsencode(Path(name).name).decode(errors="replace"), actor, env)
