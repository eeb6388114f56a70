"""Ridge regression of a layer's weights towards those that it was trained with.

Each receiver counts states in its own way, so each has a system of equations of its own. Three ways lead to the same
result: with few states the systems have their size (`_of_few_states`); else that of the senders, and are built and
solved one after the other (`_one_by_one`), or, where there are many senders, solved all together without being built
(`_together`). An output layer with tanh may be fitted to actions instead (`matching`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# A system is built in the time of its senders squared, and solved in that of its senders, some tens of times: with so
# many senders, both take the same.
_WIDE = 320
_PRECISE = 1e-4  # what is left of the right-hand side where a system counts as solved
_MOST_STEPS = 100  # after which a system that is not solved is built
_ROWS = 1_024  # states at a time, which the second-level cache holds
_NEWTON = 30  # steps of it at most; a few are enough
_SHORTEST = 1e-6  # part of such a step, below which the loss does not fall any more
_GAIN = 1e-8  # by which the next step must promise to lower the loss
_FLAT = 1e-6  # the least slope of tanh that counts
_APART = 4  # curvature is taken from every fourth state


def least_squares(
    output: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor, ridge: float, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weight and bias whose output is closest to `wanted`, given what the layer below really sends.

    For each receiver, min over w', b' of E p·(w'·output + b' − wanted)² + λ·|w' − w|², λ = `ridge` · mean variance of
    the outputs, p = `importance`, of mean 1, by which variances are taken as well. The mean is over as many directions
    as there can be: senders, or states where these are fewer. (With the mean over senders, a layer that has many would
    be explained perfectly in these states, and no better than before in others.) Weights stay as they are where outputs
    vary no more than rounding makes them: no state then says what another one needs.

    Args:
        output: mean output of the layer below, `[S, in]`.
        wanted: what this layer's dense original computes from the dense activations, `[S, out]`.
        weight: W, `[out, in]`.
        bias: b, `[out]`.
        ridge: above 0.
        importance: `[S, out]`, above 0; `[S, out / k]` where every k receivers beside each other count alike, which
            one system of equations then serves; or None where all count alike, likewise.

    Returns:
        W' and b', in the dtype of W.

    Source: ridge regression towards W; a layer's reconstruction from quantised inputs as in Nagel et al., "Up or Down?
    Adaptive Rounding for Post-Training Quantization", ICML 2020, here in closed form.
    """
    if len(output) < weight.shape[1]:
        return _of_few_states(output, wanted, weight, bias, ridge, importance)
    if importance is None or weight.shape[1] <= _WIDE or bool((importance == importance[0, 0]).all()):
        return _one_by_one(output, wanted, weight, bias, ridge, importance)
    return _together(output, wanted, weight, bias, ridge, importance)


