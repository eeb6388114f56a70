"""Training: what gradients add to a conversion. `convert` does without."""
