// What Python gives becomes what kernels work on, in every Python module. Python's side is
// snnkern/kernels/backends/native.py: its tuples have the order of those here.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <tuple>

#include "problem.h"

namespace snnkern {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// `Dynamics.numbers`.
using Dynamics = std::array<double, sizeof(DynamicsNumbers) / sizeof(double)>;

// Into a problem or a model: its kind, its steps and its parameters.
template <class Target>
void set_dynamics(Target& target, const Dynamics& dynamics) {
    DynamicsNumbers numbers;
    std::memcpy(&numbers, dynamics.data(), sizeof(numbers));
    target.kind = static_cast<Kind>(static_cast<int32_t>(numbers.kind));
    target.timesteps = static_cast<decltype(target.timesteps)>(numbers.timesteps);
    target.parameters = decltype(target.parameters)(numbers);
}

// `LayerArguments`: rows, neurons, the current and its strides, addresses of inputs and results.
using LayerArguments =
    std::tuple<int64_t, int64_t, uintptr_t, bool, int64_t, int64_t, uintptr_t, uintptr_t, uintptr_t,
               uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t>;

template <class Real>
NeuronProblem<Real> neuron_problem(const Dynamics& dynamics, const LayerArguments& layer) {
    const auto& [batch, neurons, current, constant, stride_t, stride_b, threshold, bias, carry,
                 row_alpha, spikes, mean, next_carry, counts] = layer;
    NeuronProblem<Real> problem{};
    set_dynamics(problem, dynamics);
    problem.batch = batch;
    problem.neurons = neurons;
    problem.current = pointer<const Real>(current);
    problem.constant = constant;
    problem.current_stride_t = stride_t;
    problem.current_stride_b = stride_b;
    problem.threshold = pointer<const Real>(threshold);
    problem.bias = pointer<const Real>(bias);
    problem.carry = pointer<const Real>(carry);
    problem.alpha = pointer<const Real>(row_alpha);
    problem.spikes = pointer<Real>(spikes);
    problem.mean = pointer<Real>(mean);
    problem.next_carry = pointer<Real>(next_carry);
    problem.counts = pointer<int64_t>(counts);
    return problem;
}

// `GradientArguments`: the surrogate, the gradient that comes in and those that come out.
using GradientArguments =
    std::tuple<int32_t, uintptr_t, bool, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t>;

template <class Real>
GradientProblem<Real> gradient_problem(const Dynamics& dynamics, const LayerArguments& layer,
                                       const GradientArguments& of) {
    const auto& [surrogate, gradient, of_mean, current, threshold, carry, bias, scratch] = of;
    return {neuron_problem<Real>(dynamics, layer),
            static_cast<Surrogate>(surrogate),
            pointer<const Real>(gradient),
            of_mean,
            pointer<Real>(current),
            pointer<Real>(threshold),
            pointer<Real>(carry),
            pointer<Real>(bias),
            pointer<Real>(scratch),
            0,
            std::get<1>(layer)};
}

// `InterfaceArguments`: the members of `ActorInterface`, addresses as numbers.
using InterfaceArguments = std::tuple<uintptr_t, uintptr_t, double, uintptr_t, uintptr_t, bool>;

inline ActorInterface actor_interface(const InterfaceArguments& interface) {
    const auto& [mean, std, clip, scale, bias, squash] = interface;
    return {pointer<const float>(mean),  pointer<const float>(std),  static_cast<float>(clip),
            pointer<const float>(scale), pointer<const float>(bias), squash};
}

}  // namespace snnkern
