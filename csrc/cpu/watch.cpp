// A function for Python that says whether dictionaries have the entries that they should have, and
// tensors the version counters that they had when it was made. It is asked before every decision,
// which takes 3 µs: so it is a plain built-in function, and does not ask for a counter by its name.

#include "watch.h"

#include <pybind11/stl.h>

#include <memory>
#include <vector>

namespace py = pybind11;

namespace snnkern {
namespace {

struct Table {
    py::dict table;
    std::vector<std::pair<py::object, py::object>> entries;  // that it should have
    uint64_t version;                                        // with which it had them; 0 for none
};

struct Counter {
    py::object tensor;
    long version;
};

class Watch {
  public:
    Watch(const std::vector<std::pair<py::dict, py::dict>>& tables,
          const std::vector<py::object>& tensors, const py::object& version)
        : descriptor_(version) {
        if (!Py_IS_TYPE(version.ptr(), &PyGetSetDescr_Type))
            throw py::type_error("version must be the descriptor of an attribute");
        property_ = reinterpret_cast<PyGetSetDescrObject*>(version.ptr())->d_getset;
        for (const auto& [table, entries] : tables) {
            tables_.push_back({table, {}, 0});
            for (const auto& [key, value] : entries)
                tables_.back().entries.emplace_back(py::reinterpret_borrow<py::object>(key),
                                                    py::reinterpret_borrow<py::object>(value));
        }
        for (const py::object& tensor : tensors) {
            if (!PyObject_TypeCheck(tensor.ptr(), PyDescr_TYPE(version.ptr())))
                throw py::type_error("what is no tensor has no version");
            counters_.push_back({tensor, version_of(tensor)});
        }
    }

    bool unchanged() {
        for (Table& table : tables_) {
            const uint64_t version = version_of_dictionary(table.table.ptr());
            if (version != 0 && version == table.version) continue;
            if (!is_as_expected(table)) return false;
            table.version = version;
        }
        for (const Counter& counter : counters_)
            if (version_of(counter.tensor) != counter.version) return false;
        return true;
    }

  private:
    // What Python up to 3.12 changes at every change of a dictionary; later ones keep no account of
    // it.
    static uint64_t version_of_dictionary(PyObject* dictionary) {
#if PY_VERSION_HEX < 0x030D0000
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // since 3.12
        return reinterpret_cast<PyDictObject*>(dictionary)->ma_version_tag;
#pragma GCC diagnostic pop
#else
        (void)dictionary;
        return 0;
#endif
    }

    static bool is_as_expected(const Table& table) {
        if (table.table.size() != table.entries.size()) return false;
        for (const auto& [key, value] : table.entries)
            if (PyDict_GetItemWithError(table.table.ptr(), key.ptr()) != value.ptr()) {
                if (PyErr_Occurred()) throw py::error_already_set();
                return false;
            }
        return true;
    }

    long version_of(const py::object& tensor) const {
        const auto version =
            py::reinterpret_steal<py::object>(property_->get(tensor.ptr(), property_->closure));
        if (!version) throw py::error_already_set();
        return PyLong_AsLong(version.ptr());
    }

    py::object descriptor_;  // keeps the property alive
    PyGetSetDef* property_;
    std::vector<Table> tables_;
    std::vector<Counter> counters_;
};

constexpr const char* kCapsule = "snnkern.Watch";

PyObject* unchanged(PyObject* capsule, PyObject*) {
    try {
        auto* watch = static_cast<Watch*>(PyCapsule_GetPointer(capsule, kCapsule));
        return PyBool_FromLong(watch->unchanged());
    } catch (py::error_already_set& error) {
        error.restore();
        return nullptr;
    }
}

PyMethodDef kUnchanged{"unchanged", unchanged, METH_NOARGS,
                       "Whether everything is as it was when this function was made."};

py::object watch(const std::vector<std::pair<py::dict, py::dict>>& tables,
                 const std::vector<py::object>& tensors, const py::object& version) {
    auto made = std::make_unique<Watch>(tables, tensors, version);
    const py::capsule capsule(made.get(), kCapsule, [](PyObject* capsule) {
        delete static_cast<Watch*>(PyCapsule_GetPointer(capsule, kCapsule));
    });
    made.release();
    PyObject* function = PyCFunction_NewEx(&kUnchanged, capsule.ptr(), nullptr);
    if (!function) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(function);
}

}  // namespace

void define_watch(py::module_& module) {
    using py::arg;
    module.def("watch", &watch, arg("tables"), arg("tensors"), arg("version"));
}

}  // namespace snnkern
