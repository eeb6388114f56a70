"""What models of Stable-Baselines3 and SBX are made for in tests, and how they become files."""

import gymnasium as gym
import numpy as np

LOW, HIGH = np.array([-1.0, 0.1], np.float32), np.array([0.3, 4.0], np.float32)


class Space(gym.Env):
    """An environment that has spaces and otherwise does nothing; its episodes are as long as its seed says."""

    observation_space = gym.spaces.Box(-10, 10, (5,), np.float32)
    action_space = gym.spaces.Box(LOW, HIGH)

    def __init__(self, length: int = 7) -> None:
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.step_number += 1
        return self.observation_space.sample(), 1.0, False, self.step_number == self.length, {}


def saved(model, tmp_path):
    path = tmp_path / "model.zip"
    model.save(path)
    return path
