"""Damaged and hostile files of every format that is read: each loads, or ends with one clear error.

A typed mutation puts a value of another type, size or range where a file has a good one; others cut files, flip bytes,
and lie about lengths. A failure names its case: python_tests/test_file_fuzz.py -k FORMAT runs the same ones again.
A longer run: SNNKERN_FUZZ_SECONDS=3600 pytest python_tests/test_file_fuzz.py
"""

from __future__ import annotations

import copy
import faulthandler
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import pickle
import random
import struct
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.builders import (
    make_actor,
    make_layers,
    make_observations,
    rsl_checkpoint,
    sac_state,
    sb3_ppo_state,
    td3_state,
)
from support.drqv2 import DrQV2Agent
from support.visual import FORMS, frames, visual_actor

import snnkern
from snnkern.analysis.summaries import BenchSummary, read_summaries
from snnkern.files import read_array
from snnkern.policies.choices import ChoiceFiles
from snnkern.policies.loading import load_policy
from snnkern.policies.spiking import dense_actor
from snnkern.studies.grids import read_study
from snnkern.studies.results import collect_results, read_collection
from snnkern.studies.store import Store, read_records, task_name

CASES = 200 if "SNNKERN_ALL_CASES" in os.environ else 40  # of every format, at least
SECONDS = float(os.environ.get("SNNKERN_FUZZ_SECONDS", "0"))
HANGS_AFTER = 300  # seconds that a single case may take on the busiest machine
MOST_MEMORY = 2**30  # bytes that all cases of a format together may add to the peak

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 17, 255, 2**31, 2**63, 2**64, -(2**63), 10**29, 10**400, 0.5, -0.0,
    1e308, -1e308, 5e-324,
    math.nan, math.inf, -math.inf, "", "x", "a\0b", "\ud800", "$", "…" * 300, "1", "nan", "../..",
    "/dev/zero", "/dev/null",
    "0" * 5000, [], [[]], [1], [None], [1e308] * 3, ["x"] * 3, {}, {"": None}, {"name": "if"}, {"x": {"y": [1]}},
]  # fmt: skip
DEEP = "nested deeply"
JSON_TEXTS = [
    b"",
    b"{",
    b"[",
    b"null",
    b"1e999",
    b"NaN",
    b"9" * 5000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'"\xff"',
    b"\x00",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be replaced in nested dicts and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *itertools.chain.from_iterable(places(part, (*path, key)) for key, part in inside)]


