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
    """By the reference: there is no kernel for them."""
    current, threshold, carry, dynamics, bias, *_ = problem
    return reference.neuron_gradients(current, threshold, carry, dynamics, gradient, surrogate, bias)


def linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    return reference.linear_gradients(gradient, input, weight, of_input, of_weight)


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
