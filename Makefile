# `make demo` and `make test` do everything on a bare Debian or Ubuntu machine: install, build, run.
# The build itself is CMake's (CMakePresets.json); these are its front doors.
.PHONY: help deps configure build parquet demo test fuzz asan format

help:
	@echo "make demo    install what is missing, build, and take a tiny DeepSeek-V4 through the whole job"
	@echo "make test    install what is missing, build, and run every test"
	@echo "make build   the program, at build/release/nibblecast"
	@echo "make parquet the program again, reading Parquet files too (gets Arrow C++ from PyPI, 55 MB)"
	@echo "make fuzz    libFuzzer, briefly, over the readers of hostile input (part of make test)"
	@echo "make asan    the tests under AddressSanitizer and UBSan"

deps:
	@tools/install-deps

configure: deps
	@mkdir -p build
	@cmake --preset release >build/release.configure.log 2>&1 || { cat build/release.configure.log; exit 1; }

build: configure
	@cmake --build --preset release --target nibblecast

# The choice stays with build/release.
parquet: deps
	@tools/install-parquet
	@cmake --preset release -DPARQUET=ON >build/release.configure.log 2>&1 || { cat build/release.configure.log; exit 1; }
	@cmake --build --preset release --target nibblecast

demo: build
	@tools/demo build/release/nibblecast

test: configure fuzz
	@cmake --build --preset release
	@ctest --preset release -j 2

asan: deps
	@cmake --workflow --preset asan

fuzz: deps
	@tools/install-deps clang libclang-rt-dev libomp-dev
	@mkdir -p build
	@cmake --preset fuzz >build/fuzz.configure.log 2>&1 || { cat build/fuzz.configure.log; exit 1; }
	@cmake --build --preset fuzz --target fuzzers
	@ctest --preset fuzz

format:
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i
