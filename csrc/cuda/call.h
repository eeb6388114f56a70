// A decision for Python in one call: what is usual is checked, allocated and launched here.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <utility>

#include "../claim.h"
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

// A function (observation, check_finite) for Python. It returns the action, a new tensor; or None,
// with nothing done, where the observation is not a plain one that lies where `prototype` does.
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

    // A new reference; null with an error set.
    PyObject* operator()(PyObject* observation, bool check_finite) const {
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

    // The function, which owns what it is made from.
    static pybind11::object function(std::unique_ptr<Call> made) {
        static PyMethodDef definition{
            "decide", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&run)),
            METH_FASTCALL, "The action for an observation; None where this is not a plain case."};
        const pybind11::capsule capsule(made.get(), kCapsule, [](PyObject* capsule) {
            delete static_cast<Call*>(PyCapsule_GetPointer(capsule, kCapsule));
        });
        made.release();
        PyObject* function = PyCFunction_NewEx(&definition, capsule.ptr(), nullptr);
        if (!function) throw pybind11::error_already_set();
        return pybind11::reinterpret_steal<pybind11::object>(function);
    }

  private:
    static constexpr const char* kCapsule = "snnkern.Call";

    static PyObject* run(PyObject* capsule, PyObject* const* arguments, Py_ssize_t count) {
        if (count != 2) {
            PyErr_SetString(PyExc_TypeError, "takes an observation and whether it must be finite");
            return nullptr;
        }
        try {
            const auto* made = static_cast<const Call*>(PyCapsule_GetPointer(capsule, kCapsule));
            const int check_finite = PyObject_IsTrue(arguments[1]);
            return check_finite < 0 ? nullptr : (*made)(arguments[0], check_finite != 0);
        } catch (const InUse&) {
            set_in_use();
        } catch (pybind11::error_already_set& error) {
            error.restore();
        } catch (const std::exception& error) {
            PyErr_SetString(PyExc_RuntimeError, error.what());
        }
        return nullptr;
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

}  // namespace snnkern
