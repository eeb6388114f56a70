"""Leaves out one barrier of a kernel of whole actors at a time, and says of each what came of it, as JSON.

python python_tests/support/cuda_on_host/without_barriers.py MODULE KERNEL

KERNEL is "actor", "cluster" or "integer". To wait for copies counts as a barrier.

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
# Layers that need several tiles of neurons, lists and tiles of steps; or several words per block, and blocks without.
LAYERS = {
    "actor": (((3, 300, 280, 270, 2), 17), ((2, 20, 600, 2), 18)),
    "cluster": (((3, 40, 40, 2), 2), ((3, 290, 70, 20, 12), 2)),
}
BARRIER = re.compile(
    r"(__syncthreads|__syncwarp|cluster_arrive|cluster_wait|wait_for_own_copies)\(\)|"
    r"\b(wait_for_copies|wait_for_blocks|group_barrier)\("
)
Places = list[tuple[str, int]]


def barriers(kernel: str) -> list[Places]:
    """Where barriers stand, each by itself; of a cluster's, both halves together as well."""
    found = [
        (name, number, line)
        for name in (f"{kernel}_kernel.cu", "actor_parts.h")
        for number, line in enumerate((cuda_on_host.SOURCES / name).read_text().splitlines(), 1)
        if BARRIER.search(line)
    ]
    alone = [[(name, number)] for name, number, _ in found]
    halves = [(name, number) for name, number, line in found if "cluster_" in line]
    return [*alone, halves] if halves else alone


def check(kernel: str) -> None:
    if kernel == "integer":  # several groups, tiles of rows for each, and tiles of steps
        assert_exact(packed((3, 50, 80, 40, 2), "mt", HOST, 9, alpha=1.0), random_observations(2, 80, 3))
    for widths, timesteps in LAYERS.get(kernel, ()):
        assert_twins(*twins(widths, "mt", HOST, timesteps, alpha=1.0), random_observations(2, 1, widths[0]))


def outcome(module, kernel: str, places: Places, order: str) -> str:
    """What came of a run without these barriers: "right", "wrong" or "crash"."""
    process = os.fork()
    if process == 0:
        cuda_on_host.leave_out(module, *places)
        cuda_on_host.take_turns(module, order)
        try:
            check(kernel)
        except (AssertionError, RuntimeError):
            os._exit(1)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    return "crash" if os.WIFSIGNALED(status) else ("right", "wrong")[os.WEXITSTATUS(status)]


def main() -> None:
    torch.set_num_threads(1)
    module, kernel = cuda_on_host.load(Path(sys.argv[1])), sys.argv[2]
    os.environ["SNNKERN_CUDA_CLUSTERS"] = str(int(kernel == "cluster"))
    cuda_on_host.use(module)
    twins((3, 4, 4, 2), "mt", HOST, 1)[0](torch.zeros(1, 3))  # what torch does the first time it does here, and once
    outcomes = {}
    for places in [[], *barriers(kernel)]:  # none: with all of them
        tried = (outcome(module, kernel, places, order) for order in ("first", *cuda_on_host.ORDERS))
        name = ", ".join(f"{file}:{line}" for file, line in places)
        outcomes[name] = next((what for what in tried if what != "right"), "right")
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
