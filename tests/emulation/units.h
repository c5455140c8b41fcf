// What a kernel's text sees of the units of a cube: where it is, and where it waits.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

struct Index {
    unsigned x, y, z;
};
extern Index threadIdx, blockIdx, gridDim, blockDim;

const unsigned WARP = 32;
// The unit that runs, of unit_count, by its number in the cube.
extern unsigned current, unit_count;
// Shared memory of the cube that runs, not a byte more than its kernel asks for.
extern char *shared_memory;

// Says what is wrong with a kernel, and in which cube; does not come back.
[[noreturn]] void fail(const char *format, ...);

// A barrier is where the text calls it: a line of the program.
void cube_barrier(int line);
// A warp meets, and the last to come does `work` for all; true for that one.
bool warp_meets(int line, void (*work)(void *), void *with);
// Whether nobody of this unit's warp waits at a warp's barrier yet.
bool first_at_warp();

// This unit goes on when `done` says so.
void wait_until(bool (*done)(void *), void *with);

template <class Work> bool warp_barrier(int line, Work work) {
    return warp_meets(line, [](void *with) { (*static_cast<Work *>(with))(); }, &work);
}
