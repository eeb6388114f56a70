"""`CapturedDecision`, a decision as a CUDA graph; `SpikingActor.capture` makes it."""

from __future__ import annotations

import torch
from torch import Tensor

from snnkern.kernels.backends import Engine
from snnkern.kernels.nn import as_column
from snnkern.kernels.tensors import lasting


class CapturedDecision:
    """One decision of a spiking actor with static buffers: write `observation`, call `replay()`, read `action`.

    Nothing is checked. A replay runs on torch's current stream; the carry is kept between replays.

    Attributes:
        observation: `[B, *observation_shape]`, uint8 where the actor sees that; fill it in place.
        action: `[B, action_dim]`; the next replay overwrites it.
        spikes: spikes sent in the last decision, per hidden layer and row, int64 `[hidden layers, B]`; likewise.
        carries: c of every hidden layer, `[B, N]` or `[B, C, H, W]`; likewise.
    """

    def __init__(self, engine: Engine, carries: list[Tensor], row_alpha: Tensor | None, observation: Tensor) -> None:
        batch = carries[0].shape[0]
        device = carries[0].device
        # The graph's own memory, and what others see of it.
        self._observation, self.observation = lasting(observation)
        counts, self.spikes = lasting(torch.zeros(len(carries), batch, dtype=torch.int64, device=device))
        own, shown = zip(*map(lasting, carries), strict=True)
        self.carries = carries = list(shown)
        self._engine = engine  # holds the weights that the graph reads
        engine.bind(list(own), counts, row_alpha)
        self._graph = torch.cuda.CUDAGraph()
        before = [carry.clone() for carry in carries]
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # once without a graph: whatever a backend compiles or loads, it does now
                self._decide()
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph):
                self.action = self._decide()
        for carry, value in zip(carries, before, strict=True):
            carry.copy_(value)
        self.spikes.zero_()

    def replay(self) -> Tensor:
        """Decides for the present content of `observation`, and returns `action`."""
        self._graph.replay()
        return self.action

    def reset(self, mask: Tensor | None = None) -> None:
        """Starts a new episode: in all rows, or in those where `mask` `[B]`, boolean and on the device, is True."""
        for carry in self.carries:
            carry.zero_() if mask is None else carry.masked_fill_(as_column(mask, carry), 0.0)

    def _decide(self) -> Tensor:
        action = self._engine.decide(self._observation, False, 1)
        assert action is not None
        return action
