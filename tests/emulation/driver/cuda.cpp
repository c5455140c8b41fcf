// libcuda.so.1 on a host: the driver as CubeCL's runtime calls it, with host memory for the device's.
//
// What is as on a GPU: allocations that are used up, pointers that the host must not read, streams
// whose work is done when somebody waits for it and not before (each command waits in its stream's
// queue until then, which is as late as a GPU may be), events between streams, contexts that must be
// current, and errors where the manual has them. What is stricter: memory begins as NaN, a copy must
// lie in one allocation, and a kernel that touches a byte outside of its arguments, shared memory and
// its own variables ends the program. What is not there: graphs, tensor maps, several contexts of a
// device, and time: an event's clock counts the accesses of kernels, so that whoever chooses by time
// chooses the same each time.
//
// EMULATED_GPUS, _MEMORY (bytes of each), _CAPABILITY (80), _DRIVER (12040) and _INIT (what cuInit says)
// set the machine, _ORDER (0, 1, 2) the order of units and cubes, _LOG a file for what was launched.
#include "../units.cpp"
#include "kernel.h"
#include "result.h"
#include <deque>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>

static long long setting(const char *name, long long otherwise) {
    const char *value = std::getenv(name);
    return value ? std::atoll(value) : otherwise;
}

static std::recursive_mutex mutex;
#define EXCLUSIVE std::lock_guard<std::recursive_mutex> exclusive(mutex)

// ---------------------------------------------------------------------------------------- devices

typedef int Device;
typedef uint64_t Pointer;

struct Stream;
struct Context {
    Device device;
    uint64_t used = 0;
    std::vector<std::pair<Stream *, uint64_t>> awaited; // what new streams wait for, too
};
static std::vector<Context> contexts; // the primary one of each device
static bool begun = false;
static thread_local Context *context = nullptr;

static uint64_t memory_bytes() { return setting("EMULATED_MEMORY", 1 << 30); }

#define NEEDS_CONTEXT                                                                                     \
    if (!begun) return NOT_INITIALIZED;                                                                   \
    if (!context) return INVALID_CONTEXT;

// ----------------------------------------------------------------------------------------- memory

struct Allocation {
    uint64_t bytes, counted;
    Context *owner;
};
static std::map<Pointer, Allocation> allocations;
static std::map<char *, size_t> pinned;
// Where the device's addresses begin: no host pointer is near.
const Pointer DEVICE = 0x100000000000;
static Pointer next_address = DEVICE;

// The allocation that has all of these bytes.
static const Allocation *holder(Pointer at, uint64_t bytes, Pointer *begins = nullptr) {
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return nullptr;
    --after;
    if (at + bytes > after->first + after->second.bytes) return nullptr;
    if (begins) *begins = after->first;
    return &after->second;
}

// A copy or fill that a driver would do to whatever lies there.
static void needs(const char *what, Pointer at, uint64_t bytes) {
    if (bytes > 0 && !holder(at, bytes)) fail("%s: %llu bytes at %#llx are not of one allocation", what, (unsigned long long)bytes, (unsigned long long)at);
}
static void needs_host(const char *what, const void *at) {
    if (holder(Pointer(at), 1)) fail("%s: %p is the device's", what, at);
}
static bool is_pinned(const void *at) {
    auto after = pinned.upper_bound(static_cast<char *>(const_cast<void *>(at)));
    if (after == pinned.begin()) return false;
    --after;
    return at < after->first + after->second;
}

// ------------------------------------------------------------------------------ streams and events

struct Stream {
    Context *owner;
    std::deque<std::function<void()>> work;
    uint64_t queued = 0, done = 0;
};
static std::set<Stream *> streams;

struct Event {
    std::vector<std::pair<Stream *, uint64_t>> recorded; // streams, and the number of the last command meant
    uint64_t clock = 0;
};

static uint64_t clock_now = 0; // nanoseconds
static const bool by_accesses = setting("EMULATED_CLOCK", 0) == 1;

