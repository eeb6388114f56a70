// What Python says of an actor becomes the model that the CUDA kernels work on.
#pragma once

#include <algorithm>
#include <vector>

#include "../binding.h"
#include "actor.h"
#include "kernels.h"

namespace snnkern {

inline Stream stream_at(uintptr_t handle) { return pointer<std::remove_pointer_t<Stream>>(handle); }

// A hidden layer as Python gives it: inputs, outputs, padded width, and addresses of weight, bias
// and threshold, laid out as actor.h says.
using HiddenLayer = std::tuple<int32_t, int32_t, int32_t, uintptr_t, uintptr_t, uintptr_t>;

// The output layer: actions, and addresses of weight and bias.
using OutputLayer = std::tuple<int32_t, uintptr_t, uintptr_t>;

inline ActorModel actor_model(const Dynamics& dynamics, bool tiny,
                              const std::vector<HiddenLayer>& layers, const OutputLayer& output,
                              const InterfaceArguments& interface) {
    if (layers.empty() || layers.size() > kMostHidden)
        throw std::invalid_argument("a CUDA actor has 1 to " + std::to_string(kMostHidden) +
                                    " hidden layers");
    ActorModel model{};
    set_dynamics(model, dynamics);
    model.tiny = tiny;
    model.hidden = static_cast<int32_t>(layers.size());
    for (size_t l = 0; l < layers.size(); ++l) {
        const auto& [inputs, outputs, width, weight, bias, threshold] = layers[l];
        model.layer[l] = {inputs,
                          outputs,
                          width,
                          pointer<const float>(weight),
                          pointer<const float>(bias),
                          pointer<const float>(threshold)};
    }
    const auto& [actions, weight, bias] = output;
    model.actions = actions;
    model.output_weight = pointer<const float>(weight);
    model.output_bias = pointer<const float>(bias);
    model.interface = actor_interface(interface);
    return model;
}

// The carry of every hidden layer [batch, N], the counts [hidden, batch], and α [batch], or 0 where
// all rows have the actor's.
inline void set_rows(ActorRows& rows, int64_t batch, const std::vector<uintptr_t>& carries,
                     uintptr_t counts, uintptr_t alpha) {
    rows.batch = batch;
    for (size_t l = 0; l < carries.size(); ++l) rows.carry[l] = pointer<float>(carries[l]);
    rows.counts = pointer<int64_t>(counts);
    rows.alpha = pointer<const float>(alpha);
}

// Asks the device whether observations are finite, and waits for its answer.
class FiniteCheck {
  public:
    bool operator()(const ActorModel& model, const ActorRows& rows, Stream stream) {
        volatile int32_t* found = found_.address();
        *found = 0;
        launch_finite(rows.observation, rows.batch * model.layer[0].inputs, found_.address(),
                      stream);
        const pybind11::gil_scoped_release released;
        wait_for(stream);
        return *found == 0;
    }

  private:
    HostNumber found_;
};

}  // namespace snnkern
