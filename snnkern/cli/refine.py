"""`snnkern refine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snnkern.cli import options
from snnkern.errors import InputError
from snnkern.limits import MOST_SEED

if TYPE_CHECKING:
    from snnkern.training.run import Progress


def refine_command(
    policy: Annotated[str, typer.Argument(help="A spiking actor that snnkern convert wrote.")],
    output: Annotated[Path, typer.Argument(help="Where the refined actor goes (.safetensors).")],
    env: options.Env = None,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes",
            help="Time of the refinement, its environment steps included; observations are collected before.",
        ),
    ] = 5.0,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="At most so many rounds, whatever time is left.", min=1)
    ] = None,
    alpha: Annotated[str, typer.Option("--alpha", help="α of the refined actor, 0 … 1; auto: 0.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of episodes and of training.", min=0, max=MOST_SEED)] = 0,
    steps: options.Steps = None,
    observations: options.Observations = None,
    as_json: options.Json = False,
) -> None:
    """Refine a spiking actor: it learns to act as the dense actor does, without reward.

    The spiking actor runs in its environment, the dense one says what it would have done there, and gradients descend
    on the difference, in rounds. With --observations and without --env, it learns from those observations alone.
    Finished rounds are kept beside the output: after Ctrl-C, the same command goes on.

    Example: snnkern refine snn.safetensors refined.safetensors --minutes 5
    """
    from snnkern.files import read_array
    from snnkern.policies import storage
    from snnkern.policies.loading import load_policy
    from snnkern.policies.spiking import SpikingActor, dense_actor
    from snnkern.report.terminal import say
    from snnkern.training import checkpoint
    from snnkern.training.refine import check_settings, refine

    options.check_output(output, policy, observations)
    chosen: Any = options.parse_number(alpha)  # refine says what it may be
    snn = load_policy(policy)
    if not isinstance(snn, SpikingActor):
        raise InputError(f"{policy} is a dense actor: snnkern convert makes a spiking one of it, which refine takes")
    check_settings(snn, minutes, rounds, chosen, seed)  # before anything is collected
    alone = observations is not None and env is None
    name = None if alone else options.environment_of(snn, env)
    if observations is None:
        assert name is not None
        data = options.collect_observations(dense_actor(snn), name, steps, 0)
    else:
        options.refuse({"--steps": steps}, "you give the observations yourself")
        data = read_array(observations)
    store = output.with_name(f"{output.name}.partial")
    last: Progress | None = None
    with options.progress_bars() as report:

        def progress(now: Progress) -> None:
            nonlocal last
            last = now
            report("refining, seconds", min(int(now.seconds), round(60 * minutes)), round(60 * minutes))

        refined = refine(
            snn,
            data,
            name,
            minutes=minutes,
            rounds=rounds,
            alpha=chosen,
            seed=seed,
            store=store,
            progress=progress,
        )
    storage.save(refined, output)
    checkpoint.remove(store)
    assert last is not None
    if as_json:
        options.print_json({"output": str(output), **refined.dynamics.to_dict(), **last._asdict()})
        return
    say(
        f"Wrote {output}: action error {last.given:.3f} -> {last.error:.3f} of the action's scale, "
        f"{refined.metadata['refined'].partition(':')[0]}."
    )
