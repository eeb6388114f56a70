"""torch.compile, torch.export and torch.func: no graph breaks, the same actions, a clear word where it cannot be."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from support.builders import make_actor, make_observations
from support.cases import DEFAULT_NEURONS, needs_compiler
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import snnkern

OBSERVATIONS = make_observations(200, 5)
INPUTS = torch.from_numpy(OBSERVATIONS)
COMPILERS = [
    *(pytest.param(name, "aot_eager", id=f"{name}-traced") for name in DEFAULT_NEURONS),
    pytest.param("mt", "inductor", id="mt-compiled", marks=[needs_compiler, pytest.mark.long]),
]

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),  # torch's own
]


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def make(neuron="if", seed: int = 0, **options) -> snnkern.SpikingActor:
    actor = make_actor(
        5, 16, 17, 2, seed=seed, observation_mean=[0.1] * 5, observation_std=[2.0] * 5, observation_clip=0.8
    )
    return snnkern.convert(actor, OBSERVATIONS, **{"neuron": neuron, "timesteps": 3, "alpha": 0.7, **options})


def assert_close(first, second):
    """Sums may be ordered otherwise: more differs only if a spike does, and on these rows none does."""
    torch.testing.assert_close(first, second, rtol=0, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize(("neuron", "compiler"), COMPILERS)
def test_a_compiled_actor_acts_and_carries_on_as_it_did(neuron, compiler):
    snn, plain = make(neuron), make(neuron)
    compiled = torch.compile(snn, fullgraph=True, backend=compiler)
    for step in range(6):
        if step == 3:
            mask = torch.arange(8) % 3 == 0
            snn.reset(mask)
            plain.reset(mask)
        if step == 5:
            snn.reset()
            plain.reset()
        rows = INPUTS[step * 8 : step * 8 + 8]
        assert_close(compiled(rows), plain(rows))
        assert torch.equal(snn.spikes, plain.spikes)
        for first, second in zip(snn.carry, plain.carry, strict=True):
            assert_close(first, second)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 2  # a first decision, which makes the carry, and one that goes on from it


@torch.no_grad()
def test_one_compiled_graph_serves_all_batches():
    snn, plain = make(alpha=0.0), make(alpha=0.0)
    compiled = torch.compile(snn, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (4, 7, 30):
        snn.reset()
        plain.reset()
        assert_close(compiled(INPUTS[:batch]), plain(INPUTS[:batch]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@torch.no_grad()
def test_a_compiled_actor_refuses_what_it_refused():
    snn = make()
    compiled = torch.compile(snn, fullgraph=True, backend="aot_eager")
    compiled(INPUTS[:4])
    before = snn.carry
    broken = INPUTS[:4].clone()
    broken[2, 1] = torch.nan
    with pytest.raises(snnkern.InputError, match=r"NaN or infinity in 1 of 4 rows \(first: row 2\)"):
        compiled(broken)
    assert all(torch.equal(first, second) for first, second in zip(snn.carry, before, strict=True))
    dense = torch.compile(make_actor(5, 8, 2), fullgraph=True, backend="aot_eager")
    assert dense(INPUTS[:4]).shape == (4, 2)
    with pytest.raises(snnkern.InputError, match="NaN or infinity"):
        dense(broken)


def test_a_compiled_dense_actor_keeps_its_gradient():
    actor = make_actor(5, 8, 2)
    compiled = torch.compile(actor, fullgraph=True, backend="aot_eager")
    gradients = []
    for policy in (actor, compiled):
        inputs = INPUTS[:4].clone().requires_grad_()
        policy(inputs).sum().backward()
        gradients.append(inputs.grad)
    assert_close(*gradients)
    assert gradients[0].abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("neuron", DEFAULT_NEURONS)
def test_compiled_modules_of_ones_own_act_as_they_did(neuron):
    module = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    inputs = INPUTS[:, None]
    network = snnkern.spikify(module, inputs, neuron=neuron, timesteps=4, alpha=0.5)
    wanted = [network(inputs[start : start + 8]) for start in (0, 8, 16)]
    network.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for start, output in zip((0, 8, 16), wanted, strict=True):
        assert_close(compiled(inputs[start : start + 8]), output)


@torch.no_grad()
@pytest.mark.parametrize("neuron", DEFAULT_NEURONS)
def test_an_exported_decision_acts_as_the_actor_and_survives_a_file(neuron):
    snn = make(neuron)
    decision = snn.stateless()
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        decision, (INPUTS[:4], *decision.start(4)), dynamic_shapes=({0: batch}, ({0: batch}, {0: batch}))
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    carries = decision.start(9)
    for step in range(3):
        rows = INPUTS[step * 9 : step * 9 + 9]
        action, *carries = loaded(rows, *carries)
        assert_close(action, snn(rows))
        for first, second in zip(carries, snn.carry, strict=True):
            assert_close(first, second)
    with pytest.raises(snnkern.InputError, match="NaN or infinity"):
        loaded(INPUTS[:9] * torch.nan, *carries)


@torch.no_grad()
@torch.no_grad()
@pytest.mark.parametrize("exporter", ["torch.export", "ONNX", "ONNX by tracing"])
def test_a_dense_actor_is_exported_as_it_is(exporter, tmp_path):
    """Its check for NaN is left out: an exported program has no errors to raise."""
    actor = make_actor(5, 16, 17, 2, observation_mean=[0.1] * 5, observation_std=[2.0] * 5, observation_clip=0.8)
    wanted = actor(INPUTS[:1])
    if exporter == "torch.export":
        program = torch.export.export(actor, (INPUTS[:1],))
        assert "snnkern" not in str(program.graph)
        assert torch.equal(program.module()(INPUTS[:1]), wanted)
    else:
        for package in ("onnx", "onnxruntime", *(["onnxscript"] if exporter == "ONNX" else [])):
            pytest.importorskip(package, reason=f"{package} is not installed")
        import onnxruntime

        file = tmp_path / "actor.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the exporters themselves
            warnings.simplefilter("ignore", FutureWarning)
            torch.onnx.export(actor, (INPUTS[:1],), file, dynamo=exporter == "ONNX", verbose=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: OBSERVATIONS[:1]})
        assert_close(torch.from_numpy(found), wanted)
    with pytest.raises(snnkern.InputError, match="NaN"):
        actor(torch.full((1, 5), torch.nan))


def test_a_network_without_a_carry_can_be_exported():
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    network = snnkern.spikify(module, INPUTS, neuron="if", timesteps=4)
    program = torch.export.export(network, (INPUTS[:4],), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert_close(program.module()(INPUTS[:7]), network(INPUTS[:7]))


@torch.no_grad()
@pytest.mark.parametrize("neuron", DEFAULT_NEURONS)
def test_an_ensemble_is_mapped(neuron):
    """Actors of other weights and thresholds, each with its own carry, on the same observations."""
    actors = [make(neuron, seed=seed) for seed in range(3)]
    members = [actor.stateless() for actor in actors]
    _, weights = stack_module_state(members)

    def decide(weights, *arguments):
        return functional_call(members[0], weights, arguments)

    carries = [torch.stack(parts) for parts in zip(*(member.start(6) for member in members), strict=True)]
    for step in range(3):
        rows = INPUTS[step * 6 : step * 6 + 6]
        actions, *carries = vmap(decide, in_dims=(0, None, 0, 0))(weights, rows, *carries)
        for index, actor in enumerate(actors):
            assert_close(actions[index], actor(rows))


@torch.no_grad()
def test_groups_of_rows_are_mapped_over_the_same_weights():
    decision = make("mt").stateless()
    carries = [torch.rand(8, len(layer.threshold)) * 0.1 for layer in decision.hidden]
    wanted = decision(INPUTS[:8], *carries)
    for dim in (0, 1):
        groups = [tensor.reshape(2, 4, -1).movedim(0, dim) for tensor in (INPUTS[:8], *carries)]
        mapped = vmap(decision, in_dims=dim)(*groups)
        for first, second in zip(mapped, wanted, strict=True):
            assert_close(first.reshape(8, -1), second)


@torch.no_grad()
def test_what_keeps_a_carry_says_that_it_cannot_be_exported_or_mapped():
    snn = make()
    activation = snnkern.SpikingActivation("if", torch.ones(5), 3, alpha=0.5)
    groups = INPUTS[:8].reshape(2, 4, 5)
    for used in (False, True):
        if used:
            snn(INPUTS[:4])
        with pytest.raises(snnkern.InputError, match=r"cannot be mapped by torch.func: map actor.stateless\(\)"):
            vmap(snn)(groups)
        with pytest.raises(snnkern.InputError, match=r"would forget the carry: export actor.stateless\(\)"):
            torch.export.export(snn, (INPUTS[:4],))
    other = make()
    other(INPUTS[:4])
    assert_close(snn(INPUTS[4:8]), other(INPUTS[4:8]))  # what was refused left no trace
    with pytest.raises(snnkern.InputError, match="cannot be mapped"):
        vmap(activation)(torch.rand(2, 3, 4, 5))
    with pytest.raises(snnkern.InputError, match="would forget the carry"):
        torch.export.export(activation, (torch.rand(3, 4, 5),))
    snn.alpha = [0.1, 0.2]
    with pytest.raises(snnkern.InputError, match="set it to one number"):
        snn.stateless()
    snn.alpha = 0.5
    with pytest.raises(snnkern.InputError, match="2 hidden layers, got carries for 1"):
        snn.stateless()(INPUTS[:4], torch.zeros(4, 16))


def test_the_stateless_actor_shares_the_weights():
    snn = make()
    decision = snn.stateless()
    snn.hidden[0].threshold.zero_()
    assert not decision.hidden[0].threshold.any()
