"""Refinement: what it learns, what it keeps, what it never sees."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")

import cloudpickle
import gymnasium
import msgspec
import torch
from support.builders import assert_same_tensors, make_actor, make_observations
from support.visual import FORMS, frames, visual_actor

import snnkern
from snnkern import InputError, Recipe, convert, refine
from snnkern.control import environments
from snnkern.errors import InputWarning
from snnkern.files import read_bytes, read_tensors
from snnkern.policies.spiking import dense_actor
from snnkern.training import checkpoint
from snnkern.training.distance import matching_loss
from snnkern.training.learner import Learner
from snnkern.training.unrewarded import Unrewarded

QUICK = Recipe(states=400, rows=4, updates=200, batch=64, average=0.98, learning_rate=2e-3, threshold_rate=4e-3)
BRIEF = Recipe(states=40, rows=2, updates=5, batch=8)


class Swing(gymnasium.Env):
    """A state that the action moves; the reward is what the test says, and so is `info`."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)

    def __init__(self, reward: float = 0.0) -> None:
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.normal(size=3), 0
        return self.state.copy(), {"reward": self.reward}

    def step(self, action):
        self.state = 0.9 * self.state + 0.3 * np.array([action[0], action[1], action.sum()])
        self.state += 0.1 * self.np_random.normal(size=3)
        self.steps += 1
        return self.state.copy(), self.reward, False, self.steps == 70, {"reward": self.reward}


@pytest.fixture(scope="module")
def actor():
    return make_actor(3, 24, 24, 2, action_scale=[2.0, 0.5])


@pytest.fixture(scope="module")
def observations():
    return make_observations(2_000, 3)


@pytest.fixture(scope="module")
def snn(actor, observations):
    return convert(actor, observations, neuron="if", timesteps=3, alpha=0.2)


def refined(snn, observations, env=Swing, rounds=2, **options):
    return refine(snn, observations, env, rounds=rounds, minutes=1e4, recipe=options.pop("recipe", QUICK), **options)


def action_error(snn, seed=123):
    """Mean squared action error along ten episodes that the actor drives, as a part of the action's scale."""
    dense, scale, found = dense_actor(snn), snn.interface.action_scale.numpy(), []
    for episode in range(10):
        env = Swing()
        observation, ended = env.reset(seed=seed + episode)[0], False
        snn.reset()
        while not ended:
            action = snn.act(observation)
            found.append(((action - dense.act(observation)) / scale) ** 2)
            observation, _, _, ended, _ = env.step(action)
    return np.mean(found)


@pytest.mark.parametrize("neuron", ["if", "lif", "snm", "mt", "dc"])
@pytest.mark.parametrize("env", [Swing, None], ids=["visited", "recorded"])
def test_the_refined_actor_acts_more_like_the_dense_one(actor, observations, neuron, env) -> None:
    snn = convert(actor, observations, neuron=neuron, timesteps=2)
    before = {name: tensor.clone() for name, tensor in snn.state_dict().items()}
    found = refined(snn, observations, env)
    assert action_error(found) < 0.8 * action_error(snn)
    assert found.dynamics == dataclasses.replace(snn.dynamics, alpha=0.0)
    assert_same_tensors(snn.state_dict(), before)
    np.testing.assert_array_equal(dense_actor(found).act(observations), actor.act(observations))
    assert found.metadata["refined"].startswith("2 rounds, 400 updates, seed 0: action error ")


def test_what_is_kept_is_never_worse_than_what_was_given(snn, observations) -> None:
    wild = dataclasses.replace(QUICK, learning_rate=1.0, threshold_rate=1.0, updates=30)
    told = []
    found = refined(snn, observations, recipe=wild, progress=told.append)
    assert_same_tensors(
        {name: tensor for name, tensor in found.state_dict().items() if not name.startswith("original")},
        {name: tensor for name, tensor in snn.state_dict().items() if not name.startswith("original")},
    )
    assert told[-1].error == told[-1].given > 0
    assert found.alpha == snn.alpha > 0