def mutated(value: Any, choose: random.Random, odd: list[Any] = ODD) -> Any:
    """A copy with up to three places changed: replaced, left out, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(choose.choice([0, 1, 1, 1, 1, 2, 3])):
        found = [path for path in places(value) if path]
        if not found:
            return choose.choice(odd)
        *way, last = choose.choice(found)
        parent = functools.reduce(lambda part, key: part[key], way, value)
        kind = choose.random()
        if kind < 0.75:
            parent[last] = copy.deepcopy(choose.choice([*odd, DEEP]))
        elif kind < 0.85:
            del parent[last]
        elif isinstance(parent, dict):
            parent[str(choose.choice(odd))[:50]] = parent.pop(last)
        else:
            parent.extend(parent * choose.choice([1, 9]))
    return value


def dumped(value: Any, choose: random.Random) -> bytes:
    """As JSON; what Python cannot nest so deeply is put in at the end."""
    depth = choose.choice([3, 900, 5000])
    return json.dumps(value).encode().replace(json.dumps(DEEP).encode(), b"[" * depth + b"]" * depth)


def json_case(document: Any, choose: random.Random) -> bytes:
    if choose.random() < 0.1:
        return choose.choice(JSON_TEXTS)
    return damaged(dumped(mutated(document, choose), choose), choose, 0.1)


def damaged(content: bytes, choose: random.Random, share: float = 1.0) -> bytes:
    """In so many cases cut somewhere, or with some bytes changed."""
    if not content or choose.random() >= share:
        return content
    if choose.random() < 0.3:
        return content[: choose.randrange(len(content))]
    found = bytearray(content)
    for _ in range(choose.choice([1, 2, 8])):
        found[choose.randrange(len(found))] = choose.randrange(256)
    return bytes(found)


# What the good files hold


@functools.cache
def spiking() -> snnkern.SpikingActor:
    actor = make_actor(5, 7, 6, 2, observation_mean=0.1, observation_std=0.7, metadata={"environment": "Hopper-v5"})
    return snnkern.convert(actor.replaced(activation="tanh"), make_observations(20, 5), neuron="mt", calibration="max")


@functools.cache
def seeing() -> snnkern.SpikingActor:
    seen = {"camera": "1", "frame_stack": "1", "action_repeat": "2", "environment": "Hopper-v5"}
    actor = visual_actor(FORMS["trunk"]).replaced(metadata=seen)
    return snnkern.convert(actor, frames(5, FORMS["trunk"].image), neuron="snm")


KINDS = ("actor", "spiking", "visual-actor", "visual-spiking")


@functools.cache
def saved(kind: str, folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a file that `snnkern.save` wrote."""
    policy = seeing() if kind.startswith("visual") else spiking()
    decide(policy)
    path = folder / "good"
    if kind.endswith("actor"):
        snnkern.save(dense_actor(policy), path)
    else:
        snnkern.save(policy, path, include_carry=True)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def record(setting: bool, seed: int = 0) -> dict[str, Any]:
    dynamics = snnkern.Dynamics(snnkern.MT(), 4, alpha=0.2).to_dict()
    task = {
        "actor": "ab" * 32,
        "environment": "Hopper-v5",
        "setting": {**dynamics, "alpha": "auto"} if setting else None,
        "calibration": {"rule": "auto", "steps": 9, "seed": 0, "recommended": {"alpha": 0.2}} if setting else None,
        "episodes": 2,
        "seed": seed,
        "backend": "cpu" if setting else None,
        "versions": {"snnkern": "0.1.0", "torch": "2"},
    }
    result = {"returns": [10.0, 11.5], "lengths": [5, 6], "spikes": [3.0, 4.0] if setting else []}
    if setting:
        result |= {"dynamics": dynamics, "thresholds": "cd" * 32, "calibration": "auto (max)"}
    return {"task": task, "actor": "tiny", "result": result, "run": {"seconds": 1.5, "finished": "2026-01-01T00:00:00"}}


# The formats: each makes a case's file and reads it


def decide(policy: Any) -> None:
    """What has been loaded works."""
    interface = policy.interface
    if interface.observation_dim < 10_000:
        kind = np.float32 if interface.observation_dtype.is_floating_point else np.uint8
        policy.act(np.zeros((3, *interface.observation_shape), dtype=kind))
    if importlib.util.find_spec("gymnasium"):
        from snnkern.control import pixels

        for name in ("Hopper-v5", "dm_control/quadruped-walk-v0"):
            pixels.view_of(policy, name)


def store_case(path: Path, choose: random.Random) -> None:
    good = record(choose.random() < 0.5)
    content = json_case(good, choose)
    store = Store(path / "store")
    store.path(good["task"]).write_bytes(content)
    try:
        name = task_name(json.loads(content)["task"])
    except Exception:
        name = "0" * 32
    for action in (lambda: store.read(good["task"]), lambda: collect_results("x", read_records(store.folder))):
        attempt(action)
        store.path(good["task"]).unlink(missing_ok=True)
        (store.folder / f"{name}.json").write_bytes(content)  # by the name that its task has


def records_case(path: Path, choose: random.Random) -> None:
    whole = [record(False), record(True), record(True, 2)]
    lines = [json_case(one, choose) if choose.random() < 0.5 else dumped(one, choose) for one in whole]
    (path / "all.jsonl").write_bytes(damaged(b"\n".join(lines), choose, 0.1))
    attempt(lambda: read_collection(path / "all.jsonl"))


def summary_case(path: Path, choose: random.Random) -> None:
    episodes = {"returns": [1.0, 3.0], "lengths": [5, 5]}
    entry = {**snnkern.Dynamics(snnkern.DC(), 2).to_dict(), **episodes, "spikes_per_decision_per_layer": [7.0, 8.0]}
    summary = {"actor": "a", "environment": "E", "calibration": "max", "dense": episodes, "results": [entry]}
    (path / "summary.json").write_bytes(json_case(summary, choose))
    attempt(lambda: read_collection(path / "summary.json"))
    attempt(lambda: read_summaries([path / "summary.json"], BenchSummary, "bench"))


