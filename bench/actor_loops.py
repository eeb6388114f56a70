"""The loops of the CUDA actor's compiled kernel, and how many instructions a row's decision takes in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from machine_code import Code, Loop, Mix

WARP, CHUNK, SENDERS = 32, 128, 256  # threads; receivers of a warp; senders that it lists at a time


class Shape(NamedTuple):
    """Of an actor with two hidden layers: `td3-halfcheetah`'s, here."""

    inputs: int
    width: int
    actions: int
    timesteps: int


@dataclass(frozen=True)
class ActorLoops:
    """Instructions of a warp in each loop of `actor_kernel.cu`, without those of the loops in it.

    Attributes:
        start: outside of all loops.
        inputs: the first layer's current, of so many inputs at a time as `inputs_at_once` says.
        first: a neuron of the first layer, beside its current and its steps.
        first_step: its simulation step.
        layer: a tile of the second layer, beside its currents and steps.
        task: the current of a step and of 128 receivers, beside its lists and rows.
        word: a word of a fire mask, made a list.
        rows: the rows of so many senders as `rows_at_once` says, added.
        step: a simulation step of the second layer.
        action: an action's product.
    """

    start: Mix
    inputs: Mix
    first: Mix
    first_step: Mix
    layer: Mix
    task: Mix
    word: Mix
    rows: Mix
    step: Mix
    action: Mix
    inputs_at_once: int
    rows_at_once: int

    @classmethod
    def of(cls, compiled: Code) -> ActorLoops:
        """Finds the loops by how they are nested.

        Raises:
            RuntimeError: they are not nested as in the source.
        """
        code = compiled.until_exit()
        whole = Loop(0, len(code.instructions))
        observing, first, layers, acting = _inside(code, whole, 4)
        inputs, first_step = _inside(code, first, 2)
        (columns,) = _inside(code, layers, 1)
        (tile,) = _inside(code, columns, 1)
        tasks, step = _inside(code, tile, 2)
        (senders,) = _inside(code, tasks, 1)
        words, rows = _inside(code, senders, 2)
        (products,) = _inside(code, acting, 1)

        def ways(*loops: Loop) -> Mix:
            return code.mix(place for loop in loops for place in code.way(loop))

        found = cls(
            start=code.mix(code.own(whole)) + ways(observing),
            inputs=ways(inputs),
            first=ways(first),
            first_step=ways(first_step) * (1 / code.count("VOTE", first_step)),
            layer=ways(layers, columns, tile),
            task=ways(tasks, senders),
            word=ways(words) * (2 / code.count("POPC", words)),  # of the bits before a lane's, and of all
            rows=ways(rows),
            step=ways(step) * (1 / code.count("VOTE", step)),
            action=ways(acting, products),
            inputs_at_once=code.count("LDG", inputs),
            rows_at_once=code.count("LDG.E.128", rows),
        )
        if not (found.inputs_at_once and found.rows_at_once and code.count("BAR", columns)):
            raise RuntimeError("the actor's loops are not those of the source")
        return found

    def parts(self, shape: Shape, warps: int, rounds: float, first_rounds: float) -> dict[str, Mix]:
        """Instructions of all warps of a block in a row's decision, by its parts.

        Args:
            shape: of the actor.
            warps: of the block.
            rounds: of rows of weights, in all steps.
            first_rounds: of the first layer's inputs.
        """
        neurons, tasks = shape.width // WARP, shape.timesteps * shape.width // CHUNK
        words = shape.width // WARP
        return {
            "start": self.start * warps,
            "first layer: current": self.inputs * (first_rounds * neurons),
            "first layer: T steps": self.first_step * (shape.timesteps * neurons),
            "first layer: carry, barrier": self.first * neurons,
            "second layer: lists from fire masks": self.task * tasks + self.word * (words * tasks),
            "second layer: adding rows": self.rows * (rounds * shape.width / CHUNK),
            "second layer: barrier, T steps": self.step * (shape.timesteps * neurons),
            "second layer: carry, barrier": self.layer * warps,
            "output layer, tanh": self.action * shape.actions,
        }


def _inside(code: Code, loop: Loop, wanted: int) -> Sequence[Loop]:
    """The loops directly in a loop."""
    inside = code.within(loop)
    found = [one for one in inside if not any(one in code.within(other) for other in inside)]
    if len(found) != wanted:
        raise RuntimeError(f"{loop} should contain {wanted} loops, found {found}")
    return found