@pytest.mark.parametrize("env", [Swing, None], ids=["visited", "recorded"])
def test_an_actor_that_learns_nothing_comes_back_as_it_was(snn, observations, env) -> None:
    """By chance some visits are easier than the first one: that is no gain. And it has acted in the last one."""
    still = dataclasses.replace(BRIEF, learning_rate=0.0, threshold_rate=0.0, updates=1)
    found = refined(snn, observations, env, rounds=6, recipe=still)
    before, _, after = found.metadata["refined"].partition("action error ")[2].partition(" -> ")
    assert before == after
    snn.reset()
    np.testing.assert_array_equal(found.act(observations[:5]), snn.act(observations[:5]))
    assert found.alpha == snn.alpha


def test_a_second_refinement_keeps_the_record_of_the_first(snn, observations) -> None:
    first = refined(snn, observations, None)
    said = first.metadata["refined"]
    still = dataclasses.replace(BRIEF, learning_rate=0.0, threshold_rate=0.0)
    assert refined(first, observations, None, rounds=1, recipe=still).metadata["refined"] == said
    again = refined(first, observations, None, seed=5)
    assert again.metadata["refined"].startswith(f"{said}; then 2 rounds, 400 updates, seed 5: action error ")
    assert first.metadata["refined"] == said


def test_thresholds_of_zero_stay_and_others_stay_positive(actor, observations) -> None:
    thresholds = [torch.ones(24), torch.ones(24)]
    thresholds[0][3] = thresholds[1][7] = 0
    snn = convert(actor, thresholds=thresholds, neuron="mt", timesteps=2)
    for before, after in zip(thresholds, refined(snn, observations, None).thresholds, strict=True):
        assert torch.equal(before == 0, after == 0)
        assert (after >= 0).all()
        assert not torch.equal(before, after)


@pytest.mark.parametrize("reward", [float("nan"), -1e9])
def test_rewards_change_nothing(snn, observations, reward) -> None:
    one, other = (refined(snn, observations, lambda reward=reward: Swing(reward)) for reward in (0.0, reward))
    assert_same_tensors(one.state_dict(), other.state_dict())


class Unreadable:
    """A reward that nobody can make a number of."""

    def __float__(self):
        raise AssertionError("a reward was read")

    __array__ = __bool__ = __float__


@pytest.mark.parametrize(
    "reward", [7.0, Unreadable(), np.ones(3), None], ids=["number", "unreadable", "vector", "none"]
)
def test_no_reward_is_read(snn, reward) -> None:
    envs = environments.make_vector(lambda: Swing(reward), 2, snn, wrap=Unrewarded)
    assert envs.reset(seed=0)[1] == {}
    for _ in range(3):
        _, rewards, *_, info = envs.step(np.ones((2, 2), np.float32))
        assert (rewards == 0).all()
        assert info == {}


def test_environments_in_other_processes_have_no_rewards_either() -> None:
    made = cloudpickle.loads(cloudpickle.dumps(Unrewarded))(Swing(7.0))
    made.reset(seed=0)
    assert made.step(np.ones(2))[1] == 0.0


@pytest.mark.parametrize("sees", [False, True], ids=["vectors", "pixels"])
def test_layers_of_vectors_learn_on_one_thread(snn, observations, sees) -> None:
    """And the caller's threads are as they were, also after an error."""
    if sees:
        actor = visual_actor(FORMS["two-convolutions"])
        observations = frames(12, actor.interface.observation_shape)
        snn = convert(actor, observations, neuron="if", timesteps=2)
    before, seen = torch.get_num_threads(), set()

    def progress(_) -> None:
        seen.add(torch.get_num_threads())
        if len(seen) == 1:
            raise KeyboardInterrupt

    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyboardInterrupt):
            refine(snn, observations, minutes=1e4, rounds=1, recipe=BRIEF, progress=progress)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {3 if sees else 1}


def test_a_seed_gives_the_same_actor_again(snn, observations) -> None:
    first, again, other = (refined(snn, observations, seed=seed) for seed in (3, 3, 4))
    assert_same_tensors(first.state_dict(), again.state_dict())
    assert not torch.equal(first.output.weight, other.output.weight)


def test_an_interrupted_refinement_goes_on(snn, observations, tmp_path) -> None:
    whole = refined(snn, observations, rounds=3)

    def interrupt(now) -> None:
        if now.rounds == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refined(snn, observations, rounds=3, store=tmp_path, progress=interrupt)
    rounds = []
    found = refined(snn, observations, rounds=3, store=tmp_path, progress=lambda now: rounds.append(now.rounds))
    assert min(rounds) == 2
    assert_same_tensors(found.state_dict(), whole.state_dict())
    again = refined(snn, observations, rounds=3, store=tmp_path)  # it is finished: only measured again
    assert_same_tensors(again.state_dict(), whole.state_dict())


