# bottled: everything a developer runs. `make` builds, `make help` lists the rest.
#
# Sources are found by folder: base/ renderers/ api/ backends/ server/, the shim's and what the guest
# shares become $(BUILD)/libbottled.a, which the programs and the unit tests link. A file with a
# main() is a program's: server/main.c (and recv.c), shim/main.c, shim/cell.c, shim/krun.c, guest/init.c; each tests/unit/test_*.c
# is one of criterion's, and each tests/tools/*.c becomes $(BUILD)/test-tools/* for tests in other languages.
# bottle-cell and bottle-init are static: they run where there is no libc, and never with a sanitizer.
#
# To be set by hand: BUILD (output folder), CC (gcc or clang), SANITIZE (address,undefined or thread),
# BACKEND (for the demo), ARGS (for make run), PYTEST_ARGS, UNIT (a pattern of unit test programs), PACE (5: end-to-end
# tests wait five times as long, as they do by themselves with a sanitizer).

MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.SECONDARY:

BUILD ?= build
BACKEND ?= auto
SANITIZE ?=
UNIT ?= *
T ?= 60
N ?= 1000
FUZZ ?= *
PYTEST_ARGS ?= -ra --timeout=300
E2E ?= tests/e2e
LOAD ?= 10
TIMES ?= 20
TOOLS := .tools
ifeq ($(origin CC),default)
CC := gcc
endif
export BUILD
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1

# --- Flags -----------------------------------------------------------------------------------

LIBRARIES := libmicrohttpd jansson yaml-0.1 sqlite3 libseccomp libsystemd nettle gnutls zlib
LDLIBS := $(shell pkg-config --libs $(LIBRARIES) 2>/dev/null) -lpthread
WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2
CPPFLAGS := -I. -D_GNU_SOURCE
CFLAGS := -std=gnu17 -g $(WARNINGS) -fstack-protector-strong -fPIE
LDFLAGS := -Wl,-z,relro,-z,now -Wl,--as-needed
HARDEN := -O2 -D_FORTIFY_SOURCE=2
ifeq ($(SANITIZE),)
MODE := $(HARDEN)
else
MODE := -O1 -fno-omit-frame-pointer -fsanitize=$(SANITIZE) -DKEEP_NO_SPARES
ifneq ($(findstring undefined,$(SANITIZE)),)
MODE += -fno-sanitize-recover=undefined
endif
endif

# One tree is clang's, instrumented for all that looks into programs while they run: it says as well whether clang
# takes the code.
ASAN := BUILD=build-asan CC=clang SANITIZE=address,undefined,fuzzer-no-link

# --- What is made of what --------------------------------------------------------------------

