// What the units of a warp tell each other: shuffles and votes. Each is a barrier of the whole warp.
#pragma once
#include "units.h"

inline unsigned __activemask() {
    unsigned first = current / WARP * WARP, lanes = unit_count - first;
    return lanes >= WARP ? ~0u : (1u << lanes) - 1;
}

// Each unit's value to each; `take` makes of all of them, and of its lane, what a unit gets.
template <class T, class R, class Take> R exchanged(int line, T value, Take take) {
    static T given[WARP];
    static R *places[WARP];
    R result;
    unsigned lane = current % WARP, first = current / WARP * WARP;
    unsigned lanes = unit_count - first < WARP ? unit_count - first : WARP;
    given[lane] = value;
    places[lane] = &result;
    warp_barrier(line, [&] {
        for (unsigned i = 0; i < lanes; i++) *places[i] = take(given, i, lanes);
    });
    return result;
}

// `from` is where a lane looks; where there is none it keeps its own, as CUDA says of up and down.
template <class T, class From> T shuffled(int line, T value, From from) {
    struct Given {
        T value;
        unsigned from;
    };
    unsigned source = from(current % WARP);
    return exchanged<Given, T>(line, {value, source}, [](Given *given, unsigned lane, unsigned lanes) {
        unsigned source = given[lane].from;
        return given[source < lanes ? source : lane].value;
    });
}
// __half and __nv_bfloat16 go through the same.
#define __shfl_sync(mask, value, source) shuffled(__LINE__, value, [=](unsigned) { return unsigned(source) % WARP; })
#define __shfl_xor_sync(mask, value, with) shuffled(__LINE__, value, [=](unsigned lane) { return lane ^ unsigned(with); })
#define __shfl_up_sync(mask, value, delta) shuffled(__LINE__, value, [=](unsigned lane) { return lane - unsigned(delta); })
#define __shfl_down_sync(mask, value, delta) shuffled(__LINE__, value, [=](unsigned lane) { return lane + unsigned(delta); })

inline unsigned ballot(int line, bool value) {
    return exchanged<bool, unsigned>(line, value, [](bool *given, unsigned, unsigned lanes) {
        unsigned all = 0;
        for (unsigned i = 0; i < lanes; i++) all |= unsigned(given[i]) << i;
        return all;
    });
}
#define __ballot_sync(mask, value) ballot(__LINE__, value)
#define __any_sync(mask, value) (ballot(__LINE__, value) != 0)
#define __all_sync(mask, value) (ballot(__LINE__, value) == __activemask())
#define __syncwarp() warp_barrier(__LINE__, [] {})
