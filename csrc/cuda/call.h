// A decision for Python in one call: what is usual is checked, allocated and launched here.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <utility>

#include "function.h"
#include "torch_tensor.h"

namespace snnkern {

// What decides: on a stream, from an observation [rows, inputs] to an action [rows, outputs], all
// in float32; false, and nothing done, where a number is to be finite and is not.
using Decide =
    std::function<bool(uintptr_t stream, uintptr_t observation, uintptr_t action, bool finite)>;

struct CallShape {
    int device;
    int64_t rows, inputs, outputs;
};

// The function (observation, check_finite) of Python's. It returns the action, a new tensor; or
// None, with nothing done, where the observation is not a plain one that lies where `prototype`
// does.
class Call {
  public:
    // `stream_on` says which stream is current on a device.
    Call(Decide decide, const CallShape& shape, std::shared_ptr<Torch> torch,
         const pybind11::object& prototype, pybind11::object stream_on)
        : decide_(std::move(decide)),
          shape_(shape),
          torch_(std::move(torch)),
          stream_on_(std::move(stream_on)),
          device_(pybind11::int_(shape.device)),
          new_empty_(prototype.attr("new_empty")),
          size_(pybind11::make_tuple(shape.rows, shape.outputs)) {
        if (!torch_->read(prototype.ptr(), prototype_))
            throw pybind11::value_error("a prototype is a plain tensor");
    }

    PyObject* operator()(PyObject* const* arguments, Py_ssize_t count) const {
        if (count != 2) throw pybind11::type_error("takes an observation and check_finite");
        const int check_finite = PyObject_IsTrue(arguments[1]);
        return check_finite < 0 ? nullptr : decide(arguments[0], check_finite != 0);
    }

  private:
    // A new reference; null with an error set.
    PyObject* decide(PyObject* observation, bool check_finite) const {
        TensorView from, to;
        if (!torch_->read(observation, from) || !fits(from, shape_.inputs)) Py_RETURN_NONE;
        const auto stream = pybind11::reinterpret_steal<pybind11::object>(
            PyObject_CallOneArg(stream_on_.ptr(), device_.ptr()));
        if (!stream) return nullptr;
        const uintptr_t handle = PyLong_AsUnsignedLongLong(stream.ptr());
        if (PyErr_Occurred()) return nullptr;
        auto action = pybind11::reinterpret_steal<pybind11::object>(
            PyObject_CallOneArg(new_empty_.ptr(), size_.ptr()));
        if (!action) return nullptr;
        // While something traces or maps, there is no memory in it.
        if (!torch_->read_new(action.ptr(), to) || !fits(to, shape_.outputs)) Py_RETURN_NONE;
        const auto address = [](const TensorView& view) {
            return reinterpret_cast<uintptr_t>(view.data);
        };
        if (!decide_(handle, address(from), address(to), check_finite)) Py_RETURN_NONE;
        return action.release().ptr();
    }

    bool fits(const TensorView& view, int64_t columns) const {
        return view.is_like(prototype_) && view.dimensions == 2 && view.shape[0] == shape_.rows &&
               view.shape[1] == columns;
    }

    Decide decide_;
    CallShape shape_;
    std::shared_ptr<Torch> torch_;
    pybind11::object stream_on_, device_, new_empty_, size_;
    TensorView prototype_;
};

// An engine's `decide` as a function for Python, for as many rows as are bound now.
template <class Engine>
pybind11::object call_of(const pybind11::object& self, std::shared_ptr<Torch> torch,
                         const pybind11::object& prototype, pybind11::object stream_on) {
    auto& engine = self.cast<Engine&>();
    const CallShape shape = engine.shape();
    Decide decide = [self, &engine, rows = shape.rows](uintptr_t stream, uintptr_t observation,
                                                       uintptr_t action, bool check_finite) {
        if (engine.shape().rows != rows) throw InUse();  // another thread has bound others
        return engine.decide(stream, observation, action, check_finite);
    };
    return as_function(std::make_unique<Call>(std::move(decide), shape, std::move(torch), prototype,
                                              std::move(stream_on)),
                       "decide");
}

}  // namespace snnkern
