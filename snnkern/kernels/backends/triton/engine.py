"""The whole actor of `actor.py`: packs the weights, chooses the size of tiles, launches the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels import backends
from snnkern.kernels.backends import ActorParts
from snnkern.kernels.backends.triton.actor import BLOCK, actor_kernel
from snnkern.kernels.backends.triton.environment import INTERPRETED, on_device, parameters
from snnkern.kernels.backends.triton.repeated import RepeatedLaunch
from snnkern.kernels.backends.triton.tuning import Tile, choices
from snnkern.kernels.backends.tuning import bucket, milliseconds
from snnkern.kernels.neurons import Dynamics, Kind, Neuron
from snnkern.kernels.tensors import is_plain

# How currents between hidden layers are multiplied. The first and the output layer are float32 always: they are cheap.
PRECISIONS = ("float32", "tf32", "bf16")

_WIDEST_HIDDEN = 1024
_WIDEST_OBSERVATION = 4096
_WIDEST_ACTION = 64
_MOST_LAYERS = 6  # each is code of its own
_MOST_PLANES = 8192  # bytes that a row of the widest layer takes in scratch memory: planes times neurons
# The interpreter multiplies the bit patterns of bfloat16 numbers, so there it gets the same numbers as float32.
_OPERAND = torch.float32 if INTERPRETED else torch.bfloat16
_SMALLEST_THRESHOLD = 2.0**-100  # below, levels are not exact (`is_regular` in neurons.py)
_LARGEST_WEIGHT = 2.0**27  # of those in units of the sender's θ: see `scaling`
_STAGES = 2  # blocks of weights that are under way


# What `warmup` chooses from: what fills the tensor cores of a Hopper GPU, the same for blocks of twice the size, which
# read weights half as often, and what gives smaller batches to all multiprocessors. 32 rows would leave half of a
# program's warps to repeat what the others do.
TILES = (Tile(64, 4), Tile(128, 8), Tile(16, 4))
_MOST_REGISTERS = 255  # said, or else ptxas spills some to keep more warps
_tuned = choices(actor_kernel, TILES)


class Gpu(NamedTuple):
    """What is to be known of a device before a launch."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int


def gpu(device: torch.device) -> Gpu:
    """The device's description; a Hopper GPU of one multiprocessor, for the interpreter."""
    if device.type == "cpu":
        return Gpu("", (9, 0), 1)
    found = torch.cuda.get_device_properties(device)
    return Gpu(found.name, (found.major, found.minor), found.multi_processor_count)


def default_tile(batch: int, multiprocessors: int) -> Tile:
    """16 rows, which answer soonest, while no multiprocessor has two tiles; else 64, which read weights less often."""
    large, _, small = TILES
    return small if batch <= small.rows * multiprocessors else large


