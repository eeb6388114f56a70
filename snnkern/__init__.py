"""Training-free conversion of continuous-control policies to spiking networks, run by fused kernels.

actor = snnkern.load_actor("td3-halfcheetah")
observations = snnkern.collect(actor, "HalfCheetah-v5")
snn = snnkern.convert(actor, observations, neuron="mt", timesteps=4)
action = snn.act(observation)
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("snnkern")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

from snnkern import nir, nn, ops, reference, zoo
from snnkern._backends.choice import BackendStatus, backends
from snnkern.actors import Actor, Interface
from snnkern.analysis import analyze
from snnkern.calibration import Auto, Fitted, Max, Percentile, calibrate, collect
from snnkern.checkpoints import actor_from_module, actor_from_state_dict, load_actor
from snnkern.conversion import convert, load, save
from snnkern.errors import (
    CheckpointError,
    Error,
    InputError,
    InputWarning,
    InUseError,
    MissingDependencyError,
    SlowBackendWarning,
)
from snnkern.evaluation import Evaluation, evaluate
from snnkern.feedforward import SpikingNetwork, spikify
from snnkern.neurons import DC, IF, LIF, MT, SNM, Dynamics, Neuron
from snnkern.nir import to_nir
from snnkern.nn import SpikingActivation, SpikingActor
from snnkern.sb3 import SB3Policy, from_sb3
from snnkern.settings import grid
from snnkern.spikingjelly import from_spikingjelly
from snnkern.study import sweep

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
    "save",
    "spikify",
    "sweep",
    "to_nir",
    "zoo",
]
