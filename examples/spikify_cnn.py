"""Trains a small CNN to find a blob in a noisy image, converts it, and measures the errors of both.

python examples/spikify_cnn.py
"""

import torch
from torch import nn

import snnkern


def images(number: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs in noise, `[number, 1, 16, 16]`, and their positions from −0.8 to 0.8, `[number, 2]`."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.rand(number, 2, generator=generator) * 1.6 - 0.8
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 2, indexing="ij"))
    blob = torch.exp(-20 * (grid - position[:, :, None, None]).square().sum(dim=1, keepdim=True))
    return blob + 0.2 * torch.randn(blob.shape, generator=generator), position


def main(steps: int = 150) -> dict[str, float]:
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 3)]
    layers += [nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 2), nn.Tanh()]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        inputs, wanted = images(64, seed=step)
        optimizer.zero_grad()
        (model(inputs) - wanted).square().mean().backward()
        optimizer.step()

    inputs, wanted = images(500, seed=-1)
    networks = {"dense": model.eval().requires_grad_(False)}
    for neuron, timesteps in (("if", 8), ("if", 32), ("mt", 8), ("dc", 8)):
        networks[f"{neuron}, T={timesteps}"] = snnkern.spikify(model, inputs, neuron=neuron, timesteps=timesteps)
    return {name: float((network(inputs) - wanted).square().mean().sqrt()) for name, network in networks.items()}


if __name__ == "__main__":
    print("\n".join(f"{name:9} {error:.4f}" for name, error in main().items()))
