// Inline PTX of standard input into calls, on standard output: asm.h for who is no C++.
#include "asm.h"
#include <iostream>
#include <iterator>

int main() {
    std::string code{std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
    std::cout << without_asm(code);
}
