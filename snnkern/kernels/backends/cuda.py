"""Native CUDA kernels (`csrc/cuda`): layers in float32 and float64, whole actors in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnkern.kernels import backends, reference
from snnkern.kernels.backends import ActorParts, Gradients, HiddenPart, Problem, Result, clusters, layered
from snnkern.kernels.backends.native import Packed, interface_arguments, run_gradients, run_neuron, stream_on
from snnkern.kernels.backends.tuning import bucket
from snnkern.kernels.neurons import Dynamics, Numbers
from snnkern.kernels.surrogates import Surrogate

_reason = ""
try:
    import snnkern._cuda as _cuda
except ImportError as error:
    _cuda = None
    _reason = f"the CUDA kernels were not built: reinstall where there is nvcc ({error})"

NAME = "cuda"

_DTYPES = (torch.float32, torch.float64)

# Of the way back: how many rows a thread takes one after the other, where a layer has more neurons than this. Sums over
# the batch are as many as such strips.
MANY_NEURONS, LONGEST_STRIP = 2**20, 16


def native() -> Any:
    """The module of the kernels."""
    return _cuda


def detail() -> str:
    return f"native kernels on {torch.cuda.get_device_name()}, float32 and float64"


def unavailable() -> str:
    if _cuda is None:
        return _reason
    return _no_device()


@functools.cache
def _no_device() -> str:
    return "" if torch.cuda.is_available() else "torch finds no CUDA device"


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in _DTYPES


def neuron(problem: Problem) -> Result:
    result = problem.new_result()
    kernel = _cuda.neuron_float32 if problem.carry.dtype == torch.float32 else _cuda.neuron_float64
    run_neuron(kernel, problem, result, _address, **_place(problem.carry))
    return result


def neuron_at_once(
    current: Tensor,
    threshold: Tensor,
    carry: Tensor,
    bias: Tensor | None,
    row_alpha: Tensor | None,
    dynamics: Dynamics,
    wants_spikes: bool,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """`neuron` of unchecked tensors in one native call; None, with nothing done, where that does not know them."""
    call = _layer_call()
    if call is None:
        return None
    arguments = current, threshold, carry, bias, row_alpha, _numbers(dynamics), wants_spikes, _device_of(current)
    found: tuple[Tensor, Tensor, Tensor] | None = call(*arguments)
    return found


def neuron_gradients(problem: Problem, gradient: Tensor, surrogate: Surrogate) -> Gradients:
    carry, differential = problem.carry, problem.dynamics.neuron.differential
    batch, neurons = carry.shape
    strip = strip_length(batch, neurons)
    sums = carry.new_empty(1 + differential, -(-batch // strip), neurons)
    of_current, of_carry = carry.new_empty(problem.current.shape), carry.new_empty(carry.shape)
    scratch = carry.new_empty(_cuda.gradient_scratch(problem.dynamics.numbers), batch, neurons)
    kernel = _cuda.neuron_gradients_float32 if carry.dtype == torch.float32 else _cuda.neuron_gradients_float64
    to = Gradients(of_current, sums[0], of_carry, sums[-1])
    run_gradients(kernel, problem, gradient, surrogate, to, scratch, _address, strip=strip, **_place(carry))
    of_threshold, *of_bias = sums.sum(dim=1)  # in an order that the shape decides
    return Gradients(of_current, of_threshold, of_carry, of_bias[0] if of_bias else torch.zeros_like(of_threshold))


def strip_length(batch: int, neurons: int) -> int:
    """Rows that a thread of the way back works off: by the shape alone, which so decides how sums round."""
    return min(max(batch * neurons // MANY_NEURONS, 1), LONGEST_STRIP)


def linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    return reference.linear_gradients(gradient, input, weight, of_input, of_weight)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """torch's product, in the precision that torch is set to: see docs/gpu.md."""
    return torch.nn.functional.linear(input, weight.T, bias)


