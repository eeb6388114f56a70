"""SpikingJelly and NIR: our activations in its networks, its networks by our kernels, our actors in NIR's format."""

from __future__ import annotations

import pytest
import torch
from support.builders import make_actor, make_observations
from torch import nn

import snnkern
from snnkern import InputError
from snnkern.kernels import reference

pytest.importorskip("spikingjelly", reason="spikingjelly is not installed: pip install 'snnkern[spikingjelly]'")

from spikingjelly.activation_based import functional, layer, neuron

T = 16


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", ["if", "snm", "mt", "dc"])
def test_activations_run_in_a_multi_step_network_and_reset_net_reaches_them(name):
    first, second = layer.Linear(5, 8, bias=False), layer.Linear(8, 2)
    activation = snnkern.SpikingActivation(name, torch.full((8,), 0.7), T, alpha=0.5)
    network = nn.Sequential(first, activation, second)
    functional.set_step_mode(network, "m")
    inputs = draw(T, 3, 5)
    fresh, carried = network(inputs), network(inputs)
    assert not torch.equal(fresh, carried)
    functional.reset_net(network)
    assert activation.carry.value is None
    assert torch.equal(network(inputs), fresh)
    zeros = torch.zeros(3, 8)
    decided = reference.neuron(
        (inputs.flatten(0, 1) @ first.weight.T).reshape(T, 3, 8), activation.threshold, zeros, activation.dynamics
    )
    torch.testing.assert_close(fresh, second(decided.spikes), rtol=0, atol=1e-6)


