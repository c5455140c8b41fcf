// A cube's units as coroutines, the barriers where they wait for each other, and the three orders.
//
// A warp runs until all its units wait for the cube or have ended, then the next warp: whatever two
// units do between two barriers happens in one order of the units in the first order and in the other
// in the second. What a barrier is and who must reach it is as strict as CUDA's manual, not as
// lenient as a GPU: all units of the cube, all at the same __syncthreads.
#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>
#include <ucontext.h>

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim, blockDim;

static void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    std::vfprintf(stderr, format, values);
    std::fprintf(stderr, ", cube %u %u %u\n", blockIdx.x, blockIdx.y, blockIdx.z);
    std::exit(3);
}

const unsigned WARP = 32;
const size_t STACK = 1 << 20;
enum State { READY, AT_CUBE, AT_WARP, ENDED };

struct Unit {
    ucontext_t context;
    // Where it stopped, and whether it ever began.
    void *stopped[5];
    bool begun = false;
    std::unique_ptr<char[]> stack;
    State state = ENDED;
    // Which barrier it waits at: a line of this program.
    int line = 0;
};
static void *scheduler[5];
static std::vector<Unit> units;
static unsigned current;
static std::function<void()> kernel;
// Shared memory of the cube that runs, not a byte more than its kernel asks for.
static char *shared_memory;

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

static void cube_barrier(int line) { wait(AT_CUBE, line); }

// A warp meets, and the last to come does `work` for all; true for that one.
static bool warp_barrier(int line, const std::function<void()> &work) {
    unsigned first = current / WARP * WARP, end = std::min<unsigned>(first + WARP, units.size());
    for (unsigned other = first; other < end; other++) {
        if (other == current) continue;
        if (units[other].state != AT_WARP || units[other].line != line) {
            wait(AT_WARP, line);
            return false;
        }
    }
    work();
    for (unsigned other = first; other < end; other++) units[other].state = READY;
    return true;
}

static void unit() {
    for (;;) {
        kernel();
        wait(ENDED, 0);
    }
}

static void make_units(unsigned count) {
    units = std::vector<Unit>(count);
    for (Unit &u : units) {
        u.stack.reset(new char[STACK]);
        getcontext(&u.context);
        u.context.uc_stack.ss_sp = u.stack.get();
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
    threadIdx = {index, 0, 0};
    Unit &next = units[index];
    next.state = READY;
    if (__builtin_setjmp(scheduler)) return;
    if (next.begun) leave(next.stopped);
    next.begun = true;
    setcontext(&next.context);
}

static void run_cube(unsigned order) {
    unsigned count = units.size(), in_warp = std::min(WARP, count);
    auto warps = ordered((count + WARP - 1) / WARP, order, 7), lanes = ordered(in_warp, order, 11);
    for (Unit &u : units) u.state = READY;
    for (;;) {
        for (unsigned warp : warps)
            for (bool ran = true; ran;) {
                ran = false;
                for (unsigned lane : lanes) {
                    unsigned index = warp * WARP + lane;
                    if (index >= count || units[index].state != READY) continue;
                    resume(index);
                    ran = true;
                }
            }
        // Nobody can go on before somebody is let through.
        for (unsigned i = 1; i < count; i++) {
            if (units[i].state != units[0].state || units[i].line != units[0].line) {
                const char *what[] = {"is ready", "waits for the cube", "waits for its warp", "has ended"};
                fail("a barrier is not reached by all: unit 0 %s at line %d, unit %u %s at line %d",
                     what[units[0].state], units[0].line, i, what[units[i].state], units[i].line);
            }
        }
        if (units[0].state == ENDED) return;
        if (units[0].state == AT_WARP) fail("a warp's barrier is not reached by all of it");
        for (Unit &u : units) u.state = READY;
    }
}
