"""What tests, benchmarks and mutants share; no file here has tests of its own."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
