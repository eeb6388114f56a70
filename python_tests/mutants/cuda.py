"""Mutants of the CUDA kernels and of what launches them."""

from mutants.mutant import Mutant

MUTANTS: list[Mutant] = []
