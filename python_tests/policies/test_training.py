"""Spiking actors to train: they decide as they did, have the reference's gradients, and lead back to spiking actors."""

import copy

import pytest
import torch
from support.cases import (
    DEFAULT_NEURONS,
    LAYER_BACKENDS,
    assert_same_bits,
    each,
    needs_compiler,
    random_actor,
    random_observations,
)
from support.gradients import assert_close
from support.visual import FORMS, frames, visual_actor, visual_thresholds

import snnkern
from snnkern import IF, Dynamics, InputError, SpikingActor
from snnkern.kernels import reference
from snnkern.kernels.surrogates import SURROGATES
from snnkern.policies.spiking import dense_actor

backend = pytest.mark.parametrize("backend", LAYER_BACKENDS)


def plain_snn(neuron=None, dtype=torch.float32, widths=(11, 33, 17, 3), timesteps=4, **options):
    actor, thresholds = random_actor(widths, dtype)
    return SpikingActor(actor, thresholds, Dynamics(neuron or IF(), timesteps, alpha=0.5), **options)


def seeing_snn(form, neuron, dtype=torch.float32, per_neuron=False):
    actor = visual_actor(form, dtype)
    return SpikingActor(actor, visual_thresholds(actor, per_neuron=per_neuron), Dynamics(neuron, 3, alpha=0.5))


def by_reference(trainable, observation, carries):
    """z by the reference, on the same parameters."""
    steps = {place: [_part(step) for step in chain] for place, chain in trainable.bridges.items()}
    hidden = [
        reference.Layer(_turned(one.weight), one.bias, one.threshold, one.convolution, tuple(steps.get(str(index), ())))
        for index, one in enumerate(trainable.hidden)
    ]
    output = _turned(trainable.output.weight), trainable.output.bias
    bridge = steps.get(str(len(hidden)), ())
    return reference.actor(
        trainable.interface.normalize(observation),
        hidden,
        output,
        carries,
        trainable.dynamics,
        bridge=bridge,
        surrogate=trainable.surrogate,
    ).output


def _turned(weight):
    return weight.T if weight.dim() == 2 else weight


def _part(step):
    from snnkern.policies.spiking import _bridge_part

    return _bridge_part(step)


@backend
@each("neuron", DEFAULT_NEURONS)
def test_it_decides_as_the_spiking_actor_does(neuron, backend):
    snn = plain_snn(neuron, backend=backend)
    stateless, trainable = snn.stateless(), snn.trainable()
    carries = stateless.start(5)
    for observation in random_observations(4, 5, 11):
        action, *carries_after = stateless(observation, *carries)
        z, after = trainable.decide(observation, carries)
        assert_same_bits(trainable(observation, carries), action)
        assert_same_bits(trainable.interface.action(z), action)
        for one, other in zip(after, carries_after, strict=True):
            assert_same_bits(one, other)
            assert not one.requires_grad
        carries = carries_after
    assert any(bool(carry.any()) for carry in carries)


@pytest.mark.parametrize("surrogate", SURROGATES)
@each("neuron", DEFAULT_NEURONS)
def test_gradients_of_an_actor_are_the_references(neuron, surrogate):
    trainable = plain_snn(neuron, torch.float64).trainable(surrogate)
    (observation,) = random_observations(1, 6, 11, torch.float64)
    _assert_gradients(trainable, observation)


@pytest.mark.parametrize("per_neuron", [False, True], ids=["per-channel", "per-neuron"])
@each("form", FORMS)
@each("neuron", DEFAULT_NEURONS)
def test_gradients_of_an_actor_that_sees_are_the_references(neuron, form, per_neuron):
    trainable = seeing_snn(form, neuron, torch.float64, per_neuron).trainable()
    _assert_gradients(trainable, torch.from_numpy(frames(3, form.image)))


