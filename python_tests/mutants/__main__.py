"""Puts each mutant into a copy of the sources, runs its tests, and says which were killed.

`make mutants`, or in python_tests `python -m mutants [--only NAME]... [--jobs N]`. Ends with 0 where all were killed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path
from queue import SimpleQueue

from mutants import MUTANTS, Mutant
from mutants.tree import Outcome, Tree

LONGEST = 1800.0  # seconds that tests may take where there is no mutant


def choose(names: Sequence[str]) -> list[Mutant]:
    """The mutants of these names, which may be patterns; all, where there are no names.

    Raises:
        ValueError: a name fits none.
    """
    for name in names:
        if not any(fnmatch(mutant.name, name) for mutant in MUTANTS):
            raise ValueError(f"no mutant is named {name!r}; there are {', '.join(one.name for one in MUTANTS)}")
    return [mutant for mutant in MUTANTS if not names or any(fnmatch(mutant.name, name) for name in names)]


class Trees:
    """Copies of the sources that work is shared among.

    Args:
        folder: where they are made.
        jobs: how many.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self._all = [Tree(folder / str(number)) for number in range(jobs)]
        self._free: SimpleQueue[Tree] = SimpleQueue()
        self._pool = ThreadPoolExecutor(jobs)

    def prepare(self) -> None:
        list(self._pool.map(Tree.prepare, self._all))
        for tree in self._all:
            self._free.put(tree)

    def each(self, tasks: dict[str, Callable[[Tree], Outcome]]) -> Iterator[tuple[str, Outcome]]:
        """What came of each task, as it comes."""

        def work(task: Callable[[Tree], Outcome]) -> Outcome:
            tree = self._free.get()
            try:
                return task(tree)
            finally:
                self._free.put(tree)

        futures = {self._pool.submit(work, task): name for name, task in tasks.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def stop(self) -> None:
        for tree in self._all:
            tree.stop()
        self._pool.shutdown(cancel_futures=True)


def run(mutants: Sequence[Mutant], trees: Trees) -> Iterator[tuple[Mutant, Outcome]]:
    """What came of each mutant, as it comes.

    Raises:
        RuntimeError: the sources do not build, or tests fail, without any mutant.
    """
    trees.prepare()
    tests = {mutant.tests for mutant in mutants}
    seconds, skipped = {}, {}
    for name, outcome in trees.each({name: lambda tree, name=name: tree.test(name, LONGEST) for name in tests}):
        if outcome.what == "skipped":
            skipped[name] = outcome
        elif outcome.what == "survived":
            seconds[name] = 60 + 10 * outcome.seconds
        else:
            raise RuntimeError(f"without any mutant: {name}: {outcome.why}")
        print(f"    {outcome.seconds:4.0f} s without a mutant: {name}", flush=True)
    yield from ((mutant, skipped[mutant.tests]) for mutant in mutants if mutant.tests in skipped)
    tried = {mutant.name: mutant for mutant in mutants if mutant.tests in seconds}
    tasks = {name: lambda tree, one=one: tree.try_mutant(one, seconds[one.tests]) for name, one in tried.items()}
    yield from ((tried[name], outcome) for name, outcome in trees.each(tasks))


def main(arguments: Sequence[str] | None = None) -> int:
    """1 where a mutant survived or says nothing, 130 where Ctrl-C ended it, else 0."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="or 'cuda-*'; repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at a time, each in a copy")
    options = parser.parse_args(arguments)
    try:
        mutants = choose(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    outcomes: dict[str, Outcome] = {}
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = Trees(Path(folder), options.jobs)
        print(f"{len(mutants)} mutants; building copies of the sources in {folder}", flush=True)
        try:
            for mutant, outcome in run(mutants, trees):
                outcomes[mutant.name] = outcome
                place = f"[{len(outcomes)}/{len(mutants)}]"
                print(f"{place} {outcome.what} {mutant.name} ({outcome.seconds:.0f} s): {outcome.why}", flush=True)
        except KeyboardInterrupt:
            interrupted = True
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            trees.stop()
    print(score(outcomes))
    bad = any(outcome.what in ("survived", "broken") for outcome in outcomes.values())
    return 130 if interrupted else int(bad)


def score(outcomes: dict[str, Outcome]) -> str:
    """How many were killed, and the names of all others."""
    count = Counter(outcome.what for outcome in outcomes.values())
    tried = count["killed"] + count["survived"]
    lines = [f"{count['killed']} of {tried} mutants were killed" if tried else "no mutant was tried"]
    for what in sorted(count.keys() - {"killed"}):
        names = ", ".join(name for name, outcome in outcomes.items() if outcome.what == what)
        lines += [f"{what}: {names}"]
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind either
    sys.exit(main())
