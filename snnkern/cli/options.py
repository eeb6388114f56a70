"""Options that several verbs of the command line share, and what they do with them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from snnkern.errors import InputError, MissingDependencyError, check_whole
from snnkern.kernels.neurons import MAX_LEVELS
from snnkern.limits import MOST_EPISODES, MOST_SEED, MOST_SIDE_BY_SIDE, MOST_STEPS, MOST_WORKERS
from snnkern.text import count, duration, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from snnkern.policies.actor import Actor, Policy
    from snnkern.policies.spiking import SpikingActor

PACKAGES = ("snnkern", "torch", "numpy", "scipy", "gymnasium", "mujoco")  # whose versions summaries say
ACTOR = typer.Argument(
    help="A zoo actor (snnkern info lists them), or a checkpoint: .safetensors, a state dict of TD3, DDPG, SAC or PPO, "
    "a zip of Stable-Baselines3, a checkpoint of RSL-RL, a snapshot of DrQ-v2."
)
POLICY = typer.Argument(help="A zoo actor, a checkpoint, or what snnkern convert wrote.")
Neurons = Annotated[str | None, typer.Option("--neuron", help="One or several (default if,snm,mt,dc).")]
Timesteps = Annotated[str | None, typer.Option("--timesteps", "-T", help="T, one or several (default 4,8).")]
Env = Annotated[
    str | None,
    typer.Option(
        "--env",
        "--environment",
        help="Gymnasium environment, such as HalfCheetah-v5 or dm_control/cartpole-swingup-v0; the actor's own where "
        "its file says.",
    ),
]
Scale = Annotated[
    float | None, typer.Option("--action-scale", help="max_action, where the checkpoint does not hold it (default 1).")
]
Activation = Annotated[
    str | None,
    typer.Option("--activation", help="relu, tanh, elu, …: of the network, which a state dict does not say."),
]
VecNormalize = Annotated[
    str | None,
    typer.Option(
        "--vec-normalize",
        help="The file of the VecNormalize that a Stable-Baselines3 model was trained in; one beside the zip is found "
        "(docs/ecosystem.md); none: take none.",
    ),
]
Levels = Annotated[
    int | None,
    typer.Option("--levels", help="L, thresholds per sign of MT and DC (default 4).", min=1, max=MAX_LEVELS),
]
Calibration = Annotated[
    str,
    typer.Option(
        "--calibration",
        help="Thresholds: auto (recommended), max, percentile:P, mse, gaussian; see docs/calibration.md.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help="Decisions of the dense actor to calibrate on (default 30000, or 5000 images).",
        min=1,
        max=MOST_STEPS,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of the calibration run's first episode (default 0).", min=0, max=MOST_SEED),
]
Observations = Annotated[
    Path | None,
    typer.Option("--observations", help="Calibrate on a .npy array [N, …] of observations instead of running."),
]
Backend = Annotated[str, typer.Option("--backend", help="What computes; snnkern info lists them.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write what --json prints to this file (.json) as well.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of a table.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Processes that share the work (default: one per core).", min=1, max=MOST_WORKERS),
]
EPISODES = typer.Option("--episodes", help="Episodes per setting.", min=1, max=MOST_EPISODES)
EPISODES_SIDE_BY_SIDE = typer.Option(
    "--episodes", help="Episodes of every policy, at once.", min=1, max=MOST_SIDE_BY_SIDE
)
EPISODE_SEED = typer.Option("--episode-seed", help="Seed of the first episode.", min=0, max=MOST_SEED)


def parse_normalization(option: str | None) -> str | bool | None:
    """What `load_actor` takes for `--vec-normalize`."""
    return False if option == "none" else option


def note_how_it_was_read(policy: Policy) -> None:
    """What about a policy was taken from elsewhere than its file, or for granted; on standard error."""
    from snnkern.policies.activations import ACTIVATIONS, assumption
    from snnkern.policies.readers import vec_normalize, visual

    source = policy.metadata.get(vec_normalize.KEY, vec_normalize.OUTSIDE)
    if source != vec_normalize.OUTSIDE:
        print(f"Note: observations are normalised as {source} says.", file=sys.stderr)
    if objects := policy.metadata.get(visual.OBJECTS):
        print(f"Note: the tensors are those of an object, {objects}, of which nothing was run.", file=sys.stderr)
    if name := assumption(policy.metadata):
        print(
            f"Note: the file does not say the network's activation, and {ACTIVATIONS[name][1].__name__} is assumed; "
            "snnkern convert --activation relu (or tanh, elu, …) says what it is.",
            file=sys.stderr,
        )


def refuse(options: Mapping[str, object], why: str) -> None:
    """Refuses options that were given where they would be ignored."""
    for option, given in options.items():
        if given is not None:
            raise InputError(f"{option} has no use here: {why}")


def check_output(output: Path, *inputs: Path | str | None) -> None:
    """Refuses a file that cannot be written, or that the command reads."""
    from snnkern.files import check_writable

    check_writable(output)
    for file in inputs:
        if file is not None and output.exists() and Path(file).exists() and output.samefile(file):
            raise InputError(f"{output} is what the command reads: give another file for what it writes")


def collect_observations(actor: Actor, env: str, steps: int | None, seed: int | None) -> NDArray[np.floating]:
    from snnkern.control.collect import calibration_steps, collect

    steps = calibration_steps(actor) if steps is None else steps
    with progress_bars() as report:
        return collect(actor, env, steps, seed or 0, lambda done: report(f"calibration in {env}", done, steps))


def load_observations(
    actor: Actor, file: Path | None, env: str | None, steps: int | None, seed: int | None
) -> NDArray[np.floating]:
    """Observations from a file where one is given, which must be the actor's, else from its environment."""
    from snnkern.conversion.activations import check_observations
    from snnkern.files import read_array

    if file is None:
        try:
            return collect_observations(actor, environment_of(actor, env, "--env or --observations"), steps, seed)
        except MissingDependencyError as error:
            raise MissingDependencyError(f"{error}, or give --observations") from error
    refuse({"--env": env, "--steps": steps, "--seed": seed}, "you give the observations yourself")
    observations = read_array(file)
    check_observations(actor, observations)
    if not len(observations):
        raise InputError(f"{file} holds no observation: at least one is needed")
    return observations


