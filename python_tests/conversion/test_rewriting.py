"""Actors of other activations than ReLU: as sums of ramps, as spiking actors, and in files."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.builders import make_layers
from torch import nn

import snnkern
from snnkern import DC, IF, MT, SNM
from snnkern.conversion.rewriting import RAMPS, as_relus, endless
from snnkern.errors import CheckpointError, InputError, InputWarning
from snnkern.files import read_tensors
from snnkern.policies.activations import ACTIVATIONS, RELU, activation_of, parse_activation
from snnkern.policies.actor import Actor, Conv, Interface
from snnkern.policies.spiking import SpikingActor, dense_actor
from snnkern.training.run import Progress

OTHERS = sorted(set(ACTIVATIONS) - {RELU})
LARGEST = {"tanh": 0.086, "elu": 0.110, "selu": 0.193, "leaky_relu": 1e-9, "silu": 0.032, "gelu": 0.0205}
OBSERVATIONS = np.random.default_rng(0).normal(size=(512, 5)).astype(np.float32)


def actor_of(activation: str, dtype: torch.dtype = torch.float32) -> Actor:
    layers = [(1.5 * weight.to(dtype), bias.to(dtype)) for weight, bias in make_layers(5, 24, 16, 3)]
    return Actor(layers[:-1], layers[-1], activation=activation)


def actor_that_sees(activation: str) -> Actor:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) / np.prod(shape[1:]) ** 0.5

    layers = [Conv(draw(4, 2, 3, 3), draw(4), 2, 1), Conv(draw(3, 4, 2, 2), draw(3), 1, 1), (draw(6, 75), draw(6))]
    return Actor(layers, (draw(2, 6), draw(2)), Interface((2, 8, 8), 2, dtype=torch.float64), activation=activation)


def ramps_of(activation: str, x: torch.Tensor) -> torch.Tensor:
    return sum(
        (slope * (sign * x - start).clamp(0, width) for sign, start, width, slope in RAMPS[activation]),
        start=torch.zeros_like(x),
    )


@pytest.mark.parametrize("activation", OTHERS)
def test_ramps_come_as_close_as_they_say(activation) -> None:
    x = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    error = (ramps_of(activation, x) - ACTIVATIONS[activation][0](x)).abs()
    assert float(error.max()) <= LARGEST[activation]
    assert float(ramps_of(activation, torch.zeros(1))) == float(ACTIVATIONS[activation][0](torch.zeros(1))) == 0
    again = sum(slope * (sign * x - start).clamp(0, width) for sign, start, width, slope in endless(RAMPS[activation]))
    torch.testing.assert_close(again, ramps_of(activation, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("neuron", [IF(), DC()], ids=["ceilings", "endless"])
@pytest.mark.parametrize("activation", OTHERS)
@pytest.mark.parametrize("make", [actor_of, actor_that_sees])
def test_what_is_rewritten_computes_the_ramps(activation, neuron, make, monkeypatch) -> None:
    """Through convolutions with padding, and behind a flatten, too."""
    actor = make(activation) if make is actor_that_sees else make(activation, torch.float64)
    shape = actor.interface.observation_shape
    inputs = torch.randn(32, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    relus = as_relus(actor, neuron)
    assert relus.activation == RELU
    kind = ACTIVATIONS[activation][1]
    monkeypatch.setitem(ACTIVATIONS, activation, (lambda x: ramps_of(activation, x), kind))
    torch.testing.assert_close(relus(inputs), actor(inputs), rtol=0, atol=1e-12)


def test_an_actor_of_relus_stays_as_it_is() -> None:
    actor = actor_of(RELU)
    assert as_relus(actor, IF()) is actor


@pytest.mark.parametrize("calibration", ["auto", "max", "percentile", "mse", "mse:bias", "gaussian"])
@pytest.mark.parametrize("neuron", [IF(), SNM(), MT(), DC()], ids=["if", "snm", "mt", "dc"])
@pytest.mark.parametrize("activation", OTHERS)
def test_the_spiking_actor_acts_as_the_dense_one(activation, neuron, calibration) -> None:
    """As far as ramps can, and better than if the activation were taken for a ReLU."""
    actor = actor_of(activation)
    snn = snnkern.convert(
        actor, OBSERVATIONS, neuron=neuron, timesteps=32, alpha=0.0, calibration=calibration, check_finite=True
    )

    def error(policy) -> float:
        return float(np.sqrt(np.mean((policy.act(OBSERVATIONS) - actor.act(OBSERVATIONS)) ** 2)))

    plain = snnkern.convert(actor.replaced(activation=RELU), OBSERVATIONS, neuron=neuron, timesteps=32, alpha=0.0)
    assert error(snn) < (0.25 if calibration == "gaussian" else 0.1)
    if activation not in ("leaky_relu", "gelu", "silu"):
        assert error(snn) < error(plain) / 2


@pytest.mark.parametrize("activation", [name for name in OTHERS if name != "leaky_relu"])  # whose ramps leave nothing
def test_corrections_aim_at_the_activation_itself(activation) -> None:
    """So they mend what the ramps leave."""
    actor = actor_of(activation)
    errors = [
        float(np.square(snn.act(OBSERVATIONS) - actor.act(OBSERVATIONS)).mean())
        for rule in ("mse", "mse:linear:ridge=0.001")
        for snn in [snnkern.convert(actor, OBSERVATIONS, neuron="dc", timesteps=64, alpha=0.0, calibration=rule)]
    ]
    assert errors[1] < 0.75 * errors[0]


@pytest.mark.parametrize("neuron", ["if", "dc"])
@pytest.mark.parametrize("calibration", ["max", "auto"])
@pytest.mark.parametrize("activation", OTHERS)
def test_the_dense_actor_is_kept(activation, calibration, neuron, tmp_path) -> None:
    actor = actor_of(activation)
    snn = snnkern.convert(actor, OBSERVATIONS, neuron=neuron, timesteps=4, calibration=calibration)
    snnkern.save(snn, tmp_path / "snn")
    loaded = snnkern.load(tmp_path / "snn")
    for policy in (snn, copy.deepcopy(snn), loaded, snn.trainable().spiking()):
        assert policy.activation == activation
        assert dense_actor(policy).fingerprint() == actor.fingerprint()
    np.testing.assert_array_equal(loaded.act(OBSERVATIONS), snn.act(OBSERVATIONS))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # torch's
@pytest.mark.parametrize("widths", [(5, 0, 3), (0, 4, 3), (5, 4, 0, 3), (5, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("calibration", ["max", "mse:bias"])
def test_layers_without_neurons_are_rewritten_as_those_of_relus_are_converted(widths, calibration) -> None:
    layers = make_layers(*widths)
    actor = Actor(layers[:-1], layers[-1], activation="silu")
    inputs = np.ones((20, widths[0]), np.float32)
    snn = snnkern.convert(actor, inputs, calibration=calibration)
    assert snn.act(inputs).shape == actor.act(inputs).shape
    assert dense_actor(snn).fingerprint() == actor.fingerprint()


@pytest.mark.parametrize("activation", [RELU, "tanh"])
def test_observations_that_the_model_did_not_receive_are_warned_of(activation) -> None:
    actor = actor_of(activation)
    actor.received = OBSERVATIONS[:4]
    enough = np.tile(OBSERVATIONS, (2, 1))  # few do not tell
    snnkern.convert(actor, enough)
    with pytest.warns(InputWarning, match="these observations are not of the kind that the model received"):
        snnkern.convert(actor, enough + 100)


def test_an_actor_that_sees_is_rewritten(tmp_path) -> None:
    actor = actor_that_sees("elu").to(torch.float32)
    inputs = np.random.default_rng(2).normal(size=(200, 2, 8, 8)).astype(np.float32)
    for calibration in ("max", "auto"):
        snn = snnkern.convert(actor, inputs, neuron="mt", timesteps=16, alpha=0.0, calibration=calibration)
        assert np.abs(snn.act(inputs) - actor.act(inputs)).max() < 0.2
        snnkern.save(snn, tmp_path / "snn")
        assert dense_actor(snnkern.load(tmp_path / "snn")).fingerprint() == actor.fingerprint()


def test_older_releases_read_what_they_can(tmp_path) -> None:
    """They would take another activation for ReLU, and so are told that the format is newer."""
    for activation, version in ((RELU, 1), ("tanh", 2)):
        actor = actor_of(activation)
        for policy in (actor, snnkern.convert(actor, OBSERVATIONS)):
            snnkern.save(policy, tmp_path / "file")
            description = read_tensors((tmp_path / "file").read_bytes(), "file")[2]
            assert f'"version":{version}' in description.replace(" ", "")
            assert ('"activation"' in description) == (version == 2)


def test_what_is_no_actor_of_such_an_activation_is_refused(tmp_path) -> None:
    actor = actor_of("tanh")
    with pytest.raises(InputError, match=r"neurons compute ReLUs, but the actor's activation is tanh: use convert"):
        SpikingActor(actor, [torch.ones(24), torch.ones(16)], snnkern.Dynamics(MT(), 4))
    with pytest.raises(InputError, match=r"thresholds are those of ReLUs, but the actor's activation is tanh"):
        snnkern.calibrate(actor, OBSERVATIONS)
    for name in ("relu6", "", None, 3):
        with pytest.raises(InputError, match="activation must be one of relu, tanh"):
            actor_of(name)
    with pytest.raises(InputError, match="a bridge, such as a LayerNorm, needs ReLUs, but the activation is elu"):
        Actor(actor.layers, (actor.output.weight, actor.output.bias), actor.interface, bridges={1: [nn.LayerNorm(24)]},
              activation="elu")  # fmt: skip


def test_numbers_that_become_infinite_are_the_actors_own() -> None:
    actor = actor_of("silu")
    output = actor.output.weight / actor.output.weight.abs().max() * torch.finfo(torch.float32).max
    layers = [*((layer.weight, layer.bias) for layer in actor.hidden), (output, actor.output.bias)]
    with pytest.raises(InputError, match=r"too large to write its silu as ReLUs: layer 3's weight holds NaN or inf"):
        snnkern.convert(actor.replaced(pairs=layers), OBSERVATIONS)


@pytest.mark.parametrize("value", ["relu6", 3, None, ["tanh"]])
def test_a_file_that_names_another_activation_is_refused(value, tmp_path) -> None:
    from support.tampered import Tampered

    for policy in (actor_of("tanh"), snnkern.convert(actor_of("tanh"), OBSERVATIONS)):
        snnkern.save(policy, tmp_path / "file")
        tampered = Tampered(tmp_path / "file")
        tampered.description["activation"] = value
        read = snnkern.load_actor if isinstance(policy, Actor) else snnkern.load
        with pytest.raises(CheckpointError, match="activation"):
            read(tampered.write())


@pytest.mark.parametrize("name", ["tanh", "Tanh", "nn.Tanh", "torch.nn.modules.activation.Tanh", nn.Tanh, torch.tanh])
def test_names_of_classes_and_functions_are_known(name) -> None:
    assert parse_activation(name) == "tanh"
    assert parse_activation("swish") == parse_activation(nn.SiLU) == "silu"


def test_modules_with_numbers_of_their_own_are_another_activation() -> None:
    assert [activation_of(kind()) for _, kind in ACTIVATIONS.values()] == list(ACTIVATIONS)
    assert activation_of(nn.ReLU(inplace=True)) == RELU
    for module in (nn.ELU(2.0), nn.LeakyReLU(0.2), nn.GELU(approximate="tanh"), nn.Sigmoid(), nn.Linear(2, 2)):
        assert activation_of(module) is None


def test_it_is_refined_towards_the_dense_actor_itself() -> None:
    actor = actor_of("tanh")
    snn = snnkern.convert(actor, OBSERVATIONS, neuron="if", timesteps=4, calibration="max")
    heard: list[Progress] = []
    refined = snnkern.refine(snn, OBSERVATIONS, minutes=1, rounds=1, progress=heard.append)
    assert heard[-1].error < heard[-1].given
    assert dense_actor(refined).fingerprint() == actor.fingerprint()
    assert refined.activation == "tanh"
