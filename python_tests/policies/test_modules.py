"""Modules of torch as actors: what they compute of their own is refused by name, and what does nothing is left out."""

import importlib.util

import numpy as np
import pytest
import torch
from support.visual import frames
from torch import nn

import snnkern
from snnkern import InputError, actor_from_module
from snnkern.analysis.amplification import check_plain
from snnkern.policies.spiking import dense_actor

SHAPE = (3, 9, 8)


class OwnSequential(nn.Sequential):
    def forward(self, x):
        return super().forward(x * 2)


class OwnConv2d(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Named(nn.Linear):
    """It computes what its parent does."""


def network(first=None, last=None, middle=()) -> nn.Sequential:
    first = first or nn.Conv2d(3, 4, 3)
    return nn.Sequential(first, nn.ReLU(), *(middle or [nn.Flatten()]), last or nn.Linear(4 * 7 * 6, 2)).eval()


def changed(change):
    module = network()
    change(module)
    return module


CHANGED = {
    "a Sequential": (
        lambda: OwnSequential(*network()),
        "it is a OwnSequential, whose class OwnSequential computes otherwise than Sequential; snnkern.spikify",
    ),
    "a Sequential inside": (
        lambda: nn.Sequential(OwnSequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(168, 2)),
        "class OwnSequential computes",
    ),
    "a convolution": (
        lambda: network(OwnConv2d(3, 4, 3)),
        "module 0 of the Sequential is OwnConv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)), whose class OwnConv2d "
        "computes otherwise than Conv2d; snnkern.spikify converts other modules",
    ),
    "a kernel": (lambda: network(Standardised(3, 4, 3)), "whose class Standardised computes otherwise than Conv2d"),
    "a Linear": (lambda: network(last=OwnLinear(168, 2)), "whose class OwnLinear computes otherwise than Linear"),
    "a hook": (lambda: changed(lambda module: module[1].register_forward_hook(print)), "ReLU(), which has hooks"),
    "a hook before": (
        lambda: changed(lambda module: module.register_forward_pre_hook(print)),
        "it is a Sequential, which has hooks, whose code would be lost: remove them",
    ),
    "a function": (
        lambda: changed(lambda module: setattr(module[3], "forward", torch.tanh)),
        "whose forward was replaced",
    ),
    "weight_norm of old": (
        lambda: changed(lambda module: torch.nn.utils.weight_norm(module[3])),
        "use torch.nn.utils.parametrizations.weight_norm, or torch.nn.utils.remove_weight_norm",
    ),
    "spectral_norm of old": (
        lambda: changed(lambda module: torch.nn.utils.spectral_norm(module[0])),
        "use torch.nn.utils.parametrizations.spectral_norm, or torch.nn.utils.remove_spectral_norm",
    ),
    "no weights yet": (
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)),
        "has no weights before its first call: call the network once",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the norms of old
@pytest.mark.filterwarnings("ignore::UserWarning")  # of lazy modules, that they may change
@pytest.mark.parametrize("name", CHANGED)
def test_what_a_module_computes_of_its_own_is_refused(name):
    make, message = CHANGED[name]
    for read in (
        lambda module: actor_from_module(module, observation_shape=SHAPE),
        lambda module: snnkern.convert(module, frames(3, SHAPE)),
    ):
        with pytest.raises(InputError, match=r"^this network cannot be converted: ") as caught:
            read(make())
        assert message in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in CHANGED if "hook" in name or "func" in name or "old" in name])
def test_spikify_refuses_what_a_graph_does_not_know(name):
    with pytest.raises(
        InputError, match=r"^cannot convert (the module|[0-9]), (which has hooks|whose (weight|forward))"
    ):
        snnkern.spikify(CHANGED[name][0](), torch.rand(3, *SHAPE))


def test_spikify_names_weights_that_are_not_there_and_what_cannot_be_copied():
    with pytest.raises(InputError, match="cannot convert 0, which has no weights before its first call: call the net"):
        snnkern.spikify(nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(3, 4))
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    module.kept = module[0].weight * 2  # made by torch, with a history
    with pytest.raises(InputError, match="this Sequential cannot be copied: Only Tensors created explicitly"):
        snnkern.spikify(module, torch.rand(3, 4))


def nest() -> nn.Sequential:
    head = nn.Sequential(nn.Linear(168, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 2)))
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), head, nn.Sequential(nn.Tanh()))


KEPT = {
    "weight_norm": lambda: network(last=torch.nn.utils.parametrizations.weight_norm(nn.Linear(168, 2))),
    "spectral_norm": lambda: network(torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))),
    "a name alone": lambda: network(last=Named(168, 2)),
    "a nest": nest,
    "nothing": lambda: network(middle=[nn.Identity(), nn.Dropout(), nn.Flatten(), nn.Dropout()]),
    "nothing in front": lambda: nn.Sequential(nn.Identity(), *network()),
    "flat from 1 to 3": lambda: network(middle=[nn.Flatten(1, 3)]),
    "flat from the end": lambda: network(middle=[nn.Flatten(-3), nn.Flatten(-1, 1)]),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_reader_understands_acts_as_the_module(name):
    torch.manual_seed(0)
    module = KEPT[name]().eval()
    observations = frames(5, SHAPE).astype(np.float32) / 255
    with torch.no_grad():
        wanted = module(torch.from_numpy(observations)).numpy()
    for actor in (
        actor_from_module(module, observation_shape=SHAPE),
        dense_actor(snnkern.convert(module, observations, neuron="if")),
    ):
        np.testing.assert_allclose(actor.act(observations), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (network(middle=[nn.Dropout(), nn.Flatten()]).train(), "drops at random in training: call eval() on the netw"),
        (network(middle=[nn.Flatten(2)]), "where only Flatten() may stand"),
        (network(middle=[nn.Flatten(5)]), "where only Flatten() may stand"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *network()[1:]), "module 1 of the Sequential is BatchN"),
        (nn.Sequential(nn.Sequential(nn.ELU()), *network()), "module 0.0 of the Sequential is ELU"),
    ],
)
def test_other_modules_are_named_with_what_converts_them(module, message):
    with pytest.raises(InputError, match=r"; snnkern.spikify converts other modules$") as caught:
        actor_from_module(module, observation_shape=SHAPE)
    assert message in str(caught.value)


def test_channels_that_come_last_are_named():
    last = np.moveaxis(frames(3, SHAPE), 1, -1)
    with pytest.raises(InputError, match=r"shape \[9, 8, 3\], but the first convolution takes 3 channels, which come"):
        snnkern.convert(network(), last)


def test_what_takes_plain_actors_alone_says_what_else_is_there():
    bridge = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    vectors = actor_from_module(bridge)
    scaled = actor_from_module(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), observation_scale=2.0)
    for actor, why in (
        (actor_from_module(network(), observation_shape=SHAPE), "this one sees images"),
        (vectors, r"this one has layers without ReLUs behind them, such as LayerNorm and Tanh \(a bridge\)"),
        (scaled, "this one scales its observations"),
    ):
        assert not actor.is_plain
        with pytest.raises(InputError, match=f"analyze compares .*: {why}"):
            check_plain(actor)
        if importlib.util.find_spec("nir"):
            snn = snnkern.convert(actor, np.ones((2, *actor.interface.observation_shape), np.float32), neuron="if")
            with pytest.raises(InputError, match=f"exported to NIR: {why}"):
                snnkern.to_nir(snn)
