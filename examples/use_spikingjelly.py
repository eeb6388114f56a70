"""Runs our neurons in a SpikingJelly network, and a SpikingJelly network of IF neurons with our kernels.

pip install 'snnkern[spikingjelly]'
python examples/use_spikingjelly.py
"""

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import snnkern

T = 8


@torch.no_grad()
def main() -> tuple[bool, bool]:
    inputs = torch.rand(T, 4, 20)  # [T, B, features]

    mixed = nn.Sequential(
        layer.Linear(20, 64),
        snnkern.SpikingActivation("mt", torch.full((64,), 0.5), T, alpha=0.2),
        layer.Linear(64, 10),
        neuron.IFNode(v_reset=None),
    )
    functional.set_step_mode(mixed, "m")
    fresh = mixed(inputs)
    mixed(inputs)  # resumes from the carry of the first call
    functional.reset_net(mixed)
    resets = torch.equal(mixed(inputs), fresh)

    theirs = nn.Sequential(layer.Linear(20, 64), neuron.IFNode(v_reset=None), layer.Linear(64, 10))
    functional.set_step_mode(theirs, "m")
    ours = snnkern.from_spikingjelly(theirs, timesteps=T)
    return resets, torch.equal(ours(inputs), theirs(inputs))


if __name__ == "__main__":
    print("reset_net resets our neurons: {}; the converted network sends the same spikes: {}".format(*main()))