class Spiking(nn.Module):
    """Convolution, pooling and a residual connection, as SpikingJelly's networks have them."""

    def __init__(self, first: nn.Module, second: nn.Module, third: nn.Module) -> None:
        super().__init__()
        self.conv, self.again = layer.Conv2d(2, 6, 3, padding=1), layer.Conv2d(6, 6, 3, padding=1)
        self.norm, self.pool, self.flat = layer.BatchNorm2d(6), layer.MaxPool2d(2), layer.Flatten()
        self.out = layer.Linear(6 * 16, 10)
        self.first, self.second, self.third = first, second, third

    def forward(self, x):
        early = self.first(self.norm(self.conv(x)))
        late = self.second(self.again(early)) + early
        return self.third(self.out(self.flat(self.pool(late))))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_network_of_if_neurons_sends_the_same_spikes(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Spiking(
            neuron.IFNode(v_threshold=0.7, v_reset=None),
            neuron.HalfThresholdIFNode(v_threshold=0.3),
            neuron.SimpleIFNode(v_threshold=1.3, v_reset=None),
        ).to(dtype)
    functional.set_step_mode(network, "m")
    network.eval()
    converted = snnkern.from_spikingjelly(network, T)
    heard: dict[str, list[torch.Tensor]] = {"theirs": [], "ours": []}
    for who, module in (("theirs", network), ("ours", converted)):
        for part in (module.first, module.second, module.third):
            part.register_forward_hook(lambda _, __, out, who=who: heard[who].append(out))
    for batch in (4, 7):
        functional.reset_net(network)
        inputs = draw(T, batch, 2, 8, 8, seed=batch).to(dtype)
        assert torch.equal(converted(inputs), network(inputs))
    assert len(heard["ours"]) == 6
    for theirs, ours in zip(heard["theirs"], heard["ours"], strict=True):
        assert torch.equal(ours, theirs)
        assert 0.02 < theirs.mean() < 0.9
        assert set(ours.unique().tolist()) == {0.0, 1.0}
    assert isinstance(network.first, neuron.IFNode)


@torch.no_grad()
def test_a_network_that_is_one_neuron_converts_and_ties_go_the_other_way():
    node = neuron.IFNode(v_reset=None, step_mode="m")
    converted = snnkern.from_spikingjelly(node, T)
    current = draw(T, 3, 4)
    assert torch.equal(converted(current), node(current))
    node.reset()
    ties = torch.ones(T, 1, 1)
    assert node(ties).sum() == T
    assert converted(ties).sum() == T - 1  # 1, 2 − 1, …: one step late


class OwnIF(neuron.IFNode):
    """What a user has derived may do anything."""


WRONG = {
    "derived": (OwnIF(v_reset=None, step_mode="m"), "1, a OwnIF, which is not one of IFNode"),
    "lif": (neuron.LIFNode(v_reset=None, step_mode="m"), "1, a LIFNode, which is not one of IFNode"),
    "hard": (neuron.IFNode(step_mode="m"), r"1, a IFNode that is reset to v_reset = 0.0"),
    "single-step": (neuron.IFNode(v_reset=None), r'1, a IFNode with step_mode="s": call functional.set_step_mode'),
    "threshold": (neuron.IFNode(v_threshold=0.0, v_reset=None, step_mode="m"), "v_threshold = 0.0, where one number"),
    "none": (nn.ReLU(), "no IF neurons of SpikingJelly"),
}


@pytest.mark.parametrize("case", WRONG)
def test_neurons_that_are_none_of_ours_are_named(case):
    node, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        snnkern.from_spikingjelly(nn.Sequential(layer.Linear(3, 3), node), T)


def test_what_is_no_network_is_refused():
    with pytest.raises(InputError, match=r"must be a torch.nn.Module, got int"):
        snnkern.from_spikingjelly(3, T)


# NIR.


@pytest.fixture(scope="module")
def nir():
    pytest.importorskip("nirtorch", reason="nir and nirtorch are not installed: pip install 'snnkern[nir]'")
    return pytest.importorskip("nir", reason="nir is not installed: pip install 'snnkern[nir]'")


def make(**options) -> snnkern.SpikingActor:
    between = {
        "observation_mean": [0.1] * 5,
        "observation_std": [2.0] * 5,
        "observation_clip": 0.8,
        "action_scale": 2.0,
    }
    actor = make_actor(5, 40, 30, 3, **between)
    snn = snnkern.convert(actor, make_observations(300, 5), **{"neuron": "if", "timesteps": T, **options})
    snn.hidden[0].threshold[3] = 0.0  # never fires
    return snn


def import_into_spikingjelly(source):
    from spikingjelly.activation_based import nir_exchange

    graph, sent = nir_exchange.import_from_nir(source, dt=1e-4, step_mode="m"), {}
    for name, child in graph.named_children():
        if name.startswith("neuron"):
            child.module.v_reset = None
            child.register_forward_hook(lambda _, __, out, name=name: sent.update({name: out[0].sum(dim=0)}))
    return graph, sent


@torch.no_grad()
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 0.6, "memory": 0.5}], ids=["plain", "carry"])
def test_spikingjelly_runs_the_exported_graph_with_the_same_actions(nir, tmp_path, options):
    snn, keeper = make(**options), make(**options)
    nir.write(tmp_path / "actor.nir", snnkern.to_nir(snn))
    graph, sent = import_into_spikingjelly(tmp_path / "actor.nir")
    observations = torch.from_numpy(make_observations(300, 5, seed=9)).reshape(3, 100, 5)
    sure = torch.ones(100, dtype=torch.bool)
    for observation in observations:
        before = keeper.carry or [torch.zeros(100, 40), torch.zeros(100, 30)]
        hidden = [(one.weight.T.double(), one.bias.double(), one.threshold.double()) for one in snn.hidden]
        output = (snn.output.weight.T.double(), snn.output.bias.double())
        normalized = snn.interface.normalize(observation)
        decided = reference.actor(
            normalized.double(), hidden, output, [carry.double() for carry in before], snn.dynamics
        )
        for one in decided.layers:
            sure &= one.margin > 1e-5  # where rounding cannot decide whether a neuron fires
        state = {f"neuron_{i}": (potential,) for i, potential in enumerate(snnkern.nir.start(keeper, 100), 1)}
        z, state = graph(normalized.expand(T, 100, 5), state)
        snnkern.nir.carry_on(keeper, [state[name][0] for name in sent], list(sent.values()))
        action, wanted = snn.interface.action(z.mean(dim=0)), snn(observation)
        torch.testing.assert_close(action[sure], wanted[sure], rtol=0, atol=1e-5)
        for first, second in zip(keeper.carry, snn.carry, strict=True):
            torch.testing.assert_close(first[sure], second[sure], rtol=0, atol=1e-5)
        assert wanted.std() > 0.1
        assert torch.equal(sum(count.sum(dim=1) for count in sent.values())[sure], snn.spikes.sum(dim=0)[sure].float())
    assert sure.float().mean() > 0.5
    if options["alpha"]:
        assert keeper.carry[0].abs().max() > 0.01


def test_the_graph_holds_what_it_says(nir):
    graph = snnkern.to_nir(make(), dt=0.5)
    assert list(graph.nodes) == ["input", "layer_1", "neuron_1", "layer_2", "neuron_2", "readout", "output"]
    first = graph.nodes["neuron_1"]
    assert isinstance(first, nir.IF)
    assert (first.v_threshold == 1).all()
    assert (first.r == 2).all()
    assert not graph.nodes["layer_1"].weight[3].any()
    assert not graph.nodes["layer_2"].weight[:, 3].any()


@pytest.mark.parametrize(
    ("name", "why"), [("snm", "depend on what was sent"), ("mt", "several sizes"), ("dc", "changes of a rate")]
)
def test_other_neurons_cannot_be_expressed(nir, name, why):
    snn = make(neuron=name)
    with pytest.raises(InputError, match=f"NIR cannot express {name.upper()} neurons: .*{why}.*neuron='if'"):
        snnkern.to_nir(snn)
    with pytest.raises(InputError, match="NIR cannot express"):
        snnkern.nir.start(snn, 3)


def test_what_cannot_be_exported_is_refused(nir):
    with pytest.raises(InputError, match="must be a SpikingActor"):
        snnkern.to_nir(make_actor(3, 4, 2))
    with pytest.raises(InputError, match="dt must be a number of seconds above 0, got 0"):
        snnkern.to_nir(make(), dt=0)
