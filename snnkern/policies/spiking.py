"""`SpikingActor`: the spiking version of an actor, which holds thresholds and the carry."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.errors import InputError, check_whole
from snnkern.kernels import ops, reference
from snnkern.kernels.backends import (
    ActorParts,
    BridgeStep,
    Engine,
    HiddenPart,
    LinearStep,
    NormStep,
    TanhStep,
    beyond_memory,
    choice,
    tuning,
)
from snnkern.kernels.backends.arguments import checked
from snnkern.kernels.backends.watch import watch
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.nn import Carry, as_tensor, check_mask, check_threshold, last_spikes, refuse_mapping
from snnkern.kernels.tensors import check_tensor, counted_together, lasting, plain, stands_for_others
from snnkern.policies.activations import RELU
from snnkern.policies.actor import Actor, Conv, Interface, Policy, describe_layers
from snnkern.policies.capture import CapturedDecision
from snnkern.policies.choices import ChoiceFiles
from snnkern.policies.stateless import (
    Bridges,
    Norm,
    Readout,
    SpikingLayer,
    StatelessActor,
    Tanh,
    bridge_step,
    check_carries,
    decide_by_layers,
    dense_step,
    describe_step,
)
from snnkern.policies.training import TrainableActor

tuning.shelf = ChoiceFiles()


class _Packed(NamedTuple):
    """What engines are packed from.

    Attributes:
        parts: of the actor, checked.
        tables: the dictionaries of its modules, and what they held then.
        tensors: those whose counters count all changes of its tensors.
        unchanged: whether the actor still consists of these parts.
    """

    parts: ActorParts
    tables: list[tuple[dict[str, Any], dict[str, Any]]]
    tensors: list[Tensor]
    unchanged: Callable[[], bool]


class _Bound(NamedTuple):
    """An engine and the rows that it decides for.

    Attributes:
        engine: what decides, on memory of its own.
        shape: of the observation.
        dtype: of the observation.
        carries: c of every hidden layer in that memory, which the actor has from its first decision for these rows on.
        counts: spikes, int64 `[hidden layers, B]`.
        unchanged: whether the actor still has these carries, and consists of what the engine was packed from.
        usual: the engine's, for these rows.
    """

    engine: Engine
    shape: tuple[int, ...]
    dtype: torch.dtype
    carries: Sequence[Tensor]
    counts: Tensor
    unchanged: Callable[[], bool]
    usual: Callable[[Tensor, bool], Tensor | None] | None


class SpikingActor(Policy):
    """The spiking version of an actor, made by `snnkern.convert`; one call is one decision.

    The module keeps the carry, and each row has its own: call `reset()` when all rows start an episode, `reset(mask)`
    when some do. Give each thread its own actor (`copy.deepcopy`): if two threads use one at once, one of them may be
    refused (`InUseError`), and the order of their decisions is left to chance.

    Weights, biases, thresholds, the interface's numbers and the carry may be changed and replaced between decisions:
    the next decision notices it, and refuses what does not fit. It cannot notice writes that torch's version counters
    do not count: through `tensor.data`, through a NumPy array of the same memory, or under `torch.inference_mode()`
    into a tensor that was made there. Nor can it notice that a carry's memory moves, as by `tensor.share_memory_()`.
    `load_state_dict` is always noticed.

    Args:
        actor: the dense actor.
        thresholds: θ of every hidden layer, `[N]` each; of a convolution one for every channel `[C]`, or for every
            neuron `[C, H, W]`.
        dynamics: neuron, T, α, μ, κ; the same for all layers.
        original: the dense actor as it was trained, if the conversion has corrected weights or biases of `actor`, or
            rewritten its activation.
        backend: a name from `snnkern.backends()`, or "auto".
        check_finite: whether an observation with a NaN or an infinity is refused. If not, a NaN silences the neurons
            that it reaches and stays in their carry until `reset`.

    Raises:
        InputError: thresholds do not fit the actor's layers, or a parameter is out of range.

    Source: `docs/semantics.md`, "Actor".
    """

    hidden: Sequence[SpikingLayer]
    output: Readout
    bridges: Bridges
    original: Sequence[Readout]  # the dense actor's layers, where the conversion has corrected them

    def __init__(
        self,
        actor: Actor,
        thresholds: Sequence[Tensor],
        dynamics: Dynamics,
        *,
        original: Actor | None = None,
        backend: str = "auto",
        check_finite: bool = True,
    ) -> None:
        super().__init__(copy.deepcopy(actor.interface), actor.metadata, check_finite)
        choice.check_name(backend)
        self._dynamics = dynamics
        self._backend = backend
        if not isinstance(thresholds, Sequence):
            raise InputError(f"thresholds must be a sequence of tensors, got {type(thresholds).__name__}")
        if len(thresholds) != len(actor.hidden):
            raise InputError(f"the actor has {len(actor.hidden)} hidden layers, got {len(thresholds)} thresholds")
        if actor.activation != RELU:
            raise InputError(f"neurons compute ReLUs, but the actor's activation is {actor.activation}: use convert")
        layers = []
        for index, (layer, convolution, threshold) in enumerate(
            zip(actor.hidden, actor.convolutions, thresholds, strict=True)
        ):
            name = f"the threshold of hidden layer {index + 1}"
            check_threshold(threshold, name)
            threshold = check_threshold(threshold.to(layer.weight), name)  # again: float64 may overflow in float32
            shapes = [tuple(layer.bias.shape), *([convolution.output_shape] if convolution else [])]
            if tuple(threshold.shape) not in shapes:
                wanted = " or ".join(str(list(shape)) for shape in shapes)
                raise InputError(f"{name} must be {wanted}, got shape {list(threshold.shape)}")
            layers.append(SpikingLayer(_transposed(layer.weight), layer.bias.detach().clone(), threshold, convolution))
        self.hidden = cast("Sequence[SpikingLayer]", nn.ModuleList(layers))
        self.output = Readout(_transposed(actor.output.weight), actor.output.bias.detach().clone())
        chains = {place: nn.ModuleList(map(bridge_step, chain)) for place, chain in actor.bridges.items()}
        self.bridges = cast("Bridges", nn.ModuleDict(chains))
        dense = [] if original is None else [*original.hidden, original.output]
        copies = [Readout(_transposed(layer.weight), layer.bias.detach().clone()) for layer in dense]
        self.original = cast("Sequence[Readout]", nn.ModuleList(copies))
        self._activation = RELU if original is None else original.activation
        self._row_alpha: Tensor | None = None
        self._spikes: Tensor | None = None
        self._packed: _Packed | None = None  # at the first decision
        self._engine: Engine | None = None  # None too where no backend has one for this actor
        self._engine_key: object = None  # of the batches that `_engine` is for
        self._bound: _Bound | None = None
        self._counted: list[Tensor] = []  # tensors that have one counter of changes
        self._count_together()
        checked(self._parts())

    @property
    def dynamics(self) -> Dynamics:
        """Neuron, T, α, μ, κ. Convert again for other ones; α alone can be set."""
        return self._dynamics

    @property
    def alpha(self) -> float | Tensor:
        """α, 0 … 1: a number for all rows, or one for each of B rows, float64 `[B]`.

        To be set to either. With one for each, a single batch tries many α at once, and calls must have B rows.

        Raises:
            InputError: not numbers from 0 to 1.
        """
        return self._dynamics.alpha if self._row_alpha is None else self._row_alpha.clone()

    @alpha.setter
    def alpha(self, alpha: float | Sequence[float] | Tensor | NDArray[np.floating]) -> None:
        if isinstance(alpha, int | float):
            self._dynamics = replace(self._dynamics, alpha=alpha)
            self._row_alpha = None
        else:
            self._row_alpha = _check_row_alpha(alpha)
        self._unpack()

    @property
    def carry(self) -> tuple[Tensor, ...] | None:
        """c of every hidden layer, `[B, N]` each, of a convolution `[B, C, H, W]`. To be set to the same.

        None where every row starts afresh; setting it to None is `reset()`.

        Raises:
            InputError: not `[B, N]` for every hidden layer, with the same B, in the actor's dtype.
        """
        values = [layer.carry.value for layer in self.hidden]
        batch = next((value.shape[0] if value.dim() else 0 for value in values if value is not None), None)
        if batch is None:
            return None
        return tuple(layer.start(batch).clone() for layer in self.hidden)

    @carry.setter
    def carry(self, carry: Sequence[Tensor] | None) -> None:
        if carry is None:
            self.reset()
            return
        check_carries(carry, len(self.hidden))
        batch = len(carry[0]) if isinstance(carry[0], Tensor) and carry[0].dim() else 0
        for index, (layer, value) in enumerate(zip(self.hidden, carry, strict=True)):
            shape, device = (batch, *layer.neuron_shape), value.device if isinstance(value, Tensor) else "cpu"
            name, symbols = f"the carry of hidden layer {index + 1}", "[B, C, H, W]" if layer.convolution else "[B, N]"
            check_tensor(name, value, shape, layer.threshold.dtype, torch.device(device), symbols)
        present = [layer.carry.value for layer in self.hidden]
        with torch.inference_mode():  # in place, as in `Carry.reset`: an engine goes on with these
            if all(value is not None and value.shape == new.shape for value, new in zip(present, carry, strict=True)):
                for held, new in zip(present, carry, strict=True):
                    cast("Tensor", held).copy_(new)
                return
        for layer, value in zip(self.hidden, carry, strict=True):
            layer.carry.value = value.detach().to(layer.threshold.device, copy=True)

    @property
    def backend(self) -> str:
        """What computes: a name from `snnkern.backends()`, or "auto"."""
        return self._backend

    @property
    def spikes(self) -> Tensor:
        """Spikes sent in the last decision, per hidden layer and row, int64 `[hidden layers, B]`."""
        return last_spikes(self._spikes).clone()

    @property
    def thresholds(self) -> tuple[Tensor, ...]:
        """θ of every hidden layer, `[N]`, `[C]` or `[C, H, W]`. They belong to these weights: `corrected_actor`."""
        return tuple(layer.threshold for layer in self.hidden)

    def forward(self, observation: Tensor) -> Tensor:
        """The action `[B, action_dim]` for an observation `[B, *observation_shape]`: one decision step.

        Raises:
            InputError: wrong shape, dtype or device; a NaN or infinity (where `check_finite`); another batch size than
                the carry's; the observation requires grad while grad is on. The carry is as before the call.
        """
        bound = None if torch.compiler.is_compiling() else self._bound
        if bound is not None and bound.usual is not None and bound.unchanged():
            action = bound.usual(observation, self.check_finite)
            if action is not None:
                return action
        usual = bound is not None and bound.usual is None and _is_plain(observation, bound)
        if bound is None or not usual or not bound.unchanged():
            usual = False
            refuse_mapping()
            self._notice_changes()
            self.interface.check(observation, check_finite=False)
            ops.refuse_grad(observation=observation)
            bound = None if stands_for_others(observation) else self._bind(observation.shape[0])
            if bound is None:
                return self._decide_by_layers(self.interface.check(observation, self.check_finite))
            observation = plain(observation)
        try:
            action = bound.engine.decide(observation, self.check_finite, torch.get_num_threads())
        except MemoryError as error:
            raise self._beyond_memory(observation.shape[0]) from error
        except RuntimeError:  # another thread is deciding, or the tensor has no memory
            refuse_mapping()
            self.interface.check(observation, check_finite=False)
            raise
        if action is None:
            self.interface.check(observation, check_finite=True)  # raises, naming the row
            raise AssertionError("the engine refused a finite observation")
        if not usual and (self._spikes is not bound.counts or not bound.unchanged()):
            for layer, carry in zip(self.hidden, bound.carries, strict=True):
                layer.carry.value = carry
            self._spikes = bound.counts
        return action

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.floating]:
        """The action for a NumPy observation, as `Policy.act`, in one call into the engine."""
        bound = self._bound
        if bound is not None and type(observation) is np.ndarray and bound.unchanged():
            threads = 1 if observation.ndim == 1 else torch.get_num_threads()
            try:
                action = bound.engine.act(observation, self.check_finite, threads)
            except MemoryError as error:
                raise self._beyond_memory(bound.shape[0]) from error
            if action is not None:
                return action
        self._notice_changes()
        return super().act(observation)

    def _beyond_memory(self, rows: int) -> InputError:
        return InputError(beyond_memory(self.dynamics.timesteps, rows, *(layer.neuron_shape for layer in self.hidden)))

    def warmup(self, batch: int = 1) -> None:
        """Prepares decisions of `batch` rows, so that the first one is not slower; carry and spikes do not change.

        On Triton it compiles the kernel and times it with a few sizes of tiles (`docs/gpu.md`). On a GPU it also times
        CUDA's kernels for few rows and for many, and takes what is right and fastest. Actors of the same form and
        device then use the fastest for all batches up to the same power of two, and so do later processes: the choice
        is kept beside what Triton compiled. Where nothing was timed, the batch decides.

        Args:
            batch: B, rows of a decision.

        Raises:
            InputError: the carry belongs to another number of rows; batch is not a whole number of at least 1.
        """
        batch = check_whole("batch", batch, least=1)
        self._notice_changes()
        bound = self._bind(batch)
        if bound is not None:
            bound.engine.warmup()
            assert self._packed is not None
            row_alpha = self._alpha_of_rows(batch)
            if choice.measure_integers(self.backend, self._packed.parts, bound.engine, batch, row_alpha):
                self._bound = None
                self._bind(batch)

    def stateless(self) -> StatelessActor:
        """The decision as a pure function: carries in, carries out. It shares this actor's weights.

        Raises:
            InputError: α is set for every row.
        """
        if self._row_alpha is not None:
            raise InputError("alpha (α) is set for every row: set it to one number before taking the decision alone")
        return StatelessActor(
            self.hidden,
            self.output,
            self.interface,
            self.dynamics,
            self.backend,
            check_finite=self.check_finite,
            bridges=self.bridges,
        )

    def trainable(self, surrogate: str = "triangle", *, backend: str | None = None) -> TrainableActor:
        """A copy whose weights, biases and log-thresholds are parameters, to train; its `spiking()` leads back.

        Args:
            surrogate: what stands for the derivative of a spike: "triangle", "sigmoid" or "atan".
            backend: a name from `snnkern.backends()`, or "auto"; this actor's where it is None.

        Raises:
            InputError: α is set for every row; an unknown surrogate or backend.
        """
        return TrainableActor(self, surrogate, backend=backend)

    @property
    def is_plain(self) -> bool:
        """As `Actor.is_plain`."""
        return self._parts().is_plain

    def architecture(self) -> dict[str, object]:
        """What a file stores of the layers in addition to their tensors, as `Actor.architecture`."""
        return describe_layers(
            [layer.convolution for layer in self.hidden],
            {place: [describe_step(step) for step in chain] for place, chain in self.bridges.items()},
            self.activation,
        )

    @property
    def activation(self) -> str:
        """Of the dense actor that it was converted from, as `Actor.activation`."""
        return self._activation

    def capture(self, batch: int = 1) -> CapturedDecision:
        """Captures one decision as a CUDA graph; replaying it takes almost no work of the CPU.

        The graph starts with a copy of the actor's carry. Afterwards graph and actor are independent, also of each
        other's new weights and `reset`. Observations are not checked.

        Args:
            batch: B, rows of the captured decision.

        Raises:
            InputError: the actor is not on a CUDA device, or too large for an engine; the carry belongs to another
                number of rows; batch is not a whole number of at least 1.
        """
        batch = check_whole("batch", batch, least=1)
        device = self.output.weight.device
        if device.type != "cuda":
            raise InputError(f"capture() makes a CUDA graph, but the actor is on {device}: move it with .to('cuda')")
        carries = self._start(batch)
        engine = self._pack(batch)
        if engine is None:
            raise InputError(f"backend {self.backend!r} runs this actor layer by layer, which cannot be captured")
        observation = torch.zeros(
            batch, *self.interface.observation_shape, dtype=self.interface.observation_dtype, device=device
        )
        return CapturedDecision(engine, carries, self._alpha_of_rows(batch), observation)

    def _decide_by_layers(self, observation: Tensor) -> Tensor:
        """One operator per layer: what runs where there is no engine, and what torch.compile sees."""
        batch = observation.shape[0]  # not len(), which would make a compiled graph one for this batch alone
        row_alpha = self._alpha_of_rows(batch)
        z, carries, counts = decide_by_layers(
            self.interface.normalize(observation),
            self._start(batch),
            self.hidden,
            self.output,
            self.dynamics,
            bridges=self.bridges,
            row_alpha=row_alpha,
            backend=self.backend,
        )
        self._bound = None
        for layer, carry in zip(self.hidden, carries, strict=True):
            layer.carry.value = carry
        self._spikes = torch.stack(counts)
        return self.interface.action(z)

    def _start(self, batch: int) -> list[Tensor]:
        """The carries `[batch, N]` or `[batch, C, H, W]` that a decision starts with."""
        uncarried = self._row_alpha is None and self._dynamics.alpha == 0
        return [layer.start(batch, uncarried) for layer in self.hidden]

    def _bind(self, batch: int) -> _Bound | None:
        """The engine, working on the carries of a batch; None where there is none for this actor."""
        if torch.compiler.is_compiling():
            return None
        bound = self._bound
        if bound is not None and bound.shape[0] == batch and bound.unchanged():
            return bound
        self._notice_changes()
        assert self._packed is not None
        key = choice.engine_key(self.backend, self._packed.parts, batch)
        if self._engine_key != key:
            self._engine, self._engine_key = self._pack(batch), key
        if self._engine is None:
            return None
        row_alpha = self._alpha_of_rows(batch)
        starts = self._start(batch)
        if any(map(stands_for_others, starts)):
            raise InputError("the carry has no memory of its own: call reset() before an observation that has")
        last = self._engine.channels_last
        own, carries = zip(*(lasting(start, last and start.dim() == 4) for start in starts), strict=True)
        counts = torch.zeros(len(own), batch, dtype=torch.int64, device=own[0].device)
        self._engine.bind(list(own), counts, row_alpha)
        tables = [(layer.carry._buffers, {"value": carry}) for layer, carry in zip(self.hidden, carries, strict=True)]
        unchanged = watch([*self._packed.tables, *tables], self._packed.tensors)
        shape, dtype = (batch, *self.interface.observation_shape), self.interface.observation_dtype
        self._bound = _Bound(self._engine, shape, dtype, carries, counts, unchanged, self._engine.usual)
        return self._bound

    def _alpha_of_rows(self, batch: int) -> Tensor | None:
        """α of every row `[batch]`, as the layers take it; None where all rows have that of the dynamics."""
        if self._row_alpha is None:
            return None
        if len(self._row_alpha) != batch:
            raise InputError(f"alpha (α) is set for each of {len(self._row_alpha)} rows, this call has {batch}")
        return self._row_alpha.to(self.output.weight)

    def _notice_changes(self) -> None:
        """Drops what was packed where the actor consists of something else by now, and refuses that if it is no actor.

        Raises:
            InputError: names the part that does not fit.
        """
        if torch.compiler.is_compiling() or (self._packed is not None and self._packed.unchanged()):
            return
        self._unpack()
        parts = self._parts()
        steps = [step for chain in self.bridges.values() for step in chain]
        modules = [*self.hidden, self.output, self.interface, *steps]
        held: list[dict[str, Any]] = [module._buffers for module in modules]
        held += [module._parameters for module in modules if module._parameters]  # where one has been set
        alike = set(map(id, self._counted))
        tensors = [tensor for table in held for tensor in table.values() if tensor is not None]
        tensors = [*self._counted[:1], *(tensor for tensor in tensors if id(tensor) not in alike)]
        folders = (self, self.hidden, self.bridges, *self.hidden, *self.bridges.values())
        held += [cast("nn.Module", module)._modules for module in folders]
        tables = [(table, dict(table)) for table in held]
        unchanged = watch(tables, tensors)  # first: what changes from here on is noticed
        self._packed = _Packed(checked(parts), tables, tensors, unchanged)

    def _parts(self) -> ActorParts:
        """What a decision is made from. Raises where the modules are not those of a spiking actor."""
        if not isinstance(self.hidden, nn.ModuleList) or not len(self.hidden):
            raise InputError(f"hidden must be a ModuleList of at least one SpikingLayer, got {self.hidden!r}")
        kinds: list[tuple[str, object, type]] = [
            *((f"hidden.{index}", layer, SpikingLayer) for index, layer in enumerate(self.hidden)),
            *(
                (f"hidden.{index}.carry", getattr(layer, "carry", None), Carry)
                for index, layer in enumerate(self.hidden)
            ),
            ("output", self.output, Readout),  # another's weight may be the transposed one
            ("bridges", self.bridges, nn.ModuleDict),
            ("interface", self.interface, Interface),
        ]
        for name, module, kind in kinds:
            if not isinstance(module, kind):
                raise InputError(f"{name} must be of class {kind.__name__}, got {type(module).__name__}")
        bridges = {place: tuple(map(_bridge_part, chain)) for place, chain in self.bridges.items()}
        return ActorParts(
            hidden=[
                HiddenPart(layer.weight, layer.bias, layer.threshold, layer.convolution, bridges.get(str(index), ()))
                for index, layer in enumerate(self.hidden)
            ],
            output=(self.output.weight, self.output.bias),
            interface=self.interface.parts(),
            dynamics=self.dynamics,
            bridge=bridges.get(str(len(self.hidden)), ()),
        )

    def _count_together(self) -> None:
        """Makes torch count the changes of all tensors of a decision in one counter: a look at each would take long."""
        steps = [step for chain in self.bridges.values() for step in chain]
        modules = (*self.hidden, self.output, self.interface, *steps)
        tables = [module._buffers for module in modules if module is not None]
        slots = [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]
        tensors = [tensor for *_, tensor in slots]
        kinds = {(type(tensor), tensor.dtype, tensor.device) for tensor in tensors}
        if len(kinds) != 1 or type(tensors[0]) is not Tensor or [*map(id, tensors)] == [*map(id, self._counted)]:
            return
        self._counted = counted_together(tensors)
        for (table, name, _), tensor in zip(slots, self._counted, strict=False):
            table[name] = tensor

    def _pack(self, batch: int) -> Engine | None:
        """An engine of the present weights and thresholds; None where there is none for this actor."""
        self._notice_changes()
        assert self._packed is not None
        return choice.engine(self.backend, self._packed.parts, batch)

    def _unpack(self) -> None:
        """Drops what was packed: weights or thresholds change."""
        self._packed = self._engine = self._engine_key = self._bound = None

    def _apply(self, *args: Any, **kwargs: Any) -> SpikingActor:
        self._unpack()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._count_together()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._unpack()  # although changes are noticed: not those of tensors without a counter
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        self._bound = None  # another process may be given this memory: then it moves
        return self.__dict__ | dict.fromkeys(("_packed", "_engine", "_engine_key", "_bound")) | {"_counted": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._count_together()

    def reset(self, mask: Tensor | NDArray[np.bool_] | None = None) -> None:
        """Starts a new episode: in all rows, or in those where `mask` `[B]` is True.

        Raises:
            InputError: the mask is not boolean, or not one entry per row of the carry.
        """
        checked = None if mask is None else check_mask(mask, self.hidden[0].carry.value)
        for layer in self.hidden:
            layer.carry.reset(checked)

    def extra_repr(self) -> str:
        return f"{self.dynamics}, backend={self.backend!r}"


def _is_plain(observation: Tensor, bound: _Bound) -> bool:
    """Whether an observation needs no further look: as the last one's, plain and on the CPU, without grad."""
    return (
        type(observation) is Tensor
        and observation.shape == bound.shape
        and observation.dtype is bound.dtype
        and observation.is_cpu
        and bound.counts.is_cpu
        and not observation.requires_grad
        and not observation.is_neg()
    )