def _one_by_one(
    output: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor, ridge: float, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`least_squares` by building and solving every system."""
    if importance is None:
        importance = wanted.new_ones(1, 1).expand(wanted.shape)
    # Sums over states take the time: what all states count is summed once, for each receiver only what some count
    # beyond that. In the actor's dtype, around the mean; the equations are solved in float64.
    common = importance.amin()
    beyond = importance - common
    center = output.mean(dim=0)
    sent = output - center
    missing = wanted - output @ weight.T
    squares, products, totals = common * (sent.T @ sent), common * (sent.T @ missing), common * missing.sum(dim=0)
    fitted, offset = weight.clone(), torch.empty_like(bias)
    alike = not bool((beyond > 0).any())
    for column, receivers in enumerate([slice(None)] if alike else _groups(len(weight), beyond.shape[1])):
        states = beyond[:, column].nonzero()[:, 0]
        share = beyond[states, column, None]
        counted, lacking = sent[states], missing[states, receivers]
        weighted = counted * share
        total = float(common) * len(sent) + float(share.sum())
        mean, lack = weighted.sum(dim=0) / total, (totals[receivers] + (lacking * share).sum(dim=0)) / total
        covariance = ((squares + weighted.T @ counted) / total - torch.outer(mean, mean)).double()
        cross = (products[:, receivers] + weighted.T @ lacking) / total - torch.outer(mean, lack)
        usual = center + mean
        rounding = float(usual.double().square().mean()) * torch.finfo(output.dtype).eps
        offset[receivers] = lack
        if (variance := float(covariance.diagonal().mean())) <= rounding:  # nothing to fit: weights stay as trained
            continue
        covariance.diagonal().add_(max(ridge * variance, rounding))
        change = torch.linalg.solve(covariance, cross.double()).T.to(weight)
        fitted[receivers] += change
        offset[receivers] -= change @ usual
    return fitted, offset


def _together(
    output: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor, ridge: float, importance: Tensor
) -> tuple[Tensor, Tensor]:
    """`least_squares` by conjugate gradients, a step of all systems at a time.

    What a step needs of a system is its product with a vector, and one pass over the states computes those of all
    systems. The preconditioner is the system of the average importance. A system that is not solved soon is built.

    Source: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.
    """
    beside = len(weight) // importance.shape[1]  # receivers with one system
    center = output.mean(dim=0)
    sent, missing = output - center, wanted - output @ weight.T
    shares = importance / importance.sum(dim=0)

    def average(numbers: Callable[[slice], Tensor]) -> Tensor:
        """Averages `[in, out]` over the states of what was sent times these numbers `[rows, out]`."""
        total = sent.new_zeros(sent.shape[1], len(weight))
        for start in range(0, len(sent), _ROWS):
            rows = slice(start, start + _ROWS)
            weighted = numbers(rows).unflatten(1, (-1, beside)) * shares[rows, :, None]
            total.addmm_(sent[rows].T, weighted.flatten(1))
        return total

    def of_receivers(numbers: Tensor) -> Tensor:
        return numbers.repeat_interleave(beside, dim=-1)

    means = sent.T @ shares
    variance = (sent.square().sum(dim=1) @ shares - means.square().sum(dim=0)) / len(means)
    rounding = (center[:, None] + means).double().square().mean(dim=0) * torch.finfo(output.dtype).eps
    strength = of_receivers(torch.maximum(ridge * variance, rounding.to(variance)))
    fixed = of_receivers(variance <= rounding)  # nothing to fit: weights stay as trained
    means = of_receivers(means)
    lack = (missing.unflatten(1, (-1, beside)) * shares[:, :, None]).sum(dim=0).flatten()

    alike = shares.mean(dim=1)
    middle = sent.T @ alike
    usual = ((sent * alike[:, None]).T @ sent - torch.outer(middle, middle)).double()
    usual.diagonal().add_(max(ridge * float(usual.diagonal().mean()), float(rounding.mean())))
    factor, failed = torch.linalg.cholesky_ex(usual)
    if bool(failed):
        return _one_by_one(output, wanted, weight, bias, ridge, importance)
    inverse = torch.cholesky_inverse(factor).to(output)

    change = torch.zeros_like(means)
    left = torch.where(fixed, 0.0, average(lambda rows: missing[rows]) - means * lack)
    enough = _PRECISE * left.norm(dim=0)
    direction = inverse @ left
    gain = (left * direction).sum(dim=0)
    for _ in range(_MOST_STEPS):
        moved = average(lambda rows, along=direction: sent[rows] @ along)  # type: ignore[misc]
        moved += strength * direction - means * (means * direction).sum(dim=0)
        length = _quotient(gain, (direction * moved).sum(dim=0))
        change += length * direction
        left -= length * moved
        unsolved = ~(left.norm(dim=0) <= enough)  # a NaN is unsolved, too
        if not bool(unsolved.any()):
            break
        step = inverse @ left
        before, gain = gain, (left * step).sum(dim=0)
        direction = step + _quotient(gain, before) * direction

    fitted = weight + change.T
    offset = lack - (change * (center[:, None] + means)).sum(dim=0)
    if bool(unsolved.any()):
        systems = unsolved.unflatten(0, (-1, beside)).any(dim=1)
        again = of_receivers(systems)
        fitted[again], offset[again] = _one_by_one(
            output, wanted[:, again], weight[again], bias[again], ridge, importance[:, systems]
        )
    return fitted, offset


def _quotient(dividend: Tensor, divisor: Tensor) -> Tensor:
    """0 where a system is solved exactly, and nothing is left to divide by."""
    return torch.where(divisor > 0, dividend / divisor, 0.0)


def _of_few_states(
    output: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor, ridge: float, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`least_squares` with fewer states than senders: the equations of its dual have the size of the states."""
    center = output.mean(dim=0)
    sent = output - center
    missing = (wanted - output @ weight.T).double()
    products = (sent @ sent.T).double()
    coefficients, offsets = [], []
    alike = importance is None
    shares = missing.new_ones(len(output), 1) if importance is None else importance.double()
    groups = [slice(None)] if alike else _groups(len(weight), shares.shape[1])
    for share, group in zip(shares.T, groups, strict=True):
        share = share / share.sum()
        row = products @ share
        centred = products - row - row[:, None] + share @ row
        lack = share @ missing[:, group]
        root = share.sqrt()[:, None]
        system = root * centred * root.T
        offsets.append(lack)
        usual = center + (share @ sent.double()).to(center)
        rounding = float(usual.double().square().sum()) * torch.finfo(output.dtype).eps
        if (variance := float(system.diagonal().sum())) <= rounding:  # nothing to fit: weights stay as trained
            coefficients.append(torch.zeros_like(missing[:, group]))
            continue
        system.diagonal().add_(max(ridge * variance, rounding) / len(output))
        found = root * torch.linalg.solve(system, root * (missing[:, group] - lack))
        # Of the centred states; `share` moves what belongs to their mean.
        coefficients.append(found - share[:, None] * found.sum(dim=0))
    change = torch.cat(coefficients, dim=1).T.to(weight) @ sent
    means = (shares / shares.sum(dim=0)).T.to(sent) @ sent + center
    means = means.repeat_interleave(len(weight) // len(means), dim=0)
    offset = torch.cat(offsets).to(bias) - (change * means).sum(dim=1)
    return weight + change, offset


def _groups(receivers: int, columns: int) -> list[slice]:
    """As many receivers beside each other for every column."""
    size = max(receivers // max(columns, 1), 1)
    return [slice(start, start + size) for start in range(0, receivers, size)]


def matching(
    output: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor, ridge: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The weight and bias of an output layer whose actions tanh(z') are closest to tanh(z), z = `wanted`.

    For each action, min over w', b' of E d(z', tanh z) + λ/2·|w' − w|², z' = w'·output + b', d = `matching_distance`.
    So the mean action error is 0 at the minimum. λ = `ridge` · mean curvature of d at the start, over as many
    directions as in `least_squares`. Where no output varies, all stays as it starts.

    Args:
        output: mean output of the layer below, `[S, in]`.
        wanted: z of the dense actor, `[S, out]`.
        weight: W, `[out, in]`.
        bias: b, `[out]`.
        ridge: above 0.
        start: W' and b' to begin with, such as those of `least_squares`.

    Returns:
        W' and b', in the dtype of W.

    Newton's method, with steps that are halved until the loss falls.
    """
    center = output.mean(dim=0)
    sent = output - center
    rounding = center.double().square().mean() * torch.finfo(output.dtype).eps
    if bool(sent.double().square().mean() <= rounding):
        return start
    sent = torch.cat([sent, output.new_ones(len(output), 1)], dim=1)
    fitted, offset = start[0].clone(), start[1].clone()
    for action, target in enumerate(torch.tanh(wanted).T):
        trained = torch.cat([weight[action], bias.new_zeros(1)]).double()
        there = torch.cat([fitted[action], (fitted[action] @ center + offset[action])[None]]).double()
        there = _matching_one(sent, target, trained, there, ridge)
        fitted[action] = there[:-1].to(weight)
        offset[action] = (there[-1] - there[:-1] @ center.double()).to(bias)
    return fitted, offset


def _matching_one(sent: Tensor, target: Tensor, trained: Tensor, there: Tensor, ridge: float) -> Tensor:
    """The weights of one action, `[in + 1]`, of which the last one is its bias, from those that are `there`."""
    some = sent[::_APART] if len(sent) >= _APART * sent.shape[1] else sent
    bend = float((sent[:, :-1].square().T @ _slope(sent @ there.to(sent))).double().sum()) / len(sent)
    strength = ridge * bend / min(len(sent), sent.shape[1] - 1)

    def loss(at: Tensor) -> float:
        distance = matching_distance(sent @ at.to(sent), target).double().mean()
        return float(distance + 0.5 * strength * (at - trained)[:-1].square().sum())

    present = loss(there)
    for _ in range(_NEWTON):
        error = torch.tanh(sent @ there.to(sent)) - target
        gradient = (sent.T @ error).double() / len(sent)
        gradient[:-1] += strength * (there - trained)[:-1]
        curvature = (some.T @ (some * _slope(some @ there.to(some))[:, None])).double() / len(some)
        curvature.diagonal()[:-1].add_(strength)
        step = torch.linalg.solve(curvature, gradient)
        part = 1.0
        while part > _SHORTEST and not (reached := loss(there - part * step)) < present:
            part /= 2
        if part <= _SHORTEST:
            break
        there, present = there - part * step, reached
        if float(gradient @ step) < _GAIN:
            break
    return there


def matching_distance(z: Tensor, action: Tensor) -> Tensor:
    """tanh's matching loss between tanh(z) and an action from -1 to 1, but for a constant: a distance of each number.

    Its gradient by z is the action error tanh(z) − action itself. A squared error has none where tanh is saturated on
    the wrong side.

    Source: Helmbold, Kivinen, Warmuth, "Relative Loss Bounds for Single Neurons", IEEE Transactions on Neural Networks
    1999.
    """
    return nn.functional.softplus(2 * z) - (1 + action) * z


def _slope(z: Tensor) -> Tensor:
    """Of tanh, and never 0."""
    return (1 - torch.tanh(z).square()).clamp(min=_FLAT)
