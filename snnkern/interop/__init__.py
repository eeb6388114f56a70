"""Other libraries: Stable-Baselines3, SpikingJelly, NIR."""
