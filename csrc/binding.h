// What Python's numbers become, in every Python module.
#pragma once

#include "neuron.h"

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

}  // namespace snnkern
