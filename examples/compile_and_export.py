"""Runs a spiking actor under torch.compile, torch.export and torch.func.vmap, and compares the actions.

python examples/compile_and_export.py
"""

import tempfile
from pathlib import Path

import torch
from torch.func import functional_call, stack_module_state, vmap

import snnkern


@torch.no_grad()
def main(backend: str = "inductor") -> dict[str, float]:
    actor = snnkern.load_actor("td3-hopper")
    observations = torch.randn(512, 11, generator=torch.Generator().manual_seed(0)) * 0.1
    snn = snnkern.convert(actor, observations, neuron="mt", timesteps=4)
    action, errors = snn(observations), {}

    snn.reset()
    compiled = torch.compile(snn, fullgraph=True, backend=backend)
    errors["torch.compile"] = compiled(observations) - action

    decision = snn.stateless()  # carries in, carries out
    start = decision.start(512)
    with tempfile.TemporaryDirectory() as folder:
        torch.export.save(torch.export.export(decision, (observations, *start)), Path(folder) / "snn.pt2")
        program = torch.export.load(Path(folder) / "snn.pt2").module()
    errors["torch.export"] = program(observations, *start)[0] - action

    _, weights = stack_module_state([decision, decision])  # usually, two members with different weights
    actions, *_ = vmap(lambda own: functional_call(decision, own, (observations, *start)))(weights)
    errors["torch.func.vmap"] = actions - action
    return {name: float(error.abs().max()) for name, error in errors.items()}


if __name__ == "__main__":
    print("\n".join(f"{name:16} differs by up to {error:.1e}" for name, error in main().items()))
