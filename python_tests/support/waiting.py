"""An environment whose episodes are one step long until results are kept, and never end after that.

So whatever the machine's speed, a sweep is under way when a test interrupts it. Importing this module registers the
environment: "support.waiting:Waiting-v0". Environment variables name the folder of results, WAITING_FOR (without it no
episode waits), and how many are waited for, WAITING_UNTIL (one unless given).
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
        folder, wanted = os.environ.get("WAITING_FOR"), int(os.environ.get("WAITING_UNTIL", "1"))
        if folder and len(list(Path(folder).glob("*.json"))) >= wanted:
            threading.Event().wait()  # until the process is killed
        return self.np_random.normal(size=11), 1.0, True, False, {}


gymnasium.register("Waiting-v0", entry_point=Waiting)
