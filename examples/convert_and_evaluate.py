"""Converts an actor that ships with the package, saves it in a file, and evaluates it and the dense actor.

pip install 'snnkern[rl]'
python examples/convert_and_evaluate.py
"""

import typer

import snnkern

ENVIRONMENT = "HalfCheetah-v5"


def main(steps: int = 10_000, episodes: int = 10, output: str = "halfcheetah-spiking.safetensors") -> None:
    """Convert, save, load, evaluate."""
    actor = snnkern.load_actor("td3-halfcheetah")
    observations = snnkern.collect(actor, ENVIRONMENT, steps)  # from episodes of the dense actor
    snnkern.save(snnkern.convert(actor, observations, neuron="mt", timesteps=4), output)

    snn = snnkern.load(output)
    dense = snnkern.evaluate(actor, ENVIRONMENT, episodes=episodes)
    spiking = snnkern.evaluate(snn, ENVIRONMENT, episodes=episodes)  # the same seeds
    ratio = spiking.ratio(dense)
    print(f"dense    {dense.mean:8.1f} ± {dense.std:.1f}")
    print(f"spiking  {spiking.mean:8.1f} ± {spiking.std:.1f}, {sum(spiking.spikes):.0f} spikes per decision")
    print(f"ratio    {ratio.value:8.1%} [{ratio.low:.1%} … {ratio.high:.1%}]")


if __name__ == "__main__":
    typer.run(main)
