"""Triton kernels for NVIDIA GPUs: layers in float32, bfloat16 and float16, whole actors in float32.

Layers compute in float32 whatever the storage is. With TRITON_INTERPRET=1 in the environment, set before triton is
first imported, the kernels run on the CPU in Triton's interpreter: slow, and made for tests. triton is imported where
it is first used.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

from snnkern.kernels import reference
from snnkern.kernels.backends import ActorParts, Engine, Gradients, Problem, Result, layered
from snnkern.kernels.backends.triton.environment import INTERPRETED, on_device, parameters
from snnkern.kernels.neurons import Neuron
from snnkern.kernels.surrogates import Surrogate

NAME = "triton"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OLDEST = (8, 0)  # compute capability: the first with bfloat16 tensor cores
# 3.4 has no loops whose invariants stay where they are (`disable_licm`), and 3.5 takes no element of a tuple as a size.
_OLDEST_RELEASE = (3, 6)

# Two elements per thread: an 8-byte read per step, the next one under way, and so few registers (docs/gpu.md) that the
# multiprocessors hold all the threads they can. MT and DC in 2-byte storage wait for instructions rather than for
# memory: four elements share those of the loop, in registers for 32 warps.
TILE_ELEMENTS = 256
NARROW_TILE_ELEMENTS, NARROW_REGISTERS = 512, 64
TILE_WARPS = 4

# Of the way back: the steps whose slopes registers hold, and how many tiles of rows a program takes one after the other
# where there are many: sums over the batch are as many as programs. With so many registers, a multiprocessor has room
# for four programs of IF, LIF and SNM, for three of MT and DC, or for two with the most; with fewer, they would spill.
SEGMENT = 8
MANY_PROGRAMS, LONGEST_STRIP = 4096, 16
PLAIN_REGISTERS, GRADIENT_REGISTERS, MOST_REGISTERS = 128, 168, 255


def detail() -> str:
    where = "the interpreter, on the CPU" if INTERPRETED else torch.cuda.get_device_name()
    return f"Triton {release()} on {where}; float32, bfloat16 and float16"


@functools.cache
def unavailable() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install 'snnkern[triton]'"
    if not INTERPRETED and (not torch.cuda.is_available() or torch.version.hip is not None):
        return "PyTorch sees no NVIDIA GPU"
    return too_old()


def release() -> str:
    import triton

    return str(triton.__version__)


def too_old() -> str:
    """Why this release of Triton cannot compile the kernels; empty where it can."""
    if tuple(map(int, release().split(".")[:2])) >= _OLDEST_RELEASE:
        return ""
    return f"Triton {release()} is too old: {'.'.join(map(str, _OLDEST_RELEASE))} or newer is needed"


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    if dtype not in _DTYPES:
        return False
    if device.type == "cpu":
        return INTERPRETED
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _OLDEST


def neuron(problem: Problem) -> Result:
    from snnkern.kernels.backends.triton.neurons import neuron_kernel

    current, dynamics, spec = problem.current, problem.dynamics, problem.dynamics.neuron
    threshold, carry = problem.threshold.contiguous(), problem.carry.contiguous()
    bias = None if problem.bias is None else problem.bias.contiguous()
    row_alpha = None if problem.row_alpha is None else problem.row_alpha.contiguous()
    batch, neurons = carry.shape
    constant = current.dim() == 2
    elements = tile_elements(spec, carry.dtype)
    rows, columns = tile_shape(neurons, elements)
    whole_rows = neurons <= columns

    result = problem.new_result()
    if not (whole_rows and batch and neurons):
        result.counts.zero_()
    if batch and neurons:
        tiles = -(-batch // rows) * -(-neurons // columns)
        with on_device(carry):
            neuron_kernel[(tiles,)](
                current,
                threshold,
                threshold if bias is None else bias,
                carry,
                result.output,
                result.carry,
                threshold if row_alpha is None else row_alpha,
                result.counts,
                batch,
                neurons,
                dynamics.timesteps,
                0 if constant else current.stride(0),
                current.stride(-2),
                current.stride(-1),
                parameters(dynamics),
                spec.levels,
                KIND=int(spec.kind),
                LEVELS=spec.levels,
                CONSTANT=constant,
                SPIKES=problem.wants_spikes,
                HAS_BIAS=bias is not None,
                ROW_ALPHA=row_alpha is not None,
                ROWS=rows,
                COLUMNS=columns,
                WHOLE_ROWS=whole_rows,
                num_warps=TILE_WARPS,
                maxnreg=NARROW_REGISTERS if elements == NARROW_TILE_ELEMENTS else None,
                enable_fp_fusion=False,
            )
    return result


def neuron_gradients(problem: Problem, gradient: Tensor, surrogate: Surrogate) -> Gradients:
    from snnkern.kernels.backends.triton.gradients import gradient_kernel, kept_numbers

    current, dynamics, spec = problem.current, problem.dynamics, problem.dynamics.neuron
    threshold, carry = problem.threshold.contiguous(), problem.carry.contiguous()
    bias = None if problem.bias is None else problem.bias.contiguous()
    batch, neurons = carry.shape
    timesteps, constant, of_mean = dynamics.timesteps, current.dim() == 2, gradient.dim() == 2
    segment = min(timesteps, SEGMENT)
    whole = timesteps == segment
    rows, columns = tile_shape(neurons, TILE_ELEMENTS)
    across, strip = -(-neurons // columns), strip_length(batch, neurons)
    strips = -(-batch // (rows * strip))

    of_current, of_carry = carry.new_empty(current.shape), carry.new_empty(carry.shape)
    sums = carry.new_empty(1 + spec.differential, strips, neurons, dtype=torch.float32)
    segments = 0 if whole else -(-timesteps // segment)
    states = carry.new_empty(segments, kept_numbers(int(spec.kind)), batch, neurons, dtype=torch.float32)
    if batch and neurons:
        with on_device(carry):
            gradient_kernel[(strips * across,)](
                current,
                gradient,
                threshold,
                threshold if bias is None else bias,
                carry,
                of_current,
                of_carry,
                sums,
                states,
                batch,
                neurons,
                timesteps,
                strip,
                0 if constant else current.stride(0),
                current.stride(-2),
                current.stride(-1),
                0 if of_mean else gradient.stride(0),
                gradient.stride(-2),
                gradient.stride(-1),
                parameters(dynamics),
                spec.levels,
                KIND=int(spec.kind),
                LEVELS=spec.levels,
                CONSTANT=constant,
                OF_MEAN=of_mean,
                HAS_BIAS=bias is not None,
                SURROGATE=int(surrogate),
                SEGMENT=segment,
                WHOLE=whole,
                ROWS=rows,
                COLUMNS=columns,
                num_warps=TILE_WARPS,
                maxnreg=_gradient_registers(spec, whole, surrogate, carry.device),
                enable_fp_fusion=False,
            )
    of_threshold, *of_bias = sums.sum(dim=1).to(carry.dtype)  # in an order that the shape decides
    return Gradients(of_current, of_threshold, of_carry, of_bias[0] if of_bias else torch.zeros_like(of_threshold))


def linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    return reference.linear_gradients(gradient, input, weight, of_input, of_weight)  # torch's own products


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return reference.linear(input, weight.T, bias)  # torch's own product (cuBLAS) is as good as it gets


def engine(actor: ActorParts) -> Engine | None:
    from snnkern.kernels.backends.triton import engine as triton_engine
    from snnkern.kernels.backends.triton import visual

    if not actor.is_plain:
        serves_first = visual.fits(actor)
        return (
            visual.Engine(actor, triton_engine.chosen_precision(), neuron)
            if serves_first
            else layered.Engine(actor, neuron)
        )
    return triton_engine.Engine(actor, triton_engine.chosen_precision()) if triton_engine.fits(actor) else None


def strip_length(batch: int, neurons: int) -> int:
    """Tiles of rows that a program of the way back works off: by the shape alone, which so decides how sums round."""
    rows, columns = tile_shape(neurons, TILE_ELEMENTS)
    tiles = -(-batch // rows) * -(-neurons // columns)
    return min(max(tiles // MANY_PROGRAMS, 1), LONGEST_STRIP)


def _gradient_registers(neuron: Neuron, whole: bool, surrogate: Surrogate, device: torch.device) -> int:
    """What ptxas may take of a multiprocessor's."""
    from snnkern.kernels.backends.triton.engine import gpu

    if not neuron.multilevel:
        return PLAIN_REGISTERS
    crowded = not whole or surrogate is Surrogate.SIGMOID
    blackwell = gpu(device).capability >= (10, 0)
    return MOST_REGISTERS if crowded or (neuron.differential and blackwell) else GRADIENT_REGISTERS


def tile_elements(neuron: Neuron, dtype: torch.dtype) -> int:
    """Neurons of a program."""
    return NARROW_TILE_ELEMENTS if neuron.multilevel and dtype.itemsize == 2 else TILE_ELEMENTS


def tile_shape(neurons: int, elements: int) -> tuple[int, int]:
    """Rows and columns of a tile: the widest one that wastes the fewest columns beyond the last neuron.

    A tile that is narrower than a row keeps at least 64 columns, so that a warp reads whole cache lines.
    """
    widths = [width for width in (256, 128, 64, 32, 16) if width >= min(neurons, 64)]
    columns = min(widths, key=lambda width: (-(-neurons // width) * width, -width))
    return elements // columns, columns
