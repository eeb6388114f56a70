"""How a spiking actor is refined."""

from __future__ import annotations

from dataclasses import dataclass

from snnkern.errors import check_number, check_whole
from snnkern.kernels.surrogates import parse_surrogate
from snnkern.policies.spiking import SpikingActor


@dataclass(frozen=True)
class Recipe:
    """What a refinement does in every round; the defaults are for actors of state vectors (`docs/refine.md`).

    Attributes:
        states: decisions of the spiking actor in the environment, before it learns.
        rows: episodes side by side.
        updates: steps of Adam.
        batch: states in each.
        recorded: part of a batch that is of the recorded observations; the rest was visited.
        frozen: part of the time, or of the rounds where they are given, in which convolutions learn nothing at first:
            then an update takes a third of its time.
        learning_rate: of weights and biases at the start; it falls to a fiftieth along a cosine.
        threshold_rate: of the logarithms of thresholds, likewise.
        average: how much of the running average of all numbers stays at an update; what acts is the average.
        jitter: carries in training are drawn between plus and minus this part of α·θ.
        surrogate: what stands for the derivative of a spike.

    Raises:
        InputError: a number is out of range.
    """

    states: int = 6_000
    rows: int = 8
    updates: int = 1_500
    batch: int = 128
    recorded: float = 0.1
    frozen: float = 0.0
    learning_rate: float = 1e-3
    threshold_rate: float = 2e-3
    average: float = 0.998
    jitter: float = 0.5
    surrogate: str = "triangle"

    @classmethod
    def recommended(cls, snn: SpikingActor) -> Recipe:
        """The default for an actor.

        With convolutions: small batches and few states, which take their time, and small steps, since thousands of
        spikes add up in the layer that follows.
        """
        if any(layer.convolution for layer in snn.hidden):
            return cls(
                states=1_000, rows=2, updates=200, batch=16, frozen=0.75, learning_rate=1e-4, threshold_rate=1e-3
            )
        return cls()

    def __post_init__(self) -> None:
        for name, least, most in (
            ("states", 1, 10**8),
            ("rows", 1, 1_000),
            ("updates", 1, 10**8),
            ("batch", 1, 65_536),
        ):
            check_whole(name, getattr(self, name), least, most)
        for name, low, high in (
            ("recorded", 0, 1),
            ("frozen", 0, 1),
            ("learning_rate", 0, 1),
            ("threshold_rate", 0, 1),
            ("average", 0, 1),
            ("jitter", 0, 1),
        ):
            check_number(name, getattr(self, name), low, high)
        parse_surrogate(self.surrogate)
