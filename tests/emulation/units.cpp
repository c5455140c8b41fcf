// A cube's units as coroutines, the barriers where they wait for each other, and the three orders.
//
// A warp runs until all its units wait for the cube or have ended, then the next warp: whatever two
// units do between two barriers happens in one order of the units in the first order and in the other
// in the second. What a barrier is and who must reach it is as strict as CUDA's manual, not as
// lenient as a GPU: all units of the cube, all at the same __syncthreads.
#include "units.h"
#include "barrier.cpp"
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>

Index threadIdx, blockIdx, gridDim, blockDim;
unsigned current, unit_count;
char *shared_memory;
// The kernel that runs, where there are several.
static std::string kernel_name;

void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    std::vfprintf(stderr, format, values);
    std::fprintf(stderr, ", cube %u %u %u %s\n", blockIdx.x, blockIdx.y, blockIdx.z, kernel_name.c_str());
    std::_Exit(3);
}

const size_t STACK = 1 << 18, MOST_UNITS = 1024;
// All stacks, one after the other.
static char *const stacks = static_cast<char *>(
    mmap(nullptr, STACK * MOST_UNITS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
enum State { READY, AT_CUBE, AT_WARP, UNTIL, ENDED };

struct Unit {
    ucontext_t context;
    // Where it stopped, and whether it ever began.
    void *stopped[5];
    bool begun = false;
    State state = ENDED;
    // Which barrier it waits at: a line of this program.
    int line = 0;
    // What it waits for, where it is no barrier.
    bool (*done)(void *) = nullptr;
    void *with = nullptr;
    bool may_go_on() { return state == READY || (state == UNTIL && done(with)); }
};
static void *scheduler[5];
static std::vector<Unit> units;
static std::function<void()> kernel;

// Units change places by the compiler's own long jump: swapcontext asks the kernel each time, and the
// sanitizer sweeps a whole stack. These functions must not be inlined, nor be instrumented.
#define JUMPS __attribute__((noinline, no_sanitize("address")))

JUMPS static void leave(void **to) { __builtin_longjmp(to, 1); }

JUMPS static void wait(State state, int line) {
    Unit &own = units[current];
    own.state = state;
    own.line = line;
    if (!__builtin_setjmp(own.stopped)) leave(scheduler);
}

void cube_barrier(int line) { wait(AT_CUBE, line); }

void wait_until(bool (*done)(void *), void *with) {
    units[current].done = done;
    units[current].with = with;
    if (!done(with)) wait(UNTIL, 0);
}

static unsigned warp_begins() { return current / WARP * WARP; }
static unsigned warp_ends() { return std::min(warp_begins() + WARP, unit_count); }

bool first_at_warp() {
    for (unsigned other = warp_begins(); other < warp_ends(); other++)
        if (other != current && units[other].state == AT_WARP) return false;
    return true;
}

bool warp_meets(int line, void (*work)(void *), void *with) {
    for (unsigned other = warp_begins(); other < warp_ends(); other++) {
        if (other == current) continue;
        if (units[other].state != AT_WARP || units[other].line != line) {
            wait(AT_WARP, line);
            return false;
        }
    }
    work(with);
    for (unsigned other = warp_begins(); other < warp_ends(); other++) units[other].state = READY;
    return true;
}

static void unit() {
    for (;;) {
        kernel();
        wait(ENDED, 0);
    }
}

static void make_units(unsigned count) {
    if (count > MOST_UNITS) fail("a cube of %u units", count);
    if (units.size() < count) units.resize(count);
    unit_count = count;
    for (unsigned i = 0; i < count; i++) {
        Unit &u = units[i];
        u.begun = false;
        getcontext(&u.context);
        u.context.uc_stack.ss_sp = stacks + i * STACK;
        u.context.uc_stack.ss_size = STACK;
        u.context.uc_link = nullptr;
        makecontext(&u.context, unit, 0);
    }
}

const unsigned ORDERS = 3;

// Of `count` things: ascending, descending, shuffled.
static std::vector<unsigned> ordered(unsigned count, unsigned order, unsigned seed) {
    std::vector<unsigned> all(count);
    std::iota(all.begin(), all.end(), 0);
    if (order == 1) std::reverse(all.begin(), all.end());
    if (order == 2) std::shuffle(all.begin(), all.end(), std::mt19937(seed));
    return all;
}

JUMPS static void resume(unsigned index) {
    current = index;
    threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
    Unit &next = units[index];
    next.state = READY;
    if (__builtin_setjmp(scheduler)) return;
    if (next.begun) leave(next.stopped);
    next.begun = true;
    setcontext(&next.context);
}

static void run_cube(unsigned order) {
    unsigned count = unit_count, in_warp = std::min(WARP, count);
    auto warps = ordered((count + WARP - 1) / WARP, order, 7), lanes = ordered(in_warp, order, 11);
    for (unsigned i = 0; i < count; i++) units[i].state = READY;
    for (;;) {
        for (unsigned warp : warps)
            for (bool ran = true; ran;) {
                ran = false;
                for (unsigned lane : lanes) {
                    unsigned index = warp * WARP + lane;
                    if (index >= count || !units[index].may_go_on()) continue;
                    resume(index);
                    ran = true;
                }
            }
        bool more = false;
        for (unsigned i = 0; i < count && !more; i++) more = units[i].may_go_on();
        if (more) continue;
        // Nobody can go on before somebody is let through.
        for (unsigned i = 1; i < count; i++) {
            if (units[i].state != units[0].state || units[i].line != units[0].line) {
                const char *what[] = {"is ready", "waits for the cube", "waits for its warp", "waits for a phase",
                                      "has ended"};
                fail("a barrier is not reached by all: unit 0 %s at line %d, unit %u %s at line %d",
                     what[units[0].state], units[0].line, i, what[units[i].state], units[i].line);
            }
        }
        if (units[0].state == ENDED) return;
        if (units[0].state == UNTIL) fail("a phase does not end");
        if (units[0].state == AT_WARP) fail("a warp's barrier is not reached by all of it");
        for (unsigned i = 0; i < count; i++) units[i].state = READY;
    }
}
