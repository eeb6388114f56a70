// Torch's tensors, for native code that is built without torch: what a tensor is, in nanoseconds.
// From release 2.10 on, torch has DLPack's table of C functions (version 1 of it); what DLPack does
// not say is asked of functions of torch's classes, which Python gives.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>

namespace snnkern {

// What a tensor is, as DLPack lays it out. Shape and strides count elements, and are the tensor's.
struct TensorView {
    void* data;
    int32_t device_type, device;
    int32_t dimensions;
    uint8_t type_code, bits;
    uint16_t lanes;
    const int64_t* shape;
    const int64_t* strides;
    uint64_t byte_offset;

    int64_t count() const {
        int64_t numbers = 1;
        for (int i = 0; i < dimensions; ++i) numbers *= shape[i];
        return numbers;
    }
    bool is_contiguous() const {
        int64_t distance = 1;
        for (int i = dimensions - 1; i >= 0; --i) {
            if (shape[i] != 1 && strides[i] != distance) return false;
            distance *= shape[i];
        }
        return true;
    }
    bool is_like(
        const TensorView& other) const {  // in what one pointer can be told from another by
        return device_type == other.device_type && device == other.device &&
               type_code == other.type_code && bits == other.bits && lanes == other.lanes;
    }
};

// DLPack's table, up to the function that is used here. `major` is the version of this layout.
struct TensorTable {
    uint32_t major, minor;
    const TensorTable* older;
    void* allocate;
    void* to_managed;
    void* from_managed;
    int (*describe)(void* object, TensorView* view);
};

// How tensors are read: what Python gives of torch's classes.
class Torch {
  public:
    // torch.Tensor, the capsule of its table, and of its classes: the attribute `requires_grad` and
    // the methods `is_neg`, `storage_offset`, `untyped_storage` and, of a storage, `nbytes`.
    Torch(pybind11::object tensor, const pybind11::capsule& table, pybind11::object requires_grad,
          pybind11::object is_neg, pybind11::object storage_offset,
          pybind11::object untyped_storage, pybind11::object nbytes)
        : tensor_(std::move(tensor)),
          requires_grad_(std::move(requires_grad)),
          is_neg_(std::move(is_neg)),
          storage_offset_(std::move(storage_offset)),
          untyped_storage_(std::move(untyped_storage)),
          nbytes_(std::move(nbytes)) {
        if (!Py_IS_TYPE(requires_grad_.ptr(), &PyGetSetDescr_Type))
            throw pybind11::type_error("requires_grad must be the descriptor of an attribute");
        gradient_ = reinterpret_cast<PyGetSetDescrObject*>(requires_grad_.ptr())->d_getset;
        const auto* found =
            static_cast<const TensorTable*>(PyCapsule_GetPointer(table.ptr(), kTableName));
        if (!found) throw pybind11::error_already_set();
        while (found && found->major != kTableVersion) found = found->older;
        if (!found || !found->describe)
            throw pybind11::value_error("this torch has no table of DLPack's version 1");
        describe_ = found->describe;
    }

    // Whether an object is a tensor whose numbers are those of its memory, row by row: of torch's
    // own class and no other, dense and contiguous, with all of its memory, without a gradient to
    // be computed. What is not is not told apart: the caller asks Python about it.
    bool read(PyObject* object, TensorView& view) const {
        const bool plain =
            describe(object, view) && is_as_it_says(object) && has_its_memory(object, view);
        if (PyErr_Occurred()) PyErr_Clear();
        return plain;
    }

    // The same of what torch has just made as an empty tensor: less can be amiss.
    bool read_new(PyObject* object, TensorView& view) const {
        const bool plain = describe(object, view);
        if (PyErr_Occurred()) PyErr_Clear();
        return plain;
    }

  private:
    static constexpr const char* kTableName = "dlpack_exchange_api";
    static constexpr uint32_t kTableVersion = 1;

    bool describe(PyObject* object, TensorView& view) const {
        return reinterpret_cast<PyObject*>(Py_TYPE(object)) == tensor_.ptr() &&
               describe_(object, &view) == 0 && view.data && view.byte_offset == 0 &&
               view.is_contiguous();
    }

    // DLPack's description leaves out gradients, and signs that are still to be turned.
    bool is_as_it_says(PyObject* tensor) const {
        const auto gradient = pybind11::reinterpret_steal<pybind11::object>(
            gradient_->get(tensor, gradient_->closure));
        return gradient && gradient.ptr() == Py_False && ask(is_neg_, tensor) == 0;
    }

    // A storage can be made smaller than the tensor that lies in it.
    bool has_its_memory(PyObject* tensor, const TensorView& view) const {
        const auto storage = pybind11::reinterpret_steal<pybind11::object>(
            PyObject_CallOneArg(untyped_storage_.ptr(), tensor));
        if (!storage) return false;
        const int64_t last = ask(storage_offset_, tensor) + view.count();
        return last * (view.bits / 8) <= ask(nbytes_, storage.ptr());
    }

    // The number that a function of one argument returns; -1 where it raises.
    static int64_t ask(const pybind11::object& function, PyObject* of) {
        const auto answer =
            pybind11::reinterpret_steal<pybind11::object>(PyObject_CallOneArg(function.ptr(), of));
        return answer ? PyLong_AsLongLong(answer.ptr()) : -1;
    }

    pybind11::object tensor_, requires_grad_, is_neg_, storage_offset_, untyped_storage_, nbytes_;
    PyGetSetDef* gradient_;
    int (*describe_)(void* object, TensorView* view);
};

}  // namespace snnkern
