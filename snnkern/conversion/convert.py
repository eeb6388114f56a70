"""`convert`: the spiking version of a dense actor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnkern.conversion.activations import check_numeric
from snnkern.conversion.fitting import fit
from snnkern.conversion.rewriting import as_relus
from snnkern.conversion.rules import Auto, Calibration, Fitted, calibrate, chosen_alpha, parse_calibration, recommended
from snnkern.errors import InputError
from snnkern.kernels.neurons import Dynamics, Neuron, parse_neuron
from snnkern.policies.actor import Actor, check_actor
from snnkern.policies.readers import torch_rl
from snnkern.policies.readers.vec_normalize import warn_of_other_observations
from snnkern.policies.spiking import SpikingActor


def convert(
    actor: Actor | nn.Sequential,
    observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor] | None = None,
    *,
    neuron: str | Neuron = "mt",
    timesteps: int = 4,
    alpha: float | Literal["auto"] = "auto",
    memory: float = 0.0,
    clip: float = 0.5,
    calibration: str | Calibration = "auto",
    thresholds: Sequence[Tensor] | None = None,
    backend: str = "auto",
    check_finite: bool = True,
) -> SpikingActor:
    """Converts a trained actor into a spiking one, without training.

    Args:
        actor: from `load_actor`, or a plain `nn.Sequential` of Linear and ReLU, or another activation in place of all
            ReLUs, with or without a Tanh at its end. If it begins with a Conv2d, it takes what the observations are,
            which must be one array or tensor then; `snnkern.actor_from_module` also says by what pixels are divided.
            Another activation is rewritten as several ReLUs for each neuron (`snnkern.conversion.rewriting`).
        observations: those that the thresholds are calibrated on, `[N, *observation_shape]` or an iterable of such
            batches, which are read one at a time; see `snnkern.collect`.
        neuron: "if", "snm", "mt", "dc", or a neuron with parameters of your own, such as `snnkern.MT(levels=6)`.
        timesteps: T, simulation steps per decision.
        alpha: α, the part of the residual that is carried into the next decision (CRPI); 0 is plain conversion. "auto"
            is the recommended α of neuron and calibration (`snnkern.conversion.rules.chosen_alpha`).
        memory: μ, the part of the old carry that stays in the new one; 0 is the published CRPI.
        clip: κ, bound on the carry as a fraction of the threshold.
        calibration: "auto", the recommended one of the neuron; "max", as in the papers; "percentile", "percentile:P",
            "mse", "gaussian"; or one with parameters of your own: `Percentile(p)`, `Fitted(…)`. If it corrects
            weights or biases, `SpikingActor.original` keeps the dense ones. Actors that see have "max" and
            "percentile", per channel of a convolution.
        thresholds: θ of every hidden layer, `[N]` each (`[C]` or `[C, H, W]` of a convolution), instead of
            observations.
        backend: a name from `snnkern.backends()`, or "auto".
        check_finite: whether the spiking actor refuses observations with a NaN or an infinity.

    Raises:
        InputError: a parameter is out of range, observations are missing, empty or do not fit, a threshold is negative
            or NaN.

    Warns:
        InputWarning: observations are not of the kind that the actor received in training, as far as its file shows.

    Source: Xu et al., "Error Amplification Limits ANN-to-SNN Conversion in Continuous Control", ICML 2026.
    """
    kind = parse_neuron(neuron)
    rule = parse_calibration(calibration)
    how = rule if thresholds is None else None
    Dynamics(kind, timesteps, chosen_alpha(alpha, kind, how), memory, clip)  # first: a bad number costs no work
    if isinstance(actor, nn.Sequential):
        actor = torch_rl.actor_from_module(actor, **_as_seen(actor, observations))
    check_actor(actor)
    dynamics = Dynamics(kind, timesteps, chosen_alpha(alpha, kind, how, actor), memory, clip)
    if (observations is None) == (thresholds is None):
        raise InputError("give either observations to calibrate on or thresholds, and not both")
    origin = "given thresholds"
    trained = actor
    actor = as_relus(actor, kind)
    fitted, original = actor, None if actor is trained else trained
    if observations is not None:
        warn_of_other_observations(trained, observations)
        origin = f"{rule}"
        if isinstance(rule, Auto):
            rule, _ = recommended(kind, actor)
            origin += f" ({rule})"
        if isinstance(rule, Fitted):
            found = fit(actor, observations, rule, neuron=kind, timesteps=timesteps)
            fitted, thresholds = found.actor, found.thresholds
            original = trained if rule.correction != "none" else original
        else:
            thresholds = calibrate(actor, observations, rule)
    assert thresholds is not None
    snn = SpikingActor(fitted, thresholds, dynamics, original=original, backend=backend, check_finite=check_finite)
    # What was measured with the dense actor is not true of the spiking one.
    measured = ("eval_return", "return_mean", "return_std", "return_measured")
    snn.metadata = {f"dense_{key}" if key in measured else key: value for key, value in actor.metadata.items()}
    snn.metadata["calibration"] = origin
    return snn


def _as_seen(module: nn.Sequential, observations: object) -> dict[str, Any]:
    """What a module's first convolution takes, as the observations show it; nothing where it begins otherwise."""
    chain = torch_rl.chain_of(module)
    if not chain or not isinstance(chain[0][1], nn.Conv2d):
        return {}
    if not isinstance(observations, np.ndarray | Tensor):
        raise InputError(
            "a module that begins with a Conv2d does not say how large an image is: give observations as one array, or "
            "make the actor with snnkern.actor_from_module(module, observation_shape=(C, H, W))"
        )
    kind = check_numeric(observations)
    return {
        "observation_shape": tuple(observations.shape[1:]),
        "observation_dtype": kind if kind == torch.uint8 else None,
    }