def test_a_refinement_goes_on_whatever_torch_takes_as_its_default(snn, observations, stored) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        found = refine(snn, observations, Swing, rounds=2, minutes=1e4, recipe=BRIEF, store=stored)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.metadata["refined"].startswith("2 rounds, ")


def test_a_store_of_another_refinement_is_refused(snn, observations, tmp_path) -> None:
    refined(snn, observations, rounds=1, store=tmp_path)
    for change in (
        {"seed": 1},
        {"env": None},
        {"recipe": dataclasses.replace(QUICK, jitter=0.1)},
        {"alpha": 0.1},
        {"observations": observations[:-1]},
    ):
        arguments = {"observations": observations, "store": tmp_path} | change
        with pytest.raises(InputError, match="holds another refinement"):
            refined(snn, **arguments)


@pytest.fixture
def stored(snn, observations, tmp_path):
    refine(snn, observations, Swing, rounds=1, minutes=1e4, recipe=BRIEF, store=tmp_path)
    return tmp_path


def contents(file):
    tensors, _, description = read_tensors(read_bytes(file), "file")
    return tensors, description


DAMAGES = {
    "no random numbers": lambda tensors: tensors.pop("draw"),
    "other random numbers": lambda tensors: tensors.update(draw=torch.zeros(3)),
    "half of Adam": lambda tensors: tensors.pop("adam.0.exp_avg"),
    "a bias of another shape": lambda tensors: tensors.update({"student.output.bias": torch.zeros(3)}),
    "a bias of NaN": lambda tensors: tensors["best.output.bias"].fill_(torch.nan),
    "thresholds beyond numbers": lambda tensors: tensors["best.hidden.0.log_threshold"].fill_(1000.0),
    "steps of another shape": lambda tensors: tensors.update({"adam.0.step": torch.ones(3)}),
    "steps below 0": lambda tensors: tensors["adam.0.step"].fill_(-1.0),
    "squares below 0": lambda tensors: tensors["adam.1.exp_avg_sq"].fill_(-1.0),
    "moments of NaN": lambda tensors: tensors["adam.0.exp_avg"].fill_(torch.nan),
    "moments of another dtype": lambda tensors: tensors.update({"adam.0.exp_avg": tensors["adam.0.exp_avg"].double()}),
    "an interface": lambda tensors: tensors.update({"best.interface.action_scale": torch.ones(2)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_one_clear_error(snn, observations, stored, damage) -> None:
    tensors, description = contents(stored / "refinement.safetensors")
    DAMAGES[damage](tensors)
    checkpoint.write(stored, checkpoint.from_json(description, checkpoint.Checkpoint, ""), tensors)
    with pytest.raises(InputError, match=f"{stored.name} holds a damaged refinement"):
        refine(snn, observations, Swing, recipe=BRIEF, store=stored)


STATES = {
    "of another width": (lambda states, answers: (torch.zeros(4, 5), answers[:4]), "states of a visit must be"),
    "without answers": (lambda states, answers: (states, answers[:3]), "answers of a visit must be"),
    "in float64": (lambda states, answers: (states.double(), answers), "states of a visit must be"),
    "of NaN": (lambda states, answers: (states * torch.nan, answers), "states holds NaN"),
    "one number": (lambda states, answers: (torch.tensor(1.0), torch.tensor(1.0)), "states of a visit must be"),
}


@pytest.mark.parametrize("case", STATES)
def test_damaged_states_are_one_clear_error(snn, observations, stored, case) -> None:
    damage, message = STATES[case]
    tensors, description = contents(stored / "states-0.safetensors")
    states, answers = damage(tensors["states"], tensors["answers"])
    key = checkpoint.from_json(description, checkpoint._Visit, "").key
    checkpoint.write_visit(stored, key, 0, {"states": states, "answers": answers})
    with pytest.raises(InputError, match=message) as error:
        refine(snn, observations, Swing, recipe=BRIEF, store=stored)
    assert str(stored) in str(error.value)


@pytest.mark.parametrize(
    "numbers",
    [{"rounds": -1}, {"rounds": 10**30}, {"updates": -11}, {"visits": 5}, {"best_error": 1e9}, {"seconds": -1.0}],
    ids=str,
)
def test_a_store_of_impossible_numbers_is_one_clear_error(snn, observations, stored, numbers) -> None:
    tensors, description = contents(stored / "refinement.safetensors")
    kept = checkpoint.from_json(description, checkpoint.Checkpoint, "")
    checkpoint.write(stored, msgspec.structs.replace(kept, **numbers), tensors)
    with pytest.raises(InputError) as error:
        refine(snn, observations, Swing, recipe=BRIEF, store=stored)
    assert str(stored) in str(error.value)


def test_a_cut_or_a_missing_file_of_a_store_is_one_clear_error(snn, observations, stored) -> None:
    (stored / "states-0.safetensors").unlink()
    with pytest.raises(InputError, match="states-0"):
        refine(snn, observations, Swing, recipe=BRIEF, store=stored)
    file = stored / "refinement.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"refinement\.safetensors"):
        refine(snn, observations, Swing, recipe=BRIEF, store=stored)


def test_states_are_written_once_and_a_finished_refinement_is_not_measured_again(snn, observations, stored) -> None:
    before = (stored / "states-0.safetensors").stat()
    options = {"minutes": 1e4, "recipe": BRIEF, "store": stored}
    refine(snn, observations, Swing, rounds=3, **options)
    after = (stored / "states-0.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    names = ["refinement.safetensors", *(f"states-{number}.safetensors" for number in range(3))]
    assert sorted(file.name for file in stored.iterdir()) == names

    class Broken(Swing):
        def step(self, action):
            raise AssertionError("it is finished")

    Broken.__qualname__ = Swing.__qualname__
    refine(snn, observations, Broken, rounds=3, **options)


def test_what_cannot_be_written_is_said_once_and_nothing_is_lost(snn, observations, tmp_path, monkeypatch) -> None:
    options = {"rounds": 2, "minutes": 1e4, "recipe": BRIEF}
    wanted = refine(snn, observations, Swing, **options)
    store = tmp_path / "store"
    with pytest.warns(InputWarning, match="cannot write .*the refinement goes on") as told:
        found = refine(
            snn,
            observations,
            Swing,
            store=store,
            progress=lambda _: shutil.rmtree(store, ignore_errors=True),
            **options,
        )
    assert len(told) == 1
    assert_same_tensors(found.state_dict(), wanted.state_dict())
    monkeypatch.setattr(checkpoint, "_MOST_BYTES", 10)
    with pytest.warns(InputWarning, match="more than the 10 that are read again"):
        refine(snn, observations, Swing, store=tmp_path / "other", **options)


def test_a_store_knows_functions_that_make_environments_by_name_and_spaces(snn, observations, stored) -> None:
    class Other(Swing):
        pass

    class Narrow(Swing):
        action_space = gymnasium.spaces.Box(-2.5, 2.5, (2,), np.float32)

    Narrow.__qualname__ = Swing.__qualname__
    for env in (Other, Narrow):
        with pytest.raises(InputError, match="another refinement"):
            refine(snn, observations, env, recipe=BRIEF, store=stored)


def test_frozen_convolutions_have_no_moments_in_a_store(tmp_path) -> None:
    seen = frames(20, (3, 12, 12))
    snn = convert(visual_actor(FORMS["two-convolutions"]), seen, neuron="if", timesteps=2)
    recipe = dataclasses.replace(BRIEF, frozen=1.0, updates=2)
    for rounds in (1, 2):
        found = refine(snn, seen, minutes=1e4, rounds=rounds, recipe=recipe, store=tmp_path)
    assert found.metadata["refined"].startswith("2 rounds")


class Failing(Swing):
    """From one visit on, states are not finite, or a step raises."""

    def __init__(self, failing=(), raises=False, share=1.0) -> None:
        super().__init__()
        seeds = [np.random.SeedSequence([0, visit]).generate_state(BRIEF.rows) for visit in failing]
        self.failing, self.raises, self.share, self.fails = set(np.concatenate([[0], *seeds])), raises, share, False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.fails = seed in self.failing
        return self._spoilt(super().reset(seed=seed)[0]), {}

    def step(self, action):
        state, *rest = super().step(action)
        return self._spoilt(state), *rest

    def _spoilt(self, state):
        if not self.fails or self.np_random.random() > self.share:
            return state
        if self.raises:
            raise RuntimeError("out of order")
        return state * np.nan


def test_states_that_are_not_finite_are_left_out(snn, observations) -> None:
    told = []
    env = lambda: Failing([0, 1, 2], share=0.3)  # noqa: E731
    found = refine(snn, observations, env, rounds=2, minutes=1e4, recipe=BRIEF, progress=told.append)
    assert 0 < told[-1].error <= told[-1].given
    assert all(bool(tensor.isfinite().all()) for tensor in found.state_dict().values())

    class Huge(Swing):  # in float32, infinite
        def step(self, action):
            state, *rest = super().step(action)
            return state * (1e300 if self.steps % 5 == 0 else 1.0), *rest

    refine(snn, observations, Huge, rounds=1, minutes=1e4, recipe=BRIEF)


@pytest.mark.parametrize("raises", [False, True], ids=["nan", "raises"])
def test_a_visit_that_fails_loses_nothing(snn, observations, tmp_path, raises) -> None:
    def env():
        return Failing([2, 3], raises)

    options = {"minutes": 1e4, "recipe": BRIEF}
    message = "out of order" if raises else "no state in which all numbers are finite"
    with pytest.warns(InputWarning, match=f"visit after round 2 failed .*{message}"):
        without = refine(snn, observations, env, rounds=5, **options)
    with pytest.raises(Exception, match=message) as error:
        refine(snn, observations, env, rounds=5, store=tmp_path, **options)
    assert "check_finite" not in str(error.value)
    with pytest.warns(InputWarning, match="best actor so far"):
        again = refine(snn, observations, env, rounds=5, store=tmp_path, **options)
    assert_same_tensors(again.state_dict(), without.state_dict())
    with pytest.raises(Exception, match=message):
        refine(snn, observations, lambda: Failing([0], raises), rounds=1, **options)


def test_learning_that_diverges_ends_with_the_best_actor_so_far(snn, observations, tmp_path, monkeypatch) -> None:
    options = {"minutes": 1e4, "recipe": BRIEF}
    update = Learner.update

    def diverging(learner, *arguments) -> None:
        update(learner, *arguments)
        if learner.updates > BRIEF.updates:
            learner._student.output.bias.data.fill_(torch.nan)

    monkeypatch.setattr(Learner, "update", diverging)
    for _ in range(2):
        with pytest.warns(InputWarning, match="round 2 made numbers that are not finite"):
            found = refine(snn, observations, Swing, rounds=3, store=tmp_path, **options)
        assert found.metadata["refined"].startswith("1 round, ")


def test_a_dimension_without_scale_is_left_out(observations) -> None:
    actor = make_actor(3, 8, 2, action_scale=[2.0, 0.0])
    snn, told = convert(actor, observations, neuron="if", timesteps=2), []
    refine(snn, observations, Swing, rounds=1, minutes=1e4, recipe=BRIEF, progress=told.append)
    assert 0 < told[-1].error <= told[-1].given
    nowhere = convert(make_actor(3, 8, 2, action_scale=0.0), observations, neuron="if", timesteps=2)
    with pytest.raises(InputError, match="action_scale is 0 in every dimension"):
        refine(nowhere, observations)


def test_the_callers_modes_change_nothing(snn, observations) -> None:
    options = {"rounds": 1, "minutes": 1e4, "recipe": BRIEF}
    wanted = refine(snn, observations, Swing, **options)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert_same_tensors(refine(snn, observations, Swing, **options).state_dict(), wanted.state_dict())


def test_time_is_kept(snn, observations) -> None:
    told = []
    refine(
        snn, observations, Swing, minutes=0.05, recipe=dataclasses.replace(QUICK, updates=10**6), progress=told.append
    )
    assert told[-1].rounds == 1
    assert told[-1].seconds < 30  # of 3, beside whatever else runs


def test_time_is_kept_where_the_environment_is_slow(snn, observations, monkeypatch) -> None:
    clock = itertools.count()
    now = [0.0]

    class Slow(Swing):
        def step(self, action):
            now[0] += 1.0  # seconds
            return super().step(action)

    monkeypatch.setattr(time, "monotonic", lambda: now[0] + 1e-6 * next(clock))
    told = []
    recipe = Recipe(states=6_000, rows=8, updates=10, batch=8)
    refine(snn, observations, Slow, minutes=10, recipe=recipe, progress=told.append)
    assert told[-1].rounds >= 1
    assert 300 < told[-1].seconds < 700  # of 600; a whole visit takes 6,000


def test_too_short_a_time_is_said(snn, observations, monkeypatch) -> None:
    now = [0.0]

    class Slow(Swing):
        def step(self, action):
            now[0] += 1.0
            return super().step(action)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.warns(InputWarning, match="no time for a round"):
        found = refine(snn, observations, Slow, minutes=0.1, recipe=BRIEF)
    assert found.metadata["refined"].startswith("0 rounds")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"snn": "snn"}, "refine takes a SpikingActor"),
        ({"recipe": {"states": 5}}, r"recipe must be a snnkern\.Recipe, got dict"),
        ({"store": 5}, "store must be the path of a folder, got int"),
        ({"observations": None}, r"observations must be an array \[N, 3\], got NoneType"),
        ({"observations": iter([np.zeros((4, 3))])}, r"np\.concatenate"),
        ({"observations": [[1.0, 2.0, 3.0], [1.0, 2.0]]}, r"observations must be an array \[N, 3\], got list"),
        ({"observations": np.zeros((0, 3), np.float32)}, r"at least one, got shape \[0, 3\]"),
        ({"observations": np.zeros(3, np.float32)}, r"rows \[N, ...\]"),
        ({"observations": np.zeros((4, 5), np.float32)}, r"got shape \[4, 5\]"),
        ({"observations": np.full((4, 3), np.nan, np.float32)}, "NaN"),
        ({"env": "Pendulum-v1"}, "action space"),
        ({"env": "No-v0"}, "No-v0"),
        ({"minutes": 0}, "minutes must be"),
        ({"minutes": float("nan")}, "minutes must be"),
        ({"rounds": 0}, "rounds must be"),
        ({"seed": -1}, "seed must be"),
        ({"alpha": 2}, "alpha"),
        ({"alpha": "no"}, "alpha"),
    ],
)
def test_bad_input_is_refused_before_any_work(snn, observations, arguments, message) -> None:
    given = {"snn": snn, "observations": observations, "env": Swing} | arguments
    with pytest.raises(InputError, match=message):
        refine(given.pop("snn"), given.pop("observations"), given.pop("env"), **given)


