"""Small actors, state dicts, files and observations that several tests share."""

import importlib.util
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes

import snnkern
from snnkern.kernels.neurons import NEURON_NAMES
from support import ROOT

NEURONS = NEURON_NAMES
# Of a process that trains for a moment: compiling takes most of it.
QUICK_JAX = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
PUBLISHED = ROOT / ".." / "shared" / "actors" / "published"

Layers = list[tuple[torch.Tensor, torch.Tensor]]


def make_layers(*widths: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Layers:
    """Random weight `[out, in]` and bias `[out]` of a network with these widths, input and output included."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(outputs, inputs, generator=generator, dtype=torch.float64).div(inputs**0.5).to(dtype),
            torch.randn(outputs, generator=generator, dtype=torch.float64).mul(0.1).to(dtype),
        )
        for inputs, outputs in itertools.pairwise(widths)
    ]


def make_actor(
    *widths: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    metadata: dict[str, str] | None = None,
    **interface,
) -> snnkern.Actor:
    layers = make_layers(*widths, seed=seed, dtype=dtype)
    between = snnkern.Interface(widths[0], widths[-1], dtype=dtype, **interface)
    return snnkern.Actor(layers[:-1], layers[-1], between, metadata)


def identity_actor(width: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> snnkern.Actor:
    """An actor whose only hidden layer's activations are the positive observations times `scale`."""
    hidden = [(torch.eye(width, dtype=dtype) * scale, torch.zeros(width, dtype=dtype))]
    return snnkern.Actor(hidden, (torch.ones(1, width, dtype=dtype), torch.zeros(1, dtype=dtype)))


def make_observations(rows: int, width: int, seed: int = 1, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(dtype)


def dense_action(
    layers: Layers,
    observation: np.ndarray,
    scale=1.0,
    bias=0.0,
    squash: bool = True,
    activate: Callable[[np.ndarray], np.ndarray] = lambda drive: np.maximum(drive, 0.0),
) -> np.ndarray:
    """What an actor does, in float64 NumPy and without any of the package."""
    signal = observation.astype(np.float64)
    for weight, offset in layers[:-1]:
        signal = activate(signal @ weight.double().numpy().T + offset.double().numpy())
    weight, offset = layers[-1]
    output = signal @ weight.double().numpy().T + offset.double().numpy()
    return np.asarray(scale) * (np.tanh(output) if squash else output) + np.asarray(bias)


def td3_state(layers: Layers) -> dict[str, torch.Tensor]:
    """l1, l2, …"""
    return {
        f"l{number}.{part}": tensor
        for number, layer in enumerate(layers, 1)
        for part, tensor in zip(("weight", "bias"), layer, strict=True)
    }


def sac_state(layers: Layers) -> dict[str, torch.Tensor]:
    """fc1, …, fc_mu, fc_std"""
    names = [*(f"fc{number}" for number in range(1, len(layers))), "fc_mu", "fc_std"]
    return {
        f"{name}.{part}": tensor
        for name, layer in zip(names, [*layers, another_head(layers[-1])], strict=True)
        for part, tensor in zip(("weight", "bias"), layer, strict=True)
    }


def flax_state(layers: Layers, two_heads: bool = False) -> dict[str, torch.Tensor]:
    """Dense_0, Dense_1, … with kernels `[in, out]`; a SAC actor's second head stands beside the first."""
    heads = [another_head(layers[-1])] if two_heads else []
    state = {}
    for number, (weight, bias) in enumerate([*layers, *heads]):
        state |= {f"Dense_{number}.kernel": weight.T.contiguous(), f"Dense_{number}.bias": bias}
    return state


def another_head(head: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A log-standard-deviation head, which the deterministic action must not use."""
    return head[0] + 100.0, head[1] - 100.0


LAYOUTS = {
    "td3": td3_state,
    "sac": sac_state,
    "flax-td3": flax_state,
    "flax-sac": lambda layers: flax_state(layers, two_heads=True),
}


def sequential_state(prefix: str, layers: Layers, head: str = "") -> dict[str, torch.Tensor]:
    """prefix.0, prefix.2, …, as a Sequential with activations between has them; its last layer by a name of its own."""
    names = [f"{prefix}.{2 * number}" for number in range(len(layers))]
    names[-1] = head or names[-1]
    return {
        f"{name}.{part}": tensor
        for name, layer in zip(names, layers, strict=True)
        for part, tensor in zip(("weight", "bias"), layer, strict=True)
    }


def sb3_ppo_state(layers: Layers) -> dict[str, torch.Tensor]:
    """The policy of PPO and A2C of Stable-Baselines3, with its critic."""
    critic = sequential_state("mlp_extractor.value_net", [*layers[:-1], another_head(layers[-1])], "value_net")
    noise = torch.zeros(len(layers[-1][1]))
    return {"log_std": noise} | sequential_state("mlp_extractor.policy_net", layers, "action_net") | critic


def cleanrl_ppo_state(layers: Layers) -> dict[str, torch.Tensor]:
    """The agent of CleanRL's ppo_continuous_action.py."""
    noise = torch.zeros(1, len(layers[-1][1]))
    return {"actor_logstd": noise} | sequential_state("critic", layers) | sequential_state("actor_mean", layers)


def rsl_checkpoint(layers: Layers, release: int = 1, statistics: tuple[np.ndarray, np.ndarray] | None = None) -> dict:
    """What RSL-RL of a major release saves in model_1000.pt; mean and deviation `[N]` of observations, if it has them.

    A normalisation is beside the policy until 2, and inside of it from 3 on; from 4 on actor and critic are apart, and
    from 5 on the noise is a distribution's.
    """
    noise = torch.ones(len(layers[-1][1]))
    normalizer = {}
    if statistics is not None:
        mean, std = (torch.from_numpy(part)[None] for part in statistics)
        normalizer = {"_mean": mean, "_var": std**2, "_std": std, "count": torch.tensor(9)}
    prefix = {3: "actor_obs_normalizer.", 4: "obs_normalizer.", 5: "obs_normalizer."}.get(release, "")
    inside = {f"{prefix}{name}": tensor for name, tensor in normalizer.items()} if prefix else {}
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    rest = {"optimizer_state_dict": optimizer.state_dict(), "iter": 1000, "infos": None}
    if release >= 4:
        name = "distribution.std_param" if release >= 5 else "std"
        critic = sequential_state("mlp", [*layers[:-1], another_head(layers[-1])])
        actor = sequential_state("mlp", layers)
        return {"actor_state_dict": {name: noise} | actor | inside, "critic_state_dict": critic, **rest}
    critic = {f"critic.{name}": tensor for name, tensor in sequential_state("0", layers).items()}
    found = {"model_state_dict": {"std": noise} | sequential_state("actor", layers) | critic | inside, **rest}
    if normalizer and release < 3:
        found |= {"obs_norm_state_dict": normalizer, "critic_obs_norm_state_dict": normalizer}
    return found


def write_safetensors(state: dict[str, torch.Tensor], path: Path) -> None:
    path.write_bytes(safetensors_bytes(state))


def write_torch(state: object, path: Path) -> None:
    torch.save(state, path)


def write_legacy_torch(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_pickle(protocol: int):
    return lambda state, path: path.write_bytes(pickle.dumps(state, protocol=protocol))


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """The same names, dtypes and bits."""
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def load_module(path: Path):
    """A Python file that is in no package, such as a program of `examples/`, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_example(name: str):
    return load_module(ROOT / "examples" / f"{name}.py")


def run_cases(files: Sequence[str], marked: str, environment: dict[str, str]) -> None:
    """Runs files of tests in a process of their own, so that what they set or import reaches no other test."""
    paths = [f"python_tests/{file}" for file in files]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *paths],
        cwd=ROOT,  # whose package is imported, whichever is installed
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
