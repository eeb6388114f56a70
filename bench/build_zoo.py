"""Brings actors into the zoo: measures each over 20 episodes and writes it as safetensors with its metadata.

    python bench/build_zoo.py FOLDER

FOLDER holds what SBX trained: `ALGORITHM_ENVIRONMENT.safetensors` with Flax parameters and their metadata (algo, env,
seed, steps, eval_return, trained_with); and actors that see, state dicts of DrQ-v2's network with theirs (task, …,
student_return_mean, student_return_std), whose returns are taken from there. The zoo's `SHA256SUMS` is written anew at
the end.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

import snnkern
from snnkern.control.evaluation import evaluate
from snnkern.files import write_atomically
from snnkern.policies.actor import Actor
from snnkern.policies.loading import load_actor

EPISODES, SEED = 20, 1000
SEEN_WITH = "dm_control 1.0.50, mujoco 3.17.0"  # which the files of actors that see do not say


def measured(actor: Actor) -> tuple[str, dict[str, str]]:
    """The name in the zoo and the metadata of an actor that SBX trained."""
    given = actor.metadata
    result = evaluate(actor, given["env"], episodes=EPISODES, seed=SEED)
    name = f"{given['algo']}-{given['env'].rpartition('-')[0]}".lower()
    return name, {
        "algorithm": given["algo"],
        "environment": given["env"],
        "seed": given["seed"],
        "steps": given["steps"],
        "trained_with": given["trained_with"],
        "eval_return": given["eval_return"],
        "return_mean": f"{result.mean:.1f}",
        "return_std": f"{result.std:.1f}",
        "return_measured": f"{EPISODES} episodes, seeds {SEED} to {SEED + EPISODES - 1}, "
        f"gymnasium {version('gymnasium')}, mujoco {version('mujoco')}",
    }


def stated(actor: Actor) -> tuple[str, dict[str, str]]:
    """The same of an actor that sees."""
    given = actor.metadata
    first, last = given["evaluation_seeds"].split("..")
    return f"drqv2-{given['task'].replace('_', '-')}", {
        **{key: given[key] for key in ("algorithm", "environment", "action_repeat", "frame_stack", "camera")},
        "seed": given["training_seed"],
        "trained_with": f"{SEEN_WITH}; DAgger: {given['dagger']}; expert: {given['expert']}",
        "expert_return_mean": given["expert_return_mean"],
        "expert_return_std": given["expert_return_std"],
        "return_mean": given["student_return_mean"],
        "return_std": given["student_return_std"],
        "return_measured": f"{int(last) - int(first) + 1} episodes, seeds {first} to {last}, {SEEN_WITH}",
    }


def main(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)]) -> None:
    for source in sorted(folder.glob("*.safetensors")):
        actor = load_actor(source)
        name, actor.metadata = stated(actor) if "student_return_mean" in actor.metadata else measured(actor)
        snnkern.save(actor, snnkern.zoo.path(name))
        print(f"{name}: {actor.metadata['return_mean']} ± {actor.metadata['return_std']}")
    files = sorted(snnkern.zoo.path("any").parent.glob("*.safetensors"))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    write_atomically(files[0].with_name("SHA256SUMS"), "".join(lines).encode())


if __name__ == "__main__":
    typer.run(main)
