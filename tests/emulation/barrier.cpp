// The copies that units began, as late as they may be done.
#include "barrier.h"
#include "units.h"
#include <map>
#include <vector>

struct Copy {
    char *to;
    const char *from;
    unsigned bytes, read;
};
static std::map<unsigned, std::vector<Copy>> of_units;
static std::map<const void *, std::vector<Copy>> of_barriers;

// The driver has a look at what a copy touches.
static void (*looks)(const void *at, size_t bytes, bool writes) = nullptr;

void begin_copy(char *to, const char *from, unsigned bytes, unsigned read) {
    if (looks && read > 0) looks(from, read, false);
    if (looks) looks(to, bytes, true);
    of_units[current].push_back({to, from, bytes, read});
}
void await_copies(const void *barrier) {
    auto &own = of_units[current], &phase = of_barriers[barrier];
    phase.insert(phase.end(), own.begin(), own.end());
    own.clear();
}
void end_phase(const void *barrier) {
    for (const Copy &copy : of_barriers[barrier]) {
        std::memcpy(copy.to, copy.from, copy.read);
        std::memset(copy.to + copy.read, 0, copy.bytes - copy.read);
    }
    of_barriers[barrier].clear();
}
void forget_phase(const void *barrier) { of_barriers[barrier].clear(); }