def _turned(weight: Tensor) -> Tensor:
    """A Linear layer's `[out, in]` as `[in, out]`, or the other way round; a convolution's as it is."""
    return weight.mT if weight.dim() == 2 else weight


def _transposed(weight: Tensor) -> Tensor:
    """The same as a copy."""
    return _turned(weight.detach()).clone(memory_format=torch.contiguous_format)


def _bridge_part(step: object) -> BridgeStep:
    """A step of a bridge, as backends take it."""
    if isinstance(step, Readout):
        return LinearStep(step.weight, step.bias)
    if isinstance(step, Norm):
        return NormStep(step.weight, step.bias, step.eps)
    if isinstance(step, Tanh):
        return TanhStep()
    raise InputError(f"a step of a bridge must be of class Readout, Norm or Tanh, got {type(step).__name__}")


def _check_row_alpha(alpha: object) -> Tensor:
    alpha = as_tensor("alpha (α)", alpha)
    if alpha.dim() != 1 or alpha.dtype.is_complex or alpha.dtype == torch.bool:
        raise InputError(
            f"alpha (α) must be a number or one for every row [B], got {alpha.dtype} of shape {list(alpha.shape)}"
        )
    alpha = alpha.detach().to("cpu", torch.float64, copy=True)
    bad = ~((alpha >= 0) & (alpha <= 1))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise InputError(f"alpha (α) must be from 0 to 1, got {alpha[row].item()} for row {row}")
    return alpha


