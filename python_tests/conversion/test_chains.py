"""spikify: a module that is a plain actor runs as one, and computes what the operators compute."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support.environments_for_tests import Scripted
from support.visual import reference_layers
from torch import nn
from torch.nn import functional

from snnkern import InputError, SpikingActor, spikify
from snnkern.control.rollout import rollout
from snnkern.conversion import activations
from snnkern.conversion import spikify as conversion
from snnkern.kernels import reference
from snnkern.policies.spiking import dense_actor

NEURONS = ("if", "snm", "mt", "dc", "lif")


class Drq(nn.Module):
    """A visual actor as DrQ-v2 writes it, in small; `bridged` as it was, else as the CRPI paper has it."""

    def __init__(self, bridged: bool) -> None:
        super().__init__()
        self.convnet = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
        middle = (nn.LayerNorm(10), nn.Tanh()) if bridged else (nn.ReLU(),)
        self.trunk = nn.Sequential(nn.Linear(6 * 16, 10), *middle)
        self.policy = nn.Sequential(
            nn.Linear(10, 12), nn.ReLU(inplace=True), nn.Linear(12, 12), nn.ReLU(inplace=True), nn.Linear(12, 2)
        )

    def forward(self, observation):
        observation = observation.to(self.policy[0].weight.dtype) / 255.0 - 0.5
        features = self.convnet(observation)
        features = features.view(features.shape[0], -1)
        return torch.tanh(self.policy(self.trunk(features.to(observation.dtype))))


class Normalised(nn.Module):
    """Vectors with their normalisation, batch norms that fold, no biases, and an action scale that it learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 9, bias=False), nn.BatchNorm1d(9), nn.Linear(9, 8)
        self.mean = nn.Linear(8, 2)
        self.register_buffer("seen", torch.tensor([0.1, -0.5, 2.0, 0.0, 1.0]))
        self.register_buffer("std", torch.tensor([[0.5, 1.5, 2.0, 1.0, 3.0]]))
        self.register_buffer("scale", torch.tensor([0.4, 2.0]))
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = (x - self.seen) / self.std
        x = self.drop(functional.relu(self.norm(self.one(x * 2))))
        return 1 - torch.tanh(2 * self.mean(functional.relu(self.two(x))) + 0.25) * self.scale


