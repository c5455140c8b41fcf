// cuda::barrier in shared memory, and the copies that a phase of it waits for.
//
// A copy is done as late as it may be: when the phase ends of the barrier that was told of it.
#pragma once
#include "units.h"
#include <utility>

// This unit's copy, which no barrier is told of yet; what is not read is zero.
void begin_copy(char *to, const char *from, unsigned bytes, unsigned read);
// This unit's copies are the present phase's; the phase ends, and they are done; there is no phase yet.
void await_copies(const void *barrier);
void end_phase(const void *barrier);
void forget_phase(const void *barrier);

namespace cuda {
enum thread_scope { thread_scope_thread, thread_scope_block };

// As long as the hardware's.
template <thread_scope> struct barrier {
    uint16_t expected, arrived;
    uint32_t phase;
    typedef uint32_t arrival_token;

    arrival_token arrive() {
        uint32_t token = phase;
        if (++arrived == expected) {
            end_phase(this);
            arrived = 0, phase++;
        }
        return token;
    }
    void wait(arrival_token token) {
        std::pair<barrier *, uint32_t> with{this, token};
        wait_until([](void *with) {
            auto [it, token] = *static_cast<std::pair<barrier *, uint32_t> *>(with);
            return it->phase != token;
        }, &with);
    }
    void wait_parity(uint32_t parity) {
        std::pair<barrier *, uint32_t> with{this, parity};
        wait_until([](void *with) {
            auto [it, parity] = *static_cast<std::pair<barrier *, uint32_t> *>(with);
            return it->phase % 2 != parity;
        }, &with);
    }
    void arrive_and_wait() { wait(arrive()); }
};
static_assert(sizeof(barrier<thread_scope_block>) == 8, "text has eight bytes for it");

template <thread_scope scope> void init(barrier<scope> *it, unsigned expected) {
    forget_phase(it);
    *it = {uint16_t(expected), 0, 0};
}
namespace device {
template <thread_scope scope> barrier<scope> *barrier_native_handle(barrier<scope> &it) { return &it; }
namespace experimental {
inline void fence_proxy_async_shared_cta() {}
} // namespace experimental
} // namespace device
} // namespace cuda