def reference_parts(snn: SpikingActor, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The layers and bridges of a spiking actor as `reference.actor` takes them, in their own dtype or another one."""
    dtype = dtype or snn.output.weight.dtype
    bridges = {
        place: tuple(_step_in(_bridge_part(step), dtype) for step in chain) for place, chain in snn.bridges.items()
    }
    hidden = [
        reference.Layer(
            _turned(layer.weight).to(dtype),
            layer.bias.to(dtype),
            layer.threshold.to(dtype),
            layer.convolution,
            bridges.get(str(index), ()),
        )
        for index, layer in enumerate(snn.hidden)
    ]
    output = _turned(snn.output.weight).to(dtype), snn.output.bias.to(dtype)
    return {"hidden": hidden, "output": output, "bridge": bridges.get(str(len(hidden)), ())}


def _step_in(step: BridgeStep, dtype: torch.dtype) -> BridgeStep:
    """A step of a bridge in a dtype."""
    if isinstance(step, TanhStep):
        return step
    return step._replace(weight=step.weight.to(dtype), bias=step.bias.to(dtype))


def dense_actor(policy: Actor | SpikingActor) -> Actor:
    """The dense actor that a spiking actor was converted from, as it was trained; a dense actor is returned as it is.

    Raises:
        InputError: the policy is neither.
    """
    if isinstance(policy, Actor):
        return policy
    if not isinstance(policy, SpikingActor):
        raise InputError(f"policy must be an Actor or a SpikingActor, got {type(policy).__name__}")
    return _actor_of(policy.original or (*policy.hidden, policy.output), policy, policy.activation)


def corrected_actor(snn: SpikingActor) -> Actor:
    """A dense actor with the weights and biases that the spiking actor runs on, corrected or not."""
    return _actor_of((*snn.hidden, snn.output), snn, RELU)


def _actor_of(layers: Sequence[SpikingLayer | Readout], policy: SpikingActor, activation: str) -> Actor:
    pairs = [(_transposed(layer.weight), layer.bias) for layer in layers]
    hidden = [
        pair if layer.convolution is None else Conv(*pair, layer.convolution.stride, layer.convolution.padding)
        for layer, pair in zip(policy.hidden, pairs, strict=False)
    ]
    bridges = {int(place): [dense_step(step) for step in chain] for place, chain in policy.bridges.items()}
    actor = Actor(hidden, pairs[-1], copy.deepcopy(policy.interface), policy.metadata, bridges, activation)
    return actor.to(policy.output.weight.device)