static void run_until(Stream *stream, uint64_t number) {
    while (streams.count(stream) && stream->done < number) {
        auto next = std::move(stream->work.front());
        stream->work.pop_front();
        next();
        stream->done++;
    }
}
static void run(Stream *stream) { run_until(stream, stream->queued); }
static void reach(const std::vector<std::pair<Stream *, uint64_t>> &recorded) {
    for (auto &[stream, number] : recorded) run_until(stream, number);
}
static void run_all() {
    for (Stream *stream : std::vector<Stream *>(streams.begin(), streams.end())) run(stream);
}
const size_t LONGEST_QUEUE = 1000;
static void enqueue(Stream *stream, std::function<void()> work) {
    stream->work.push_back(std::move(work));
    stream->queued++;
    if (stream->work.size() > LONGEST_QUEUE) run_until(stream, stream->done + 1);
}

// ---------------------------------------------------------------------------------------- kernels

struct Range {
    Pointer begins, ends;
};
static std::vector<Range> touchable; // the running kernel's buffers
static size_t likely = 0;
static uint64_t accesses = 0;
static const char *static_page = nullptr;

static void outside(const char *at, size_t bytes, bool writes);

static inline void check(const void *address, size_t bytes, bool writes) {
    accesses++;
    const char *at = static_cast<const char *>(address);
    if (size_t(at - stacks) < STACK * MOST_UNITS) return;
    Pointer p = Pointer(at);
    if (likely < touchable.size() && p >= touchable[likely].begins && p + bytes <= touchable[likely].ends) return;
    outside(at, bytes, writes);
}

struct Function {
    const Kernel *kernel;
    Context *owner;
    int shared_bytes = 0;
};
struct Launch {
    Function *function;
    unsigned cubes[3], units[3], shared_bytes;
    std::vector<std::vector<uint64_t>> values; // of each argument
};
static Launch *running = nullptr;
static std::vector<void *> arguments; // the addresses of its values
static uint64_t shared_size = 0;
static std::map<std::string, uint64_t> launches;

static void outside(const char *at, size_t bytes, bool writes) {
    Pointer p = Pointer(at);
    for (size_t i = 0; i < touchable.size(); i++)
        if (p >= touchable[i].begins && p + bytes <= touchable[i].ends) {
            likely = i;
            return;
        }
    if (at >= shared_memory && at + bytes <= shared_memory + shared_size) return;
    if (at >= (char *)arguments.data() && at + bytes <= (char *)(arguments.data() + arguments.size())) return;
    if (running)
        for (auto &value : running->values)
            if (at >= (char *)value.data() && at + bytes <= (char *)(value.data() + value.size())) return;
    const char *page = (const char *)(p & ~Pointer(4095));
    Dl_info info;
    if (page == static_page || dladdr(at, &info)) {
        static_page = page;
        return;
    }
    std::fprintf(stderr, "emulated driver: unit %u %s %zu bytes at %#llx\n", current, writes ? "writes" : "reads", bytes, (unsigned long long)p);
    for (size_t i = 0; i < touchable.size(); i++)
        std::fprintf(stderr, "  buffer %zu: %#llx to %#llx, from there %lld\n", i, (unsigned long long)touchable[i].begins,
                     (unsigned long long)touchable[i].ends, (long long)(p - touchable[i].begins));
    if (running)
        for (auto &value : running->values) std::fprintf(stderr, "  argument: %p of %zu bytes\n", (void *)value.data(), 8 * value.size());
    fail("a kernel leaves its buffers");
}

extern "C" {
#define CHECKS(n)                                                                                         \
    void __asan_load##n##_noabort(const void *at) { check(at, n, false); }                                \
    void __asan_store##n##_noabort(const void *at) { check(at, n, true); }
CHECKS(1)
CHECKS(2)
CHECKS(4)
CHECKS(8)
CHECKS(16)
void __asan_loadN_noabort(const void *at, size_t bytes) { check(at, bytes, false); }
void __asan_storeN_noabort(const void *at, size_t bytes) { check(at, bytes, true); }
void __asan_handle_no_return() {}
void __asan_before_dynamic_init(const char *) {}
void __asan_after_dynamic_init() {}
}

