// Bugs on purpose: sanitize.sh sees whether the sanitizers report them.

#include <thread>

extern "C" float overflow(void) {
    volatile int size = 4;
    float* values = new float[size]();
    const float behind = values[size];
    delete[] values;
    return behind;
}

extern "C" int shift(void) {
    volatile int bits = 32;
    return 1 << bits;
}

extern "C" int race(void) {
    int count = 0;
    std::thread other([&count] { ++count; });
    ++count;
    other.join();
    return count;
}
