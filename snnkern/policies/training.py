"""`TrainableActor`: a spiking actor whose numbers are parameters, for an ordinary training loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from snnkern.errors import InputError, check_number, check_whole
from snnkern.kernels import ops
from snnkern.kernels.backends.choice import check_name
from snnkern.kernels.surrogates import parse_surrogate
from snnkern.kernels.tensors import CheckedState, check_state
from snnkern.policies.stateless import Bridges, Readout, SpikingLayer, check_carries, decide_by_layers

if TYPE_CHECKING:
    from snnkern.policies.spiking import SpikingActor

_WIDEST = 1e6  # of the carries that are drawn, as a multiple of θ


class TrainableLayer(SpikingLayer):
    """A hidden layer whose weight, bias and threshold are learnt; shapes as in `SpikingLayer`.

    Attributes:
        log_threshold: log θ, less that of the θ which training began with: it starts at 0, and a θ of 0 stays 0.
        first_threshold: the θ which training began with; not a parameter.
    """

    differentiable = True
    log_threshold: Tensor
    first_threshold: Tensor

    def __init__(self, layer: SpikingLayer) -> None:
        CheckedState.__init__(self)
        self._convolution = layer.convolution
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = nn.Parameter(layer.bias.detach().clone())
        self.log_threshold = nn.Parameter(torch.zeros_like(layer.threshold))
        self.register_buffer("first_threshold", layer.threshold.detach().clone())

    @property
    def threshold(self) -> Tensor:  # type: ignore[override]
        """θ: `[N]`, or `[C]` or `[C, H, W]` of a convolution."""
        return self.first_threshold * self.log_threshold.exp()


class TrainableReadout(Readout):
    """The output layer with weight and bias that are learnt."""

    differentiable = True

    def __init__(self, layer: Readout) -> None:
        CheckedState.__init__(self)
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = nn.Parameter(layer.bias.detach().clone())


class TrainableActor(CheckedState):
    """A spiking actor to train: weights, biases and log-thresholds are parameters, spikes have surrogate gradients.

    Made by `SpikingActor.trainable`. It holds no carry: a decision is a training example, and gets the carries that it
    is to start with. Forward it decides as the spiking actor does. Bridges and the interface are constants.

    Args:
        snn: the spiking actor to start from, which stays as it is.
        surrogate: "triangle", "sigmoid" or "atan".
        backend: a name from `snnkern.backends()`, or "auto"; that of the spiking actor where it is None.

    Raises:
        InputError: an unknown surrogate or backend.

    Source: `docs/semantics.md`, "Gradients".
    """

    hidden: Sequence[TrainableLayer]
    bridges: Bridges

    @torch.inference_mode(False)  # whose tensors cannot be learnt, not even after it
    def __init__(self, snn: SpikingActor, surrogate: str = "triangle", *, backend: str | None = None) -> None:
        super().__init__()
        parse_surrogate(surrogate)
        if backend is not None:
            check_name(backend)
        if not hasattr(snn, "stateless"):
            raise InputError(f"a TrainableActor is made of a SpikingActor, got {type(snn).__name__}")
        stateless = snn.stateless()  # refuses an α for every row
        self.hidden = cast("Sequence[TrainableLayer]", nn.ModuleList(map(TrainableLayer, stateless.hidden)))
        self.output = TrainableReadout(stateless.output)
        self.bridges = copy.deepcopy(stateless.bridges)
        for chain in self.bridges.values():
            for step in chain:
                step.differentiable = True
        self.interface = copy.deepcopy(stateless.interface)
        self.dynamics = stateless.dynamics
        self.surrogate = surrogate
        self.backend = stateless.backend if backend is None else backend
        self.check_finite = stateless.check_finite
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_inference():
                    module._buffers[name] = buffer.clone()
        self._origin = (copy.deepcopy(snn),)  # in a tuple: no module of this one, whose numbers are not its own

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """The carries that an episode starts with: zeros, `[batch, N]` or `[batch, C, H, W]` for every hidden layer."""
        return tuple(layer.first_threshold.new_zeros(batch, *layer.neuron_shape) for layer in self.hidden)

    def draw_carries(
        self, batch: int, spread: float = 0.05, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Carries for training examples, drawn evenly within ±spread · θ; shapes as in `start`.

        Args:
            batch: B.
            spread: as a fraction of θ, at least 0.
            generator: of the random numbers, on the actor's device.

        Raises:
            InputError: a number is out of range.
        """
        if not torch.compiler.is_compiling():
            check_whole("batch", batch, least=0)
            check_number("spread", spread, 0, _WIDEST)
        drawn = []
        for layer, zero in zip(self.hidden, self.start(batch), strict=True):
            threshold = layer.per_neuron(layer.threshold.detach()).reshape(layer.neuron_shape)
            drawn.append(zero.uniform_(-spread, spread, generator=generator) * threshold)
        return tuple(drawn)

    def forward(self, observation: Tensor, carries: Sequence[Tensor] | None = None) -> Tensor:
        """The action `[B, action_dim]` for an observation `[B, *observation_shape]`.

        Args:
            observation: a batch of them, of the actor's dtype or uint8.
            carries: c of every hidden layer; None where all rows start an episode.

        Raises:
            InputError: wrong shape, dtype or device; a NaN or infinity (where `check_finite`).
        """
        return self.interface.action(self.decide(observation, carries)[0])

    def decide(self, observation: Tensor, carries: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The output layer's result z `[B, action_dim]`, before tanh and scaling, and the next carries, which are cut.

        Raises:
            InputError: as `forward`.
        """
        self.interface.check(observation, check_finite=False)
        if self.check_finite and observation.is_floating_point():
            observation = ops.finite(observation)
        if carries is None:
            carries = self.start(observation.shape[0])
        self._check_carries(carries, observation.shape[0])
        z, after, _ = decide_by_layers(
            self.interface.normalize(observation),
            carries,
            self.hidden,
            self.output,
            self.dynamics,
            bridges=self.bridges,
            backend=self.backend,
            surrogate=self.surrogate,
        )
        return z, tuple(after)

    def _check_carries(self, carries: Sequence[Tensor], batch: int) -> None:
        check_carries(carries, len(self.hidden))
        for index, (layer, carry) in enumerate(zip(self.hidden, carries, strict=True)):
            shape, name = (batch, *layer.neuron_shape), f"the carry of hidden layer {index + 1}"
            if not isinstance(carry, Tensor):
                raise InputError(f"{name} must be a tensor, got {type(carry).__name__}")
            if tuple(carry.shape) != shape:
                symbols = "[B, C, H, W]" if layer.convolution else "[B, N]"
                raise InputError(f"{name} must be {symbols} = {list(shape)}, got shape {list(carry.shape)}")

    @torch.no_grad()
    def spiking(self) -> SpikingActor:
        """A spiking actor with the present numbers, of their dtype, on their device: to evaluate, to save, or to use.

        Its dense original is that of the spiking actor which training began with.

        Raises:
            InputError: training has made a number NaN or infinite.
        """
        snn: SpikingActor = copy.deepcopy(self._origin[0])
        snn = snn.to(self.output.weight)
        if not len(snn.original):
            before: list[SpikingLayer | Readout] = [*snn.hidden, snn.output]
            dense = [Readout(layer.weight.clone(), layer.bias.clone()) for layer in before]
            snn.original = cast("Sequence[Readout]", nn.ModuleList(dense))
        for own, layer in zip((*self.hidden, self.output), (*snn.hidden, snn.output), strict=True):
            for name in ("weight", "bias", "threshold"):
                if hasattr(layer, name):
                    getattr(layer, name).copy_(getattr(own, name))
        check_state(snn)  # as a file of it would be
        snn.reset()
        return snn

    def extra_repr(self) -> str:
        return f"{self.dynamics}, surrogate={self.surrogate!r}, backend={self.backend!r}"