static void run_launch(Launch &launch) {
    const Kernel &it = *launch.function->kernel;
    kernel_name = it.name;
    launches[it.name]++;
    arguments.clear();
    for (auto &value : launch.values) arguments.push_back(value.data());
    running = &launch;
    uint32_t pointers = 0, buffer = 0;
    for (uint32_t i = 0; i < it.parameter_count; i++) pointers += it.parameters[i].element_bytes != 0;
    for (uint32_t i = 0; i < it.parameter_count; i++) {
        if (it.parameters[i].element_bytes == 0) continue;
        Pointer at = launch.values[i][0], begins = 0;
        const Allocation *held = holder(at, 1, &begins);
        bool shapes = it.shapes && buffer + 1 == pointers;
        int64_t length = shapes ? -1 : it.length(arguments.back(), buffer);
        uint64_t bytes = length < 0 ? (held ? begins + held->bytes - at : 0) : length * it.parameters[i].element_bytes;
        if (bytes > 0 && !holder(at, bytes)) fail("argument %u of %s: %llu bytes at %#llx are not of one allocation", i, it.name, (unsigned long long)bytes, (unsigned long long)at);
        touchable.push_back({at, at + bytes});
        buffer++;
    }
    likely = 0;
    looks = check;
    void *memory = nullptr;
    if (posix_memalign(&memory, 1024, launch.shared_bytes + 1) != 0) std::abort();
    shared_memory = static_cast<char *>(memory);
    shared_size = launch.shared_bytes;
    gridDim = {launch.cubes[0], launch.cubes[1], launch.cubes[2]};
    blockDim = {launch.units[0], launch.units[1], launch.units[2]};
    make_units(launch.units[0] * launch.units[1] * launch.units[2]);
    void **given = arguments.data();
    kernel = [&it, given] { it.call(given); };
    static const unsigned order = setting("EMULATED_ORDER", 0);
    unsigned count = launch.cubes[0] * launch.cubes[1] * launch.cubes[2];
    for (unsigned index : ordered(count, order, 5)) {
        blockIdx = {index % launch.cubes[0], index / launch.cubes[0] % launch.cubes[1], index / launch.cubes[0] / launch.cubes[1]};
        std::memset(shared_memory, 0xff, launch.shared_bytes); // NaN in every type
        run_cube(order);
    }
    // CubeCL stops to look for a faster kernel when one comes near what its measuring ones could do.
    bool measures = std::strstr(it.name, "throughput") || std::strstr(it.name, "overhead");
    clock_now += measures || by_accesses ? 1000000 + 1000 * accesses : 1000;
    accesses = 0;
    running = nullptr;
    touchable.clear();
    kernel = nullptr;
    std::free(memory);
    shared_memory = nullptr;
}

static struct AtTheEnd {
    ~AtTheEnd() {
        const char *path = std::getenv("EMULATED_LOG");
        FILE *file = path ? std::fopen(path, "a") : nullptr;
        if (!file) return;
        for (auto &[name, count] : launches) std::fprintf(file, "%llu %s\n", (unsigned long long)count, name.c_str());
        std::fclose(file);
    }
} at_the_end;

// ------------------------------------------------------------------------------- the driver's names

