// The parts of the Python module beside the kernels of a layer (bindings.cpp): the engines.
#pragma once

#include <pybind11/pybind11.h>

#include "../binding.h"

namespace snnkern {

void define_engine(pybind11::module_& module);
void define_staged_engine(pybind11::module_& module);

}  // namespace snnkern
