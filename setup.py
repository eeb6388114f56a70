"""Builds the native modules with CMake; everything else about the package is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt, with the modules put where setuptools wants them."""

    def run(self) -> None:
        for ext in self.extensions:  # what an earlier build left would hide that this one fails
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.unlink(missing_ok=True)
        build = Path(self.build_temp).resolve() / ext.name
        shutil.rmtree(build, ignore_errors=True)  # CMake refuses the cache of another generator or another folder
        build.mkdir(parents=True)
        try:
            self.run_cmake(target.parent, build, ext.name.rpartition(".")[2])
        except (OSError, subprocess.CalledProcessError, ImportError) as error:
            # An optional extension that fails to build is left out: the package then works on its reference backend.
            raise CompileError(f"the kernels of {ext.name} were not built: {error}") from error

    def run_cmake(self, output: Path, build: Path, module: str) -> None:
        import pybind11

        configure = [
            "cmake",
            f"-S{ROOT}",
            f"-B{build}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DSNNKERN_CUDA={'ON' if module == '_cuda' else 'OFF'}",
        ]
        if shutil.which("ninja"):
            configure.append("-GNinja")
        subprocess.run(configure, check=True)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        subprocess.run(["cmake", "--build", str(build), "--parallel", jobs, "--target", module], check=True)


def modules() -> list[Extension]:
    """The kernels for the CPU, and those for CUDA where there is nvcc and SNNKERN_CUDA=0 does not turn them off."""
    names = ["snnkern._cpu"]
    if os.environ.get("SNNKERN_CUDA") != "0" and (os.environ.get("CUDACXX") or shutil.which("nvcc")):
        names.append("snnkern._cuda")
    return [Extension(name, sources=[], optional=True) for name in names]


setup(
    ext_modules=modules(),
    cmdclass={"build_ext": CMakeBuild},
)