def test_what_holds_or_is_nearly_a_spiking_actor_says_which_part_is_wanted(snn, observations) -> None:
    with pytest.raises(InputError, match=r"refine its \.spiking\(\)"):
        refine(snn.trainable(), observations)
    with pytest.raises(InputError, match=r"refine its \.actor"):
        refine(snnkern.SB3Policy(snn), observations)
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(InputError, match=f"learns in float32 or float64, but the actor is {dtype}"):
            refine(copy.deepcopy(snn).to(dtype), observations)


def test_an_actor_on_another_device_is_refused(snn, observations) -> None:
    with pytest.raises(InputError, match="refine works on the CPU and on NVIDIA GPUs, but the actor is on meta"):
        refine(copy.deepcopy(snn).to("meta"), observations)


def test_alpha_is_zero_unless_it_is_given_and_what_is_given_back_keeps_its_own(snn, observations) -> None:
    assert snn.alpha == 0.2
    assert refined(snn, observations, rounds=1).alpha == 0.0
    assert refined(snn, observations, rounds=1, alpha=0.3).alpha == 0.3
    snn = copy.deepcopy(snn)
    snn.alpha = [0.1, 0.2]
    with pytest.raises(InputError, match=r"alpha .* is set for every row"):
        refine(snn, observations)


