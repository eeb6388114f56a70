"""Converts any feed-forward PyTorch module: every ReLU in its graph becomes spiking neurons.

The graph is traced with torch.fx. What is linear between ReLUs runs time-first, with the T steps side by side in the
batch, so that every layer stays as it is. What no spike reaches is computed once, and what is not linear behind a ReLU
is computed from the mean over the T steps. A module that is a plain actor becomes a `SpikingActor`.
"""

from __future__ import annotations

import copy
import hashlib
import math
import operator
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from snnkern.conversion.activations import Statistics, as_tensor, batches, by_channel, check_numeric, rows_at_once
from snnkern.conversion.chains import actor_of
from snnkern.conversion.graphs import (
    NORMS,
    WEIGHTED,
    WEIGHTED_FUNCTIONS,
    Plan,
    Silence,
    additions,
    argument,
    copied,
    function_of,
    is_reshape,
    module_of,
    repeated,
    run,
    trace,
)
from snnkern.conversion.rules import Calibration, Max, Percentile, parse_of_activations
from snnkern.errors import InputError
from snnkern.kernels import ops, reference
from snnkern.kernels.backends.choice import check_name
from snnkern.kernels.neurons import Dynamics, Neuron, parse_neuron
from snnkern.kernels.nn import SpikingActivation
from snnkern.policies.actor import Interface, Policy, update_with_tensors
from snnkern.policies.spiking import SpikingActor