class Flat(nn.Module):
    """An image that becomes a vector at once, and two Linear in a row where no spike comes between; no tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Sequential(nn.Linear(27, 9), nn.Linear(9, 6)), nn.Sequential(nn.Linear(6, 4))
        self.two.append(nn.Linear(4, 3))

    def forward(self, x):
        return self.two(self.one(x.flatten(1)).relu()).mul(0.5)


def _made(build, *arguments) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = build(*arguments).double()
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
        return module.eval()


def _images(rows: int, size: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 3, size, size), generator=torch.Generator().manual_seed(seed)).byte()


def _vectors(rows: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


ACTORS = {
    "drq": (lambda: _made(Drq, False), lambda rows: _images(rows, 9)),
    "bridged": (lambda: _made(Drq, True), lambda rows: _images(rows, 9)),
    "normalised": (lambda: _made(Normalised), _vectors),
    "flat": (lambda: _made(Flat), lambda rows: _images(rows, 3).double()),
}


@pytest.fixture
def operators(monkeypatch):
    """spikify, where nothing is recognised."""

    def run(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(conversion, "actor_of", lambda *_: None)
            return spikify(*arguments, **options)

    return run


@torch.no_grad()
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("name", ACTORS)
def test_both_routes_compute_the_same(name, neuron, operators):
    """In float64, where sums of another order leave no row near enough to a threshold to fire otherwise."""
    build, draw = ACTORS[name]
    module, inputs = build(), draw(33)
    options = {"neuron": neuron, "timesteps": 5, "alpha": 0.6, "memory": 0.4}
    ours, plain = spikify(module, inputs, **options), operators(module, inputs, **options)
    assert (ours.engine, plain.engine) == ("actor", "operators")
    assert isinstance(ours.actor, SpikingActor)
    assert plain.actor is None
    assert ours.means == plain.means
    assert list(ours.activations) == list(plain.activations)
    for one, other in zip(ours.activations.values(), plain.activations.values(), strict=True):
        assert torch.equal(one.threshold, other.threshold)
    for decision in range(3):
        observation = inputs[decision::3].numpy()
        np.testing.assert_allclose(ours.act(observation), plain.act(observation), rtol=0, atol=1e-9)
        assert torch.equal(ours.spikes, plain.spikes)
        mask = torch.arange(11) % 3 == decision
        ours.reset(mask)
        plain.reset(mask)
        for one, other in zip(ours.activations.values(), plain.activations.values(), strict=True):
            torch.testing.assert_close(one.carry.value.flatten(1), other.carry.value.flatten(1), rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("neuron", ["if", "snm", "mt", "lif"])  # DC's rows are nearly all too close to a level
@pytest.mark.parametrize("name", ACTORS)
def test_both_routes_are_the_reference_where_rounding_cannot_decide(name, neuron, operators):
    """In float32, by the rule of the semantics page."""
    build, draw = ACTORS[name]
    inputs = draw(180)
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    module = build().float()
    options = {"neuron": neuron, "timesteps": 4, "alpha": 0.5}
    networks = spikify(module, inputs, **options), operators(module, inputs, **options)
    actor, dynamics = networks[0].actor, networks[0].dynamics
    interface = copy.deepcopy(actor.interface).double()
    parts = reference_layers(dense_actor(actor).double(), [threshold.double() for threshold in actor.thresholds])
    carries, sure = None, torch.ones(60, dtype=torch.bool)
    for decision in range(3):
        observation = inputs[decision::3]
        wide = observation.double() if observation.is_floating_point() else observation
        if carries is None:
            carries = [torch.zeros_like(found).double() for found in dense_actor(actor).hidden_activations(observation)]
        wanted = reference.actor(interface.normalize(wide), carries=carries, dynamics=dynamics, **parts)
        carries = [layer.carry for layer in wanted.layers]
        sure &= torch.stack([layer.margin for layer in wanted.layers]).amin(dim=0) >= 1e-4
        for network in networks:
            action = network(observation).double()
            torch.testing.assert_close(action[sure], interface.action(wanted.output)[sure], rtol=0, atol=1e-4)
            counts = torch.stack([layer.counts for layer in wanted.layers])
            assert torch.equal(network.spikes[:, sure], counts[:, sure])
    assert int(sure.sum()) >= 5


def test_an_interface_says_what_stands_at_input_and_output():
    interface = spikify(_made(Drq, False), _images(4, 9)).actor.interface
    assert (interface.observation_shape, interface.observation_dtype) == ((3, 9, 9), torch.uint8)
    assert (interface.observation_scale, interface.observation_offset) == (255.0, -0.5)
    assert interface.squash
    interface = spikify(_made(Normalised), _vectors(4)).actor.interface
    np.testing.assert_allclose(interface.observation_std, [0.25, 0.75, 1.0, 0.5, 1.5], rtol=1e-6)
    np.testing.assert_allclose(interface.observation_mean, [0.1, -0.5, 2.0, 0.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(interface.action_scale, [-0.4, -2.0], rtol=1e-6)
    assert torch.equal(interface.action_bias, torch.ones(2, dtype=torch.float64))
    interface = spikify(_made(Flat), _images(4, 3).double()).actor.interface
    assert interface.observation_dtype == torch.float64
    assert not interface.squash


def chain(*middle: nn.Module, first: nn.Module | None = None, width: int = 64) -> nn.Module:
    first = first or nn.Conv2d(3, 4, 3, stride=2)
    return nn.Sequential(first, nn.ReLU(), *middle, nn.Flatten(), nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, 2))


class Around(nn.Module):
    """An actor with something in front and behind it."""

    def __init__(self, before=lambda x: x, behind=lambda x: x) -> None:
        super().__init__()
        self.actor, self.before, self.behind = chain(), before, behind

    def forward(self, x):
        return self.behind(self.actor(self.before(x)))


OTHERS = {
    "pooling": lambda: chain(nn.AvgPool2d(2), width=16),
    "groups": lambda: chain(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU()),
    "dilation": lambda: chain(first=nn.Conv2d(3, 4, 3, dilation=2, stride=2), width=36),
    "a padding that is no zeros": lambda: chain(
        first=nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), width=324
    ),
    "as many zeros as the kernel is long": lambda: chain(first=nn.Conv2d(3, 4, 1, padding=1, stride=2), width=144),
    "sides that differ": lambda: chain(first=nn.Conv2d(3, 4, 2, padding="same"), width=324),
    "two Linear in a row between ReLUs": lambda: chain(nn.Flatten(), nn.Linear(64, 64)),
    "an ELU in the middle": lambda: chain(nn.Conv2d(4, 4, 1), nn.ELU()),
    "ends with a ReLU": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU()),
    "a softmax in front": lambda: Around(lambda x: x.softmax(1)),
    "one offset for each channel": lambda: Around(lambda x: x + torch.tensor([1.0, 2.0, 3.0])[:, None, None]),
    "pixels that are turned around": lambda: Around(lambda x: 1 - x / 255),
    "another use of the input": lambda: Around(lambda x: x - x.mean()),
    "two tanhs": lambda: Around(behind=lambda x: x.tanh().tanh()),
    "a dictionary": lambda: Around(behind=lambda x: {"action": x}),
    "one action of two": lambda: Around(behind=lambda x: x[:, :1]),
    "actions that are all zero": lambda: Around(behind=lambda x: x * 0),
}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's, of one of the modules
@pytest.mark.parametrize("name", OTHERS)
def test_what_an_actor_cannot_say_runs_by_operators(name):
    module, inputs = _made(OTHERS[name]), _images(4, 9).double()
    network = spikify(module, inputs, neuron="mt", timesteps=256)
    assert network.engine == "operators"
    result, wanted = network(inputs), module(inputs)
    if name == "a dictionary":
        with pytest.raises(InputError, match=r"returns one tensor \[B, action_dim\]"):
            network.act(inputs.numpy())
        result, wanted = result["action"], wanted["action"]
    torch.testing.assert_close(result, wanted, rtol=0, atol=0.02 * float(wanted.std()) + 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_a_padding_may_be_named(padding, operators):
    width = math.prod(nn.Conv2d(3, 4, (3, 5), padding=padding)(torch.zeros(1, 3, 9, 9)).shape)
    module = _made(lambda: chain(first=nn.Conv2d(3, 4, (3, 5), padding=padding), width=width))
    inputs = _images(6, 9).double()
    network = spikify(module, inputs)
    assert network.engine == "actor"
    torch.testing.assert_close(network(inputs), operators(module, inputs)(inputs), rtol=0, atol=1e-9)


@torch.no_grad()
def test_a_network_that_is_an_actor_is_copied_moved_and_exported():
    module, inputs = _made(Drq, True).float(), _images(6, 9)
    network = spikify(module, inputs, neuron="if", timesteps=4)
    wanted = network(inputs)
    assert torch.equal(copy.deepcopy(network)(inputs), wanted)
    assert torch.equal(network(inputs[:2]), wanted[:2])
    program = torch.export.export(network, (inputs[:4],), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(program.module()(inputs), wanted, rtol=0, atol=1e-6)
    network.double()
    assert network(inputs).dtype == torch.float64


BAD = {
    "channels last": (np.zeros((9, 9, 3), np.uint8), r"must be \[3, 9, 9\] or \[B, 3, 9, 9\], got shape \[9, 9, 3\]"),
    "floats": (np.zeros((3, 9, 9), np.float32), r"must be an? (uint8 array|array of uint8).*got float32"),
    "two images in two": (np.zeros((2, 2, 3, 9, 9), np.uint8), r"got shape \[2, 2, 3, 9, 9\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_observations_that_are_none_are_refused_on_both_routes(name, operators):
    given, message = BAD[name]
    module, inputs = _made(Drq, False), _images(6, 9)
    for network in (spikify(module, inputs), operators(module, inputs)):
        assert network.observation_shape == (3, 9, 9)
        assert network.act(inputs[0].numpy()).shape == (2,)
        assert network.act(inputs.numpy()).shape == (6, 2)
        with pytest.raises(InputError, match=message):
            network.act(given)


def test_observations_are_of_the_samples_kind(operators):
    module = _made(Normalised)
    network = operators(module, _vectors(4).float())
    assert network.act(np.zeros(5, np.float16)).dtype == np.float64
    for given, message in (
        (np.zeros(5, int), "must be a floating-point array, as the samples were, got int64"),
        ([0.0] * 5, "must be a floating-point array, got list"),
        (np.full((2, 5), np.nan), "NaN"),
        (np.ma.masked_array(np.zeros(5), mask=[1, 0, 0, 0, 0]), "got MaskedArray"),
    ):
        with pytest.raises(InputError, match=message):
            network.act(given)
    network = spikify(module, _vectors(4).long())
    assert network.engine == "operators"  # the module takes no integers: they become its own numbers
    assert network.act(np.ones(5, np.int64)).shape == (2,)


def test_samples_pass_in_chunks(monkeypatch):
    module, inputs = _made(Drq, False), _images(23, 9)
    wanted = spikify(module, inputs)
    seen = []
    monkeypatch.setattr(activations, "_NUMBERS", 5 * (3 * 81 + 4 * 16 + 6 * 16 + 10 + 12 + 12) + 1)
    record = conversion.Statistics.record
    monkeypatch.setattr(
        conversion.Statistics, "record", lambda self, found: (seen.append(len(found[-1])), record(self, found))
    )
    network = spikify(module, [inputs[:12].numpy(), inputs[12:]])
    assert seen == [5, 5, 2, 5, 5, 1]
    for one, other in zip(network.activations.values(), wanted.activations.values(), strict=True):
        torch.testing.assert_close(one.threshold, other.threshold, rtol=1e-12, atol=0)


@pytest.mark.parametrize("neuron", ["if", "dc"])
def test_a_network_drives(neuron, operators):
    """On both routes alike, with the carry of each row reset where its episode ends, and spikes counted."""
    generator = torch.Generator().manual_seed(8)
    module = _made(lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    samples = torch.randn(50, 3, generator=generator)
    options = {"neuron": neuron, "timesteps": 3, "alpha": 0.8}
    found = []
    for network in (spikify(module, samples, **options), operators(module, samples, **options)):
        envs = SyncVectorEnv([lambda row=row: Scripted(row) for row in range(3)], autoreset_mode=AutoresetMode.DISABLED)
        found.append(rollout(network, envs, episodes=4))
    np.testing.assert_allclose(found[0].returns, found[1].returns, rtol=0, atol=1e-9)
    assert found[0].spikes.shape == (2,)
    assert (found[0].spikes > 0).all()
    assert found[0].spikes.tolist() == found[1].spikes.tolist()
