"""Numbers are judged before any work is done: what kind they are, and that they are not too large to fit or to end."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
from support.builders import make_actor, make_observations

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")

import gymnasium

import snnkern
from snnkern import limits
from snnkern.analysis import latency
from snnkern.analysis.energy import Energies
from snnkern.control import follow
from snnkern.control.rollout import rollout
from snnkern.errors import check_number, check_whole
from snnkern.studies.executors import LocalExecutor

ACTOR, OBSERVATIONS = make_actor(3, 5, 2), make_observations(20, 3)


class Short(gymnasium.Env):
    """Episodes of one step, whose reward is 1."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    spec = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3), {}

    def step(self, action):
        return np.zeros(3), 1.0, True, False, {}


def refused(*arguments, **options):
    pytest.fail("work was begun")


def sweep(**given):
    settings = snnkern.grid(["if"], [1])
    return snnkern.sweep(ACTOR, "Short-v0", settings, **{"observations": OBSERVATIONS, **given})


FUNCTIONS = {
    "evaluate": functools.partial(snnkern.evaluate, ACTOR, refused),
    "collect": functools.partial(snnkern.collect, ACTOR, refused),
    "rollout": functools.partial(rollout, ACTOR, None),
    "follow": functools.partial(follow.follow, "a", {"a": ACTOR}, refused),
    "analyze": functools.partial(
        snnkern.analyze, ACTOR, refused, snnkern.Dynamics(snnkern.IF(), 1), thresholds=[np.ones(5)]
    ),
    "sweep": sweep,
    "benchmark": functools.partial(latency.run, ACTOR, OBSERVATIONS, snnkern.grid(["if"], [1])),
    "executor": LocalExecutor,
    "energies": Energies,
}
COUNTS = [
    *(("evaluate", name) for name in ("episodes", "seed", "rows")),
    *(("collect", name) for name in ("steps", "seed")),
    *((function, name) for function in ("rollout", "follow", "analyze") for name in ("episodes", "seed")),
    *(("sweep", name) for name in ("episodes", "dense_episodes", "seed", "workers")),
    *(("benchmark", name) for name in ("batches", "threads")),
    ("executor", "workers"),
]
NO_COUNTS = [-1, 2.5, 3.0, True, "3", math.nan, math.inf, -math.inf, 10**5000, 1j, [1], np.float64(2), np.array([3])]
NUMBERS = [
    ("benchmark", "seconds"),
    *(("energies", name) for name in ("multiplication", "addition", "scaling", "read")),
]
NO_NUMBERS = [-1, True, "3", math.nan, math.inf, -math.inf, 1e308, 10**5000, 1j, None, np.array([3.0])]


def cases(functions, values):
    return [
        pytest.param(function, name, value, id=f"{function}-{name}-{type(value).__name__}{number}")
        for function, name in functions
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(("function", "name", "value"), [*cases(COUNTS, NO_COUNTS), *cases(NUMBERS, NO_NUMBERS)])
def test_what_is_no_such_number_is_refused_by_its_name(function, name, value) -> None:
    many = name in ("batches", "threads")
    with pytest.raises(snnkern.InputError) as refusal:
        FUNCTIONS[function](**{name: (value,) if many else value})
    message = str(refusal.value)
    assert name.removesuffix("es").removesuffix("s") in message
    assert len(message) < 400


MOST = {
    ("evaluate", "episodes"): limits.MOST_EPISODES,
    ("evaluate", "seed"): limits.MOST_SEED,
    ("collect", "steps"): limits.MOST_OBSERVED // 3,
    ("follow", "episodes"): limits.MOST_SIDE_BY_SIDE,
    ("analyze", "episodes"): limits.MOST_SIDE_BY_SIDE,
    ("sweep", "episodes"): limits.MOST_EPISODES,
    ("executor", "workers"): limits.MOST_WORKERS,
}


@pytest.mark.parametrize(("function", "name"), MOST, ids="-".join)
def test_the_limit_is_stated(function, name) -> None:
    most = MOST[function, name]
    with pytest.raises(snnkern.InputError, match=f"{name} must be a whole number of at most {most:,}, got {most + 1}"):
        FUNCTIONS[function](**{name: most + 1})


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.int16])
def test_whole_numbers_of_numpy_are_whole_numbers(kind) -> None:
    assert snnkern.evaluate(ACTOR, Short, episodes=kind(2), seed=kind(3), rows=kind(2)).returns == (1.0, 1.0)
    assert snnkern.collect(ACTOR, Short, steps=kind(4), seed=kind(1)).shape == (4, 3)
    assert type(check_whole("n", kind(3), 0)) is int
    assert type(check_number("n", kind(3), 0, 5)) is float


def test_the_largest_seed_runs() -> None:
    assert snnkern.evaluate(ACTOR, Short, episodes=3, seed=limits.MOST_SEED).returns == (1.0,) * 3
    assert len(snnkern.collect(ACTOR, Short, steps=2, seed=limits.MOST_SEED)) == 2


def test_fractions_are_numbers() -> None:
    assert check_number("n", Fraction(1, 2), 0, 1) == 0.5


def test_more_steps_than_fit_are_refused() -> None:
    with pytest.raises(
        snnkern.InputError, match=r"timesteps \(T\) must be a whole number of at most 100,000, got 100001"
    ):
        snnkern.grid(["if"], [100_001])
    snn = snnkern.convert(ACTOR, OBSERVATIONS, neuron="if", timesteps=10**8, calibration="max")
    with pytest.raises(snnkern.InputError, match="100,000,000 steps of 3 rows of 5 neurons are too many to look into"):
        next(follow.replay(snn, np.zeros((2, 3, 3))))


def test_a_setting_counts_once() -> None:
    assert len(snnkern.grid(["if", "IF", snnkern.IF()], [4, 4], [0, 0.0], [0])) == 1
