"""The CPU engine, a whole actor in one call: against the float64 reference, for every build that this machine runs."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from support.cases import ACTOR_WIDTHS, DEFAULT_NEURONS, NORMALISING, each, needs_cpu, random_actor, random_observations
from support.engine_cases import FORMS, ISAS, assert_agrees, carries, engine_actor, runs_on_engine
from torch import Tensor

import snnkern
from snnkern.kernels.backends import cpu
from snnkern.kernels.neurons import Kind

pytestmark = needs_cpu


@pytest.fixture(params=ISAS)
def isa(request):
    """Builds actors for one instruction set; an engine stays with the one that it was packed for."""
    before = cpu._cpu.isa()
    assert cpu._cpu.use_isa(request.param)
    yield request.param
    cpu._cpu.use_isa(before)


@each("widths", ACTOR_WIDTHS)
@each("neuron", DEFAULT_NEURONS)
def test_agrees_with_the_reference(isa, neuron, widths) -> None:
    actor = engine_actor(widths, neuron, timesteps=5, alpha=0.6, memory=0.4)
    share = assert_agrees(actor, random_observations(3, 64, widths[0]))
    # Q of DC often equals a level but for rounding, and then the margin of the whole row is 0.
    assert share > (0.02 if neuron.kind is Kind.DC else 0.7)


@each("neuron", DEFAULT_NEURONS)
def test_builds_give_the_same_bits(neuron) -> None:
    """They differ in how many lanes a register has; the order of the sums is the same."""
    results = []
    before = cpu._cpu.isa()
    for name in ISAS:
        cpu._cpu.use_isa(name)
        actor = engine_actor((17, 257, 100, 6), neuron, timesteps=6, alpha=0.5)
        results.append([actor(observation) for observation in random_observations(3, 9, 17)] + carries(actor))
    cpu._cpu.use_isa(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@each("neuron", DEFAULT_NEURONS)
def test_threads_and_splits_of_the_batch_change_no_bit(isa, neuron) -> None:
    observations = random_observations(2, 100, 11)
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            actor = engine_actor((11, 33, 17, 3), neuron, alpha=1.0)
            results.append(torch.stack([actor(observation) for observation in observations]))
    finally:
        torch.set_num_threads(1)
    parts = []
    for rows in (slice(0, 1), slice(1, 40), slice(40, 100)):
        actor = engine_actor((11, 33, 17, 3), neuron, alpha=1.0)
        parts.append(torch.stack([actor(observation[rows]) for observation in observations]))
    results.append(torch.cat(parts, dim=1))
    for other in results[1:]:
        assert torch.equal(results[0], other)


@pytest.mark.parametrize("batch", [1, 5])
def test_act_and_call_give_the_same_actions_in_every_form(batch) -> None:
    observations = random_observations(6, batch, 11)
    results = []
    for form in FORMS.values():
        actor = engine_actor((11, 33, 17, 3), "mt", alpha=0.7)
        results.append(torch.stack([form(actor, observation) for observation in observations]))
        assert runs_on_engine(actor)
    for other in results[1:]:
        assert torch.equal(results[0], other)


def test_agrees_with_the_layers_under_compile_and_takes_over_their_carry(monkeypatch) -> None:
    """What torch.compile sees is one operator per layer; both share the carry."""
    observations = random_observations(6, 5, 11)
    alone = engine_actor((11, 33, 17, 3), "snm", alpha=1.0, memory=1.0)
    wanted = [alone(observation) for observation in observations]
    mixed = engine_actor((11, 33, 17, 3), "snm", alpha=1.0, memory=1.0)
    for step, observation in enumerate(observations):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda odd=step % 2 == 1: odd)
        torch.testing.assert_close(mixed(observation), wanted[step], rtol=0, atol=1e-5)
        assert runs_on_engine(mixed) == (step % 2 == 0)


def test_normalised_observations_and_plain_outputs() -> None:
    normalising, thresholds = random_actor((5, 16, 3), **NORMALISING)
    plain, _ = random_actor((5, 16, 3), squash=False)
    mean, std = NORMALISING["observation_mean"], NORMALISING["observation_std"]
    x = 3 * random_observations(1, 20, 5)[0]
    got = snnkern.convert(normalising, thresholds=thresholds, neuron="dc", timesteps=3)(x)
    wanted = snnkern.convert(plain, thresholds=thresholds, neuron="dc", timesteps=3)(
        ((x - mean) / std).clamp(-1.5, 1.5)
    )
    assert torch.equal(got, wanted)


def test_new_weights_dtypes_and_copies_are_packed_anew() -> None:
    x = random_observations(1, 2, 11)[0]
    actor, other = engine_actor((11, 33, 17, 3)), engine_actor((11, 33, 17, 3), seed=1)
    before, wanted = actor(x), other(x)
    assert not torch.equal(before, wanted)
    actor.load_state_dict(other.state_dict())
    actor.reset()
    assert torch.equal(actor(x), wanted)
    assert actor.double()(x.double()).dtype == torch.float64
    assert not runs_on_engine(actor)
    for copied in (copy.deepcopy, lambda actor: pickle.loads(pickle.dumps(actor))):
        same = copied(other)
        assert torch.equal(same(x), other(x))
        assert same._bound.carries[0].data_ptr() != other._bound.carries[0].data_ptr()


def test_a_layer_too_wide_for_the_engine_runs_by_layers() -> None:
    wide = cpu._cpu.most_neurons + 1
    x = random_observations(1, 2, 3)[0]
    actor, thresholds = random_actor((3, wide, 2))
    snn = snnkern.convert(actor, thresholds=thresholds, neuron="mt", timesteps=64, alpha=0.0)
    torch.testing.assert_close(snn(x), actor(x), rtol=0, atol=0.2)
    assert not runs_on_engine(snn)
    assert snn.spikes.sum() > wide


def test_defaults_of_torch_and_layouts_of_weights_do_not_matter() -> None:
    x = random_observations(1, 2, 11)[0]
    wanted = engine_actor((11, 33, 17, 3))(x)
    actor = engine_actor((11, 33, 17, 3))
    for layer in [*actor.hidden, actor.output]:
        layer.weight = layer.weight.T.contiguous().T
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        action = actor(x)
        spikes = actor.spikes
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert runs_on_engine(actor)
    assert torch.equal(action, wanted)
    assert spikes.device.type == "cpu"


@each("neuron", DEFAULT_NEURONS)
def test_rows_may_have_an_alpha_each(isa, neuron) -> None:
    """More rows than are worked on together."""
    actor = engine_actor((11, 33, 17, 3), neuron, memory=0.4)
    actor.alpha = torch.linspace(0, 1, 40)
    assert assert_agrees(actor, random_observations(3, 40, 11)) > (0.0 if neuron.kind is Kind.DC else 0.5)


def constant_actor(bias: Tensor, receivers: int = 32) -> snnkern.Actor:
    """Whatever it observes, its first layer's currents are the bias."""
    generator = torch.Generator().manual_seed(0)
    first = torch.zeros(len(bias), 3), bias
    second = torch.randn(receivers, len(bias), generator=generator) / len(bias) ** 0.5, torch.zeros(receivers)
    return snnkern.Actor([first, second], (torch.ones(2, receivers), torch.zeros(2)), snnkern.Interface(3, 2))


