#!/usr/bin/env bash
# Everything that only a GPU can show, in a command or two, on a bare machine with a Hopper GPU and no network: builds, tests,
# measures, and leaves its files in $OUT (at most 8).
#     bash bench/on_a_gpu.sh prepare .gpu  # before, where there is a network: this file and what the machine lacks, in a folder
#     bash .gpu/on_a_gpu.sh main           # build, tests, benchmark: at most 540 s
#     bash .gpu/on_a_gpu.sh tests          # the first half alone: build, tests, a short benchmark: 300 s, at most 480
#     bash .gpu/on_a_gpu.sh bench SECONDS  # the second half alone
#     bash .gpu/on_a_gpu.sh extra          # sanitizer, large sizes: at most 250 s, on the same machine
# The folder stands below the repository's root and is not tracked. Nothing is installed there: torch (2.11+cu130 was seen),
# triton (3.6), numpy, pytest with xdist, pybind11, cmake, ninja, nvcc 13, hypothesis and safetensors are expected; msgspec and
# spikingjelly (with loguru) come along. There is no gymnasium or mujoco, which `pytest -m gpu` does without.
# Optional, in the folder: prebuilt/_cpu*.so and prebuilt/_cuda*.so for that Python and GPU, then nothing is built; and the
# triton-cache.txz that an earlier run left in $OUT, then what the benchmark times of Triton's is not compiled again.
set -u -o pipefail
set -- "${1:-main}" "${@:2}"
SELF=$(readlink -f "$0") HERE=$(dirname "$(readlink -f "$0")")
if [ "$1" = prepare ]; then
    folder=${2:?which folder} && mkdir -p "$folder/wheels" && cp "$SELF" "$folder/on_a_gpu.sh"
    for version in 3.10 3.11 3.12 3.13; do
        python3 -m pip download --quiet --no-deps --only-binary :all: --python-version "$version" \
            --platform manylinux2014_x86_64 --dest "$folder/wheels" msgspec || exit 1
    done
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/wheels" spikingjelly loguru
    exit
fi
cd "$HERE/.." 2>/dev/null; [ -f setup.py ] || cd "${REPO:-$PWD}"
[ -f setup.py ] || { echo "run from the repository"; exit 2; }
OUT=${OUT:-/tmp/gpu-out}; mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TRITON_CACHE_DIR=/tmp/triton-cache PYTHONPATH=$PWD
TIMED=/tmp/triton-timed # the cache of what the benchmark times
unset TRITON_INTERPRET
tag=$(python3 -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
[ -d /tmp/wheels ] || for wheel in "$HERE"/wheels/*-"$tag"-"$tag"-*.whl "$HERE"/wheels/*-none-any.whl; do
    [ -e "$wheel" ] && python3 -m zipfile -e "$wheel" /tmp/wheels # what such a machine has not
done
export PYTHONPATH=$PYTHONPATH:/tmp/wheels
BEGAN=$SECONDS
SUMMARY=$OUT/summary.txt; [ "$1" = main ] && : >"$SUMMARY"
say() { echo "[$((SECONDS - BEGAN)) s] $*" | tee -a "$SUMMARY"; }
part() { # name seconds command...: never stops the script; its log comes back, cut to 2 MB
    local name=$1 most=$2 start=$SECONDS rc; shift 2
    timeout --signal=INT --kill-after=10 "$most" "$@" >"/tmp/$name.log" 2>&1; rc=$?
    { echo "===== $name"; tail -c 1500000 "/tmp/$name.log"; } >>"$OUT/logs.txt" # at most 8 files come back
    say "$name: rc=$rc in $((SECONDS - start)) s: $(grep -aE '[0-9]+ (passed|failed|error)|FAIL|ERROR SUMMARY' "/tmp/$name.log" | tail -1 | cut -c1-160)"
    return $rc
}
facts() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv
    uname -r; python3 --version; nvcc --version | tail -2; gcc --version | head -1; cmake --version | head -1
    python3 - <<'PY'
import importlib.metadata as m, torch, sysconfig, os
for n in "torch triton numpy pytest pytest-xdist pybind11 cmake ninja hypothesis safetensors spikingjelly gymnasium".split():
    try: print(n, m.version(n))
    except Exception as e: print(n, "MISSING")
p = torch.cuda.get_device_properties(0)
print(p.name, p.multi_processor_count, p.L2_cache_size, p.shared_memory_per_block_optin, torch.cuda.get_device_capability())
print("Python.h", os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
PY
}
build() { # for this chip alone: setup.py has no way to say so, and three targets take three times as long
    rm -f snnkern/_cpu.*.so snnkern/_cuda.*.so
    if cp -v "$HERE"/prebuilt/*.so snnkern/ 2>/dev/null && python3 -c 'import snnkern._cpu, snnkern._cuda'; then
        touch snnkern/_c*.so && python3 -c 'import snnkern; [print(b) for b in snnkern.backends()]'
        return
    fi
    rm -f snnkern/_cpu.*.so snnkern/_cuda.*.so # of another Python
    python3 -c 'import pybind11' && cmake -S . -B /tmp/build -GNinja -DCMAKE_BUILD_TYPE=Release \
        -DPython_EXECUTABLE="$(command -v python3)" -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" \
        -DCMAKE_CUDA_ARCHITECTURES=90 -DSNNKERN_CUDA=ON -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/snnkern" &&
        cmake --build /tmp/build --parallel 16
    for m in _cpu _cuda; do
        ls snnkern/$m.*.so 2>/dev/null || echo "FAIL: no $m"
    done
    touch snnkern/_c*.so # newer than the sources, so that bench/gpu.py does not build again
    python3 -c 'import snnkern; [print(b) for b in snnkern.backends()]; import snnkern._cpu, snnkern._cuda'
}
PYTEST="python3 -m pytest -v --maxfail=80 -p no:cacheprovider -o filterwarnings=default --tb=short"
precompile() { # Triton's kernels that bench times, every tile, into the cache that it reads: 4 processes
    local n
    export TRITON_CACHE_DIR=$TIMED
    for n in if snm mt dc; do python3 - $n <<'PY' & done
import sys, numpy as np, torch, snnkern
sys.path.insert(0, "bench")
import gpu_gradients
from snnkern.kernels.backends.choice import choose
from snnkern.kernels.neurons import Dynamics, parse_neuron
name = sys.argv[1]
x = np.load("bench/results/halfcheetah.npy").astype(np.float32); actor = snnkern.load_actor("td3-halfcheetah")
theta = [t.cuda() for t in snnkern.calibrate(actor, x, "max")]; actor = actor.to("cuda")
for batch in (1, 16, 256):  # a batch of 1, one tile and several are compiled apart
    snn = snnkern.SpikingActor(actor, theta, Dynamics(parse_neuron(name), 8, 0.2), backend="triton", check_finite=False).to("cuda")
    print(name, batch, snn.warmup(batch), snn._engine and snn._engine._tile, flush=True)
device = torch.device("cuda"); triton = choose("triton", device, torch.float32)
for shape in (gpu_gradients.CHECKED, *((batch, gpu_gradients.NEURONS) for batch in gpu_gradients.BATCHES)):
    for first in (True, False):
        with torch.no_grad(): gpu_gradients.Step.random(name, shape, first, device, 0).back(triton)
    print(name, "gradients", shape, flush=True)
PY
    wait
}
export OUT
case $1 in
facts | build | precompile)
    "$1"
    exit
    ;;
main | tests)
    part facts 40 bash "$SELF" facts
    part build 170 bash "$SELF" build || say "the build failed: see logs.txt"
    # Tests do not time anything, so they share the card; each worker compiles for itself, 16 cores.
    [ -f "$HERE/triton-cache.txz" ] && tar -xJf "$HERE/triton-cache.txz" -C /tmp
    part precompile 120 bash "$SELF" precompile &
    P=$!
    part triton-tests 170 env TRITON_INTERPRET=0 $PYTEST -n 8 --all-cases -m "not long" python_tests/kernels/triton_cases.py \
        python_tests/kernels/triton_actor_cases.py python_tests/kernels/triton_visual_cases.py \
        python_tests/kernels/triton_gradient_cases.py &
    T=$!
    part gpu-tests 160 $PYTEST -n 8 -m gpu -k "not two_to_the_32 and not large_batches and not kernels_on_a_gpu"
    wait $T $P
    [ "$1" = tests ] && part short-bench 75 env TRITON_CACHE_DIR=$TIMED python3 bench/gpu.py --seconds 60 --turn 0.02 --output "$OUT/short.json"
    [ "$1" = tests ] && tar -cJf "$OUT/triton-cache.txz" -C /tmp "${TIMED##*/}"
    [ "$1" = main ] && [ $((SECONDS - BEGAN)) -lt 475 ] && bash "$SELF" bench $((535 - (SECONDS - BEGAN)))
    ;;
