"""Mutants of `csrc/neuron.h` and of the CPU's kernels and engine."""

from mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        name="if-fires-at-the-threshold",
        file="csrc/neuron.h",
        text="const auto fires = X::greater(potential, limit);",
        replacement="const auto fires = X::at_least(potential, limit);",
        tests="python_tests/test_kernels.py",
    ),
]
