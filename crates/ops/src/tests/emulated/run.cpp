// Runs flash attention's kernels, cube by cube, on what stdin says; gradients to stdout.
//
// A cube's 128 units are coroutines that change places at barriers. The kernels come before this, in
// the namespaces forward, dq and dkdv, as FORWARD, DQ and DKDV.

const int UNITS = 128;
static ucontext_t scheduler, units[UNITS];
static std::vector<char> stacks[UNITS];
static bool ended[UNITS];
static int current;
static std::function<void()> kernel;

struct Barrier {
    int waiting = 0;
    long passed = 0;
    void wait(int members) {
        long before = passed;
        if (++waiting == members) {
            waiting = 0;
            passed++;
        }
        while (passed == before) swapcontext(&units[current], &scheduler);
    }
};
static Barrier cube, warps[UNITS / 32];
static void cube_barrier() { cube.wait(UNITS); }
static void warp_barrier() { warps[current / 32].wait(32); }

static void unit() {
    kernel();
    ended[current] = true;
    swapcontext(&units[current], &scheduler);
}

static void launch(unsigned cubes) {
    gridDim = {cubes, 1, 1};
    blockDim = {UNITS, 1, 1};
    for (unsigned index = 0; index < cubes; index++) {
        blockIdx = {index, 0, 0};
        for (int i = 0; i < UNITS; i++) {
            stacks[i].resize(1 << 20);
            getcontext(&units[i]);
            units[i].uc_stack.ss_sp = stacks[i].data();
            units[i].uc_stack.ss_size = stacks[i].size();
            units[i].uc_link = nullptr;
            makecontext(&units[i], unit, 0);
            ended[i] = false;
        }
        for (bool running = true; running;) {
            running = false;
            for (current = 0; current < UNITS; current++) {
                if (ended[current]) continue;
                running = true;
                threadIdx = {unsigned(current), 0, 0};
                swapcontext(&scheduler, &units[current]);
            }
        }
    }
}

template <class T> std::vector<T> read(size_t count) {
    std::vector<T> values(count);
    if (std::fread(values.data(), sizeof(T), count, stdin) != count) std::exit(2);
    return values;
}

static void write(const std::vector<uint16_t> &values) {
    std::fwrite(values.data(), 2, values.size(), stdout);
}

int main() {
    auto shape = read<uint32_t>(6);
    auto [tokens, key_rows, heads, kv_heads, head_dim, words] =
        std::tie(shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]);
    auto numbers = read<float>(2);
    auto visible = read<uint32_t>(words);
    size_t queries = size_t(tokens) * heads * head_dim, keys = size_t(key_rows) * kv_heads * head_dim;
    auto q = read<uint16_t>(queries), k = read<uint16_t>(keys), v = read<uint16_t>(keys);
    auto d_o = read<uint16_t>(queries);
    // What a kernel forgets to write is not a number.
    std::vector<uint16_t> o(queries, 0x7fc0), grad_q(o), dk(keys, 0x7fc0), dv(dk);
    std::vector<float> lse(size_t(tokens) * heads, NAN), delta(lse);
    unsigned tiles = (tokens + 63) / 64, key_tiles = (key_rows + 63) / 64;

#define VECTORS(space, values) reinterpret_cast<space::__nv_bfloat16_8 *>(values.data())
#define INFO(space, third) \
    space::info_st info{}; \
    unsigned scalars[] = {tokens, key_rows, third, heads, kv_heads}; \
    std::copy(scalars, scalars + 5, info.scalars_usize); \
    std::copy(numbers.begin(), numbers.end(), info.scalars_f32);
    {
        INFO(forward, tiles)
        kernel = [&] {
            forward::FORWARD(VECTORS(forward, q), VECTORS(forward, k), VECTORS(forward, v), visible.data(),
                             VECTORS(forward, o), lse.data(), info);
        };
        launch(tiles * heads);
    }
    {
        INFO(dq, tiles)
        kernel = [&] {
            dq::DQ(VECTORS(dq, q), VECTORS(dq, k), VECTORS(dq, v), VECTORS(dq, o), VECTORS(dq, d_o),
                   visible.data(), lse.data(), delta.data(), VECTORS(dq, grad_q), info);
        };
        launch(tiles * heads);
    }
    {
        INFO(dkdv, 2 * (tokens + tiles))
        kernel = [&] {
            dkdv::DKDV(VECTORS(dkdv, q), VECTORS(dkdv, k), VECTORS(dkdv, v), VECTORS(dkdv, d_o), visible.data(),
                       lse.data(), delta.data(), VECTORS(dkdv, dk), VECTORS(dkdv, dv), info);
        };
        launch(key_tiles * kv_heads);
    }
    for (auto *values : {&o, &grad_q, &dk, &dv}) write(*values);
}
