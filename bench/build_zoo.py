"""Brings actors into the zoo: measures each over 20 episodes and writes it as safetensors with its metadata.

    python bench/build_zoo.py FOLDER

FOLDER holds what SBX trained: `ALGORITHM_ENVIRONMENT.safetensors` with Flax parameters and their metadata (algo, env,
seed, steps, eval_return, trained_with). The zoo's `SHA256SUMS` is written anew at the end.
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
from snnkern.policies.loading import load_actor

EPISODES, SEED = 20, 1000


def main(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)]) -> None:
    for source in sorted(folder.glob("*.safetensors")):
        actor = load_actor(source)
        given = actor.metadata
        result = evaluate(actor, given["env"], episodes=EPISODES, seed=SEED)
        actor.metadata = {
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
        name = f"{given['algo']}-{given['env'].rpartition('-')[0]}".lower()
        snnkern.save(actor, snnkern.zoo.path(name))
        print(f"{name}: {result.mean:,.1f} ± {result.std:,.1f} ({given['eval_return']} while training)")
    files = sorted(snnkern.zoo.path("any").parent.glob("*.safetensors"))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    write_atomically(files[0].with_name("SHA256SUMS"), "".join(lines).encode())


if __name__ == "__main__":
    typer.run(main)
