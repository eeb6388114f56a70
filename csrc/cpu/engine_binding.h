// What the two halves of the Python module share: the kernels of a layer (bindings.cpp) and the
// engine.
#pragma once

#include <pybind11/pybind11.h>

#include "../binding.h"

namespace snnkern {

void define_engine(pybind11::module_& module);

}  // namespace snnkern
