"""CleanRL's own scripts: they train, their actors are saved and read, and act, converted or not, as they did there.

`test_cleanrl.py` runs this file in a process of its own: JAX is here, as in `sbx_cases.py`, and so is a module "gym".
"""

import runpy
import sys
import warnings
from types import ModuleType, SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from support.builders import load_example

import snnkern

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import stable_baselines3  # noqa: F401 (the scripts' import, but before there is a "gym", for which it looks)

pytestmark = pytest.mark.filterwarnings("ignore")  # the scripts are older than the libraries they run on

ENVIRONMENT = "AsymmetricSwimmer-v0"
LOW, HIGH = np.array([-1.0, 0.5], np.float32), np.array([3.0, 0.75], np.float32)
STEPS = 150  # fewer than an episode has: at its end they look for what Gymnasium 1 has renamed
OPTIONS = f"--env-id {ENVIRONMENT} --total-timesteps {STEPS} --learning-starts 50 --batch-size 32"


class SeededStatistics(gymnasium.wrappers.RecordEpisodeStatistics):
    def seed(self, seed):
        self.reset(seed=seed)


class OldVectorEnv(gymnasium.vector.SyncVectorEnv):
    def reset(self, **options):
        return super().reset(**options)[0]

    def step(self, actions):
        observations, rewards, terminated, truncated, _ = super().step(actions)
        return observations, rewards, terminated | truncated, [{} for _ in rewards]


def old_gym() -> ModuleType:
    """What the scripts of TD3 and SAC use of gym 0.23, by Gymnasium; DDPG's use Gymnasium themselves.

    That gym cannot be here: the replay buffer of today's Stable-Baselines3, which they import, refuses its spaces.
    """
    gym = ModuleType("gym")
    gym.make, gym.spaces = gymnasium.make, gymnasium.spaces
    gym.wrappers = SimpleNamespace(RecordEpisodeStatistics=SeededStatistics)
    gym.vector = SimpleNamespace(SyncVectorEnv=OldVectorEnv)
    return gym


def make_environment(**options):
    return gymnasium.wrappers.RescaleAction(gymnasium.make("Swimmer-v5", **options), LOW, HIGH)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs a script, once, and returns its variables."""
    gymnasium.register(ENVIRONMENT, make_environment, max_episode_steps=200)
    done = {}

    def train(script: str) -> dict:
        if script not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(sys.modules, "gym", old_gym())
                patch.setattr(sys, "argv", [script, *OPTIONS.split()])
                patch.chdir(tmp_path_factory.mktemp(script))  # they write "runs"
                done[script] = runpy.run_module(f"cleanrl.{script}", run_name="__main__")
        return done[script]

    yield train
    del gymnasium.registry[ENVIRONMENT]


def state_dicts(script: dict) -> list[dict[str, torch.Tensor]]:
    return [script[name].state_dict() for name in ("actor", "qf1", "qf2") if name in script]


def check(actor: snnkern.Actor, act) -> None:
    """That an actor takes the library's actions, has its returns, and once converted nearly so."""
    torch.testing.assert_close(actor.interface.action_scale, torch.from_numpy(HIGH - LOW) / 2, rtol=0, atol=0)
    torch.testing.assert_close(actor.interface.action_bias, torch.from_numpy(HIGH + LOW) / 2, rtol=0, atol=0)
    observations = snnkern.collect(actor, ENVIRONMENT, steps=400)
    wanted = act(observations)
    np.testing.assert_allclose(actor.act(observations), wanted, rtol=0, atol=1e-5)
    assert (np.ptp(wanted, axis=0) > 1e-3).all()  # the actions depend on the observation

    snn = snnkern.convert(actor, observations, neuron="mt", timesteps=8)
    policies = (SimpleNamespace(act=act), actor, snn)
    theirs, dense, spiking = (snnkern.evaluate(policy, ENVIRONMENT, episodes=2).mean for policy in policies)
    assert dense == pytest.approx(theirs, rel=1e-3)
    assert spiking == pytest.approx(theirs, rel=0.05, abs=1.0)  # one script's actor and another's differ by 40


@pytest.mark.parametrize("algorithm", ["td3", pytest.param("ddpg", marks=pytest.mark.thorough), "sac"])
def test_actors_act_as_they_did(trained, tmp_path, algorithm):
    script = trained(f"{algorithm}_continuous_action")
    theirs, states = script["actor"], state_dicts(script)
    assert all(script["actor_optimizer"].state[weight]["step"] > 20 for weight in theirs.parameters())

    def act(observations):
        with torch.no_grad():
            outputs = theirs.get_action if algorithm == "sac" else theirs
            actions = outputs(torch.Tensor(observations))
        return (actions[2] if algorithm == "sac" else actions).numpy()

    path = tmp_path / "actor"
    torch.save(states[0], path)
    actor = snnkern.load_actor(path)
    check(actor, act)
    newer = {name: tensor.flatten() if name.startswith("action") else tensor for name, tensor in states[0].items()}
    for saved in (states, tuple(states), newer):
        torch.save(saved, path)
        assert snnkern.load_actor(path).fingerprint() == actor.fingerprint()
    overruled = snnkern.load_actor(path, action_scale=2.0, action_bias=[0.0, 1.0]).interface
    assert overruled.action_scale.tolist() == [2.0, 2.0]
    assert overruled.action_bias.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("algorithm", ["td3", pytest.param("ddpg", marks=pytest.mark.thorough)])
def test_actors_in_jax_act_as_they_did(trained, algorithm):
    script = trained(f"{algorithm}_continuous_action_jax")
    theirs, state = script["actor"], script["actor_state"]
    assert state.step > 20
    actor = snnkern.actor_from_state_dict(
        state.params, action_scale=theirs.action_scale[0], action_bias=theirs.action_bias[0]
    )
    check(actor, lambda observations: np.asarray(theirs.apply(state.params, observations)))


def test_the_example_converts_and_evaluates(trained, tmp_path, capsys):
    path = tmp_path / "td3_continuous_action.cleanrl_model"
    torch.save(tuple(state_dicts(trained("td3_continuous_action"))), path)
    dense, spiking = load_example("convert_cleanrl").main(str(path), ENVIRONMENT, steps=500, episodes=2)
    assert spiking == pytest.approx(dense, rel=0.05)
    assert f"spiking  {spiking:8.1f}" in capsys.readouterr().out
