"""Trains SAC on Pendulum with Stable-Baselines3, converts the actor, and evaluates both with `evaluate_policy`.

    pip install 'snnkern[sb3]'
    python examples/convert_sb3.py

It takes a minute on one core. The number of training steps can be given; fewer are faster and worse.
"""

import sys
import tempfile
from pathlib import Path

from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import snnkern


def main(steps: int = 5_000) -> tuple[float, float]:
    model = SAC("MlpPolicy", "Pendulum-v1", learning_rate=3e-3, policy_kwargs={"net_arch": [64, 64]}, seed=0)
    model.learn(steps)
    policy = snnkern.from_sb3(model, neuron="mt", timesteps=8)  # calibrated on the replay buffer

    returns = []
    for name, player in (("dense", model), ("spiking", policy)):
        env = make_vec_env("Pendulum-v1", n_envs=4, seed=1)
        mean, deviation = evaluate_policy(player, env, n_eval_episodes=20)
        print(f"{name:8} {mean:8.1f} ± {deviation:.1f}")
        returns.append(mean)

    with tempfile.TemporaryDirectory() as folder:  # load_actor reads a model's file, without unpickling it
        model.save(Path(folder) / "sac.zip")
        print(snnkern.load_actor(Path(folder) / "sac.zip"))
    return returns[0], returns[1]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
