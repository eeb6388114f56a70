"""spikify: any feed-forward module becomes a spiking one that computes the same, or its parts are named."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from support.builders import make_actor
from torch import nn
from torch.nn import functional

import snnkern
from snnkern import InputError, spikify
from snnkern.kernels import reference

NEURONS = ("if", "snm", "mt", "dc")


class Residual(nn.Module):
    """Two convolutions around an addition; a head that leaves the graph's linear part by a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)  # one for all places
        self.head = nn.Linear(6 * 9, 4)

    def forward(self, x):
        early = self.relu(self.norm(self.first(x))).to(x.dtype).contiguous()
        late = self.norm2(self.second(early)) + early
        late = functional.avg_pool2d(torch.relu(late), 2)
        return torch.tanh(self.head(late.flatten(1)))


class Skip(nn.Module):
    """The input, coded by no ReLU, meets spikes, and one linear layer serves in front of and behind the last ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.out = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        first = self.shared(x)
        second = functional.relu(self.out(functional.relu(first) + first + x))
        return {"value": self.shared(x) + first, "action": (second, self.out(functional.relu(first) + x))}


class Seen(nn.Module):
    """Pixels, and everything in front of the first ReLU that no spike reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv, self.out = nn.LayerNorm([2, 9, 9]), nn.Conv2d(3, 6, 3, 2), nn.Linear(6 * 16, 4)

    def forward(self, x):
        x = x.to(self.conv.weight.dtype) / 255 - 0.5
        x = torch.cat([functional.elu(self.norm(x)), x[:, :1].softmax(-1)], dim=1)
        x = torch.relu(self.conv(x))
        return self.out(x.view(x.shape[0], -1))


class Bridged(nn.Module):
    """The original DrQ-v2's form: what is not linear stands between spiking parts."""

    def __init__(self) -> None:
        super().__init__()
        self.convnet = nn.Sequential(nn.Conv2d(2, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
        self.trunk = nn.Sequential(nn.Linear(24, 10), nn.LayerNorm(10), nn.Tanh())
        self.policy = nn.Sequential(nn.Linear(10, 12), nn.ReLU(inplace=True), nn.Linear(12, 3))

    def forward(self, x):
        h = self.convnet(x.to(self.trunk[0].weight.dtype) / 255.0 - 0.5)
        return torch.tanh(self.policy(self.trunk(h.view(h.size(0), -1))))


class Affine(nn.Module):
    """All that is linear between ReLUs, with numbers and parameters, and branches that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(5, 8), nn.Linear(5, 8), nn.BatchNorm1d(8)
        self.three, self.pool = nn.Linear(8 + 8 + 5, 9), nn.MaxPool1d(3)
        self.four, self.five = nn.Linear(9, 7), nn.Linear(1 + 3 + 7, 3)
        self.scale, self.shift = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(1, 8))

    def forward(self, x):
        first, second = torch.relu(self.one(x)), functional.relu(self.two(x))
        first = self.norm(first + 0.3 * second) * self.scale - self.shift
        second = -torch.add(2 - second / 1.5, first, alpha=0.5).add(self.shift)
        joined = functional.linear(torch.cat([first, x, second], dim=-1), self.three.weight, self.three.bias)
        joined = torch.relu(joined)
        gate = torch.sigmoid(self.four(joined)) * functional.elu(self.four(joined))
        joined = torch.cat([joined.mean(1, keepdim=True) + 0.5, self.pool(joined[:, None]).squeeze(), gate], 1)
        return self.five(torch.relu(joined))


class Upsampled(nn.Module):
    """Layers whose biases are dropped in differential coding in ways of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.norm = nn.Conv2d(2, 4, 2, 2), nn.ConvTranspose2d(4, 4, 2, 2), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 5, 3, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.up(torch.relu(self.down(x)))))
        x = functional.conv2d(x, self.last.weight, self.last.bias, 2)
        return torch.relu(x).sum(dim=(2, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 7, 3), nn.ReLU(),
        nn.Dropout(), nn.Flatten(), nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3),
    )  # fmt: skip