class InputForm(NamedTuple):
    """What one input of a network is, as the samples of its calibration were.

    Attributes:
        shape: of one.
        dtype: of the samples; any floating-point dtype stands for all of them.
        fed: what the module is given: integers where it takes them, else its own floating-point numbers.
        action_dim: width of the one vector that the module returns for every input, as a policy does; None where it
            returns something else.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    fed: torch.dtype
    action_dim: int | None

    def rows(self, observation: object) -> Tensor:
        """An array of this shape, or of rows of it, as a tensor of one or more rows.

        Raises:
            InputError: another shape or dtype, or a NaN or infinity.
        """
        kind = str(self.dtype).removeprefix("torch.")
        wanted = "a floating-point array" if self.dtype.is_floating_point else f"an array of {kind}"
        if not isinstance(observation, np.ndarray | np.generic) or np.ma.is_masked(observation):
            raise InputError(f"observation must be {wanted}, got {type(observation).__name__}")
        fits = observation.dtype.kind == "f" if self.dtype.is_floating_point else observation.dtype == np.dtype(kind)
        if not fits:
            raise InputError(f"observation must be {wanted}, as the samples were, got {observation.dtype}")
        width = len(self.shape)
        if observation.ndim not in (width, width + 1) or observation.shape[observation.ndim - width :] != self.shape:
            inside = ", ".join(map(str, self.shape))
            raise InputError(f"observation must be [{inside}] or [B, {inside}], got shape {list(observation.shape)}")
        rows = as_tensor(np.asarray(observation)).reshape(-1, *self.shape)
        if rows.is_floating_point():
            ops.refuse_non_finite(rows)
        return rows


class SpikingNetwork(nn.Module):
    """The spiking version of a feed-forward module, made by `snnkern.spikify`; one call is one decision step.

    The neurons keep the carry of each row until `reset`. With α = 0 there is no carry, and calls may differ in B. With
    `act`, `reset` and `spikes` it is a policy that drives in `rollout` and `evaluate`.

    Attributes:
        body: the network that runs: a `SpikingActor` where the module is a plain actor, else a `torch.fx.GraphModule`.
        means: by name in the module, what lies between ReLUs and works on the mean over T; what follows spikes anew.
    """

    def __init__(
        self,
        body: fx.GraphModule | SpikingActor,
        dynamics: Dynamics,
        form: InputForm,
        names: Iterable[str],
        means: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.means = tuple(means)
        self._dynamics = dynamics
        self._form = form
        self._names = tuple(names)

    @property
    def dynamics(self) -> Dynamics:
        """Neuron, T, α, μ, κ; the same for all neurons."""
        return self._dynamics if self.actor is None else self.actor.dynamics

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one input, as the samples were; of images `(C, H, W)`."""
        return self._form.shape

    @property
    def observation_dtype(self) -> str:
        """Of one input as NumPy names it: "uint8", or "float32", for which any other floating-point dtype does."""
        return "float32" if self._form.dtype.is_floating_point else str(self._form.dtype).removeprefix("torch.")

    @property
    def action_dim(self) -> int | None:
        """Width of an action; None where the module returns something else than one tensor `[B, action_dim]`."""
        return self._form.action_dim

    @property
    def engine(self) -> Literal["actor", "operators"]:
        """What runs: "actor", a `SpikingActor`, in one call where its backend can; or "operators", one by one."""
        return "operators" if self.actor is None else "actor"

    @property
    def actor(self) -> SpikingActor | None:
        """The spiking actor that runs, where the module is a plain actor; else None."""
        return self.body if isinstance(self.body, SpikingActor) else None

    @property
    def activations(self) -> dict[str, nn.Module]:
        """What replaces each ReLU, by its name in the graph: a `SpikingActivation`, or a `SpikingLayer` of an actor.

        Both have a `threshold` and a `carry`.
        """
        if self.actor is not None:
            return dict(zip(self._names, self.actor.hidden, strict=True))
        return {name: self.body.get_submodule(name) for name in self._names}

    @property
    def thresholds(self) -> tuple[Tensor, ...]:
        """θ of every activation, `[C]` or `[N]` each."""
        return tuple(part.get_buffer("threshold") for part in self.activations.values())

    @property
    def spikes(self) -> Tensor:
        """Spikes sent in the last decision, per activation and row, int64 `[activations, B]`."""
        if self.actor is not None:
            return self.actor.spikes
        return torch.stack([activation.spikes for activation in self._spiking()])

    def _spiking(self) -> list[SpikingActivation]:
        return [child for child in self.activations.values() if isinstance(child, SpikingActivation)]

    def forward(self, input: Tensor) -> Any:
        """Returns the module's output for an input `[B, …]`, computed with T steps of spikes.

        Raises:
            InputError: the carry belongs to another number of rows; the input requires grad while grad is on.
        """
        if not isinstance(input, Tensor):
            raise InputError(f"input must be a tensor [B, …], got {type(input).__name__}: act() takes arrays")
        uncarried = self.dynamics.alpha == 0
        if self.actor is not None:
            if not uncarried or not torch.compiler.is_exporting():
                return self.actor(input)
            decision = self.actor.stateless()  # an exported program has no state
            return decision(input, *decision.start(input.shape[0]))[0]
        if uncarried and not torch.compiler.is_exporting():
            self.reset()
        return self.body(input)

    @torch.no_grad()
    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The module's output for a NumPy observation, `[…]` or `[B, …]`, in the network's dtype.

        Raises:
            InputError: another shape than that of the samples; another kind of numbers than theirs; a NaN or infinity;
                the module does not return one tensor `[B, …]`.
        """
        if self.actor is not None:
            return self.actor.act(observation)
        if self._form.action_dim is None:
            raise InputError("a policy returns one tensor [B, action_dim]: wrap the module in one that does")
        rows = self._form.rows(observation)
        own = self._spiking()[0].threshold
        fed = self._form.fed
        action = self(rows.to(own.device, own.dtype if fed.is_floating_point else fed)).cpu()
        result: NDArray[Any] = (action.float() if action.dtype == torch.bfloat16 else action).numpy()
        return result if observation.ndim > len(self._form.shape) else result[0]

    def reset(self, mask: Tensor | NDArray[np.bool_] | None = None) -> None:
        """Starts a new episode: in all rows, or in those where `mask` `[B]` is True."""
        for part in self._spiking() if self.actor is None else [self.actor]:
            part.reset(mask)


class DenseNetwork(Policy):
    """A feed-forward module as a dense policy, which `sweep` compares with what `spikify` makes of it.

    Args:
        module: takes one tensor `[B, …]` of observations, vectors or images, and returns actions `[B, action_dim]`.
        observations: some, as the environment gives them: floating-point numbers, or uint8.

    Raises:
        InputError: the module does not take the observations, returns something else, or cannot be converted.
    """

    def __init__(self, module: nn.Module, observations: NDArray[Any] | Tensor) -> None:
        module = copied(module)
        graph = trace(module)
        samples = _Samples(graph, observations)
        plan = Plan(graph, samples.example)
        if plan.action_dim is None:
            raise InputError("a policy returns one tensor [B, action_dim]: wrap the module in one that does")
        shape = tuple(samples.example.shape[1:])
        interface = Interface(
            shape[0] if len(shape) == 1 else shape,
            plan.action_dim,
            squash=False,
            dtype=plan.dtypes[plan.relus[0]],
            observation_dtype=samples.given if not samples.given.is_floating_point else None,
        )
        super().__init__(interface, None, check_finite=True)
        self.module = module
        self._fed = samples.example.dtype
        self._code = f"{module}{graph.code}"
        self.eval()

    def forward(self, observation: Tensor) -> Tensor:
        """The module's output `[B, action_dim]` for observations `[B, …]`."""
        found: Tensor = self.module(self.interface.check(observation, self.check_finite).to(self._fed))
        return found

    def fingerprint(self) -> str:
        """A hash of the module's graph and tensors; other hashes for other actions."""
        digest = hashlib.sha256(self._code.encode())
        update_with_tensors(digest, self.module)
        return digest.hexdigest()