extern "C" {
int cuInit(unsigned) {
    EXCLUSIVE;
    if (int said = setting("EMULATED_INIT", 0)) return said;
    long long count = setting("EMULATED_GPUS", 1);
    if (count == 0) return NO_DEVICE;
    if (!begun)
        for (Device device = 0; device < count; device++) contexts.push_back({device});
    begun = true;
    return SUCCESS;
}
int cuDriverGetVersion(int *version) {
    *version = setting("EMULATED_DRIVER", 12040);
    return SUCCESS;
}
int cuGetErrorName(int result, const char **name) {
    *name = name_of(result);
    return SUCCESS;
}
int cuGetErrorString(int result, const char **name) { return cuGetErrorName(result, name); }

int cuDeviceGetCount(int *count) {
    if (!begun) return NOT_INITIALIZED;
    *count = contexts.size();
    return SUCCESS;
}
int cuDeviceGet(Device *device, int ordinal) {
    if (!begun) return NOT_INITIALIZED;
    if (ordinal < 0 || size_t(ordinal) >= contexts.size()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
int cuDeviceGetName(char *name, int length, Device device) {
    std::snprintf(name, length, "Emulated GPU %d", device);
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, Device) {
    *bytes = memory_bytes();
    return SUCCESS;
}
int cuDeviceGetPCIBusId(char *id, int length, Device device) {
    std::snprintf(id, length, "0000:%02x:00.0", device + 1);
    return SUCCESS;
}
int cuDeviceGetUuid_v2(char *uuid, Device device) {
    std::memset(uuid, device, 16);
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, Device) {
    long long capability = setting("EMULATED_CAPABILITY", 80);
    switch (attribute) {
    case 1: *value = 1024; return SUCCESS;                  // MAX_THREADS_PER_BLOCK
    case 2: case 3: *value = 1024; return SUCCESS;          // MAX_BLOCK_DIM_X, Y
    case 4: *value = 64; return SUCCESS;                    // MAX_BLOCK_DIM_Z
    case 5: *value = 0x7fffffff; return SUCCESS;            // MAX_GRID_DIM_X
    case 6: case 7: *value = 65535; return SUCCESS;         // MAX_GRID_DIM_Y, Z
    case 8: *value = 48 << 10; return SUCCESS;              // MAX_SHARED_MEMORY_PER_BLOCK
    case 10: *value = 32; return SUCCESS;                   // WARP_SIZE
    case 16: *value = 2;  return SUCCESS;                  // MULTIPROCESSOR_COUNT
    case 75: *value = capability / 10; return SUCCESS;      // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = capability % 10; return SUCCESS;      // COMPUTE_CAPABILITY_MINOR
    case 97: *value = (capability >= 90 ? 227 : capability == 80 ? 163 : 99) << 10; return SUCCESS; // ..._OPTIN
    case 115: *value = 1; return SUCCESS;                   // MEMORY_POOLS_SUPPORTED
    }
    fail("cuDeviceGetAttribute: %d is not known here", attribute);
}

int cuDevicePrimaryCtxRetain(Context **to, Device device) {
    if (!begun) return NOT_INITIALIZED;
    if (device < 0 || size_t(device) >= contexts.size()) return INVALID_DEVICE;
    *to = &contexts[device];
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(Device) { return SUCCESS; }
int cuCtxSetCurrent(Context *it) {
    context = it;
    return SUCCESS;
}
int cuCtxGetCurrent(Context **it) {
    *it = context;
    return SUCCESS;
}
int cuCtxSynchronize() {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    run_all();
    return SUCCESS;
}
int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t *available, size_t *total) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    *total = memory_bytes();
    *available = *total - context->used;
    return SUCCESS;
}
int cuMemAlloc_v2(Pointer *to, size_t bytes) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    const uint64_t granularity = 2 << 20, page = 4096;
    uint64_t counted = (bytes + granularity - 1) / granularity * granularity;
    if (context->used + counted > memory_bytes()) return OUT_OF_MEMORY;
    // Whole pages, the allocation at their start and a page between it and the next that nobody may touch.
    uint64_t mapped = (bytes + page - 1) / page * page;
    void *at = mmap((void *)next_address, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (at == MAP_FAILED) fail("the host has no %zu bytes for the device", bytes);
    std::memset(at, 0xff, bytes);
    next_address = (next_address + mapped + granularity) / granularity * granularity;
    context->used += counted;
    allocations[Pointer(at)] = {bytes, counted, context};
    *to = Pointer(at);
    return SUCCESS;
}
int cuMemFree_v2(Pointer at) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    run_all(); // as a driver does
    auto found = allocations.find(at);
    if (found == allocations.end()) return INVALID_VALUE;
    found->second.owner->used -= found->second.counted;
    munmap((void *)at, (found->second.bytes + 4095) / 4096 * 4096);
    allocations.erase(found);
    return SUCCESS;
}
int cuMemAllocAsync(Pointer *to, size_t bytes, Stream *) { return cuMemAlloc_v2(to, bytes); }
int cuMemFreeAsync(Pointer at, Stream *) { return cuMemFree_v2(at); }
int cuMemAllocHost_v2(void **to, size_t bytes) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    if (posix_memalign(to, 4096, bytes) != 0) return OUT_OF_MEMORY;
    std::memset(*to, 0xff, bytes);
    pinned[static_cast<char *>(*to)] = bytes;
    return SUCCESS;
}
int cuMemFreeHost(void *at) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    run_all();
    if (pinned.erase(static_cast<char *>(at)) == 0) return INVALID_VALUE;
    std::free(at);
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Stream *stream) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    needs("cuMemcpyHtoDAsync", to, bytes);
    needs_host("cuMemcpyHtoDAsync", from);
    if (is_pinned(from)) {
        enqueue(stream, [=] { std::memcpy((void *)to, from, bytes); });
    } else {
        // Pageable memory is the caller's again when the call returns.
        auto kept = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        enqueue(stream, [=] { std::memcpy((void *)to, kept->data(), bytes); });
    }
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, Stream *stream) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    needs("cuMemcpyDtoHAsync", from, bytes);
    needs_host("cuMemcpyDtoHAsync", to);
    enqueue(stream, [=] { std::memcpy(to, (void *)from, bytes); });
    if (!is_pinned(to)) run(stream);
    return SUCCESS;
}
int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Stream *stream) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    needs("cuMemcpyDtoDAsync", to, bytes);
    needs("cuMemcpyDtoDAsync", from, bytes);
    enqueue(stream, [=] { std::memmove((void *)to, (void *)from, bytes); });
    return SUCCESS;
}
int cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, Stream *stream) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    needs("cuMemsetD8Async", to, bytes);
    enqueue(stream, [=] { std::memset((void *)to, value, bytes); });
    return SUCCESS;
}

