"""Thresholds from recorded activations, and the observations that they are recorded on."""

import math
import re
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import NEURONS, identity_actor, make_actor, make_layers, make_observations
from support.visual import FORMS, visual_actor

import snnkern
from snnkern import Fitted, InputError, Max, Percentile, calibrate
from snnkern.conversion.activations import ActivationRecorder
from snnkern.conversion.rules import parse_calibration, recommended
from snnkern.kernels.neurons import parse_neuron

RULES = ["max", "percentile", "percentile:99", "percentile:50", "percentile:1"]


def activations(actor: snnkern.Actor, observations: np.ndarray) -> list[np.ndarray]:
    """ReLU activations of every hidden layer, computed without the recorder."""
    signal, layers = observations.astype(np.float64), []
    for layer in actor.hidden:
        signal = np.maximum(signal @ layer.weight.double().numpy().T + layer.bias.double().numpy(), 0.0)
        layers.append(signal)
    return layers


def percentile_of_positive(values: np.ndarray, percentile: float) -> np.ndarray:
    """The smallest positive value that at least `percentile` % of the positive values do not exceed, per column."""
    columns = [column[column > 0] for column in values.T]
    return np.array([np.percentile(column, percentile, method="inverted_cdf") for column in columns])


def integer_actor() -> snnkern.Actor:
    """All its sums are exact in float32, whatever their order, so that only the recorder can make a difference."""
    generator = np.random.default_rng(5)
    sizes = ((6, 3), (5, 6), (2, 5))
    layers = [
        (
            torch.from_numpy(generator.integers(-3, 4, size=size).astype(np.float32)),
            torch.from_numpy(generator.integers(-3, 4, size=size[0]).astype(np.float32)),
        )
        for size in sizes
    ]
    return snnkern.Actor(layers[:-1], layers[-1])


# Statistics


