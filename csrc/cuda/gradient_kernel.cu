// The gradients of a layer of neurons in one pass over memory, as csrc/cpu/gradient_kernel.cpp has
// them: the decision step is run again, what the way back needs of every step stays in shared
// memory. A thread reads there only what it wrote, and adds to no sum that another has: no thread
// waits, and the same bits come out every time.

#include "divisor.h"
#include "kernels.h"
#include "layer.h"

namespace snnkern {
namespace {

constexpr int kStripsPerBlock = 4;  // one for each warp
constexpr int kThreads = kWarp * kStripsPerBlock;

// Steps that shared memory holds. For so many, a block takes 32 KB at most: a multiprocessor of an
// A100 has room for four, of an H100 for six.
constexpr int64_t kMostSteps = 16;

// As many as an 8-byte load brings: those of a 16-byte load would share what is there for warps.
template <class Real>
constexpr int kNeuronsPerThread = sizeof(Real) == sizeof(float) ? 2 : 1;

// What registers leave room for: 7 blocks of a multiprocessor leave 72 per thread, 6 leave 80, 5
// leave 96, 4 leave 128.
template <Kind kind, class Real>
constexpr int kBlocksPerMultiprocessor =
    sizeof(Real) == sizeof(float) ? (kHasLevels<kind> ? 5 : 7) : (kHasLevels<kind> ? 4 : 6);

// Where there are more steps, segments of about the same length follow each other.
constexpr int64_t segment_of(int64_t timesteps) {
    return divide_up(timesteps, divide_up(timesteps, kMostSteps));
}

// Numbers of a neuron's state that a segment begins with: u; the count where that says what may be
// taken back; the two means of DC.
template <Kind kind>
constexpr int kStateNumbers = kIsDifferential<kind> ? 3
                              : kIsBinary<kind>     ? 1
                                                    : 2;

template <Kind kind, class Real>
struct Kept {
    Real number[kStateNumbers<kind>];
};

template <Kind kind, class Real, class State>
SNNKERN_INLINE Kept<kind, Real> state_of(const State& neuron) {
    using X = Lanes<Real>;
    if constexpr (kind == Kind::DC)
        return {{neuron.potential, neuron.current_mean, neuron.output_mean}};
    else if constexpr (kind == Kind::MT)
        return {{neuron.potential, X::from_bits(neuron.sent.count)}};
    else if constexpr (kind == Kind::SNM)
        return {{neuron.potential, X::from_bits(neuron.count)}};
    else
        return {{neuron.potential}};
}

template <Kind kind, class Real, class State>
SNNKERN_INLINE void restore(State& neuron, const Kept<kind, Real>& kept) {
    using X = Lanes<Real>;
    neuron.potential = kept.number[0];
    if constexpr (kind == Kind::DC) {
        neuron.current_mean = kept.number[1];
        neuron.output_mean = kept.number[2];
    } else if constexpr (kind == Kind::MT) {
        neuron.sent.count = X::bits(kept.number[1]);
    } else if constexpr (kind == Kind::SNM) {
        neuron.count = X::bits(kept.number[1]);
    }
}

// A problem, and how it is divided among threads.
template <class Real>
struct Tiled {
    GradientProblem<Real> problem;
    unsigned columns;   // blocks that stand beside each other along a row
    int64_t step_size;  // numbers of one step
    int64_t strip;      // rows that a thread works off, one after the other
    int32_t segment;    // steps
};

// The neurons [n, n + kWidth) of row b; `kept` is this thread's part of shared memory. Adds to the
// sums over the batch.
template <Kind kind, bool kTiny, Surrogate surrogate, class Real, int kWidth>
__device__ __forceinline__ void run_row(const Tiled<Real>& tiled, Pack<Real, kWidth>* kept,
                                        int64_t b, uint32_t n, Pack<Real, kWidth>& of_threshold,
                                        Pack<Real, kWidth>& of_bias) {
    using Lanes = Pack<Real, kWidth>;
    using Step = Divisor<Real>;  // as exact as `Steps`
    using State = Neuron<kind, Real, kTiny, Step>;
    const GradientProblem<Real>& p = tiled.problem;
    const int64_t at = b * p.neurons + n;
    const int32_t timesteps = static_cast<int32_t>(p.timesteps);

    State neuron[kWidth];
    start<kind>(neuron, p, at, n, load<Real, kWidth>(p.threshold + n));

    // Runs the steps [begin, end), and gives away what the way back needs of each. The next current
    // is on its way while a step is computed.
    const Real* const current = p.current + b * p.current_stride_b + n;
    const auto run = [&](int32_t begin, int32_t end, const auto& keep) {
        const bool coded_once = kIsDifferential<kind> && p.constant;  // as x_1, 0, 0, …
        const Real* from = current + begin * p.current_stride_t;
        Lanes next{};
        if (!coded_once || begin == 0) next = load<Real, kWidth>(from);
#pragma unroll 1
        for (int32_t t = begin; t < end; ++t) {
            const Lanes x = next;
            from += p.current_stride_t;
            if (coded_once)
                next = Lanes{};
            else if (t + 1 < end)
                next = load<Real, kWidth>(from);
            const Step step(t + 1);
            Lanes slope, rise;
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                const auto of = run_step<surrogate>(neuron[i], x.lane[i], p.parameters, step);
                slope.lane[i] = of.slope;
                rise.lane[i] = of.rise;
            }
            keep(slope, rise);
        }
    };

