"""`make mutants`: its list is up to date, and it says of a mutant what its tests say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from mutants import MUTANTS, Mutant
from mutants.__main__ import choose, main, run, score
from mutants.tree import TIMED_OUT, Outcome, judge
from support import ROOT


def test_names_are_unique_and_may_be_typed() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z0-9-]+", name)] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_replaces_occurs_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.text) == 1
    assert mutant.replacement != mutant.text


def test_the_tests_of_mutants_are_there() -> None:
    words = {word for mutant in MUTANTS for word in shlex.split(mutant.tests) if word.startswith("python_tests/")}
    assert [word for word in words if not (ROOT / word.partition("::")[0]).is_file()] == []
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider"]
    named = sorted(word for word in words if "::" in word)
    done = subprocess.run([*collect, *named], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "said", "outcome"),
    [
        (0, "....\n4 passed in 1.0s", ("survived", "4 passed in 1.0s")),
        (1, "..F\nFAILED test_x.py::test_y\n1 failed, 2 passed in 1.0s", ("killed", "FAILED test_x.py::test_y")),
        (-11, "Fatal Python error", ("killed", "it crashes with SIGSEGV")),
        (134, "Aborted", ("killed", "it crashes with SIGABRT")),
        (TIMED_OUT, "..", ("killed", "it takes too long")),
        (0, "SKIPPED [4] test_x.py:3: no nvcc\n4 skipped in 1.0s", ("skipped", "SKIPPED [4] test_x.py:3: no nvcc")),
        (5, "no tests ran in 1.0s", ("skipped", "no test is selected")),
        (2, "ERROR test_x.py - ImportError", ("broken", "ERROR test_x.py - ImportError")),
    ],
)
def test_an_outcome_follows_from_what_pytest_says(code, said, outcome) -> None:
    assert judge(code, said) == outcome


def test_patterns_choose_mutants_and_an_unknown_name_is_refused(capsys) -> None:
    assert {mutant.file for mutant in choose(["linear-*"])} == {"csrc/cpu/linear_kernel.cpp"}
    assert choose([]) == MUTANTS
    with pytest.raises(SystemExit):
        main(["--only", "no-such"])
    assert "no mutant is named 'no-such'; there are if-fires-at-the-threshold, " in capsys.readouterr().err


class FakeTrees:
    """Trees whose tests say what is given for each, without a mutant and for a mutant's name."""

    def __init__(self, outcomes: dict[str, str]) -> None:
        self.outcomes = outcomes

    def prepare(self) -> None:
        pass

    def test(self, tests: str, seconds: float) -> Outcome:
        return Outcome(self.outcomes[tests], "", 1.0)

    def try_mutant(self, mutant: Mutant, seconds: float) -> Outcome:
        return Outcome(self.outcomes[mutant.name], "", 2.0)

    def each(self, tasks):
        return ((name, task(self)) for name, task in tasks.items())


def mutants_of(**tests: str) -> list[Mutant]:
    return [Mutant(name, "file", "text", "replacement", test) for name, test in tests.items()]


def test_the_score_counts_what_was_tried_and_names_the_rest() -> None:
    trees = FakeTrees({"pass": "survived", "skip": "skipped", "a": "killed", "b": "survived", "c": "broken"})
    outcomes = {
        mutant.name: outcome for mutant, outcome in run(mutants_of(a="pass", b="pass", c="pass", d="skip"), trees)
    }
    assert score(outcomes).splitlines() == [
        "1 of 2 mutants were killed",
        "broken: c",
        "skipped: d",
        "survived: b",
    ]


def test_tests_that_fail_without_a_mutant_end_the_run() -> None:
    with pytest.raises(RuntimeError, match="without any mutant: fail"):
        list(run(mutants_of(a="fail"), FakeTrees({"fail": "killed"})))


@pytest.mark.long
def test_a_mutant_is_built_and_killed(capsys) -> None:
    assert main(["--only", "linear-has-no-bias"]) == 0
    assert "1 of 1 mutants were killed" in capsys.readouterr().out
