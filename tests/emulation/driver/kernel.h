// What a compiled kernel and the driver know of each other.
#pragma once
#include <cstddef>
#include <cstdint>

// One argument of a kernel.
struct Parameter {
    // Of the argument itself, and of what it points to; the latter 0 where it is no pointer.
    uint32_t bytes, element_bytes;
};

struct Kernel {
    const char *name;
    uint32_t units; // of a cube, as its launch bounds say
    uint32_t parameter_count;
    const Parameter *parameters;
    // Whether the last pointer is CubeCL's list of shapes and strides, and no buffer.
    bool shapes;
    // Calls it for one unit, with the addresses of its arguments.
    void (*call)(void **arguments);
    // How many elements each buffer has, in the order of the pointers, of an `info` argument.
    // -1 where CubeCL does not say.
    int64_t (*length)(const void *info, uint32_t buffer);
};
// A compiled file exports `extern "C" const Kernel kernel`.
