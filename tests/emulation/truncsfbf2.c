/* f32 to bf16, to nearest even, as compiler runtimes since GCC 13's have it. What CubeCL compiles for a CPU without
 * AVX512-BF16 calls it, and where it is missing the kernel does not run: `make test-cube` loads it first.
 * A bf16 is returned where a float is, in its lower half (x86-64 psABI; AArch64 alike). */
#include <stdint.h>
#include <string.h>

float __truncsfbf2(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        bits = bits >> 16 | 0x40; /* quiet */
    else
        bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    memcpy(&x, &bits, sizeof bits);
    return x;
}
