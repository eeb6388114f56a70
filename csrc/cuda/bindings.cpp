// snnkern._cuda: the CUDA kernels for Python. Takes addresses, sizes, strides, a device and a
// stream; the caller has checked them (snnkern/kernels/ops.py), so nothing here depends on torch.

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "../claim.h"
#include "actor_binding.h"
#include "call.h"
#include "cluster.h"
#include "divisor.h"
#include "function.h"
#include "integer_binding.h"
#include "kernels.h"
#include "layer_call.h"

namespace py = pybind11;

namespace snnkern {
namespace {

template <class Real>
void neuron(const Dynamics& dynamics, const LayerArguments& layer, int device, uintptr_t stream) {
    const DeviceGuard guard(device);
    launch_neuron(neuron_problem<Real>(dynamics, layer), stream_at(stream));
}

template <class Real>
void neuron_gradients(const Dynamics& dynamics, const LayerArguments& layer,
                      const GradientArguments& of, int64_t strip, int device, uintptr_t stream) {
    const DeviceGuard guard(device);
    launch_neuron_gradients(gradient_problem<Real>(dynamics, layer, of), strip, stream_at(stream));
}

// Whether some of a layer's thresholds, in the host's memory, is tiny.
bool has_tiny_threshold(uintptr_t threshold, int64_t count, int32_t levels, int64_t timesteps) {
    const float* first = pointer<const float>(threshold);
    return std::any_of(first, first + count,
                       [=](float one) { return is_tiny(one, levels, timesteps); });
}

// A whole actor. Memory belongs to the caller, who keeps it alive.
class Engine {
  public:
    Engine(int device, const Dynamics& dynamics, bool tiny, const std::vector<HiddenLayer>& layers,
           const OutputLayer& output, const InterfaceArguments& interface)
        : device_(device) {
        problem_.model = actor_model(dynamics, tiny, layers, output, interface);
    }

    // Whether the device has the shared memory that a decision takes.
    bool fits() const {
        const DeviceGuard guard(device_);
        return plan_actor(problem_.model, 1).bytes <= most_shared_memory();
    }

    // For the decisions to come.
    void bind(int64_t batch, const std::vector<uintptr_t>& carries, uintptr_t counts,
              uintptr_t alpha) {
        const Claim claim(busy_);
        const DeviceGuard guard(device_);
        set_rows(problem_.rows, batch, carries, counts, alpha);
        problem_.plan = plan_actor(problem_.model, batch);
        prepare_actor(problem_.model);
        by_clusters_ = false;
    }

    // Where the device runs a cluster of blocks for each of so many rows: how many columns of each
    // layer a block has. Else nothing.
    std::vector<int32_t> cluster_columns(int64_t batch) const {
        const DeviceGuard guard(device_);
        std::vector<int32_t> columns;
        if (!cluster_serves(problem_.model, batch)) return columns;
        const ClusterPlan plan = plan_cluster(problem_.model);
        for (int l = 0; l < problem_.model.hidden; ++l) columns.push_back(plan.share[l].columns);
        return columns;
    }

    // From now on, and until the next `bind`, clusters decide. Of each layer but the first, the
    // weights of the blocks' columns [kClusterBlocks, inputs, columns].
    void use_clusters(const std::vector<uintptr_t>& packed) {
        const DeviceGuard guard(device_);
        clustered_ = {problem_.model, problem_.rows, plan_cluster(problem_.model)};
        for (size_t l = 0; l < packed.size(); ++l)
            clustered_.plan.share[l + 1].packed = pointer<const float>(packed[l]);
        prepare_cluster(problem_.model);
        by_clusters_ = true;
        chained_ = false;
    }