// CUDA_MEMCPY2D_st
struct Side {
    size_t x, y;
    int type; // 1: host, 2: device
    void *host;
    Pointer device;
    void *array;
    size_t pitch;
    char *row(size_t i) const { return (type == 1 ? static_cast<char *>(host) : (char *)device) + (y + i) * pitch + x; }
};
struct Copy2D {
    Side from, to;
    size_t width, height;
};
int cuMemcpy2DAsync_v2(const Copy2D *given, Stream *stream) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    Copy2D copy = *given;
    bool pageable = false;
    for (const Side *side : {&copy.from, &copy.to}) {
        if (side->type != 1 && side->type != 2) fail("cuMemcpy2DAsync: memory of type %d", side->type);
        if (side->pitch < copy.width) return INVALID_VALUE;
        if (copy.width * copy.height == 0) continue;
        if (side->type == 2) needs("cuMemcpy2DAsync", Pointer(side->row(0)), (copy.height - 1) * side->pitch + copy.width);
        else needs_host("cuMemcpy2DAsync", side->row(0)), pageable = pageable || !is_pinned(side->row(0));
    }
    if (pageable && copy.from.type == 1) {
        auto kept = std::make_shared<std::vector<char>>(copy.height * copy.width);
        for (size_t i = 0; i < copy.height; i++) std::memcpy(kept->data() + i * copy.width, copy.from.row(i), copy.width);
        enqueue(stream, [=] {
            for (size_t i = 0; i < copy.height; i++) std::memcpy(copy.to.row(i), kept->data() + i * copy.width, copy.width);
        });
        return SUCCESS;
    }
    enqueue(stream, [=] {
        for (size_t i = 0; i < copy.height; i++) std::memmove(copy.to.row(i), copy.from.row(i), copy.width);
    });
    if (pageable) run(stream);
    return SUCCESS;
}

int cuStreamCreate(Stream **to, unsigned) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    *to = new Stream{context};
    streams.insert(*to);
    enqueue(*to, [awaited = context->awaited] { reach(awaited); });
    return SUCCESS;
}
int cuStreamCreateWithPriority(Stream **to, unsigned flags, int) { return cuStreamCreate(to, flags); }
int cuStreamDestroy_v2(Stream *stream) {
    EXCLUSIVE;
    run(stream);
    streams.erase(stream);
    delete stream;
    return SUCCESS;
}
int cuStreamSynchronize(Stream *stream) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    run(stream);
    return SUCCESS;
}
int cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    enqueue(stream, [recorded = event->recorded] { reach(recorded); });
    return SUCCESS;
}
int cuCtxRecordEvent(Context *of, Event *event) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    if (setting("EMULATED_DRIVER", 12040) < 12050) fail("cuCtxRecordEvent: this driver has none");
    event->recorded.clear();
    for (Stream *stream : streams)
        if (stream->owner == of) event->recorded.push_back({stream, stream->queued});
    return SUCCESS;
}
int cuCtxWaitEvent(Context *of, Event *event) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    if (setting("EMULATED_DRIVER", 12040) < 12050) fail("cuCtxWaitEvent: this driver has none");
    of->awaited = event->recorded;
    for (Stream *stream : streams)
        if (stream->owner == of) enqueue(stream, [recorded = event->recorded] { reach(recorded); });
    return SUCCESS;
}
int cuEventCreate(Event **to, unsigned) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    *to = new Event;
    return SUCCESS;
}
int cuEventDestroy_v2(Event *event) {
    EXCLUSIVE;
    reach(event->recorded);
    delete event;
    return SUCCESS;
}
int cuEventRecord(Event *event, Stream *stream) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    event->recorded = {{stream, stream->queued + 1}};
    enqueue(stream, [=] { event->clock = clock_now; });
    return SUCCESS;
}
int cuEventSynchronize(Event *event) {
    EXCLUSIVE;
    reach(event->recorded);
    return SUCCESS;
}
int cuEventQuery(Event *event) {
    EXCLUSIVE;
    return cuEventSynchronize(event);
}
int cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
    EXCLUSIVE;
    cuEventSynchronize(from);
    cuEventSynchronize(to);
    *milliseconds = (to->clock - from->clock) * 1e-6f;
    return SUCCESS;
}
int cuEventElapsedTime_v2(float *milliseconds, Event *from, Event *to) { return cuEventElapsedTime(milliseconds, from, to); }

