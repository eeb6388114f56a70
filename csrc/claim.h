// What an engine works on is one thread's at a time.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <exception>

namespace snnkern {

// A thread came while another was deciding: InUseError of snnkern.errors.
struct InUse {};

// What a decision works on is one thread's until it is done. A decision may release the GIL, so
// another thread may come meanwhile, to decide or to bind: it is refused before it changes
// anything.
class Claim {
  public:
    explicit Claim(std::atomic<bool>& busy) : busy_(busy) {
        if (busy_.exchange(true)) throw InUse();
    }
    ~Claim() { busy_ = false; }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

  private:
    std::atomic<bool>& busy_;
};

inline void set_in_use() {
    pybind11::set_error(pybind11::module_::import("snnkern.errors").attr("InUseError"),
                        "two threads use one spiking actor at once: give each thread its own "
                        "(copy.deepcopy)");
}

// Once for each module: what Python gets to see of it.
inline void translate_in_use() {
    pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const InUse&) {
            set_in_use();
        }
    });
}

}  // namespace snnkern