@torch.no_grad()
def spikify(
    module: nn.Module,
    sample_batches: NDArray[Any] | Tensor | Iterable[NDArray[Any] | Tensor],
    *,
    neuron: str | Neuron = "mt",
    timesteps: int = 4,
    alpha: float = 0.0,
    memory: float = 0.0,
    clip: float = 0.5,
    calibration: str | Calibration = "max",
    backend: str = "auto",
) -> SpikingNetwork:
    """Converts a feed-forward module into a spiking one, without training. The module itself does not change.

    Its ReLUs, modules or functions, become spiking neurons, with a threshold for every channel of a convolution and
    every neuron of a Linear. What no spike reaches is computed once per decision, whatever it is. Between ReLUs, what
    is linear runs on spikes: Linear, convolutions, BatchNorm, pooling by average, reshapes that keep rows apart, sums
    and means over features, additions, concatenations, numbers and parameters that are added or multiplied. What is not
    linear, such as LayerNorm, Tanh or max pooling, works on the mean over T, and what follows spikes anew
    (`SpikingNetwork.means`). Behind the last ReLUs all works on means.

    A module that is a plain actor becomes a `SpikingActor` (`SpikingNetwork.engine`): Conv2d or Linear, ReLU and so on
    in a chain, with LayerNorm and Tanh in the middle, affine steps at its input and output, and a Tanh at its end.

    Args:
        module: takes one tensor `[B, …]`.
        sample_batches: inputs that the thresholds are calibrated on, `[B, …]` or an iterable of such batches; of any
            dtype that the module takes, such as uint8 for images.
        neuron: as for `convert`.
        timesteps: T.
        alpha: α. For inputs that do not follow each other in time, leave it 0.
        memory: μ.
        clip: κ.
        calibration: "max", "percentile" or "percentile:P" as for `convert`, over all positions of a channel.
        backend: a name from `snnkern.backends()`, or "auto".

    Raises:
        InputError: a parameter is out of range; there are no samples, or the module does not take them; or it has parts
            that cannot be converted, each of which is named.
    """
    dynamics = Dynamics(parse_neuron(neuron), timesteps, alpha, memory, clip)
    rule = parse_of_activations(calibration)
    check_name(backend)
    if isinstance(module, Policy):
        raise InputError(f"module is an {type(module).__name__}: snnkern.convert converts actors")
    if not isinstance(module, nn.Module):
        sb3 = any(base.__module__.startswith(("stable_baselines3.", "sbx.")) for base in type(module).__mro__)
        advice = ": snnkern.from_sb3 converts a model of Stable-Baselines3" if sb3 else ""
        raise InputError(f"module must be a torch.nn.Module, got {type(module).__name__}{advice}")
    graph = trace(copied(module))
    samples = _Samples(graph, sample_batches)
    plan = Plan(graph, samples.example)
    thresholds = _calibrate(graph, plan, samples, rule)
    form = InputForm(tuple(samples.example.shape[1:]), samples.given, samples.example.dtype, plan.action_dim)
    names = [f"{relu.name}_spiking" for relu in plan.relus]
    actor = actor_of(plan, form.shape, form.fed) if form.dtype.is_floating_point or form.dtype == form.fed else None
    if actor is not None:
        actor.metadata["calibration"] = str(rule)
        body: SpikingActor | fx.GraphModule = SpikingActor(actor, thresholds, dynamics, backend=backend)
    else:
        offsets = Silence(graph, plan).offsets(samples.example) if dynamics.neuron.differential else {}
        activations = {
            relu: SpikingActivation(
                dynamics.neuron, threshold, timesteps, alpha, memory, clip,
                bias=offsets.get(relu.all_input_nodes[0]), backend=backend,
            )
            for relu, threshold in zip(plan.relus, thresholds, strict=True)
        }  # fmt: skip
        _make_spiking(plan, activations, offsets, dynamics)
        body = graph
    return SpikingNetwork(body, dynamics, form, names, plan.means)


