"""Ridge regression of a layer's weights, in each of its ways."""

import pytest
import torch
from support.builders import make_observations

from snnkern.conversion import regression
from snnkern.conversion.regression import least_squares, matching


@pytest.fixture(params=["one by one", "together"])
def way(request, monkeypatch):
    """Many states are solved in one way or in the other; few of them have a way of their own."""
    if request.param == "together":
        monkeypatch.setattr(regression, "_WIDE", 0)
        monkeypatch.setattr(regression, "_PRECISE", 1e-13)


def test_least_squares_finds_the_weights_that_explain_the_targets():
    inputs = torch.from_numpy(make_observations(200, 4)).double()
    weight, bias = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double(), torch.ones(2).double()
    found, offset = least_squares(inputs, inputs @ weight.T + bias, torch.zeros_like(weight), bias * 0, 1e-9)
    torch.testing.assert_close(found, weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(offset, bias, atol=1e-6, rtol=0)


@pytest.mark.parametrize("states", [300, 3, 2])  # fewer than senders, too
def test_least_squares_counts_states_by_their_importance(states, way):
    generator = torch.Generator().manual_seed(1)
    inputs, wanted = (
        torch.randn(states, 4, generator=generator).double(),
        torch.randn(states, 3, generator=generator).double(),
    )
    weight, bias = torch.randn(3, 4, generator=generator).double(), torch.randn(3, generator=generator).double()
    # Some states count the least, as most do where tanh is saturated.
    importance = torch.rand(states, 3, generator=generator).double().square()
    importance = importance * (torch.rand(states, 3, generator=generator) > 0.5) + 0.01
    fitted, offset = least_squares(inputs, wanted, weight, bias, 0.2, importance)
    for receiver in range(3):
        p = importance[:, receiver] / importance[:, receiver].sum()
        centred = inputs - p @ inputs
        strength = 0.2 * (p[:, None] * centred.square()).sum() / min(states, 4)
        # The gradient of what is minimised, at the minimum.
        error = inputs @ fitted[receiver] + offset[receiver] - wanted[:, receiver]
        gradient = (p * error) @ inputs + strength * (fitted[receiver] - weight[receiver])
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)
        assert float((p * error).sum()) == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("states", [3, 400], ids=["fewer-than-senders", "many"])