def engine(actor: ActorParts) -> backends.Engine | None:
    if not actor.is_plain:
        return layered.Engine(actor, neuron)
    widest = max(size for weight in actor.weights for size in weight.shape)
    if actor.output[0].dtype != torch.float32 or widest > _cuda.most_neurons or len(actor.hidden) > _cuda.most_hidden:
        return None
    made = Engine(actor)
    return made if made.fits() else None


class Rows(NamedTuple):
    """What an engine works on, as `Engine.bind` gets it."""

    carries: list[Tensor]
    counts: Tensor
    alpha: Tensor | None


class Engine(backends.Engine):
    """A whole actor in one launch (`csrc/cuda/actor.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        weight, bias = actor.output
        self._packed = Packed()
        self._folded: list[Tensor] = []  # weights of the hidden layers
        self._clustered: list[Tensor] = []  # the same as clusters of blocks have them; made when they are wanted
        self._dynamics = actor.dynamics
        self._outputs = weight.shape[1]
        self._native = _cuda.Engine(
            device=_device_of(weight),
            dynamics=actor.dynamics.numbers,
            tiny=any(_is_tiny(layer.threshold, actor.dynamics) for layer in actor.hidden),
            layers=self._layers(actor.hidden),
            output=(self._outputs, self._packed.keep(weight.T), self._packed.keep(bias)),
            interface=interface_arguments(actor.interface, self._packed.keep),
        )
        self.fits = self._native.fits

    def _layers(self, hidden: list[HiddenPart]) -> list[tuple[int, ...]]:
        """Sizes and addresses of the layers, whose weights are in units of the sender's threshold."""
        layers = []
        sender = None
        for weight, bias, threshold, *_ in hidden:
            inputs, outputs = weight.shape
            padding = -outputs % _cuda.padding
            folded = weight if sender is None else weight * sender[:, None]
            tensors = [torch.nn.functional.pad(tensor, (0, padding)) for tensor in (folded, bias, threshold)]
            layers.append((inputs, outputs, outputs + padding, *map(self._packed.keep, tensors)))
            self._folded.append(self._packed[-len(tensors)])
            sender = threshold
        return layers

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        rows = Rows(carries, counts, row_alpha)
        self._use(rows, clusters.are_wanted(self._key(rows)))
        # Not before: a thread that is still deciding refuses the others, and needs what it is bound to.
        self._bound = rows
        self.usual = decide_at_once(self._native, carries[0])

    def _use(self, rows: Rows, by_clusters: bool) -> bool:
        """Whether clusters decide for these rows: where they are wanted, and where the device can."""
        batch = rows.counts.shape[1]
        addresses = [carry.data_ptr() for carry in rows.carries]
        self._native.bind(batch, addresses, rows.counts.data_ptr(), _address(rows.alpha))
        columns = self._native.cluster_columns(batch) if by_clusters else []
        if not columns:
            return False
        self._clustered = self._clustered or [
            clusters.packed(weight, count, _cuda.cluster_blocks)
            for weight, count in zip(self._folded[1:], columns[1:], strict=True)
        ]
        self._native.use_clusters([weight.data_ptr() for weight in self._clustered])
        return True

    def _key(self, rows: Rows) -> tuple[object, ...]:
        """What a decision's time depends on."""
        counts = rows.counts
        name = torch.cuda.get_device_name(counts.device) if counts.is_cuda else ""
        sizes = [size for weight in self._folded for size in weight.shape]
        return (name, bucket(counts.shape[1]), *sizes, self._outputs, self._dynamics)

    def warmup(self) -> bool:
        """Times both kernels for the bound rows and keeps the faster one; the carries and counts stay as they are.

        Returns:
            Whether clusters of blocks decide from now on.
        """
        batch = self._bound.counts.shape[1]
        key = self._key(self._bound)
        if not clusters.are_known(key) and self._native.cluster_columns(batch):
            usual, ours = self._measured(False), None
            with suppress(RuntimeError):  # the device refuses them
                ours = self._measured(True)
            clusters.keep(key, usual, ours)
        return self._use(self._bound, clusters.are_wanted(key))

    def _measured(self, by_clusters: bool) -> clusters.Measured:
        """What a kernel does with copies of the bound rows."""
        carries, counts, row_alpha = self._bound
        rows = Rows([carry.clone() for carry in carries], counts.clone(), row_alpha)
        generator = torch.Generator(counts.device).manual_seed(0)
        shape = clusters.DECISIONS, counts.shape[1], self._folded[0].shape[0]
        observations = torch.randn(shape, device=counts.device, generator=generator)
        self._use(rows, by_clusters)
        try:
            return clusters.measure(lambda number: [self._action(observations[number]), rows.counts, *rows.carries])
        finally:
            self._use(self._bound, False)

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        return decide(self._native, observation, self._bound.counts.shape[1], self._outputs, check_finite)

    def _action(self, observation: Tensor) -> Tensor:
        action = self.decide(observation, False, 1)
        assert action is not None
        return action