GRID = {
    "actors": ["tiny.safetensors", {"name": "tiny.safetensors", "environment": "Hopper-v4"}],
    "neurons": ["if", "mt"],
    "timesteps": [2],
    "alphas": [0.5],
    "calibrations": ["max"],
    "memories": [0.0],
    "levels": 3,
    "seeds": [0, 20],
    "episodes": 3,
    "dense_episodes": 5,
    "calibration_steps": 70,
    "calibration_seed": 4,
    "grids": [{"timesteps": [2]}, {"neurons": ["snm"], "alphas": [0, 0.2]}],
}


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)


def grid_case(path: Path, choose: random.Random) -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    snnkern.save(make_actor(11, 8, 3, metadata={"environment": "Hopper-v5"}), path / "tiny.safetensors")
    name, content = "grid.json", json_case(GRID, choose)
    if choose.random() < 0.4:
        text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in mutated(GRID, choose).items())
        text = text.replace(json.dumps(DEEP), "[" * 5000 + "]" * 5000)
        name, content = "grid.toml", damaged(text.encode(), choose, 0.1)
    (path / name).write_bytes(content)
    attempt(lambda: read_study(path / name))


TENSORS: list[Callable[[], Any]] = [
    lambda: torch.tensor(1.0),
    lambda: torch.zeros(3),
    lambda: torch.zeros(0),
    lambda: torch.zeros(0, 5),
    lambda: torch.zeros(2, 3, 4),
    lambda: torch.ones(1, 1).expand(10**6, 10**6),
    lambda: torch.ones(1).expand(2**40),
    lambda: torch.zeros(7, 5, dtype=torch.int64),
    lambda: torch.zeros(7, 5, dtype=torch.bool),
    lambda: torch.zeros(7, 5, dtype=torch.complex64),
    lambda: torch.zeros(7, 5, dtype=torch.float16),
    lambda: torch.zeros(7, 5, dtype=torch.bfloat16),
    lambda: torch.zeros(7, 5, dtype=torch.float64),
    lambda: torch.zeros(7, 5, dtype=torch.float8_e4m3fn),
    lambda: torch.full((7, 5), math.nan),
    lambda: torch.zeros(7, 5).to_sparse(),
    lambda: torch.zeros(7, 5).to_sparse_csr(),
    lambda: torch.sparse_coo_tensor(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), (10**9, 10**9)),
    lambda: torch.zeros(7, 5, device="meta"),
    lambda: torch.zeros(10**6, 10**6, device="meta"),
    lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    lambda: torch.quantize_per_tensor(torch.zeros(7, 5), 0.1, 0, torch.quint8),
    lambda: torch.nn.Parameter(torch.zeros(7, 5)),
    lambda: torch.zeros(5, 7).T,
    lambda: torch.zeros(7, 10)[:, ::2],
    lambda: None, lambda: 3, lambda: "text", lambda: [1.0], dict, lambda: {"l1.weight": torch.zeros(7, 5)},
]  # fmt: skip
KEYS: list[Any] = [
    "",
    "l9.weight",
    "l2.weight",
    "l9999.weight",
    "weight",
    "action_scale",
    "fc_mu.weight",
    "a\0b",
    "\ud800",
    3,
    None,
    ("l1",),
]