def test_receivers_that_count_alike_share_their_equations(states, way):
    generator = torch.Generator().manual_seed(0)
    inputs, wanted = (torch.randn(states, width, generator=generator, dtype=torch.float64) for width in (5, 6))
    weight, bias = torch.randn(6, 5, generator=generator, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    importance = torch.rand(states, 2, generator=generator, dtype=torch.float64) + 0.1
    shared = least_squares(inputs, wanted, weight, bias, 0.2, importance)
    alone = least_squares(inputs, wanted, weight, bias, 0.2, importance.repeat_interleave(3, dim=1))
    for one, other in zip(shared, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("states", [50, 3])
def test_least_squares_with_equal_importance_is_without(states, way):
    inputs, wanted = (
        torch.from_numpy(make_observations(states, 4)),
        torch.from_numpy(make_observations(states, 3, seed=1)),
    )
    weight, bias = torch.ones(3, 4), torch.zeros(3)
    one = least_squares(inputs, wanted, weight, bias, 0.1)
    other = least_squares(inputs, wanted, weight, bias, 0.1, torch.full((states, 3), 2.0))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("noise", [0.0, 1e-6])
@pytest.mark.parametrize("states", [300, 5])  # fewer than senders, too
@pytest.mark.parametrize("weighted", [False, True])
def test_states_that_do_not_vary_leave_the_weights_as_trained(states, weighted, noise, way):
    generator = torch.Generator().manual_seed(2)
    one = torch.rand(1, 9, generator=generator)
    output = one * (1 + noise * torch.randn(states, 9, generator=generator))
    weight, bias = torch.randn(3, 9, generator=generator), torch.randn(3, generator=generator)
    wanted = output @ weight.T + bias + 0.3
    importance = torch.rand(states, 3, generator=generator) + 0.1 if weighted else None
    fitted, offset = least_squares(output, wanted, weight, bias, 0.1, importance)
    assert torch.equal(fitted, weight)
    torch.testing.assert_close(offset, bias + 0.3)


def wide_layer(beside=1):
    """A layer of many senders, most of whose variance lies in a few directions, and what it is fitted to."""
    generator = torch.Generator().manual_seed(3)
    few = torch.randn(700, 12, generator=generator)
    output = (few @ torch.randn(12, 330, generator=generator) + 0.3 * torch.randn(700, 330, generator=generator)).relu()
    weight, bias = 0.1 * torch.randn(6, 330, generator=generator), torch.randn(6, generator=generator)
    wanted = output @ weight.T + bias + torch.randn(700, 6, generator=generator)
    importance = torch.rand(700, 6 // beside, generator=generator).square() * 20 + 0.01
    return output, wanted, weight, bias, 0.1, importance


@pytest.mark.parametrize("beside", [1, 3])
def test_systems_of_many_senders_are_solved_together(beside, monkeypatch):
    layer = wide_layer(beside)
    weight = layer[2]
    expected, offset = regression._one_by_one(*layer)
    monkeypatch.setattr(regression, "_one_by_one", None)  # nobody asks it
    fitted, found = least_squares(*layer)
    moved = (expected - weight).norm(dim=1)
    assert bool((moved > 0.01).all())
    assert bool(((fitted - expected).norm(dim=1) < 1e-3 * moved).all())
    torch.testing.assert_close(found, offset, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("beside", [1, 3])
def test_a_system_that_is_not_solved_soon_is_built(beside, monkeypatch):
    layer = wide_layer(beside)
    layer[1][:, :3] = layer[0] @ layer[2][:3].T + layer[3][:3]  # the first three are solved: nothing is missing
    monkeypatch.setattr(regression, "_MOST_STEPS", 2)
    built = []

    def one_by_one(*arguments):
        built.append(arguments)
        return known(*arguments)

    known = regression._one_by_one
    monkeypatch.setattr(regression, "_one_by_one", one_by_one)
    fitted, offset = least_squares(*layer)
    (arguments,) = built
    torch.testing.assert_close(arguments[2][-3:], layer[2][3:])
    expected = known(*layer)
    torch.testing.assert_close(fitted[3:], expected[0][3:], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(offset[3:], expected[1][3:], rtol=1e-3, atol=1e-3)


def test_a_preconditioner_without_a_factor_costs_time_and_no_result(monkeypatch):
    layer = wide_layer()
    failing = lambda matrix: (matrix, torch.ones((), dtype=torch.int32))  # noqa: E731
    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    for found, expected in zip(least_squares(*layer), regression._one_by_one(*layer), strict=True):
        assert torch.equal(found, expected)


def output_layer(states=400, seed=5):
    """What an output layer receives, z of the dense one, and its weights; most actions are saturated."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(states, 7, generator=generator, dtype=torch.float64).relu()
    weight = 3 * torch.randn(3, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    wanted = output @ weight.T + bias + 2 * torch.randn(states, 3, generator=generator, dtype=torch.float64)
    return output, wanted, weight, bias


@pytest.mark.parametrize("states", [400, 5])  # fewer than senders, too
def test_matching_ends_where_the_gradient_is_zero(states):
    output, wanted, weight, bias = output_layer(states)
    centred = output - output.mean(dim=0)
    start = least_squares(output, wanted, weight, bias, 0.2)
    slope = 1 - torch.tanh(output @ start[0].T + start[1]).square()
    strength = 0.2 * (slope.T @ centred.square()).sum(dim=1) / states / min(states, 7)
    found = []
    for fitted, offset in (start, matching(output, wanted, weight, bias, 0.2, start)):
        error = torch.tanh(output @ fitted.T + offset) - torch.tanh(wanted)
        gradient = error.T @ centred / states + strength[:, None] * (fitted - weight)
        found.append((float(gradient.abs().max()), float(error.mean(dim=0).abs().max()), float(error.square().mean())))
    (steep, mean, squares), (flat, at_end, squares_at_end) = found
    assert flat < 1e-3 < 0.01 < steep
    assert at_end < 1e-3 < 0.005 < mean
    assert squares_at_end < squares


def test_matching_comes_back_from_the_wrong_side():
    output, wanted, weight, bias = output_layer()
    wrong = -10 * weight, -10 * bias
    right = matching(output, wanted, weight, bias, 0.1, least_squares(output, wanted, weight, bias, 0.1))
    found = matching(output, wanted, weight, bias, 0.1, wrong)
    one, other = (torch.tanh(output @ layer[0].T + layer[1]) for layer in (right, found))
    assert float((one - other).abs().mean()) < 0.1


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_matching_leaves_what_does_not_vary(noise):
    generator = torch.Generator().manual_seed(2)
    output = torch.rand(1, 9, generator=generator) * (1 + noise * torch.randn(50, 9, generator=generator))
    weight, bias = torch.randn(3, 9, generator=generator), torch.randn(3, generator=generator)
    start = weight + 1, bias + 0.3
    assert matching(output, output @ weight.T + bias, weight, bias, 0.1, start) == start
