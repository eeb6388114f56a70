"""Spiking actors: what they compute, the carry that belongs to a row, what a call may be given, copies and moves."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from support.builders import NEURONS, assert_same_tensors, make_actor, make_observations
from support.cases import random_actor
from torch import nn

import snnkern
from snnkern import InputError, SpikingActivation, SpikingActor
from snnkern.kernels import reference
from snnkern.kernels.neurons import parse_neuron

WIDTHS = (5, 9, 13, 3)
BACKENDS = [status.name for status in snnkern.backends() if status.available]


def make_policy(neuron="mt", seed=0, dtype=torch.float32, widths=WIDTHS, interface=None, **parameters) -> SpikingActor:
    actor = make_actor(*widths, seed=seed, dtype=dtype, **(interface or {}))
    parameters = {"timesteps": 4, "alpha": 0.5, "memory": 0.5} | parameters
    return snnkern.convert(actor, make_observations(200, widths[0]), neuron=neuron, **parameters)


def observe(rows: int, seed: int = 2, dtype=torch.float32, width: int = WIDTHS[0]) -> torch.Tensor:
    return torch.from_numpy(make_observations(rows, width, seed=seed, dtype=np.float64)).to(dtype)


def carries(policy: SpikingActor) -> list[torch.Tensor]:
    """As they are now: decisions change them in place."""
    return [layer.carry.value.clone() for layer in policy.hidden]


def assert_same_carries(policy: SpikingActor, before: list[torch.Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(carries(policy), before, strict=True))


# SpikingActor: what it computes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_decisions_spikes_and_carries_are_those_of_the_reference(neuron, backend):
    scale, bias = torch.tensor([0.5, 2.0, 3.0]).double(), torch.tensor([0.0, -1.0, 1.0]).double()
    interface = {"action_scale": scale, "action_bias": bias, "observation_mean": 0.1, "observation_std": 0.7}
    actor = make_actor(*WIDTHS, dtype=torch.float64, **interface)
    thresholds = snnkern.calibrate(actor, make_observations(200, 5))
    dynamics = snnkern.Dynamics(parse_neuron(neuron), 5, alpha=0.7, memory=0.6)
    policy = snnkern.SpikingActor(actor, thresholds, dynamics, backend=backend)
    hidden = [
        (layer.weight, layer.bias, threshold) for layer, threshold in zip(actor.hidden, policy.thresholds, strict=True)
    ]
    rows = 101
    expected_carries = [torch.zeros(rows, len(threshold)).double() for threshold in policy.thresholds]
    clear = torch.ones(rows, dtype=torch.bool)  # rows that rounding cannot have turned
    for decision in range(4):
        observation = observe(rows, seed=decision, dtype=torch.float64)
        action = policy(observation)
        normalised = (observation - 0.1) / 0.7
        expected = reference.actor(
            normalised, hidden, (actor.output.weight, actor.output.bias), expected_carries, policy.dynamics
        )
        expected_carries = [layer.carry for layer in expected.layers]
        for layer in expected.layers:
            clear &= layer.margin > 1e-9
        counts = torch.stack([layer.counts for layer in expected.layers])
        assert policy.spikes.shape == (2, rows)
        assert policy.spikes.dtype == torch.int64
        assert torch.equal(policy.spikes[:, clear], counts[:, clear])
        torch.testing.assert_close(
            action[clear], scale * torch.tanh(expected.output[clear]) + bias, rtol=1e-9, atol=1e-9
        )
        for mine, wanted in zip(carries(policy), expected_carries, strict=True):
            torch.testing.assert_close(mine[clear], wanted[clear], rtol=1e-9, atol=1e-9)
    # A DC neuron that takes back exactly what it has sent stands on a boundary, Q = λ, without being in doubt.
    assert clear.sum() > (0.5 if neuron == "dc" else 0.9) * rows
    assert counts.sum() > 0


@pytest.mark.parametrize("neuron", NEURONS)
def test_the_carry_makes_a_decision_depend_on_the_last_one(neuron):
    policy, plain = make_policy(neuron), make_policy(neuron, alpha=0.0)
    observation = observe(20)
    assert torch.equal(policy(observation), plain(observation))
    assert not torch.equal(policy(observation), plain(observation))


def test_spikes_before_the_first_decision_are_refused():
    with pytest.raises(InputError, match="no decision has been made"):
        _ = make_policy().spikes


# SpikingActor: the carry belongs to a row


@pytest.mark.parametrize("rows", [0, 1, 2, 4])
def test_another_batch_size_is_refused_with_a_hint_to_reset(rows):
    policy = make_policy()
    policy(observe(3))
    before = carries(policy)
    with pytest.raises(InputError, match=r"carry belongs to a batch of shape \[3, 9\].*reset\(\)"):
        policy(observe(rows))
    assert_same_carries(policy, before)
    policy.reset()
    assert policy(observe(rows)).shape == (rows, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_without_alpha_nothing_is_carried_and_batches_may_differ(neuron, backend):
    policy = make_policy(neuron, alpha=0.0, backend=backend)
    for rows in (3, 4, 1, 0, 4):
        observation = observe(rows, seed=rows)
        assert torch.equal(policy(observation), make_policy(neuron, alpha=0.0, backend=backend)(observation))
        assert policy.act(observation.numpy()).shape == (rows, 3)
        assert policy.spikes.shape == (2, rows)
    activation = SpikingActivation(neuron, torch.tensor(1.0), 4, backend=backend)
    for shape in ((3, 5), (2, 5), (2, 7)):
        current = torch.rand(4, *shape)
        assert torch.equal(activation(current), SpikingActivation(neuron, torch.tensor(1.0), 4)(current))


def test_without_alpha_a_carry_that_was_given_still_belongs_to_its_rows():
    policy = make_policy(alpha=0.0)
    policy.carry = (torch.full((3, 9), 0.1), torch.zeros(3, 13))
    with pytest.raises(InputError, match=r"carry belongs to a batch of shape \[3, 9\]"):
        policy(observe(4))
    policy = make_policy(alpha=0.5)
    policy(observe(3))
    policy.alpha = 0.0  # and μ = 0.5: what was carried wears off
    with pytest.raises(InputError, match=r"carry belongs to a batch of shape \[3, 9\]"):
        policy(observe(4))
    policy.alpha = [0.0] * 4
    policy.reset()
    policy(observe(4))
    with pytest.raises(InputError, match=r"alpha .* is set for each of 4 rows"):
        policy(observe(3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_rows_with_an_alpha_each_decide_as_actors_with_that_alpha(neuron, backend):
    alphas = [0.0, 0.2, 0.7, 1.0]
    policy = make_policy(neuron, backend=backend)
    policy.alpha = alphas
    alone = [make_policy(neuron, backend=backend, alpha=alpha) for alpha in alphas]
    for decision in range(4):
        observation = observe(4, seed=decision)
        if decision == 2:
            policy.reset(np.array([False, True, False, True]))
            alone[1].reset()
            alone[3].reset()
        action = policy(observation)
        for row, other in enumerate(alone):
            torch.testing.assert_close(action[row : row + 1], other(observation[row : row + 1]), rtol=0, atol=1e-5)
    for row, other in enumerate(alone):
        for mine, its in zip(carries(policy), carries(other), strict=True):
            torch.testing.assert_close(mine[row : row + 1], its, rtol=0, atol=1e-5)
    assert not torch.equal(carries(policy)[0][1], carries(policy)[0][3])


@pytest.mark.parametrize("neuron", NEURONS)
def test_alpha_can_be_set_to_another_number(neuron):
    policy, other = make_policy(neuron, alpha=0.9), make_policy(neuron, alpha=0.1)
    policy.alpha = torch.full((3,), 0.3)
    policy(observe(3))
    policy.alpha = 0.1
    policy.reset()
    assert policy.alpha == policy.dynamics.alpha == 0.1
    assert policy.dynamics == other.dynamics
    for decision in range(3):
        assert torch.equal(policy(observe(5, seed=decision)), other(observe(5, seed=decision)))


def test_alphas_of_rows_stay_through_copies_resets_and_dtypes():
    policy = make_policy()
    policy.alpha = np.array([0.0, 1.0], dtype=np.float32)
    assert policy.alpha.dtype == torch.float64
    policy.alpha[0] = 0.5  # of a copy
    for same in (policy, copy.deepcopy(policy), pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy).double()):
        same.reset()
        same(observe(2, dtype=same.thresholds[0].dtype))
        assert not carries(same)[0][0].any()  # nothing is carried on
        assert carries(same)[0][1].any()
        assert same.alpha.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        pytest.param(1.5, r"alpha \(α\) must be a number from 0 to 1, got 1.5", id="number"),
        pytest.param(math.nan, r"alpha \(α\) must be a number from 0 to 1, got nan", id="nan"),
        pytest.param([0.5, -0.1], r"alpha \(α\) must be from 0 to 1, got -0.1 for row 1", id="negative"),
        pytest.param(torch.tensor([math.nan]), r"alpha \(α\) must be from 0 to 1, got nan for row 0", id="nan-row"),
        pytest.param(
            torch.zeros(2, 3), r"or one for every row \[B\], got torch.float32 of shape \[2, 3\]", id="matrix"
        ),
        pytest.param(np.array([True, False]), "got torch.bool of shape", id="mask"),
        pytest.param("auto", "alpha", id="text"),
        pytest.param(None, "alpha", id="none"),
    ],
)
def test_a_wrong_alpha_is_refused_and_the_old_one_kept(alpha, message):
    policy = make_policy()
    with pytest.raises(InputError, match=message):
        policy.alpha = alpha
    assert policy.alpha == 0.5


def test_a_call_with_other_rows_than_alphas_is_refused():
    policy = make_policy()
    policy.alpha = [0.1, 0.2]
    for call in (lambda: policy(observe(3)), lambda: policy.act(observe(1)[0].numpy())):
        with pytest.raises(InputError, match=r"alpha \(α\) is set for each of 2 rows, this call has [31]"):
            call()
    assert policy(observe(2)).shape == (2, 3)


def test_reset_starts_afresh():
    policy = make_policy()
    first = policy(observe(7))
    assert not torch.equal(policy(observe(7)), first)
    policy.reset()
    assert torch.equal(policy(observe(7)), first)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda mask: mask, id="torch"),
        pytest.param(lambda mask: mask.numpy(), id="numpy"),
        pytest.param(lambda mask: mask.tolist(), id="list"),
        pytest.param(lambda mask: np.frombuffer(mask.numpy().tobytes(), dtype=bool), id="numpy-read-only"),
        pytest.param(lambda mask: torch.stack([mask, mask], 1)[:, 0], id="torch-strided"),
    ],
)
def test_reset_by_mask_starts_those_rows_afresh_and_no_others(form):
    policy = make_policy()
    policy(observe(6))
    mask = torch.tensor([True, False, False, True, True, False])
    before = carries(policy)
    torch.set_warn_always(True)
    try:
        policy.reset(form(mask))
    finally:
        torch.set_warn_always(False)
    for now, old in zip(carries(policy), before, strict=True):
        assert not now[mask].any()
        assert torch.equal(now[~mask], old[~mask])
    fresh, second = make_policy(), observe(6, seed=9)
    assert torch.equal(policy(second)[mask], fresh(second)[mask])


def test_masks_of_none_and_all():
    policy = make_policy()
    policy(observe(4))
    before = carries(policy)
    policy.reset(np.zeros(4, dtype=bool))
    assert_same_carries(policy, before)
    policy.reset(np.ones(4, dtype=bool))
    assert torch.equal(policy(observe(4)), make_policy()(observe(4)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        pytest.param(torch.tensor([1, 0, 0, 1]), "boolean .*int64", id="int"),
        pytest.param(np.array([1.0, 0.0, 0.0, 1.0]), "boolean .*float64", id="float"),
        pytest.param(np.zeros((4, 1), bool), r"boolean .*\[4, 1\]", id="column"),
        pytest.param(True, r"boolean .*\[\]", id="scalar"),
        pytest.param(np.zeros(3, bool), "has 3 rows, but the carry belongs to 4", id="short"),
        pytest.param(np.zeros(0, bool), "has 0 rows, but the carry belongs to 4", id="empty"),
        pytest.param("all", "reset mask", id="text"),
    ],
)
def test_a_wrong_mask_is_refused_and_resets_nothing(mask, message):
    policy = make_policy()
    policy(observe(4))
    before = carries(policy)
    with pytest.raises(InputError, match=message):
        policy.reset(mask)
    assert_same_carries(policy, before)
    activation = SpikingActivation("if", torch.tensor(1.0), 2, alpha=1.0)
    activation(torch.rand(2, 4, 3))
    kept = activation.carry.value.clone()
    with pytest.raises(InputError, match=message):
        activation.reset(mask)
    assert torch.equal(activation.carry.value, kept)


def test_a_reset_before_the_first_decision_does_nothing():
    policy = make_policy()
    policy.reset()
    policy.reset(np.array([True, False]))
    assert torch.equal(policy(observe(2)), make_policy()(observe(2)))


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        pytest.param(torch.zeros(3, 4), r"\[B, 5\], got shape \[3, 4\]", id="width"),
        pytest.param(torch.zeros(5), r"\[B, 5\], got shape \[5\]", id="vector"),
        pytest.param(torch.zeros(1, 3, 5), r"\[B, 5\], got shape \[1, 3, 5\]", id="three-dimensional"),
        pytest.param(torch.zeros(2, 5), "carry belongs to a batch", id="batch"),
        pytest.param(torch.zeros(3, 5).double(), "float64, but the actor is torch.float32", id="float64"),
        pytest.param(torch.zeros(3, 5).half(), "float16, but the actor is torch.float32", id="float16"),
        pytest.param(torch.zeros(3, 5).long(), "int64, but the actor is torch.float32", id="int"),
        pytest.param(torch.zeros(3, 5).to("meta"), "on meta, but the actor is on cpu", id="device"),
        pytest.param(torch.full((3, 5), math.nan), "NaN or infinity in 3 of 3 rows", id="nan"),
        pytest.param(torch.zeros(3, 5).index_fill(0, torch.tensor(1), math.inf), "1 of 3 rows .first: row 1", id="inf"),
        pytest.param(torch.zeros(3, 5, requires_grad=True), "observation requires grad", id="requires-grad"),
    ],
)
def test_a_refused_call_leaves_the_carry_and_the_spikes_as_they_were(observation, message):
    policy = make_policy()
    policy(observe(3))
    before, spikes = carries(policy), policy.spikes
    with pytest.raises(InputError, match=message):
        policy(observation)
    assert_same_carries(policy, before)
    assert torch.equal(policy.spikes, spikes)


def test_gradients_are_no_matter_where_grad_is_off():
    policy, observation = make_policy(), observe(3)
    expected = make_policy()(observation)
    with torch.no_grad():
        assert torch.equal(policy(observation.requires_grad_()), expected)


# SpikingActor: values that are not finite


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_where_allowed_a_bad_row_harms_itself_alone_and_until_reset(neuron, value):
    policy, clean = make_policy(neuron, check_finite=False), make_policy(neuron)
    observation = observe(4)
    bad = observation.clone()
    bad[2, 3] = value
    good = [0, 1, 3]
    for _ in range(2):
        assert torch.equal(policy(bad)[good], clean(observation)[good])
        assert torch.equal(policy.spikes[:, good], clean.spikes[:, good])
    policy.reset(torch.tensor([False, False, True, False]))
    clean.reset(torch.tensor([False, False, True, False]))
    assert torch.equal(policy(observation), clean(observation))


@pytest.mark.parametrize("neuron", NEURONS)
def test_a_nan_silences_what_it_reaches_and_shows_in_the_carry(neuron):
    policy = make_policy(neuron, check_finite=False)
    policy(torch.full((1, 5), math.nan))
    assert policy.spikes[0].tolist() == [0]
    assert policy.hidden[0].carry.value.isnan().all()
    policy(observe(1))
    assert policy.spikes[0].tolist() == [0]


# SpikingActor.act


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_act_takes_numpy_of_any_float_dtype_and_answers_in_its_own(neuron, dtype):
    policy, other = make_policy(neuron), make_policy(neuron)
    observation = make_observations(6, 5).astype(dtype)
    for _ in range(3):
        action = policy.act(observation)
        assert action.dtype == np.float32
        expected = other(torch.from_numpy(observation.astype(np.float32))).numpy()
        np.testing.assert_array_equal(action, expected)


def test_act_on_one_observation_is_act_on_a_batch_of_one():
    policy, other = make_policy(), make_policy()
    for observation in make_observations(5, 5):
        action = policy.act(observation)
        assert action.shape == (3,)
        np.testing.assert_array_equal(action, other.act(observation[None])[0])
    assert policy.act(make_observations(1, 5)).shape == (1, 3)


def test_act_on_no_rows():
    assert make_policy().act(np.zeros((0, 5), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda array: array[:, ::-1][:, ::-1], id="reversed-twice"),
        pytest.param(lambda array: np.asfortranarray(array), id="column-major"),
        pytest.param(lambda array: np.repeat(array, 2, axis=1)[:, ::2], id="strided"),
        pytest.param(lambda array: np.frombuffer(array.tobytes(), np.float32).reshape(array.shape), id="read-only"),
        pytest.param(lambda array: array.astype(">f4"), id="big-endian"),
        pytest.param(lambda array: array.astype(np.longdouble), id="longdouble"),
        pytest.param(lambda array: array.tolist(), id="nested-list"),
    ],
)
def test_act_takes_any_layout_of_an_array(form):
    observation = make_observations(6, 5)
    given = form(observation)
    torch.set_warn_always(True)
    try:
        action = make_policy().act(given)
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(action, make_policy().act(observation))


@pytest.mark.parametrize("policy", [make_policy, lambda: make_actor(*WIDTHS)], ids=["spiking", "dense"])
@pytest.mark.parametrize(
    ("observation", "message"),
    [
        pytest.param(np.zeros(4), r"\[5\] or \[B, 5\], got shape \[4\]", id="width"),
        pytest.param(np.zeros((3, 4)), r"\[5\] or \[B, 5\], got shape \[3, 4\]", id="batch-width"),
        pytest.param(np.zeros((2, 3, 5)), r"got shape \[2, 3, 5\]", id="three-dimensional"),
        pytest.param(np.float32(1.0), r"got shape \[\]", id="scalar"),
        pytest.param(np.zeros(5, int), "floating-point array, got int64", id="int"),
        pytest.param(np.zeros(5, bool), "floating-point array, got bool", id="bool"),
        pytest.param(np.zeros(5, complex), "floating-point array, got complex128", id="complex"),
        pytest.param(np.array(["a"] * 5), "floating-point array, got <U1", id="text"),
        pytest.param(np.full(5, math.nan), "NaN or infinity in 1 of 1 rows", id="nan"),
        pytest.param(np.full((2, 5), 1e300), "NaN or infinity in 2 of 2 rows", id="beyond-float32"),
    ],
)
def test_act_refuses_what_is_no_observation(policy, observation, message):
    with pytest.raises(InputError, match=message):
        policy().act(observation)


# SpikingActor as a module


@pytest.mark.parametrize("change", [lambda p: p.to(torch.float64), lambda p: p.double()], ids=["to", "double"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_a_module_moves_to_float64_with_its_carry(neuron, change):
    policy = make_policy(neuron, interface={"observation_mean": 0.1, "observation_std": 0.7})
    policy(observe(3))
    before = carries(policy)
    policy = change(policy)
    assert all(tensor.dtype == torch.float64 for tensor in policy.state_dict().values())
    assert_same_carries(policy, [carry.double() for carry in before])
    assert policy(observe(3, dtype=torch.float64)).dtype == torch.float64
    assert policy.act(make_observations(3, 5)).dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_runs_where_a_backend_serves_it(dtype):
    policy = make_policy().to(dtype)
    action = policy(observe(3, dtype=dtype))
    assert action.dtype == dtype
    assert torch.isfinite(action).all()
    with pytest.raises(InputError, match="backend 'cpu'"):
        make_policy(backend="cpu").to(dtype)(observe(3, dtype=dtype))


def test_a_state_dict_goes_into_another_module():
    one, other = make_policy(seed=1), make_policy(seed=2)
    assert not torch.equal(one(observe(3)), other(observe(3)))
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same_tensors(other.state_dict(), one.state_dict())
    one.reset()
    other.reset()
    for seed in range(3):
        assert torch.equal(one(observe(3, seed)), other(observe(3, seed)))


def altered(name: str, change):
    """A state dict with one entry changed, or, where the change is None, without it."""

    def alter(state: dict[str, torch.Tensor]) -> dict[str, object]:
        changed = {key: tensor + 1 for key, tensor in state.items() if key != name}
        return changed if change is None else changed | {name: change(state.get(name))}

    return alter


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        pytest.param(altered("output.weight", lambda t: t * math.nan), "output.weight holds NaN", id="nan"),
        pytest.param(altered("hidden.1.bias", lambda t: t + math.inf), "hidden.1.bias holds NaN or infinity", id="inf"),
        pytest.param(altered("hidden.1.bias", lambda t: t.double() + 1e300), "hidden.1.bias holds NaN", id="too-large"),
        pytest.param(
            altered("hidden.0.threshold", lambda t: t - 100), "hidden.0.threshold must be finite", id="negative"
        ),
        pytest.param(altered("interface.observation_std", lambda t: t * 0), "std must be finite and above 0", id="std"),
        pytest.param(altered("hidden.0.weight", lambda t: t.T), r"hidden.0.weight must be .*\[5, 9\]", id="transposed"),
        pytest.param(altered("output.bias", lambda t: t[:1]), r"output.bias must be .*\[3\]", id="short"),
        pytest.param(altered("output.bias", lambda t: t.to_sparse()), "output.bias must be .*dense", id="sparse"),
        pytest.param(altered("output.bias", lambda t: t.to("meta")), "no numbers", id="meta"),
        pytest.param(altered("output.bias", lambda t: t.long()), "output.bias must be a floating-point", id="int"),
        pytest.param(altered("output.bias", lambda t: t.tolist()), "output.bias must be a tensor, got list", id="list"),
    ],
)
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside"])
def test_a_state_dict_whose_numbers_do_not_fit_is_refused_and_changes_nothing(inside, assign, alter, message):
    policy = make_policy(interface={"observation_mean": 0.1, "observation_std": 0.7})
    before = copy.deepcopy(policy.state_dict())
    state = alter(dict(before))
    module = nn.ModuleDict({"policy": policy}) if inside else policy
    with pytest.raises(InputError, match=message):
        module.load_state_dict({f"policy.{name}" if inside else name: state[name] for name in state}, assign=assign)
    assert_same_tensors(policy.state_dict(), before)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        pytest.param(altered("output.bias", lambda t: t * math.nan), "output.bias holds NaN", id="nan"),
        pytest.param(altered("output.bias", None), r"lacks \['output.bias'\]", id="missing"),
        pytest.param(altered("more", lambda t: torch.ones(1)), r"holds \['more'\] that is not known", id="more"),
        pytest.param(lambda state: [*state.items()], "maps names to tensors, got list", id="list-of-pairs"),
    ],
)
@pytest.mark.parametrize("make", [make_policy, lambda: make_actor(*WIDTHS)], ids=["spiking", "dense"])
def test_a_state_dict_of_another_module_is_refused_and_changes_nothing(make, alter, message):
    policy = make()
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(InputError, match=message):
        policy.load_state_dict(alter(dict(before)))
    assert_same_tensors(policy.state_dict(), before)


def test_a_part_of_a_state_dict_can_be_loaded():
    policy, other = make_policy(), make_policy(seed=1)
    policy.load_state_dict({"output.bias": other.output.bias}, strict=False)
    assert torch.equal(policy.output.bias, other.output.bias)
    with pytest.raises(InputError, match="bias holds NaN"):
        policy.output.load_state_dict(policy.output.state_dict() | {"bias": torch.full((3,), math.nan)})
    activation = SpikingActivation("if", torch.ones(3), 2)
    with pytest.raises(InputError, match="threshold must be finite and at least 0"):
        activation.load_state_dict({"threshold": -torch.ones(3)})


def test_a_state_dict_holds_no_carry():
    policy = make_policy()
    before = list(policy.state_dict())
    policy(observe(3))
    assert list(policy.state_dict()) == before
    assert not any("carry" in name for name in before)
    assert not list(policy.parameters())


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("neuron", NEURONS)
def test_a_copy_goes_on_alike_and_apart(neuron, duplicate):
    policy = make_policy(neuron, interface={"action_scale": [1.0, 2.0, 3.0]})
    policy(observe(3))
    twin = duplicate(policy)
    assert torch.equal(twin.spikes, policy.spikes)
    before = carries(policy)
    actions = [twin(observe(3, seed)) for seed in range(3)]
    assert_same_carries(policy, before)
    assert all(torch.equal(policy(observe(3, seed)), actions[seed]) for seed in range(3))
    twin.hidden[0].weight.zero_()
    twin.interface.action_scale.zero_()
    assert policy.hidden[0].weight.any()
    assert policy.interface.action_scale.any()


def test_a_spiking_actor_shares_no_memory_with_its_actor_or_thresholds():
    actor, thresholds = make_actor(*WIDTHS), [torch.ones(9), torch.ones(13)]
    policy = snnkern.convert(actor, thresholds=thresholds)
    before = copy.deepcopy(policy.state_dict())
    for tensor in [*actor.state_dict().values(), *thresholds]:
        tensor.fill_(7.0)
    assert_same_tensors(policy.state_dict(), before)


@pytest.mark.parametrize("backend", ["gpu", "", None])
def test_an_unknown_backend_is_met_with_the_known_ones(backend):
    with pytest.raises(InputError, match=r"unknown backend .*auto, .*reference"):
        make_policy(backend=backend)
    with pytest.raises(InputError, match=r"unknown backend .*auto, .*reference"):
        SpikingActivation("if", torch.tensor(1.0), 2, backend=backend)


def test_the_representation_says_what_runs():
    text = repr(make_policy("snm"))
    assert "SNM" in text
    assert "timesteps=4" in text
    assert "5 -> 9" in text
    assert "alpha=0.25" in repr(SpikingActivation("if", torch.tensor(1.0), 2, alpha=0.25))


def test_the_carry_can_be_read_and_set_and_is_checked() -> None:
    observations = make_observations(6, 5)
    snn, other = (make_policy("if", widths=(5, 6, 7, 2), timesteps=3) for _ in range(2))
    assert snn.carry is None
    snn.act(observations)
    kept = snn.carry
    assert kept is not None
    wanted = snn.act(observations)
    assert not torch.equal(kept[0], snn.carry[0])  # what was read is a copy
    other.carry = kept
    np.testing.assert_array_equal(other.act(observations), wanted)
    with pytest.raises(InputError, match="2 hidden layers, got carries for 1"):
        other.carry = kept[:1]
    with pytest.raises(
        InputError, match=r"hidden layer 2 must be torch.float32 \[B, N\] = \[6, 7\] on cpu, got torch.float64"
    ):
        other.carry = (kept[0], kept[1].double())
    for wrong, message in (
        (kept[0], "2 hidden layers, got Tensor"),
        ([None, None], "hidden layer 1 must be .*, got NoneType"),
        ([carry.numpy() for carry in kept], "hidden layer 1 must be .*, got ndarray"),
        ([torch.tensor(1.0)] * 2, r"hidden layer 1 must be .*, got torch.float32 \[\]"),
        ([carry.to_sparse() for carry in kept], "dense"),
        ([kept[0], kept[1][:2]], r"hidden layer 2 must be .*\[6, 7\] .*, got torch.float32 \[2, 7\]"),
    ):
        before = other.carry
        with pytest.raises(InputError, match=message):
            other.carry = wrong
        assert all(torch.equal(*pair) for pair in zip(other.carry, before, strict=True))
    other.hidden[0].carry.value = None  # which is one layer that starts afresh
    assert not other.carry[0].any()
    assert torch.equal(other.carry[1], before[1])
    other.carry = None
    assert other.carry is None


def test_warming_up_changes_no_decision() -> None:
    actor, thresholds = random_actor((3, 7, 2))
    warm, cold = (snnkern.convert(actor, thresholds=thresholds, neuron="if", alpha=1.0) for _ in range(2))
    with pytest.raises(InputError, match="batch must be a whole number of at least 1, got 0"):
        warm.warmup(0)
    with pytest.raises(InputError, match="batch must be a whole number of at least 1, got True"):
        warm.warmup(True)
    warm.warmup(np.int64(2))
    assert warm.carry is None
    x = torch.ones(2, 3)
    assert torch.equal(warm(x), cold(x))
    warm.warmup(2)
    assert torch.equal(warm(x), cold(x))
    with pytest.raises(InputError, match="the carry belongs to a batch"):
        warm.warmup(3)
    warm.reset()
    warm.warmup(2)
    cold.reset()
    np.testing.assert_array_equal(warm.act(x.numpy()), cold.act(x.numpy()))  # an array's way to the engine is shorter
    assert torch.equal(warm.spikes, cold.spikes)
    assert_same_carries(warm, carries(cold))
