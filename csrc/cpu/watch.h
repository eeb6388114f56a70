// Whether what an engine was packed from is as it was.
#pragma once

#include <pybind11/pybind11.h>

namespace snnkern {

void define_watch(pybind11::module_& module);

}  // namespace snnkern
