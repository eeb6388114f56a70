"""Converts an actor that CleanRL trained, and evaluates both.

    python examples/convert_cleanrl.py runs/…/td3_continuous_action.cleanrl_model Hopper-v4

The file is the one that `--save-model` writes for TD3 or DDPG. CleanRL's SAC saves nothing: write `actor.state_dict()`
with `torch.save` at the end of its script.
"""

import sys

import snnkern


def main(path: str, environment: str, steps: int = 5_000, episodes: int = 10) -> tuple[float, float]:
    actor = snnkern.load_actor(path)  # action_scale and action_bias are in the file
    observations = snnkern.collect(actor, environment, steps)
    snn = snnkern.convert(actor, observations, neuron="mt", timesteps=8)
    returns = []
    for name, policy in (("dense", actor), ("spiking", snn)):
        result = snnkern.evaluate(policy, environment, episodes=episodes)
        returns.append(result.mean)
        print(f"{name:8} {returns[-1]:8.1f}")
    return returns[0], returns[1]


if __name__ == "__main__":
    main(*sys.argv[1:3])
