"""A visual actor on the kernels of `convolution.py`: packs the weights, chooses the tiles, launches them.

The convolutions that come first, and the currents of the Linear layer behind them, are computed from packed spikes. The
other layers are small: they run as in `layered.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from snnkern.kernels import backends
from snnkern.kernels.backends import ActorParts, HiddenPart, Problem, Result, layered
from snnkern.kernels.backends.triton import engine as whole
from snnkern.kernels.backends.triton.actor import BLOCK
from snnkern.kernels.backends.triton.convolution import convolution_kernel, project_kernel
from snnkern.kernels.backends.triton.engine import padded, planes, spike_bits
from snnkern.kernels.backends.triton.environment import INTERPRETED, on_device, parameters
from snnkern.kernels.backends.triton.repeated import RepeatedLaunch
from snnkern.kernels.backends.triton.tuning import Tile, choices
from snnkern.kernels.backends.tuning import bucket, milliseconds
from snnkern.kernels.neurons import Dynamics, Kind

# Positions (or rows) of a program. Tiles of 128 read weights half as often; weights are not what takes the time here.
TILES = LARGE, SMALL = whole.TILES[0], whole.TILES[2]
_STAGES = 2
_COLUMNS = 32  # channels or neurons of a program, at most
_MOST_REGISTERS = 255
_MOST_NEURONS = 2**28  # of a layer: a place in a row is a number of 32 bits
_PIECE = BLOCK.value  # inputs of a Linear layer that a program of `project_kernel` multiplies at a time
_tuned = {False: choices(convolution_kernel, TILES), True: choices(project_kernel, TILES)}  # whether it projects


def fits(actor: ActorParts) -> bool:
    """Whether the kernels serve the actor's first layers; the others run layer by layer.

    A threshold that differs from position to position cannot be folded into the weights of a convolution behind it.
    """
    first = actor.hidden[: leading(actor)]
    received = range(1, len(first) + is_projected(actor))
    return (
        actor.output[0].dtype == torch.float32
        and bool(first)
        and all(layer.threshold.dim() == 1 for layer in first)
        and all(math.prod(layer.neuron_shape) < _MOST_NEURONS for layer in first)
        and whole.is_exact([layer.threshold for layer in first], [_folded(actor, index) for index in received])
    )


def leading(actor: ActorParts) -> int:
    """How many of the first layers are convolutions without a bridge."""
    count = 0
    while count < len(actor.hidden) and actor.hidden[count].convolution and not actor.hidden[count].bridge:
        count += 1
    return count


def is_projected(actor: ActorParts) -> bool:
    """Whether a Linear layer receives the spikes of the last of the first convolutions."""
    index = leading(actor)
    return index < len(actor.hidden) and not actor.hidden[index].bridge


def _folded(actor: ActorParts, index: int) -> Tensor:
    """The weights `[K, out]` of a layer that receives packed spikes, in units of the sender's θ.

    K is in the order in which the spikes lie: (ky, kx, channel), and for a Linear layer (y, x, channel); channels are
    padded to those of the planes.
    """
    layer, sender = actor.hidden[index], actor.hidden[index - 1]
    channels, height, width = sender.neuron_shape
    if layer.convolution is None:
        weight = layer.weight.view(channels, height, width, -1).permute(1, 2, 0, 3)
    else:
        weight = layer.weight.permute(2, 3, 1, 0)
    folded = weight * sender.threshold[:, None]
    return padded(folded, (*folded.shape[:2], padded_channels(channels), folded.shape[3])).flatten(0, 2)


def padded_channels(channels: int) -> int:
    """Channels of a layer's planes: 16, or a multiple of 32."""
    return 16 if channels <= 16 else -(-channels // 32) * 32


def shared_steps(dynamics: Dynamics, tile: Tile, capability: tuple[int, int], projects: bool) -> int:
    """Steps that share one read of spikes and weights: no more than there are, or than a byte or the registers hold
    (`bench/triton_compiled.py`).

    `project_kernel` decodes four times as many words at a time; SNM's neurons do not fit beside four sums on Blackwell.
    """
    neuron = dynamics.neuron
    few = tile.rows > 16 and (projects or (neuron.kind is Kind.SNM and capability >= (10, 0)))
    return min(2 if few else 4, 8 // spike_bits(neuron), 1 << (dynamics.timesteps - 1).bit_length())


class _Kernel(ABC):
    """A launch of a decision: what is compiled, and which tile it takes for the bound rows."""

    projects: bool

    def __init__(self, dynamics: Dynamics, precision: str, channels: int, constants: dict[str, Any]) -> None:
        spec = dynamics.neuron
        self.dynamics = dynamics
        self.channels = padded_channels(channels)
        self._columns = min(self.channels, _COLUMNS)
        self._constants = constants | {
            "KIND": int(spec.kind),
            "EXPONENT_BITS": spec.levels.bit_length(),  # for 0 … L
            "BITS": spike_bits(spec),
            "UNIT": whole.scaling(spec)[1],
            "PARTS": 3 if precision == "float32" else 1,
            "STAGES": _STAGES,
        }

    def bind(self, batch: int, device: torch.device) -> None:
        """Computes so many rows from now on."""
        self.batch, self.gpu = batch, whole.gpu(device)
        self.use(_tuned[self.projects].find(self.key()) or self.usual_tile())

    def key(self) -> tuple[object, ...]:
        """What the fastest tile depends on."""
        return (self.gpu, bucket(self.batch), self.dynamics.timesteps, *self._constants.values())

    def use(self, tile: Tile) -> None:
        """Takes this tile."""
        self.tile = tile
        self.kernel: RepeatedLaunch | None = None  # with its first launch

    def usual_tile(self) -> Tile:
        """Unmeasured: the small one, which answers soonest, while large ones would leave multiprocessors idle."""
        return SMALL if self.programs(LARGE) <= self.gpu.multiprocessors else LARGE

    @abstractmethod
    def programs(self, tile: Tile) -> int:
        """Of a launch."""

    def options(self) -> dict[str, Any]:
        """What a launch is compiled for."""
        return {
            **self._constants,
            "ROWS": self.tile.rows,
            "COLUMNS": self._columns,
            "STEPS": shared_steps(self.dynamics, self.tile, self.gpu.capability, self.projects),
            "num_warps": self.tile.warps,
            "maxnreg": _MOST_REGISTERS,
            "enable_fp_fusion": False,
        }


class _Convolution(_Kernel):
    """A convolution and its neurons.

    Args:
        layer: what it is.
        folded: its weights as `_folded` has them; None for the first layer, which receives the observation.
        next_padding: of what receives its spikes; None where its mean is wanted.
        scale: of the observation, and its offset.
    """

    projects = False

    def __init__(
        self,
        layer: HiddenPart,
        folded: Tensor | None,
        next_padding: tuple[int, int] | None,
        scale: tuple[float, float],
        dynamics: Dynamics,
        precision: str,
    ) -> None:
        assert layer.convolution is not None
        (inputs, high, wide), kernel = layer.convolution.input_shape, layer.convolution.kernel
        channels, *size = layer.convolution.output_shape
        (pad_y, pad_x), (out_y, out_x) = layer.convolution.padding, next_padding or (0, 0)
        self.shape = layer.convolution.output_shape
        self.image = size[0] + 2 * out_y, size[1] + 2 * out_x, padded_channels(channels)
        self._scale = scale
        self._wants_mean = next_padding is None
        if folded is None:
            weight, depth, precision_here = layer.weight.flatten(1).T, 8, "float32"
        else:  # the block of words that leaves the fewest behind the last one
            weight, precision_here = folded * whole.scaling(dynamics.neuron)[0], precision
            depth = min((64, 32, 16), key=lambda depth: (-(-len(folded) // (4 * depth)) * depth, -depth))
        rows = -(-len(weight) // (4 * depth)) * 4 * depth
        constants = {
            "INPUT": (inputs, high, wide),
            "IMAGE": (high + 2 * pad_y, wide + 2 * pad_x, padded_channels(inputs)),
            "NEXT": self.image,
            "NEXT_PADDING": (out_y, out_x),
            "KERNEL": kernel,
            "STRIDE": layer.convolution.stride,
            "PADDING": (pad_y, pad_x),
            "OUTPUT": tuple(size),
            "CHANNELS": channels,
            "PADDED": padded_channels(channels),
            "INPUTS": rows,
            "FIRST": folded is None,
            "MEAN": self._wants_mean,
            "LEVELS": dynamics.neuron.levels,
            "DEPTH": depth,
        }
        super().__init__(dynamics, precision, channels, constants)
        self._weight = whole.operands(padded(weight, (rows, self.channels)), precision_here)
        self._bias = padded(layer.bias, (self.channels,))
        self._threshold = padded(layer.threshold, (self.channels,))

    def programs(self, tile: Tile) -> int:
        positions = self.shape[1] * self.shape[2]
        return self.batch * -(-positions // tile.rows) * (self.channels // self._columns)

    def bind(self, batch: int, device: torch.device) -> None:
        super().bind(batch, device)
        if self._wants_mean:
            self.sent = torch.zeros(batch, *self.shape, device=device)
        else:  # room behind the last image: `project_kernel` reads whole pieces
            size = planes(self.dynamics) * batch * math.prod(self.image) + _PIECE
            self.sent = torch.zeros(size, dtype=torch.int8, device=device)

    def on(self, received: Tensor, carry: Tensor, counts: Tensor, row_alpha: Tensor | None) -> RepeatedLaunch:
        """All T steps and the carry, for the observation that it is given.

        What it sends is in `sent` afterwards, and what it counted added to `counts`.
        """
        arguments = (
            "observation",
            received.view(torch.int32),
            self._weight,
            self._bias,
            self._threshold,
            carry,
            self._bias if row_alpha is None else row_alpha,
            counts,
            self.sent,
            self.sent,
            self.batch,
            self.dynamics.timesteps,
            4,
            *self._scale,
            parameters(self.dynamics),
        )
        options = self.options() | {"ROW_ALPHA": row_alpha is not None}
        return RepeatedLaunch(convolution_kernel, (self.programs(self.tile),), arguments, options)


class _Projection(_Kernel):
    """The currents of a Linear layer from the packed spikes of the convolution before it."""

    projects = True

    def __init__(self, layer: HiddenPart, folded: Tensor, dynamics: Dynamics, precision: str) -> None:
        inputs, self._width = folded.shape
        self._pieces = -(-inputs // _PIECE)
        neurons = padded_channels(self._width)
        constants = {"PITCH": inputs // 4, "PIECE": _PIECE, "NEURONS": neurons, "ALL_PIECES": self._pieces}
        super().__init__(dynamics, precision, self._width, constants)
        weight = padded(folded * whole.scaling(dynamics.neuron)[0], (self._pieces * _PIECE, neurons))
        parts = whole.operands(weight, precision)
        self._weight = parts.view(len(parts), self._pieces, _PIECE, neurons).transpose(0, 1).contiguous()
        self._bias = padded(layer.bias, (neurons,))

    def usual_tile(self) -> Tile:
        """The smallest that has all rows, since every further tile reads all weights again."""
        return SMALL if self.batch <= SMALL.rows else LARGE

    def programs(self, tile: Tile) -> int:
        return self._tiles(tile) * self._pieces

    def _tiles(self, tile: Tile) -> int:
        return -(-self.batch // tile.rows) * (self.channels // self._columns)

    def use(self, tile: Tile) -> None:
        super().use(tile)
        # As many pieces to a program as leave all multiprocessors busy.
        busy = tile.resident * self.gpu.multiprocessors
        self.share(max(1, min(self._pieces, self.programs(tile) // busy)))

    def share(self, pieces: int) -> None:
        """Gives each program so many pieces of the inputs."""
        self._of_program = pieces
        self._parts = -(-self._pieces // pieces)
        shape = (self._parts, self.dynamics.timesteps, self.batch, self.channels)
        self._currents = self._bias.new_zeros(shape)
        self.kernel = None

    def on(self) -> RepeatedLaunch:
        """The product of the received spikes that it is given."""
        arguments = (
            "received",
            self._weight,
            self._bias,
            self._currents,
            self.batch,
            self.dynamics.timesteps,
            4,
            self._of_program,
        )
        programs = (self._tiles(self.tile), self._parts)
        return RepeatedLaunch(project_kernel, programs, arguments, self.options())

    def currents(self) -> Tensor:
        """What it has computed, `[T, B, N]`."""
        every = self._currents
        return (every[0] if self._parts == 1 else every.sum(dim=0))[..., : self._width]


class Engine(backends.Engine):
    """A visual actor. Weights are packed here, once, in one of the `PRECISIONS` of `engine.py`.

    Args:
        actor: checked, and one that `fits`.
        precision: of the products between the first layers.
        neuron: what computes the neurons of the other layers.
    """

    def __init__(self, actor: ActorParts, precision: str, neuron: Callable[[Problem], Result]) -> None:
        self._first = first = leading(actor)
        self._interface = actor.interface
        scale = actor.interface.observation_scale, actor.interface.observation_offset
        self._convolutions = []
        for index, layer in enumerate(actor.hidden[:first]):
            receiver = actor.hidden[index + 1] if index + 1 < len(actor.hidden) else None
            padding: tuple[int, int] | None = None
            if receiver is not None and not receiver.bridge:
                padding = receiver.convolution.padding if receiver.convolution else (0, 0)
            folded = _folded(actor, index) if index else None
            self._convolutions.append(_Convolution(layer, folded, padding, scale, actor.dynamics, precision))
        self._projection = None
        if is_projected(actor):
            self._projection = _Projection(actor.hidden[first], _folded(actor, first), actor.dynamics, precision)
        self._rest = layered.Layers(actor, neuron, first)

    @property
    def kernels(self) -> list[_Kernel]:
        """What `launch` launches."""
        return [*self._convolutions, *([] if self._projection is None else [self._projection])]

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        self._carries, self._counts, self._row_alpha = carries, counts, row_alpha
        self._rest.bind(carries, counts, row_alpha)
        for kernel in self.kernels:
            kernel.bind(counts.shape[1], counts.device)

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        if check_finite and not layered.is_finite(observation):
            return None
        if not len(observation):
            return self._rest.nothing()
        observation = observation.contiguous()
        self._counts[: self._first].zero_()
        with on_device(observation):
            for index in range(self._first):
                self.launch(index, observation)
            current = self.launch(self._first, observation)
            if current is None:
                return self._rest.decide(self._convolutions[-1].sent.flatten(1), self._first)
            return self._rest.decide(self._rest.fire(self._first, current), self._first + 1)

    def launch(self, index: int, observation: Tensor) -> Tensor | None:
        """One of the kernels; for the projection, where there is one, the currents `[T, B, N]`."""
        if index == self._first:
            if (projection := self._projection) is None:
                return None
            projection.kernel = projection.kernel or projection.on()
            projection.kernel(self._convolutions[-1].sent.view(torch.int32))
            return projection.currents()
        convolution = self._convolutions[index]
        if convolution.kernel is None:
            received = self._convolutions[max(index - 1, 0)].sent  # which the first layer does not read
            state = self._carries[index], self._counts[index], self._row_alpha
            convolution.kernel = convolution.on(received, *state)
        convolution.kernel(observation)
        return None

    def warmup(self) -> list[Tile]:
        """Compiles the kernels for the bound rows and keeps each one's fastest tile; carries and counts stay as they
        are. Without it the first decision compiles them. Results are kept for layers like these, as those of a whole
        actor's kernel.
        """
        before = [tensor.clone() for tensor in (*self._carries, self._counts)]
        shape = self._counts.shape[1], *self._interface.observation_shape
        observation = torch.zeros(shape, dtype=self._interface.observation_dtype, device=self._counts.device)
        for index, kernel in enumerate(self.kernels if len(observation) else ()):
            tuned, times = _tuned[kernel.projects], {}
            unmeasured = tuned.find(kernel.key()) or (kernel.tile if INTERPRETED else None)
            for tile in TILES if unmeasured is None else (unmeasured,):
                kernel.use(tile)
                times[tile] = milliseconds(partial(self.launch, index, observation), observation.device)
            best = min(times, key=lambda tile: times[tile])
            if unmeasured is None:
                tuned.keep(kernel.key(), best)
            kernel.use(best)
        self.decide(observation, False, 1)
        for tensor, value in zip((*self._carries, self._counts), before, strict=True):
            tensor.copy_(value)
        return [kernel.tile for kernel in self.kernels]
