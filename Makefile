# `make demo` and `make test` do everything on a bare Debian or Ubuntu machine: install, build, run.
# The build itself is CMake's (CMakePresets.json); these are its front doors.
.PHONY: help deps build demo test asan fuzz format

help:
	@echo "make demo    install what is missing, build, and take a tiny DeepSeek-V4 through the whole job"
	@echo "make test    install what is missing, build, and run every test"
	@echo "make build   the program, at build/release/nibblecast"
	@echo "make asan    the tests under AddressSanitizer and UBSan;  make fuzz: libFuzzer targets (clang)"

deps:
	@tools/install-deps

build: deps
	@mkdir -p build && cmake --preset release >build/release.configure.log 2>&1 || { cat build/release.configure.log; exit 1; }
	@cmake --build --preset release

demo: build
	@tools/demo build/release/nibblecast

test: build
	@ctest --preset release -j 2

asan: deps
	@cmake --workflow --preset asan

fuzz: deps
	@cmake --preset fuzz && cmake --build --preset fuzz && ctest --preset fuzz

format:
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i
