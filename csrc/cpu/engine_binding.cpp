// The engine for Python: packs an actor's weights once and holds what a decision needs, so that a
// decision allocates nothing but its result.

#include "engine_binding.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "engine.h"
#include "isa.h"
#include "thread_pool.h"

namespace py = pybind11;

namespace snnkern {
namespace {

// Zeroed floats that start on a cache line.
class Floats {
  public:
    explicit Floats(int64_t count)
        : data_(static_cast<float*>(
              ::operator new(std::max<int64_t>(count, 1) * sizeof(float), kLine))) {
        std::fill(data_.get(), data_.get() + count, 0.0f);
    }
    float* get() const { return data_.get(); }

  private:
    static constexpr std::align_val_t kLine{64};
    struct Free {
        void operator()(float* data) const { ::operator delete(data, kLine); }
    };
    std::unique_ptr<float, Free> data_;
};

// One layer as Python gives it: sizes and addresses of weight [in, out], bias [out], threshold
// [out] (0: none).
using ActorLayer = std::tuple<int64_t, int64_t, uintptr_t, uintptr_t, uintptr_t>;

// A thread came while another was deciding: InUseError of snnkern.errors.
struct InUse {};

class Engine {
  public:
    Engine(const Dynamics& dynamics, const std::vector<ActorLayer>& layers,
           const InterfaceArguments& interface) {
        set_dynamics(model_, dynamics);
        model_.hidden = static_cast<int64_t>(layers.size()) - 1;
        pack(layers);
        inputs_ = layers_.front().inputs;
        outputs_ = layers_.back().outputs;
        model_.widest = padded(inputs_);
        for (const EngineLayer& layer : layers_)
            model_.widest = std::max(model_.widest, layer.width);
        model_.layers = layers_.data();
        const ActorInterface given = actor_interface(interface);
        model_.interface = {copy(given.observation_mean, inputs_),
                            copy(given.observation_std, inputs_),
                            given.observation_clip,
                            copy(given.action_scale, outputs_),
                            copy(given.action_bias, outputs_),
                            given.squash};
    }

    // For the decisions to come: the carry of every hidden layer [batch, N], the counts [hidden,
    // batch], and α [batch], or 0 where all rows have the actor's.
    void bind(int64_t batch, const std::vector<uintptr_t>& carries, uintptr_t counts,
              uintptr_t alpha) {
        const Claim claim(busy_);
        // What may find no memory comes first: then the engine goes on with what it was bound to.
        std::vector<float*> addresses;
        for (const uintptr_t carry : carries) addresses.push_back(pointer<float>(carry));
        observation_.resize(batch * inputs_);
        batch_ = batch;
        carries_ = std::move(addresses);
        counts_ = pointer<int64_t>(counts);
        alpha_ = pointer<const float>(alpha);
        const int64_t tile =
            std::clamp<int64_t>(kTileBytes / engine_scratch(model_), 1, kMostTileRows);
        tile_ = batch < kRowsPerThread ? 1 : tile;
        scratch_.clear();
    }

    // The action for a NumPy observation, or None where this is not a plain case that the engine is
    // bound for: the caller then finds out what is wrong, and says so.
    py::object act(const py::handle& given, bool check_finite, int threads) {
        const Claim claim(busy_);
        if (!py::isinstance<py::array>(given)) return py::none();
        const auto array = py::reinterpret_borrow<py::array>(given);
        const auto dimensions = array.ndim();
        if (dimensions < 1 || dimensions > 2 || array.shape(dimensions - 1) != inputs_)
            return py::none();
        const int64_t rows = dimensions == 1 ? 1 : array.shape(0);
        if (rows != batch_ || (array.flags() & kPlain) != kPlain) return py::none();
        const auto* descriptor = py::detail::array_descriptor_proxy(array.dtype().ptr());
        if (descriptor->byteorder != '=') return py::none();
        const int type = descriptor->type_num;
        const float* observation = nullptr;
        if (type == py::detail::npy_api::NPY_FLOAT_) {
            observation = static_cast<const float*>(array.data());
        } else if (type == py::detail::npy_api::NPY_DOUBLE_) {
            const auto* wide = static_cast<const double*>(array.data());
            for (int64_t i = 0; i < rows * inputs_; ++i)
                observation_[i] = static_cast<float>(wide[i]);
            observation = observation_.data();
        } else {
            return py::none();
        }
        if (check_finite && !finite(observation)) return py::none();
        auto action =
            dimensions == 1 ? py::array_t<float>(outputs_) : py::array_t<float>({rows, outputs_});
        run(observation, action.mutable_data(), threads);
        return std::move(action);
    }

    // As `act` for memory [batch, inputs] that the caller has checked; None where a value is not
    // finite.
    py::object decide(uintptr_t observation, bool check_finite, int threads) {
        const Claim claim(busy_);
        const float* from = pointer<const float>(observation);
        if (check_finite && !finite(from)) return py::none();
        auto action = py::array_t<float>({batch_, outputs_});
        run(from, action.mutable_data(), threads);
        return std::move(action);
    }

