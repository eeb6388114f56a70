"""The names that modules had before there were floors: programs that import them go on working."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importing importlib.abc takes as long as all else that `import snnkern` does

# Modules that are packages now, and where their definitions are.
PACKAGES = {
    "analysis": ("analysis.amplification",),
    "conversion": ("policies.storage", "conversion.convert", "policies.loading", "policies.spiking"),
    "report": ("report.performance_figures", "report.latency_figures", "report.columns", "analysis.latency_summary"),
}
# The others.
MODULES = {
    "actors": ("policies.actor",),
    "benchmark": ("analysis.latency",),
    "calibration": ("conversion.rules", "control.collect", "conversion.activations"),
    "capture": ("policies.capture",),
    "checkpoints": ("policies.readers.torch_rl", "policies.loading", "policies.storage"),
    "energy": ("analysis.energy",),
    "environments": ("control.environments",),
    "evaluation": ("control.evaluation",),
    "executors": ("studies.executors",),
    "feedforward": ("conversion.spikify",),
    "figures": ("report.style",),
    "fitting": ("conversion.fitting",),
    "grids": ("studies.grids",),
    "layers": ("policies.stateless", "kernels.nn"),
    "neurons": ("kernels.neurons",),
    "nir": ("interop.nir",),
    "nn": ("policies.spiking", "kernels.nn"),
    "ops": ("kernels.ops",),
    "ray_executor": ("contrib.ray",),
    "reference": ("kernels.reference",),
    "results": ("studies.results",),
    "rollout": ("control.rollout",),
    "sb3": ("interop.sb3",),
    "sensitivity": ("conversion.sensitivity",),
    "spikingjelly": ("interop.spikingjelly",),
    "statistics": ("analysis.statistics",),
    "store": ("studies.store",),
    "study": ("studies.study",),
    "trajectories": ("control.follow",),
    "zoo": ("policies.zoo",),
}


class Finder(Loader):
    """Finds modules by their former names.

    It is asked first: of a folder that has gone, Python's own cache may be left, and would be taken for a package.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "snnkern" and name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Has the import system make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        for home in reversed(MODULES[module.__name__.partition(".")[2]]):
            found = vars(importlib.import_module(f"snnkern.{home}"))
            vars(module).update((name, value) for name, value in found.items() if not name.startswith("__"))


def attributes(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that was a module before: it looks where the module's definitions are now."""

    def look_up(name: str) -> Any:
        if not name.startswith("__") and importlib.util.find_spec(f"{package}.{name}") is None:
            for home in PACKAGES[package.partition(".")[2]]:
                found = vars(importlib.import_module(f"snnkern.{home}"))
                if name in found:
                    return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up