def odd_tensor(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested and sparse tensors may still change
        return make()


def state(choose: random.Random, prefix: str = "") -> Any:
    """A state dict, mostly with something else than it should have."""
    layers = make_layers(5, 7, 6, 2)
    found: dict[Any, Any] = dict(choose.choice([td3_state, sac_state])(layers))
    for _ in range(choose.choice([0, 1, 1, 2, 3])):
        key = choose.choice(list(found))
        kind = choose.random()
        if kind < 0.6:
            found[key] = odd_tensor(choose.choice(TENSORS))
        elif kind < 0.7:
            del found[key]
        else:
            found[choose.choice(KEYS)] = found.pop(key)
    found = {f"{prefix}{key}" if isinstance(key, str) else key: value for key, value in found.items()}
    return choose.choice([found] * 20 + [[found, found], (found,), [], (), None, [found, 3], {"a": found}])


def torch_bytes(content: Any, zipped: bool) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about nested and sparse tensors
        try:
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
        except Exception:  # torch cannot write all of them
            torch.save({}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def rezipped(content: bytes, choose: random.Random) -> bytes:
    """The members of a zip, some left out, doubled, replaced, or packed so that they grow."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(file, "w") as other:
        for name in archive.namelist():
            part = archive.read(name)
            kind = choose.random()
            if kind < 0.05:
                continue
            if kind < 0.1:
                part = choose.choice([b"", b"\0" * 2**24, damaged(part, choose), pickle.dumps([1] * 1000)])
            method = choose.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
            for _ in range(choose.choice([1] * 20 + [2])):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about two members of one name
                    other.writestr(name, part, method if kind > 0.6 else zipfile.ZIP_STORED)
    return file.getvalue()


def loads(path: Path) -> None:
    """A checkpoint's file, as each of its readers takes it."""
    for load in (snnkern.load_actor, snnkern.load, load_policy):
        attempt(lambda load=load: decide(load(path)))


def torch_case(path: Path, choose: random.Random) -> None:
    content = torch_bytes(state(choose), zipped=True)
    if choose.random() < 0.4:
        content = rezipped(content, choose)
    (path / "actor.pt").write_bytes(damaged(content, choose, 0.4))
    loads(path / "actor.pt")


def legacy_case(path: Path, choose: random.Random) -> None:
    content = torch_bytes(state(choose), zipped=False)
    if choose.random() < 0.1:
        content = pickle.dumps(choose.choice(ODD), protocol=choose.choice([2, 4]))
    (path / "actor.pt").write_bytes(damaged(content, choose, 0.5))
    loads(path / "actor.pt")


SB3 = {
    "policy_class": {":type:": "<class 'abc.ABCMeta'>", "__module__": "stable_baselines3.td3.policies"},
    "policy_kwargs": {"net_arch": [7, 6]},
    "use_sde": False,
    "observation_space": {":type:": "<class 'gymnasium.spaces.box.Box'>", "dtype": "float32", "_shape": [5]},
    "action_space": {":type:": "<class 'gymnasium.spaces.box.Box'>", "low": "[-1. -1.]", "high": "[1. 1.]"},
}


def sb3_case(path: Path, choose: random.Random) -> None:
    layers = make_layers(5, 7, 6, 2)
    names = [f"actor.mu.{2 * index}.{part}" for index in range(3) for part in ("weight", "bias")]
    good = dict(zip(names, itertools.chain.from_iterable(layers), strict=True))
    tensors = good if choose.random() < 0.6 else state(choose, choose.choice(["actor.", ""]))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json_case(SB3, choose) if choose.random() < 0.8 else dumped(SB3, choose))
        archive.writestr("_stable_baselines3_version", "2.9.2")
        archive.writestr("policy.pth", torch_bytes(tensors, zipped=choose.random() < 0.5))
    content = rezipped(file.getvalue(), choose) if choose.random() < 0.3 else file.getvalue()
    (path / "model.zip").write_bytes(damaged(content, choose, 0.3))
    loads(path / "model.zip")


def load_zip(path: Path, data: dict[str, Any], tensors: dict[Any, Any], choose: random.Random) -> None:
    """A file of Stable-Baselines3, which may be damaged."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json_case(data, choose) if choose.random() < 0.5 else dumped(data, choose))
        archive.writestr("_stable_baselines3_version", "2.9.2")
        archive.writestr("policy.pth", torch_bytes(tensors, zipped=True))
    (path / "model.zip").write_bytes(damaged(file.getvalue(), choose, 0.2))
    loads(path / "model.zip")


def ppo_case(path: Path, choose: random.Random) -> None:
    """A file of PPO, whose policy has its critic beside it."""
    tensors: dict[Any, Any] = dict(sb3_ppo_state(make_layers(5, 7, 6, 2)))
    for _ in range(choose.choice([0, 0, 1, 2])):
        tensors[choose.choice([*tensors, "mlp_extractor.shared_net.0.weight"])] = odd_tensor(choose.choice(TENSORS))
    data = SB3 | {"policy_class": {"__module__": "stable_baselines3.common.policies"}, "clip_range": None}
    data["policy_kwargs"] = {"activation_fn": "<class 'torch.nn.modules.activation.ELU'>"}
    load_zip(path, data, tensors, choose)


def rsl_case(path: Path, choose: random.Random) -> None:
    """A checkpoint of RSL-RL, with optimizer and counters."""
    statistics = np.zeros(5, np.float32), np.ones(5, np.float32)
    content: dict[Any, Any] = rsl_checkpoint(make_layers(5, 7, 6, 2), choose.choice([1, 3, 4, 5]), statistics)
    for _ in range(choose.choice([0, 0, 1, 2])):
        part = choose.choice([content, *(part for part in content.values() if isinstance(part, dict) and part)])
        key = choose.choice([*part, *KEYS])
        part[key] = odd_tensor(choose.choice(TENSORS)) if choose.random() < 0.8 else choose.choice(ODD)
    written = torch_bytes(content, zipped := choose.random() < 0.7)
    if zipped and choose.random() < 0.3:
        written = rezipped(written, choose)
    (path / "model_1000.pt").write_bytes(damaged(written, choose, 0.3))
    loads(path / "model_1000.pt")


def pixels_case(path: Path, choose: random.Random) -> None:
    """A CnnPolicy's file."""
    shapes = {"cnn.0": (32, 1, 8, 8), "cnn.2": (64, 32, 4, 4), "cnn.4": (64, 64, 3, 3), "linear.0": (4, 64)}
    shapes = {f"features_extractor.{name}": shape for name, shape in shapes.items()}
    tensors: dict[str, Any] = {}
    for name, shape in {**shapes, "mu.0": (3, 4), "mu.2": (2, 3)}.items():
        tensors |= {f"actor.{name}.weight": torch.ones(shape), f"actor.{name}.bias": torch.ones(shape[0])}
    for _ in range(choose.choice([0, 1, 2])):
        tensors[choose.choice(list(tensors))] = odd_tensor(choose.choice(TENSORS))
    data = copy.deepcopy(SB3)
    data["policy_kwargs"]["features_extractor_class"] = "<class 'stable_baselines3.common.torch_layers.NatureCNN'>"
    data["observation_space"] |= {"dtype": "uint8", "_shape": [1, 36, 36]}
    load_zip(path, data, tensors, choose)


def snapshot_case(path: Path, choose: random.Random) -> None:
    """DrQ-v2's file of an agent, some of whose attributes are others."""
    agent = DrQV2Agent(features=3, hidden=4, normalized=choose.random() < 0.5)
    modules = [*agent.encoder.modules(), *agent.actor.modules()]
    for _ in range(choose.choice([0, 0, 1, 1, 2])):
        attributes = vars(choose.choice(modules))
        odd = choose.choice([*ODD, (2, 2), (0, 0), (2**40, 1)])
        attributes[choose.choice(list(attributes))] = choose.choice([odd, odd_tensor(choose.choice(TENSORS))])
    content = torch_bytes({"agent": agent}, zipped := choose.random() < 0.7)
    if zipped and choose.random() < 0.3:
        content = rezipped(content, choose)
    (path / "snapshot.pt").write_bytes(damaged(content, choose, 0.4))
    loads(path / "snapshot.pt")


def framed(header: bytes, data: bytes, choose: random.Random) -> bytes:
    """A safetensors file of a header and its data, sometimes with a lie about the header's length."""
    length = len(header)
    if choose.random() < 0.1:
        length = choose.choice([0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1])
    return struct.pack("<Q", length) + header + data


def header_case(path: Path, choose: random.Random) -> None:
    kind = choose.choice(KINDS)
    header, data = saved(kind, path.parent)
    odd = [*ODD, [7], [5, 7], [10**6, 10**6], [0, 10**18], "F32", "F64", "F16", "BF16", "I64", "BOOL", "C64", "F8_E4M3"]
    content = framed(dumped(mutated(header, choose, odd), choose), data, choose)
    (path / "file").write_bytes(damaged(content, choose, 0.2))
    loads(path / "file")


def description_case(path: Path, choose: random.Random) -> None:
    kind = choose.choice(KINDS)
    header, data = copy.deepcopy(saved(kind, path.parent))
    description = json.loads(header["__metadata__"]["snnkern"])
    text = json_case(description, choose).decode(errors="replace")
    header["__metadata__"]["snnkern"] = text
    (path / "file").write_bytes(framed(json.dumps(header).encode(), data, random.Random(0)))
    loads(path / "file")


def array_case(path: Path, choose: random.Random) -> None:
    file = io.BytesIO()
    np.save(
        file, make_observations(20, 5).astype(choose.choice(["<f4", "<f8", ">f4", "<f2", "<i8", "<c8", "<U3", "V0"]))
    )
    content = file.getvalue()
    shape = choose.choice(
        ["(20, 5)", "(10**12,)", "(1000000000000,)", "(-1, 5)", "(20, 5", "20", "()", "(0, 5)", "(2**70, 5)", "[20, 5]"]
    )
    descr = choose.choice(
        ["'<f4'", "'>f4'", "'|O'", "'<f16'", "'<U0'", "'V0'", "'<f4", "[('a', '<f4')]", "'(3,)f4'", "None", "'m8'"]
    )
    order = choose.choice(["False", "True", "3", "__import__('os')"])
    tail = choose.choice(["}", "", "}}", ", 'x': 1}", "(" * 3000])
    if choose.random() < 0.7:
        header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, {tail}\n".encode()
        major = choose.choice([1, 1, 1, 2, 3, 9])
        length = struct.pack("<H" if major == 1 else "<I", choose.choice([len(header)] * 9 + [2**16 - 1]))
        content = b"\x93NUMPY" + bytes([major, 0]) + length + header + bytes(400)
    (path / "observations.npy").write_bytes(damaged(content, choose, 0.3))
    attempt(lambda: snnkern.calibrate(make_actor(5, 7, 2), read_array(path / "observations.npy")))


class OneChoice(ChoiceFiles):
    """In a file with a plain name."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _path(self, of: str) -> Path:
        return self._file


def choice_case(path: Path, choose: random.Random) -> None:
    (path / "choice.json").write_bytes(json_case({"choice": "64 rows, 4 warps", "of": "a device"}, choose))
    found = OneChoice(path / "choice.json").read("a device")
    assert found is None or type(found) is str
    outcomes.append(found is not None)


def refine_in(store: Path) -> snnkern.SpikingActor:
    recipe = snnkern.Recipe(updates=2, batch=4)
    return snnkern.refine(spiking(), make_observations(20, 5), rounds=1, minutes=1e4, recipe=recipe, store=store)


@functools.cache
def refinement(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a refinement's file."""
    refine_in(folder / "good-store")
    content = (folder / "good-store" / "refinement.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def refinement_case(path: Path, choose: random.Random) -> None:
    header, data = copy.deepcopy(refinement(path.parent))
    if choose.random() < 0.6:
        description = json.loads(header["__metadata__"]["snnkern"])
        header["__metadata__"]["snnkern"] = json_case(description, choose).decode(errors="replace")
    else:
        header = mutated(header, choose, [*ODD, [7], [10**6, 10**6], "F64", "F16", "I64", "BOOL"])
    (path / "store").mkdir()
    content = damaged(framed(dumped(header, choose), data, choose), choose, 0.1)
    (path / "store" / "refinement.safetensors").write_bytes(content)
    attempt(lambda: refine_in(path / "store"))


FORMATS: dict[str, Callable[[Path, random.Random], None]] = {
    "store": store_case,
    "records": records_case,
    "summary": summary_case,
    "grid": grid_case,
    "description": description_case,
    "safetensors": header_case,
    "torch": torch_case,
    "legacy": legacy_case,
    "sb3": sb3_case,
    "ppo": ppo_case,
    "rsl": rsl_case,
    "pixels": pixels_case,
    "snapshot": snapshot_case,
    "npy": array_case,
    "choice": choice_case,
    "refinement": refinement_case,
}


outcomes: list[bool] = []


def attempt(action: Callable[[], Any]) -> None:
    """It works, or says in one line why not."""
    try:
        action()
    except snnkern.Error as error:
        complaint = str(error)
    else:
        complaint = ""
    assert complaint.isprintable()
    outcomes.append(not complaint)


def peak_memory() -> int:
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of sums beyond what a float can hold
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_read_or_refused(name, tmp_path) -> None:
    outcomes.clear()
    ends = time.monotonic() + SECONDS / len(FORMATS)
    before = peak_memory()
    for case in itertools.count():
        if case >= CASES and time.monotonic() > ends:
            break
        folder = tmp_path / f"{case}"
        folder.mkdir()
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        try:
            FORMATS[name](folder, random.Random(f"{name} {case}"))
        except Exception as error:
            raise AssertionError(f"case {case} of {name}, in {folder}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()
    assert peak_memory() - before < MOST_MEMORY
    assert 0 < sum(outcomes) < len(outcomes)