def block(neuron: Neuron, tile: Tile, precision: str, capability: tuple[int, int]) -> tuple[int, int]:
    """Neurons that a program works on at a time, and steps that share one read of weights.

    As many as there are registers for: with more, something spills on one of the targets (`bench/triton_compiled.py`).
    Before Hopper, tensor cores multiply from registers, and TF32's operands take twice as many; SNM's in TF32 fit on
    Blackwell, which sums elsewhere, only a step at a time. A tile of 16 rows has few sums: its warps share the columns,
    8 for each. A byte may hold one step only.
    """
    blackwell = capability >= (10, 0)
    half = capability < (9, 0) or (precision == "tf32" and not (blackwell and neuron.kind is Kind.SNM))
    narrow = tile.rows > 16 and (neuron.differential or half)
    alone = neuron.kind is Kind.SNM or (neuron.kind is Kind.MT and precision == "bf16")
    one_level = neuron.kind in (Kind.MT, Kind.DC) and neuron.levels == 1
    return 16 if narrow else 32, min(8 // spike_bits(neuron), 1 if one_level or (alone and not narrow) else 2)


def fits(actor: ActorParts) -> bool:
    """Whether the kernel serves this actor; the others run layer by layer."""
    if not actor.is_plain:
        return False
    observation, *hidden = [weight.shape[0] for weight in actor.weights]
    outputs = actor.output[0].shape[1]
    return (
        actor.output[0].dtype == torch.float32
        and len(hidden) <= _MOST_LAYERS
        and 1 <= observation <= _WIDEST_OBSERVATION
        and 1 <= min(hidden)
        and max(hidden) <= _WIDEST_HIDDEN
        and 1 <= outputs <= _WIDEST_ACTION
        and planes(actor.dynamics) * _padded_hidden(max(hidden)) <= _MOST_PLANES
        and is_exact(
            [layer.threshold for layer in actor.hidden], [_folded(actor, index) for index in range(1, len(hidden))]
        )
    )


def is_exact(thresholds: Sequence[Tensor], folded: Iterable[Tensor]) -> bool:
    """Whether levels and currents are, of these θ and of weights in units of the sender's θ."""
    every = torch.cat([threshold.flatten() for threshold in thresholds])
    irregular = (every != 0) & ~((every >= _SMALLEST_THRESHOLD) & every.isfinite())
    return not bool(irregular.any()) and all(bool((weight.abs() < _LARGEST_WEIGHT).all()) for weight in folded)


def _folded(actor: ActorParts, index: int) -> Tensor:
    """The weights of a hidden layer in units of its sender's θ."""
    return actor.hidden[index - 1].threshold[:, None] * actor.hidden[index].weight


def scaling(neuron: Neuron) -> tuple[float, float]:
    """What weights between hidden layers are multiplied with, and then currents: the kernel's `decode` says why.

    A spike ±2^-j arrives there as ±2^(L − j − 127), or as ±2 where there is one size. Weights scaled by 2^100 and
    smaller than 2^27 have finite products of normal size. All factors are powers of two, so nothing is rounded.
    """
    return (0.5, 1.0) if neuron.levels == 1 else (2.0**100, 2.0 ** (27 - neuron.levels))


def spike_bits(neuron: Neuron) -> int:
    """Bits of a packed spike: its size, which is 0 or one of L levels, and its sign where it has one."""
    return neuron.levels.bit_length() + neuron.signed


def planes(dynamics: Dynamics) -> int:
    """Bytes that all steps of a neuron take, packed."""
    return -(-dynamics.timesteps // (8 // spike_bits(dynamics.neuron)))


def chosen_precision() -> str:
    """What SNNKERN_TRITON_PRECISION says, float32 by default.

    Raises:
        InputError: it says something else than one of `PRECISIONS`.
    """
    precision = os.environ.get("SNNKERN_TRITON_PRECISION", "float32")
    if precision not in PRECISIONS:
        raise InputError(f"SNNKERN_TRITON_PRECISION must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return precision


class Engine(backends.Engine):
    """A whole actor in one launch. Weights are packed here, once, in one of the `PRECISIONS`."""

    def __init__(self, actor: ActorParts, precision: str) -> None:
        self._precision = precision
        spec, dynamics, interface = actor.dynamics.neuron, actor.dynamics, actor.interface
        self._widths = (interface.observation_dim, *(weight.shape[1] for weight in actor.weights))
        widths = (_power(self._widths[0]), *map(_padded_hidden, self._widths[1:-1]), _power(self._widths[-1]))
        self._padded = widths
        self._dynamics = dynamics
        self._weights = self._pack(actor)
        biases = [*(layer.bias for layer in actor.hidden), actor.output[1]]
        self._biases = tuple(padded(bias, (width,)) for bias, width in zip(biases, widths[1:], strict=True))
        self._thresholds = tuple(
            padded(layer.threshold, (width,)) for layer, width in zip(actor.hidden, widths[1:-1], strict=True)
        )
        self._scale, self._shift = interface.action_scale, interface.action_bias
        # Without a normalisation none is read.
        self._mean = self._scale if interface.observation_mean is None else interface.observation_mean
        self._std = self._scale if interface.observation_std is None else interface.observation_std
        self._clip = interface.observation_clip
        self._planes = planes(dynamics)
        self._constants: dict[str, Any] = {
            "WIDTHS": self._widths,
            "PADDED": widths,
            "WIDEST": max(widths[1:-1]),
            "HIDDEN": len(actor.hidden),
            "KIND": int(spec.kind),
            "LEVELS": spec.levels,
            "EXPONENT_BITS": spec.levels.bit_length(),  # for 0 … L
            "BITS": spike_bits(spec),
            "UNIT": scaling(spec)[1],
            "STAGES": _STAGES,
            "PARTS": 3 if self._precision == "float32" else 1,
            "NORMALIZE": interface.observation_mean is not None,
            "SQUASH": interface.squash,
        }

    def _pack(self, actor: ActorParts) -> tuple[Tensor, ...]:
        """Weights `[parts, in, out]`, padded with 0, those between hidden layers in units of the sender's θ."""
        layers = actor.weights
        packed = []
        for index, (weight, shape) in enumerate(zip(layers, pairwise(self._padded), strict=True)):
            between = 0 < index < len(layers) - 1
            if between:
                weight = _folded(actor, index) * scaling(actor.dynamics.neuron)[0]
            weight = padded(weight, shape)
            packed.append(operands(weight, self._precision if between else "float32"))
        return tuple(packed)

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        self._carries, self._counts, self._row_alpha = tuple(carries), counts, row_alpha
        self._batch = counts.shape[1]
        self._gpu = gpu(counts.device)
        self._use(_tuned.find(self._key()) or default_tile(self._batch, self._gpu.multiprocessors))

    def _key(self) -> tuple[object, ...]:
        """What the fastest tile depends on."""
        return (self._gpu, bucket(self._batch), self._precision, self._dynamics.timesteps, *self._constants.values())

    def _use(self, tile: Tile) -> None:
        self._tile = tile
        self._tiles = -(-self._batch // tile.rows)
        # As many as are on the device at once: each works off several tiles.
        self._programs = min(self._tiles, tile.resident * self._gpu.multiprocessors)
        size = self._programs * 2 * self._planes * tile.rows * self._constants["WIDEST"]
        self._scratch = torch.empty(size, dtype=torch.int8, device=self._counts.device)
        self._kernel = self._on(self._carries, self._counts)

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        # Asking whether all is finite waits for the GPU: `check_finite = False` where that matters.
        if check_finite and not bool(torch.isfinite(observation).all()):
            return None
        return self._launch(observation.contiguous(), self._kernel)

    def usual(self, observation: Tensor, check_finite: bool) -> Tensor | None:
        if not is_plain(observation, (self._batch, self._widths[0]), torch.float32, self._counts.device):
            return None
        return self.decide(observation, check_finite, 1)

    def warmup(self) -> Tile:
        """Compiles the kernel for the bound rows and keeps the fastest tile; the carries and counts stay as they are.

        Without it the first decision compiles the kernel, for the default tile or for the one that was found fastest
        for a batch like this. What was found is kept, also for later processes, and is not measured again.
        """
        observation = self._scale.new_zeros(self._batch, self._widths[0])
        carries, counts = tuple(carry.clone() for carry in self._carries), self._counts.clone()
        known = _tuned.find(self._key())
        unmeasured = known or (self._tile if INTERPRETED or not self._batch else None)
        times = {}
        for tile in TILES if unmeasured is None else (unmeasured,):
            self._use(tile)
            kernel = self._on(carries, counts)
            times[tile] = milliseconds(partial(self._launch, observation, kernel), observation.device)
        best = min(times, key=lambda tile: times[tile])
        if unmeasured is None:
            _tuned.keep(self._key(), best)
        self._use(best)
        return best

    def _on(self, carries: tuple[Tensor, ...], counts: Tensor) -> RepeatedLaunch:
        """The kernel on these carries and counts, with the present tile; it is given observation and action."""
        spec, dynamics = self._dynamics.neuron, self._dynamics
        columns, steps = block(spec, self._tile, self._precision, self._gpu.capability)
        arguments = (
            "observation",
            self._mean,
            self._std,
            self._weights,
            self._biases,
            self._thresholds,
            carries,
            self._scale if self._row_alpha is None else self._row_alpha,
            counts,
            "action",
            self._scale,
            self._shift,
            self._scratch,
            self._scratch.view(torch.int32),
            self._batch,
            self._tiles,
            dynamics.timesteps,
            4,
            self._clip,
            parameters(dynamics),
        )
        options = {
            **self._constants,
            "ROW_ALPHA": self._row_alpha is not None,
            "ROWS": self._tile.rows,
            "COLUMNS": columns,
            "STEPS": steps,
            "num_warps": self._tile.warps,
            "maxnreg": _MOST_REGISTERS,
            "enable_fp_fusion": False,
        }
        return RepeatedLaunch(actor_kernel, (self._programs,), arguments, options)

    def _launch(self, observation: Tensor, kernel: RepeatedLaunch) -> Tensor:
        action = observation.new_empty(self._batch, self._widths[-1])
        if self._batch:
            with on_device(observation):
                kernel(observation, action)
        return action


def operands(weight: Tensor, precision: str) -> Tensor:
    """Weights `[in, out]` as tensor cores take them, `[parts, in, out]`."""
    if precision == "float32":
        return split(weight).to(_OPERAND)
    if precision == "tf32":
        return rounded_to_tf32(weight)[None].contiguous()
    return weight.to(torch.bfloat16)[None].to(_OPERAND)


def split(weight: Tensor) -> Tensor:
    """A float32 tensor as three bfloat16 ones, stacked, whose sum it is."""
    high = weight.to(torch.bfloat16)
    middle = (weight - high.float()).to(torch.bfloat16)
    low = (weight - high.float() - middle.float()).to(torch.bfloat16)
    return torch.stack([high, middle, low])


def rounded_to_tf32(weight: Tensor) -> Tensor:
    """A float32 tensor rounded to the 10 bits that TF32 multiplies; tensor cores would cut the others off."""
    bits = weight.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & -0x2000).view(torch.float32)


def padded(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A copy with zeros behind each dimension."""
    larger = tensor.new_zeros(shape)
    larger[tuple(slice(size) for size in tensor.shape)] = tensor
    return larger


def _power(width: int) -> int:
    """The next power of two, at least the 16 that tensor cores take."""
    return max(16, 1 << (width - 1).bit_length())


def _padded_hidden(width: int) -> int:
    """A quarter of a block of inputs must be at least 16 wide, and a layer a block or several."""
    block = BLOCK.value
    return max(64, _power(width)) if width <= block else -(-width // block) * block