def test_a_full_list_of_spikes_is_received_whole(isa) -> None:
    """Every neuron of the widest layer fires at every step."""
    thresholds = [torch.ones(64), torch.full((32,), 0.3)]
    actor = snnkern.convert(constant_actor(torch.full((64,), 1.5)), thresholds=thresholds, neuron="if", timesteps=5)
    assert assert_agrees(actor, random_observations(2, 3, 3)) > 0.5
    assert actor.spikes[0].tolist() == [64 * 5] * 3


@each("neuron", {name: DEFAULT_NEURONS[name] for name in ("mt", "dc")})
def test_tiny_thresholds_are_searched_level_by_level(isa, neuron) -> None:
    """Whose smallest level is no normal number: the first layer is bit for bit the reference's."""
    threshold = torch.full((50,), 2.0**-125)
    bias = torch.linspace(-2, 2, 50) * threshold
    ours, wanted = (
        snnkern.convert(
            constant_actor(bias), thresholds=[threshold, torch.ones(32)], neuron=neuron, timesteps=7, backend=backend
        )
        for backend in ("cpu", "reference")
    )
    for _ in range(3):
        ours(torch.zeros(1, 3))
        wanted(torch.zeros(1, 3))
        assert torch.equal(carries(ours)[0], carries(wanted)[0])
        assert torch.equal(ours.spikes[0], wanted.spikes[0])


