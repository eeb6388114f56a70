#!/usr/bin/env bash
# Builds the native code with sanitizers into a copy of the package and runs the tests of kernels and engine on it, those
# with hostile arrays and modules through the Python layer too, and those of the CUDA kernels on the host.
#     python_tests/sanitize.sh PYTHON address,undefined|thread
# Needs GCC with its sanitizers' runtimes (CXX names another compiler that has them).
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1") sanitizers=$2
root=$(cd "$(dirname "$0")/.." && pwd)
tree=$root/build/sanitize-${sanitizers%%,*}

fail() {
    echo "sanitize ($sanitizers): $*" >&2
    exit 1
}

compiler=$(command -v "${CXX:-g++}") || fail "there is no ${CXX:-g++}"
options=()
case $sanitizers in
    address,undefined)
        libraries=(libasan.so libubsan.so libstdc++.so)
        bugs=(overflow:heap-buffer-overflow shift:'shift exponent')
        # The CUDA kernels, which the tests build for the host.
        export SNNKERN_CUDA_ON_HOST=$tree/cuda_on_host
        export SNNKERN_HOST_FLAGS="-fsanitize=$sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
        tests=(test_kernels.py test_gradients.py test_engine.py test_staged_engine.py test_engine_fuzz.py test_staged_fuzz.py test_endurance.py test_hostile_arrays.py test_cuda_on_host.py
            test_cuda_neurons.py test_cuda_actor.py test_cuda_calls.py -k "not many_decisions and not gpu and not compiles_into and not opcheck")
        ;;
    thread)
        # Instrumented by GCC 12's TSan, the AVX-512 build gives other results than at any optimisation level without
        # it. Threads are the same for all builds.
        options=(-DSNNKERN_BASELINE_ONLY=ON)
        export SNNKERN_FUZZ_SECONDS=5
        libraries=(libtsan.so libstdc++.so)
        bugs=(race:'data race')
        tests=(test_engine.py test_staged_engine.py test_engine_fuzz.py test_staged_fuzz.py test_endurance.py -k 'thread or random_actors')
        ;;
    *) fail "expected address,undefined or thread" ;;
esac
# Python does not link the runtime, so it is loaded before all else; the C++ library too, which the runtime looks into.
preload=
for library in "${libraries[@]}"; do
    path=$("$compiler" -print-file-name="$library")
    [ -e "$path" ] || fail "$compiler has no $library: install its sanitizers (libasan, libubsan, libtsan)"
    preload+=${preload:+:}$path
done

mkdir -p "$tree"
rm -rf "$tree/snnkern"
cp -r "$root/snnkern" "$tree/"
rm -f "$tree"/snnkern/_cpu*
cmake -S "$root" -B "$tree/cmake" -DCMAKE_CXX_COMPILER="$compiler" -DSNNKERN_SANITIZE="$sanitizers" \
    -DSNNKERN_CUDA=OFF "${options[@]}" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$tree/snnkern" -DPython_EXECUTABLE="$python" \
    -Dpybind11_DIR="$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())')" >/dev/null
cmake --build "$tree/cmake" --parallel
"$compiler" -shared -fPIC -pthread -g -O1 -fsanitize="$sanitizers" -fno-sanitize-recover=all \
    "$root/python_tests/sanitize_bugs.cpp" -o "$tree/bugs.so"

# The runtimes put their own memory at fixed addresses. Where the kernel may put others there, it is asked not to;
# containers often refuse to ask.
still=(setarch "$(uname -m)" -R)
"${still[@]}" true 2>/dev/null || still=()
# Python and torch are not instrumented: leaks at their exit and their own races are not ours to report.
run() {
    (
        cd "$tree"
        "${still[@]}" env LD_PRELOAD="$preload" PYTHONPATH="$tree" OMP_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0 \
            TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" "$python" "$@"
    )
}
for _ in {1..10}; do
    said=$(run -c pass 2>&1) && continue
    [ ${#still[@]} -eq 0 ] || fail "the runtime does not start: $said"
    echo "sanitize ($sanitizers): NOT CHECKED. Addresses are random here (vm.mmap_rnd_bits =" \
        "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo unknown)), setarch -R is refused, and so the runtime" \
        "does not always start: $said"
    exit 0
done

# A sanitizer that misses these would miss all.
for bug in "${bugs[@]}"; do
    said=$(run -c "import ctypes; ctypes.CDLL('$tree/bugs.so').${bug%%:*}()" 2>&1) && fail "${bug%%:*} went unnoticed"
    [[ $said == *"${bug#*:}"* ]] || fail "${bug%%:*} was to be reported as ${bug#*:}, got: $said"
done
run -c "import snnkern._cpu as cpu; assert cpu.__file__.startswith('$tree'), cpu.__file__"
# A report ends the process, and with it what pytest has captured: it must not capture what native code writes.
run -m pytest -q -n 2 --capture=sys -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" \
    "${tests[@]/#test_/$root/python_tests/kernels/test_}"