    Real* state = p.scratch + at;
    const int64_t state_size = kStateNumbers<kind> * tiled.step_size;
    int32_t first = 0;
#pragma unroll 1
    for (; first + tiled.segment < timesteps; first += tiled.segment) {
        Kept<kind, Real> of[kWidth];
#pragma unroll
        for (int i = 0; i < kWidth; ++i) of[i] = state_of<kind, Real>(neuron[i]);
#pragma unroll
        for (int number = 0; number < kStateNumbers<kind>; ++number) {
            Lanes lanes;
#pragma unroll
            for (int i = 0; i < kWidth; ++i) lanes.lane[i] = of[i].number[number];
            store(state + number * tiled.step_size, lanes);
        }
        state += state_size;
        run(first, first + tiled.segment, [](const Lanes&, const Lanes&) {});
    }

    Adjoint<kind, Real> adjoint[kWidth];
    Lanes of_spike{}, of_constant{};
    if (p.of_mean) {
        const Lanes of_mean = load<Real, kWidth>(p.gradient + at);
        const Step all(timesteps);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            adjoint[i] = Adjoint<kind, Real>(of_mean.lane[i]);
            if (!kIsDifferential<kind>) of_spike.lane[i] = all.divide(of_mean.lane[i]);
        }
    }
    int32_t end = timesteps;
#pragma unroll 1
    while (true) {
        run(first, end, [&](const Lanes& slope, const Lanes& rise) {
            kept[0] = slope;
            kept[kThreads] = rise;
            kept += 2 * kThreads;
        });
        int64_t here = (end - 1) * tiled.step_size + at;
        if (!p.of_mean) of_spike = load<Real, kWidth>(p.gradient + here);
#pragma unroll 1
        for (int32_t t = end - 1; t >= first; --t) {
            const Lanes given = of_spike;
            if (!p.of_mean && t > first)
                of_spike = load<Real, kWidth>(p.gradient + here - tiled.step_size);
            kept -= 2 * kThreads;
            const Lanes slope = kept[0], rise = kept[kThreads];
            const Step step(t + 1);
            Lanes of_current;
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                of_current.lane[i] = adjoint[i].step(given.lane[i], {slope.lane[i], rise.lane[i]},
                                                     p.parameters.decay, step);
                of_constant.lane[i] = kIsDifferential<kind>
                                          ? of_current.lane[i]
                                          : of_constant.lane[i] + of_current.lane[i];
            }
            if (!p.constant) store(p.current_gradient + here, of_current);
            here -= tiled.step_size;
        }
        if (first == 0) break;
        end = first;
        first -= tiled.segment;
        state -= state_size;
        Kept<kind, Real> of[kWidth];
#pragma unroll
        for (int number = 0; number < kStateNumbers<kind>; ++number) {
            const Lanes lanes = load<Real, kWidth>(state + number * tiled.step_size);
#pragma unroll
            for (int i = 0; i < kWidth; ++i) of[i].number[number] = lanes.lane[i];
        }
#pragma unroll
        for (int i = 0; i < kWidth; ++i) restore<kind, Real>(neuron[i], of[i]);
    }

    if (p.constant) store(p.current_gradient + at, of_constant);
    Lanes of_carry;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
        of_carry.lane[i] = adjoint[i].potential;
        of_threshold.lane[i] +=
            adjoint[i].threshold + p.parameters.initial_fraction * adjoint[i].potential;
        of_bias.lane[i] += adjoint[i].bias();
    }
    store(p.carry_gradient + at, of_carry);
}

