// All T steps of one layer of neurons and its carry in one launch: a thread holds one neuron, or
// several neighbours where memory is aligned, and their state stays in its registers.

#include "divisor.h"
#include "kernels.h"
#include "layer.h"

namespace snnkern {
namespace {

constexpr int kThreads = 256;

// Registers decide how many warps hide memory's latency: 6 blocks of a multiprocessor leave 40 per
// thread, 4 leave 64.
template <Kind kind>
constexpr int kBlocksPerMultiprocessor = kHasLevels<kind> ? 4 : 6;

// As many as a 16-byte load brings; but the state of two neurons in float64 does not fit those
// registers.
template <class Real>
constexpr int kNeuronsPerThread = sizeof(Real) == sizeof(float) ? 4 : 1;

// A problem, and what would otherwise take registers to compute.
template <class Real>
struct Tiled {
    NeuronProblem<Real> problem;
    unsigned columns;   // blocks that stand beside each other along a row
    int64_t step_size;  // numbers of one step of the spikes
};

// The state of a neuron, and what it takes steps as. The fast path is for ordinary problems:
// thresholds that are not tiny, fewer steps than half a tally, no small current of DC.
template <Kind kind, class Real, bool kFast>
struct Path {
    using Step = Steps<Real>;
    using State = Neuron<kind, Real, !kFast, Step>;
};
template <class Real>
struct Path<Kind::SNM, Real, true> {
    using Step = Steps<Real>;
    using State = SignedNeuron<Real, Step, kTally>;
};
template <class Real>
struct Path<Kind::DC, Real, true> {
    using Step = NormalDivisor<Real>;
    using State = Neuron<Kind::DC, Real, false, Step>;
};

// Counts a spike. Left to itself, the compiler adds 1 and then chooses a sum; but IF's count of its
// own it uses again.
template <Kind kind>
__device__ __forceinline__ void count(int32_t& fired, bool fires) {
#if defined(__CUDA_ARCH__)
    if constexpr (!kIsBinary<kind>) {
        asm("{ .reg .pred fires; setp.ne.s32 fires, %1, 0; @fires add.s32 %0, %0, 1; }"
            : "+r"(fired)
            : "r"(int32_t(fires)));
        return;
    }
#endif
    fired += fires;
}

constexpr int32_t kUnfinished = -1;

// The decision step of the neurons [n, n + kWidth) of row b, with these thresholds. Returns the
// number of spikes they sent; or `kUnfinished`, where that takes the other path.
template <Kind kind, bool kFast, class Real, int kWidth, bool kCodedOnce, bool kSpikes>
__device__ __forceinline__ int32_t run_neurons(const Tiled<Real>& tiled, uint32_t b, uint32_t n,
                                               const Pack<Real, kWidth>& threshold) {
    using Lanes = Pack<Real, kWidth>;
    const NeuronProblem<Real>& p = tiled.problem;
    const auto at = [&] { return b * p.neurons + n; };
    using Step = typename Path<kind, Real, kFast>::Step;
    using State = typename Path<kind, Real, kFast>::State;
    constexpr bool kTallies = kind == Kind::SNM && kFast;
    State neuron[kWidth];
    start<kind>(neuron, p, at(), n, threshold);

    const Real* current = p.current + b * p.current_stride_b + n;
    Real* spikes = kSpikes ? p.spikes + at() : nullptr;
    const int32_t timesteps = static_cast<int32_t>(p.timesteps);
    int32_t fired = 0;
    auto smallest = Divisor<Real>::kLast;
    const auto advance = [&](int32_t step, const Lanes& x) {
        const Step t(step);
        Lanes sent;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            neuron[i].integrate(x.lane[i]);
            const Spike<Real> spike = neuron[i].fire(t);
            neuron[i].reset(spike, x.lane[i], t);
            sent.lane[i] = spike.value;
            if constexpr (!kTallies) count<kind>(fired, spike.fires);
            const auto place = Divisor<Real>::place(x.lane[i]);
            smallest = place < smallest ? place : smallest;
        }
        if constexpr (kSpikes) {
            store(spikes, sent);
            spikes += tiled.step_size;
        }
    };
    if constexpr (kCodedOnce) advance(1, load<Real, kWidth>(current));
#pragma unroll 1
    for (int32_t step = 1 + kCodedOnce; step <= timesteps; ++step) {
        Lanes x{};
        if constexpr (!kCodedOnce) {
            x = load<Real, kWidth>(current);
            current += p.current_stride_t;
        }
        advance(step, x);
    }
    if (kIsDifferential<kind> && kFast && Divisor<Real>::is_small(smallest)) return kUnfinished;
    if constexpr (kTallies)
        for (const State& state : neuron) fired += static_cast<int32_t>(state.count % kTally);

    Lanes out;
    const Step all(timesteps);
    const Lanes again = load<Real, kWidth>(p.threshold + n);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) neuron[i].threshold = again.lane[i];
    if constexpr (!kSpikes) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) out.lane[i] = neuron[i].mean(all);
        store(p.mean + at(), out);
    }
    const Lanes carry = load<Real, kWidth>(p.carry + at());  // again: it had no register to wait in
    const Real alpha = p.alpha ? p.alpha[b] : p.parameters.alpha;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        const Real start = p.parameters.initial_fraction * neuron[i].threshold + carry.lane[i];
        out.lane[i] = residual_carry<Real>(neuron[i].potential - start, neuron[i].transmitted(all),
                                           carry.lane[i], neuron[i].threshold, alpha, p.parameters);
    }
    store(p.next_carry + at(), out);
    return fired;
}

