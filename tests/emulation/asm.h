// Inline PTX, as CubeCL writes it, into calls of the functions in ptx.h.
//
// `asm volatile("name %0, [%1], 16;" : "=r"(out) : "l"(in) : "memory");` is `name(place, out, in, 16);`.
#pragma once
#include <cctype>
#include <string>
#include <vector>

// The expressions in parentheses behind each constraint.
inline std::vector<std::string> operands_of(const std::string &text) {
    std::vector<std::string> all;
    for (size_t at = 0; (at = text.find("\"(", at)) != std::string::npos;) {
        size_t begins = at + 2, ends = begins;
        for (int depth = 1; depth > 0; ends++) depth += (text[ends] == '(') - (text[ends] == ')');
        all.push_back(text.substr(begins, ends - 1 - begins));
        at = ends;
    }
    return all;
}

inline std::string without_asm(const std::string &code) {
    std::string out;
    size_t done = 0;
    for (int place = 1000000;; place++) {
        size_t at = code.find("asm", done);
        while (at != std::string::npos && (code.compare(at, 4, "asm(") != 0 && code.compare(at, 4, "asm ") != 0)) at = code.find("asm", at + 3);
        if (at == std::string::npos) return out + code.substr(done);
        out += code.substr(done, at - done);
        size_t begins = code.find('"', at) + 1, ends = code.find('"', begins);
        size_t statement = code.find(");", ends);
        std::string ptx = code.substr(begins, ends - begins);
        std::vector<std::string> operands = operands_of(code.substr(ends + 1, statement + 1 - ends - 1));
        done = statement + 2;
        size_t space = ptx.find(' ');
        for (size_t i = 0; i < space; i++) out += std::isalnum((unsigned char)ptx[i]) ? ptx[i] : '_';
        out += "(" + std::to_string(place);
        for (size_t i = space; i < ptx.size();) {
            size_t end = i + 1;
            if (ptx[i] == '%') {
                while (end < ptx.size() && std::isdigit((unsigned char)ptx[end])) end++;
                out += ", " + operands[std::stoul(ptx.substr(i + 1, end - i - 1))];
            } else if (std::isdigit((unsigned char)ptx[i])) {
                while (end < ptx.size() && std::isalnum((unsigned char)ptx[end])) end++;
                out += ", " + ptx.substr(i, end - i);
            }
            i = end;
        }
        out += ");";
    }
}