@pytest.mark.parametrize("squash", [True, False])
def test_the_matching_loss_has_the_action_error_as_its_gradient(squash) -> None:
    interface = make_actor(3, 4, 2, action_scale=[2.0, 0.5], action_bias=[0.1, -1.0], squash=squash).interface
    results = torch.tensor([[30.0, -0.3], [0.2, -25.0]], dtype=torch.float64, requires_grad=True)
    answers = torch.tensor([[-1.9, -1.2], [0.4, -0.5]], dtype=torch.float64)
    matching_loss(results, answers, interface).backward()
    error = (interface.action(results.detach()) - answers) / interface.action_scale
    torch.testing.assert_close(results.grad * results.numel(), error)


@pytest.mark.parametrize("scale", [1.0, [-2.0, 0.5, 0.0]])
def test_beyond_the_bounds_of_the_actions_an_error_does_not_grow(scale) -> None:
    interface = make_actor(3, 4, 3, action_scale=scale, action_bias=[0.1, -1.0, 0.3], squash=False).interface
    bounds = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([1.5, 0.5, np.inf])
    draw = torch.Generator().manual_seed(0)
    results = (4 * torch.randn(200, 3, generator=draw)).requires_grad_()
    answers = 3 * torch.randn(200, 3, generator=draw)
    loss = matching_loss(results, answers, interface, bounds)
    loss.backward()
    kept = interface.action_scale != 0
    made = interface.action(results.detach()).clamp(*bounds)
    error = ((made - answers.clamp(*bounds)) / interface.action_scale)[:, kept]
    torch.testing.assert_close(results.grad[:, kept] * error.numel(), error)
    assert (results.grad[:, ~kept] == 0).all()
    same = ((answers - interface.action_bias) / interface.action_scale).where(kept, results.detach())
    assert matching_loss(same, answers, interface, bounds) == 0 < loss


