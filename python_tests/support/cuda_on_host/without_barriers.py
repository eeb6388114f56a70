"""Leaves out one barrier of a kernel of actors at a time, and says of each what came of it, as JSON.

python python_tests/support/cuda_on_host/without_barriers.py MODULE KERNEL

KERNEL is "actor" or "integer". To wait for copies counts as a barrier.

A kernel without a barrier may read memory that is not there: each runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support import cuda_on_host
from support.cases import random_observations
from support.cuda_actors import assert_twins, twins
from support.integer_actors import assert_exact, packed

HOST = torch.device("cpu")


def check_actors() -> None:
    """Layers that need several tiles of neurons, lists and tiles of steps."""
    for widths, timesteps in (((3, 300, 280, 270, 2), 17), ((2, 20, 600, 2), 18)):
        assert_twins(*twins(widths, "mt", HOST, timesteps, alpha=1.0), random_observations(2, 1, widths[0]))


def check_integers() -> None:
    """Several groups, tiles of rows for each, and tiles of steps."""
    assert_exact(packed((3, 50, 80, 40, 2), "mt", HOST, 9, alpha=1.0), random_observations(2, 80, 3))


CHECKS = {"actor": check_actors, "integer": check_integers}


def outcome(module, kernel: str, line: int, order: str) -> str:
    """What came of a run without the barrier in this line: "right", "wrong" or "crash"."""
    process = os.fork()
    if process == 0:
        cuda_on_host.leave_out(module, line)
        cuda_on_host.take_turns(module, order)
        try:
            CHECKS[kernel]()
        except (AssertionError, RuntimeError):
            os._exit(1)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    return "crash" if os.WIFSIGNALED(status) else ("right", "wrong")[os.WEXITSTATUS(status)]


def main() -> None:
    torch.set_num_threads(1)
    module = cuda_on_host.load(Path(sys.argv[1]))
    cuda_on_host.use(module)
    kernel = sys.argv[2]
    source = (cuda_on_host.SOURCES / f"{kernel}_kernel.cu").read_text().splitlines()
    barrier = re.compile(r"__sync(threads|warp)\(\)|group_barrier\(|wait_for_copies\(")
    lines = [number for number, line in enumerate(source, 1) if barrier.search(line)]
    outcomes = {}
    for line in [0, *lines]:  # 0: with all of them
        tried = (outcome(module, kernel, line, order) for order in ("first", *cuda_on_host.ORDERS))
        outcomes[line] = next((what for what in tried if what != "right"), "right")
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
