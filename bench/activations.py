"""Actors of other activations than ReLU: returns after conversion, and after refinement.

    python bench/activations.py

There are no public ones that we know of in MuJoCo, so a network of each activation learns first to act as the zoo's
td3-halfcheetah does, from the states that it visits itself; and PPO of Stable-Baselines3 learns two tasks. Then they
are converted like any other. Half an hour on one core. Every result goes to bench/results/activations.jsonl as soon as
it is there, and what is there is not run again. Draws the table of docs/calibration.md; `--redraw` only does that.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import typer
from pages import ROOT, fill, table
from rich.console import Console
from torch import nn

import snnkern
from snnkern.control.timing import machine
from snnkern.policies.activations import ACTIVATIONS
from snnkern.policies.actor import Actor

RESULTS = ROOT / "bench" / "results" / "activations.jsonl"
PAGE = ROOT / "docs" / "calibration.md"
TEACHER, ENV = "td3-halfcheetah", "HalfCheetah-v5"
STUDENTS = ("tanh", "elu", "silu")
TASKS, LEARNT = ("HalfCheetah-v5", "Walker2d-v5"), 2_000_000  # of PPO, and the steps that it learns
SETTINGS = (("if", 4), ("if", 8), ("snm", 8), ("mt", 4), ("dc", 4))
REFINED, MINUTES = ("if", 4), 2.0
ROUNDS, UPDATES, ROWS, STEPS = 7, 2_500, 8, 1_000
EPISODES, SEED = 20, 16_000


def student(activation: str) -> Actor:
    """A network of an activation that acts as the teacher does."""
    teacher = snnkern.load_actor(TEACHER)
    inputs, outputs = teacher.interface.observation_dim, teacher.interface.action_dim
    torch.manual_seed(0)
    kind = ACTIVATIONS[activation][1]
    network = nn.Sequential(
        nn.Linear(inputs, 128), kind(), nn.Linear(128, 128), kind(), nn.Linear(128, outputs), nn.Tanh()
    )
    optimizer = torch.optim.Adam(network.parameters())
    envs = gymnasium.make_vec(ENV, ROWS)
    seen: list[torch.Tensor] = []
    for number in range(ROUNDS):
        observation, _ = envs.reset(seed=100 + number)
        for _ in range(STEPS):
            seen.append(torch.from_numpy(observation.astype(np.float32)))
            with torch.no_grad():
                action = (network if number else teacher)(seen[-1]).numpy()
            observation, *_ = envs.step(action)
        states = torch.cat(seen)
        with torch.no_grad():
            wanted = teacher(states)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - number / ROUNDS)
        for _ in range(UPDATES):
            drawn = torch.randint(len(states), (256,))
            optimizer.zero_grad()
            nn.functional.mse_loss(network(states[drawn]), wanted[drawn]).backward()
            optimizer.step()
    envs.close()
    return snnkern.actor_from_module(network, metadata={"environment": ENV})


def learnt(env: str) -> Actor:
    """An actor that PPO has trained: two hidden layers of 64 with Tanh, in VecNormalize."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs = VecNormalize(make_vec_env(env, n_envs=8, seed=0))
    model = PPO(
        "MlpPolicy", envs, n_steps=512, batch_size=128, n_epochs=5, policy_kwargs={"log_std_init": -1.0}, seed=0,
        device="cpu",
    )  # fmt: skip
    model.learn(LEARNT)
    with tempfile.TemporaryDirectory() as folder:
        zipped, statistics = Path(folder, "model.zip"), Path(folder, "vec_normalize.pkl")
        model.save(zipped)
        envs.save(str(statistics))
        envs.close()
        return snnkern.load_actor(zipped, vec_normalize=statistics)


def sources() -> dict[str, tuple[str, Callable[[], Actor]]]:
    """Of each row of the table: its environment, and what makes the actor."""
    students = {activation: (ENV, partial(student, activation)) for activation in STUDENTS}
    return students | {f"tanh, PPO in {env}": (env, partial(learnt, env)) for env in TASKS}


def measure(name: str, env: str, actor: Actor) -> dict[str, Any]:
    """Returns of an actor and of what is made of it."""
    observations = snnkern.collect(actor, env)

    def returns(policy: Any) -> list[float]:
        return list(snnkern.evaluate(policy, env, episodes=EPISODES, seed=SEED).returns)

    found: dict[str, Any] = {"activation": name, "dense": returns(actor), "converted": {}}
    for neuron, timesteps in SETTINGS:
        snn = snnkern.convert(actor, observations, neuron=neuron, timesteps=timesteps)
        found["converted"][f"{neuron} {timesteps}"] = returns(snn)
        if (neuron, timesteps) == REFINED:
            found["refined"] = returns(snnkern.refine(snn, observations, env, minutes=MINUTES))
    return found | {"machine": machine(("snnkern", "torch"))}


def draw() -> None:
    """The table of the page."""

    def share(returns: list[float], dense: list[float]) -> str:
        ratio = np.asarray(returns) / np.mean(dense)
        return f"{100 * ratio.mean():.0f} ± {100 * ratio.std(ddof=1) / len(ratio) ** 0.5:.0f}"

    named = [f"{neuron.upper()} T = {timesteps}" for neuron, timesteps in SETTINGS]
    rows = [
        [
            one["activation"],
            f"{np.mean(one['dense']):,.0f}",
            *(share(one["converted"][f"{neuron} {timesteps}"], one["dense"]) for neuron, timesteps in SETTINGS),
            share(one["refined"], one["dense"]),
        ]
        for one in map(json.loads, RESULTS.read_text().splitlines())
    ]
    head = ["activation", "dense return", *named, f"{REFINED[0].upper()} T = {REFINED[1]} refined"]
    fill(PAGE, "activations", table(head, rows))


def main(
    only: Annotated[str, typer.Option(help="Part of the names of the rows to run.")] = "",
    redraw: Annotated[bool, typer.Option("--redraw", help="Only draw the table again.")] = False,
) -> None:
    """Measures what is not measured yet, and draws the table."""
    torch.set_num_threads(1)
    RESULTS.touch()
    for name, (env, make) in () if redraw else sources().items():
        if only not in name or name in {json.loads(line)["activation"] for line in RESULTS.read_text().splitlines()}:
            continue
        found = measure(name, env, make())
        with RESULTS.open("a") as results:
            results.write(json.dumps(found) + "\n")
        Console().print(f"{name}: {np.mean(found['dense']):.0f}")
    draw()


if __name__ == "__main__":
    typer.run(main)