@pytest.mark.parametrize("rows", [1, 2, 37, 5000, 9001])
def test_max_is_the_largest_activation(rows):
    actor, observations = make_actor(4, 9, 13, 2), make_observations(rows, 4)
    for threshold, values in zip(calibrate(actor, observations), activations(actor, observations), strict=True):
        np.testing.assert_allclose(threshold.numpy(), values.max(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("percentile", [1, 10, 50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("rows", [1, 2, 37, 9001])
def test_percentile_is_taken_over_the_positive_activations(rows, percentile):
    actor, observations = identity_actor(7), make_observations(rows, 7)
    observations[0] = np.abs(observations[0])  # at least one positive activation each
    (threshold,) = calibrate(actor, observations, Percentile(percentile))
    (values,) = activations(actor, observations)
    resolution = values.max(axis=0) / 2048
    error = np.abs(threshold.double().numpy() - percentile_of_positive(values, percentile))
    assert (error <= resolution * 1.001).all()
    assert (threshold.numpy() <= values.max(axis=0)).all()


def test_percentile_of_every_hidden_layer():
    actor, observations = make_actor(4, 9, 13, 2), make_observations(3000, 4)
    for threshold, values in zip(
        calibrate(actor, observations, "percentile:90"), activations(actor, observations), strict=True
    ):
        expected = percentile_of_positive(values, 90)
        assert (np.abs(threshold.numpy() - expected) <= values.max(axis=0) / 2048 * 1.01).all()


def test_percentile_100_is_the_maximum():
    actor, observations = make_actor(4, 9, 13, 2), make_observations(300, 4)
    for top, largest in zip(
        calibrate(actor, observations, "percentile:100"), calibrate(actor, observations), strict=True
    ):
        assert torch.equal(top, largest)


def test_percentile_shrugs_off_an_outlier():
    observations = np.ones((1000, 1), np.float32)
    observations[17] = 100.0
    (threshold,) = calibrate(identity_actor(1), observations, "percentile:99")
    assert threshold.item() == pytest.approx(1.0, abs=100 / 2048)


def test_a_rarely_active_neuron_is_not_silenced_by_a_percentile():
    observations = -np.ones((1000, 1), np.float32)
    observations[17] = 3.0
    (threshold,) = calibrate(identity_actor(1), observations, "percentile:50")
    assert threshold.item() == pytest.approx(3.0, abs=3 / 2048)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    order=st.permutations(range(60)),
    cuts=st.sets(st.integers(1, 59), max_size=8),
    exponents=st.lists(st.integers(-40, 40), min_size=60, max_size=60),
)
def test_order_and_chunks_make_no_difference(order, cuts, exponents):
    actor = integer_actor()
    observations = np.random.default_rng(0).integers(-4, 5, size=(60, 3)).astype(np.float32)
    observations[:, 0] = 2.0 ** np.array(exponents)  # the range of the histogram grows at different moments
    actor.hidden[0].weight[1:, 0] = 0.0  # one neuron alone sees the wide range, so that all sums stay exact
    actor.hidden[1].weight[:, 0] = 0.0
    actor.hidden[0].weight[0], actor.hidden[0].bias[0] = torch.tensor([1.0, 0.0, 0.0]), 0.0
    shuffled = np.split(observations[order], sorted(cuts))
    for rule in RULES:
        together = calibrate(actor, observations, rule)
        apart = calibrate(actor, shuffled, rule)
        assert all(torch.equal(*pair) for pair in zip(together, apart, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_chunks_of_a_real_network_differ_by_rounding_alone(rule):
    actor, observations = make_actor(4, 32, 32, 2), make_observations(5000, 4)
    together = calibrate(actor, observations, rule)
    apart = calibrate(actor, np.split(observations, [1, 2, 100, 4097]), rule)
    for one, other in zip(together, apart, strict=True):
        # rounding may move an activation into the next bin
        torch.testing.assert_close(one, other, rtol=1e-5, atol=0 if rule == "max" else float(one.max()) / 2048)


@pytest.mark.parametrize("kind", ["array", "tensor", "float64", "list-of-arrays", "generator", "tensors"])
def test_every_form_of_observations_gives_the_same_thresholds(kind):
    actor, observations = identity_actor(4), make_observations(50, 4)
    parts = np.split(observations, 5)
    forms = {
        "array": observations,
        "tensor": torch.from_numpy(observations),
        "float64": observations.astype(np.float64),
        "list-of-arrays": parts,
        "generator": iter(parts),
        "tensors": [torch.from_numpy(part) for part in parts],
    }
    (threshold,) = calibrate(actor, forms[kind], "percentile:90")
    assert torch.equal(threshold, calibrate(actor, observations, "percentile:90")[0])


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda array: array[::-1], id="reversed"),
        pytest.param(lambda array: array[:, ::-1][:, ::-1], id="reversed-twice"),
        pytest.param(lambda array: array.astype(">f4"), id="big-endian"),
        pytest.param(lambda array: array.astype(np.longdouble), id="longdouble"),
    ],
)
def test_every_layout_of_an_array_gives_the_same_thresholds(form):
    actor, observations = identity_actor(4), make_observations(5000, 4)
    (threshold,) = calibrate(actor, form(observations), "percentile:90")
    assert torch.equal(threshold, calibrate(actor, observations, "percentile:90")[0])


def test_thresholds_have_the_dtype_of_the_actor():
    actor = make_actor(4, 9, 2, dtype=torch.float64)
    for rule in RULES:
        (threshold,) = calibrate(actor, make_observations(10, 4), rule)
        assert threshold.dtype == torch.float64
        assert threshold.shape == (9,)


def test_normalisation_comes_before_the_first_layer():
    plain = make_actor(4, 9, 2)
    normalised = make_actor(4, 9, 2, observation_mean=3.0, observation_std=2.0)
    observations = make_observations(50, 4)
    torch.testing.assert_close(calibrate(normalised, observations * 2 + 3), calibrate(plain, observations))


# Memory


def tensor_sizes(thing: object) -> list[tuple[int, ...]]:
    """Shapes of all tensors that an object reaches, other than those of the actor."""
    if isinstance(thing, torch.Tensor):
        return [tuple(thing.shape)]
    if isinstance(thing, torch.nn.Module):
        return []
    if isinstance(thing, list | tuple | dict):
        return [size for part in (thing.values() if isinstance(thing, dict) else thing) for size in tensor_sizes(part)]
    return tensor_sizes(vars(thing)) if hasattr(thing, "__dict__") else []


def test_a_recorder_does_not_grow():
    recorder = ActivationRecorder(make_actor(4, 9, 13, 2))
    before = tensor_sizes(recorder)
    assert before
    for seed in range(100):
        recorder.update(make_observations(50, 4, seed=seed) * 2.0 ** (seed - 50))
        assert tensor_sizes(recorder) == before
    assert recorder.observations == 5000


@pytest.mark.parametrize("rule", RULES[:2])
def test_batches_of_a_stream_are_not_kept(rule):
    batches = []

    def stream():
        for seed in range(50):
            batch = make_observations(20, 4, seed=seed)
            batches.append(weakref.ref(batch))
            yield batch
            assert sum(reference() is not None for reference in batches) <= 2

    calibrate(make_actor(4, 9, 2), stream(), rule)
    assert len(batches) == 50


# Neurons that are dead, or far from 1


@pytest.mark.parametrize("rule", RULES)
def test_a_neuron_that_was_never_active_gets_threshold_0(rule):
    observations = np.abs(make_observations(100, 3))
    observations[:, 1] *= -1
    (threshold,) = calibrate(identity_actor(3), observations, rule)
    assert threshold[1] == 0
    assert (threshold[[0, 2]] > 0).all()


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("rule", RULES[:2])
def test_a_dead_neuron_stays_silent_whatever_comes(neuron, rule):
    observations = np.abs(make_observations(100, 3))
    observations[:, 1] *= -1
    snn = snnkern.convert(identity_actor(3), observations, neuron=neuron, timesteps=8, calibration=rule, alpha=1.0)
    drive = np.array([[0.0, 1e6, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    for _ in range(3):
        action = snn.act(drive)
        assert snn.spikes.tolist()[0][:2] == [0, 0]
        assert snn.spikes[0, 2] > 0
        np.testing.assert_array_equal(action[:2], 0.0)


@pytest.mark.parametrize("neuron", NEURONS)
def test_an_actor_of_dead_neurons_gives_its_output_bias(neuron):
    (hidden, (weight, _)) = make_layers(3, 6, 2)
    actor = snnkern.Actor([(hidden[0], torch.full((6,), -100.0))], (weight, torch.tensor([0.25, -2.0])))
    snn = snnkern.convert(actor, make_observations(50, 3), neuron=neuron)
    action = snn.act(make_observations(5, 3, seed=2))
    np.testing.assert_allclose(action, np.tanh([[0.25, -2.0]] * 5), rtol=1e-6)
    assert not snn.spikes.any()


@pytest.mark.parametrize(
    ("dtype", "scales"),
    [
        pytest.param(torch.float32, (1e-30, 1.0, 1e30), id="float32"),
        pytest.param(torch.float32, (1e-42, 1e-38, 1e37), id="float32-denormal"),
        pytest.param(torch.float64, (1e-60, 1.0, 1e60), id="float64"),
        pytest.param(torch.float64, (1e-300, 1e-100, 1e300), id="float64-extreme"),
    ],
)
@pytest.mark.parametrize("percentile", [1, 50, 99])
def test_neurons_of_very_different_range_are_each_resolved(dtype, scales, percentile):
    values = make_observations(2000, 3, dtype=np.float64) * np.array(scales)
    values = torch.from_numpy(values).to(dtype).numpy()
    for order in (values, values[::-1].copy()):
        (threshold,) = calibrate(identity_actor(3, dtype=dtype), np.array_split(order, 7), Percentile(percentile))
        largest = values.max(axis=0).astype(np.float64)
        error = np.abs(threshold.double().numpy() / largest - percentile_of_positive(values, percentile) / largest)
        assert (error <= 1.001 / 2048).all()


def test_one_neuron_over_sixty_orders_of_magnitude():
    # 4999: with a percentile that falls on a sample exactly, NumPy versions differ in which one they take.
    values = (10.0 ** np.random.default_rng(0).uniform(-30, 30, size=(4999, 1))).astype(np.float32)
    (largest,) = calibrate(identity_actor(1), values)
    (threshold,) = calibrate(identity_actor(1), values, "percentile:99.9")
    assert largest.item() == values.max()
    assert abs(threshold.item() - percentile_of_positive(values, 99.9).item()) <= values.max() / 2048


@pytest.mark.parametrize("rule", RULES)
def test_activations_that_overflow_are_refused(rule):
    with pytest.raises(InputError, match=r"(?i)infinit|overflow"):
        calibrate(identity_actor(2, scale=1e30), np.full((4, 2), 1e20, np.float32), rule)


# Data that does not fit


@pytest.mark.parametrize(
    "observations",
    [
        pytest.param(np.zeros((0, 4), np.float32), id="no-rows"),
        pytest.param([], id="no-batches"),
        pytest.param([np.zeros((0, 4), np.float32)] * 2, id="empty-batches"),
        pytest.param(torch.zeros(0, 4), id="empty-tensor"),
    ],
)
@pytest.mark.parametrize("rule", RULES[:2])
def test_empty_data_is_refused(observations, rule):
    with pytest.raises(InputError, match="calibration data is empty"):
        calibrate(make_actor(4, 9, 2), observations, rule)


def test_an_empty_batch_among_others_changes_nothing():
    actor, observations = make_actor(4, 9, 2), make_observations(20, 4)
    with_empty = calibrate(actor, [observations, observations[:0]])
    assert torch.equal(with_empty[0], calibrate(actor, observations)[0])


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        pytest.param(np.zeros((5, 3), np.float32), r"\[N, 4\], got torch.float32 of shape \[5, 3\]", id="width"),
        pytest.param(np.zeros(4, np.float32), r"\[N, 4\], got torch.float32 of shape \[4\]", id="vector"),
        pytest.param(
            np.zeros((2, 5, 4), np.float32), r"got torch.float32 of shape \[2, 5, 4\]", id="three-dimensional"
        ),
        pytest.param(np.zeros((5, 4), np.int64), "floating-point .* got torch.int64", id="int"),
        pytest.param(np.zeros((5, 4), bool), "floating-point .* got torch.bool", id="bool"),
        pytest.param(np.zeros((5, 4), complex), "floating-point .* got torch.complex128", id="complex"),
        pytest.param(np.full((5, 4), math.nan, np.float32), "NaN or infinity", id="nan"),
        pytest.param(np.full((5, 4), math.inf), "NaN or infinity", id="inf"),
        pytest.param(np.full((5, 4), 1e300), "NaN or infinity", id="beyond-float32"),
        pytest.param([np.zeros((5, 4), np.float32), np.zeros((5, 3))], r"\[N, 4\]", id="second-batch"),
        pytest.param("observations.npy", "calibration observations", id="text"),
        pytest.param(7, "calibration observations", id="number"),
        pytest.param(np.full((5, 4), None), "calibration observations", id="objects"),
    ],
)
@pytest.mark.parametrize("rule", RULES[:2])
def test_data_that_does_not_fit_is_refused(observations, message, rule):
    with pytest.raises(InputError, match=message):
        calibrate(make_actor(4, 9, 2), observations, rule)


def test_a_refused_batch_leaves_the_statistics_as_they_were():
    recorder = ActivationRecorder(identity_actor(2))
    recorder.update(np.ones((3, 2), np.float32))
    bad = np.full((5000, 2), 7.0, np.float32)
    bad[-1, 0] = math.nan
    with pytest.raises(InputError, match="NaN"):
        recorder.update(bad)
    assert recorder.observations == 3
    assert recorder.maximum()[0].tolist() == [1.0, 1.0]


def test_read_only_data_gives_no_warning(tmp_path):
    observations = make_observations(20, 4)
    np.save(tmp_path / "observations.npy", observations)
    torch.set_warn_always(True)
    try:
        thresholds = calibrate(make_actor(4, 9, 2), np.load(tmp_path / "observations.npy", mmap_mode="r"))
    finally:
        torch.set_warn_always(False)
    assert torch.equal(thresholds[0], calibrate(make_actor(4, 9, 2), observations)[0])


@pytest.mark.parametrize("statistic", [lambda recorder: recorder.maximum(), lambda recorder: recorder.percentile(99)])
def test_a_recorder_without_data_says_so(statistic):
    with pytest.raises(InputError, match="calibration data is empty"):
        statistic(ActivationRecorder(identity_actor(2)))


@pytest.mark.parametrize("name", ["mean", "maximum", "MAX ", "", "max:3", "percentil:99", None, 99])
def test_an_unknown_calibration_is_met_with_the_known_ones(name):
    with pytest.raises(
        InputError, match=r"unknown calibration .*choose auto, max, percentile, percentile:P, mse or gaussian"
    ):
        calibrate(identity_actor(2), np.ones((3, 2), np.float32), name)


@pytest.mark.parametrize("value", ["0", "101", "-1", "nan", "inf", "abc", "1e3", "99%"])
def test_a_bad_percentile_in_a_name_is_quoted(value):
    with pytest.raises(InputError, match=f"percentile .*'{value}'"):
        calibrate(identity_actor(2), np.ones((3, 2), np.float32), f"percentile:{value}")


@pytest.mark.parametrize("value", [0, 101, -1, math.nan, math.inf, "abc", None, 1j])
def test_a_bad_percentile_is_quoted(value):
    with pytest.raises(InputError) as caught:
        Percentile(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("calibration", "text"),
    [
        (Fitted(), "mse"),
        (Fitted("gaussian", ridge=0.85), "gaussian:ridge=0.85"),
        (
            Fitted(weighted=True, correction="linear", ridge=1e-3),
            "mse:weighted:linear:ridge=0.001",
        ),
        (Fitted(correction="bias"), "mse:bias"),
        (Fitted(weighted=True, floor=0.3), "mse:weighted:floor=0.3"),
        (Fitted(correction="linear", matched=True, ridge=0.5), "mse:linear:matched:ridge=0.5"),
    ],
    ids=str,
)
def test_a_fitted_calibration_and_its_text_mean_the_same(calibration, text):
    assert str(calibration) == text
    assert parse_calibration(text) == calibration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mse:bias:matched", "matched belongs to the correction 'linear', got correction 'bias'"),
        ("mse:linear:ridge=0", "ridge must be a finite number above 0, got 0.0"),
        ("mse:weighted:floor=inf", "floor must be a finite number above 0, got inf"),
    ],
)
def test_numbers_of_a_fitted_calibration_are_judged_when_it_is_named(text, message):
    """Before observations are collected for it."""
    with pytest.raises(InputError, match=re.escape(message)):
        parse_calibration(text)


@pytest.mark.parametrize(
    ("neuron", "plain", "seeing"),
    [
        ("if", "mse:weighted:linear:matched", "mse:weighted:linear"),
        ("snm", "mse:weighted:linear", "mse:weighted:linear"),
        ("mt", "mse:weighted:linear:floor=0.3", "mse:weighted:linear"),
        ("dc", "mse:linear", "mse:linear"),
    ],
)
def test_what_is_recommended_has_these_names(neuron, plain, seeing):
    for actor, text in ((make_actor(4, 5, 2), plain), (visual_actor(FORMS["two-convolutions"]), seeing)):
        assert str(recommended(parse_neuron(neuron), actor)[0]) == text


@pytest.mark.parametrize("part", ["heavy", "ridge", "ridge=much", "floor", "rule=mse", ""])
def test_an_unknown_part_of_a_fitted_calibration_is_quoted(part):
    with pytest.raises(InputError, match=re.escape(f"calibration 'mse:weighted:{part}': {part!r} is none of weighted")):
        parse_calibration(f"mse:weighted:{part}")


@pytest.mark.parametrize(
    ("calibration", "text"),
    [(Max(), "max"), (Percentile(), "percentile:99.9"), (Percentile(99), "percentile:99")],
    ids=["max", "percentile", "percentile-99"],
)
def test_a_calibration_and_its_text_mean_the_same(calibration, text):
    actor, observations = make_actor(4, 9, 2), make_observations(200, 4)
    assert str(calibration) == text
    assert torch.equal(calibrate(actor, observations, calibration)[0], calibrate(actor, observations, text)[0])
