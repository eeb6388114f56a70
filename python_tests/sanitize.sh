#!/usr/bin/env bash
# Builds the native code with sanitizers into a copy of the package and runs the tests of kernels and engine on it; those
# of the CUDA kernels too, on the host.
#     python_tests/sanitize.sh PYTHON address,undefined|thread
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1") sanitizers=$2
cd "$(dirname "$0")/.."
tree=$PWD/build/sanitize-${sanitizers%%,*}
mkdir -p "$tree"
rm -rf "$tree/snnkern"
cp -r snnkern "$tree/"
rm -f "$tree"/snnkern/_cpu*
cmake -S . -B "$tree/cmake" -DSNNKERN_SANITIZE="$sanitizers" -DSNNKERN_CUDA=OFF -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$tree/snnkern" \
    -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())')" >/dev/null
cmake --build "$tree/cmake" --parallel
case $sanitizers in
    # Instrumented by GCC 12's TSan, the AVX-512 build gives other results than at any optimisation level without it:
    # that build is left to the other sanitizers.
    thread*)
        runtime=$(gcc -print-file-name=libtsan.so)
        export SNNKERN_ISA=avx2
        tests=(python_tests/test_engine.py -k "thread and not avx512")
        ;;
    *)
        runtime=$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libstdc++.so)
        tests=(python_tests/test_kernels.py python_tests/test_engine.py python_tests/test_cuda_*.py -k "not gpu and not compiled")
        # The CUDA kernels, which the tests build for the host.
        export SNNKERN_HOST_FLAGS="-fsanitize=$sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
        ;;
esac
# Python and torch are not instrumented: leaks at their exit and their own races are not ours to report. TSan needs
# addresses that are not randomised.
export PYTHONPATH=$tree LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1
export TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1"
setarch -R "$python" -P -c "import snnkern; assert snnkern.__file__.startswith('$tree'), snnkern.__file__"
setarch -R "$python" -P -m pytest -q -p no:cacheprovider "${tests[@]}"
