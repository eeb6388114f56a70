"""Agents as DrQ-v2 saves them: objects of classes of these names, which `torch.save` writes with all that they hold.

The readers know the classes by their names alone; nothing here computes what DrQ-v2 does, but for `action`.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    def __init__(self, frames: int, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, stride in enumerate(strides):
            layers += [nn.Conv2d(channels if index else frames, channels, 3, stride=stride), nn.ReLU()]
        self.convnet = nn.Sequential(*layers)


class Actor(nn.Module):
    def __init__(self, inputs: int, features: int, hidden: int, actions: int, normalized: bool) -> None:
        super().__init__()
        after = [nn.LayerNorm(features), nn.Tanh()] if normalized else [nn.ReLU()]
        self.trunk = nn.Sequential(nn.Linear(inputs, features), *after)
        self.policy = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, actions),
        )


class Timer:
    def __init__(self) -> None:
        self._start_time = 1.5


class DrQV2Agent:
    """What acts, what is trained beside it, and the optimisers of both."""

    def __init__(
        self,
        size: int = 20,
        frames: int = 3,
        channels: int = 4,
        features: int = 6,
        hidden: int = 8,
        actions: int = 2,
        normalized: bool = False,
        strides: tuple[int, ...] = (2, 1, 1, 1),
    ) -> None:
        self.device = torch.device("cpu")
        self.stddev_schedule = "linear(1.0,0.1,500000)"
        with torch.random.fork_rng():
            torch.manual_seed(0)  # an agent is always the same
            self._build(size, frames, channels, features, hidden, actions, normalized, strides)

    def _build(
        self,
        size: int,
        frames: int,
        channels: int,
        features: int,
        hidden: int,
        actions: int,
        normalized: bool,
        strides: tuple[int, ...],
    ) -> None:
        self.encoder = Encoder(frames, channels, strides)
        with torch.no_grad():
            inputs = self.encoder.convnet(torch.zeros(1, frames, size, size)).numel()
        self.actor = Actor(inputs, features, hidden, actions, normalized)
        self.critic = Actor(inputs, features, hidden, 1, normalized=True)
        with torch.no_grad():  # of a trained network: none of it is as a new module has it
            for parameter in (*self.encoder.parameters(), *self.actor.parameters()):
                parameter.add_(0.1 * torch.randn(parameter.shape))
        self.encoder_opt = torch.optim.Adam(self.encoder.parameters(), lr=1e-4)
        self.actor_opt = torch.optim.Adam(self.actor.parameters(), lr=1e-4)
        sum(parameter.sum() for parameter in self.encoder.parameters()).backward()  # type: ignore[union-attr]
        self.encoder_opt.step()  # it has a state from now on, under keys that are parameters
        self.training = True

    def action(self, frames: Tensor) -> Tensor:
        """The deterministic action `[B, actions]` for uint8 `[B, C, H, W]`."""
        with torch.no_grad():
            signal = self.encoder.convnet(frames / 255.0 - 0.5).flatten(1)
            return torch.tanh(self.actor.policy(self.actor.trunk(signal)))

    def tensors(self) -> dict[str, Tensor]:
        """State dict of what acts."""
        parts = {"encoder": self.encoder, "actor": self.actor}
        return {
            f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()
        }


def snapshot(agent: Any, *, zipped: bool = True, **more: Any) -> bytes:
    """The file of an agent."""
    payload = {"agent": agent, "timer": Timer(), "_global_step": 12_000, "_global_episode": 24, **more}
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def as_old(agent: DrQV2Agent) -> DrQV2Agent:
    """The same, with the collections that modules of older releases of torch had: ordered dicts."""
    for module in (*agent.encoder.modules(), *agent.actor.modules()):
        for name in ("_parameters", "_modules", "_buffers"):
            module.__dict__[name] = OrderedDict(module.__dict__[name])
    return agent
