// tests/sanitizers.h - for tests of what a build with sanitizers has otherwise: memory and address space.
#pragma once

#include <gtest/gtest.h>

#ifndef __has_feature  // clang's way to tell; g++ defines macros
#define __has_feature(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || \
    __has_feature(thread_sanitizer)
#define SKIP_WITH_SANITIZERS() GTEST_SKIP() << "sanitizers take memory and address space of their own"
#else
#define SKIP_WITH_SANITIZERS() static_cast<void>(0)
#endif
