"""Mutants of the kernels: faults that are put into a copy of the sources one at a time, to see that a test finds each.

`make mutants` runs them all; `__main__.py` is that command. Lists stand in a file per backend.
"""

from mutants import cpu, cuda, triton
from mutants.mutant import Mutant

MUTANTS: list[Mutant] = [*cpu.MUTANTS, *cuda.MUTANTS, *triton.MUTANTS]