class _Samples:
    """The samples of a calibration in chunks, as the module takes them.

    Integers, such as those of images, are given to the module as they are if it takes them, else as its own numbers.

    Attributes:
        example: the first sample, `[1, …]`, as the module takes it.
        given: the dtype of the samples.

    Raises:
        InputError: there are none, or they are no arrays of finite numbers `[B, …]`.
    """

    def __init__(self, graph: fx.GraphModule, samples: NDArray[Any] | Tensor | Iterable[NDArray[Any] | Tensor]) -> None:
        tensors = [*graph.parameters(), *graph.buffers()]
        own = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
        self._batches = batches(samples)
        first = next(self._batches, None)
        if first is None:
            raise InputError("calibration data is empty: give at least one sample")
        self._first = _checked(first)
        example = as_tensor(self._first[:1]).to(own.device)
        self.given = example.dtype
        taken = not example.is_floating_point() and _takes(graph, example)
        self.example = example if taken else example.to(own.dtype)

    def chunks(self, rows: int) -> Iterator[Tensor]:
        """All samples, no more than so many at once. To be called once."""
        batch: NDArray[Any] | Tensor | None = self._first
        while batch is not None:
            for start in range(0, len(batch), rows):
                chunk = as_tensor(batch[start : start + rows]).to(self.example)
                if not bool(torch.isfinite(chunk).all()):
                    raise InputError("calibration samples must be finite, and at least one in every batch")
                yield chunk
            batch = next(self._batches, None)
            batch = None if batch is None else _checked(batch)


def _checked(batch: Any) -> NDArray[Any] | Tensor:
    """A batch of samples that is one array of numbers with a row at least."""
    if isinstance(batch, list | tuple):
        raise InputError(
            f"a batch of samples must be one array or tensor, got {len(batch)} in a "
            f"{type(batch).__name__}: give the module's input alone, without labels"
        )
    check_numeric(batch)
    if not batch.ndim or not len(batch):
        raise InputError("calibration samples must be finite, and at least one in every batch")
    checked: NDArray[Any] | Tensor = batch
    return checked


def _takes(graph: fx.GraphModule, sample: Tensor) -> bool:
    """Whether the module runs on numbers of this dtype."""
    try:
        run(fx.Interpreter(graph), repeated(sample, 2))
    except InputError:
        return False
    return True


class _Recording(fx.Interpreter):
    """Runs the dense graph and keeps what its ReLUs return."""

    def __init__(self, graph: fx.GraphModule, relus: list[fx.Node]) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.outputs: dict[fx.Node, Tensor] = dict.fromkeys(relus, torch.empty(0))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.outputs:
            self.outputs[n] = result.clone()  # what follows may work in place
        return result


def _calibrate(graph: fx.GraphModule, plan: Plan, samples: _Samples, rule: Max | Percentile) -> list[Tensor]:
    """The threshold of every ReLU, one per channel."""
    statistics: Statistics | None = None
    numbers = sum(math.prod(plan.tails[relu]) for relu in plan.relus)
    for chunk in samples.chunks(rows_at_once(samples.example.numel() + numbers)):
        recording = _Recording(graph, plan.relus)
        run(recording, chunk.clone())
        activations = list(recording.outputs.values())
        if statistics is None:
            statistics = Statistics([by_channel(found)[0] for found in activations], isinstance(rule, Percentile))
        statistics.record(activations)
    assert statistics is not None
    return rule.thresholds(statistics)


