"""An environment for Hopper's actors whose episodes are one step long until a result is kept, and never end after that.

Gymnasium registers it where this module is imported: "waiting:Waiting-v0". The folder of results is named by the
environment variable WAITING_FOR.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


class Waiting(gymnasium.Env[Any, Any]):
    """Observations and actions are as wide as Hopper's."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.normal(size=11), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if any(Path(os.environ["WAITING_FOR"]).glob("*.json")):
            threading.Event().wait()  # until the process is killed
        return self.np_random.normal(size=11), 1.0, True, False, {}


gymnasium.register("Waiting-v0", entry_point=Waiting)