def test_an_empty_batch_is_an_empty_action() -> None:
    actor = engine_actor((11, 33, 17, 3))
    assert actor(torch.zeros(0, 11)).shape == (0, 3)
    assert actor.act(np.zeros((0, 11))).shape == (0, 3)


def test_a_refused_observation_leaves_everything_as_it_was() -> None:
    actor = engine_actor((11, 33, 17, 3), alpha=1.0)
    x = random_observations(1, 2, 11)[0]
    bad = x.clone()
    bad[1, 3] = torch.nan
    with pytest.raises(snnkern.InputError, match=r"NaN or infinity in 1 of 2 rows \(first: row 1\)"):
        actor(bad)
    actor(x)
    before, spikes = [carry.clone() for carry in carries(actor)], actor.spikes
    for call in (lambda: actor(bad), lambda: actor.act(bad.numpy())):
        with pytest.raises(snnkern.InputError, match="NaN or infinity"):
            call()
    assert all(torch.equal(a, b) for a, b in zip(before, carries(actor), strict=True))
    assert torch.equal(actor.spikes, spikes)
    actor.check_finite = False
    actor(bad)
    assert bool(carries(actor)[0][1].isnan().any())
    assert not bool(carries(actor)[0][0].isnan().any())


def test_two_threads_with_an_actor_each() -> None:
    observations = random_observations(200, 64, 11)
    wanted = [engine_actor((11, 33, 17, 3), alpha=1.0) for _ in range(2)]
    expected = torch.stack([wanted[0](observation) for observation in observations])
    results: dict[int, Tensor] = {}

    def work(index: int) -> None:
        torch.set_num_threads(2)
        actor = engine_actor((11, 33, 17, 3), alpha=1.0)
        results[index] = torch.stack([actor(observation) for observation in observations])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[index], expected) for index in range(2))


@pytest.mark.parametrize("form", ["tensor", "float64 array", "tensor, reset in between"])
def test_one_actor_from_two_threads_is_right_or_refused(form: str) -> None:
    actor = engine_actor((11, 257, 257, 3), timesteps=16)  # α = 0.2: decisions depend on their order
    x = random_observations(1, 64, 11)[0]
    array = x.double().numpy()
    actor(x)
    outcomes: list[str] = []

    def outcome() -> str:
        try:
            if "reset" in form:
                actor.reset()
            action = torch.from_numpy(actor.act(array)) if "array" in form else actor(x)
            return "decided" if bool(torch.isfinite(action).all()) else "not finite"
        except snnkern.InUseError as error:
            return str(error)

    def work() -> None:
        outcomes.extend(outcome() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 100
    assert "decided" in outcomes
    assert issubclass(snnkern.InUseError, snnkern.Error)
    assert set(outcomes) <= {
        "decided",
        "two threads use one spiking actor at once: give each thread its own (copy.deepcopy)",
    }


def test_the_environment_variable_forces_a_build() -> None:
    program = "import snnkern; print([s.detail for s in snnkern.backends() if s.name == 'cpu'][0])"

    def detail(name: str) -> str:
        environment = os.environ | {"SNNKERN_ISA": name}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert detail(ISAS[-1]) == f"native kernels for {ISAS[-1]}, float32 and float64"
    assert detail("sse9") == f"SNNKERN_ISA is 'sse9', but this machine runs {', '.join(cpu._cpu.isas())}"
