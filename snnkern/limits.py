"""The largest numbers that are taken. What is larger is refused by its name before any work is done: it would not fit
into memory, or not end.
"""

from typing import Annotated

from msgspec import Meta

from snnkern.errors import check_whole

# Of numbers in files that are read: msgspec refuses what is beyond.
Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]
Count = Annotated[int, Meta(ge=1, le=2**31)]

MOST_EPISODES = 1_000_000  # one after another: a return and a length are kept of each
MOST_SIDE_BY_SIDE = 1_000  # episodes in as many environments at once, every step of which is kept
MOST_TIMESTEPS = 100_000  # of a setting of a study: a spiking actor keeps 20 bytes of a neuron's every step
MOST_REPLAYED = 10**9  # numbers in the spikes of one decision that is looked into
MOST_SEED = 2**63 - 1  # episodes have the seeds that follow, and JSON's readers take no more than 64 bits
MOST_OBSERVED = 10**9  # numbers in observations that are collected: 4 GB
MOST_STEPS = MOST_OBSERVED  # of collecting, for one number each
MOST_BATCH = 65_536  # rows of a decision that is timed
MOST_THREADS = 1_024
MOST_WORKERS = 10_000
LEAST_SECONDS, MOST_SECONDS = 1e-3, 1e6  # of measuring; eleven days
MOST_PICOJOULES = 1e9  # of an operation


def check_episodes(episodes: object, seed: object, most: int = MOST_EPISODES) -> tuple[int, int]:
    """The number of episodes and the seed of the first, refused where they are none.

    Raises:
        InputError: one of them is out of range, or not a whole number.
    """
    return check_whole("episodes", episodes, least=1, most=most), check_seed(seed)


def check_seed(seed: object) -> int:
    """A seed, refused where it is none.

    Raises:
        InputError: it is out of range, or not a whole number.
    """
    return check_whole("seed", seed, least=0, most=MOST_SEED)