struct Module {
    const Kernel *kernel;
    Context *owner;
};
int cuModuleLoadData(Module **to, const void *image) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    if (setting("EMULATED_NVRTC", 12040) > setting("EMULATED_DRIVER", 12040)) return UNSUPPORTED_PTX_VERSION;
    const char *text = static_cast<const char *>(image);
    if (std::strncmp(text, "// ", 3) != 0) return INVALID_PTX;
    void *library = dlopen(text + 3, RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("%s", dlerror());
    *to = new Module{static_cast<const Kernel *>(dlsym(library, "kernel")), context};
    return SUCCESS;
}
int cuModuleGetFunction(Function **to, Module *module, const char *name) {
    EXCLUSIVE;
    if (std::strcmp(name, module->kernel->name) != 0) return NOT_FOUND;
    *to = new Function{module->kernel, module->owner};
    return SUCCESS;
}
int cuFuncSetAttribute(Function *function, int attribute, int value) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    if (attribute != 8) fail("cuFuncSetAttribute: %d is not known here", attribute); // MAX_DYNAMIC_SHARED_SIZE_BYTES
    int most = 0;
    cuDeviceGetAttribute(&most, 97, context->device);
    if (value > most) return INVALID_VALUE;
    function->shared_bytes = value;
    return SUCCESS;
}
int cuLaunchKernel(Function *function, unsigned cubes_x, unsigned cubes_y, unsigned cubes_z, unsigned units_x, unsigned units_y,
                   unsigned units_z, unsigned shared_bytes, Stream *stream, void **arguments, void **) {
    EXCLUSIVE;
    NEEDS_CONTEXT;
    if (context != stream->owner || function->owner != stream->owner) return INVALID_HANDLE;
    uint64_t units = uint64_t(units_x) * units_y * units_z;
    if (uint64_t(cubes_x) * cubes_y * cubes_z == 0 || cubes_y > 65535 || cubes_z > 65535) return INVALID_VALUE;
    if (units == 0 || units > function->kernel->units || units_x > 1024 || units_y > 1024 || units_z > 64) return INVALID_VALUE;
    if (shared_bytes > 48 << 10 && shared_bytes > unsigned(function->shared_bytes)) return INVALID_VALUE;
    Launch launch{function, {cubes_x, cubes_y, cubes_z}, {units_x, units_y, units_z}, shared_bytes, {}};
    uint64_t parameter_bytes = 0;
    for (uint32_t i = 0; i < function->kernel->parameter_count; i++) {
        uint32_t bytes = function->kernel->parameters[i].bytes;
        parameter_bytes += bytes;
        launch.values.emplace_back((bytes + 7) / 8);
        std::memcpy(launch.values.back().data(), arguments[i], bytes);
    }
    if (parameter_bytes > 4096) return INVALID_VALUE;
    auto kept = std::make_shared<Launch>(std::move(launch));
    enqueue(stream, [=] { run_launch(*kept); });
    return SUCCESS;
}

// What a library asks that works on the device's memory without kernels: libcublas.so here. `early` is as soon
// as the stream may, where a kernel is as late.
void emulated_needs(const char *what, Pointer at, uint64_t bytes) {
    EXCLUSIVE;
    needs(what, at, bytes);
}
void emulated_enqueue(Stream *stream, void (*work)(void *), void *with, const char *name, bool early) {
    EXCLUSIVE;
    enqueue(stream, [=] {
        launches[name]++;
        work(with);
    });
    if (early) run(stream);
}
}