// The same, on the fast path if it can be.
template <Kind kind, class Real, int kWidth, bool kCodedOnce, bool kSpikes>
__device__ __forceinline__ int32_t run_thread(const Tiled<Real>& tiled, uint32_t b, uint32_t n) {
    const NeuronProblem<Real>& p = tiled.problem;
    const auto threshold = load<Real, kWidth>(p.threshold + n);
    bool ordinary = kind != Kind::SNM || p.timesteps < kTally / 2;
    if constexpr (kHasLevels<kind>) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i)
            ordinary &= !is_tiny(threshold.lane[i], p.parameters.levels, p.timesteps);
    }
    int32_t fired = kUnfinished;
    if (ordinary)
        fired = run_neurons<kind, true, Real, kWidth, kCodedOnce, kSpikes>(tiled, b, n, threshold);
    if constexpr (!kIsBinary<kind>) {
        if (fired != kUnfinished) return fired;
        const auto again = load<Real, kWidth>(p.threshold + n);
        fired = run_neurons<kind, false, Real, kWidth, kCodedOnce, kSpikes>(tiled, b, n, again);
    }
    return fired;
}

// A block covers some rows and a part of their columns; a warp stays in one row. Where one warp
// covers a row it writes the row's count; else warps add to it.
template <Kind kind, class Real, int kWidth, bool kCodedOnce, bool kSpikes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<kind>)
    neuron_kernel(const __grid_constant__ Tiled<Real> tiled) {
    const NeuronProblem<Real>& p = tiled.problem;
    const unsigned row_block = blockIdx.x / tiled.columns;
    const unsigned column_block = blockIdx.x % tiled.columns;
    const uint32_t b = row_block * blockDim.y + threadIdx.y;
    if (b >= p.batch) return;
    const uint32_t n = (column_block * blockDim.x + threadIdx.x) * kWidth;
    int64_t fired = 0;
    if (n < p.neurons) fired = run_thread<kind, Real, kWidth, kCodedOnce, kSpikes>(tiled, b, n);
    for (int offset = kWarp / 2; offset; offset /= 2)
        fired += __shfl_xor_sync(kAllLanes, fired, offset);
    if (threadIdx.x % kWarp) return;
    if (tiled.columns == 1 && blockDim.x == kWarp)
        p.counts[b] = fired;
    else
        atomicAdd(reinterpret_cast<unsigned long long*>(p.counts + b),
                  static_cast<unsigned long long>(fired));
}

template <Kind kind, class Real, int kWidth, bool kCodedOnce, bool kSpikes>
void launch_form(const NeuronProblem<Real>& p, Stream stream) {
    unsigned rows = 1;
    while (rows < 8 && rows < p.batch) rows *= 2;
    const dim3 block(kThreads / rows, rows);
    const int64_t columns = std::max<int64_t>(divide_up(p.neurons, int64_t(block.x) * kWidth), 1);
    const int64_t blocks = columns * divide_up(p.batch, rows);
    if (columns > 1 || block.x > kWarp) fill_zero(p.counts, p.batch * sizeof(int64_t), stream);
    launch(neuron_kernel<kind, Real, kWidth, kCodedOnce, kSpikes>, blocks, block, 0, stream,
           Tiled<Real>{p, static_cast<unsigned>(columns), p.batch * p.neurons},
           "the neuron kernel");
}

template <Kind kind, class Real, int kWidth>
void launch_width(const NeuronProblem<Real>& p, Stream stream) {
    // Only DC codes a constant current as x_1, 0, 0, …; the others read it again at every step.
    constexpr bool kDifferential = kIsDifferential<kind>;
    if (kDifferential && p.constant)
        p.spikes ? launch_form<kind, Real, kWidth, kDifferential, true>(p, stream)
                 : launch_form<kind, Real, kWidth, kDifferential, false>(p, stream);
    else
        p.spikes ? launch_form<kind, Real, kWidth, false, true>(p, stream)
                 : launch_form<kind, Real, kWidth, false, false>(p, stream);
}

template <Kind kind, class Real>
void launch_kind(const NeuronProblem<Real>& p, Stream stream) {
    constexpr int kWidth = kNeuronsPerThread<Real>;
    if (kWidth > 1 && aligned(p, kWidth))
        launch_width<kind, Real, kWidth>(p, stream);
    else
        launch_width<kind, Real, 1>(p, stream);
}

}  // namespace

template <class Real>
void launch_neuron(const NeuronProblem<Real>& problem, Stream stream) {
    NeuronProblem<Real> p = problem;
    if (p.constant) p.current_stride_t = 0;
    if (p.batch == 0) return;
    refuse_too_many(p);
    with_form(p.kind, false, [&](auto form) { launch_kind<decltype(form)::kKind>(p, stream); });
}

template void launch_neuron(const NeuronProblem<float>&, Stream);
template void launch_neuron(const NeuronProblem<double>&, Stream);

}  // namespace snnkern
