// A layer of neurons for Python in one call, as `Call` is a decision of an actor.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <memory>
#include <utility>

#include "../binding.h"
#include "function.h"
#include "kernels.h"
#include "torch_tensor.h"

namespace snnkern {

// A function (current, threshold, carry, bias, row_alpha, numbers, wants_spikes, device), the
// arguments of `snnkern.ops`; bias and row_alpha may be None. It returns output, next carry and
// counts, new tensors; or None, with nothing done, where something is not plain or does not fit.
class LayerCall {
  public:
    // `int64` is torch's; `stream_on` says which stream is current on a device.
    LayerCall(std::shared_ptr<Torch> torch, pybind11::object int64, pybind11::object stream_on)
        : torch_(std::move(torch)),
          int64_(std::move(int64)),
          stream_on_(std::move(stream_on)),
          new_empty_("new_empty"),
          keywords_(pybind11::make_tuple("dtype")) {}

    PyObject* operator()(PyObject* const* arguments, Py_ssize_t count) const {
        if (count != 8) throw pybind11::type_error("takes eight arguments");
        Inputs inputs;
        if (!read(arguments, inputs)) Py_RETURN_NONE;
        const bool wants_spikes = arguments[6] == Py_True;
        if (inputs.carry.bits == 64) return run<double>(inputs, arguments, wants_spikes);
        return run<float>(inputs, arguments, wants_spikes);
    }

  private:
    struct Inputs {
        TensorView current, threshold, carry, bias{}, alpha{};
        Dynamics dynamics;
        int64_t timesteps;
    };

    bool read(PyObject* const* arguments, Inputs& inputs) const {
        const auto& [current, threshold, carry, bias, alpha, dynamics, timesteps] = inputs;
        if (!torch_->read(arguments[2], inputs.carry) || carry.dimensions != 2 ||
            carry.type_code != kFloatingPoint || carry.lanes != 1 ||
            (carry.bits != 32 && carry.bits != 64))
            return false;
        const int64_t batch = carry.shape[0], neurons = carry.shape[1];
        if (!torch_->read(arguments[1], inputs.threshold) || !is_row(threshold, neurons, carry) ||
            !torch_->read(arguments[0], inputs.current) || !current.is_like(carry))
            return false;
        if (arguments[3] != Py_None &&
            (!torch_->read(arguments[3], inputs.bias) || !is_row(bias, neurons, carry)))
            return false;
        if (arguments[4] != Py_None &&
            (!torch_->read(arguments[4], inputs.alpha) || !is_row(alpha, batch, carry)))
            return false;
        if (!PyTuple_Check(arguments[5]) ||
            PyTuple_GET_SIZE(arguments[5]) != static_cast<Py_ssize_t>(dynamics.size()))
            return false;
        for (size_t i = 0; i < dynamics.size(); ++i)
            inputs.dynamics[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(arguments[5], i));
        if (PyErr_Occurred()) throw pybind11::error_already_set();
        DynamicsNumbers numbers;
        std::memcpy(&numbers, dynamics.data(), sizeof(numbers));
        inputs.timesteps = static_cast<int64_t>(numbers.timesteps);
        const auto kind = static_cast<Kind>(static_cast<int32_t>(numbers.kind));
        if (bias.data && !is_differential(kind)) return false;
        const int64_t* shape = current.shape;
        return current.dimensions == 2 ? shape[0] == batch && shape[1] == neurons
                                       : current.dimensions == 3 && shape[0] == timesteps &&
                                             shape[1] == batch && shape[2] == neurons;
    }

    static bool is_row(const TensorView& view, int64_t width, const TensorView& like) {
        return view.dimensions == 1 && view.shape[0] == width && view.is_like(like);
    }

    template <class Real>
    PyObject* run(const Inputs& inputs, PyObject* const* arguments, bool wants_spikes) const {
        const int64_t batch = inputs.carry.shape[0], neurons = inputs.carry.shape[1];
        const pybind11::tuple matrix = pybind11::make_tuple(batch, neurons);
        pybind11::tuple size = matrix;
        if (wants_spikes) size = pybind11::make_tuple(inputs.timesteps, batch, neurons);
        const auto output = made(arguments[2], size, false);
        const auto carry = made(arguments[2], matrix, false);
        const auto counts = made(arguments[2], pybind11::make_tuple(batch), true);
        TensorView to, next, fired;
        if (!torch_->read_new(output.ptr(), to) || !torch_->read_new(carry.ptr(), next) ||
            !torch_->read_new(counts.ptr(), fired))
            Py_RETURN_NONE;
        NeuronProblem<Real> problem{};
        set_dynamics(problem, inputs.dynamics);
        problem.batch = batch;
        problem.neurons = neurons;
        problem.current = static_cast<const Real*>(inputs.current.data);
        problem.constant = inputs.current.dimensions == 2;
        problem.current_stride_t = problem.constant ? 0 : batch * neurons;
        problem.current_stride_b = neurons;
        problem.threshold = static_cast<const Real*>(inputs.threshold.data);
        problem.bias = static_cast<const Real*>(inputs.bias.data);
        problem.carry = static_cast<const Real*>(inputs.carry.data);
        problem.alpha = static_cast<const Real*>(inputs.alpha.data);
        (wants_spikes ? problem.spikes : problem.mean) = static_cast<Real*>(to.data);
        problem.next_carry = static_cast<Real*>(next.data);
        problem.counts = static_cast<int64_t*>(fired.data);
        launch_neuron_on(problem, arguments[7]);
        return PyTuple_Pack(3, output.ptr(), carry.ptr(), counts.ptr());
    }

    // A new tensor of this size on the device of another, of its dtype or of 64-bit numbers.
    pybind11::object made(PyObject* like, const pybind11::tuple& size, bool whole_numbers) const {
        PyObject* given[] = {like, size.ptr(), int64_.ptr()};
        PyObject* tensor = PyObject_VectorcallMethod(new_empty_.ptr(), given, 2,
                                                     whole_numbers ? keywords_.ptr() : nullptr);
        if (!tensor) throw pybind11::error_already_set();
        return pybind11::reinterpret_steal<pybind11::object>(tensor);
    }

    template <class Real>
    void launch_neuron_on(const NeuronProblem<Real>& problem, PyObject* device) const {
        const auto stream = pybind11::reinterpret_steal<pybind11::object>(
            PyObject_CallOneArg(stream_on_.ptr(), device));
        if (!stream) throw pybind11::error_already_set();
        const uintptr_t handle = PyLong_AsUnsignedLongLong(stream.ptr());
        const long number = PyLong_AsLong(device);
        if (PyErr_Occurred()) throw pybind11::error_already_set();
        const DeviceGuard guard(static_cast<int>(number));
        launch_neuron(problem, pointer<std::remove_pointer_t<Stream>>(handle));
    }

    static constexpr uint8_t kFloatingPoint = 2;  // DLPack's code of a type

    std::shared_ptr<Torch> torch_;
    pybind11::object int64_, stream_on_;
    pybind11::str new_empty_;
    pybind11::tuple keywords_;
};

}  // namespace snnkern
