"""Refinement: what it learns, what it keeps, what it never sees."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="Gymnasium is not installed")

import gymnasium
import torch
from support.builders import assert_same_tensors, make_actor, make_observations
from support.visual import FORMS, frames, visual_actor

import snnkern
from snnkern import InputError, Recipe, convert, refine
from snnkern.policies.spiking import dense_actor
from snnkern.training import checkpoint
from snnkern.training.refine import matching_loss
from snnkern.training.visits import unrewarded

QUICK = Recipe(states=400, rows=4, updates=150, batch=64, average=0.98)


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
    return convert(actor, observations, neuron="if", timesteps=3)


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
    assert found.metadata["refined"].startswith("2 rounds, 300 updates, seed 0: action error ")


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


def test_an_environment_without_rewards_has_none() -> None:
    envs = unrewarded(gymnasium.vector.SyncVectorEnv([lambda: Swing(7.0)] * 2))
    assert envs.reset(seed=0)[1] == {}
    for _ in range(3):
        _, rewards, *_, info = envs.step(np.ones((2, 2), np.float32))
        assert (rewards == 0).all()
        assert info == {}


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


def test_a_damaged_store_is_one_clear_error(snn, observations, tmp_path) -> None:
    refined(snn, observations, rounds=1, store=tmp_path)
    file = next(tmp_path.iterdir())
    kept, tensors = checkpoint.read(tmp_path, checkpoint.from_json(_description(file), checkpoint.Checkpoint, "").key)
    for damage in (
        {name: tensor for name, tensor in tensors.items() if name != "draw"},
        {name: tensor for name, tensor in tensors.items() if not name.startswith("adam.0")},
        tensors | {"student.output.bias": torch.zeros(3)},
        tensors | {"draw": torch.zeros(3)},
        tensors | {"states": torch.zeros(4, 5)},
    ):
        checkpoint.write(tmp_path, kept, damage)
        with pytest.raises(InputError, match="damaged refinement"):
            refined(snn, observations, store=tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError):
        refined(snn, observations, store=tmp_path)


def _description(file) -> str:
    from snnkern.files import read_bytes, read_tensors

    return read_tensors(read_bytes(file), "file")[2]


def test_time_is_kept(snn, observations) -> None:
    told = []
    refine(
        snn, observations, Swing, minutes=0.05, recipe=dataclasses.replace(QUICK, updates=10**6), progress=told.append
    )
    assert told[-1].rounds == 1
    assert told[-1].seconds < 30  # of 3, beside whatever else runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"snn": "snn"}, "refine takes a SpikingActor"),
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