// A warp works off a strip of rows of some columns, and writes a sum for each column.
template <Kind kind, class Real, int kWidth, Surrogate surrogate>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<kind, Real>)
    gradient_kernel(const __grid_constant__ Tiled<Real> tiled) {
    SNNKERN_SHARED_MEMORY(memory);
    using Lanes = Pack<Real, kWidth>;
    const GradientProblem<Real>& p = tiled.problem;
    const unsigned strip_block = blockIdx.x / tiled.columns;
    const unsigned column_block = blockIdx.x % tiled.columns;
    const int64_t strip = int64_t(strip_block) * kStripsPerBlock + threadIdx.y;
    const uint32_t n = (column_block * kWarp + threadIdx.x) * kWidth;
    const int64_t begin = strip * tiled.strip;
    if (begin >= p.batch || n >= p.neurons) return;
    Lanes* kept = reinterpret_cast<Lanes*>(memory) + (threadIdx.y * kWarp + threadIdx.x);
    const int64_t end = begin + tiled.strip < p.batch ? begin + tiled.strip : p.batch;
    Lanes of_threshold{}, of_bias{};
    const auto run_strip = [&](auto tiny) {
#pragma unroll 1
        for (int64_t b = begin; b < end; ++b)
            run_row<kind, decltype(tiny)::value, surrogate, Real, kWidth>(tiled, kept, b, n,
                                                                          of_threshold, of_bias);
    };
    bool tiny = false;
    if constexpr (kHasLevels<kind>) {
        const Lanes threshold = load<Real, kWidth>(p.threshold + n);
#pragma unroll
        for (int i = 0; i < kWidth; ++i)
            tiny |= is_tiny(threshold.lane[i], p.parameters.levels, p.timesteps);
        if (tiny) run_strip(std::true_type{});
    }
    if (!tiny) run_strip(std::false_type{});
    store(p.threshold_gradient + strip * p.neurons + n, of_threshold);
    if constexpr (kIsDifferential<kind>) store(p.bias_gradient + strip * p.neurons + n, of_bias);
}

template <class Real>
bool aligned(const GradientProblem<Real>& p, int width) {
    const NeuronProblem<Real>& forward = p;
    return snnkern::aligned(forward, width) && on_boundary(p.gradient, width) &&
           on_boundary(p.current_gradient, width) && on_boundary(p.threshold_gradient, width) &&
           on_boundary(p.carry_gradient, width) && on_boundary(p.bias_gradient, width) &&
           on_boundary(p.scratch, width);
}

template <Kind kind, Surrogate surrogate, class Real, int kWidth>
void launch_width(const GradientProblem<Real>& p, int64_t strip, Stream stream) {
    const int64_t columns = divide_up(p.neurons, kWarp * kWidth);
    const int64_t strips = divide_up(p.batch, strip);
    const int64_t segment = segment_of(p.timesteps);
    launch(gradient_kernel<kind, Real, kWidth, surrogate>,
           columns * divide_up(strips, kStripsPerBlock), dim3(kWarp, kStripsPerBlock),
           2 * segment * kThreads * int64_t(sizeof(Pack<Real, kWidth>)), stream,
           Tiled<Real>{p, static_cast<unsigned>(columns), p.batch * p.neurons, strip,
                       static_cast<int32_t>(segment)},
           "the gradient kernel");
}

template <Kind kind, Surrogate surrogate, class Real>
void launch_kind(const GradientProblem<Real>& p, int64_t strip, Stream stream) {
    constexpr int kWidth = kNeuronsPerThread<Real>;
    if (kWidth > 1 && aligned(p, kWidth))
        launch_width<kind, surrogate, Real, kWidth>(p, strip, stream);
    else
        launch_width<kind, surrogate, Real, 1>(p, strip, stream);
}

}  // namespace

template <class Real>
void launch_neuron_gradients(const GradientProblem<Real>& problem, int64_t strip, Stream stream) {
    GradientProblem<Real> p = problem;
    if (p.constant) p.current_stride_t = 0;
    if (p.batch == 0 || p.neurons == 0) return;
    refuse_too_many(p);
    with_form(p.kind, true, [&](auto form) {
        with_surrogate(p.surrogate, [&](auto surrogate) {
            launch_kind<decltype(form)::kKind, decltype(surrogate)::value>(p, strip, stream);
        });
    });
}

template void launch_neuron_gradients(const GradientProblem<float>&, int64_t, Stream);
template void launch_neuron_gradients(const GradientProblem<double>&, int64_t, Stream);

int64_t gradient_scratch(Kind kind, int64_t timesteps) {
    const int64_t segments = divide_up(timesteps, segment_of(timesteps));
    return with_form(kind, true, [&](auto form) {
        return (segments - 1) * kStateNumbers<decltype(form)::kKind>;
    });
}

}  // namespace snnkern