OBJ := $(BUILD)/obj
STATIC := $(BUILD)/obj-static
MAINS := server/main.c server/recv.c shim/main.c shim/cell.c shim/krun.c shim/owner.c shim/private.c
SOURCES := $(foreach folder,base renderers api backends shim server,$(wildcard $(folder)/*.c))
LIB_SOURCES := $(filter-out $(MAINS),$(SOURCES)) $(wildcard $(addprefix guest/,protocol.c checks.c room.c user.c files.c paths.c place.c pack.c unpack.c))
GUEST_SOURCES := $(wildcard guest/*.c)
OPEN := $(BUILD)/open-cell
OPEN_PROGRAMS := $(addprefix $(OPEN)/,bottle-shim bottle-cell bottle-krun bottle-owner.so bottle-private.so guest openapi.yaml)
STATIC_SOURCES := $(wildcard base/*.c)
UNIT_SOURCES := $(wildcard tests/unit/test_*.c)
UNIT_SHARED := $(filter-out $(UNIT_SOURCES),$(wildcard tests/unit/*.c))
TOOL_SOURCES := $(wildcard tests/tools/*.c)
ATTACK_SOURCES := $(addprefix tests/attacks/,attacker.c machine.c)
FUZZ_SOURCES := $(wildcard tests/fuzz/*.c)
FUZZERS := $(FUZZ_SOURCES:tests/fuzz/%.c=$(BUILD)/fuzz/%)
TSAN_SOURCES := $(wildcard tests/tsan/*.c)
SANITIZER_SOURCES := $(wildcard tests/sanitize/*.c)
SANITIZER_OBJ := $(if $(SANITIZE),$(SANITIZER_SOURCES:%.c=$(OBJ)/%.o))
UNIT_LINKED := $(UNIT_SHARED) $(if $(findstring thread,$(SANITIZE)),$(TSAN_SOURCES))
FAILPOINTS := $(BUILD)/failpoints.so
TEST_CLOCK := $(BUILD)/test-tools/clock.so
TEST_HOLD := $(BUILD)/test-tools/hold.so
ALL_SOURCES := $(SOURCES) $(GUEST_SOURCES) $(UNIT_SOURCES) $(UNIT_SHARED) $(TOOL_SOURCES) $(TSAN_SOURCES) $(SANITIZER_SOURCES) $(FUZZ_SOURCES) tests/failpoints/failpoints.c tests/clock/clock.c tests/hold/hold.c $(ATTACK_SOURCES) tests/attacks/insider.c tests/attacks/mount_attacker.c
HEADERS := $(foreach folder,base renderers api backends shim guest server tests/unit tests/tools tests/fuzz tests/attacks,$(wildcard $(folder)/*.h))

LIB := $(BUILD)/libbottled.a
STATIC_LIB := $(BUILD)/libbase-static.a
DOCS_FILES := index.html page.js swagger-ui-bundle.js swagger-ui.css LICENSE NOTICE
# Each is made once its source is there.
PROGRAMS := $(if $(wildcard server/main.c),$(BUILD)/bottled) \
	$(if $(wildcard shim/main.c),$(BUILD)/bottle-shim) \
	$(if $(wildcard shim/cell.c),$(BUILD)/bottle-cell) \
	$(if $(wildcard shim/krun.c),$(BUILD)/bottle-krun) \
	$(if $(wildcard guest/init.c),$(BUILD)/bottle-init) \
	$(if $(wildcard shim/owner.c),$(BUILD)/bottle-owner.so) \
	$(if $(wildcard shim/private.c),$(BUILD)/bottle-private.so) \
	$(if $(wildcard openapi.yaml),$(BUILD)/openapi.yaml) \
	$(addprefix $(BUILD)/docs/,$(DOCS_FILES))
GUEST_FILES := $(BUILD)/guest/vmlinuz $(BUILD)/guest/images/busybox.erofs \
	$(if $(wildcard guest/init.c),$(BUILD)/guest/initramfs.img $(BUILD)/guest/root/init.krun)
UNITS := $(UNIT_SOURCES:tests/unit/%.c=$(BUILD)/tests/%)
TEST_TOOLS := $(TOOL_SOURCES:tests/tools/%.c=$(BUILD)/test-tools/%) $(FAILPOINTS) $(TEST_CLOCK) $(TEST_HOLD) $(OPEN_PROGRAMS) $(BUILD)/test-tools/insider $(BUILD)/test-tools/mount-attacker
# A guest_dir whose image also has the attacker.
ATTACK := $(BUILD)/attack
ATTACK_GUEST := $(addprefix $(ATTACK)/,vmlinuz initramfs.img root images/busybox.erofs)
# An image with real clients, for tests/e2e/test_clients.py.
CLIENTS := $(BUILD)/clients/clients.erofs
PYTHON := $(TOOLS)/venv/bin/python
# The nested test host shows root's view of this machine, and the tests change /dev/kvm's mode.
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo env CI=$(CI) BUILD=$(BUILD) PATH=$(PATH) PYTHONDONTWRITEBYTECODE=1)

##@ Everyday

.PHONY: build
build: programs guest ## build the programs and the guest's files (the default)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## make this machine able to build and run bottled (safe to run again)
	@tools/setup

.PHONY: demo
demo: ## set up, build, and watch a real microVM reach its proxy and nothing else
	@tools/setup
	@$(MAKE) --no-print-directory build
	@BACKEND=$(BACKEND) tests/demo/demo

.PHONY: run
run: build ## start bottled with its state in $(BUILD)/run (ARGS='--listen 127.0.0.1:8080' for more flags)
	@mkdir -p $(BUILD)/run
	@echo "try: curl --unix-socket $(BUILD)/run/live/bottled.sock http://bottled/healthz"
	@exec $(BUILD)/bottled --state-dir $(abspath $(BUILD))/run/state --run-dir $(abspath $(BUILD))/run/live $(ARGS)

.PHONY: clean
clean: ## remove what was built (not .tools)
	rm -rf $(BUILD) build-asan build-tsan

##@ Tests

.PHONY: test
test: ## set up, build, and run every test: the tree's own rules, units, end to end, attacks
	@tools/setup tests
	@$(MAKE) --no-print-directory build units test-programs
	@$(MAKE) --no-print-directory layers
	@$(MAKE) --no-print-directory unit
	+@MAKE='$(MAKE)' tests/lanes 2 e2e-kvm e2e-3 e2e-1 attack-kvm e2e-2 attack

.PHONY: test-programs
test-programs: $(TEST_TOOLS) $(CLIENTS) $(ATTACK_GUEST)

.PHONY: unit
unit: programs units ## the unit tests (UNIT=test_x for one program)
	@tests/run-units $(BUILD) '$(UNIT)'

.PHONY: e2e
e2e: build $(TEST_TOOLS) $(CLIENTS) ## the end-to-end tests that need no KVM (PYTEST_ARGS='-k name' for some)
	@$(PYTHON) -m pytest -p no:cacheprovider $(PYTEST_ARGS) -m 'not kvm' tests/e2e

# The same in three parts of about one length, for runs beside each other.
.PHONY: e2e-1 e2e-2 e2e-3
e2e-1: E2E_FILES = tests/e2e/test_[a-e]*.py
e2e-2: E2E_FILES = tests/e2e/test_[f-k]*.py
e2e-3: E2E_FILES = tests/e2e/test_[l-z]*.py
e2e-1 e2e-2 e2e-3: build $(TEST_TOOLS) $(CLIENTS)
	@$(PYTHON) -m pytest -p no:cacheprovider $(PYTEST_ARGS) -m 'not kvm' $(E2E_FILES)

.PHONY: e2e-kvm
e2e-kvm: build $(TEST_TOOLS) ## those that need a KVM that works; without one, in a nested test host (as root, by sudo)
	@$(AS_ROOT) $(PYTHON) -m pytest -p no:cacheprovider $(PYTEST_ARGS) -m kvm tests/e2e

.PHONY: attack
attack: build $(TEST_TOOLS) $(ATTACK_GUEST) ## attack bottles from inside, a line a row: in the cell, and without one (PYTEST_ARGS='-k name' for some)
	@$(PYTHON) -m pytest -p no:cacheprovider -q $(PYTEST_ARGS) -m 'not kvm' --ignore=tests/attacks/test_floods.py tests/attacks

.PHONY: attack-floods
attack-floods: build $(TEST_TOOLS) $(ATTACK_GUEST) ## floods from inside one bottle, beside another that works
	@$(PYTHON) -m pytest -p no:cacheprovider -q $(PYTEST_ARGS) -m 'not kvm' tests/attacks/test_floods.py

.PHONY: attack-kvm
attack-kvm: build $(TEST_TOOLS) $(ATTACK_GUEST) ## the same on the backends that need a KVM that works; without one, in a nested test host (as root, by sudo)
	@$(AS_ROOT) $(PYTHON) -m pytest -p no:cacheprovider -q $(PYTEST_ARGS) -m kvm --ignore=tests/attacks/test_floods.py tests/attacks

.PHONY: failpoints
failpoints: build $(FAILPOINTS) ## die, and fail, at every call that changes something (ARGS='--life bottles --action crash --sample 20' for some)
	@tests/failpoints/walk $(ARGS)

.PHONY: crash
crash: build ## kill bottled N times (N=1000) under a mixed load, and look after each (ARGS='--seed S' for the same again)
	@tests/endurance/crash --rounds $(N) $(ARGS)

.PHONY: soak
soak: build ## random calls for T seconds, while random parts are killed (ARGS='--seed S')
	@tests/endurance/soak --seconds $(T) $(ARGS)

.PHONY: lifecycles
lifecycles: build ## N lives with a microVM, 10,000 without: nothing of bottled grows (ARGS='--prepared M --minutes N')
	@tests/endurance/lifecycles --machines $(N) $(ARGS)

.PHONY: contract
contract: build ## openapi.yaml against a bottled that runs, by schemathesis (N=100 requests an operation and phase)
	@tests/contract/run $(or $(N),100)

.PHONY: creates
creates: build ## idempotent creates by clients that crash, on a bottled that is killed (ARGS='10000 20')
	@tests/bench/creates $(ARGS)

.PHONY: bench
bench: build $(OPEN_PROGRAMS) $(TEST_TOOLS) ## figures of this machine (ARGS='boot egress' for some)
	@tests/bench/bench $(ARGS)

.PHONY: golden
golden: units ## make the golden files of the unit tests anew, to be read before they are committed
	@UPDATE_GOLDEN=1 tests/run-units $(BUILD) '$(UNIT)'

.PHONY: test-asan
test-asan: ## the unit tests under AddressSanitizer, LeakSanitizer and UBSan
	@$(MAKE) --no-print-directory $(ASAN) unit

.PHONY: e2e-asan
e2e-asan: ## the end-to-end tests with bottled and bottle-shim under the same (E2E='tests/e2e/test_x.py …' for some)
	@$(MAKE) --no-print-directory $(ASAN) build test-programs
	@BUILD=build-asan $(PYTHON) -m pytest -p no:cacheprovider $(PYTEST_ARGS) -m 'not kvm and not plain' $(E2E)

.PHONY: e2e-kvm-asan
e2e-kvm-asan: ## the same for those that need a KVM that works
	@$(MAKE) --no-print-directory $(ASAN) build test-programs
	@$(AS_ROOT) env BUILD=build-asan $(PYTHON) -m pytest -p no:cacheprovider $(PYTEST_ARGS) -m 'kvm and not plain' $(or $(E2E),tests/e2e)

.PHONY: valgrind-shim
valgrind-shim: build $(BUILD)/valgrind/bottle-shim ## TIMES (20) starts and stops of a bottle, each supervisor under valgrind: nothing leaks
	@tests/netns/enter $(PYTHON) tests/valgrind/shim $(TIMES)

.PHONY: tsan-load
tsan-load: ## bottled under ThreadSanitizer, with many clients at once for LOAD seconds (10) and a few real bottles
	@$(MAKE) --no-print-directory BUILD=build-tsan SANITIZE=thread build test-programs
	@BUILD=build-tsan LOAD_SECONDS=$(LOAD) $(PYTHON) -m pytest -p no:cacheprovider $(PYTEST_ARGS) tests/e2e/test_load.py

.PHONY: fuzz
fuzz: ## every fuzz target for T seconds (T=60; FUZZ=name for one), with clang's libFuzzer, ASan and UBSan
	@$(MAKE) --no-print-directory $(ASAN) fuzzers
	@tests/fuzz/run build-asan $(T) '$(FUZZ)'

.PHONY: test-tsan
test-tsan: ## the unit tests under ThreadSanitizer
	@$(MAKE) --no-print-directory BUILD=build-tsan SANITIZE=thread unit

.PHONY: events
events: build $(TEST_TOOLS) ## a thousand readers of the events, ten of them stalled, while 10,000 events are made (some minutes)
	@EVENT_READERS=1000 EVENTS=10000 $(PYTHON) -m pytest -p no:cacheprovider -q -s -k many_readers tests/e2e/test_event_stream.py

.PHONY: objects
objects: $(ALL_SOURCES:%.c=$(OBJ)/%.o)

.PHONY: precompile
precompile: ## compile what check, test-asan, test-tsan, fuzz and tsan-load take, and run none of it
	@$(MAKE) --no-print-directory $(ASAN) programs units fuzzers
	@$(MAKE) --no-print-directory BUILD=build-tsan SANITIZE=thread build units test-programs
	@$(MAKE) --no-print-directory tidy

##@ Checks

.PHONY: check
check: ## everything that is checked without running the programs: format, lint, both compilers
	@$(MAKE) --no-print-directory format-check lint
	@$(MAKE) --no-print-directory CC=gcc programs units
	@$(MAKE) --no-print-directory $(ASAN) programs units
	@echo 'check: format, lint, gcc and clang are clean'

.PHONY: format
format: ## lay out the C code
	$(TOOLS)/venv/bin/clang-format -i $(ALL_SOURCES) $(HEADERS)

.PHONY: format-check
format-check: ## does the C code lie as clang-format lays it?
	@$(TOOLS)/venv/bin/clang-format --dry-run --Werror $(ALL_SOURCES) $(HEADERS)

.PHONY: lint
lint: layers tidy openapi-check ## the tree's own rules, clang-tidy, openapi.yaml

.PHONY: layers
layers: ## includes go downwards, banned calls, banned words, sizes
	@python3 tests/lint/layers
	@for script in $$(grep -rlE '^#!.*\b(ba)?sh$$' .ci docs guest tests tools); do bash -n $$script || exit 1; done

.PHONY: analyze
analyze: ## gcc's -fanalyzer on the programs (minutes)
	@tests/lint/analyze

.PHONY: openapi-check
openapi-check:
	@$(if $(wildcard openapi.yaml),$(PYTHON) -m openapi_spec_validator openapi.yaml,true)

.PHONY: tidy
tidy: $(ALL_SOURCES:%.c=$(BUILD)/tidy/%.ok) ## clang-tidy on what changed

# clang-tidy comes without the compiler's own headers; those of the installed clang serve.
$(BUILD)/tidy/%.ok: %.c $(OBJ)/%.o .clang-tidy tests/.clang-tidy tests/lint/analyzer.h
	@mkdir -p $(@D)
	@echo "  TIDY    $<"
	@$(TOOLS)/venv/bin/clang-tidy --quiet --extra-arg=-resource-dir=$$(clang -print-resource-dir) $< -- \
	    -std=gnu17 $(CPPFLAGS) $(HARDEN) $(if $(filter base/error.c,$<),,-include tests/lint/analyzer.h) >$@.log 2>$@.err || { cat $@.log; grep -v 'warnings generated' $@.err; exit 1; }
	@touch $@

# --- Rules -----------------------------------------------------------------------------------

.PHONY: programs units guest
programs: $(PROGRAMS)
units: $(UNITS) $(TEST_TOOLS)
guest: $(GUEST_FILES)

$(OBJ)/tests/sanitize/%.o $(BUILD)/tidy/tests/sanitize/%.ok: CPPFLAGS += -DREPORTS='"$(abspath $(BUILD))/reports/programs"'

$(OBJ)/%.o: %.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(MODE) -MMD -MP -c -o $@ $<

$(STATIC)/%.o: %.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  CC      $< (static)"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(HARDEN) -MMD -MP -c -o $@ $<

$(LIB): $(LIB_SOURCES:%.c=$(OBJ)/%.o)
	@rm -f $@
	@ar rcsD $@ $^

$(STATIC_LIB): $(STATIC_SOURCES:%.c=$(STATIC)/%.o)
	@rm -f $@
	@ar rcsD $@ $^

$(BUILD)/bottled: $(OBJ)/server/main.o $(OBJ)/server/recv.o $(SANITIZER_OBJ) $(LIB)
$(BUILD)/bottle-shim: $(OBJ)/shim/main.o $(SANITIZER_OBJ) $(LIB)
$(BUILD)/bottled $(BUILD)/bottle-shim:
	@echo "  LINK    $@"
	@$(CC) $(MODE) -pie $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Never with a sanitizer: the bound on its jail's address space leaves a shadow memory no room.
$(BUILD)/bottle-krun: $(addprefix $(STATIC)/,shim/krun.o shim/krun_machine.o shim/filter.o backends/krun_api.o) $(STATIC_LIB)
	@echo "  LINK    $@"
	@$(CC) $(HARDEN) -pie $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Loaded into programs that come without a sanitizer: mkfs.erofs, QEMU.
$(BUILD)/bottle-%.so: shim/%.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC $(HARDEN) -shared $(LDFLAGS) -o $@ $<

# Programs whose cell is open, for the tests' negative controls: a daemon's libexec_dir.
.PHONY: open-cell
open-cell: $(OPEN_PROGRAMS) ## the test-only programs whose cell is switched off

$(OPEN)/obj/%.o: %.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  CC      $< (open cell)"
	@$(CC) $(CPPFLAGS) -DTEST_OPEN_CELL $(CFLAGS) $(MODE) -MMD -MP -c -o $@ $<

$(OPEN)/bottle-shim: $(OPEN)/obj/shim/jail.o $(OBJ)/shim/main.o $(SANITIZER_OBJ) $(LIB)
	@echo "  LINK    $@"
	@$(CC) $(MODE) -pie $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(OPEN)/obj-static/%.o: %.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  CC      $< (open cell, static)"
	@$(CC) $(CPPFLAGS) -DTEST_OPEN_CELL $(CFLAGS) $(HARDEN) -MMD -MP -c -o $@ $<

$(OPEN)/bottle-cell: $(OPEN)/obj-static/shim/cell.o $(STATIC_LIB)
	@echo "  LINK    $@ (static)"
	@$(CC) $(HARDEN) -static-pie $(LDFLAGS) -o $@ $^

$(OPEN)/bottle-krun $(OPEN)/bottle-owner.so $(OPEN)/bottle-private.so $(OPEN)/guest $(OPEN)/openapi.yaml: $(OPEN)/%: | programs guest
	@mkdir -p $(@D)
	@ln -sfn ../$(@F) $@

# What it starts by its own name is the plain one.
$(BUILD)/valgrind/obj/%.o: %.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  CC      $< (valgrind)"
	@$(CC) $(CPPFLAGS) -DSHIM_SELF='"$(abspath $(BUILD))/bottle-shim"' $(CFLAGS) $(MODE) -MMD -MP -c -o $@ $<

$(BUILD)/valgrind/bottle-shim: $(BUILD)/valgrind/obj/shim/limits.o $(BUILD)/valgrind/obj/shim/mounts.o $(OBJ)/shim/main.o $(LIB)
	@echo "  LINK    $@"
	@$(CC) $(MODE) -pie $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/bottle-cell: $(STATIC)/shim/cell.o $(STATIC)/shim/lonely.o $(STATIC_LIB)
$(BUILD)/bottle-init: $(GUEST_SOURCES:%.c=$(STATIC)/%.o) $(STATIC_LIB)
# Of libarchive only tar stays: what else it can do is left out as sections that nobody needs.
$(BUILD)/bottle-init: LINKED := -Wl,--gc-sections -larchive
$(BUILD)/bottle-cell $(BUILD)/bottle-init:
	@echo "  LINK    $@ (static)"
	@$(CC) $(HARDEN) -static-pie $(LDFLAGS) -o $@ $^ $(LINKED)

$(BUILD)/tests/%: $(OBJ)/tests/unit/%.o $(UNIT_LINKED:%.c=$(OBJ)/%.o) $(LIB)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(MODE) -pie $(LDFLAGS) -o $@ $^ -lcriterion -larchive $(LDLIBS)

$(BUILD)/test-tools/%: $(OBJ)/tests/tools/%.o $(UNIT_SHARED:%.c=$(OBJ)/%.o) $(LIB)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(MODE) -pie $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Preloaded into bottled and bottle-shim by tests/failpoints/walk.
$(FAILPOINTS): tests/failpoints/failpoints.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC $(HARDEN) -shared $(LDFLAGS) -o $@ $< -lgcc_s

# Preloaded into bottled by tests that set its wall clock, or hold it at a call.
$(TEST_CLOCK): tests/clock/clock.c
$(TEST_HOLD): tests/hold/hold.c
$(TEST_CLOCK) $(TEST_HOLD): Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC $(HARDEN) -shared $(LDFLAGS) -o $@ $(filter %.c,$^)

.PHONY: fuzzers
fuzzers: $(FUZZERS)

# The guest's end of the channel has the host's names; a program has one of the two.
$(BUILD)/fuzz/guest_agent: $(addprefix $(OBJ)/guest/,agent.o exec.o output.o)

$(BUILD)/fuzz/%: $(OBJ)/tests/fuzz/%.o $(LIB)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(MODE:fuzzer-no-link=fuzzer) -fsanitize=fuzzer -pie $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) -larchive $(LDLIBS)

$(BUILD)/test-tools/insider: tests/attacks/insider.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  LINK    $@ (static)"
	@$(CC) -D_GNU_SOURCE $(CFLAGS) $(HARDEN) -static-pie $(LDFLAGS) -o $@ $<

$(BUILD)/test-tools/mount-attacker: tests/attacks/mount_attacker.c Makefile | $(TOOLS)/stamp
	@mkdir -p $(@D)
	@echo "  LINK    $@ (static)"
	@$(CC) -D_GNU_SOURCE $(CFLAGS) $(HARDEN) -static-pie $(LDFLAGS) -o $@ $<

# The page of GET /docs: ours, and the renderer.
$(BUILD)/docs/%: docs/page/%
	@mkdir -p $(@D)
	@cp $< $@

$(BUILD)/docs/%: $(TOOLS)/docs/%
	@mkdir -p $(@D)
	@cp $< $@

$(TOOLS)/docs/%: | $(TOOLS)/stamp
	@echo 'The renderer of GET /docs is not there yet: run tools/setup (make demo and make test do it by themselves).' >&2
	@exit 1

$(BUILD)/openapi.yaml: openapi.yaml
	@mkdir -p $(@D)
	@cp $< $@

$(BUILD)/guest/vmlinuz: $(TOOLS)/kernel/vmlinuz
	@mkdir -p $(@D)
	@cp $< $@

$(BUILD)/guest/initramfs.img: guest/mkinitramfs guest/mkmodules guest/modules $(BUILD)/bottle-init $(TOOLS)/kernel/vmlinuz
	@echo "  MAKE    $@"
	@guest/mkinitramfs $(TOOLS)/kernel $(BUILD)/bottle-init $@

# The same boot root as a directory, for a kernel that has everything built in and mounts it itself.
$(BUILD)/guest/root/init.krun: $(BUILD)/bottle-init
	@echo "  MAKE    $(@D)"
	@mkdir -p $(addprefix $(@D)/,dev proc sys mnt/lower mnt/memory mnt/root)
	@chmod 0755 $(@D) $(@D)/mnt $(@D)/mnt/*
	@install -m 0755 $< $@

$(BUILD)/guest/images/busybox.erofs: guest/mkimage $(TOOLS)/busybox/busybox
	@echo "  MAKE    $@"
	@guest/mkimage $(TOOLS)/busybox $@

$(ATTACK)/attacker: $(ATTACK_SOURCES:%.c=$(STATIC)/%.o)
	@mkdir -p $(@D)
	@echo "  LINK    $@ (static)"
	@$(CC) $(HARDEN) -static-pie $(LDFLAGS) -o $@ $^

$(ATTACK)/images/busybox.erofs: guest/mkimage $(ATTACK)/attacker $(TOOLS)/busybox/busybox
	@echo "  MAKE    $@"
	@guest/mkimage $(TOOLS)/busybox $@ $(ATTACK)/attacker

$(ATTACK)/vmlinuz $(ATTACK)/initramfs.img $(ATTACK)/root: $(ATTACK)/%: | guest
	@mkdir -p $(@D)
	@ln -sfn ../guest/$(@F) $@

$(CLIENTS): tests/clients/mkimage tools/requirements.txt | $(TOOLS)/stamp
	@echo "  MAKE    $@"
	@tests/clients/mkimage $(TOOLS)/venv $@

$(TOOLS)/stamp $(TOOLS)/kernel/vmlinuz $(TOOLS)/busybox/busybox:
	@echo 'This machine is not set up for bottled yet: run tools/setup (make demo and make test do it by themselves).' >&2
	@exit 1

-include $(shell find $(OBJ) $(STATIC) $(OPEN) -name '*.d' 2>/dev/null)
