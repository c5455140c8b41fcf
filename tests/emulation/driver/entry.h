// The end of a compiled file: its kernel as the driver finds it.
#pragma once
#include "kernel.h"
#include <tuple>
#include <utility>

template <class T> constexpr Parameter parameter_of() {
    if constexpr (std::is_pointer<T>::value) return {sizeof(T), sizeof(std::remove_pointer_t<T>)};
    else return {sizeof(T), 0};
}
template <class... A> struct Parameters {
    static constexpr Parameter all[] = {parameter_of<std::decay_t<A>>()..., Parameter{}};
};

template <class... A, size_t... I> void call(void (*function)(A...), void **arguments, std::index_sequence<I...>) {
    function(*static_cast<std::decay_t<A> *>(arguments[I])...);
}

template <class T> auto length(const void *info, uint32_t buffer, int) -> decltype(static_cast<const T *>(info)->static_meta[0], int64_t()) {
    const T *it = static_cast<const T *>(info);
    return buffer < sizeof(it->static_meta) / sizeof(it->static_meta[0]) ? int64_t(it->static_meta[buffer]) : -1;
}
template <class T> int64_t length(const void *, uint32_t, long) { return -1; }

template <class... A> constexpr uint32_t count_of(void (*)(A...)) { return sizeof...(A); }
template <class... A> constexpr const Parameter *parameters_of(void (*)(A...)) { return Parameters<A...>::all; }
template <class... A> void call_all(void (*function)(A...), void **arguments) {
    call(function, arguments, std::index_sequence_for<A...>{});
}
template <class... A> int64_t length_of(void (*)(A...), const void *info, uint32_t buffer) {
    typedef std::tuple<int, std::decay_t<A>...> All; // the last of them is the info
    return length<std::tuple_element_t<sizeof...(A), All>>(info, buffer, 0);
}

#define ENTRY(function, units_of_a_cube, shapes)                                                            \
    static void call_it(void **arguments) { call_all(function, arguments); }                              \
    static int64_t length_in_it(const void *info, uint32_t buffer) {                                      \
        return length_of(function, info, buffer);                                                         \
    }                                                                                                     \
    extern "C" __attribute__((visibility("default"))) const Kernel kernel{#function,  units_of_a_cube, count_of(function), parameters_of(function), \
                                   shapes, call_it, length_in_it};
