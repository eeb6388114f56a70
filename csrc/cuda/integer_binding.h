// Adds the actor that sums integers to the Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace snnkern {

void define_integer_engine(pybind11::module_& module);

}  // namespace snnkern