@pytest.mark.parametrize("number", ["batch", "rows", "states", "updates"])
def test_a_recipe_is_checked(number) -> None:
    with pytest.raises(InputError, match=f"{number} must be"):
        Recipe(**{number: 0})
    with pytest.raises(InputError, match="learning_rate must be"):
        Recipe(learning_rate=-1.0)
    with pytest.raises(InputError, match="surrogate"):
        Recipe(surrogate="step")


def test_a_refined_actor_is_a_file_like_any_other(snn, observations, tmp_path) -> None:
    found = refined(snn, observations, None, rounds=1)
    snnkern.save(found, tmp_path / "refined.safetensors")
    loaded = snnkern.load(tmp_path / "refined.safetensors")
    assert_same_tensors(loaded.state_dict(), found.state_dict())
    assert loaded.metadata["refined"] == found.metadata["refined"]


def test_an_actor_with_convolutions_is_refined() -> None:
    actor = visual_actor(FORMS["two-convolutions"])
    seen = frames(4_000, (3, 12, 12))
    snn = convert(actor, seen, neuron="if", timesteps=2)
    told = []
    recipe = dataclasses.replace(QUICK, updates=200, batch=64)
    found = refine(snn, seen, minutes=1e4, rounds=2, recipe=recipe, progress=told.append)
    assert told[-1].error < 0.9 * told[-1].given
    assert not torch.equal(found.hidden[0].weight, snn.hidden[0].weight)
    frozen = refine(snn, seen, minutes=1e4, rounds=2, recipe=dataclasses.replace(recipe, frozen=1.0))
    for before, after in zip(snn.hidden, frozen.hidden, strict=True):
        for name in ("weight", "bias", "threshold"):
            same = torch.equal(getattr(before, name), getattr(after, name))
            assert same == (before.convolution is not None)
    assert Recipe.recommended(snn).batch < Recipe().batch == Recipe.recommended(convert_small()).batch