    // For memory [batch, inputs] and [batch, actions] that the caller has checked; false, and
    // nothing done, where the observation is to be finite and is not: that waits for the device.
    bool decide(uintptr_t stream, uintptr_t observation, uintptr_t action, bool check_finite) {
        const Claim claim(busy_);
        const DeviceGuard guard(device_);
        ActorRows& rows = by_clusters_ ? clustered_.rows : problem_.rows;
        rows.observation = pointer<const float>(observation);
        rows.action = pointer<float>(action);
        if (check_finite && !is_finite_(problem_.model, rows, stream_at(stream))) return false;
        if (!by_clusters_) {
            launch_actor(problem_, stream_at(stream));
            return true;
        }
        // The first one in a stream waits for whatever has packed the weights.
        launch_cluster(clustered_, chained_ && stream == last_stream_, stream_at(stream));
        chained_ = true;
        last_stream_ = stream;
        return true;
    }

    CallShape shape() const {
        const ActorModel& model = problem_.model;
        return {device_, problem_.rows.batch, model.layer[0].inputs, model.actions};
    }

  private:
    int device_;
    ActorProblem problem_{};
    FiniteCheck is_finite_;
    std::atomic<bool> busy_{false};
    ClusterProblem clustered_{};
    bool by_clusters_ = false, chained_ = false;
    uintptr_t last_stream_ = 0;
};

void define_engine(py::module_& module) {
    using py::arg;
    translate_in_use();
    py::class_<Engine>(module, "Engine",
                       "A spiking actor, packed for CUDA; used by snnkern.nn.SpikingActor.")
        .def(py::init<int, const Dynamics&, bool, const std::vector<HiddenLayer>&,
                      const OutputLayer&, const InterfaceArguments&>(),
             py::kw_only(), arg("device"), arg("dynamics"), arg("tiny"), arg("layers"),
             arg("output"), arg("interface"))
        .def("fits", &Engine::fits)
        .def("bind", &Engine::bind)
        .def("cluster_columns", &Engine::cluster_columns)
        .def("use_clusters", &Engine::use_clusters)
        .def("decide", &Engine::decide)
        .def("call", &call_of<Engine>);
    py::class_<Torch, std::shared_ptr<Torch>>(module, "Torch", py::module_local(),
                                              "How torch's tensors are read.")
        .def(py::init<py::object, const py::capsule&, py::object, py::object, py::object,
                      py::object, py::object>(),
             py::kw_only(), arg("tensor"), arg("table"), arg("requires_grad"), arg("is_neg"),
             arg("storage_offset"), arg("untyped_storage"), arg("nbytes"));
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA kernels of snnkern; called through snnkern.ops.";
    using py::arg;
    for (auto [name, run] : {std::pair("neuron_float32", &neuron<float>),
                             std::pair("neuron_float64", &neuron<double>)})
        module.def(name, run, arg("dynamics"), arg("layer"), arg("device"), arg("stream"));
    for (auto [name, run] : {std::pair("neuron_gradients_float32", &neuron_gradients<float>),
                             std::pair("neuron_gradients_float64", &neuron_gradients<double>)})
        module.def(name, run, arg("dynamics"), arg("layer"), arg("gradients"), arg("strip"),
                   arg("device"), arg("stream"));
    module.def("gradient_scratch", [](const Dynamics& dynamics) {
        NeuronProblem<float> problem{};
        set_dynamics(problem, dynamics);
        return gradient_scratch(problem.kind, problem.timesteps);
    });
    module.def("layer_call",
               [](std::shared_ptr<Torch> torch, py::object int64, py::object stream_on) {
                   return as_function(std::make_unique<LayerCall>(
                                          std::move(torch), std::move(int64), std::move(stream_on)),
                                      "neuron");
               });
    module.def("has_tiny_threshold", &has_tiny_threshold);
    define_engine(module);
    define_integer_engine(module);
    module.attr("most_hidden") = kMostHidden;
    module.attr("most_neurons") = kMostActorNeurons;
    module.attr("padding") = kActorPadding;
    module.attr("cluster_blocks") = kClusterBlocks;
}

}  // namespace snnkern