def _make_spiking(
    plan: Plan, activations: dict[fx.Node, SpikingActivation], offsets: dict[fx.Node, Tensor], dynamics: Dynamics
) -> None:
    """Replaces the ReLUs, and translates between values and spikes wherever one meets the other."""
    owner, graph = plan.graph, plan.graph.graph
    steps, differential = dynamics.timesteps, dynamics.neuron.differential
    for name, translation in (
        ("time_code", _Code(steps, differential)),
        ("time_apart", _Apart(steps)),
        ("time_together", nn.Flatten(0, 1)),
        ("time_decode", _Decode(steps, differential)),
    ):
        owner.add_module(name, translation)
    unused = [node for node in graph.nodes if not node.users]
    spiking, offsets = set(plan.spiking), dict(offsets)
    decoded: dict[fx.Node, fx.Node] = {}

    def insert(before: fx.Node, source: fx.Node, *names: str) -> fx.Node:
        with graph.inserting_before(before):
            for name in names:
                source = graph.call_module(name, (source,))
        return source

    def decode(source: fx.Node) -> fx.Node:
        """The mean of a sequence, with what biases make of it, which differential coding left out."""
        if source not in decoded:
            value = insert(source.next, source, "time_decode")
            if source in offsets:
                name = f"{value.name}_bias"
                owner.register_buffer(name, offsets[source])
                with graph.inserting_after(value):
                    bias = graph.get_attr(name)
                with graph.inserting_after(bias):
                    value = graph.call_function(operator.add, (value, bias))
            decoded[source] = value
        return decoded[source]

    for node in list(graph.nodes):
        if node in activations:
            name = f"{node.name}_spiking"
            owner.add_module(name, activations[node])
            source = node.all_input_nodes[0]
            coding = "time_apart" if source in spiking else "time_code"
            spikes = insert(node, source, coding, name, "time_together")
            node.replace_all_uses_with(spikes)
            spiking.add(spikes)
            graph.erase_node(node)
        elif node in spiking:
            for source in additions(node):
                if isinstance(source, fx.Node) and source not in spiking and source not in plan.constants:
                    node.replace_input_with(source, insert(node, source, "time_code", "time_together"))
            if is_reshape(owner, node):
                name = f"{node.name}_of_rows"
                owner.add_module(name, _Reshape(plan.tails[node]))
                with graph.inserting_before(node):
                    reshaped = graph.call_module(name, (argument(node, 0, "input"),))
                node.replace_all_uses_with(reshaped)
                spiking.add(reshaped)
                if node in offsets:
                    offsets[reshaped] = offsets[node]
                graph.erase_node(node)
            elif differential:
                _drop_bias(plan, node)
        else:
            for source in node.all_input_nodes:
                if source in spiking:
                    node.replace_input_with(source, decode(source))
    graph.eliminate_dead_code(lambda node: node in unused or node.op in ("placeholder", "output"))
    owner.delete_all_unused_submodules()
    graph.lint()
    owner.recompile()


def _drop_bias(plan: Plan, node: fx.Node) -> None:
    """Lets a node add nothing constant: differential coding adds biases once, where a neuron receives them."""
    owner = plan.graph
    layer = module_of(owner, node)
    if isinstance(layer, (*WEIGHTED, *NORMS)):
        bare = copy.copy(layer)  # another use of the layer, behind the last ReLU, keeps the bias
        bare._parameters = {**layer._parameters, "bias": None}
        if isinstance(layer, NORMS):
            bare._buffers = {**layer._buffers, "running_mean": torch.zeros_like(layer.get_buffer("running_mean"))}
        node.target = f"{node.name}_without_bias"
        owner.add_module(node.target, bare)
    elif function_of(node) in WEIGHTED_FUNCTIONS:
        node.args = tuple(None if index == 2 else given for index, given in enumerate(node.args))
        node.kwargs = {name: None if name == "bias" else given for name, given in node.kwargs.items()}
    for value in additions(node):
        if isinstance(value, fx.Node) and value in plan.constants:
            with owner.graph.inserting_before(node):
                node.replace_input_with(value, owner.graph.call_function(torch.zeros_like, (value,)))
        elif isinstance(value, int | float):
            node.args = tuple(type(value)(0) if given is value else given for given in node.args[:2]) + node.args[2:]
            node.kwargs = node.kwargs | ({"other": type(value)(0)} if node.kwargs.get("other") is value else {})


class _Reshape(nn.Module):
    """Gives every row a shape, however many rows there are."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, value: Tensor) -> Tensor:
        return value.reshape(value.shape[0], *self.shape)


class _Code(nn.Module):
    """A constant value `[B, …]` as a sequence `[T, B, …]`: itself at every step, or at the first and then no change."""

    def __init__(self, steps: int, differential: bool) -> None:
        super().__init__()
        self.steps, self.differential = steps, differential

    def forward(self, value: Tensor) -> Tensor:
        if not self.differential:
            return value.expand(self.steps, *value.shape)
        return torch.cat([value[None], value.new_zeros(self.steps - 1, *value.shape)])


class _Apart(nn.Module):
    """T steps beside each other in the batch, `[T·B, …]`, as `[T, B, …]`."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, value: Tensor) -> Tensor:
        return value.unflatten(0, (self.steps, value.shape[0] // self.steps))


class _Decode(_Apart):
    """What a sequence `[T·B, …]` stands for, `[B, …]`: its mean, or the mean of the values whose changes it holds."""

    def __init__(self, steps: int, differential: bool) -> None:
        super().__init__(steps)
        self.differential = differential

    def forward(self, value: Tensor) -> Tensor:
        return reference.decoded(super().forward(value), self.differential)