  private:
    // What a decision works on is one thread's until it is done. `run` releases the GIL, so another
    // thread may come here meanwhile, to decide or to bind: it is refused before it changes
    // anything.
    class Claim {
      public:
        explicit Claim(std::atomic<bool>& busy) : busy_(busy) {
            if (busy_.exchange(true)) throw InUse();
        }
        ~Claim() { busy_ = false; }
        Claim(const Claim&) = delete;
        Claim& operator=(const Claim&) = delete;

      private:
        std::atomic<bool>& busy_;
    };

    void pack(const std::vector<ActorLayer>& layers) {
        const int64_t widest = kernels_.engine_block();
        const float* sender = nullptr;  // thresholds of the layer before
        for (const auto& [inputs, outputs, weight_at, bias_at, threshold_at] : layers) {
            const bool hidden = threshold_at != 0;
            const auto* given = pointer<const float>(weight_at);
            // The output layer takes a mean, which is in activation units already.
            const float* units = hidden ? sender : nullptr;
            const float* weight = pack_weight(given, inputs, outputs, units, widest);
            const float* bias = copy(pointer<const float>(bias_at), outputs);
            const float* threshold =
                hidden ? copy(pointer<const float>(threshold_at), outputs) : nullptr;
            if (hidden) model_.tiny |= has_tiny(threshold, outputs, model_.parameters.levels);
            layers_.push_back({inputs, outputs, padded(outputs), weight, bias, threshold});
            sender = threshold;
        }
    }

    // Weights [inputs, outputs] in blocks of a width, in units of the senders' thresholds.
    const float* pack_weight(const float* given, int64_t inputs, int64_t outputs,
                             const float* units, int64_t widest) {
        const int64_t width = padded(outputs);
        memory_.emplace_back((inputs + 1) * width);
        float* weight = memory_.back().get();
        for (int64_t begin = 0, block; begin < width; begin += block) {
            block = block_width(begin, width, widest);
            for (int64_t k = 0; k < inputs; ++k) {
                const float unit = units ? units[k] : 1.0f;
                for (int64_t n = begin; n < std::min(begin + block, outputs); ++n)
                    weight[(inputs + 1) * begin + k * block + n - begin] =
                        given[k * outputs + n] * unit;
            }
        }
        return weight;
    }

    // A padded copy; null for null.
    const float* copy(const float* from, int64_t count) {
        if (!from) return nullptr;
        memory_.emplace_back(padded(count));
        std::copy_n(from, count, memory_.back().get());
        return memory_.back().get();
    }

    bool finite(const float* observation) const {
        bool all = true;
        for (int64_t i = 0; i < batch_ * inputs_; ++i) all &= std::isfinite(observation[i]);
        return all;
    }

    void run(const float* observation, float* action, int threads) {
        const int parts = static_cast<int>(std::clamp<int64_t>(
            std::min(threads, kMostThreads), 1, std::max<int64_t>(1, batch_ / kRowsPerThread)));
        while (static_cast<int>(scratch_.size()) < parts)
            scratch_.emplace_back((tile_ * engine_scratch(model_) + 3) / 4);
        const auto part = [&](int index) {
            const EngineRows rows{batch_ * index / parts,
                                  batch_ * (index + 1) / parts,
                                  observation,
                                  carries_.data(),
                                  alpha_,
                                  action,
                                  counts_,
                                  batch_,
                                  tile_,
                                  scratch_[index].get()};
            kernels_.run_engine(model_, rows);
        };
        if (batch_ < kRowsToReleaseGil) {
            part(0);
            return;
        }
        py::gil_scoped_release released;
        run_parts(parts, part);
    }

    static constexpr int64_t kTileBytes = 1 << 20;  // of the second level, for a tile's spikes

    // What the values of an array need to be read one after the other.
    static constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

    // Below this many rows each, handing work to another thread costs more than it saves.
    static constexpr int64_t kRowsPerThread = 8;
    static constexpr int kMostThreads = 256;  // each takes memory
    static constexpr int64_t kRowsToReleaseGil = 4;

    const Kernels& kernels_ = kernels();  // weights are packed for this build
    EngineModel model_{};
    std::vector<EngineLayer> layers_;
    std::vector<Floats> memory_, scratch_;
    std::vector<float> observation_;  // where a NumPy observation is not float32
    std::vector<float*> carries_;
    int64_t* counts_ = nullptr;
    const float* alpha_ = nullptr;
    int64_t inputs_ = 0, outputs_ = 0, batch_ = 0, tile_ = 1;
    std::atomic<bool> busy_{false};
};

}  // namespace

void define_engine(py::module_& module) {
    using py::arg;
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const InUse&) {
            py::set_error(py::module_::import("snnkern.errors").attr("InUseError"),
                          "two threads use one spiking actor at once: give each thread its own "
                          "(copy.deepcopy)");
        }
    });
    py::class_<Engine>(module, "Engine",
                       "A spiking actor, packed for the CPU; used by snnkern.nn.SpikingActor.")
        .def(py::init<const Dynamics&, const std::vector<ActorLayer>&, const InterfaceArguments&>(),
             arg("dynamics"), arg("layers"), arg("interface"))
        .def("bind", &Engine::bind)
        .def("act", &Engine::act)
        .def("decide", &Engine::decide);
}

}  // namespace snnkern