def convert_small():
    return convert(make_actor(3, 4, 1), thresholds=[torch.ones(4)], neuron="if", timesteps=2)


class Strict(Swing):
    """Refuses what its action space does not hold."""

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action)


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_actions_of_an_actor_without_tanh_are_clipped_to_the_action_space(activation):
    layers = [(3 * weight, bias) for weight, bias in make_actor(3, 24, 24, 2).layers]
    output = make_actor(3, 24, 24, 2).output
    actor = snnkern.Actor(
        layers, (3 * output.weight, output.bias), snnkern.Interface(3, 2, squash=False), activation=activation
    )
    states = make_observations(500, 3)
    assert np.abs(actor.act(states)).max() > 2.5
    heard = []
    refined(convert(actor, states, neuron="if", timesteps=3), states, Strict, progress=heard.append)
    assert heard[-1].error < heard[-1].given


def test_what_the_action_space_clips_is_no_error() -> None:
    """All actions are far above the space's, so that the spiking actor cannot differ where it counts."""
    layers = make_actor(3, 24, 24, 2).layers
    actor = snnkern.Actor(layers, (torch.ones(2, 24), torch.full((2,), 50.0)), snnkern.Interface(3, 2, squash=False))
    states = make_observations(500, 3)
    told = []
    snn = convert(actor, states, neuron="if", timesteps=2)
    assert not np.array_equal(snn.act(states), actor.act(states))
    refined(snn, states, Swing, progress=told.append)
    assert told[-1].given == told[-1].error == 0
