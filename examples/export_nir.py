"""Exports a spiking actor to NIR, runs the file in SpikingJelly, carry included, and compares the actions.

pip install 'snnkern[nir,spikingjelly]'
python examples/export_nir.py
"""

import copy

import nir
import torch
from spikingjelly.activation_based import nir_exchange

import snnkern


@torch.no_grad()
def main(path: str = "actor.nir", decisions: int = 5, rows: int = 100, T: int = 8) -> list[float]:
    observations = torch.randn(decisions, rows, 11, generator=torch.Generator().manual_seed(0)) * 0.1
    actor = snnkern.load_actor("td3-hopper")
    snn = snnkern.convert(actor, observations.flatten(0, 1), neuron="if", timesteps=T, alpha=0.2)
    nir.write(path, snnkern.to_nir(snn))

    graph, sent = nir_exchange.import_from_nir(path, dt=1e-4, step_mode="m"), {}
    for name, layer in graph.named_children():
        if name.startswith("neuron"):
            layer.module.v_reset = None  # reset by subtraction: NIR's IF can only be reset to a value
            layer.register_forward_hook(lambda _, __, out, name=name: sent.update({name: out[0].sum(dim=0)}))

    keeper = copy.deepcopy(snn)  # keeps the carry of the exported network
    differences = []
    for observation in observations:
        state = {f"neuron_{i}": (potential,) for i, potential in enumerate(snnkern.nir.start(keeper, rows), 1)}
        output, state = graph(keeper.interface.normalize(observation).expand(T, rows, 11), state)
        snnkern.nir.carry_on(keeper, [state[name][0] for name in sent], list(sent.values()))
        differences.append(float((keeper.interface.action(output.mean(dim=0)) - snn(observation)).abs().median()))
    return differences


if __name__ == "__main__":
    print("median difference of the actions, decision by decision:", *(f"{value:.1e}" for value in main()))