bench) # alone on the card; bench/gpu.py writes its JSON after each part, what matters most first
    ls snnkern/_cuda.*.so >/dev/null 2>&1 || part build 100 bash "$SELF" build
    [ -d $TIMED ] || [ ! -f "$HERE/triton-cache.txz" ] || tar -xJf "$HERE/triton-cache.txz" -C /tmp
    part bench "${2:-300}" env TRITON_CACHE_DIR=$TIMED python3 bench/gpu.py --seconds $((${2:-300} - 15)) --output "$OUT/gpu.json"
    ;;
extra) # on the machine that is still warm (30 s), else everything is built again first
    ls snnkern/_cuda.*.so >/dev/null 2>&1 || part build 100 bash "$SELF" build
    part large 70 $PYTEST -m gpu -k "two_to_the_32 or large_batches" python_tests/kernels/test_cuda_neurons.py python_tests/kernels/test_triton_gpu.py
    part racecheck 50 compute-sanitizer --tool racecheck --error-exitcode 9 python3 -m pytest -q -p no:cacheprovider \
        -o filterwarnings=default -m gpu -k "gpu and (bit_identical_to_the_cpu_engine and (deep or wide or long) or follow_the_rows and two-per and three-rows)" \
        python_tests/kernels/test_cuda_actor.py python_tests/kernels/test_cuda_gradients.py
    part racecheck-integers 50 compute-sanitizer --tool racecheck --error-exitcode 9 python3 -m pytest -q -p no:cacheprovider \
        -o filterwarnings=default -m gpu -k "gpu and (layers_are_exact or row_alone)" python_tests/kernels/test_cuda_integers.py
    part memcheck 50 compute-sanitizer --tool memcheck --error-exitcode 9 python3 -m pytest -q -p no:cacheprovider \
        -o filterwarnings=default -m gpu -k "nothing_is_written or unaligned or odd_distance" python_tests/kernels/test_cuda_actor.py python_tests/kernels/test_cuda_neurons.py \
        python_tests/kernels/test_cuda_gradients.py
    ;;
esac
say "finished"; ls -la "$OUT" | tail -12; cat "$SUMMARY"
