"""A copy of the sources in which one mutant after the other is built and tested."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What came of a mutant, or of tests without one.

    Attributes:
        what: "killed", "survived", "skipped" (its tests are), or "broken", where it says nothing: it does not build, or
            its tests do not run.
        why: the test that failed, or what is wrong.
        seconds: that it took.
    """

    what: str
    why: str
    seconds: float


class Tree:
    """The copy. It is never the tree that one works in, so an interrupted run leaves nothing behind.

    Args:
        folder: that it is made in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._build, self._host = folder / "build" / "cpu", folder / "build" / "cuda_on_host"
        self._pristine = folder / "build" / "pristine"
        self._running: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()

    def prepare(self) -> None:
        """Copies what git tracks, and new files; builds the CPU's module and the host's for CUDA.

        Raises:
            RuntimeError: it does not build.
        """
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():  # one that is removed is still listed
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        import pybind11

        configured = self._run(
            [
                "cmake",
                "-S.",
                f"-B{self._build}",
                "-DCMAKE_BUILD_TYPE=Release",
                "-DCMAKE_CXX_FLAGS_RELEASE=-O1",  # builds in two thirds of the time
                # The build and its tests take half of the time, and the score is the same on every machine.
                "-DSNNKERN_BASELINE_ONLY=ON",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={self.folder / 'snnkern'}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                "-DSNNKERN_CUDA=OFF",
            ]
        )
        built = configured if configured.returncode else self._build_cpu()
        built = built if built.returncode else self._build_host(self._host)
        if built.returncode:
            raise RuntimeError(f"the sources do not build as they are:\n{built.stdout[-2000:]}")
        shutil.copytree(self.folder / "snnkern", self._pristine, ignore=shutil.ignore_patterns("*.py", "zoo"))

    def try_mutant(self, mutant: Mutant, seconds: float) -> Outcome:
        """Builds what the mutant changes and runs its tests, which may take so many seconds."""
        began = time.monotonic()
        file = self.folder / mutant.file
        original, when = file.read_text(), file.stat()
        if original.count(mutant.text) != 1:
            found = original.count(mutant.text)
            return Outcome("broken", f"its text occurs {found} times in {mutant.file}, and not once", 0.0)
        host = self._host
        try:
            file.write_text(original.replace(mutant.text, mutant.replacement))
            native = mutant.file.startswith("csrc/")
            if native and not mutant.file.startswith("csrc/cuda/"):
                built = self._build_cpu()
                if built.returncode:
                    return Outcome("broken", f"it does not compile: {built.stdout[-800:]}", time.monotonic() - began)
            if native and "test_cuda" in mutant.tests:
                host = self.folder / "build" / mutant.name
                shutil.copytree(self._host, host, ignore=shutil.ignore_patterns("*.so"))
                built = self._build_host(host)
                if built.returncode:
                    return Outcome("broken", f"it does not compile: {built.stdout[-800:]}", time.monotonic() - began)
            outcome = self.test(mutant.tests, seconds, host)
            return Outcome(outcome.what, outcome.why, time.monotonic() - began)
        finally:
            file.write_text(original)
            if mutant.file.startswith("csrc/cuda/"):  # no build but the host's, whose own objects are not the mutant's
                os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))
            for module in self._pristine.glob("*.so"):
                shutil.copy(module, self.folder / "snnkern")
            if host != self._host:
                shutil.rmtree(host, ignore_errors=True)

    def test(self, tests: str, seconds: float, host: Path | None = None) -> Outcome:
        """Runs tests on the copy as it stands, until one fails."""
        began = time.monotonic()
        pytest = (
            f"{sys.executable} -m pytest --all-cases -x -q -n0 -p no:randomly -p no:cacheprovider --tb=line {tests}"
        )
        done = self._run(["bash", "-c", pytest], seconds, SNNKERN_CUDA_ON_HOST=str(host or self._host))
        what, why = judge(done.returncode, done.stdout)
        return Outcome(what, why, time.monotonic() - began)

    def stop(self) -> None:
        """Ends what is running, and lets nothing start."""
        self._stopped.set()
        if (running := self._running) is not None and running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)

    def _build_cpu(self) -> subprocess.CompletedProcess[str]:
        return self._run(["cmake", "--build", str(self._build), "--parallel", "1"])

    def _build_host(self, folder: Path) -> subprocess.CompletedProcess[str]:
        program = "import sys, pathlib; from support import cuda_on_host; cuda_on_host.build(pathlib.Path(sys.argv[1]))"
        return self._run([sys.executable, "-c", program, str(folder)])

    def _run(
        self, command: list[str], seconds: float | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A command in the copy; what it says on both streams. TIMED_OUT, where it takes longer than it may."""
        if self._stopped.is_set():
            raise InterruptedError
        path = os.pathsep.join([str(self.folder), str(self.folder / "python_tests")])
        self._running = subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that what it starts ends with it
        )
        try:
            said, _ = self._running.communicate(timeout=seconds)
            code = self._running.returncode
        except subprocess.TimeoutExpired:
            os.killpg(self._running.pid, signal.SIGKILL)
            said, _ = self._running.communicate()
            code = TIMED_OUT
        if self._stopped.is_set():
            raise InterruptedError
        return subprocess.CompletedProcess(command, code, said)


TIMED_OUT = 1000  # no process ends with that


def judge(code: int, said: str) -> tuple[str, str]:
    """What pytest's exit code and output say: `Outcome.what` and `Outcome.why`."""
    lines = said.strip().splitlines() or [""]
    if code == TIMED_OUT:
        return "killed", "it takes too long"
    if code < 0 or code > 128:  # as bash says it
        return "killed", f"it crashes with {signal.Signals(-code if code < 0 else code - 128).name}"
    if code == 1:
        return "killed", next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])
    if code == 0 and " passed" in lines[-1]:
        return "survived", lines[-1]
    if code in (0, 5):
        return "skipped", next((line for line in lines if line.startswith("SKIPPED")), "no test is selected")
    return "broken", said[-800:]
