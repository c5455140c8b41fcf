// One launch that stdin describes, run in every order; what its buffers hold then to stdout.
//
// The kernels come before this, and `choose`, which calls `launch` with one of them.

struct Buffer {
    size_t bytes;
    std::vector<char> given;
    // As long as it is said to be, so that the sanitizer sees whoever goes beyond.
    char *memory;
};

struct Launch {
    unsigned kernel, cubes[3], units, shared_bytes;
    std::vector<Buffer> buffers;
    std::vector<uint32_t> usizes, words, floats;
};

template <class T, size_t N> void fill(T (&to)[N], const std::vector<uint32_t> &from, const char *what) {
    // CubeCL pads each kind to eight bytes.
    if (from.size() > N || from.size() + 2 <= N) fail("%zu scalars %s for %zu", from.size(), what, N);
    std::memcpy(to, from.data(), 4 * from.size());
}
template <class I> auto fill_usizes(I &i, const Launch &l, int) -> decltype(i.scalars_usize, void()) {
    fill(i.scalars_usize, l.usizes, "usize");
}
template <class I> void fill_usizes(I &, const Launch &, long) {}
template <class I> auto fill_words(I &i, const Launch &l, int) -> decltype(i.scalars_u32, void()) {
    fill(i.scalars_u32, l.words, "u32");
}
template <class I> void fill_words(I &, const Launch &, long) {}
template <class I> auto fill_floats(I &i, const Launch &l, int) -> decltype(i.scalars_f32, void()) {
    fill(i.scalars_f32, l.floats, "f32");
}
template <class I> void fill_floats(I &, const Launch &, long) {}

template <class T> struct Argument {
    static T of(Launch &l, size_t &) {
        T info{};
        fill_usizes(info, l, 0);
        fill_words(info, l, 0);
        fill_floats(info, l, 0);
        std::vector<uint32_t> lengths;
        for (Buffer &b : l.buffers) lengths.push_back(b.bytes / 4);
        fill(info.static_meta, lengths, "lengths");
        return info;
    }
};
template <class T> struct Argument<T *> {
    static T *of(Launch &l, size_t &next) {
        if (next == l.buffers.size()) fail("more buffers are wanted than %zu", next);
        return reinterpret_cast<T *>(l.buffers[next++].memory);
    }
};

template <class... A> void launch(void (*function)(A...), Launch &l) {
    size_t next = 0;
    std::tuple<std::decay_t<A>...> arguments{Argument<std::decay_t<A>>::of(l, next)...};
    if (next != l.buffers.size()) fail("%zu buffers, and %zu are wanted", l.buffers.size(), next);
    kernel = [=] { std::apply(function, arguments); };
}

static void choose(Launch &);

static void run(Launch &l, unsigned order) {
    for (Buffer &b : l.buffers) std::memcpy(b.memory, b.given.data(), b.bytes);
    unsigned count = l.cubes[0] * l.cubes[1] * l.cubes[2];
    for (unsigned index : ordered(count, order, 5)) {
        blockIdx = {index % l.cubes[0], index / l.cubes[0] % l.cubes[1], index / l.cubes[0] / l.cubes[1]};
        std::memset(shared_memory, 0xff, l.shared_bytes); // NaN in every type
        run_cube(order);
    }
}

static void read(void *to, size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(2);
}
static std::vector<uint32_t> read_words() {
    uint32_t count;
    read(&count, 4);
    std::vector<uint32_t> all(count);
    read(all.data(), 4 * count);
    return all;
}

// Not a byte more, which std::aligned_alloc would want.
static char *allocated(size_t alignment, size_t bytes) {
    void *memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes) != 0) std::exit(2);
    return static_cast<char *>(memory);
}

extern "C" const char *__asan_default_options() {
    return "detect_leaks=0:detect_stack_use_after_return=0:exitcode=3";
}

int main() {
    Launch l;
    read(&l, 6 * 4);
    for (uint32_t bytes : read_words()) l.buffers.push_back({bytes, std::vector<char>(bytes), nullptr});
    for (Buffer &b : l.buffers) {
        read(b.given.data(), b.bytes);
        b.memory = allocated(512, b.bytes);
    }
    l.usizes = read_words();
    l.words = read_words();
    l.floats = read_words();
    shared_memory = allocated(32, l.shared_bytes);
    gridDim = {l.cubes[0], l.cubes[1], l.cubes[2]};
    blockDim = {l.units, 1, 1};
    make_units(l.units);
    choose(l);
    run(l, 0);
    std::vector<std::vector<char>> first;
    for (Buffer &b : l.buffers) first.emplace_back(b.memory, b.memory + b.bytes);
    for (unsigned order = 1; order < ORDERS; order++) {
        run(l, order);
        for (size_t i = 0; i < l.buffers.size(); i++)
            for (size_t at = 0; at < l.buffers[i].bytes; at++)
                if (l.buffers[i].memory[at] != first[i][at])
                    fail("units or cubes depend on their order: byte %zu of buffer %zu differs", at, i);
    }
    for (auto &bytes : first) std::fwrite(bytes.data(), 1, bytes.size(), stdout);
}
