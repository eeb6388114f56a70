"""Chooses α of the residual carry (CRPI) without the reward, then measures what this α does to the return.

The program takes the α with the smallest action errors, averaged over a fifth of a second, in the states that the dense
actor visits. `snnkern.convert(…, alpha="auto")` needs no such trial.
"""

import numpy as np
import typer

import snnkern

ENVIRONMENT, WINDOW = "Hopper-v5", 25  # decisions of 8 ms


def main(steps: int = 10_000, episodes: int = 10) -> None:
    """Choose α for IF neurons at T = 8."""
    actor = snnkern.load_actor("td3-hopper")
    observations = snnkern.collect(actor, ENVIRONMENT, steps)
    snn = snnkern.convert(actor, observations, neuron="if", timesteps=8, alpha=0.0)
    snn.alpha = alphas = np.linspace(0, 1, 11)  # one α for each row: one batch tries them all

    env = snnkern.environments.make(ENVIRONMENT)
    (observation, _), errors, ended = env.reset(seed=1), [], False
    while not ended:
        action = actor.act(observation)
        errors.append(snn.act(np.tile(observation, (len(alphas), 1))) - action)
        observation, _, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
    total = np.cumsum(errors, axis=0)
    lasting = np.sqrt(np.square((total[WINDOW:] - total[:-WINDOW]) / WINDOW).mean(axis=(0, 2)))

    print("\n".join(f"α = {alpha:.1f}: error {error:.5f}" for alpha, error in zip(alphas, lasting, strict=True)))
    for snn.alpha in (0.0, float(alphas[lasting.argmin()])):
        result = snnkern.evaluate(snn, ENVIRONMENT, episodes=episodes)
        print(f"α = {snn.alpha:.1f}: return {result.mean:.0f} ± {result.std:.0f}")


if __name__ == "__main__":
    typer.run(main)