def decide(native: Any, observation: Tensor, rows: int, outputs: int, check_finite: bool) -> Tensor | None:
    """The action of a native engine for so many rows; None, and nothing done, where a value is not finite."""
    observation = observation.contiguous()
    action = observation.new_empty(rows, outputs)
    stream = stream_on(_device_of(observation))
    done = native.decide(stream, observation.data_ptr(), action.data_ptr(), check_finite)
    return action if done else None


def decide_at_once(native: Any, carry: Tensor) -> Callable[[Tensor, bool], Tensor | None] | None:
    """`Engine.usual` of a native engine for the rows that it is bound to, of whose carries this is one."""
    reader = _torch()
    if reader is None or not carry.numel():
        return None
    made: Callable[[Tensor, bool], Tensor | None] = native.call(reader, carry, stream_on)
    return made


def _place(tensor: Tensor) -> dict[str, int]:
    """Where a kernel on this tensor runs: its device, and what is torch's current stream there."""
    device = _device_of(tensor)
    return {"device": device, "stream": stream_on(device)}


def _device_of(tensor: Tensor) -> int:
    return tensor.get_device()


@functools.cache
def _layer_call() -> Any:
    reader = _torch() if _cuda is not None else None
    return None if reader is None else _cuda.layer_call(reader, torch.int64, stream_on)


# Of dynamics that were used last, by their identity: asking them takes longer than the launch.
_known_numbers: dict[int, tuple[Dynamics, Numbers]] = {}
_MOST_KNOWN = 256


def _numbers(dynamics: Dynamics) -> Numbers:
    known = _known_numbers.get(id(dynamics))
    if known is None:
        if len(_known_numbers) >= _MOST_KNOWN:
            _known_numbers.clear()
        known = _known_numbers[id(dynamics)] = dynamics, dynamics.numbers  # kept, so that no other has its id
    return known[1]


@functools.cache
def _torch() -> Any:
    """How native code reads tensors; None where this torch has not the table of functions that it takes."""
    base = torch._C.TensorBase
    try:
        return _cuda.Torch(
            tensor=Tensor,
            table=getattr(Tensor, "__dlpack_c_exchange_api__", None),
            requires_grad=base.requires_grad,
            is_neg=base.is_neg,
            storage_offset=base.storage_offset,
            untyped_storage=base.untyped_storage,
            nbytes=torch.UntypedStorage.nbytes,
        )
    except (TypeError, ValueError):  # there is none, or one of another version
        return None


def _is_tiny(threshold: Tensor, dynamics: Dynamics) -> bool:
    """Whether the levels of some θ are to be searched as `csrc/neuron.h` does for the smallest ones."""
    on_host = threshold.cpu().contiguous()
    return _cuda.has_tiny_threshold(on_host.data_ptr(), len(on_host), dynamics.neuron.levels, dynamics.timesteps)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