def environment_of(policy: Actor | SpikingActor, env: str | None, options: str = "--env") -> str:
    from snnkern.control import environments

    if env is not None:
        return environments.trusted(env)
    name = environments.named_by(policy)
    if not name:
        raise InputError(f"the file does not say which environment the actor is for: give {options}")
    return name


T = TypeVar("T")


def parse_number(text: str) -> float | str:
    """A number, or the name of a rule, which is judged where settings are."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_list(option: str, text: str, convert: Callable[[str], T]) -> list[T]:
    try:
        return [convert(part.strip()) for part in text.split(",")]
    except (ValueError, OverflowError) as error:
        raise InputError(f"{option} takes one value or several with commas between, got {text!r}") from error


def parse_counts(option: str, text: str, most: int) -> list[int]:
    return [check_whole(option, number, 1, most) for number in parse_list(option, text, int)]


def cores() -> int:
    from snnkern.control import environments

    return environments.cores()


class Report(Protocol):
    """Shows how much of something is done, and how long the rest takes."""

    def __call__(self, description: str, done: int, total: int, seconds: float | None = None) -> None:
        """Unless somebody knows how many seconds it takes, it is as many for each as those took that are done."""


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Progress bars on standard error, one per description, from the first report on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from snnkern.report.terminal import console

    name, left = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[left]}")
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left)
    progress = Progress(*columns, console=console(stderr=True))
    bars: dict[str, tuple[Any, int, float]] = {}  # with what was done before, and when that was

    def report(description: str, done: int, total: int, seconds: float | None = None) -> None:
        now = time.monotonic()
        progress.start()
        if description not in bars:
            bars[description] = progress.add_task(printable(description), total=total, left=""), done, now
        bar, before, started = bars[description]
        if seconds is None and done > before:
            seconds = (now - started) / (done - before) * (total - done)
        left = f"about {duration(seconds)} left" if seconds and done < total else ""
        progress.update(bar, completed=done, total=total, left=left)

    try:
        yield report
    finally:
        if bars:
            progress.stop()


def episodes_of(report: Report, policy: Policy, env: str, episodes: int) -> Callable[[int], None]:
    """What `evaluate` calls after every step: it shows decisions where they are slow, since their actor sees pixels."""
    from snnkern.control import environments

    limit = environments.limit(env, policy) if environments.view(env, policy) else None
    if limit is None:
        return lambda done: report(f"episodes in {env}", done, episodes)
    total, rows, decided = limit * episodes, environments.side_by_side(episodes), 0

    def progress(done: int) -> None:
        nonlocal decided
        decided += rows
        report(f"decisions of {count(episodes, 'episode')} in {env}", total if done == episodes else decided, total)

    return progress


def print_json(content: Any) -> None:
    from snnkern.files import to_json

    print(to_json(content, indent=1).decode())
