// libnvrtc.so on a host: CUDA C++ through g++, and what comes back as "PTX" names the result.
//
// A kernel's file is kept in the folder `kernels` beside this library, under the hash of its text and
// of the headers', and is compiled once. Every access to memory in it calls the driver, which knows
// what the launch may touch (`-fsanitize=kernel-address`, with the driver in the kernel's place).
#include "../asm.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SUCCESS = 0, COMPILATION = 6 };

struct Program {
    std::string source, log, ptx;
};

static int setting(const char *name, int otherwise) {
    const char *value = std::getenv(name);
    return value ? std::atoi(value) : otherwise;
}

// Of this library.
static std::string folder() {
    Dl_info info;
    dladdr(reinterpret_cast<void *>(&folder), &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}

static uint64_t hash(const std::string &text) { // FNV-1a
    uint64_t h = 0xcbf29ce484222325;
    for (unsigned char c : text) h = (h ^ c) * 0x100000001b3;
    return h;
}

static void replace_all(std::string &text, const std::string &what, const std::string &with) {
    for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) text.replace(at, what.size(), with);
}

// CubeCL's text as g++ takes it, between the headers and the entry.
static std::string translated(const std::string &source) {
    std::istringstream lines(source);
    std::string line, code;
    while (std::getline(lines, line)) {
        bool ours = line.rfind("#include", 0) == 0 || line.rfind("typedef unsigned ", 0) == 0 ||
                    line.rfind("typedef signed ", 0) == 0;
        if (!ours) code += line + "\n";
    }
    replace_all(code, "extern \"C\"", "");
    for (size_t start; (start = code.find("extern __shared__")) != std::string::npos;) {
        size_t end = code.find("[];", start), name = code.rfind(' ', end) + 1;
        std::string with = "char *const " + code.substr(name, end - name) + " = shared_memory";
        code.replace(start, end + 2 - start, with);
    }
    code = without_asm(code);
    size_t bounds = code.find("__launch_bounds__(") + 18;
    std::string units = code.substr(bounds, code.find(')', bounds) - bounds);
    size_t name_ends = code.find('(', code.find(')', bounds)), name = code.find_last_not_of(' ', name_ends - 1);
    size_t name_begins = code.rfind(' ', name) + 1;
    std::string entry = code.substr(name_begins, name_ends - name_begins);
    std::string parameters = code.substr(name_ends, code.find(") {", name_ends) - name_ends);
    std::string shapes = parameters.find(" dynamic_meta") != std::string::npos ? "true" : "false";
    // CubeCL measures a device by this kernel, in which one unit stores a warp's fragment.
    bool measures = entry.rfind("compute_cmma_throughput", 0) == 0;
    return std::string(measures ? "#define FIRST_UNIT_STORES\n" : "") + "#include \"cuda.h\"\n" + code + "\n#include \"driver/entry.h\"\nENTRY(" + entry + ", " + units + ", " + shapes + ")\n";
}

static std::string read(const std::string &path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

static bool exists(const std::string &path) { return access(path.c_str(), R_OK) == 0; }

extern "C" {
int nvrtcVersion(int *major, int *minor) {
    int version = setting("EMULATED_NVRTC", 12040);
    *major = version / 1000, *minor = version % 1000 / 10;
    return SUCCESS;
}
int nvrtcGetNumSupportedArchs(int *count) {
    *count = 4;
    return SUCCESS;
}
int nvrtcGetSupportedArchs(int *archs) {
    const int all[] = {75, 80, 89, 90};
    std::memcpy(archs, all, sizeof all);
    return SUCCESS;
}
const char *nvrtcGetErrorString(int result) { return result == SUCCESS ? "NVRTC_SUCCESS" : "NVRTC_ERROR_COMPILATION"; }

int nvrtcCreateProgram(Program **program, const char *source, const char *, int, const char *const *, const char *const *) {
    *program = new Program{source, "", ""};
    return SUCCESS;
}
int nvrtcDestroyProgram(Program **program) {
    delete *program;
    return SUCCESS;
}

int nvrtcCompileProgram(Program *program, int, const char *const *) {
    std::string home = folder(), kernels = home + "/kernels";
    mkdir(kernels.c_str(), 0777);
    std::string text = translated(program->source);
    char name[32];
    std::snprintf(name, sizeof name, "/%016llx", static_cast<unsigned long long>(hash(text + VERSION)));
    std::string path = kernels + name, own = path + "." + std::to_string(getpid());
    if (!exists(path + ".so")) {
        std::ofstream(path + ".cpp") << text;
        std::string command = "exec g++ -std=c++17 -O1 -w -fPIC -shared -fvisibility=hidden -fno-gnu-unique -fsanitize=kernel-address"
                              " --param asan-instrumentation-with-call-threshold=0"
                              " --param asan-stack=0 --param asan-globals=0"
                              " -I'" HEADERS "' '" + path + ".cpp' -o '" + own + "' -L'" + home + "' -l:libcuda.so.1 >'" + own + ".log' 2>&1";
        bool failed = std::system(command.c_str()) != 0;
        program->log = read(own + ".log");
        unlink((own + ".log").c_str());
        if (failed) return COMPILATION;
        std::rename(own.c_str(), (path + ".so").c_str());
    }
    program->ptx = "// " + path + ".so";
    return SUCCESS;
}

int nvrtcGetPTXSize(Program *program, size_t *size) {
    *size = program->ptx.size() + 1;
    return SUCCESS;
}
int nvrtcGetPTX(Program *program, char *to) {
    std::memcpy(to, program->ptx.c_str(), program->ptx.size() + 1);
    return SUCCESS;
}
int nvrtcGetProgramLogSize(Program *program, size_t *size) {
    *size = program->log.size() + 1;
    return SUCCESS;
}
int nvrtcGetProgramLog(Program *program, char *to) {
    std::memcpy(to, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}
}
