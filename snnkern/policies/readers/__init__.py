"""Readers of checkpoints, a file for each family."""