def _assert_gradients(trainable, observation):
    carries = trainable.draw_carries(len(observation), 0.3, torch.Generator().manual_seed(3))
    parameters = dict(trainable.named_parameters())
    z, _ = trainable.decide(observation, carries)
    wanted = by_reference(trainable, observation, carries)
    assert_close(z, wanted, "z")
    weighting = torch.linspace(0.5, 1.5, z.numel(), dtype=z.dtype).reshape(z.shape)
    found = torch.autograd.grad((z * weighting).sum(), list(parameters.values()))
    exact = torch.autograd.grad((wanted * weighting).sum(), list(parameters.values()))
    for name, one, other in zip(parameters, found, exact, strict=True):
        assert_close(one, other, name)
    assert sum(bool(one.any()) for one in found) > len(found) - 2


def test_parameters_are_weights_biases_and_log_thresholds():
    trainable = plain_snn().trainable()
    hidden = [f"hidden.{layer}.{name}" for layer in (0, 1) for name in ("weight", "bias", "log_threshold")]
    assert sorted(dict(trainable.named_parameters())) == sorted([*hidden, "output.weight", "output.bias"])


def test_bridges_and_convolutions_that_are_frozen_let_gradients_through():
    form = FORMS["trunk"]
    trainable = seeing_snn(form, IF()).trainable()
    assert not any(name.startswith("bridges") for name, _ in trainable.named_parameters())
    trainable.hidden[1].requires_grad_(False)
    trainable(torch.from_numpy(frames(3, form.image))).square().sum().backward()
    assert trainable.hidden[1].weight.grad is None
    assert trainable.hidden[0].weight.grad.any()


@each("neuron", DEFAULT_NEURONS)
def test_the_way_back_gives_the_spiking_actor_the_present_numbers(neuron):
    snn = plain_snn(neuron)
    before = copy.deepcopy(snn)
    trainable = snn.trainable()
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.add_(torch.linspace(-0.2, 0.2, parameter.numel()).reshape(parameter.shape))
    trained = trainable.spiking()
    (observation,) = random_observations(1, 5, 11)
    assert_same_bits(trained.stateless()(observation, *trainable.start(5))[0], trainable(observation).detach())
    assert_close(trained(observation), trainable(observation).detach(), "action")
    for one, other in zip(trained.thresholds, trainable.hidden, strict=True):
        assert_same_bits(one, other.threshold.detach())
    for one, other in zip(snn.state_dict().values(), before.state_dict().values(), strict=True):
        assert_same_bits(one, other)
    assert trained.metadata == snn.metadata
    assert trainable.double().spiking().output.weight.dtype == torch.float64


def test_without_training_the_way_back_is_bit_for_bit():
    snn = plain_snn()
    for one, other in zip(snn.trainable().spiking().hidden, snn.hidden, strict=True):
        for name in ("weight", "bias", "threshold"):
            assert_same_bits(getattr(one, name), getattr(other, name))


def test_the_dense_original_stays_what_it_was(tmp_path):
    snn = plain_snn()
    trainable = snn.trainable()
    with torch.no_grad():
        trainable.output.bias.add_(1)
    trained = trainable.spiking()
    (observation,) = random_observations(1, 5, 11)
    wanted = dense_actor(snn)(observation)
    assert_same_bits(dense_actor(trained)(observation), wanted)
    again = trained.trainable().spiking()
    assert_same_bits(dense_actor(again)(observation), wanted)
    snnkern.save(again, tmp_path / "trained.safetensors")
    loaded = snnkern.load(tmp_path / "trained.safetensors")
    assert_same_bits(dense_actor(loaded)(observation), wanted)
    assert_same_bits(loaded(observation), trained(observation))