MODULES = {
    "cnn": (cnn, (2, 6, 6)),
    "residual": (Residual, (2, 6, 6)),
    "skip": (Skip, (5,)),
    "affine": (Affine, (5,)),
    "upsampled": (Upsampled, (2, 6, 6)),
    "seen": (Seen, (2, 9, 9)),
    "bridged": (Bridged, (2, 9, 9)),
}
PIXELS = ("seen", "bridged")


def make(name: str, dtype=torch.float64) -> tuple[nn.Module, torch.Tensor]:
    """A module whose BatchNorms have seen data, and inputs."""
    build, shape = MODULES[name]
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = build().to(dtype)
        if name in PIXELS:
            return module.eval(), torch.randint(0, 256, (64, *shape), generator=generator, dtype=torch.uint8)
        inputs = torch.randn(64, *shape, generator=generator, dtype=dtype)
        module.train()(inputs * 1.5 + 0.2)
    return module.eval(), inputs


def flat(output) -> torch.Tensor:
    leaves, _ = torch.utils._pytree.tree_flatten(output)
    return torch.cat([leaf.flatten(1) for leaf in leaves], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("name", MODULES)
def test_many_steps_make_the_dense_output(name, neuron):
    module, inputs = make(name)
    errors = []
    for timesteps in (16, 512):
        network = spikify(module, inputs, neuron=neuron, timesteps=timesteps)
        errors.append(float((flat(network(inputs)) - flat(module(inputs))).abs().max()))
    spread = float(flat(module(inputs)).std())
    assert errors[1] < 0.02 * spread
    assert errors[1] < errors[0] / 4


@torch.no_grad()
@pytest.mark.parametrize("neuron", NEURONS)
def test_every_step_is_that_of_the_reference(neuron):
    """A CNN by hand: currents from torch's own convolutions, neurons from the reference, one after the other."""
    module, inputs = make("cnn")
    network = spikify(module, inputs, neuron=neuron, timesteps=5, alpha=0.7, memory=0.5)
    dynamics, differential = network.dynamics, neuron == "dc"
    folded = [
        torch.nn.utils.fusion.fuse_conv_bn_eval(module[0], module[1]),
        module[4],
        torch.nn.utils.fusion.fuse_linear_bn_eval(module[8], module[9]),
    ]
    between = [lambda s: s, lambda s: functional.avg_pool2d(s, 2), lambda s: s.flatten(1)]
    activations = list(network.activations.values())
    carries = [None] * 3
    for decision in range(3):
        value = inputs[decision::3][:21]
        signal = [value if step == 0 or not differential else torch.zeros_like(value) for step in range(5)]
        for index, (layer, prepare) in enumerate(zip(folded, between, strict=True)):
            bias = layer.bias
            if differential:
                layer = copy.deepcopy(layer)
                layer.bias = None
            current = torch.stack([layer(prepare(step)) for step in signal])
            shape = current.shape
            spread = [1] * (current.dim() - 3)
            threshold = activations[index].threshold.reshape(-1, *spread).expand(shape[2:]).flatten()
            offset = bias.reshape(-1, *spread).expand(shape[2:]).flatten() if differential else None
            carry = torch.zeros(21, len(threshold), dtype=torch.float64) if decision == 0 else carries[index]
            decided = reference.neuron(current.flatten(2), threshold, carry, dynamics, offset)
            carries[index] = decided.carry
            signal = list(decided.spikes.reshape(shape))
        steps = torch.arange(1, 6, dtype=torch.float64)[:, None, None]
        mean = (torch.stack(signal) / steps).sum(0) if differential else torch.stack(signal).mean(0)
        torch.testing.assert_close(network(value), module[11](mean), rtol=0, atol=1e-12)


@torch.no_grad()
def test_thresholds_are_one_per_channel_of_a_convolution():
    module, inputs = make("cnn")
    network = spikify(module, [inputs[:40], inputs[40:]], calibration="max")
    first, second, third = network.activations.values()
    folded = torch.relu(module[1](module[0](inputs)))
    torch.testing.assert_close(first.threshold, folded.amax(dim=(0, 2, 3)))
    assert [len(activation.threshold) for activation in (first, second, third)] == [5, 7, 9]
    lower = spikify(module, inputs.numpy(), calibration="percentile:90").activations.values()
    assert all((low.threshold <= high.threshold).all() for low, high in zip(lower, (first, second, third), strict=True))
    wanted = [np.quantile(channel[channel > 0], 0.9) for channel in folded.movedim(1, 0).flatten(1).numpy()]
    np.testing.assert_allclose(next(iter(lower)).threshold, wanted, rtol=2e-2)


@torch.no_grad()
def test_the_module_stays_as_it_is_and_training_mode_does_not_count():
    module, inputs = make("residual")
    before = copy.deepcopy(module.state_dict())
    module.train()
    network = spikify(module, inputs, neuron="dc", timesteps=8)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    wanted = network(inputs)
    module.first.weight.zero_()
    assert torch.equal(network(inputs), wanted)


@torch.no_grad()
def test_rows_carry_on_until_they_are_reset():
    module, inputs = make("cnn", torch.float32)
    network = spikify(module, inputs, neuron="if", timesteps=3, alpha=0.8)
    fresh = network(inputs[:4])
    carried = network(inputs[:4])
    assert not torch.equal(fresh, carried)
    with pytest.raises(InputError, match=r"call reset\(\) before another batch size"):
        network(inputs[:5])
    network.reset()
    assert torch.equal(network(inputs[:4]), fresh)
    network.reset(torch.tensor([True, False, True, False]))
    again = network(inputs[:4])
    assert torch.equal(again[::2], fresh[::2])
    assert torch.equal(again[1::2], carried[1::2])
    assert network.spikes.shape == (3, 4)
    assert (network.spikes > 0).all()


@torch.no_grad()
def test_without_a_carry_calls_know_nothing_of_each_other():
    module, inputs = make("cnn", torch.float32)
    network = spikify(module, inputs, neuron="mt", timesteps=3)
    whole = network(inputs)
    torch.testing.assert_close(torch.cat([network(inputs[:1]), network(inputs[1:])]), whole, rtol=0, atol=1e-5)
    assert network(inputs[:0]).shape == (0, 3)
    again = pickle.loads(pickle.dumps(network))
    assert torch.equal(again(inputs), whole)


def test_spikes_pass_without_grad_mode_as_well():
    module, inputs = make("cnn", torch.float32)
    network = spikify(module, inputs)
    assert not network(inputs).requires_grad


class InPlace(nn.Module):
    def forward(self, x):
        y = x + x
        torch.relu_(y)
        z = torch.relu(y)
        z += 1
        z.mul_(2)
        return functional.dropout(torch.relu(z)), y.relu_()


class Branching(nn.Module):
    def forward(self, x):
        return torch.relu(x) if x.sum() > 0 else x


class Joined(nn.Module):
    def forward(self, x):
        x = torch.relu(x.view(x.size(0), -1))
        pairs = torch.relu(torch.reshape(x.reshape(x.shape), (-1, 2)) * 3)
        return pairs, torch.relu(torch.flatten(x)), torch.relu(x.sum(1)), torch.relu(x.sum(0, keepdim=True))


class Two(nn.Module):
    def forward(self, x, y):
        return torch.relu(x + y)


def test_what_cannot_be_converted_is_named_all_at_once():
    images = torch.randn(4, 2, 8, 8)
    with pytest.raises(InputError, match="nothing would spike"):
        spikify(nn.Linear(3, 4), torch.randn(2, 3))
    place = ", which works in place on what others use"
    parts = f"relu_{place}; mul_{place}; dropout, which drops at random[^;]*; relu__1{place}"
    with pytest.raises(InputError, match=f"^cannot convert {parts}$"):
        spikify(InPlace(), images)
    with pytest.raises(InputError, match=r"torch.fx cannot trace this Branching's forward"):
        spikify(Branching(), images)
    rows = r", whose result is not \[B, …\] with a row of numbers for every sample"
    with pytest.raises(InputError, match=f"^cannot convert reshape_1{rows}; flatten{rows}; sum_1{rows}; sum_2{rows}$"):
        spikify(Joined(), images)
    with pytest.raises(
        InputError, match=r"must take one tensor, got one that takes x, y: join several to one \[B, …\]"
    ):
        spikify(Two(), images)
    with pytest.raises(InputError, match=r"must be a torch.nn.Module, got function"):
        spikify(cnn, images)


SAMPLES = {
    "pairs": ([(torch.zeros(2, 3), torch.zeros(2))], "one array or tensor, got 2 in a tuple.*without labels"),
    "lists": ([[1.0, 2.0, 3.0]], "one array or tensor, got 3 in a list"),
    "dictionary": ({"observations": torch.zeros(2, 3)}, "must be an array or batches, got dict"),
    "nothing": (None, "must be an array or batches, got NoneType"),
    "objects": (np.array([[None] * 3]), "must be numeric arrays or tensors, got array of object"),
    "something": ([object()], "must be numeric arrays or tensors, got object"),
    "width": (torch.zeros(2, 4), r"cannot run on samples of shape \[B, 4\]: mat1 and mat2"),
    "no rows": (torch.zeros(0, 3), "at least one in every batch"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_that_the_module_does_not_take_are_refused(name):
    samples, message = SAMPLES[name]
    with pytest.raises(InputError, match=message):
        spikify(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), samples)


def test_what_others_convert_is_sent_there():
    model = type("SAC", (), {"__module__": "stable_baselines3.sac.sac"})()
    with pytest.raises(InputError, match=r"got SAC: snnkern\.from_sb3"):
        spikify(model, torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"module is an Actor: snnkern.convert converts actors"):
        spikify(make_actor(3, 4, 2), torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"must be an nn\.Sequential, got Two: snnkern\.spikify"):
        snnkern.actor_from_module(Two())
    network = spikify(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(2, 3))
    with pytest.raises(InputError, match="input must be a tensor"):
        network(np.zeros((2, 3)))


class Flattened(nn.Module):
    """Four flattens before the last ReLU; the one behind it may join rows."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.conv, self.out = 1, nn.Conv2d(2, 3, 3), nn.Linear(3 * 36, 4)
        self.flatten, self.last = nn.Flatten(), nn.Flatten(-2)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        flat = x.flatten(self.start), torch.flatten(x, start_dim=self.start), self.flatten(x), self.last(x).flatten(-2)
        return self.last(torch.relu(self.out(sum(flat[1:], flat[0]))))


@torch.no_grad()
@pytest.mark.parametrize("neuron", ["mt", "dc"])
def test_dimensions_of_a_flatten_may_be_counted_from_the_end(neuron):
    images = torch.randn(4, 2, 8, 8)
    module = Flattened()
    wanted = spikify(module, images, neuron=neuron)(images)
    module.start = module.flatten.start_dim = -3
    assert torch.equal(spikify(module, images, neuron=neuron)(images), wanted)
    module.start = module.flatten.start_dim = 0
    with pytest.raises(InputError, match=r"cannot run on samples of shape \[B, 2, 8, 8\]"):
        spikify(module, images, neuron=neuron)


def test_samples_that_do_not_serve_are_refused():
    module, inputs = make("cnn", torch.float32)
    with pytest.raises(InputError, match="give at least one sample"):
        spikify(module, [])
    with pytest.raises(InputError, match="must be finite, and at least one"):
        spikify(module, inputs[:0])
    with pytest.raises(InputError, match="must be finite, and at least one"):
        spikify(module, inputs * torch.inf)
    with pytest.raises(InputError, match="alpha"):
        spikify(module, inputs, alpha=2.0)


def test_an_actor_converts_as_it_does_by_convert():
    """The same thresholds and the same actions, up to the order of sums."""
    layers = [nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2), nn.Tanh()]
    module, inputs = nn.Sequential(*layers).double(), torch.randn(200, 5, dtype=torch.float64)
    options = {"neuron": "mt", "timesteps": 4, "alpha": 0.3, "calibration": "max"}
    network, snn = spikify(module, inputs, **options), snnkern.convert(module, inputs.numpy(), **options)
    for _ in range(3):
        torch.testing.assert_close(network(inputs[:7]), snn(inputs[:7]), rtol=0, atol=1e-9)
