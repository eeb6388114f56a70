"""Training-free conversion of continuous-control policies to spiking networks, run by fused kernels.

actor = snnkern.load_actor("td3-halfcheetah")
observations = snnkern.collect(actor, "HalfCheetah-v5")
snn = snnkern.convert(actor, observations, neuron="mt", timesteps=4)
action = snn.act(observation)

`import snnkern` loads nothing else: a name is looked up when it is first used.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from snnkern.former import Finder

if TYPE_CHECKING:
    from snnkern.analysis.amplification import analyze
    from snnkern.control.collect import collect
    from snnkern.control.evaluation import Evaluation, evaluate
    from snnkern.conversion.convert import convert
    from snnkern.conversion.rules import Auto, Fitted, Max, Percentile, calibrate
    from snnkern.conversion.spikify import SpikingNetwork, spikify
    from snnkern.errors import (
        CheckpointError,
        Error,
        InputError,
        InputWarning,
        InUseError,
        MissingDependencyError,
        SlowBackendWarning,
    )
    from snnkern.interop import nir
    from snnkern.interop.nir import to_nir
    from snnkern.interop.sb3 import SB3Policy, from_sb3
    from snnkern.interop.spikingjelly import from_spikingjelly
    from snnkern.kernels import nn, ops, reference
    from snnkern.kernels.backends.choice import BackendStatus, backends
    from snnkern.kernels.neurons import DC, IF, LIF, MT, SNM, Dynamics, Neuron
    from snnkern.kernels.nn import SpikingActivation
    from snnkern.policies import zoo
    from snnkern.policies.actor import Actor, Interface
    from snnkern.policies.loading import load_actor
    from snnkern.policies.readers.torch_rl import actor_from_module, actor_from_state_dict
    from snnkern.policies.spiking import SpikingActor
    from snnkern.policies.storage import load, save
    from snnkern.studies.settings import grid
    from snnkern.studies.study import sweep
    from snnkern.training.recipe import Recipe
    from snnkern.training.refine import refine
    from snnkern.version import __version__ as __version__

# What type checkers read above, for `__getattr__`: a module, and the public names that are looked up in it.
_HOMES = {
    "analysis.amplification": "analyze",
    "control.collect": "collect",
    "control.evaluation": "Evaluation evaluate",
    "conversion.convert": "convert",
    "conversion.rules": "Auto Fitted Max Percentile calibrate",
    "conversion.spikify": "SpikingNetwork spikify",
    "errors": ("CheckpointError Error InputError InputWarning InUseError MissingDependencyError SlowBackendWarning"),
    "interop.nir": "to_nir",
    "interop.sb3": "SB3Policy from_sb3",
    "interop.spikingjelly": "from_spikingjelly",
    "kernels.backends.choice": "BackendStatus backends",
    "kernels.neurons": "DC IF LIF MT SNM Dynamics Neuron",
    "kernels.nn": "SpikingActivation",
    "policies.actor": "Actor Interface",
    "policies.loading": "load_actor",
    "policies.readers.torch_rl": "actor_from_module actor_from_state_dict",
    "policies.spiking": "SpikingActor",
    "policies.storage": "load save",
    "studies.settings": "grid",
    "studies.study": "sweep",
    "training.recipe": "Recipe",
    "training.refine": "refine",
    "version": "__version__",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "DC",
    "IF",
    "LIF",
    "MT",
    "SNM",
    "Actor",
    "Auto",
    "BackendStatus",
    "CheckpointError",
    "Dynamics",
    "Error",
    "Evaluation",
    "Fitted",
    "InUseError",
    "InputError",
    "InputWarning",
    "Interface",
    "Max",
    "MissingDependencyError",
    "Neuron",
    "Percentile",
    "Recipe",
    "SB3Policy",
    "SlowBackendWarning",
    "SpikingActivation",
    "SpikingActor",
    "SpikingNetwork",
    "actor_from_module",
    "actor_from_state_dict",
    "analyze",
    "backends",
    "calibrate",
    "collect",
    "convert",
    "evaluate",
    "from_sb3",
    "from_spikingjelly",
    "grid",
    "load",
    "load_actor",
    "nir",
    "nn",
    "ops",
    "reference",
    "refine",
    "save",
    "spikify",
    "sweep",
    "to_nir",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """A public name, or a module: of a floor, or by the name that it had before there were floors."""
    if home := _HOME_OF.get(name):
        value = getattr(importlib.import_module(f"snnkern.{home}"), name)
    elif importlib.util.find_spec(f"snnkern.{name}") is not None:
        value = importlib.import_module(f"snnkern.{name}")
    else:
        raise AttributeError(f"module 'snnkern' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.meta_path.insert(0, Finder())
