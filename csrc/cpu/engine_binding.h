// Python's view of the engine.
#pragma once

#include <pybind11/pybind11.h>

namespace snnkern {

void define_engine(pybind11::module_& module);

}  // namespace snnkern