def test_a_threshold_of_zero_stays_zero():
    actor, thresholds = random_actor((11, 33, 17, 3))
    thresholds[0][::3] = 0
    trainable = SpikingActor(actor, thresholds, Dynamics(IF(), 4)).trainable()
    optimizer = torch.optim.Adam(trainable.parameters(), lr=0.1)
    (observation,) = random_observations(1, 5, 11)
    for _ in range(3):
        optimizer.zero_grad()
        trainable(observation).square().sum().backward()
        optimizer.step()
    threshold = trainable.hidden[0].threshold
    assert bool((threshold[::3] == 0).all())
    assert bool((threshold[1::3] > 0).all())
    assert all(bool(parameter.isfinite().all()) for parameter in trainable.parameters())


@each("neuron", DEFAULT_NEURONS)
def test_an_ordinary_loop_learns_what_another_actor_does(neuron):
    """The teacher is the same actor with other thresholds; half of the error is gone at least."""
    torch.manual_seed(0)
    teacher = plain_snn(neuron, timesteps=8)
    actor, thresholds = random_actor((11, 33, 17, 3))
    trainable = SpikingActor(actor, [0.5 * one for one in thresholds], Dynamics(neuron, 8)).trainable()
    observations = random_observations(1, 64, 11)[0]
    wanted = teacher(observations)
    optimizer = torch.optim.Adam(trainable.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (trainable(observations) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.5 * losses[0]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize(
    ("sees", "compiler"),
    [
        (False, "aot_eager"),
        (True, "aot_eager"),
        pytest.param(False, "inductor", marks=[needs_compiler, pytest.mark.thorough]),
    ],
)
def test_it_compiles_into_one_graph(sees, compiler):
    if sees:
        form = FORMS["trunk"]
        trainable, observation = seeing_snn(form, IF()).trainable(), torch.from_numpy(frames(3, form.image))
    else:
        trainable, observation = plain_snn().trainable(), random_observations(1, 5, 11)[0]

    def gradients(module):
        loss = module(observation).square().sum()
        return torch.autograd.grad(loss, list(trainable.parameters()))

    compiled = torch.compile(trainable, fullgraph=True, backend=compiler)
    for actual, wanted in zip(gradients(compiled), gradients(trainable), strict=True):
        assert_close(actual, wanted, "a parameter")


def test_autocast_learns_in_bfloat16_what_surrounds_the_neurons():
    form = FORMS["two-convolutions"]
    trainable = seeing_snn(form, IF()).trainable()
    observation = torch.from_numpy(frames(3, form.image))
    with torch.autocast("cpu", torch.bfloat16):
        action = trainable(observation)
        loss = action.float().square().sum()
    loss.backward()
    for name, parameter in trainable.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert bool(parameter.grad.isfinite().all()), name
    wanted = trainable(observation)
    assert float((action - wanted).detach().abs().max()) < 0.5 * float(trainable.interface.action_scale.max())


def test_drawn_carries_are_within_their_part_of_the_threshold():
    form = FORMS["two-convolutions"]
    for trainable in (plain_snn().trainable(), seeing_snn(form, IF()).trainable()):
        carries = trainable.draw_carries(6, 0.25, torch.Generator().manual_seed(0))
        assert [carry.shape for carry in carries] == [carry.shape for carry in trainable.start(6)]
        for layer, carry in zip(trainable.hidden, carries, strict=True):
            bound = 0.25 * layer.per_neuron(layer.threshold.detach()).reshape(layer.neuron_shape)
            assert bool((carry.abs() <= bound).all())
            assert bool((carry > 0.5 * bound).any())
            assert bool((carry < -0.5 * bound).any())
            assert not carry.requires_grad
    with pytest.raises(InputError, match=r"spread must be a number from 0 to .*, got -1"):
        trainable.draw_carries(6, -1)
    for spread in ("x", float("inf")):
        with pytest.raises(InputError, match="spread must be a number"):
            trainable.draw_carries(6, spread)
    with pytest.raises(InputError, match="batch must be a whole number"):
        trainable.draw_carries(-3)


def test_what_does_not_fit_is_refused():
    snn = plain_snn()
    trainable = snn.trainable()
    with pytest.raises(InputError, match=r"observation must be \[B, 11\]"):
        trainable(torch.zeros(5, 10))
    with pytest.raises(InputError, match="observation holds NaN or infinity in 1 of 5 rows"):
        trainable(torch.full((5, 11), 0.0).index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(InputError, match="2 hidden layers, got carries for 1"):
        trainable(torch.zeros(5, 11), trainable.start(5)[:1])
    with pytest.raises(InputError, match=r"the carry of hidden layer 1 must be \[B, N\] = \[5, 33\], got shape \[33\]"):
        trainable(torch.zeros(5, 11), [carry[0] for carry in trainable.start(5)])
    with pytest.raises(
        InputError, match=r"the carry of hidden layer 1 must be \[B, N\] = \[5, 33\], got shape \[3, 33\]"
    ):
        trainable(torch.zeros(5, 11), trainable.start(3))
    with pytest.raises(InputError, match="2 hidden layers, got int"):
        trainable(torch.zeros(5, 11), 5)
    with pytest.raises(InputError, match=r"save its \.spiking\(\)"):
        snnkern.save(trainable, "trained.safetensors")
    with pytest.raises(InputError, match="unknown surrogate 'cube'"):
        snn.trainable("cube")
    with pytest.raises(InputError, match="unknown backend 'gpu'"):
        snn.trainable(backend="gpu")
    snn.alpha = torch.zeros(5)
    with pytest.raises(InputError, match=r"alpha .* is set for every row"):
        snn.trainable()


def test_it_can_be_saved_and_resumed_by_its_state_dict():
    first, second = plain_snn().trainable(), plain_snn(widths=(11, 33, 17, 3)).trainable()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second.load_state_dict(first.state_dict())
    (observation,) = random_observations(1, 5, 11)
    assert_same_bits(second(observation), first(observation))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("output.weight", torch.nan, "output.weight holds NaN"),
        ("hidden.1.first_threshold", -1.0, "hidden.1.first_threshold must be finite and at least 0"),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(name, value, message):
    trainable = plain_snn().trainable()
    before = {name: tensor.clone() for name, tensor in trainable.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    state[name] = torch.full_like(state[name], value)
    with pytest.raises(InputError, match=message):
        trainable.load_state_dict(state)
    for name, tensor in trainable.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_numbers_that_training_has_made_infinite_are_no_actor(tmp_path):
    trainable, snn = plain_snn().trainable(), plain_snn()
    with torch.no_grad():
        trainable.hidden[0].log_threshold.fill_(1000.0)
        snn.hidden[0].weight.fill_(torch.nan)
    with pytest.raises(InputError, match=r"hidden\.0\.threshold must be finite"):
        trainable.spiking()
    with pytest.raises(InputError, match=r"hidden\.0\.weight holds NaN"):
        snnkern.save(snn, tmp_path / "trained.safetensors")
    assert not (tmp_path / "trained.safetensors").exists()


def test_what_is_made_under_inference_mode_can_be_trained():
    with torch.inference_mode():
        trainable = plain_snn().trainable()
    (observation,) = random_observations(1, 5, 11)
    trainable(observation).sum().backward()
    assert trainable.hidden[0].weight.grad.any()


def test_torch_func_gives_gradients_of_every_sample():
    trainable = plain_snn().trainable()
    (observation,) = random_observations(1, 5, 11)
    trainable(observation).square().sum().backward()

    def loss(parameters, row):
        return torch.func.functional_call(trainable, parameters, (row[None],)).square().sum()

    parameters = {name: parameter.detach() for name, parameter in trainable.named_parameters()}
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, observation)
    for name, parameter in trainable.named_parameters():
        assert found[name].shape == (5, *parameter.shape)
        assert_close(found[name].sum(dim=0), parameter.grad, name)
        assert parameter.grad.any()
