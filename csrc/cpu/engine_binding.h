// What the two halves of the Python module share: the kernels of a layer (bindings.cpp) and the
// engine.
#pragma once

#include <pybind11/pybind11.h>

#include "../neuron.h"

namespace snnkern {

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Python's numbers in the precision of a kernel.
template <class Real>
Parameters<Real> parameters(int levels, double initial_fraction, double negative_fraction,
                            double alpha, double memory, double clip) {
    return {static_cast<Real>(initial_fraction),
            static_cast<Real>(negative_fraction),
            static_cast<Real>(alpha),
            static_cast<Real>(memory),
            static_cast<Real>(clip),
            levels};
}

void define_engine(pybind11::module_& module);

}  // namespace snnkern
