// A C++ object as a function of Python's that costs no more than a built-in one.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>

#include "../claim.h"

namespace snnkern {

// The function that calls an object with its arguments, as `object(arguments, count)`. It owns the
// object. What is thrown becomes Python's error; null says that there is one.
template <class Object>
pybind11::object as_function(std::unique_ptr<Object> object, const char* name) {
    static constexpr const char* kCapsule = "snnkern.function";
    const auto call = [](PyObject* capsule, PyObject* const* arguments,
                         Py_ssize_t count) -> PyObject* {
        try {
            return (*static_cast<const Object*>(PyCapsule_GetPointer(capsule, kCapsule)))(arguments,
                                                                                          count);
        } catch (const InUse&) {
            set_in_use();
        } catch (pybind11::error_already_set& error) {
            error.restore();
        } catch (const std::exception& error) {
            PyErr_SetString(PyExc_RuntimeError, error.what());
        }
        return nullptr;
    };
    PyObject* (*const plain)(PyObject*, PyObject* const*, Py_ssize_t) = call;
    static PyMethodDef definition{
        name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(plain)), METH_FASTCALL,
        nullptr};
    const pybind11::capsule capsule(object.get(), kCapsule, [](PyObject* capsule) {
        delete static_cast<Object*>(PyCapsule_GetPointer(capsule, kCapsule));
    });
    object.release();
    PyObject* function = PyCFunction_NewEx(&definition, capsule.ptr(), nullptr);
    if (!function) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::object>(function);
}

}  // namespace snnkern
