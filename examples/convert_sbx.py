"""Trains SAC on Pendulum with SBX (Stable-Baselines3 in JAX), converts the actor, and evaluates both.

pip install 'snnkern[train]'
python examples/convert_sbx.py
"""

import sys

import sbx
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import snnkern


def main(steps: int = 5_000) -> tuple[float, float]:
    model = sbx.SAC("MlpPolicy", "Pendulum-v1", learning_rate=3e-3, policy_kwargs={"net_arch": [64, 64]}, seed=0)
    model.learn(steps)
    policy = snnkern.from_sb3(model, neuron="mt", timesteps=8)

    # The same actor, from Flax's parameters alone:
    parameters = model.policy.actor_state.params
    actor = snnkern.actor_from_state_dict(parameters, action_scale=2.0, metadata={"algorithm": "SAC"})
    assert actor.fingerprint() == snnkern.policies.spiking.dense_actor(policy.actor).fingerprint()

    returns = []
    for name, player in (("dense", model), ("spiking", policy)):
        env = make_vec_env("Pendulum-v1", n_envs=4, seed=1)
        mean, deviation = evaluate_policy(player, env, n_eval_episodes=20)
        print(f"{name:8} {mean:8.1f} ± {deviation:.1f}")
        returns.append(mean)
    return returns[0], returns[1]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
