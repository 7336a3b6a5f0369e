# `make demo` and `make test` do everything on a bare Debian or Ubuntu machine: install, build, run.
# The build itself is CMake's (CMakePresets.json); these are its front doors.
.PHONY: help deps configure build install deb wheel parquet demo test clang-deps asan asan-once asan-readers tsan scalar fuzz sanitize ci tidy tidy-changed format

help:
	@echo "make demo     install what is missing, build, and take a tiny DeepSeek-V4 through the whole job"
	@echo "make test     install what is missing, build, and run every test"
	@echo "make build    the program, at build/release/nibblecast"
	@echo "make install  installs what \`make build\` made: program, man page, completions; PREFIX=/usr/local, DESTDIR="
	@echo "make deb      a Debian package, at build/release/nibblecast.deb"
	@echo "make wheel    a wheel for pip, in build/wheel"
	@echo "make parquet  the program again, reading Parquet files too (gets Arrow C++ from PyPI, 55 MB)"
	@echo "make ci       what runs for every change: test, asan-readers, scalar, tsan"
	@echo "make sanitize asan, tsan and scalar:"
	@echo "  make asan   every test under AddressSanitizer and UBSan, and libFuzzer, briefly, over the readers of"
	@echo "              other people's bytes"
	@echo "  make tsan   the suites with threads under ThreadSanitizer"
	@echo "  make scalar the kernels' suites in a build without kernels: what other processors run"
	@echo "make fuzz     the fuzz targets alone; tools/fuzz-long runs them as long as you like"
	@echo "make tidy     clang-tidy over everything; make tidy-changed: over what differs from the main branch"

deps:
	@tools/install-deps

clang-deps:
	@tools/install-deps clang libclang-rt-dev libomp-dev

# $(call configure,PRESET): silent unless it fails.
configure = mkdir -p build && { cmake --preset $(1) >build/$(1).configure.log 2>&1 || { cat build/$(1).configure.log; exit 1; }; }
# $(call check,PRESET,PREFIX,OPTIONS): configures, builds, tests; both as PREFIX COMMAND, since a build runs tests to
# list them.
check = $(call configure,$(1)) && $(2) cmake --build --preset $(1) && $(2) ctest --preset $(1) -j 2 $(3)
# ThreadSanitizer (clang before 18) starts only where addresses are random in 28 bits or less: not at all is less.
# Where the system forbids that (some containers), as it is.
not_random = $(shell setarch -R true 2>/dev/null && echo setarch -R)

configure: deps
	@$(call configure,release)

build: configure
	@cmake --build --preset release --target nibblecast generated

# Of what `make build` has made: with `sudo` nothing is built.
PREFIX = /usr/local
install:
	@cmake --install build/release --prefix $(PREFIX) --strip

deb: build
	@tools/install-deps dpkg-dev file git
	@cd build/release && cpack >deb.log 2>&1 || { cat deb.log; exit 1; }
	@ls $(CURDIR)/build/release/nibblecast.deb

wheel: deps
	@tools/make-wheel

# The choice stays with build/release.
parquet: deps
	@tools/install-parquet
	@cmake --preset release -DPARQUET=ON >build/release.configure.log 2>&1 || { cat build/release.configure.log; exit 1; }
	@cmake --build --preset release --target nibblecast generated

demo: build
	@tools/demo build/release/nibblecast

test: deps
	@$(call check,release)

asan: clang-deps
	@$(call check,asan)

# Without the suites of faults and kills, whose jobs run hundreds of times, and without fuzzing by time.
asan-once: clang-deps
	@$(call check,asan,,-LE 'faults|fuzz')

# The folders of tests/ that read other people's bytes or have kernels, and the program itself; seeds of the fuzz targets.
readers = base formats weights checkpoint calibration plan remote cli
asan-readers: clang-deps
	@$(call configure,asan)
	@cmake --build --preset asan --target $(readers:%=tests/%/all) fuzz/all
	@for folder in $(readers:%=tests/%); do ctest --test-dir build/asan/$$folder -j 2 --output-on-failure || exit 1; done
	@ctest --test-dir build/asan/fuzz -L unit -j 2 --output-on-failure

tsan: clang-deps
	@$(call check,tsan,$(not_random))

scalar: deps
	@$(call check,scalar)

sanitize: asan tsan scalar

ci: test asan-readers scalar tsan

fuzz: clang-deps
	@$(call configure,asan)
	@cmake --build --preset asan --target fuzzers
	@ctest --preset asan -L fuzz

# Both read how files are compiled from build/asan, and its precompiled headers.
tidy tidy-changed: clang-deps
	@tools/install-deps clang-tidy
	@$(call configure,asan)
	@tools/tidy $(if $(filter tidy-changed,$@),--changed)

format:
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i
